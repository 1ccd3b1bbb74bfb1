"""A training of which the first process kills itself in its second save, the first time it is started."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from minusface.cli import run

# config.yaml, then five files a save: the second file of the second.
FATAL = 1 + 5 + 1

if __name__ == "__main__":
    if os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        real, seen = os.replace, iter(range(10**6))

        def replace_or_die(*paths: Any) -> None:
            if next(seen) == FATAL:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)

        os.replace = replace_or_die  # type: ignore[assignment]
    sys.argv[:] = ["minusface", "train", *sys.argv[1:]]
    run()
