"""What the verdict's rules make of numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minusface.audit.attack import Point
from minusface.audit.finding import Finding
from minusface.audit.statement import part_of_the_way
from minusface.audit.verdict import verdict
from minusface.peers.variants import TRIES
from tests.audit.conftest import finding


def recovered(target: str, ssim: float, auc: float) -> Finding:
    return finding("recovery", target, ssim=ssim, auc=auc, cosine=auc - 0.5, psnr=10.0)


def test_verdicts_follow_the_numbers() -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    good = verdict([*controls, recovered("x", 0.42, 0.52)], "x")
    bad = verdict([*controls, recovered("x", 0.9, 0.9)], "x")
    assert [s.kind for s in good] == ["yes", "yes"]
    assert [s.kind for s in bad] == ["no", "no"]
    unfinished = replace(recovered("x", 0.42, 0.52), still_improving=True)
    open_ended = verdict([*controls, unfinished], "x")
    assert [s.kind for s in open_ended] == ["unknown", "unknown"]
    stuck = replace(recovered("x", 0.42, 0.52), stuck=True, points=(Point(4096, 9.0, 0.17),))
    replayed = {"replay at the service": 0.0, "mean face replayed": 0.0, "photo replayed": 0.9}
    stuck.measures.update(replayed)
    hardly = verdict([*controls, stuck], "x")
    assert [s.kind for s in hardly] == ["unknown"] * 3
    assert "learned nothing after 4,096 images" in hardly[0].text
    patient = replace(stuck, points=(Point(200_000, 9.0, 0.17),))
    assert [s.kind for s in verdict([*controls, patient], "x")] == ["yes"] * 3
    broken = replace(controls[0], failed="too weak")
    unknown = verdict([broken, controls[1], recovered("x", 0.42, 0.52)], "x")
    assert [s.kind for s in unknown] == ["unknown"]
    assert "too weak" in unknown[0].text


def test_of_attackers_of_equal_access_the_stronger_counts() -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    weak, strong = recovered("x", 0.42, 0.52), replace(recovered("x", 0.9, 0.9), variant="unmixed")
    said = verdict([*controls, weak, strong], "x")
    assert [s.kind for s in said] == ["no", "no"]
    assert "which reads what no shuffle changes" in said[0].text
    assert "no shuffle changes" not in verdict([*controls, weak], "x")[0].text
    wider = replace(recovered("x", 0.95, 0.95), variant="unmixed wide")
    assert "SSIM 0.95" in verdict([*controls, weak, strong, wider], "x")[0].text
    # One that got less by now may get more.
    behind = replace(recovered("x", 0.41, 0.51), variant="unmixed wide", still_improving=True)
    later = verdict([*controls, weak, behind], "x")
    assert [s.kind for s in later] == ["unknown", "unknown"]
    assert later[0].text.endswith(
        "Another one of equal access was still improving when its budget ended."
    )
    # What encodes the image first has no more access.
    again = replace(recovered("x", 0.8, 0.85), variant="re-encoded")
    said = verdict([*controls, weak, again], "x")
    assert [s.kind for s in said] == ["no", "no"]
    assert "which reads the image encoded to channels again, reaches SSIM 0.80" in said[0].text
    assert said[1].text.startswith("Identity in the rebuilt face (on re-encoded channels): ")
    busy = replace(recovered("x", 0.41, 0.51), variant="re-encoded", still_improving=True)
    assert [s.kind for s in verdict([*controls, weak, busy], "x")] == ["unknown", "unknown"]
    # What knows the permutation has more access, and is told of by itself.
    known = replace(strong, variant="permutation known")
    assert [s.kind for s in verdict([*controls, weak, known], "x")] == ["yes", "yes", "no"]


@pytest.mark.parametrize("auc", [0.2, 0.52, 0.9])
@pytest.mark.parametrize(
    ("photo", "failed", "why"),
    [
        (0.59, "", "hardly tells whose it is: nothing can be concluded."),
        # A photo no better than chance, or worse, must not turn everything into protected.
        (0.50, "", "hardly tells whose it is: nothing can be concluded."),
        (0.40, "", "hardly tells whose it is: nothing can be concluded."),
        (0.95, "it tells 55 % right", "Nothing can be concluded: it tells 55 % right."),
    ],
)
def test_a_judge_that_tells_nobody_apart_shows_nothing(
    auc: float, photo: float, failed: str, why: str
) -> None:
    found = [recovered("unprotected", 0.98, photo), recovered("blind guess", 0.4, 0.5)]
    judge = replace(finding("linkage", "unprotected", auc=0.95, accuracy=0.9), failed=failed)
    identity = verdict([*found, judge, recovered("x", 0.42, auc)], "x")[1]
    assert identity.kind == "unknown"
    assert identity.text.endswith(why)
    fit = replace(found[0], measures={**found[0].measures, "auc": 0.95})
    able = replace(judge, failed="")
    identity = verdict([fit, found[1], able, recovered("x", 0.42, auc)], "x")[1]
    assert identity.kind == ("no" if auc > 0.8 else "yes")
    assert "can be concluded" not in identity.text


@pytest.mark.parametrize(
    ("mean", "photo", "kind"),
    [(0.15, 0.99, "yes"), (0.5, 0.59, "unknown"), (0.5, 0.5, "unknown"), (0.6, 0.5, "unknown")],
)
def test_a_service_that_lets_everybody_pass_shows_nothing(
    mean: float, photo: float, kind: str
) -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    own = recovered("x", 0.42, 0.52)
    among = {"replay at the service": mean, "mean face replayed": mean, "photo replayed": photo}
    own.measures.update(among)
    said = verdict([*controls, own], "x")[-1]
    assert said.kind == kind
    assert ("hardly more often than a mean face: nothing can" in said.text) == (kind == "unknown")


def test_photos_no_nearer_than_a_mean_face_show_nothing() -> None:
    controls = [recovered("unprotected", 0.90, 0.95), recovered("blind guess", 0.95, 0.5)]
    said = verdict([*controls, recovered("x", 0.92, 0.52)], "x")[0]
    assert said.kind == "unknown"
    assert said.text.endswith("comes no nearer than a mean face: nothing can be concluded.")


def test_gains_told_by_a_judge_that_cannot_tell_are_not_known() -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    fixed = replace(recovered("x-fixed", 0.50, 0.70), variant="fixed permutation")
    found = [*controls, recovered("x", 0.42, 0.52), fixed]
    for count, cosine in ((1, 0.04), (256, 0.5)):
        one = finding("averaging", "x", f"{count}", cosine=cosine, ssim=0.42)
        found.append(replace(one, extra={"images": count}))
    assert [s.kind for s in verdict(found, "x")[2:]] == ["no", "no"]
    judge = replace(finding("linkage", "unprotected", auc=0.5), failed="it cannot judge identity")
    for said in verdict([*found, judge], "x")[2:]:
        assert said.kind == "unknown"
        assert said.text.endswith("Nothing can be concluded: it cannot judge identity.")
    # Nor where its own control was not run, and of the photo itself it says next to nothing.
    weak = [recovered("unprotected", 0.98, 0.59), *found[1:]]
    for said in verdict(weak, "x")[1:]:
        assert said.kind == "unknown"
        assert "hardly tells whose it is" in said.text


def test_rounding_is_no_judge() -> None:
    assert part_of_the_way(0.95, 0.9, 1.0, 0.1) == pytest.approx(0.5)
    assert part_of_the_way(0.25, 0.2, 0.3, 0.1) == pytest.approx(0.5)
    assert part_of_the_way(0.25, 0.2, 0.299, 0.1) is None
    assert part_of_the_way(0.3, 0.3, 0.3) is None


@pytest.mark.parametrize(
    ("searched", "known", "mean", "failed", "kinds"),
    [
        (0.03, 0.90, 0.0, "", ["yes", "no"]),
        (0.30, 0.90, 0.0, "", ["partly", "no"]),
        (0.33, 0.92, -0.1, "", ["partly", "no"]),
        # The search that is given the permutation comes nowhere: that another finds nothing shows nothing.
        (0.01, 0.02, 0.0, "", ["unknown", "unknown"]),
        (0.20, 0.40, 0.0, "", ["unknown", "unknown"]),
        (-0.2, -0.1, 0.0, "", ["unknown", "unknown"]),
        (0.60, 0.64, 0.3, "", ["unknown", "unknown"]),
        # What was found all the same was found.
        (0.80, 0.40, 0.0, "", ["no", "unknown"]),
        (0.03, 0.90, 0.0, "it cannot judge identity", ["unknown", "unknown"]),
        (0.80, 0.90, 0.0, "it cannot judge identity", ["unknown", "unknown"]),
    ],
)
def test_an_inversion_shows_something_where_the_known_permutation_does(
    searched: float, known: float, mean: float, failed: str, kinds: list[str]
) -> None:
    cases = {"permutation searched": searched, "permutation known": known, "mean face": mean}
    found = [finding("inversion", "x", name, cosine=value) for name, value in cases.items()]
    judge = replace(finding("linkage", "unprotected", auc=0.9), failed=failed)
    said = verdict([*found, judge], "x")
    assert [s.kind for s in said] == kinds
    why = "Nothing can be concluded" if failed else "does not come half way"
    assert all((why in s.text) == (kinds[1] == "unknown") for s in said)


STOLEN = ("stolen", "stolen, under a key")


def taken(auc: float, keyed: float = 0.51) -> list[Finding]:
    """Faces from stolen templates, and from templates under a key."""
    return [
        replace(finding("templates", "x", name, auc=value, cosine=value - 0.5), points=POINTS)
        for name, value in zip(STOLEN, (auc, keyed), strict=True)
    ]


@pytest.mark.parametrize(
    ("auc", "how", "kind"),
    [
        (0.52, {}, "yes"),
        (0.60, {}, "partly"),
        (0.90, {}, "no"),
        (0.52, {"still_improving": True}, "unknown"),
        (0.52, {"stuck": True}, "unknown"),
        (0.90, {"still_improving": True}, "no"),
    ],
)
def test_a_stolen_template_is_told_of(auc: float, how: dict[str, bool], kind: str) -> None:
    plain = recovered("unprotected", 0.98, 0.95)
    own, keyed = taken(auc)
    (said,) = verdict([plain, replace(own, **how), keyed], "x")  # type: ignore[arg-type]
    assert said.kind == kind
    assert f"with AUC {auc:.2f} (chance 0.50, the photo 0.95)" in said.text
    assert "under a key that was not stolen with it: AUC 0.51, cosine 0.01." in said.text


def test_a_stolen_template_needs_the_controls_of_a_recovery() -> None:
    plain = recovered("unprotected", 0.98, 0.95)
    weak = replace(plain, failed="too weak")
    nobody = recovered("unprotected", 0.98, 0.55)
    judge = replace(finding("linkage", "unprotected", auc=0.5), failed="it cannot judge identity")
    for controls, why in (
        ([], "the recovery from the photo itself was not run"),
        ([weak], "the control failed (too weak)"),
        ([plain, judge], "it cannot judge identity"),
        ([nobody], "hardly tells whose it is"),
    ):
        (said,) = verdict([*controls, *taken(0.52)], "x")
        assert said.kind == "unknown"
        assert why in said.text


@pytest.mark.parametrize(
    ("ssim", "auc", "kind", "said"),
    [
        (0.42, 0.52, "partly", "no gain at this budget."),
        (0.50, 0.51, "partly", "closer to the photo, the person no better known; never reuse one."),
        (0.50, 0.40, "partly", "closer to the photo, the person no better known; never reuse one."),
        (0.50, 0.70, "no", "in the place of 0.42 and 0.52: never reuse one."),
        (0.42, 0.70, "no", "in the place of 0.42 and 0.52: never reuse one."),
    ],
)
def test_what_a_fixed_permutation_gives_away_is_told_apart(
    ssim: float, auc: float, kind: str, said: str
) -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    fixed = replace(recovered("x-fixed", ssim, auc), variant="fixed permutation")
    found = verdict([*controls, recovered("x", 0.42, 0.52), fixed], "x")[-1]
    assert found.kind == kind
    assert found.text.endswith(said)


def test_each_measure_is_of_the_attacker_that_got_most_by_it() -> None:
    """One came nearest by its pixels, one told best who it is, one passed most often."""
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    nearest = recovered("x", 0.9, 0.52)
    wise = replace(recovered("x", 0.42, 0.9), variant="unmixed")
    passing = replace(recovered("x", 0.42, 0.52), variant="unmixed wide")
    for one, replay in ((nearest, 0.0), (wise, 0.0), (passing, 0.6)):
        among = {"replay at the service": replay, "mean face replayed": 0.0, "photo replayed": 0.9}
        one.measures.update(among)
    said = verdict([*controls, nearest, wise, passing], "x")
    assert [s.kind for s in said] == ["no", "no", "no"]
    assert said[0].text.startswith(
        "From rebuilding the photo: a U-Net trained on queries reaches SSIM 0.90,"
    )
    assert said[1].text.startswith("Identity in the rebuilt face (with the filter): ")
    assert "AUC 0.90" in said[1].text
    assert said[2].text.startswith("Replay (with the wide filter): 60 % of rebuilt faces")


def test_permutations_fixed_or_known_stand_beside_the_attack_without_the_filter() -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    plain = recovered("x", 0.43, 0.50)
    filtered = replace(recovered("x", 0.46, 0.73), variant="unmixed")
    fixed = replace(recovered("x-fixed", 0.50, 0.72), variant="fixed permutation")
    known = replace(recovered("x", 0.48, 0.71), variant="permutation known")
    one, other = verdict([*controls, plain, filtered, fixed, known], "x")[-2:]
    assert (one.kind, other.kind) == ("no", "no")
    same = "the same attack (without the filter) reaches SSIM"
    assert f"{same} 0.50 and AUC 0.72 in the place of 0.43 and 0.50: never reuse one." in one.text
    assert f"{same} 0.48 and AUC 0.71 in the place of 0.43 and 0.50: never store" in other.text
    # Without it there is nothing to set beside them.
    assert len(verdict([*controls, filtered, fixed, known], "x")) == 2


def linked(target: str, auc: float, still_improving: bool = False) -> Finding:
    measures = {"auc": auc, "accuracy": auc, "top-1": 0.1}
    one = finding("linkage", target, "ir_lite, 9 photos", **measures)
    extra = {"photos": 9, "gallery": 4}
    return replace(one, still_improving=still_improving, extra=extra)


@pytest.mark.parametrize(
    ("auc", "still_improving", "kind", "said"),
    [
        (0.52, True, "unknown", "first in 10 %. It was still improving when its budget ended."),
        (0.52, False, "unknown", "It learned little of it: a longer one may (--longer)."),
        (0.65, True, "partly", "first in 10 %. It was still improving when its budget ended."),
        (0.65, False, "partly", "first in 10 %. Protected images are biometric data."),
        (0.90, True, "no", "It was still improving when its budget ended."),
    ],
)
def test_linkage_is_never_said_to_be_protected_from(
    auc: float, still_improving: bool, kind: str, said: str
) -> None:
    plain = replace(linked("unprotected", 0.98), variant="")
    (found,) = verdict([plain, linked("x", auc, still_improving)], "x")
    assert found.kind == kind
    assert said in found.text
    assert found.text.endswith("Protected images are biometric data.")


@pytest.mark.parametrize("auc", [0.52, 0.9])
def test_linkage_beside_a_judge_that_tells_nobody_apart_is_not_known(auc: float) -> None:
    plain = replace(linked("unprotected", 0.55), variant="")
    (found,) = verdict([plain, linked("x", auc)], "x")
    assert found.kind == "unknown"
    assert "hardly tells whose it is: nothing can be concluded." in found.text


def test_of_two_students_each_number_is_the_greater() -> None:
    plain, own = replace(linked("unprotected", 0.98), variant=""), linked("x", 0.8)
    measures = {"auc": 0.7, "accuracy": 0.9, "top-1": 0.2}
    other = replace(own, measures=measures, extra={**own.extra, "photos": 5})
    for found in ([own, other], [other, own]):
        (one,) = verdict([plain, *found], "x")
        assert "students of 5 to 9 queried photos tell which" in one.text
        assert (
            "90 % of pairs right (chance 50 %), the right one of 4 people first in 20 %" in one.text
        )


def test_students_that_began_from_nothing_are_told_of() -> None:
    plain, own = replace(linked("unprotected", 0.98), variant=""), linked("x", 0.65)
    cold, warm = (replace(own, extra={**own.extra, "start": how}) for how in ("cold", "warm"))
    for found, said in (([own], False), ([warm], False), ([cold], True), ([cold, warm], False)):
        (one,) = verdict([plain, *found], "x")
        assert ("It began from random weights" in one.text) == said


POINTS = (Point(3200, 9.0, 0.69),)


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ({}, "partly", "That is no gain at this budget."),
        ({"stuck": True}, "unknown", "It had learned nothing after 3,200 images: a longer one may"),
        ({"still_improving": True}, "unknown", "It was still improving when its budget ended."),
    ],
)
def test_averaging_that_was_not_done_shows_nothing(
    how: dict[str, bool], kind: str, said: str
) -> None:
    found = []
    for count in (1, 256):
        one = finding("averaging", "x", f"{count}", cosine=0.04, ssim=0.42)
        found.append(replace(one, extra={"images": count}, points=POINTS))
    for unfinished in range(2):
        several = [replace(one, **how) if n == unfinished else one for n, one in enumerate(found)]  # type: ignore[arg-type]
        (one,) = verdict(several, "x")
        assert one.kind == kind
        assert said in one.text
    found[1].measures["cosine"] = 0.5
    (gained,) = verdict([found[0], replace(found[1], **how)], "x")  # type: ignore[arg-type]
    assert gained.kind == "no"


def test_an_attribute_counts_as_told_by_the_order_of_scores_too() -> None:
    plain, own = (
        finding("attributes", name, "glasses", **{"balanced accuracy": right, "auc": auc})
        for name, right, auc in (("unprotected", 0.95, 0.99), ("x", 0.52, 0.80))
    )
    (said,) = verdict([plain, own], "x")
    assert said.kind == "no"
    assert said.text.endswith("in 95 % of photos (chance 50 %; AUC 0.80 and 0.99).")


def test_an_order_of_scores_that_photos_do_not_have_either_does_not_count() -> None:
    plain, own = (
        finding("attributes", name, "glasses", **{"balanced accuracy": right, "auc": auc})
        for name, right, auc in (("unprotected", 0.95, 0.45), ("x", 0.52, 0.40))
    )
    (said,) = verdict([plain, own], "x")
    # Against a photo below chance 0.40 would lie twice the way there.
    assert said.kind == "yes"


def test_an_attribute_is_not_protected_from_who_never_began() -> None:
    plain = finding("attributes", "unprotected", "glasses", **{"balanced accuracy": 0.95})
    own = replace(
        finding("attributes", "x", "glasses", **{"balanced accuracy": 0.52}),
        stuck=True,
        points=POINTS,
    )
    (said,) = verdict([plain, own], "x")
    assert said.kind == "unknown"
    assert "It had learned nothing after 3,200 images" in said.text
    patient = replace(own, points=(Point(200_000, 9.0, 0.69),))
    assert verdict([plain, patient], "x")[0].kind == "yes"


def test_attributes_are_not_protected_from_who_was_still_learning() -> None:
    plain = finding("attributes", "unprotected", "glasses", **{"balanced accuracy": 0.95})
    own = finding("attributes", "x", "glasses", **{"balanced accuracy": 0.52})
    (done,) = verdict([plain, own], "x")
    assert done.kind == "yes"
    assert done.text.endswith("(chance 50 %).")
    (open_ended,) = verdict([plain, replace(own, still_improving=True)], "x")
    assert open_ended.kind == "unknown"
    assert open_ended.text.endswith(" It was still improving when its budget ended.")
    told = replace(own, still_improving=True, measures={"balanced accuracy": 0.9})
    (leaks,) = verdict([plain, told], "x")
    assert leaks.kind == "no"
    assert leaks.text.endswith(" It was still improving when its budget ended.")


SEEN = {
    **{"ssim": 0.3, "contours": 0.3, "contours of others": 0.0},
    **{"contours, unmixed": 0.3, "contours of others, unmixed": 0.0},
}
FOUND = ("faces found", "faces found, stretched", "faces found, unmixed")


def test_viewing_without_a_detector_still_tells_of_both_eyes() -> None:
    plain, own = (finding("viewing", name, **SEEN) for name in ("unprotected", "x"))
    said = verdict([plain, own], "x")
    assert [s.text.split(":")[0] for s in said] == [
        "From an eye that follows outlines",
        "From an eye behind a filter that no shuffle changes (nothing learned)",
        "Viewing",
    ]
    assert said[-1].kind == "unknown"
    assert "no face detector was there to ask" in said[-1].text


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        ((0.0, 0.0, 0.6), "no"),
        ((0.0, 0.6, 0.0), "no"),
        ((0.2, 0.0, 0.0), "partly"),
        ((0.0, 0.0, 0.0), "yes"),
    ],
)
def test_the_detector_counts_in_the_view_that_gives_it_most(
    rates: tuple[float, float, float], kind: str
) -> None:
    plain = finding("viewing", "unprotected", **SEEN, **dict(zip(FOUND, (1, 1, 0.25), strict=True)))
    own = finding("viewing", "x", **SEEN, **dict(zip(FOUND, rates, strict=True)))
    found = verdict([plain, own], "x")[-1]
    assert found.kind == kind
    direct, stretched, behind = (f"in {100 * rate:.0f} %" for rate in rates)
    assert (
        f"{direct} of protected images, {stretched} once their contrast is stretched, {behind} of what the "
        "filter shows of them (in 25 % of what it shows of the photo itself); SSIM"
    ) in found.text
    assert found.text.endswith(
        "Of the photos themselves it finds one in 100 %, stretched in 100 %."
    )
    # Audits of before did not look behind the filter.
    older = finding("viewing", "x", **SEEN, **dict(zip(FOUND[:2], rates[:2], strict=True)))
    assert (
        f"{stretched} once their contrast is stretched; SSIM"
        in verdict([plain, older], "x")[-1].text
    )


@pytest.mark.parametrize(
    ("photo", "rates", "kind"),
    [
        # A third of the photos' faces, behind the filter, where hardly half of them are found at all.
        ((1, 1, 0.4), (0, 0, 0.14), "partly"),
        ((0.6, 0.6, 0), (0.3, 0, 0), "no"),
        ((0.6, 0.6, 0), (0.06, 0.06, 0), "yes"),
        ((1, 0.2, 0), (0, 0.12, 0), "no"),
        # Where the photo's own face is found in no such view, the rate counts as it is.
        ((1, 1, 0.0), (0, 0, 0.05), "yes"),
        ((1, 1, 0.05), (0, 0, 0.04), "yes"),
        ((1, 1, 0.0), (0, 0, 0.6), "no"),
    ],
)
def test_the_detector_is_judged_by_what_it_finds_in_photos(
    photo: tuple[float, float, float], rates: tuple[float, float, float], kind: str
) -> None:
    plain, own = (
        finding("viewing", name, **SEEN, **dict(zip(FOUND, values, strict=True)))
        for name, values in (("unprotected", photo), ("x", rates))
    )
    assert verdict([plain, own], "x")[-1].kind == kind
    blind = finding("viewing", "unprotected", **SEEN)
    for controls in ([], [blind]):
        said = verdict([*controls, own], "x")[-1]
        assert said.kind == "unknown"
        assert "the detector was not asked about the photos themselves" in said.text


def templates(within: float, by: dict[str, float]) -> list[Finding]:
    measures = {"eer within": within}
    return [finding("unlinkability", "x", n, d_sys=d, **measures) for n, d in by.items()]


def test_templates_that_tell_nobody_apart_are_not_called_protected() -> None:
    nothing = dict.fromkeys(
        (
            "no keys",
            "a key a service",
            "keys, 5 people known in both",
            "keys, laid over one another",
        ),
        0.0,
    )
    for within in (0.53, 0.43, float("nan")):
        (said,) = verdict(templates(within, nothing), "x")
        assert said.kind == "unknown"
        assert "nothing to link" in said.text
    said = verdict(templates(0.06, nothing), "x")  # type: ignore[assignment]
    # That one attacker with few templates found nothing shows nothing.
    assert [s.kind for s in said] == ["yes", "unknown", "unknown"]
    assert "cannot link" in said[0].text


@pytest.mark.parametrize(
    ("known", "shapes"),
    [
        (
            "keys, 56 photos of 28 people known in both",
            "keys, galleries of 896 templates laid over one another",
        ),
        # As findings were called before.
        ("keys, 56 people known in both", "keys, galleries of 896 laid over one another"),
    ],
)
def test_who_can_do_without_the_keys_is_told_of_under_names_of_now_and_before(
    known: str, shapes: str
) -> None:
    linkable = {"no keys": 0.6, "a key a service": 0.0, known: 0.7, shapes: 0.2}
    found = templates(0.06, linkable)
    said = verdict(found, "x")
    assert [s.kind for s in said] == ["no", "no", "no"]
    assert "is, or knows, people enrolled" in said[1].text
    assert said[1].text.endswith(f"D_sys 0.70 ({known}).")
    assert "knows nobody in either gallery" in said[2].text
    assert said[2].text.endswith(f"D_sys 0.20 ({shapes}).")


def test_replay_is_told_of_at_the_threshold_that_it_was_measured_at() -> None:
    controls = [recovered("unprotected", 0.98, 0.95), recovered("blind guess", 0.4, 0.5)]
    own = recovered("x", 0.9, 0.9)
    own.measures.update(
        {"replay at the service": 0.3, "mean face replayed": 0.15, "photo replayed": 0.99}
    )
    said = verdict([*controls, own], "x")[-1].text
    assert said == (
        "Replay: 30 % of rebuilt faces, protected anew, pass for the person at the threshold that tells most "
        "of these pairs right by the service's templates; the mean face passes in 15 %, the photo in 99 %."
    )


def test_who_chose_by_outlines_is_told_of_beside_them() -> None:
    said = []
    for name in ("x", *(f"x-{kind}" for kind in TRIES)):
        found = verdict([finding("viewing", name, **SEEN)], name)
        said.append("by this very measure: another eye may see more." in found[0].text)
    assert said == [False] + [True] * len(TRIES)
