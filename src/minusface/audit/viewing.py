"""Viewing: what protected images show to whoever looks, and to a face detector.

Legend: B batch, n images a crop, N side of a crop.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from minusface.audit.access import Access, Target, words
from minusface.audit.averaging import seen_as
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding, Measures
from minusface.audit.measures import likeness
from minusface.errors import MinusfaceError
from minusface.protect.choice import shown
from minusface.recognize.unmix import outlines

NAME = "viewing"


def detection_rate(images: Tensor) -> float | None:
    """Part of images (B, 3, N, N) in [0, 1] in which the face detector finds a face.

    Returns:
        None where no detector is installed.
    """
    from minusface.faces.detector import default_detector

    try:
        detector = default_detector()
    except MinusfaceError:
        return None
    found = 0
    for image in images:
        pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        found += bool(detector.detect(np.ascontiguousarray(pixels)))
    return found / max(len(images), 1)


def contours(photos: Tensor, seen: Tensor) -> float:
    """How well edges in images lie where the photos' edges are: mean correlation, 1 for equal images.

    An eye follows outlines through any colours, where SSIM, PSNR and a detector of natural faces see noise.

    Args:
        photos: (B, 3, N, N) in [0, 1].
        seen: the same.
    """
    return float(shown(photos, seen[:, None, :3]).mean())


def contours_unmixed(photos: Tensor, seen: Tensor) -> float:
    """As :func:`contours`, of the outlines that no shuffle can hide: mean correlation.

    Args:
        photos: (B, 3, N, N) in [0, 1].
        seen: the same.
    """
    from minusface.demo.pictures import correlation, edges

    found = []
    for photo, map_nn in zip(photos, outlines(seen), strict=True):
        pixels = np.asarray(np.rint(photo.permute(1, 2, 0).numpy() * 255), np.uint8)
        found.append(correlation(edges(pixels), map_nn.numpy()))
    return float(np.mean(found))


def unmixed_as_seen(images: Tensor) -> Tensor:
    """What an eye sees behind the filter: outlines, white on black, (B, 3, N, N) in [0, 1]."""
    from minusface.demo.pictures import white_outlines

    return white_outlines(images[:, :3])


def run_viewing(bench: Bench, target: Target) -> list[Finding]:
    """SSIM, PSNR, and faces found, in the first of a crop's n images."""
    seen = bench.tests(target).protected[:, :3]
    places = range(min(bench.budget.similar, len(seen)))
    truth = (bench.scene.test.crops(places) + 1) / 2
    measures: Measures = likeness(seen[: len(truth)], truth)
    measures["contours"] = contours(truth, seen[: len(truth)])
    # What any two aligned faces share: the outline, the eyes' place.
    others = truth.roll(len(truth) // 2, 0)
    measures["contours of others"] = contours(others, seen[: len(truth)])
    measures["contours, unmixed"] = contours_unmixed(truth, seen[: len(truth)])
    measures["contours of others, unmixed"] = contours_unmixed(others, seen[: len(truth)])
    looked = seen[: bench.budget.detect]
    bench.show(0.3, f"{target.name}: looking for faces")
    measures["faces found"] = detection_rate(looked)
    bench.show(0.7, f"{target.name}: looking for faces")
    # An onlooker may stretch the contrast, as any photo program does.
    measures["faces found, stretched"] = detection_rate(seen_as(looked))
    measures["faces found, unmixed"] = detection_rate(unmixed_as_seen(looked))
    notes = () if measures["faces found"] is not None else ("no face detector is installed",)
    key = bench.key(NAME, target)
    return [
        Finding(
            NAME,
            target.name,
            words(Access.IMAGES),
            measures,
            control="must succeed" if target.name == "unprotected" else "",
            failed=_failure(target.name, measures["faces found"]),
            notes=notes,
            picture=bench.picture(key, seen),
            extra={
                "stretched": bench.picture(f"{key}-stretched", seen_as(seen[:6])),
                "unmixed": bench.picture(f"{key}-unmixed", unmixed_as_seen(seen[:6])),
            },
        )
    ]


def _failure(name: str, rate: float | None) -> str:
    if name != "unprotected" or rate is None or rate >= 0.5:
        return ""
    return f"the detector finds a face in {100 * rate:.0f} % of the photos themselves"
