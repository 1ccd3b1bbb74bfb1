"""Teachers: where embeddings to imitate come from. No part of the paper.

Legend: B batch, N images of a file, D embedding of the teacher.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.devices import sent
from minusface.errors import MinusfaceError

Float64 = npt.NDArray[np.float64]
CUDA = "CUDAExecutionProvider"


class Teacher(Protocol):
    """Where target embeddings come from."""

    @property
    def size(self) -> int:
        """D, the length of a target."""
        ...

    def targets(self, keys: Sequence[str], crops: Tensor, flipped: Tensor) -> Tensor:
        """Unit targets (B, D), float32, on the device of ``crops``.

        Args:
            keys: (B) names of the images.
            crops: (B, 3, H, W) RGB, floats in [-1, 1] or uint8, as the student gets them: mirrored
                where ``flipped`` says so.
            flipped: (B,) bool.
        """
        ...


class TeacherFile:
    """Embeddings computed once, for every image and its mirror image, centred and of unit length.

    Args:
        names: N distinct keys.
        plain: (N, D) unit rows.
        flipped: (N, D) unit rows, of the mirrored images.
        where: what to call it in errors.
        centre: (D,) what was taken off the rows before they were scaled; None for nothing.
        known: rows of the training images; None for all.
    """

    def __init__(
        self,
        names: Sequence[str],
        plain: Tensor,
        flipped: Tensor,
        where: str,
        centre: Float64 | None = None,
        known: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.rows = {name: row for row, name in enumerate(names)}
        self.plain = plain
        self.flipped = flipped
        self.where = where
        self.centre = centre
        self._known = slice(None) if known is None else torch.from_numpy(known)

    @property
    def size(self) -> int:
        """D."""
        return int(self.plain.shape[1])

    @property
    def known(self) -> Tensor:
        """Embeddings of the training images and their mirror images: unit rows (M, D)."""
        return torch.cat([self.plain[self._known], self.flipped[self._known]])

    @classmethod
    def load(cls, path: Path | str, keys: Sequence[str] | None = None) -> TeacherFile:
        """Read an ``.npz`` with names (N,), plain (N, D), flipped (N, D) and perhaps a centre (D,).

        The centre is taken off before the rows are scaled. Where the file states none, it is the mean over
        ``keys`` (all images when None), mirrored ones included: give the training images, so that nothing of
        the test set enters.

        Raises:
            MinusfaceError: unreadable, arrays missing or of wrong shape, names twice, values that are
                not finite, or a key that is not in it.
        """
        names, plain, flipped, centre = read_teacher(Path(path))
        rows = {name: row for row, name in enumerate(names)}
        if len(rows) != len(names):
            raise MinusfaceError(f"{path}: names appear twice, expected distinct ones")
        chosen = np.arange(len(names)) if keys is None else _rows(rows, keys, str(path))
        if len(chosen) == 0:
            raise MinusfaceError(f"{path}: no keys to centre by")
        if centre is None:
            centre = (plain[chosen].mean(0) + flipped[chosen].mean(0)) / 2.0
        unit = [
            nnf.normalize(torch.from_numpy(array - centre), dim=1).to(torch.float32)
            for array in (plain, flipped)
        ]
        return cls(names, unit[0], unit[1], str(path), centre, chosen)

    def lookup(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The targets (B, D) of the images as they are and of the mirrored ones.

        Raises:
            MinusfaceError: a key is not in the file; the first such is named.
        """
        rows = torch.from_numpy(_rows(self.rows, keys, self.where))
        return self.plain[rows], self.flipped[rows]

    def targets(self, keys: Sequence[str], crops: Tensor, flipped: Tensor) -> Tensor:
        """See :class:`Teacher`; only keys and mask matter."""
        plain, mirrored = (sent(rows, crops.device) for rows in self.lookup(keys))
        return torch.where(sent(flipped, crops.device)[:, None], mirrored, plain)


def _rows(rows: dict[str, int], keys: Sequence[str], where: str) -> npt.NDArray[np.int64]:
    """Row numbers of keys."""
    try:
        return np.fromiter((rows[key] for key in keys), np.int64, len(keys))
    except KeyError as error:
        raise MinusfaceError(
            f"{where}: no embedding of {error.args[0]!r} among its {len(rows)} names"
        ) from error


class TeacherRows(NamedTuple):
    """A teacher file as it is: names (N), plain and flipped (N, D), and a centre (D,) if it states one."""

    names: list[str]
    plain: Float64
    flipped: Float64
    centre: Float64 | None


def read_teacher(path: Path) -> TeacherRows:
    """A teacher file, checked.

    Raises:
        MinusfaceError: unreadable, arrays missing or of wrong shape, or values that are not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, plain, flipped = (np.asarray(file[k]) for k in ("names", "plain", "flipped"))
            # Of images made beside photos: their own mean is another place.
            stated = "centre" in file
            centre = np.asarray(file["centre"]) if stated else plain[:0].sum(0)
    except KeyError as error:
        raise MinusfaceError(
            f"{path}: expected arrays names, plain and flipped ({error})"
        ) from error
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        # numpy advises to trust the file, which nobody should.
        reason = "pickled objects" if "pickle" in str(error) else error
        raise MinusfaceError(f"{path}: not an .npz of plain arrays ({reason})") from error
    shaped = names.ndim == 1 and plain.ndim == 2 and plain.shape == flipped.shape
    if not shaped or len(names) != len(plain) or names.dtype.kind != "U":
        raise MinusfaceError(
            f"{path}: names {names.dtype} {names.shape}, plain {plain.shape}, flipped "
            f"{flipped.shape}; expected strings (N,), (N, D), (N, D)"
        )
    if centre.shape != plain.shape[1:]:
        raise MinusfaceError(f"{path}: centre {centre.shape}, expected {plain.shape[1:]}")
    if any(array.dtype.kind != "f" for array in (plain, flipped, centre)):
        raise MinusfaceError(
            f"{path}: {plain.dtype}, {flipped.dtype} and {centre.dtype}, expected floats"
        )
    wide = [array.astype(np.float64) for array in (plain, flipped, centre)]
    if not all(bool(np.isfinite(array).all()) for array in wide):
        raise MinusfaceError(f"{path}: holds NaN or infinity")
    return TeacherRows(list(map(str, names)), wide[0], wide[1], wide[2] if stated else None)


class OnnxTeacher:
    """A face recogniser in ONNX, asked anew for every batch; its embeddings are not centred.

    The model takes (B, 3, H, W) floats in [-1, 1], RGB (the custom of InsightFace's models), and gives
    (B, D). The mask of mirrored crops is not needed: it sees the crops themselves.

    Raises:
        MinusfaceError: onnxruntime is not installed, no model of this form, or one of protected images.
    """

    def __init__(self, path: Path | str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MinusfaceError(
                'an ONNX teacher needs onnxruntime: pip install "minusface[teacher]"'
            ) from error
        self.path = str(path)
        if not Path(path).is_file():
            raise MinusfaceError(f"{path}: no such file")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                self.path, providers=_providers(onnxruntime.get_available_providers())
            )
        except Exception as error:  # onnxruntime's own errors share no public base
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MinusfaceError(f"{path}: not a usable ONNX model ({reason})") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if (
            len(inputs) != 1
            or len(inputs[0].shape) != 4
            or not isinstance(outputs[0].shape[-1], int)
        ):
            raise MinusfaceError(
                f"{path}: inputs {[i.shape for i in inputs]}, output {outputs[0].shape}; "
                "expected one image input (B, 3, H, W) and an output (B, D)"
            )
        self._input: str = inputs[0].name
        # So minusface export calls the recogniser's: of photos it would say something, and mean nothing.
        if self._input == "protected":
            raise MinusfaceError(
                f"{path}: reads protected images (minusface export), expected an embedder of crops"
            )
        self._shape: list[int | str] = inputs[0].shape
        self._size: int = outputs[0].shape[-1]

    @property
    def size(self) -> int:
        """D."""
        return self._size

    def targets(self, keys: Sequence[str], crops: Tensor, flipped: Tensor) -> Tensor:
        """See :class:`Teacher`; only the crops matter.

        Raises:
            MinusfaceError: crops of another size than the model's.
        """
        for given, wanted in zip(crops.shape[1:], self._shape[1:], strict=True):
            if isinstance(wanted, int) and given != wanted:
                raise MinusfaceError(
                    f"{self.path}: crops {tuple(crops.shape)}, expected {self._shape}"
                )
        pixels = crops.detach().to(torch.float32)
        if crops.dtype == torch.uint8:
            pixels = pixels / 127.5 - 1.0
        # Models exported with a fixed batch take no other.
        step = self._shape[0] if isinstance(self._shape[0], int) else max(1, len(crops))
        found = torch.zeros(len(crops), self._size)
        for start in range(0, len(crops), step):
            part = pixels[start : start + step]
            full = nnf.pad(part, (0, 0) * 3 + (0, step - len(part)))
            result = self._session.run(None, {self._input: full.cpu().numpy()})[0]
            found[start : start + step] = torch.from_numpy(np.array(result))[: len(part)]
        return nnf.normalize(found, dim=1).to(crops.device)


def _providers(available: Sequence[str]) -> list[Any]:
    """What a teacher is computed by: where CUDA is here, this process's own GPU.

    onnxruntime would put all processes on the first one, and TensorRT before CUDA, which builds an engine
    for minutes.
    """
    if CUDA not in available:
        return list(available)
    return [(CUDA, {"device_id": int(os.environ.get("LOCAL_RANK", "0"))}), "CPUExecutionProvider"]


def load_teacher(path: Path | str, keys: Sequence[str] | None = None) -> Teacher:
    """The teacher in a file: ``.npz`` (centred by ``keys``) or ``.onnx``.

    Raises:
        MinusfaceError: another ending, or what the two raise.
    """
    ending = Path(path).suffix.lower()
    if ending == ".npz":
        return TeacherFile.load(path, keys)
    if ending == ".onnx":
        return OnnxTeacher(path)
    raise MinusfaceError(f"{path}: a teacher is an .npz or .onnx file, not {ending or 'this'}")
