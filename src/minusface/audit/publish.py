"""A report that may be shown: the data's numbers, and pictures of faces that belong to nobody there.

Every protection is applied to drawn faces and to scikit-image's astronaut, and the attackers that learned
from the data are let loose on them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from minusface.audit.access import Target, seeded
from minusface.audit.averaging import seen_as
from minusface.audit.bench import SHOWN, Bench, write_strip
from minusface.audit.finding import Finding
from minusface.audit.plan import Audit
from minusface.audit.recovery import Recovery, Variant
from minusface.audit.viewing import unmixed_as_seen
from minusface.data import SyntheticFaces
from minusface.errors import MinusfaceError
from minusface.peers.base import views_of
from minusface.types import UInt8

# Of people that no synthetic audit draws.
SEED = 7001


def publish(bench: Bench, targets: Sequence[Target], audit: Audit, out: Path) -> Audit:
    """The same audit with pictures that may be shown, written under ``out``.

    Args:
        bench: of the audit; its attackers have learned.
        targets: everything that has findings with pictures.
        audit: what was found.
        out: folder of the report to be.

    Returns:
        The audit, its pictures those of ``out``; attacks without a counterpart there show none.
    """
    faces = faces_of_nobody(bench.scene.test.crops([0]).shape[-1])
    known = {target.name: target for target in targets}
    findings = []
    for number, finding in enumerate(audit.findings):
        target = known.get(finding.target)
        bench.show(number / len(audit.findings), f"pictures to show: {finding.target}")
        if target is None or finding.control == "blind guess":
            findings.append(_bare(finding))
        elif finding.attack == "viewing":
            findings.append(_viewed(finding, bench, target, faces, out))
        elif finding.attack == "recovery" and finding.variant in get_args(Variant):
            findings.append(_recovered(finding, bench, target, faces, out))
        else:
            findings.append(_bare(finding))
        bench.forget(target or Target(targets[0].protection))
    shown = write_strip(out, "faces", (faces + 1) / 2)
    said = {
        **audit.about,
        "pictures": "of drawn faces and of scikit-image's astronaut, none of them in the data: the attackers "
        "that learned from the data were let loose on them",
    }
    return replace(audit, findings=findings, faces=shown, about=said)


def faces_of_nobody(size: int) -> Tensor:
    """(SHOWN, 3, N, N) in [-1, 1]: the astronaut where she can be had, else one drawn face more."""
    crops = [*_astronaut(size)]
    drawn = SyntheticFaces(SHOWN, 1, SEED, size)
    crops += [drawn[place].image for place in range(SHOWN - len(crops))]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _astronaut(size: int) -> list[UInt8]:
    from minusface.demo.photo import open_portrait

    try:
        crop = open_portrait(None).crop
    except MinusfaceError as error:
        logging.getLogger(__name__).info("no astronaut: %s", error)
        return []
    return [crop] if crop.shape[0] == size else []


def _bare(finding: Finding) -> Finding:
    """Without its pictures."""
    extra = {k: v for k, v in finding.extra.items() if k not in ("stretched", "unmixed", "shown")}
    return replace(finding, picture="", extra=extra)


def _viewed(finding: Finding, bench: Bench, target: Target, faces: Tensor, out: Path) -> Finding:
    seen = target.protection.protect(faces.to(bench.device), seeded("published", bench.seed))
    first = seen[:, :3].cpu()
    key = f"viewing-{target.name}"
    stretched = write_strip(out, f"{key}-stretched", seen_as(first))
    unmixed = write_strip(out, f"{key}-unmixed", unmixed_as_seen(first))
    return replace(
        finding,
        picture=write_strip(out, key, first),
        extra={**finding.extra, "stretched": stretched, "unmixed": unmixed},
    )


def _recovered(finding: Finding, bench: Bench, target: Target, faces: Tensor, out: Path) -> Finding:
    if finding.variant == "residue":
        return _bare(finding)
    attack = Recovery(bench, next(v for v in get_args(Variant) if v == finding.variant))
    # Learned already: this only finds its weights again.
    attack.fit(target)
    crops, random = faces.to(bench.device), seeded("published", bench.seed)
    seen = views_of(target.protection, crops, random, 1).view(0)
    key = f"recovery-{target.name}-{finding.variant}".rstrip("-").replace(" ", "-")
    return replace(finding, picture=write_strip(out, key, attack.attack(seen)))
