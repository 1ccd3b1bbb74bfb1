"""What one attack on one protection came to, as it is kept on disk and reported."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from minusface.audit.attack import Point, Trained
from minusface.files import write_atomically

Measures = dict[str, float | None]


# Recoveries that read what no shuffle changes around a pixel; the same over more pixels, and colours.
FILTERED: tuple[Literal["unmixed"], Literal["unmixed wide"]] = ("unmixed", "unmixed wide")
# All that see images and may query, no more: what differs is only what they make of an image first.
EQUAL = ("", *FILTERED, "re-encoded")


@dataclass(frozen=True)
class Finding:
    """An attack's outcome; parts of one are from 0 to 1, PSNR is in dB."""

    attack: str
    """``recovery``, ``linkage`` ..."""
    target: str
    """The protection's name."""
    needs: str
    """The attacker's access, in words."""
    measures: Measures
    variant: str = ""
    """What sets it apart from the attack's other findings on this target."""
    control: str = ""
    """``must succeed``, ``blind guess``: what this finding is there to show; empty for an attack proper."""
    failed: str = ""
    """Why a control failed; then the attack's other numbers prove nothing."""
    notes: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    """Loss on the validation split against budget."""
    stopped: str = ""
    steps: int = 0
    still_improving: bool = False
    stuck: bool = False
    """Never got past a guess made without looking."""
    seconds: float = 0.0
    picture: str = ""
    """File with faces side by side, relative to the report."""
    extra: dict[str, Any] = field(default_factory=dict)
    made: str = ""
    """Commit and version of minusface that found it; empty in what was kept before this was noted."""

    @property
    def title(self) -> str:
        """``recovery, fixed permutation``."""
        return f"{self.attack}, {self.variant}" if self.variant else self.attack

    def learned(self, trained: Trained | None, blind: float | None = None) -> Finding:
        """With how its learning went.

        Args:
            trained: what learning came to.
            blind: loss of a guess made without looking, where it is known.
        """
        if trained is None:
            return self
        stuck = blind is not None and trained.stuck_at(blind)
        note = [
            "still improving when the budget ended: a lower bound"
            if trained.still_improving
            else "",
            "never got past a guess made without looking: a longer attack may (--longer)"
            if stuck
            else "",
        ]
        return replace(
            self,
            points=trained.points,
            stopped=trained.stopped,
            steps=trained.steps,
            still_improving=trained.still_improving,
            stuck=stuck,
            seconds=trained.seconds,
            notes=(*self.notes, *filter(None, note)),
        )

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        raw = asdict(self)
        raw["measures"] = {k: _finite(v) for k, v in self.measures.items()}
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Finding:
        """What :meth:`as_json` gave."""
        points = tuple(Point(**point) for point in raw["points"])
        return cls(**{**raw, "points": points, "notes": tuple(raw["notes"])})


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def keep(path: Path, findings: list[Finding]) -> None:
    """Write findings, so that a stopped audit need not make them again."""
    data = json.dumps([finding.as_json() for finding in findings], indent=1)
    write_atomically(path, data.encode())


def kept(path: Path) -> list[Finding] | None:
    """Findings that were kept; None where there are none, or a damaged file."""
    if not path.is_file():
        return None
    try:
        return [Finding.from_json(raw) for raw in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def equal_recoveries(findings: list[Finding], target: str) -> list[Finding]:
    """Recoveries by attackers that see images and may query, no more: see :data:`EQUAL`."""
    equal = [find(findings, "recovery", target, variant) for variant in EQUAL]
    return [one for one in equal if one is not None]


def strongest_recovery(
    findings: list[Finding], target: str, measure: str = "auc"
) -> Finding | None:
    """The recovery of equal access that got most by a measure, where greater means more.

    One may come nearer to the photo while another tells better who it is. Of what none has, the first.
    """
    there = equal_recoveries(findings, target)
    told = [one for one in there if one.measures.get(measure) is not None]
    return max(told or there, key=lambda f: f.measures.get(measure) or 0.0, default=None)


def strongest_link(findings: list[Finding], target: str, measure: str = "auc") -> Finding | None:
    """The linkage that got most by a measure: one student may find people first, another order pairs."""
    there = [one for one in findings if (one.attack, one.target) == ("linkage", target)]
    return max(there, key=lambda f: f.measures.get(measure) or 0.0, default=None)


def find(findings: list[Finding], attack: str, target: str, variant: str = "") -> Finding | None:
    """One finding."""
    for one in findings:
        if (one.attack, one.target, one.variant) == (attack, target, variant):
            return one
    return None


__all__ = [
    "Finding",
    "Measures",
    "equal_recoveries",
    "find",
    "keep",
    "kept",
    "strongest_link",
    "strongest_recovery",
]
