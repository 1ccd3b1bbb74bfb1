"""Teachers and the distillation loss."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minusface.errors import MinusfaceError
from minusface.recognize.distill import DistillLoss
from minusface.recognize.teachers import OnnxTeacher, TeacherFile, load_teacher

NAMES = ["Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg", "Cy/Cy_0001.jpg"]
PLAIN = np.array([[1.0, 5.0], [3.0, 5.0], [9.0, 9.0]], np.float16)
FLIPPED = np.array([[1.0, 3.0], [3.0, 3.0], [0.0, 8.0]], np.float16)


def teacher_file(folder: Path, **arrays: Any) -> Path:
    path = folder / "teacher.npz"
    np.savez(path, **{"names": NAMES, "plain": PLAIN, "flipped": FLIPPED, **arrays})
    return path


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: a varint, or something with a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def flatten_model(batch: int | str, shape: tuple[int, int, int], pixels: str = "pixels") -> bytes:
    """An ONNX model that only flattens: the smallest thing with an image in and a vector out."""

    def tensor(name: str, sizes: tuple[int | str, ...]) -> bytes:
        dims = b"".join(field(1, field(1 if isinstance(s, int) else 2, s)) for s in sizes)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))

    node = field(1, pixels) + field(2, "vector") + field(4, "Flatten")
    graph = field(1, node) + field(2, "flatten") + field(11, tensor(pixels, (batch, *shape)))
    graph += field(12, tensor("vector", (batch, shape[0] * shape[1] * shape[2])))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_file_is_centred_and_of_unit_length(tmp_path: Path) -> None:
    teacher = TeacherFile.load(teacher_file(tmp_path), keys=NAMES[:2])  # centre (2, 4)
    plain, flipped = teacher.lookup([NAMES[1], NAMES[0]])
    root = 0.5**0.5
    torch.testing.assert_close(plain, torch.tensor([[root, root], [-root, root]]))
    torch.testing.assert_close(flipped, torch.tensor([[root, -root], [-root, -root]]))
    assert plain.dtype == torch.float32
    assert teacher.size == 2
    third = teacher.lookup(NAMES[2:])[0]
    torch.testing.assert_close(third, torch.tensor([[7.0, 5.0]]) / 74**0.5)


def test_a_stated_centre_is_taken_off_in_place_of_the_mean(tmp_path: Path) -> None:
    teacher = TeacherFile.load(teacher_file(tmp_path, centre=np.float32([1.0, 2.0])), NAMES[:2])
    expected = torch.from_numpy(PLAIN.astype(np.float64) - [1.0, 2.0]).float()
    plain, _ = teacher.lookup(NAMES)
    torch.testing.assert_close(plain, torch.nn.functional.normalize(expected, dim=1))
    assert teacher.centre is not None
    assert teacher.centre.tolist() == [1.0, 2.0]


def test_file_targets_follow_the_mask(tmp_path: Path) -> None:
    teacher = load_teacher(teacher_file(tmp_path))
    assert isinstance(teacher, TeacherFile)
    plain, flipped = teacher.lookup(NAMES)
    found = teacher.targets(NAMES, torch.zeros(3, 3, 8, 8), torch.tensor([False, True, False]))
    assert torch.equal(found, torch.stack([plain[0], flipped[1], plain[2]]))


def test_file_refusals(tmp_path: Path) -> None:
    teacher = TeacherFile.load(teacher_file(tmp_path))
    with pytest.raises(MinusfaceError, match=r"'Dee/Dee_0001\.jpg'"):
        teacher.lookup([NAMES[0], "Dee/Dee_0001.jpg"])
    with pytest.raises(MinusfaceError, match="'nobody'"):
        TeacherFile.load(teacher_file(tmp_path), keys=["nobody"])
    with pytest.raises(MinusfaceError, match="no keys"):
        TeacherFile.load(teacher_file(tmp_path), keys=[])
    bad: list[tuple[str, dict[str, Any]]] = [
        ("twice", {"names": [NAMES[0]] * 3}),
        (r"expected strings \(N,\)", {"names": NAMES[:2]}),
        (r"expected strings \(N,\)", {"flipped": FLIPPED[:, :1]}),
        (r"expected strings \(N,\)", {"names": [1, 2, 3]}),
        ("expected floats", {"plain": PLAIN.astype(np.int32)}),
        ("NaN", {"plain": PLAIN * np.float16(np.nan)}),
        (r"centre \(3,\), expected \(2,\)", {"centre": np.zeros(3)}),
        ("NaN", {"centre": np.float32([0, np.nan])}),
        ("not an .npz of plain arrays", {"names": np.array(NAMES, object)}),
    ]
    for match, arrays in bad:
        with pytest.raises(MinusfaceError, match=match):
            TeacherFile.load(teacher_file(tmp_path, **arrays))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="cannot read"):
        TeacherFile.load(tmp_path / "none.npz")
    whole = teacher_file(tmp_path).read_bytes()
    for number, data in enumerate([b"", b"noise", whole[: len(whole) // 2]]):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(data)
        with pytest.raises(MinusfaceError, match=r"not an \.npz"):
            TeacherFile.load(path)
    np.savez(tmp_path / "part.npz", names=NAMES, plain=PLAIN)
    with pytest.raises(MinusfaceError, match="flipped"):
        TeacherFile.load(tmp_path / "part.npz")
    np.save(tmp_path / "one.npy", PLAIN)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(MinusfaceError, match=r"not an \.npz"):
        TeacherFile.load(tmp_path / "one.npz")
    with pytest.raises(MinusfaceError, match=r"a teacher is an \.npz or \.onnx"):
        load_teacher(tmp_path / "teacher.pt")


def test_real_teacher_tells_people_apart(shared: Path) -> None:
    names = [
        f"{person}/{person}_{number:04d}.jpg"
        for person in ("George_W_Bush", "Tony_Blair", "Serena_Williams")
        for number in range(1, 11)
    ]
    teacher = TeacherFile.load(shared / "faces" / "lfw-teacher-dlib.npz")
    plain, flipped = teacher.lookup(names)
    torch.testing.assert_close(plain.norm(dim=1), torch.ones(30))
    cosines = (plain @ flipped.T).unflatten(0, (3, 10)).unflatten(2, (3, 10)).mean((1, 3))
    assert float(cosines.diagonal().min()) > 0.5
    assert float(cosines[~torch.eye(3, dtype=torch.bool)].max()) < 0.3


@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_onnx_teacher_sees_the_crops(tmp_path: Path, batch: int | str) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "teacher.onnx"
    path.write_bytes(flatten_model(batch, (3, 4, 4)))
    teacher = load_teacher(path)
    assert isinstance(teacher, OnnxTeacher)
    assert teacher.size == 48
    crops = torch.randn(3, 3, 4, 4).clamp(-1, 1)
    found = teacher.targets(["a", "b", "c"], crops, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(found, nn.functional.normalize(crops.flatten(1), dim=1))
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    found = teacher.targets(["a"], white, torch.zeros(1, dtype=torch.bool))
    torch.testing.assert_close(found, torch.full((1, 48), 48**-0.5))
    path.write_bytes(flatten_model(batch, (3, 4, 4), "protected"))
    with pytest.raises(MinusfaceError, match="reads protected images"):
        load_teacher(path)
    with pytest.raises(MinusfaceError, match=r"expected .*4, 4"):
        teacher.targets(["a"], torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.bool))


def test_each_process_asks_the_teacher_on_its_own_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "teacher.onnx"
    path.write_bytes(flatten_model("N", (3, 4, 4)))
    real, asked = onnxruntime.InferenceSession, []

    def session(file: str, providers: list[Any]) -> Any:
        asked.append(providers)
        return real(file, providers=["CPUExecutionProvider"])

    here = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: here)
    for local in (None, "0", "3"):
        if local is None:
            monkeypatch.delenv("LOCAL_RANK", raising=False)
        else:
            monkeypatch.setenv("LOCAL_RANK", local)
        OnnxTeacher(path)
        own = {"device_id": int(local or 0)}
        assert asked.pop() == [("CUDAExecutionProvider", own), "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: here[2:])
    OnnxTeacher(path)
    assert asked.pop() == ["CPUExecutionProvider"]


def test_onnx_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"noise")
    with pytest.raises(MinusfaceError, match="not a usable ONNX model") as caught:
        OnnxTeacher(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(MinusfaceError, match="no such file"):
        OnnxTeacher(tmp_path / "none.onnx")
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MinusfaceError, match=r"minusface\[teacher\]"):
        OnnxTeacher(path)


def test_loss_is_zero_where_directions_agree() -> None:
    loss = DistillLoss(16, 16, 2.0)
    assert not list(loss.parameters())
    targets = torch.randn(6, 16)
    found = loss(targets * 7.0, targets)
    assert [abs(float(v)) < 1e-6 for v in found] == [True] * 3


def test_both_terms_are_about_one_for_an_unrelated_student() -> None:
    generator = torch.Generator().manual_seed(0)
    # Orthogonal rows: unrelated to one another; the targets have an identity structure of their own.
    student = torch.eye(64)
    people = torch.randn(16, 64, generator=generator).repeat_interleave(4, 0)
    targets = people + 0.3 * torch.randn(64, 64, generator=generator)
    found = DistillLoss(64, 64, 0.5)(student, targets)
    assert float(found.cosine) == pytest.approx(1.0, abs=0.1)
    assert float(found.pairwise) == pytest.approx(1.0, abs=0.01)
    assert float(found.total) == pytest.approx(float(found.cosine) + 0.5 * float(found.pairwise))


def test_pairwise_term_sees_only_the_geometry_within_the_batch() -> None:
    targets = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))[0]
    found = DistillLoss(16, 16)(targets @ rotation, targets)
    assert float(found.pairwise) < 1e-6
    assert float(found.cosine) > 0.5


def test_projection_appears_only_for_other_sizes_and_learns() -> None:
    loss = DistillLoss(12, 8)
    assert [tuple(p.shape) for p in loss.parameters()] == [(8, 12)]
    embeddings = torch.randn(5, 12, requires_grad=True)
    targets = torch.randn(5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(embeddings.bfloat16(), targets)
    found.total.backward()
    assert found.total.dtype == torch.float32
    assert embeddings.grad is not None
    assert all(p.grad is not None for p in loss.parameters())
    assert targets.grad is None


def test_one_sample_has_no_pairs() -> None:
    embeddings = torch.randn(1, 8, requires_grad=True)
    found = DistillLoss(8, 8)(embeddings, torch.randn(1, 8))
    assert found.pairwise.item() == 0.0
    found.total.backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())
