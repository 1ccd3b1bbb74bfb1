"""The table of methods."""

from __future__ import annotations

from dataclasses import replace

from minusface.audit.cost import Cost
from minusface.audit.linkage import SERVED
from minusface.audit.plan import Audit
from minusface.audit.tables import METHODS, methods, overview
from minusface.peers.variants import TRIES
from tests.audit.conftest import finding


def test_a_photo_of_before_is_not_served_alike() -> None:
    """Findings that were kept before still hold what the judge makes of photos."""
    measures = {SERVED: 0.97, "auc": 0.99, "accuracy": 0.97, "top-1": 0.9}
    plain = replace(finding("linkage", "unprotected", **measures), control="must succeed")
    own = finding("linkage", "x", "ir_lite", **measures)
    costs = [Cost(name, None, None, 1.0, 1.0) for name in ("unprotected", "x")]
    rows = {row.name: row.cells for row in methods(Audit([plain, own], costs, "", {}), "x")}
    alike = METHODS.index("served alike")
    assert (rows["unprotected"][alike], rows["x"][alike]) == ("–", "97.0\u00a0%")
    assert rows["unprotected"][METHODS.index("linked, 1:1")] == "97.0\u00a0%"


def test_each_measure_is_the_greatest_of_attackers_of_equal_access() -> None:
    """Also where another one tells better who it is."""
    measures = ("ssim", "psnr", "auc", "replay")
    numbers = {
        "": (0.5, 17.0, 0.6, 0.1),
        "unmixed": (0.4, 16.0, 0.8, 0.0),
        "unmixed wide": (0.3, 18.0, 0.7, 0.2),
        "re-encoded": (0.6, 15.0, 0.5, 0.0),
    }
    found = [
        finding("recovery", "x", variant, **dict(zip(measures, values, strict=True)))
        for variant, values in numbers.items()
    ]
    (own, _) = methods(Audit(found, [Cost("x", None, None, 1.0, 1.0)], "", {}), "x")
    at = METHODS.index("recovered: SSIM")
    assert own.cells[at : at + 4] == ["0.600", "18.0", "0.800", "20.0\u00a0%"]
    known = finding(
        "recovery", "x", "permutation known", **dict(zip(measures, (0.9,) * 4, strict=True))
    )
    (own, _) = methods(Audit([*found, known], [Cost("x", None, None, 1.0, 1.0)], "", {}), "x")
    assert own.cells[at] == "0.600"


def test_of_two_students_each_measure_is_the_greater() -> None:
    """One may find people first who orders pairs worse."""
    one = finding("linkage", "x", "a", **{"auc": 0.9, "accuracy": 0.8, "top-1": 0.2, SERVED: 0.6})
    other = finding(
        "linkage", "x", "b", **{"auc": 0.8, "accuracy": 0.85, "top-1": 0.3, SERVED: 0.7}
    )
    costs = [Cost("x", None, None, 1.0, 1.0)]
    for found in ([one, other], [other, one]):
        own = methods(Audit(found, costs, "", {}), "x")[0].cells
        told = [
            own[METHODS.index(name)] for name in ("linked, 1:1", "linked, top-1", "served alike")
        ]
        assert told == ["85.0\u00a0%", "30.0\u00a0%", "70.0\u00a0%"]


def test_the_legend_tells_who_chose_by_contours() -> None:
    names = ["x", "x-8-bit", *(f"x-{kind}" for kind in TRIES)]
    costs = [Cost(name, None, None, 1.0, 1.0) for name in names]
    said = "Contours of x-tries-8: of several images the client sent the one that shows least"
    assert said in overview(Audit([], costs, "", {}), "x")
    assert "Contours of x" not in overview(Audit([], costs[:2], "", {}), "x")
