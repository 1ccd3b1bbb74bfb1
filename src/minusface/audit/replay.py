"""Replay: does a rebuilt face pass for the person when it is sent through the client again?

Legend: N side of a crop, T test images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minusface.audit.access import BATCH, Target, seeded
from minusface.audit.bench import Bench
from minusface.audit.finding import Measures
from minusface.audit.measures import cross_scores, operating_threshold, passed


@torch.no_grad()
def replay(bench: Bench, target: Target, found: Tensor, blind: Tensor) -> Measures:
    """Part of recovered faces that, protected anew, the service takes for another photo of the person.

    Args:
        bench: of the audit.
        target: whose service is tried.
        found: (T, 3, N, N) in [0, 1], recovered test photos.
        blind: the same of who sees nothing.

    Returns:
        At the threshold that tells most of the test pairs right by the service's templates: the part for
        ``found``, for ``blind``, and for the photo itself. Empty where there is no recogniser.
    """
    if target.recognizer is None:
        return {}
    pairs = bench.scene.pairs
    enrolled = target.templates(bench.tests(target).protected.to(bench.device)).cpu()
    own = cross_scores(enrolled, enrolled, pairs)
    threshold = operating_threshold(own, pairs)

    def passing(faces: Tensor) -> float:
        random = seeded("replay", bench.seed, target.name)
        rows = []
        for part in torch.split(faces, BATCH):
            images = target.protection.protect((part * 2 - 1).to(bench.device), random)
            rows.append(target.templates(images).cpu())
        return passed(cross_scores(torch.cat(rows), enrolled, pairs), pairs, threshold)

    return {
        "replay at the service": passing(found),
        "mean face replayed": passing(blind),
        "photo replayed": passed(own, pairs, threshold),
    }
