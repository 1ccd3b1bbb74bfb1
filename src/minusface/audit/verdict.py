"""What a protection protects and what it does not, in sentences made from the numbers by fixed rules.

No sentence is written by hand for a result: each rule looks at measures and their controls, and says what
they show. Where a control failed, it says so and draws no conclusion. Rules on the photo stand here, those
on whose it is in verdict_person.py.
"""

from __future__ import annotations

from minusface.audit.finding import Finding, equal_recoveries, find, strongest_recovery
from minusface.audit.statement import (
    OTHER_IMPROVING,
    TRIES,
    Statement,
    judged,
    measured,
    part_of_the_way,
    percent,
    unfinished,
)
from minusface.audit.verdict_person import attributes, linkage, unlinkability

CHOSEN = (
    " Of several images the client sent the one that shows least by this very measure: another eye may see "
    "more."
)


# What else than the image an attacker of equal access reads, and how it is called for short.
READS = {
    "": "",
    "unmixed": ", which reads what no shuffle changes,",
    "unmixed wide": ", which reads what no shuffle changes over more pixels, and the colours,",
}
FILTER = {
    "": "without a filter",
    "unmixed": "with the filter",
    "unmixed wide": "with the wide filter",
}
REPLAY = "replay at the service"


def verdict(findings: list[Finding], target: str) -> list[Statement]:
    """All rules that have numbers to look at, in the report's order."""
    rules = (
        *(_viewing, _recovery, _fixed, _averaging, _inversion),
        *(linkage, unlinkability, attributes),
    )
    said: list[Statement] = []
    for rule in rules:
        said += rule(findings, target)
    return said


def _viewing(findings: list[Finding], target: str) -> list[Statement]:
    own, plain = find(findings, "viewing", target), find(findings, "viewing", "unprotected")
    if own is None:
        return []
    same, other = measured(own, "contours"), measured(own, "contours of others")
    said = []
    chosen = CHOSEN if TRIES in target else ""
    if same is not None and other is not None:
        said.append(
            Statement(
                judged(part_of_the_way(same, other, 1.0)),
                f"From an eye that follows outlines: edges of protected images correlate by {same:.2f} with "
                f"the photo's, by {other:.2f} with another person's (the photo itself: 1.00).{chosen}",
            )
        )
    return [*said, *_unmixed(own, plain), _detected(own, plain)]


def _detected(own: Finding, plain: Finding | None) -> Statement:
    """Faces that a detector finds, in the view that gives it most."""
    ssim = own.measures["ssim"]
    rate, stretched = measured(own, "faces found"), measured(own, "faces found, stretched")
    if rate is None or stretched is None:
        words = f"Viewing: SSIM to the photo {ssim:.2f}; no face detector was there to ask."
        return Statement("unknown", words)
    if plain is not None and plain.failed:
        return Statement("unknown", f"Viewing: {plain.failed}; nothing can be concluded.")
    behind, whole = (measured(one, "faces found, unmixed") for one in (own, plain))
    through = ""
    if behind is not None:
        # Where it finds no face in the photo's outlines either, that it finds none here shows nothing.
        beside = (
            "" if whole is None else f" (in {percent(whole)} of what it shows of the photo itself)"
        )
        through = f", in {percent(behind)} of what the filter shows of them{beside}"
    return Statement(
        judged(max(rate, stretched, behind or 0.0)),
        f"From a face detector: it finds a face in {percent(rate)} of protected images, in "
        f"{percent(stretched)} once their contrast is stretched{through}; SSIM to the photo is {ssim:.2f}.",
    )


def _unmixed(own: Finding, plain: Finding | None) -> list[Statement]:
    """Outlines behind the filter, on the scale of what the photo itself shows behind it."""
    same, other = measured(own, "contours, unmixed"), measured(own, "contours of others, unmixed")
    whole = measured(plain, "contours, unmixed")
    if same is None or other is None or whole is None:
        return []
    return [
        Statement(
            judged(part_of_the_way(same, other, whole)),
            f"From an eye behind a filter that no shuffle changes (nothing learned): outlines correlate by "
            f"{same:.2f} with the photo's edges, by {other:.2f} with another person's (the photo itself: "
            f"{whole:.2f}).",
        )
    ]


def _recovery(findings: list[Finding], target: str) -> list[Statement]:
    own = strongest_recovery(findings, target)
    nearest = strongest_recovery(findings, target, "ssim")
    plain = find(findings, "recovery", "unprotected")
    blind = find(findings, "recovery", "blind guess")
    if own is None or nearest is None or plain is None or blind is None:
        return []
    if plain.failed:
        return [Statement("unknown", f"Recovery: the control failed ({plain.failed}).")]
    ssim = nearest.measures["ssim"] or 0.0
    cosine, auc = (own.measures[name] or 0.0 for name in ("cosine", "auc"))
    pixels = part_of_the_way(ssim, blind.measures["ssim"] or 0.0, plain.measures["ssim"] or 0.0)
    who = part_of_the_way(auc, 0.5, plain.measures["auc"] or 0.0)
    equal = equal_recoveries(findings, target)
    lower = unfinished(nearest)
    if any(one.still_improving for one in equal) and not nearest.still_improving:
        lower = OTHER_IMPROVING + lower
    said = [
        Statement(
            _concluded(pixels, nearest, equal),
            f"From rebuilding the photo: a U-Net trained on queries{READS[nearest.variant]} reaches SSIM "
            f"{ssim:.2f}, where a mean face has {blind.measures['ssim']:.2f} and the same network on the "
            f"photo itself {plain.measures['ssim']:.2f}.{lower}",
        ),
        Statement(
            _concluded(who, own, equal),
            f"Identity in the rebuilt face{_of_whom(own, equal)}: an independent recogniser tells it from "
            f"other people with AUC {auc:.2f} (chance 0.50, the photo {plain.measures['auc']:.2f}); cosine "
            f"to the photo {cosine:.2f}.",
        ),
    ]
    return [*said, *_replay(strongest_recovery(findings, target, REPLAY), equal)]


def _replay(own: Finding | None, equal: list[Finding]) -> list[Statement]:
    replay = measured(own, REPLAY)
    if own is None or replay is None:
        return []
    low, high = own.measures["mean face replayed"] or 0.0, own.measures["photo replayed"] or 0.0
    return [
        Statement(
            _concluded(part_of_the_way(replay, low, high), own, equal),
            f"Replay{_of_whom(own, equal)}: {percent(replay)} of rebuilt faces, protected anew, pass for the "
            "person at the threshold that tells most of these pairs right by the service's templates; the "
            f"mean face passes in {percent(low)}, the photo in {percent(high)}.",
        )
    ]


def _concluded(part: float, own: Finding, equal: list[Finding]) -> str:
    """The kind of a statement on what an attacker got.

    Where it had hardly begun, or one of equal access was not done, nothing is shown to be protected.
    """
    kind = judged(part)
    open_ended = unfinished(own) or any(one.still_improving for one in equal)
    return "unknown" if kind == "yes" and open_ended else kind


def _of_whom(own: Finding, equal: list[Finding]) -> str:
    """Which of several attackers of equal access a number is of."""
    return f" ({FILTER[own.variant]})" if len(equal) > 1 else ""


def _trusted(findings: list[Finding]) -> bool:
    """Whether the recovery network works where it must; without a control nothing speaks against it."""
    plain = find(findings, "recovery", "unprotected")
    return plain is None or not plain.failed


def _fixed(findings: list[Finding], target: str) -> list[Statement]:
    """Beside the plain recovery: neither of the two reads the filter, so that it alone is the same attack."""
    own = find(findings, "recovery", target)
    if own is None or not _trusted(findings):
        return []
    cases = (
        (
            f"{target}-fixed",
            "fixed permutation",
            "With one permutation for all images",
            "never reuse one",
        ),
        (target, "permutation known", "With the permutations known", "never store or send one"),
    )
    said = []
    for name, variant, words, advice in cases:
        other = find(findings, "recovery", name, variant)
        if other is None:
            continue
        a, b = own.measures["ssim"] or 0.0, other.measures["ssim"] or 0.0
        c, d = own.measures["auc"] or 0.0, other.measures["auc"] or 0.0
        closer, better = b > a + 0.02, d > c + 0.04
        worth = "" if better else "closer to the photo, the person no better known; "
        end = f": {worth}{advice}." if closer or better else ": no gain at this budget."
        said.append(
            Statement(
                # Who it is decides, as a picture nearer by its pixels gives nobody away by itself.
                "no" if better else "partly",
                f"{words} the same attack (without the filter) reaches SSIM {b:.2f} and AUC {d:.2f} in the "
                f"place of {a:.2f} and {c:.2f}{end}",
            )
        )
    return said


def _averaging(findings: list[Finding], target: str) -> list[Statement]:
    found = [f for f in findings if f.attack == "averaging" and f.target == target]
    if len(found) < 2 or not _trusted(findings):
        return []
    ordered = sorted(found, key=lambda f: int(f.extra["images"]))
    first, last = ordered[0], ordered[-1]
    a, b = first.measures["cosine"] or 0.0, last.measures["cosine"] or 0.0
    gained = b > a + 0.05
    lower = unfinished(last) or unfinished(first)
    end = (
        "A permutation from a secret (minusface protect --secret-file) leaves nothing to average, and shows "
        "which images are of one photo."
        if gained
        else "That is no gain at this budget."
    )
    return [
        Statement(
            # Of attackers that were not done, or had hardly begun, equal numbers show nothing.
            "no" if gained else "unknown" if lower else "partly",
            f"Sending one photo {last.extra['images']} times, shuffled anew each time: what averaging "
            f"rebuilds has cosine {b:.2f} to it and SSIM {last.measures['ssim']:.2f}; a single image gives "
            f"{a:.2f} and {first.measures['ssim']:.2f}. {end}{lower}",
        )
    ]


def _inversion(findings: list[Finding], target: str) -> list[Statement]:
    own = find(findings, "inversion", target, "permutation searched")
    known = find(findings, "inversion", target, "permutation known")
    blind = find(findings, "inversion", target, "mean face")
    if own is None or known is None or blind is None:
        return []
    a, b, c = (f.measures["cosine"] or 0.0 for f in (own, known, blind))
    count = own.notes[0] if own.notes else ""
    return [
        Statement(
            judged(part_of_the_way(value, c, 1.0)) if b > c else "unknown",
            f"From gradient search by somebody who holds the generator, {words}: cosine to the photo "
            f"{value:.2f}, where a mean face has {c:.2f} ({count}).",
        )
        for words, value in (
            ("without the permutation", a),
            ("with the permutation", b),
        )
    ]
