"""``minusface migrate``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from minusface.evaluate import VerificationResult


def migrate(
    teacher: str,
    out: str | None = None,
    checkpoint: str | None = None,
    pairs: str | None = None,
    faces: str | None = None,
    draws: int = 5,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Turn a gallery that the teacher made from photos into one that protected probes are compared with.

    A model distilled from a teacher embeds protected images where the teacher embeds photos, less a mean that
    its card keeps. The photos are not needed again. With pairs, verification across the two is measured.

    Args:
        teacher: an .npz of the teacher's raw embeddings: names (N,), plain (N, D), flipped (N, D). The name's
            folder is the person.
        out: another .npz, to write: keys, people and unit templates, for minusface index import.
        checkpoint: a distilled stage-2 checkpoint or run folder; by default the packaged weights.
        pairs: a list of pairs to measure on; the first of each is the probe.
        faces: the face folder that the pairs name.
        draws: how often probes are shuffled anew.
        seed: of the permutations.
        json: print the outcome as JSON.
    """
    import json as jsons
    from pathlib import Path

    from minusface.checkpoint import load_card
    from minusface.errors import MinusfaceError
    from minusface.evaluate import markdown_table
    from minusface.recognize import Recognizer
    from minusface.recognize.migrate import centre_of, from_teacher
    from minusface.recognize.teachers import read_teacher
    from minusface.weights import resolve

    if out is None and pairs is None:
        raise MinusfaceError("nothing to do: expected --out FILE, --pairs and --faces, or both")
    if (pairs is None) != (faces is None):
        raise MinusfaceError("--pairs and --faces go together: a list and the face folder it names")
    if out is not None and Path(out).resolve() == Path(teacher).resolve():
        raise MinusfaceError(f"{out}: is the teacher's file itself, expected another --out")
    folder = resolve(checkpoint)
    card = load_card(folder)
    names, plain, *_ = read_teacher(Path(teacher))
    rows = from_teacher(plain, centre_of(card, str(folder)), Recognizer.load(folder).cohort).vectors
    measured = (
        [] if faces is None else _measure(folder, names, rows, str(pairs), faces, draws, seed)
    )
    if out is not None:
        _write(Path(out), names, rows)
    if json:
        told = {"templates": len(names), "out": out, "measured": [m.to_dict() for m in measured]}
        print(jsons.dumps(told, indent=1))
        return 0
    if measured:
        print(markdown_table(measured), end="")
    if out is not None:
        print(f"{out}: {len(names):,} templates; they are biometric data")
        print(f"next: minusface index import {shlex.quote(out)} --help")
    return 0


def _measure(
    folder: Path,
    names: Sequence[str],
    rows: Tensor,
    pairs: str,
    faces: str,
    draws: int,
    seed: int,
) -> list[VerificationResult]:
    from minusface.errors import MinusfaceError
    from minusface.evaluate import read_pairs
    from minusface.evaluate.migration import evaluate_migration
    from minusface.evaluate.models import load_model
    from minusface.memory import keep_freed_memory
    from minusface.progress import bar_of

    keep_freed_memory()
    listed = read_pairs(pairs, faces)
    places = {name: place for place, name in enumerate(names)}
    missing = next((key for key in listed.keys if key not in places), None)
    if missing is not None:
        raise MinusfaceError(f"{missing}: in the pairs, but not among the teacher's {len(names)}")
    model = load_model(folder, seed=seed, eight_bits=True)
    gallery = rows[[places[key] for key in listed.keys]]
    count = draws if model.draws_matter else 1
    with bar_of("probes", count * len(listed.keys)) as progress:
        return evaluate_migration(
            model.embedder, gallery, faces, listed, draws=count, progress=progress
        )


def _write(path: Path, names: Sequence[str], rows: Tensor) -> None:
    """keys (N,), people (N,), templates (N, D) float32."""
    import io

    import numpy as np

    from minusface.files import write_atomically

    people = [name.rsplit("/", 1)[0] for name in names]
    data = io.BytesIO()
    np.savez(data, keys=np.array(names), people=np.array(people), templates=rows.numpy())
    write_atomically(path, data.getvalue(), mode=0o600)
