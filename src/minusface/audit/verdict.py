"""What a protection protects and what it does not, in sentences made from the numbers by fixed rules.

No sentence is written by hand for a result: each rule looks at measures and their controls, and says what
they show. Where a control failed, it says so and draws no conclusion. Rules on the photo stand here, those
on whose it is in verdict_person.py.
"""

from __future__ import annotations

from minusface.audit.finding import Finding, equal_recoveries, find, strongest_recovery
from minusface.audit.statement import (
    FLOOR,
    NOBODY,
    OTHER_IMPROVING,
    TRIES,
    Statement,
    blind_judge,
    concluded,
    judged,
    measured,
    part_of_the_way,
    percent,
    unfinished,
)
from minusface.audit.verdict_person import attributes, linkage, stolen, unlinkability

CHOSEN = (
    " Of several images the client sent the one that shows least by this very measure: another eye may see "
    "more."
)


# What else than the image an attacker of equal access reads, and how it is called for short.
READS = {
    "": "",
    "unmixed": ", which reads what no shuffle changes,",
    "unmixed wide": ", which reads what no shuffle changes over more pixels, and the colours,",
    "re-encoded": ", which reads the image encoded to channels again,",
}
FILTER = {
    "": "without a filter",
    "unmixed": "with the filter",
    "unmixed wide": "with the wide filter",
    "re-encoded": "on re-encoded channels",
}
REPLAY = "replay at the service"
VIEWS = ("faces found", "faces found, stretched", "faces found, unmixed")
NO_NEARER = " The photo itself comes no nearer than a mean face: nothing can be concluded."
ALL_PASS = " The photo itself passes hardly more often than a mean face: nothing can be concluded."
WEAK = (
    " Even with the permutation the search does not come half way from the mean face to the photo: that it "
    "finds no more shows nothing."
)


def verdict(findings: list[Finding], target: str) -> list[Statement]:
    """All rules that have numbers to look at, in the report's order."""
    rules = (
        *(_viewing, _recovery, _fixed, _averaging, _inversion),
        *(linkage, unlinkability, stolen, attributes),
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
    rate, stretched, behind = (measured(own, view) for view in VIEWS)
    direct, whole, through = (measured(plain, view) for view in VIEWS)
    if rate is None or stretched is None:
        words = f"Viewing: SSIM to the photo {ssim:.2f}; no face detector was there to ask."
        return Statement("unknown", words)
    if plain is None or plain.failed or direct is None:
        why = plain.failed if plain is not None else ""
        why = why or "the detector was not asked about the photos themselves"
        return Statement("unknown", f"Viewing: {why}; nothing can be concluded.")
    part = max(_found(rate, direct), _found(stretched, whole), _found(behind, through))
    filtered = ""
    if behind is not None:
        # Where it finds no face in the photo's outlines either, that it finds none here shows nothing.
        shows = "of what it shows of the photo itself"
        beside = "" if through is None else f" (in {percent(through)} {shows})"
        filtered = f", in {percent(behind)} of what the filter shows of them{beside}"
    once = "" if whole is None else f", stretched in {percent(whole)}"
    return Statement(
        judged(part),
        f"From a face detector: it finds a face in {percent(rate)} of protected images, in "
        f"{percent(stretched)} once their contrast is stretched{filtered}; SSIM to the photo is {ssim:.2f}. "
        f"Of the photos themselves it finds one in {percent(direct)}{once}.",
    )


def _found(rate: float | None, plain: float | None) -> float:
    """How often a face is found in a view, on the scale of the photo itself in that view.

    Where hardly any is found in the photo's view, or nobody looked, the rate as it is.
    """
    part = part_of_the_way(rate, 0.0, plain, FLOOR)
    return (rate or 0.0) if part is None else part


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
    ssim, mean, whole = (one.measures["ssim"] for one in (nearest, blind, plain))
    pixels = part_of_the_way(ssim, mean, whole)
    equal = equal_recoveries(findings, target)
    lower = ("" if pixels is not None else NO_NEARER) + unfinished(nearest)
    if any(one.still_improving for one in equal) and not nearest.still_improving:
        lower = OTHER_IMPROVING + lower
    said = [
        Statement(
            concluded(pixels, nearest, equal),
            f"From rebuilding the photo: a U-Net trained on queries{READS[nearest.variant]} reaches SSIM "
            f"{ssim or 0.0:.2f}, where a mean face has {mean or 0.0:.2f} and the same network on the photo "
            f"itself {whole or 0.0:.2f}.{lower}",
        ),
        _identity(own, plain, equal, blind_judge(findings)),
    ]
    return [*said, *_replay(strongest_recovery(findings, target, REPLAY), equal)]


def _identity(own: Finding, plain: Finding, equal: list[Finding], judge: str) -> Statement:
    """Whose face was rebuilt; ``judge`` is why the recogniser asked cannot say, if it cannot."""
    auc, most = own.measures["auc"], plain.measures["auc"]
    who = None if judge else part_of_the_way(auc, 0.5, most, FLOOR)
    why = "" if who is not None else judge or NOBODY
    return Statement(
        concluded(who, own, equal),
        f"Identity in the rebuilt face{_of_whom(own, equal)}: an independent recogniser tells it from other "
        f"people with AUC {auc or 0.0:.2f} (chance 0.50, the photo {most or 0.0:.2f}); cosine to the photo "
        f"{own.measures['cosine'] or 0.0:.2f}.{why}",
    )


def _replay(own: Finding | None, equal: list[Finding]) -> list[Statement]:
    replay = measured(own, REPLAY)
    if own is None or replay is None:
        return []
    low, high = own.measures["mean face replayed"] or 0.0, own.measures["photo replayed"] or 0.0
    part = part_of_the_way(replay, low, high, FLOOR)
    return [
        Statement(
            concluded(part, own, equal),
            f"Replay{_of_whom(own, equal)}: {percent(replay)} of rebuilt faces, protected anew, pass for the "
            "person at the threshold that tells most of these pairs right by the service's templates; the "
            f"mean face passes in {percent(low)}, the photo in {percent(high)}."
            + (ALL_PASS if part is None else ""),
        )
    ]


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
    judge = blind_judge(findings)
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
                "unknown" if judge else "no" if better else "partly",
                f"{words} the same attack (without the filter) reaches SSIM {b:.2f} and AUC {d:.2f} in the "
                f"place of {a:.2f} and {c:.2f}{end}{judge}",
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
    judge, lower = blind_judge(findings), unfinished(last) or unfinished(first)
    end = (
        "A permutation from a secret (minusface protect --secret-file) leaves nothing to average, and shows "
        "which images are of one photo."
        if gained
        else "That is no gain at this budget."
    )
    return [
        Statement(
            # Of attackers that were not done, or had hardly begun, equal numbers show nothing.
            "unknown" if judge or (lower and not gained) else "no" if gained else "partly",
            f"Sending one photo {last.extra['images']} times, shuffled anew each time: what averaging "
            f"rebuilds has cosine {b:.2f} to it and SSIM {last.measures['ssim']:.2f}; a single image gives "
            f"{a:.2f} and {first.measures['ssim']:.2f}. {end}{lower}{judge}",
        )
    ]


def _inversion(findings: list[Finding], target: str) -> list[Statement]:
    own = find(findings, "inversion", target, "permutation searched")
    known = find(findings, "inversion", target, "permutation known")
    blind = find(findings, "inversion", target, "mean face")
    if own is None or known is None or blind is None:
        return []
    a, b, c = (f.measures["cosine"] for f in (own, known, blind))
    count = own.notes[0] if own.notes else ""
    # Given the permutation the search must come far: where it does not, that another came less far shows
    # nothing. What was found all the same was found.
    judge = blind_judge(findings)
    weak = "" if judged(part_of_the_way(b, c, 1.0)) == "no" else WEAK
    said = []
    for words, value in (("without the permutation", a), ("with the permutation", b)):
        kind = judged(part_of_the_way(value, c, 1.0))
        said.append(
            Statement(
                "unknown" if judge or (weak and kind != "no") else kind,
                f"From gradient search by somebody who holds the generator, {words}: cosine to the photo "
                f"{value or 0.0:.2f}, where a mean face has {c or 0.0:.2f} ({count}).{judge or weak}",
            )
        )
    return said
