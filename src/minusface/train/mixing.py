"""A face folder grown by faces that nobody has, and the teacher's file of all of them.

Legend: K images, D embedding, N side of a crop in pixels.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from minusface.data import FolderDataset
from minusface.errors import MinusfaceError
from minusface.files import check_writable, write_atomically
from minusface.recognize.teachers import Float64, read_teacher
from minusface.train.augment import to_crops
from minusface.train.mix import ALONE, mixed
from minusface.train.teach import BATCH, Network, descriptors, stacked, write_teacher

# Faces of a folder: what is written at a time, and what a stopped run does again.
CHUNK = 1000
FACES, TEACHER, PARTS, SETTINGS = "faces", "teacher.npz", ".parts", "settings.json"
MADE = "mixed-"
QUALITY = 95

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Grown:
    """What was made."""

    photos: int
    mixed: int
    resumed: int
    """Faces that an earlier run had made."""


class Mixing:
    """Photos and mixtures of them in ``out/faces``, the teacher's embeddings in ``out/teacher.npz``.

    A photo's embedding is the mean of the photo's and its mirror image's, and so is a mixture's: both of a
    file's arrays hold it. The file states its centre, the photos' mean. A stopped run goes on.

    Args:
        photos: a folder of people.
        network: asked about every mixture.
        out: a new folder, or one that the same settings began.
        seed: the same seed makes the same faces.
        known: what the network is told from others by, as its file's SHA-256.
        alone: the part of the mixtures that are one person's, bent; of 0 every one is of two people.

    Raises:
        MinusfaceError: one person, or mixtures among the photos.
    """

    def __init__(
        self,
        photos: FolderDataset,
        network: Network,
        out: Path,
        seed: int = 0,
        known: str = "",
        alone: float = ALONE,
    ) -> None:
        self.photos, self.network, self.out, self.seed = photos, network, out, seed
        self.alone = alone
        self._settings = {"photos": photos.fingerprint(), "network": known, "seed": seed}
        if alone != ALONE:  # Folders made before there was a choice have no such key.
            self._settings["alone"] = alone
        self._rows = [np.flatnonzero(photos.labels == person) for person in range(photos.classes)]
        if len(self._rows) < 2:
            raise MinusfaceError(f"{photos.root}: one person, expected two or more to mix")
        if any(person.startswith(MADE) for person in photos.people):
            raise MinusfaceError(f"{photos.root}: holds mixtures, expected photos alone")

    def run(
        self, count: int, told: Path | str | None = None, advance: Advance = lambda _: None
    ) -> Grown:
        """Make it.

        Args:
            count: how many mixtures.
            told: a teacher's file of the photos; without one the network is asked about them, too.
            advance: called with how many images are done.

        Raises:
            MinusfaceError: ``out`` holds something else, or more; an image cannot be read or written, or a
                photo is not in the file.
        """
        self._check(count)
        check_writable(self.out / PARTS / SETTINGS)
        keys, rows, mirrored = self._of_photos(told, advance)
        settings = json.dumps({**self._settings, "count": count})
        write_atomically(self.out / PARTS / SETTINGS, settings.encode())
        self._copy()
        centre = (rows.mean(0) + mirrored.mean(0)) / 2
        all_keys, all_rows, resumed = list(keys), [(rows + mirrored) / 2], 0
        for start in range(0, count, CHUNK):
            names, part, there = self._chunk(start // CHUNK, min(CHUNK, count - start), advance)
            all_keys += names
            all_rows.append(part)
            resumed += len(names) if there else 0
        mean = np.concatenate(all_rows)
        write_teacher(self.out / TEACHER, all_keys, mean, mean, centre)
        return Grown(len(keys), count, resumed)

    def _of_photos(
        self, told: Path | str | None, advance: Advance
    ) -> tuple[list[str], Float64, Float64]:
        if told is None:
            return descriptors(self.network, self.photos, advance)
        keys, file = list(self.photos.keys()), read_teacher(Path(told))
        places = {name: row for row, name in enumerate(file.names)}
        missing = next((key for key in keys if key not in places), None)
        if missing is not None:
            raise MinusfaceError(
                f"{told}: no embedding of {missing!r} among its {len(places)} names"
            )
        chosen = [places[key] for key in keys]
        advance(len(keys))
        return keys, file.plain[chosen], file.flipped[chosen]

    def _check(self, count: int) -> None:
        """Refuse a folder of other settings, or of more mixtures than the teacher's file would tell of."""
        path = self.out / PARTS / SETTINGS
        if not path.is_file():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise MinusfaceError(f"{self.out}: holds other files, expected a new folder")
            return
        try:
            before = dict(json.loads(path.read_text()))
            most = int(before.pop("count"))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MinusfaceError(f"{path}: damaged, expected a new folder") from error
        if before != self._settings:
            raise MinusfaceError(
                f"{self.out}: made with other photos, network, seed or --alone, expected a new folder"
            )
        if count < most:
            raise MinusfaceError(f"{self.out}: begun for {most} mixtures, expected as many or more")

    def _copy(self) -> None:
        for number, key in enumerate(self.photos.keys()):
            path = self.out / FACES / key
            if not path.is_file():
                write_atomically(path, self.photos.encoded(number))

    def _chunk(self, number: int, count: int, advance: Advance) -> tuple[list[str], Float64, bool]:
        """Names (K), embeddings (K, D), and whether they were there."""
        names = [f"{MADE}{number:05d}/{place:03d}.jpg" for place in range(count)]
        kept = self.out / PARTS / f"{number:05d}.npz"
        rows = _kept(kept, count)
        if rows is not None:
            advance(count)
            return names, rows, True
        random = torch.Generator().manual_seed(_seed(self.seed, number))
        parts = []
        for start in range(0, count, BATCH):
            one, other = self._pair(random)
            made = mixed(one, other, random, self.alone)[: count - start]
            for name, image in zip(names[start:], made.permute(0, 2, 3, 1).numpy(), strict=False):
                _, data = cv2.imencode(
                    ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
                )
                write_atomically(self.out / FACES / name, data.tobytes())
            plain, mirrored = self.network.embed(to_crops(made))
            parts.append(((plain + mirrored) / 2).double().numpy())
            advance(len(made))
        rows = np.concatenate(parts)
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows)
        write_atomically(kept, buffer.getvalue(), 0o600)
        return names, rows, False

    def _drawn(self, random: torch.Generator) -> list[tuple[int, float]]:
        """Of a batch: a person each, then which of their photos, from 0 to 1."""
        people = torch.randint(len(self._rows), (BATCH,), generator=random).tolist()
        which = torch.rand(BATCH, generator=random).tolist()
        return list(zip(people, which, strict=True))

    def _pair(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two batches of photos, bytes."""
        first, second = self._drawn(random), self._drawn(random)
        if not self.alone:
            people = len(self._rows)
            second = [
                ((p + 1) % people if p == other else p, w)
                for (other, _), (p, w) in zip(first, second, strict=True)
            ]
        return self._stacked(first), self._stacked(second)

    def _stacked(self, drawn: list[tuple[int, float]]) -> Tensor:
        chosen = [self._rows[p][int(w * len(self._rows[p]))] for p, w in drawn]
        return stacked([self.photos[int(index)].image for index in chosen])


def _kept(path: Path, count: int) -> Float64 | None:
    """Embeddings of a chunk that is whole, or None."""
    try:
        with np.load(path, allow_pickle=False) as file:
            rows: Float64 = np.asarray(file["rows"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return rows if len(rows) == count else None


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
