"""WebDataset shards: tar files of ``key.jpg`` and ``key.cls`` side by side.

Each tar is listed once; from then on its images are read at random, so that shuffling, going on after a
stop, and splitting over ranks and workers work as for any other dataset: nothing is lost or repeated.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np

from minusface.data.columns import check_labels
from minusface.data.folder import SUFFIXES
from minusface.data.records import Files, RecordDataset, array_digest
from minusface.data.skipping import OnError
from minusface.errors import MinusfaceError

CACHE = "MINUSFACE_CACHE"
BLOCK = 1 << 20
EXPECTED = "expected key.jpg (or another image) and key.cls or key.json with a label"


class ShardDataset(RecordDataset):
    """Images in tar shards.

    Args:
        pattern: a tar, or a pattern of them (``faces-{000..012}.tar``, several parted by ``::``); remote ones
            by their URL scheme are fetched once into ``cache``.
        size: side of every crop in pixels.
        on_error: see :class:`RecordDataset`.
        cache: folder of fetched shards; by default ``$MINUSFACE_CACHE`` or ``~/.cache/minusface``.

    Raises:
        MinusfaceError: a missing, damaged or empty shard, an image without a label, labels with holes.
    """

    def __init__(
        self,
        pattern: str,
        size: int = 112,
        on_error: OnError = "fail",
        cache: Path | str | None = None,
    ) -> None:
        paths = [_local(url, cache) for url in _expand(pattern)]
        self.files = Files(paths)
        listed = [_members(path) for path in paths]
        names = _apart(paths, [[row[0] for row in rows] for rows in listed])
        numbers = [(number, *row[1:]) for number, rows in enumerate(listed) for row in rows]
        if not numbers:
            raise MinusfaceError(f"{pattern}: no image in it, {EXPECTED}")
        table = np.array(numbers, np.int64)
        self._keys = np.array(names, np.bytes_)
        self._shard, self._offset, self._length = table[:, 0], table[:, 1], table[:, 2]
        labels = table[:, 3].astype(np.int32)
        name = paths[0].stem if len(paths) == 1 else f"{paths[0].stem} and {len(paths) - 1} more"
        super().__init__(name, labels, check_labels(labels, pattern), size, on_error)

    def key(self, index: int) -> str:
        """The sample's key: its path in the tar, without the extension.

        Where shards repeat a key, every one has its shard's name before it.
        """
        return bytes(self._keys[index]).decode("utf-8", "surrogateescape")

    def _bytes(self, index: int, key: str) -> bytes:
        where = (int(self._shard[index]), int(self._offset[index]), int(self._length[index]))
        return self.files.read(*where)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over keys, labels and sizes."""
        return array_digest(self._keys, self.labels, self._length)


def _expand(pattern: str) -> list[str]:
    """A shard pattern as a list."""
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise MinusfaceError(
            'webdataset is needed for shards: pip install "minusface[data]"'
        ) from error
    try:
        urls = expand_urls(pattern)
    except ValueError as error:
        raise MinusfaceError(
            f"{pattern}: not a pattern of shards ({error}), expected faces.tar or faces-{{000..012}}.tar"
        ) from error
    found: list[str] = []
    for url in urls:
        local = "*" in url and "://" not in url
        found += sorted(glob.glob(url)) if local else [str(url)]
    if not found:
        raise MinusfaceError(f"{pattern}: no such file")
    return found


def _apart(paths: list[Path], keys: list[list[str]]) -> list[bytes]:
    """Every sample's key; all of them behind their shard's name where shards that count alike repeat one.

    Teachers' files and lists go by keys: one key for two people would give one of them the other's place.
    """
    names = [key for shard in keys for key in shard]
    if len(set(names)) < len(names):
        # Shards of one name lie in several folders, or one shard was given twice.
        stems = [path.stem for path in paths]
        fronts = stems if len(set(stems)) == len(stems) else list(map(str, range(len(stems))))
        names = [f"{fronts[at]}/{key}" for at, shard in enumerate(keys) for key in shard]
    return [name.encode("utf-8", "surrogateescape") for name in names]


def _local(url: str, cache: Path | str | None) -> Path:
    """A shard on this machine, fetched if need be, whole or not at all."""
    if "://" not in url and not url.startswith("pipe:"):
        return Path(url)
    if url.startswith("file:"):
        return Path(url.removeprefix("file://").removeprefix("file:"))
    from webdataset.gopen import gopen

    home = Path(cache or os.environ.get(CACHE) or Path.home() / ".cache" / "minusface")
    named = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = home / "shards" / f"{named}-{Path(url.split('?')[0]).name}"
    if path.is_file():
        return path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with gopen(url) as source, open(temporary, "wb") as out:
            while block := source.read(BLOCK):
                out.write(block)
        os.replace(temporary, path)
    except Exception as error:
        # Whatever a URL scheme's program or library raises.
        temporary.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:200]
        raise MinusfaceError(f"{url}: cannot fetch ({reason or type(error).__name__})") from error
    return path


def _members(path: Path) -> list[tuple[str, int, int, int]]:
    """(key, offset, bytes, label) of the images in a tar."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                where = f"{path}, {member.name}"
                if f".{ending}".lower() in SUFFIXES:
                    if key in images:
                        raise MinusfaceError(
                            f"{where}: a second image of {key}, expected one a key"
                        )
                    images[key] = (member.offset_data, member.size)
                elif ending in ("cls", "json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    label = _label(content.read(), ending, where)
                    if labels.setdefault(key, label) != label:
                        raise MinusfaceError(
                            f"{where}: label {label} of {key}, before {labels[key]}"
                        )
    except (tarfile.TarError, EOFError) as error:
        raise MinusfaceError(f"{path}: damaged or no tar file ({error})") from error
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    size = path.stat().st_size
    for key, (offset, length) in images.items():
        if key not in labels:
            raise MinusfaceError(f"{path}, {key}: an image without a label, {EXPECTED}")
        if offset + length > size:
            raise MinusfaceError(f"{path}, {key}: the file ends within it (truncated)")
    return [(key, *place, labels[key]) for key, place in images.items()]


def _label(data: bytes, ending: str, where: str) -> int:
    try:
        value = json.loads(data)
        label = value["label"] if ending == "json" else value
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 2**31:
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise MinusfaceError(f"{where}: no label in it, expected a number from 0 on") from error
    return int(label)
