"""Nearest templates in memory, by faiss.

Few are compared one by one. With many, all are compared in 8 bits a number, which reads a quarter of the
memory, and the best of these once more in full. Graphs and inverted lists would be faster still, but
templates hardly cluster: of 200,000 random ones of 128 numbers, inverted lists still missed the nearest in 4
of 100 searches when a third of them was looked through; and a graph cannot forget.

Legend: B batch, D embedding, K templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EXACT_BELOW = 50_000
# Compared in full, for each template asked for.
SPARE = 4
LEAST_SPARE = 64
# Vectors from which the range of the 8 bits is learned; vectors copied at once.
TRAINING, PART = 50_000, 65_536


class Nearest:
    """Vectors with numbers, searched by inner product. Not to be used by two threads at once.

    Args:
        dimension: D.
        exact_below: with fewer vectors than this every one is compared in full.

    Raises:
        MinusfaceError: faiss is not installed.
    """

    def __init__(self, dimension: int, exact_below: int = EXACT_BELOW) -> None:
        try:
            import faiss
        except ImportError as error:
            raise MinusfaceError('faiss is missing: pip install "minusface[serve]"') from error
        self._faiss: Any = faiss
        self.dimension, self.exact_below = dimension, exact_below
        self._full: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self._coarse: Any = None

    def __len__(self) -> int:
        return int(self._full.ntotal)

    @property
    def exact(self) -> bool:
        """Whether every vector is compared in full."""
        return self._coarse is None

    def add(self, numbers: Ints, vectors: Floats) -> None:
        """Take in (K, D) vectors under K new numbers."""
        rows = np.ascontiguousarray(vectors, np.float32)
        self._full.add_with_ids(rows, numbers)
        if self._coarse is not None:
            self._coarse.add_with_ids(rows, numbers)
        elif len(self) >= self.exact_below:
            self._make_coarse()

    def remove(self, numbers: Iterable[int]) -> int:
        """Forget vectors; returns how many there were."""
        chosen = np.fromiter(numbers, np.int64)
        if not len(chosen):
            return 0
        if self._coarse is not None:
            self._coarse.remove_ids(chosen)
        return int(self._full.remove_ids(chosen))

    def search(self, vectors: Floats, count: int) -> tuple[Floats, Ints]:
        """Inner products and numbers of the nearest: (B, count) each, best first, -1 where there are none."""
        rows = np.ascontiguousarray(vectors, np.float32)
        if self._coarse is None:
            scores, numbers = self._full.search(rows, count)
            return scores, numbers
        _, rough = self._coarse.search(rows, min(len(self), max(SPARE * count, LEAST_SPARE)))
        scores = np.full((len(rows), count), -2.0, np.float32)
        numbers = np.full((len(rows), count), -1, np.int64)
        for place, (row, found) in enumerate(zip(rows, rough, strict=True)):
            known = found[found >= 0]
            products = self._full.reconstruct_batch(known) @ row
            best = np.argsort(-products, kind="stable")[:count]
            scores[place, : len(best)], numbers[place, : len(best)] = products[best], known[best]
        return scores, numbers

    def _make_coarse(self) -> None:
        faiss = self._faiss
        kind = faiss.ScalarQuantizer.QT_8bit_uniform
        coarse = faiss.IndexIDMap2(
            faiss.IndexScalarQuantizer(self.dimension, kind, faiss.METRIC_INNER_PRODUCT)
        )
        numbers = faiss.vector_to_array(self._full.id_map).copy()
        flat = faiss.downcast_index(self._full.index)
        every = np.arange(0, flat.ntotal, max(1, flat.ntotal // TRAINING))
        coarse.train(flat.reconstruct_batch(every))
        # A part at a time: never a second copy of all.
        for start in range(0, flat.ntotal, PART):
            some = flat.reconstruct_n(start, min(PART, flat.ntotal - start))
            coarse.add_with_ids(some, numbers[start : start + len(some)])
        self._coarse = coarse
