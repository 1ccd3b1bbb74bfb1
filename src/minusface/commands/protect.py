"""``minusface protect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def protect(
    inputs: list[str],
    out: str,
    checkpoint: str | None = None,
    seed: int | None = None,
    all_faces: bool = False,
    json: bool = False,
) -> int:
    """Turn photos or crops into protected images, one lossless PNG each.

    IN... are photos, aligned crops of exactly the model's size (112x112), or folders of either. In photos
    the largest, most central face is taken. Each image is shuffled anew from the operating system's
    entropy; the permutation is not kept. Inputs that fail are listed and the exit code is 2.

    Args:
        inputs: photos, crops or folders.
        out: folder for the PNGs.
        checkpoint: a stage-1 or stage-2 checkpoint; by default the packaged weights.
        seed: draw permutations from this seed and the file's name, for experiments only.
        all_faces: protect every face of a photo.
        json: print what was written as JSON.
    """
    import json as jsons
    import sys

    from minusface.errors import MinusfaceError
    from minusface.faces import list_photos
    from minusface.memory import keep_freed_memory
    from minusface.progress import bar
    from minusface.protect import Protector
    from minusface.weights import resolve

    keep_freed_memory()
    protector = Protector.load(resolve(checkpoint))
    files = list_photos(inputs)
    if seed is not None:
        print(
            "minusface: --seed makes permutations repeatable: for experiments only", file=sys.stderr
        )
    written: list[str] = []
    failed: list[str] = []
    taken: set[str] = set()
    with bar("protecting", len(files)) as advance:
        for file in files:
            try:
                written += _one(file, protector, Path(out), seed, all_faces, taken)
            except MinusfaceError as error:
                failed.append(str(error))
            advance(1)
    for message in failed:
        print(f"minusface: {message}", file=sys.stderr)
    if json:
        print(jsons.dumps({"written": written, "failed": failed}, indent=1))
    else:
        print(
            f"{len(written)} protected images in {out}"
            + (f", {len(failed)} failed" if failed else "")
        )
        if written:
            print(f"next: minusface inspect {written[0]}")
    return 2 if failed else 0


def _one(
    file: Path, protector: Any, out: Path, seed: int | None, all_faces: bool, taken: set[str]
) -> list[str]:
    """Protect one file's faces; returns the paths written."""
    import torch

    from minusface.checkpoint import write_atomically
    from minusface.faces import crops_from_files
    from minusface.protect import permutation_of_key
    from minusface.types import FaceCrop

    size, copies, channels = (
        protector.codec_config.size,
        protector.n_duplicate,
        protector.codec.channels,
    )
    written = []
    for name, crop in crops_from_files([file], size=size, all_faces=all_faces):
        order = None
        if seed is not None:
            orders = [permutation_of_key([f"{name}#{i}"], channels, seed) for i in range(copies)]
            order = torch.stack(orders, 1)
        png = protector.protect(FaceCrop.from_uint8(crop), order).to_png()[0]
        path = out / f"{_free(name, taken)}.png"
        write_atomically(path, png)
        written.append(str(path))
    return written


def _free(name: str, taken: set[str]) -> str:
    """A name not yet used: a.jpg and sub/a.jpg become a and a_2."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free
