"""MegaFace's question, from folders: how well is a person found again among a growing crowd of strangers?

``ROOT/facescrub_images`` holds a folder a person, ``ROOT/megaface_images`` strangers at any depth. Files
named in ``facescrub_noises.txt`` and ``megaface_noises.txt`` (a name or path a line) are left out, where
these are there, as the field's cleaned lists do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minusface.data.folder import SUFFIXES
from minusface.errors import MinusfaceError
from minusface.evaluate.embedding import Cache, embed_images
from minusface.evaluate.identification import against_distractors
from minusface.evaluate.models import Model
from minusface.evaluate.rates import Rates, RatesResult, over_draws
from minusface.evaluate.reader import files_fingerprint, folder_reader

PROBES = ("facescrub_images", "probes")
DISTRACTORS = ("megaface_images", "distractors")
RANKS = (1, 10)
LARGEST = 10**6


def measure_megaface(
    model: Model,
    root: Path | str,
    *,
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RatesResult:
    """Identification rates at 10, 100, ... distractors, up to a million or all there are, drawn once for all.

    Args:
        model: under test.
        root: holds both folders of crops; they may also be called ``probes`` and ``distractors``.
        draws: how often permutations are drawn anew.
        flip: embed mirror images too.
        batch_size: images at a time.
        cache: folder where embeddings are kept.
        progress: called with the embeddings done and those to do.

    Raises:
        MinusfaceError: a missing or empty folder, no person with two images, an unreadable image.
    """
    root = Path(root)
    probes, strangers = _images(root, PROBES), _images(root, DISTRACTORS)
    people = [key.split("/")[1] for key in probes]
    if len(set(people)) == len(people):
        raise MinusfaceError(f"{root}: {len(people)} probes, no two of one person")
    # Neighbours in a folder are of one album: the first ten, or thousand, are to be a crowd.
    order = np.random.default_rng(0).permutation(len(strangers))
    strangers = [strangers[at] for at in order]
    keys = [*probes, *strangers]
    sha = files_fingerprint(root, keys)
    rows_rnd = embed_images(
        model.embedder,
        folder_reader(root, model.size),
        keys,
        draws=draws,
        flip=flip,
        batch_size=batch_size,
        progress=progress,
        cache=None if cache is None else Cache(cache, model.fingerprint, sha),
    )
    sizes = sizes_up_to(len(strangers))
    found: list[Rates] = []
    for rows_nd in rows_rnd.numpy():
        curve = against_distractors(
            rows_nd[: len(probes)], np.array(people), rows_nd[len(probes) :], sizes, RANKS
        )
        found.append(
            {
                f"rank-{rank}@{size:,}": float(curve.rates[i, j])
                for j, rank in enumerate(RANKS)
                for i, size in enumerate(sizes)
            }
        )
    counts = {"probes": len(probes), "people": len(set(people)), "distractors": len(strangers)}
    return over_draws(f"{model.name}, megaface", counts, found)


def sizes_up_to(count: int) -> list[int]:
    """10, 100, ... up to a million, and the count itself where it is not one of them and below."""
    powers = [10**n for n in range(1, 7) if 10**n <= count]
    return powers if powers and powers[-1] in (count, LARGEST) else [*powers, count]


def _images(root: Path, names: tuple[str, ...]) -> list[str]:
    """Paths below the root of the images in the first of these folders that is there, in order."""
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        raise MinusfaceError(f"{root}: no folder {' or '.join(names)} in it")
    noise = root / f"{names[0].removesuffix('_images')}_noises.txt"
    left_out = _listed(noise) if noise.is_file() else set()
    found = [
        path.relative_to(root).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    kept = [
        key
        for key in found
        if key.partition("/")[2] not in left_out and key.rpartition("/")[2] not in left_out
    ]
    if not kept:
        raise MinusfaceError(f"{folder}: no images in it")
    if names is PROBES and any(key.count("/") < 2 for key in kept):
        raise MinusfaceError(f"{folder}: images outside of a person's folder")
    return kept


def _listed(path: Path) -> set[str]:
    """A name or path a line; blanks are parts of names."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise MinusfaceError(
            f"{path}: not a list of images to leave out (no UTF-8 text)"
        ) from error
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    return {line.strip() for line in lines} - {""}
