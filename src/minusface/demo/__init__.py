"""The demo: a photo on its way to a protected image, three small trainings, one report."""

from minusface.demo.journey import run
from minusface.demo.record import Options
from minusface.demo.training import Budget

__all__ = ["Budget", "Options", "run"]
