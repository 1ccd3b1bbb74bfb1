"""What a rule of the verdict says, and the scale that it judges by."""

from __future__ import annotations

from dataclasses import dataclass

from minusface.audit.attack import ENOUGH_IMAGES
from minusface.audit.finding import Finding

# Where a rate counts as far above chance, as part of the way from the blind guess to the photo itself.
LITTLE, MUCH = 0.15, 0.5
# In the name of a protection whose client sends, of several images, the one whose outlines show least; a
# finding keeps no more of it than the name.
TRIES = "tries-"
IMPROVING = " It was still improving when its budget ended."
OTHER_IMPROVING = " Another one of equal access was still improving when its budget ended."


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict."""

    kind: str
    """``yes`` protected, ``no`` not protected, ``partly``, ``unknown``."""
    text: str


def part_of_the_way(value: float, blind: float, plain: float) -> float:
    """Where a measure lies between the blind guess (0) and the photo itself (1)."""
    return (value - blind) / (plain - blind) if abs(plain - blind) > 1e-9 else 0.0


def judged(part: float) -> str:
    """The kind of a statement, from a part of the way."""
    return "yes" if part < LITTLE else "partly" if part < MUCH else "no"


def measured(finding: Finding | None, measure: str) -> float | None:
    """A measure, where there is the finding and it has it."""
    return None if finding is None else finding.measures.get(measure)


def unfinished(finding: Finding) -> str:
    """Why what an attacker did not find shows nothing, in words: it was still improving, or had hardly begun.

    Empty where it was done.
    """
    seen = finding.points[-1].images if finding.points else 0
    hardly = finding.stuck and seen < ENOUGH_IMAGES
    return (IMPROVING if finding.still_improving else "") + (
        f" It had learned nothing after {seen:,} images: a longer one may (--longer)."
        if hardly
        else ""
    )


def percent(value: float) -> str:
    """``64 %``."""
    return f"{100 * value:.0f} %"
