"""How a program's threads wait for each other. No torch here: it is read when torch is loaded."""

from __future__ import annotations

import os

# Of libgomp's loop, some tens of microseconds: longer than most pauses between two operations of a step.
SPINS = 2000


def wait_briefly() -> None:
    """Threads without work look for some for a moment, then sleep; unless the environment says otherwise.

    libgomp's default, to look for milliseconds, takes the cores from whoever shares them, and costs tens of
    milliseconds an operation where two programs do it. To sleep at once costs a training step of many small
    operations a third of its time in waking up.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=str(SPINS))
