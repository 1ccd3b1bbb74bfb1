"""What a dataset holds: people, images, sizes, what cannot be read, what is there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minusface.data.dataset import FaceDataset
from minusface.data.folder import decode_image
from minusface.errors import MinusfaceError

SAMPLE = 1000
LISTED = 20


@dataclass
class Survey:
    """What was found."""

    name: str
    people: int
    images: int
    per_person: dict[str, float]
    looked_at: int
    """Images that were decoded."""
    sizes: dict[str, int] = field(default_factory=dict)
    """``WIDTHxHEIGHT`` to how many of those looked at."""
    unreadable: list[str] = field(default_factory=list)
    """Reasons, each naming its image."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """(key, earlier key) of equal bytes."""
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For tables and JSON; long lists are cut."""

        def cut(entries: list[str]) -> list[str]:
            more = len(entries) - LISTED
            return entries[:LISTED] + ([f"and {more:,} more"] if more > 0 else [])

        return {
            "data": self.name,
            "people": self.people,
            "images": self.images,
            "a person": self.per_person,
            "decoded": f"{self.looked_at:,} of {self.images:,}"
            + ("" if self.looked_at == self.images else " (--all for each)"),
            "sizes": self.sizes,
            "unreadable": cut(self.unreadable),
            "duplicates": cut([f"{a} is {b}" for a, b in self.duplicates]),
            "fingerprint": self.fingerprint,
        }


def survey(
    dataset: FaceDataset,
    *,
    everything: bool = False,
    advance: Callable[[int], None] = lambda some: None,
) -> Survey:
    """Count and look.

    Args:
        dataset: any; where it offers ``labels`` and ``encoded`` no image is decoded twice.
        everything: decode every image, not a thousand spread over all.
        advance: called with the images passed.
    """
    step = 1 if everything else max(1, -(-len(dataset) // SAMPLE))
    chosen = range(0, len(dataset), step)
    found = Survey(dataset.name, dataset.classes, len(dataset), {}, len(chosen))
    sizes: Counter[str] = Counter()
    seen: dict[bytes, str] = {}
    for index in chosen:
        advance(step)
        try:
            key, shape, digest = _look(dataset, index)
        except MinusfaceError as error:
            found.unreadable.append(str(error))
            continue
        sizes[f"{shape[1]}x{shape[0]}"] += 1
        if digest in seen:
            found.duplicates.append((key, seen[digest]))
        seen.setdefault(digest, key)
    found.sizes = dict(sizes.most_common(LISTED))
    found.per_person = _per_person(dataset)
    found.fingerprint = dataset.fingerprint()
    return found


def _look(dataset: Any, index: int) -> tuple[str, tuple[int, ...], bytes]:
    """Key, shape and digest of an image of whatever size."""
    if hasattr(dataset, "encoded"):
        key, data = dataset.key(index), dataset.encoded(index)
        shape = decode_image(data, f"{dataset.name}, {key}").shape
    else:
        image, _, key = dataset[index]
        data, shape = image.tobytes(), image.shape
    return key, shape, hashlib.blake2b(data, digest_size=16).digest()


def _per_person(dataset: Any) -> dict[str, float]:
    labels = getattr(dataset, "labels", None)
    if labels is None:
        return {}
    counts = np.bincount(labels, minlength=dataset.classes)
    return {
        "least": int(counts.min()),
        "median": float(np.median(counts)),
        "most": int(counts.max()),
        "with one image": int((counts == 1).sum()),
    }
