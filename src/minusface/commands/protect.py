"""``minusface protect``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from minusface.config import Precision

if TYPE_CHECKING:
    from minusface.protect import Protector
    from minusface.types import UInt8


def protect(
    inputs: list[str],
    out: str,
    checkpoint: str | None = None,
    seed: int | None = None,
    secret_file: str | None = None,
    all_faces: bool = False,
    tries: int = 8,
    precision: Precision = "float32",
    json: bool = False,
) -> int:
    """Turn photos or crops into protected images, one lossless PNG each.

    Images of exactly the model's size (112x112) are taken as aligned crops, others are searched for the
    largest, most central face. Each is shuffled anew from the operating system's entropy, in several ways,
    of which the one is kept that shows least of the face's outlines; or with --secret-file in orders that the
    secret and the crop decide. The permutation is not kept. Inputs that
    fail are listed on stderr; the others are written, and the exit code is 2.

    No file that was there before is replaced: called again, NAME.png is left where it would be the same
    again (with --secret-file or --seed), else NAME_2.png is written beside it.

    Args:
        inputs: photos, crops or folders of them.
        out: folder for the PNGs, named as their inputs; a second of a name becomes NAME_2. Not inside a
            folder of inputs.
        checkpoint: a stage-1 or stage-2 checkpoint or run folder; by default the packaged weights.
        seed: draw permutations from this seed and the output's name (as in an empty folder): for
            experiments, not for protection.
        secret_file: derive each permutation from this file's secret (16 bytes or more) and the crop: a photo
            sent often then always gives the same image, so that nothing can be averaged; but anybody sees
            which images are of one photo. Keep the file on the client.
        all_faces: protect every face of a photo, as NAME_face1 and so on.
        tries: so many permutations are tried; 1 is the method of the paper.
        precision: of the generator: float32; bfloat16 for its convolutions; or auto, bfloat16 where the
            processor multiplies it itself. Images of both are alike, but not to the bit.
        json: print what was written, and what failed, as JSON.
    """
    import json as jsons
    import sys

    from minusface.devices import imitated
    from minusface.errors import MinusfaceError
    from minusface.memory import keep_freed_memory
    from minusface.progress import bar
    from minusface.protect import Protector
    from minusface.protect.choice import check_tries
    from minusface.protect.secret import read_secret
    from minusface.weights import resolve

    _check_places(inputs, out)
    keep_freed_memory()
    for line in imitated(precision, "cpu"):
        print(f"minusface: warning: {line}", file=sys.stderr)
    protector = Protector.load(resolve(checkpoint), precision=precision)
    files, failed = _files(inputs)
    if seed is not None and secret_file is not None:
        raise MinusfaceError("--seed and --secret-file: both decide the permutation, expected one")
    secret = None if secret_file is None else read_secret(secret_file)
    if seed is not None:
        print(
            "minusface: warning: --seed makes permutations repeatable: for experiments only",
            file=sys.stderr,
        )
    run = _Run(protector, Path(out), seed, secret, all_faces, check_tries(tries), files)
    with bar("protecting", len(files)) as advance:
        for file in files:
            failed += run.protect(file)
            advance(1)
    for message in failed:
        print(f"minusface: {message}", file=sys.stderr)
    if json:
        print(jsons.dumps({"written": run.written, "failed": failed}, indent=1))
    else:
        for made in run.written:
            print(f"{made['input']} -> {made['output']}")
        print(f"{len(run.written)} protected" + (f", {len(failed)} failed" if failed else ""))
        if run.written:
            print(f"next: minusface inspect {run.written[0]['output']}")
    return 2 if failed else 0


def _check_places(inputs: list[str], out: str) -> None:
    """Refuse no path at all, and protected images among the photos: called again, it would take them too."""
    from minusface.errors import MinusfaceError

    if not out:
        raise MinusfaceError("--out: an empty path, expected a folder")
    for given in inputs:
        if not given:
            raise MinusfaceError("an empty path, expected a photo, a crop or a folder of them")
        if Path(given).is_dir() and Path(out).resolve().is_relative_to(Path(given).resolve()):
            raise MinusfaceError(
                f"{out}: lies inside {given}, expected a folder outside of the photos"
            )


def _files(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """The image files meant, each once, and what is wrong with the other inputs."""
    from minusface.errors import MinusfaceError
    from minusface.faces import list_photos

    files: dict[Path, Path] = {}
    failed: list[str] = []
    for given in inputs:
        try:
            for file in list_photos([given]):
                files.setdefault(file.resolve(), file)
        except MinusfaceError as error:
            failed.append(str(error))
    return list(files.values()), failed


class _Run:
    """Protecting one file after the other, each output under a name of its own."""

    def __init__(
        self,
        protector: Protector,
        out: Path,
        seed: int | None,
        secret: bytes | None,
        all_faces: bool,
        tries: int,
        files: list[Path],
    ) -> None:
        self.protector, self.out, self.seed, self.all_faces = protector, out, seed, all_faces
        self.secret, self.tries = secret, tries
        self.written: list[dict[str, str]] = []
        # An output never replaces an input: `minusface protect me.png --out .` keeps the photo.
        self.taken = {_key(file) for file in files}
        self.used: set[str] = set()

    def protect(self, file: Path) -> list[str]:
        """Protect a file's faces; returns what went wrong, a line each.

        Raises:
            MinusfaceError: an output cannot be written, so that going on makes no sense.
        """
        from minusface.errors import MinusfaceError
        from minusface.faces import crops_from_files

        size = self.protector.codec_config.size
        try:
            crops = list(crops_from_files([file], size=size, all_faces=self.all_faces))
        except MinusfaceError as error:
            return [str(error)]
        for name, crop in crops:
            places = self._places(name)
            path = next(places)
            data = self._png(path.stem, crop)
            while _key(path) in self.used or not _is_there(path, data):
                path = next(places)
            self.used.add(_key(path))
            self.written.append({"input": str(file), "output": str(path)})
        return []

    def _png(self, name: str, crop: UInt8) -> bytes:
        import torch

        from minusface.protect import permutation_of_key
        from minusface.protect.secret import permutation_from_secret
        from minusface.types import FaceCrop

        order = None
        total, channels = self.protector.n_duplicate * self.tries, self.protector.codec.channels
        if self.secret is not None:
            order = permutation_from_secret(self.secret, FaceCrop.from_uint8(crop), channels, total)
        elif self.seed is not None:
            orders = [
                permutation_of_key([f"{name}#{i}"], channels, self.seed) for i in range(total)
            ]
            order = torch.stack(orders, 1)
        made = self.protector.protect(FaceCrop.from_uint8(crop), order, tries=self.tries)
        return made.to_png()[0]

    def _places(self, name: str) -> Iterator[Path]:
        """Where an image may go: as in an empty folder, then on from there.

        There, a.jpg and sub/a.jpg become a.png and a_2.png, whatever other runs left.
        """
        names = (name if number == 1 else f"{name}_{number}" for number in count(1))
        paths = (self.out / f"{one}.png" for one in names)
        first = next(path for path in paths if _key(path) not in self.taken)
        self.taken.add(_key(first))
        yield first
        yield from paths


def _key(path: Path) -> str:
    """The same for all spellings of a path."""
    return str(path.resolve()).casefold()


def _is_there(path: Path, data: bytes) -> bool:
    """Whether a file holds the data, written now or there before; False where it holds other data."""
    from minusface.files import write_new

    if not os.path.lexists(path) and write_new(path, data):
        return True
    try:
        return path.is_file() and path.read_bytes() == data
    except OSError:
        return False
