"""The demo: a photo on its way to a protected image, three small trainings, one report."""

from minusface.demo.journey import Options, run
from minusface.demo.training import Budget

__all__ = ["Budget", "Options", "run"]
