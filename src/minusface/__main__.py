"""``python -m minusface``."""

from minusface.cli import run

if __name__ == "__main__":
    run()
