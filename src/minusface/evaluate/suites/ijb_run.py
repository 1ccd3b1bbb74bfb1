"""A model on IJB-B or IJB-C, from its folder: 1:1 and, where the lists are there, 1:N.

``ROOT/meta`` holds the lists, ``ROOT/loose_crop`` the images, under InsightFace's names.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minusface.errors import MinusfaceError
from minusface.evaluate.embedding import Cache, embed_images
from minusface.evaluate.identification import cmc, open_set, search
from minusface.evaluate.models import Model
from minusface.evaluate.suites.ijb import (
    FARS,
    ijb_reader,
    pool_templates,
    read_images,
    read_list,
    read_template_pairs,
    rows_of,
    verify_templates,
)

Draw = dict[str, float | None]
GALLERIES = ("G1", "G2")
RANKS = (1, 5, 10)
FPIRS = (1e-2, 1e-1)


@dataclass(frozen=True)
class IjbResult:
    """Rates as parts of one, means over the draws; None where the pairs are too few to tell."""

    name: str
    images: int
    templates: int
    pairs: int
    rates: Draw
    """``TAR@FAR 1e-06`` and so on; with galleries ``rank-1`` and ``FNIR@FPIR 0.01``, means over both."""
    spread: Draw
    """Standard deviation over the draws; None for a single one."""
    per_draw: list[Draw] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dict(vars(self))


def measure_ijb(
    model: Model,
    root: Path | str,
    *,
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IjbResult:
    """Measure a model: flip test, media averaged, images weighted by the detector's score.

    Args:
        model: under test.
        root: the benchmark's folder; ``ijbb`` or ``ijbc`` is told from the names in ``meta``.
        draws: how often permutations are drawn anew.
        flip: embed mirror images too.
        batch_size: images at a time.
        cache: folder where embeddings are kept.
        progress: called with the embeddings done and those to do.

    Raises:
        MinusfaceError: missing, malformed or mismatched files.
    """
    root = Path(root)
    prefix = _prefix(root)
    meta = root / "meta"
    owners, points = (meta / f"{prefix}_{name}.txt" for name in ("face_tid_mid", "name_5pts_score"))
    images = read_images(owners, points)
    pairs = read_template_pairs(meta / f"{prefix}_template_pair_label.txt")
    sha = hashlib.sha256(owners.read_bytes() + points.read_bytes()).hexdigest()
    rows_rnd = embed_images(
        model.embedder,
        ijb_reader(root / "loose_crop", images, model.size),
        images.names,
        draws=draws,
        flip=flip,
        batch_size=batch_size,
        progress=progress,
        cache=None if cache is None else Cache(cache, model.fingerprint, sha),
    )
    found: list[Draw] = []
    for rows_nd in rows_rnd.numpy():
        templates, pooled = pool_templates(rows_nd, images.templates, images.media, images.scores)
        rates = verify_templates(templates, pooled, pairs, FARS).tar_at_far()
        one: Draw = {f"TAR@FAR {far:g}": tar for far, tar in rates.items()}
        found.append(one | _searches(meta, prefix, templates, pooled))
    return IjbResult(
        f"{model.name}, {prefix}",
        len(images.names),
        len(np.unique(images.templates)),
        len(pairs),
        {key: _over(found, key, statistics.fmean) for key in found[0]},
        {key: _over(found, key, statistics.stdev) if draws > 1 else None for key in found[0]},
        found,
    )


def _prefix(root: Path) -> str:
    for prefix in ("ijbb", "ijbc"):
        if (root / "meta" / f"{prefix}_face_tid_mid.txt").is_file():
            return prefix
    raise MinusfaceError(
        f"{root}: no meta/ijbb_face_tid_mid.txt or meta/ijbc_face_tid_mid.txt in it"
    )


def _searches(meta: Path, prefix: str, templates: np.ndarray, pooled: np.ndarray) -> Draw:
    """1:N against each gallery that is there, the mean of them."""
    probes_path = meta / f"{prefix}_1N_probe_mixed.csv"
    galleries = [meta / f"{prefix}_1N_gallery_{name}.csv" for name in GALLERIES]
    galleries = [path for path in galleries if path.is_file()]
    if not galleries or not probes_path.is_file():
        return {}
    probes = read_list(probes_path)
    probe_rows = pooled[rows_of(templates, probes.templates, str(probes_path))]
    parts: list[Draw] = []
    for path in galleries:
        gallery = read_list(path)
        rows = pooled[rows_of(templates, gallery.templates, str(path))]
        searched = search(rows, gallery.subjects, probe_rows, probes.subjects)
        ranked = cmc(searched, RANKS)
        opened = open_set(searched, FPIRS)
        part: Draw = {f"rank-{rank}": rate for rank, rate in ranked.items()}
        for fpir, fnir in zip(opened.target.tolist(), opened.fnir.tolist(), strict=True):
            part[f"FNIR@FPIR {fpir:g}"] = None if np.isnan(fnir) else fnir
        parts.append(part)
    return {key: _over(parts, key, statistics.fmean) for key in parts[0]}


def _over(parts: list[Draw], key: str, function: Callable[[list[float]], float]) -> float | None:
    values = [value for part in parts if (value := part[key]) is not None]
    return function(values) if len(values) == len(parts) else None


def ijb_table(results: list[IjbResult]) -> str:
    """One row a result, in per cent, Markdown; the deviation over draws beside."""
    keys = list(dict.fromkeys(key for result in results for key in result.rates))
    lines = [["model", "templates", "pairs", *keys], ["---", *["---:"] * (len(keys) + 2)]]
    for result in results:
        cells = [_cell(result, key) for key in keys]
        lines.append([result.name, str(result.templates), str(result.pairs), *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cell(result: IjbResult, key: str) -> str:
    value, spread = result.rates.get(key), result.spread.get(key)
    if value is None:
        return "–"
    return f"{100 * value:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")
