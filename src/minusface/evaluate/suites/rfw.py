"""RFW, Racial Faces in the Wild: four groups of 6,000 pairs, and how far they differ."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minusface.errors import MinusfaceError
from minusface.evaluate.embedding import PairEmbedder
from minusface.evaluate.suites.binfile import BinPairs, read_bin
from minusface.evaluate.verification import VerificationResult, evaluate_pairs

GROUPS = ("African", "Asian", "Caucasian", "Indian")


@dataclass(frozen=True)
class GroupSpread:
    """Accuracy over groups; parts of one."""

    groups: Mapping[str, float]
    """Accuracy of each."""
    mean: float
    std: float
    """Over the groups as they are: divided by their number, as published tables do."""
    worst: str
    """The group of least accuracy; of equal ones the first."""
    skew: float | None
    """Skewed error ratio: greatest error over least; None where a group has no error."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return vars(self) | {"groups": dict(self.groups)}


def read_rfw(folder: Path | str, size: int = 112) -> dict[str, BinPairs]:
    """The four groups of a folder of ``<Race>_test.bin``.

    Raises:
        MinusfaceError: no such folder, a group that is missing, or as :func:`read_bin`.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MinusfaceError(f"{root}: no such folder, expected RFW's four <Race>_test.bin in it")
    missing = [group for group in GROUPS if not (root / f"{group}_test.bin").is_file()]
    if missing:
        raise MinusfaceError(
            f"{root}: without {', '.join(f'{group}_test.bin' for group in missing)}, "
            "expected RFW's four groups"
        )
    return {group: read_bin(root / f"{group}_test.bin", size) for group in GROUPS}


def group_spread(accuracies: Mapping[str, float]) -> GroupSpread:
    """Mean, deviation and worst of some groups' accuracies.

    Raises:
        MinusfaceError: fewer than two groups, or an accuracy outside [0, 1].
    """
    values = list(accuracies.values())
    if len(values) < 2:
        raise MinusfaceError(f"{len(values)} group, expected two or more to compare")
    for group, value in accuracies.items():
        if not 0 <= value <= 1:
            raise MinusfaceError(f"{group}: accuracy {value}, expected a part of one")
    errors = [1 - value for value in values]
    return GroupSpread(
        groups=dict(accuracies),
        mean=statistics.fmean(values),
        std=statistics.pstdev(values),
        worst=min(accuracies, key=lambda group: accuracies[group]),
        skew=max(errors) / min(errors) if min(errors) > 0 else None,
    )


def evaluate_rfw(
    embedder: PairEmbedder,
    groups: Mapping[str, BinPairs],
    *,
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, VerificationResult], GroupSpread]:
    """Verify each group by itself, with thresholds of its own (the published protocol), and compare them.

    Args:
        embedder: the model.
        groups: of :func:`read_rfw`.
        draws: how often all permutations are drawn anew.
        flip: embed the mirror images too.
        batch_size: images embedded at a time.
        progress: called with the group, the embeddings done in it and those to do.

    Raises:
        MinusfaceError: as :func:`evaluate_pairs` and :func:`group_spread`.
    """
    results = {}
    for group, held in groups.items():

        def report(done: int, total: int, group: str = group) -> None:
            if progress is not None:
                progress(group, done, total)

        results[group] = evaluate_pairs(
            embedder,
            held.read,
            held.pairs,
            draws=draws,
            flip=flip,
            batch_size=batch_size,
            progress=report,
            name=group,
        )
    return results, group_spread({group: one.accuracy for group, one in results.items()})
