"""Checkpoints: round trips, crashes at every write, damage of every kind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minusface import checkpoint, files
from minusface.checkpoint import CARD, FORMAT, Card, find, load_card, load_into, load_part, save
from minusface.errors import MinusfaceError

Parts = Mapping[str, Mapping[str, Tensor]]


class Crash(BaseException):
    """The power goes: nothing catches it."""


def parts(seed: int) -> dict[str, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return {
        "model": {
            "generator.w": torch.randn(3, 4, generator=random),
            "recognizer.w": torch.ones(2),
        },
        "training": {"identity.w": torch.randn(2, generator=random), "step": torch.tensor(seed)},
    }


def card(step: int = 0) -> Card:
    return Card("stage1", {"codec": {"name": "dct"}}, metrics={"step": step})


def same(folder: Path, seed: int) -> bool:
    """Whether the checkpoint is the one of this seed, card and both parts."""
    if load_card(folder).metrics["step"] != seed:
        return False
    expected = parts(seed)
    for part, tensors in expected.items():
        found = load_part(folder, part)
        if found.keys() != tensors.keys() or not all(
            torch.equal(found[name], tensors[name]) for name in tensors
        ):
            return False
    return True


def refused(call: Callable[[], Any], *said: str) -> str:
    with pytest.raises(MinusfaceError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    for part in said:
        assert part in text
    return text


def test_round_trip_and_card(tmp_path: Path) -> None:
    made = Card(
        "stage2",
        {"codec": {"size": 16}, "recognizer": None},
        config={"schedule": {"milestones": [10, 18]}},
        metrics={"step": 3, "best": None},
        data={"fingerprint": "ab"},
        versions=checkpoint.versions(),
    )
    save(tmp_path / "a" / "b", made, parts(1))
    loaded = load_card(tmp_path / "a" / "b")
    for name in ("task", "model", "config", "metrics", "data", "versions", "format"):
        assert getattr(loaded, name) == getattr(made, name)
    assert loaded.versions["torch"] == torch.__version__
    for part, entry in loaded.files.items():
        file = tmp_path / "a" / "b" / entry["name"]
        assert file.stat().st_size == entry["bytes"]
        assert entry["name"] == f"{part}-{entry['sha256'][:12]}.safetensors"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 2).bfloat16(),
        torch.randn(3, 2).half(),
        torch.randn(3, 2).double(),
        torch.arange(5),
        torch.arange(5, dtype=torch.int32),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.tensor(7),
        torch.zeros(0, 3),
        torch.randn(4, 3).T,
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.tensor([float("nan"), float("inf"), -0.0, 1e-42]),
        torch.randn(2, requires_grad=True),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}".removeprefix("torch."),
)
def test_every_kind_of_tensor_comes_back(tmp_path: Path, tensor: Tensor) -> None:
    save(tmp_path, card(), {"model": {"t": tensor}})
    found = load_part(tmp_path)["t"]
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert not found.requires_grad
    torch.testing.assert_close(found, tensor.detach(), rtol=0, atol=0, equal_nan=True)
    if found.is_floating_point():
        found.add_(1)  # its memory can be written


def test_a_prefix_selects_and_is_cut_off(tmp_path: Path) -> None:
    save(tmp_path, card(), parts(1))
    found = load_part(tmp_path, prefix="generator.")
    assert found.keys() == {"w"}
    assert torch.equal(found["w"], parts(1)["model"]["generator.w"])


def test_a_save_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for seed in (1, 2, 2, 3):
        save(tmp_path, card(seed), parts(seed))
        assert same(tmp_path, seed)
        files = {entry["name"] for entry in load_card(tmp_path).files.values()}
        assert {path.name for path in tmp_path.iterdir()} == {CARD, *files}


def test_fewer_parts_drop_the_others(tmp_path: Path) -> None:
    save(tmp_path, card(1), parts(1))
    save(tmp_path, card(2), {"model": parts(2)["model"]})
    refused(lambda: load_part(tmp_path, "training"), "no 'training' part")
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def counted(function: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    """The function, but its ``at``-th call raises."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return function(*args, **kwargs)

    return wrapped


# Two parts and the card: three files, each flushed and renamed.
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [Crash(), OSError(errno.ENOSPC, "No space left on device")], ids=["crash", "full"]
)
def test_a_failed_save_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, name: str, error: BaseException
) -> None:
    save(tmp_path, card(1), parts(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, name, counted(getattr(os, name), at, error))
        if isinstance(error, Crash):
            with pytest.raises(Crash):
                save(tmp_path, card(2), parts(2))
        else:
            refused(lambda: save(tmp_path, card(2), parts(2)), str(tmp_path), "No space left")
            assert not list(tmp_path.glob(".*"))
    assert same(tmp_path, 1)
    save(tmp_path, card(2), parts(2))
    assert same(tmp_path, 2)


@pytest.mark.parametrize("at", [1, 2])
def test_a_crash_while_tidying_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    save(tmp_path, card(1), parts(1))
    real, tidied = Path.unlink, counted(Path.unlink, at, Crash())

    def unlink(path: Path, missing_ok: bool = False) -> None:
        # Writing takes a temporary file of that name away first.
        (real if path.name.startswith(".") else tidied)(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(Crash):
            save(tmp_path, card(2), parts(2))
    assert same(tmp_path, 2)
    save(tmp_path, card(3), parts(3))
    assert same(tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 3


def left_over(path: Path, process: int, seconds: float = 3600.0) -> Path:
    """What a writer of a file left when it was killed so long ago."""
    temporary = path.with_name(f".{path.name}.{process}.tmp")
    temporary.write_bytes(b"half")
    moment = time.time() - seconds
    os.utime(temporary, (moment, moment))
    return temporary


def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_save_takes_away_what_a_killed_one_had_begun(tmp_path: Path) -> None:
    save(tmp_path, card(1), parts(1))
    weights = f"model-{'0' * 12}.safetensors"
    gone = [left_over(tmp_path / weights, dead()), left_over(tmp_path / CARD, dead())]
    kept = [
        left_over(tmp_path / weights, os.getppid()),
        left_over(tmp_path / "other.safetensors", dead()),
    ]
    files._left.cache_clear()
    save(tmp_path, card(2), parts(2))
    assert [path.exists() for path in (*gone, *kept)] == [False, False, True, True]
    assert same(tmp_path, 2)


def test_a_save_leaves_other_files(tmp_path: Path) -> None:
    """Whatever they are called, and whatever the old card says that it listed."""
    own = ("my-embeddings.safetensors", f"model-{'0' * 12}.safetensors", "kept-1.safetensors")
    for name in own:
        (tmp_path / name).write_bytes(b"mine")
    save(tmp_path / "a", card(1), parts(1))
    raw = json.loads((tmp_path / "a" / CARD).read_text())
    for listed in ("../my-embeddings.safetensors", ["x"]):
        raw["files"]["kept"] = {**raw["files"]["model"], "name": listed}
        edit_card(tmp_path / "a", files=raw["files"])
        save(tmp_path / "a", card(2), parts(2))
    for seed in (1, 2):
        save(tmp_path, card(seed), parts(seed))
    (tmp_path / CARD).write_text("{")
    save(tmp_path, card(3), parts(3))
    assert all((tmp_path / name).read_bytes() == b"mine" for name in own)


def test_a_first_save_that_fails_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "fsync", counted(os.fsync, 3, full))
        refused(lambda: save(tmp_path, card(1), parts(1)))
    refused(lambda: find(tmp_path), "not a checkpoint")


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    refused(lambda: save(tmp_path / "taken", card(), parts(1)), "taken", "cannot write")
    assert (tmp_path / "taken").read_bytes() == b"mine"


def weight_file(folder: Path, part: str = "model") -> Path:
    return folder / str(load_card(folder).files[part]["name"])


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_truncated_weights(tmp_path: Path, kept: int) -> None:
    save(tmp_path, card(), parts(1))
    file = weight_file(tmp_path)
    file.write_bytes(file.read_bytes()[:kept])
    refused(lambda: load_part(tmp_path), file.name, "damaged")
    load_part(tmp_path, "training")


@pytest.mark.parametrize("place", [0, 8, 40, -1])
def test_one_altered_byte(tmp_path: Path, place: int) -> None:
    save(tmp_path, card(), parts(1))
    file = weight_file(tmp_path)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    refused(lambda: load_part(tmp_path), file.name, "damaged", "SHA-256")


def test_missing_weights(tmp_path: Path) -> None:
    save(tmp_path, card(), parts(1))
    file = weight_file(tmp_path)
    file.unlink()
    refused(lambda: load_part(tmp_path), file.name, "cannot read")
    refused(lambda: load_part(tmp_path, "other"), "no 'other' part")


def test_weights_that_are_no_safetensors(tmp_path: Path) -> None:
    import hashlib

    save(tmp_path, card(), parts(1))
    file = weight_file(tmp_path)
    file.write_bytes(b"\x80\x04pickle")
    raw = json.loads((tmp_path / CARD).read_text())
    raw["files"]["model"]["sha256"] = hashlib.sha256(b"\x80\x04pickle").hexdigest()
    (tmp_path / CARD).write_text(json.dumps(raw))
    refused(lambda: load_part(tmp_path), file.name, "not a safetensors file")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"task": "x"}', b"\xff\xfe", b'{"odd": 1}'],
)
def test_damaged_card(tmp_path: Path, data: bytes) -> None:
    save(tmp_path, card(), parts(1))
    (tmp_path / CARD).write_bytes(data)
    refused(lambda: load_card(tmp_path), CARD, "damaged card")


def edit_card(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**raw, **changes}))


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    save(tmp_path, card(), parts(1))
    edit_card(tmp_path, format=FORMAT + 1)
    refused(lambda: load_part(tmp_path), f"format {FORMAT + 1}", f"reads format {FORMAT}")


def test_a_newer_format_with_a_new_field_says_so(tmp_path: Path) -> None:
    save(tmp_path, card(), parts(1))
    edit_card(tmp_path, format=FORMAT + 1, licence="new")
    refused(lambda: load_card(tmp_path), f"format {FORMAT + 1}")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"model": {}}},
        {"files": {"model": 3}},
        {"files": []},
        {"model": None},
        {"model": []},
        {"metrics": 3},
    ],
    ids=str,
)
def test_a_card_with_fields_of_other_types(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(tmp_path, card(), parts(1))
    edit_card(tmp_path, **changes)

    def use() -> None:
        load_part(tmp_path)
        load_card(tmp_path).model.get("generator")
        int(load_card(tmp_path).metrics["step"])

    refused(use)


def test_find_on_run_folders(tmp_path: Path) -> None:
    save(tmp_path / "last", card(2), parts(2))
    assert find(tmp_path) == tmp_path / "last"
    save(tmp_path / "best", card(1), parts(1))
    assert find(tmp_path) == tmp_path / "best"
    assert find(str(tmp_path / "last")) == tmp_path / "last"
    assert find(tmp_path / "last" / CARD) == tmp_path / "last"
    assert same(tmp_path, 1)
    refused(lambda: find(tmp_path / "none"), "none", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: find(tmp_path / "empty"), "no card.json in it, nor in best/ or last/")


def test_load_into_copies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.randn(5, 3))
    save(tmp_path, card(), {"model": source.state_dict()})
    load_into(target, load_part(tmp_path), "here")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_load_into_names_the_first_difference() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    whole = {name: torch.full_like(tensor, 9.0) for name, tensor in before.items()}
    cases: list[tuple[dict[str, Tensor], tuple[str, ...]]] = [
        ({k: v for k, v in whole.items() if k[0] == "0"}, ("1.bias", "missing")),
        ({**whole, "0.extra": torch.ones(1), "9.x": torch.ones(1)}, ("0.extra", "no place")),
        ({**whole, "1.weight": torch.ones(2, 3)}, ("1.weight", "(2, 3)", "expected (1, 3)")),
        ({**whole, "0.bias": torch.ones(4), "1.bias": torch.ones(2)}, ("0.bias",)),
    ]
    for tensors, said in cases:
        refused(lambda tensors=tensors: load_into(module, tensors, "file.x"), "file.x", *said)
    # A refusal has moved nothing.
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())


def test_write_atomically_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    files.write_atomically(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync, 1, OSError(errno.EDQUOT, "Disk quota")))
        refused(lambda: files.write_atomically(file, b"new"), "config.yaml", "Disk quota")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert file.read_bytes() == b"old"


def test_only_what_killed_writers_of_a_file_left_is_taken_away(tmp_path: Path) -> None:
    file, gone = tmp_path / "a.b", dead()
    left = left_over(file, gone)
    kept = {
        "a living writer": left_over(file, os.getppid()),
        "of another container, just now": left_over(file, 2**22 + 1, seconds=1),
        "of another file": left_over(tmp_path / "x.a.b", gone),
        "no writer": tmp_path / ".a.b.tmp",
    }
    kept["no writer"].write_bytes(b"mine")
    folder = tmp_path / f".a.b.{2**22 + 2}.tmp"
    folder.mkdir()
    files.write_atomically(file, b"new")
    assert not left.exists()
    assert {why: path.exists() for why, path in kept.items()} == dict.fromkeys(kept, True)
    assert folder.is_dir()
    assert file.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="locks of files")
def test_what_another_containers_writer_holds_stays(tmp_path: Path) -> None:
    file = tmp_path / "a"
    temporary = left_over(file, dead())
    with open(temporary, "rb+") as held:
        assert files._hold(held)
        files.clear(temporary)
        assert temporary.exists()
    files.clear(temporary)
    assert not temporary.exists()


def test_a_folder_of_many_files_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (listed.append(path), real(path))[1])
    for number in range(5):
        files.write_new(tmp_path / f"{number}.png", b"x")
    assert listed == [tmp_path]


def test_a_file_of_no_name_is_refused(tmp_path: Path) -> None:
    for path in ("", ".", "/"):
        refused(partial(files.write_atomically, Path(path), b"x"), "expected a file")
        refused(partial(files.check_writable, Path(path)), "expected a file")
    files.check_writable(tmp_path / "new" / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_write_new_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", counted(os.link, 1, OSError(errno.EPERM, "no links")))
    file = tmp_path / "new" / "a.png"
    assert files.write_new(file, b"mine")
    assert not files.write_new(file, b"yours")
    assert file.read_bytes() == b"mine"
    assert [path.name for path in file.parent.iterdir()] == ["a.png"]


def test_the_card_of_an_export_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(json.dumps({"kind": "minusface-export", "format": 1, "size": 8}))
    refused(lambda: load_card(tmp_path), CARD, "minusface export", "expected the checkpoint")
