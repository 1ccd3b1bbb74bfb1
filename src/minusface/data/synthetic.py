"""Drawn faces of made-up people: for trials and tests where no photo may or can be used."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np

from minusface.data.dataset import FaceDataset, Sample, check_index, digest
from minusface.data.identity import Identity, Look
from minusface.data.pen import SIDE
from minusface.data.portrait import draw_face
from minusface.errors import MinusfaceError

# Raised when the same numbers draw other pictures: fingerprints then differ.
VERSION = 1
# What a stream of random numbers is for, beside the seed and the numbers of person and image.
IDENTITY_STREAM, LOOK_STREAM, PAIR_STREAM = 1, 2, 3


class SyntheticFaces:
    """``people`` made-up people with ``images`` pictures each; nothing is stored, each is drawn anew.

    Image i of person p depends on (seed, p, i) alone. People of different seeds are different people;
    people of one seed are the same however many are asked for.

    Args:
        people: how many people.
        images: pictures of each.
        seed: 0 or more.
        size: side of the crops in pixels.
        strength: how much pictures of a person differ: 0 passport photos, 1 photos in the wild.

    Raises:
        MinusfaceError: a number out of range.
    """

    def __init__(
        self, people: int, images: int, seed: int, size: int = SIDE, strength: float = 1.0
    ) -> None:
        for what, number, least in (
            ("people", people, 1),
            ("images", images, 1),
            ("seed", seed, 0),
            ("size", size, 8),
        ):
            if number < least:
                raise MinusfaceError(f"synthetic faces: {what} {number}, expected {least} or more")
        if not 0 <= strength <= 1:
            raise MinusfaceError(f"synthetic faces: strength {strength}, expected 0 to 1")
        self.people = people
        self.images = images
        self.seed = seed
        self.size = size
        self.strength = strength
        self._identities: dict[int, Identity] = {}

    @property
    def name(self) -> str:
        """``synthetic-200x10-seed0``."""
        return f"synthetic-{self.people}x{self.images}-seed{self.seed}"

    @property
    def classes(self) -> int:
        """How many people."""
        return self.people

    def __len__(self) -> int:
        return self.people * self.images

    def key(self, index: int) -> str:
        """``synthetic/000012/0003``: person, image."""
        person, image = divmod(index, self.images)
        return f"synthetic/{person:06d}/{image:04d}"

    def index(self, key: str) -> int:
        """The number of a key.

        Raises:
            MinusfaceError: no key of this dataset.
        """
        parts = key.split("/")
        if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
            index = int(parts[1]) * self.images + int(parts[2])
            if index < len(self) and self.key(index) == key:
                return index
        raise MinusfaceError(f"{key!r}: not in {self.name}, expected synthetic/PERSON/IMAGE")

    def identity(self, person: int) -> Identity:
        """What person ``person`` looks like."""
        if person not in self._identities:
            stream = np.random.default_rng([self.seed, IDENTITY_STREAM, person])
            self._identities[person] = Identity.draw(stream)
        return self._identities[person]

    def __getitem__(self, index: int) -> Sample:
        """One picture, drawn: (size, size, 3) bytes, RGB."""
        person, image = divmod(check_index(index, len(self)), self.images)
        stream = np.random.default_rng([self.seed, LOOK_STREAM, person, image])
        look = Look.draw(stream, self.strength)
        return Sample(draw_face(self.identity(person), look, self.size), person, self.key(index))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the parameters."""
        numbers = (self.people, self.images, self.seed, self.size, self.strength)
        return digest([f"synthetic {VERSION} {numbers}"])


def synthetic_pairs(faces: SyntheticFaces, count: int, seed: int) -> list[tuple[str, str, bool]]:
    """Pairs of keys, all different, half of one person and half of two, in mixed order.

    Args:
        faces: whose pictures.
        count: how many pairs; an even number.
        seed: 0 or more.

    Returns:
        (key, other key, whether it is one person) each.

    Raises:
        MinusfaceError: more pairs than there are, or an odd count.
    """
    half, rest = divmod(count, 2)
    genuine = faces.people * math.comb(faces.images, 2)
    impostor = math.comb(faces.people, 2) * faces.images**2
    if count < 2 or rest or half > min(genuine, impostor):
        raise MinusfaceError(
            f"{count} pairs of {faces.name}: expected an even number from 2 to "
            f"{2 * min(genuine, impostor)}"
        )
    rng = np.random.default_rng([seed, PAIR_STREAM, faces.seed])
    found: set[tuple[int, int]] = set()
    for same in (True, False):
        wanted = half if same else count
        while len(found) < wanted:
            # A person's share of the draws is even: first the people, then the pictures.
            p = int(rng.integers(faces.people))
            q = p if same else int(rng.integers(faces.people))
            a, b = (int(i) for i in rng.integers(faces.images, size=2))
            first, second = p * faces.images + a, q * faces.images + b
            if first != second and (same or p != q):
                found.add((min(first, second), max(first, second)))
    ordered = sorted(found)
    return [
        (faces.key(a), faces.key(b), a // faces.images == b // faces.images)
        for a, b in (ordered[i] for i in rng.permutation(len(ordered)))
    ]


def export_folder(
    dataset: FaceDataset, root: Path | str, suffix: Literal[".png", ".jpg"] = ".png"
) -> None:
    """Write a dataset as a folder of people: ``root/person/image.png``.

    A key's last two parts name the folder and the file.

    Raises:
        MinusfaceError: ``root`` holds something already, or cannot be written.
    """
    root = Path(root)
    try:
        if root.exists() and any(root.iterdir()):
            raise MinusfaceError(f"{root}: holds something already, expected an empty folder")
        for index in range(len(dataset)):
            sample = dataset[index]
            key = PurePosixPath(sample.key)
            path = root / key.parent.name / (key.stem + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            encoded = cv2.imencode(suffix, cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR))[1]
            path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise MinusfaceError(f"{root}: cannot write ({error.strerror or error})") from error
