"""A model on IJB-B or IJB-C, from its folder: 1:1 and, where the lists are there, 1:N.

``ROOT/meta`` holds the lists, ``ROOT/loose_crop`` the images, under InsightFace's names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minusface.data.dataset import digest
from minusface.errors import MinusfaceError
from minusface.evaluate.embedding import Cache, embed_images
from minusface.evaluate.identification import Search, cmc, open_set
from minusface.evaluate.models import Model
from minusface.evaluate.rates import Rates, RatesResult, mean_rates, over_draws
from minusface.evaluate.reader import files_fingerprint
from minusface.evaluate.suites.ijb import ijb_reader, read_images, read_list, read_template_pairs
from minusface.evaluate.suites.ijb_templates import (
    FARS,
    pool_templates,
    search_templates,
    verify_templates,
)

# Where the curve is drawn.
CURVE = np.geomspace(1e-7, 1, 141)
# What the lists of IJB-C call its two galleries, and those of IJB-B.
GALLERIES = ("G1", "G2", "S1", "S2")
RANKS = (1, 5, 10)
FPIRS = (1e-2, 1e-1)


def measure_ijb(
    model: Model,
    root: Path | str,
    *,
    prefix: str | None = None,
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RatesResult:
    """Measure a model: flip test, media averaged, images weighted by the detector's score.

    Args:
        model: under test.
        root: the benchmark's folder.
        prefix: ``ijbb`` or ``ijbc``; by default told from the names in ``meta``.
        draws: how often permutations are drawn anew.
        flip: embed mirror images too.
        batch_size: images at a time.
        cache: folder where embeddings are kept.
        progress: called with the embeddings done and those to do.
        say: told which lists of 1:N are missing, in a line.

    Raises:
        MinusfaceError: missing, malformed or mismatched files.
    """
    root = Path(root)
    prefix = _prefix(root, prefix)
    meta = root / "meta"
    owners, landmarks = (
        meta / f"{prefix}_{name}.txt" for name in ("face_tid_mid", "name_5pts_score")
    )
    images = read_images(owners, landmarks)
    pairs = read_template_pairs(meta / f"{prefix}_template_pair_label.txt")
    missing = missing_lists(meta, prefix)
    if missing:
        say(missing)
    crops = root / "loose_crop"
    read = ijb_reader(crops, images, model.size)
    # The landmarks decide what is cut out.
    lists = hashlib.sha256(owners.read_bytes() + landmarks.read_bytes()).hexdigest()
    sha = digest((lists, files_fingerprint(crops, images.names)))
    rows_rnd = embed_images(
        model.embedder,
        read,
        images.names,
        draws=draws,
        flip=flip,
        batch_size=batch_size,
        progress=progress,
        cache=None if cache is None else Cache(cache, model.fingerprint, sha),
    )
    found: list[Rates] = []
    curve: list[tuple[float, float]] = []
    for rows_nd in rows_rnd.numpy():
        templates, pooled = pool_templates(rows_nd, images.templates, images.media, images.scores)
        points = verify_templates(templates, pooled, pairs, [*FARS, *CURVE])
        rates = points.tar_at_far()
        curve = curve or [(far, tar) for far in CURVE.tolist() if (tar := rates[far]) is not None]
        one: Rates = {f"TAR@FAR {far:g}": rates[far] for far in FARS}
        found.append(one | _searches(meta, prefix, templates, pooled))
    counts = {
        "images": len(images.names),
        "templates": len(np.unique(images.templates)),
        "pairs": len(pairs),
    }
    return over_draws(f"{model.name}, {prefix}", counts, found, curve)


def _prefix(root: Path, wanted: str | None) -> str:
    known = (wanted,) if wanted is not None else ("ijbb", "ijbc")
    for prefix in known:
        if (root / "meta" / f"{prefix}_face_tid_mid.txt").is_file():
            return prefix
    expected = " or ".join(f"meta/{prefix}_face_tid_mid.txt" for prefix in known)
    raise MinusfaceError(f"{root}: no {expected} in it")


def _lists(meta: Path, prefix: str) -> tuple[Path, list[Path]]:
    """Where the probes of 1:N must be, and the galleries that are there."""
    galleries = [meta / f"{prefix}_1N_gallery_{name}.csv" for name in GALLERIES]
    return meta / f"{prefix}_1N_probe_mixed.csv", [path for path in galleries if path.is_file()]


def missing_lists(meta: Path, prefix: str) -> str:
    """What 1:N lacks, and what is left out for it; empty where nothing is."""
    probes, galleries = _lists(meta, prefix)
    names = (
        f"{prefix}_1N_gallery_{'S1.csv and S2.csv' if prefix == 'ijbb' else 'G1.csv and G2.csv'}"
    )
    if not probes.is_file() and not galleries:
        return f"{meta}: no {probes.name}, no {names}; 1:N is left out"
    if not probes.is_file():
        return f"{meta}: no {probes.name}; 1:N is left out"
    if not galleries:
        return f"{meta}: no {names}; 1:N is left out"
    if len(galleries) == 1:
        return f"{meta}: one gallery, {galleries[0].name}; expected two, {names}: 1:N is of the one"
    return ""


def _searches(meta: Path, prefix: str, templates: np.ndarray, pooled: np.ndarray) -> Rates:
    """1:N against each gallery that is there, the mean of them."""
    probes_path, galleries = _lists(meta, prefix)
    if not galleries or not probes_path.is_file():
        return {}
    probes = read_list(probes_path)
    parts: list[Rates] = []
    for path in galleries:
        searched = search_templates(templates, pooled, read_list(path), probes)
        ranked = cmc(searched, RANKS)
        part: Rates = {f"rank-{rank}": rate for rank, rate in ranked.items()}
        parts.append(part | _open_set(searched))
    return mean_rates(parts)


def _open_set(searched: Search) -> Rates:
    """Misses at few false alarms; None where there are not the probes without a mate to tell."""
    if (searched.rank > 0).all():
        return {f"FNIR@FPIR {fpir:g}": None for fpir in FPIRS}
    fnirs = open_set(searched, FPIRS).fnir.tolist()
    return {
        f"FNIR@FPIR {fpir:g}": None if np.isnan(fnir) else fnir
        for fpir, fnir in zip(FPIRS, fnirs, strict=True)
    }
