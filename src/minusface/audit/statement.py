"""What a rule of the verdict says, and the scale that it judges by."""

from __future__ import annotations

from dataclasses import dataclass

from minusface.audit.attack import ENOUGH_IMAGES
from minusface.audit.finding import Finding, find

# Where a rate counts as far above chance, as part of the way from the blind guess to the photo itself.
LITTLE, MUCH = 0.15, 0.5
# What a photo itself must be above the blind guess, by AUC or by a part of images: a judge that gives it less
# tells nobody apart, and that it finds nothing in an attacker's picture shows nothing.
FLOOR = 0.1
ROUNDING = 1e-9
# In the name of a protection whose client sends, of several images, the one whose outlines show least; a
# finding keeps no more of it than the name.
TRIES = "tries-"
IMPROVING = " It was still improving when its budget ended."
NOBODY = " Of the photo itself it hardly tells whose it is: nothing can be concluded."
OTHER_IMPROVING = " Another one of equal access was still improving when its budget ended."


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict."""

    kind: str
    """``yes`` protected, ``no`` not protected, ``partly``, ``unknown``."""
    text: str


def part_of_the_way(
    value: float | None, blind: float | None, plain: float | None, floor: float = 2 * ROUNDING
) -> float | None:
    """Where a measure lies between the blind guess (0) and the photo itself (1).

    Returns:
        None where one of them was not measured, or where the photo itself is not at least ``floor`` above the
        guess: there is then no way to be at a part of.
    """
    # Less by more than rounding: 1 - 0.9 is a little less than 0.1.
    if value is None or blind is None or plain is None or plain - blind < floor - ROUNDING:
        return None
    return (value - blind) / (plain - blind)


def judged(part: float | None) -> str:
    """The kind of a statement, from a part of the way; without one nothing can be concluded."""
    if part is None:
        return "unknown"
    return "yes" if part < LITTLE else "partly" if part < MUCH else "no"


def concluded(part: float | None, own: Finding, equal: list[Finding]) -> str:
    """The kind of a statement on what an attacker got.

    Where it had hardly begun, or one of equal access was not done, nothing is shown to be protected.
    """
    kind = judged(part)
    open_ended = unfinished(own) or any(one.still_improving for one in equal)
    return "unknown" if kind == "yes" and open_ended else kind


def blind_judge(findings: list[Finding]) -> str:
    """Why the independent recogniser cannot say who is shown, as a sentence; empty where nothing says so.

    Its own control stands among the linkages, and may not have been run; what it tells of photos sent through
    a network stands among the recoveries.
    """
    control = find(findings, "linkage", "unprotected")
    if control is not None and control.failed:
        return f" Nothing can be concluded: {control.failed}."
    auc = measured(find(findings, "recovery", "unprotected"), "auc")
    return NOBODY if auc is not None and auc - 0.5 < FLOOR - ROUNDING else ""


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
