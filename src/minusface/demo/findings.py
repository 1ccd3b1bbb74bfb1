"""What the demo found out, as plain values, and the sentences that those values allow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minusface.demo.training import Trained
from minusface.evaluate import VerificationResult

UNPROTECTED, RESIDUE, PROTECTED, EIGHT_BIT = "plain", "stage1", "stage2", "stage2_8bit"
TITLES = {
    UNPROTECTED: "unprotected crop",
    RESIDUE: "stage 1 residue (never sent)",
    PROTECTED: "protected image",
    EIGHT_BIT: "protected, as 8-bit PNG",
}
# Two standard errors: what differs by less may be chance.
SURE = 2.0
# By looking: at 0.28 hair, eyes and mouth of the photo can be made out; another face has 0.0.
FACE_SHOWS, CONTOURS_SHOW = 0.25, 0.1
BLANK_LEVELS = 6


@dataclass(frozen=True)
class Findings:
    """Everything the report tells."""

    data: str
    """What was trained on, in words."""
    held_out: str
    """What was evaluated on, in words."""
    objective: str
    pairs: int
    draws: int
    rows: dict[str, VerificationResult]
    """By what was recognised; see TITLES."""
    photo: str
    same_photo: list[float]
    """Cosines between the templates of the photo's protected images under different permutations."""
    residue_levels: float
    """Standard deviation of the photo's decoded residue, in steps of an 8-bit image."""
    contours: float
    """Correlation of the photo's edges with those of its protected images."""
    outlines: float | None = None
    """Correlation of the photo's edges with the outlines that no permutation changes."""
    ssim: float | None = None
    psnr: float | None = None
    similarity_crops: int = 0
    trained: list[Trained] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    """What the models are and the run was, for the table at the report's end."""
    next_command: str = ""
    weights: str | None = None
    """The packaged checkpoint, where one was used in the place of training."""

    report: Path = Path()
    """Where the report lies."""

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it; without the ROC's points."""
        raw = dict(vars(self))
        raw["rows"] = {name: row.to_dict() for name, row in self.rows.items()}
        raw["trained"] = [vars(one) for one in self.trained]
        raw["report"] = str(self.report)
        return {**raw, "sentences": sentences(self)}


def percent(value: float) -> str:
    """A part of one as per cent with one decimal."""
    return f"{100 * value:.1f} %"


def sentences(found: Findings) -> list[str]:
    """What the numbers say, the unwelcome included. Plain text."""
    told = [_recognition(found)]
    told += (
        _cost(found)
        + _draws(found)
        + _stage_one(found)
        + _looks(found)
        + _behind(found)
        + _likeness(found)
        + _eight_bit(found)
    )
    if any(one.cut_short for one in found.trained):
        names = ", ".join(one.task for one in found.trained if one.cut_short)
        told.append(
            f"The machine became slower than measured: {names} was stopped before its last step."
        )
    return [sentence for sentence in told if sentence]


def chance_margin(pairs: int) -> float:
    """How far from one half guessing may end by chance on so many pairs (two standard errors)."""
    return SURE * math.sqrt(0.25 / max(pairs, 1))


def _recognition(found: Findings) -> str:
    row = found.rows.get(PROTECTED)
    if row is None:
        return ""
    right = f"{percent(row.accuracy)} of the held-out pairs right"
    if row.accuracy < 0.5 + chance_margin(found.pairs):
        return (
            f"On protected images the recogniser gets {right}: that cannot be told from guessing (50 %). "
            "Under this budget it has learned nothing that carries over to other people."
        )
    if row.accuracy < 0.65:
        return f"On protected images the recogniser gets {right}: better than guessing (50 %), but of no use."
    return f"From protected images alone the recogniser gets {right} (guessing: 50 %)."


def _cost(found: Findings) -> list[str]:
    plain, row = found.rows.get(UNPROTECTED), found.rows.get(PROTECTED)
    if plain is None or row is None:
        return []
    lost = plain.accuracy - row.accuracy
    error = SURE * math.sqrt(
        sum(r.accuracy * (1 - r.accuracy) for r in (plain, row)) / max(found.pairs, 1)
    )
    same = f"On unprotected crops the same recipe, size and time give {percent(plain.accuracy)}"
    if abs(lost) <= error:
        return [f"{same}; on {found.pairs} pairs the difference may be chance."]
    if lost < 0:
        return [f"{same}, which is less: an oddity of so short a training."]
    return [
        f"{same}: protection costs {100 * lost:.1f} points at this budget, although stage 2 starts from "
        "the weights learned on unprotected crops."
    ]


def _draws(found: Findings) -> list[str]:
    row = found.rows.get(PROTECTED)
    if row is None or row.accuracy_spread is None:
        return []
    told = (
        f"Drawing all permutations anew moves the accuracy by {100 * row.accuracy_spread:.1f} points "
        f"(standard deviation over {found.draws} draws)."
    )
    if found.same_photo:
        mean = sum(found.same_photo) / len(found.same_photo)
        told += (
            f" Embeddings of the one photo above under different permutations have cosine {mean:.2f} "
            "on average (1 would be: the permutation does not matter)."
        )
    return [told]


def _stage_one(found: Findings) -> list[str]:
    losses = next((one.losses for one in found.trained if one.task == "stage1"), {})
    told = []
    if "l1" in losses:
        levels = losses["l1"] * 127.5
        told.append(
            f"Stage 1 regenerates crops to L1 = {losses['l1']:.3f} on a scale from -1 to 1, "
            f"about {levels:.1f} of 255 grey levels a pixel."
        )
    if found.residue_levels < BLANK_LEVELS:
        blank = "close to blank"
    elif losses:
        blank = "not blank: a longer stage 1 is needed"
    else:
        blank = "not blank: lines of the face are left in it"
    told.append(
        f"The decoded residue of the photo above spreads {found.residue_levels:.1f} grey levels "
        f"about mid-grey: {blank}."
    )
    return told


def _looks(found: Findings) -> list[str]:
    if found.contours >= FACE_SHOWS:
        verdict = (
            "contours of the face show through; hair, eyes and mouth may be made out by eye, and who "
            "knows the person may recognise them"
        )
    elif found.contours >= CONTOURS_SHOW:
        verdict = "contours of the face show through, above all where contrast is stretched"
    else:
        verdict = "few contours show through"
    return [
        f"Edges of the protected images above correlate {found.contours:.2f} with those of the crop "
        f"(1: the same edges, 0: none in common): {verdict}."
    ]


def _behind(found: Findings) -> list[str]:
    if found.outlines is None:
        return []
    shown = (
        "they show the face. Whoever applies it sees features; colours and shading stay hidden"
        if found.outlines >= FACE_SHOWS
        else "they tell little of the face"
    )
    return [
        "The shuffle mixes colours, otherwise in every region; how steep the picture is there, in units of "
        "what is around, it cannot change. A filter of that, with nothing learned, gives outlines that "
        f"correlate {found.outlines:.2f} with the crop's edges: {shown}."
    ]


def _likeness(found: Findings) -> list[str]:
    if found.ssim is None or found.psnr is None:
        return []
    return [
        f"Between crops and their protected images SSIM is {found.ssim:.2f} and PSNR {found.psnr:.1f} dB, "
        f"means over {found.similarity_crops} held-out crops (lower: less alike). These measure likeness "
        "of pixels; they do not measure how much identity leaks."
    ]


def _eight_bit(found: Findings) -> list[str]:
    row, rounded = found.rows.get(PROTECTED), found.rows.get(EIGHT_BIT)
    if row is None or rounded is None:
        return []
    before = row.per_draw[0].accuracy
    return [
        f"Rounding protected images to 8 bits, as a PNG does, moves the accuracy under the first draw from "
        f"{percent(before)} to {percent(rounded.accuracy)} ({100 * (rounded.accuracy - before):+.1f} points)."
    ]
