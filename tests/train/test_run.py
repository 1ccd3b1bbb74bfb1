"""Whole runs on a folder of drawn images: what is written, going on, refusals, augmentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from minusface.checkpoint import load_card, load_part
from minusface.config import (
    AugmentConfig,
    BranchConfig,
    CodecConfig,
    DataConfig,
    DistillConfig,
    EvalConfig,
    GeneratorConfig,
    HeadConfig,
    OptimizerConfig,
    RecognizerConfig,
    ScheduleConfig,
    StartConfig,
    TrainConfig,
)
from minusface.data import FolderDataset, Loader
from minusface.data.source import open_faces
from minusface.errors import MinusfaceError
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.train.augment import augment, to_crops
from minusface.train.build import other_precision, slow_precision
from minusface.train.loop import Outcome, Progress
from minusface.train.run import batches, build, pick_device, train
from minusface.train.settings import check_settings
from minusface.train.tasks import Task
from minusface.types import FaceCrop
from tests.recognize.test_distill import flatten_model

SIZE, PEOPLE, IMAGES = 16, 4, 3


def draw_people(folder: Path) -> Path:
    """Four people of three images: a colour a person, a shape an image."""
    random = np.random.default_rng(0)
    for person in range(PEOPLE):
        (folder / f"person_{person}").mkdir(parents=True)
        colour = random.integers(40, 216, 3)
        for number in range(IMAGES):
            image = np.full((SIZE, SIZE, 3), colour, np.uint8)
            centre = tuple(int(v) for v in random.integers(4, 12, 2))
            cv2.circle(image, centre, 3, tuple(int(v) for v in 255 - colour), -1)
            assert cv2.imwrite(str(folder / f"person_{person}" / f"{number}.png"), image)
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("faces"))


def settings(people: Path, out: Path, **changes: Any) -> TrainConfig:
    """Six steps: two epochs of three batches of four."""
    base = TrainConfig(
        task="stage1",
        out=str(out),
        epochs=2,
        batch_size=4,
        device="cpu",
        log_every=1,
        codec=CodecConfig("dct", SIZE, 2),
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", 16),
        head=HeadConfig(scale=8.0),
        optimizer=OptimizerConfig("adamw", lr=1e-3),
        schedule=ScheduleConfig("cosine", warmup=0.5),
        data=DataConfig(faces=str(people), shift=1),
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def stage_one(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage-1 run."""
    out = tmp_path_factory.mktemp("run") / "stage1"
    train(settings(people, out))
    return out


@pytest.mark.parametrize("name", ["teacher.onnx", "TEACHER.ONNX"])
def test_a_network_as_teacher_is_shown_the_clean_crop(
    people: Path, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / name
    path.write_bytes(flatten_model("N", (3, SIZE, SIZE)))
    distorted = AugmentConfig(jitter=1.0, colour=1.0, occlusion=1.0)
    config = settings(people, tmp_path / "run", task="plain", distill=DistillConfig(str(path)))
    config = replace(config, data=replace(config.data, shift=2, augment=distorted))
    built = build(config)
    faces, _ = next(built.batches(0))
    teacher, originals = built.task.identity.teacher, FolderDataset(people, size=SIZE)
    assert teacher is not None
    places = {originals.key(place): place for place in range(len(originals))}
    images = np.stack([originals[places[key]].image for key in faces.keys])
    crops = FaceCrop.from_uint8(images).pixels
    crops[faces.flipped] = crops[faces.flipped].flip(-1)
    assert 0 < int(faces.flipped.sum()) < len(faces.flipped)
    assert not torch.allclose(faces.crops, crops, atol=0.1)
    wanted = torch.nn.functional.normalize(crops.flatten(1), dim=1)
    torch.testing.assert_close(faces.told(teacher), wanted)


def stop_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return report


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (out / "log.jsonl").read_text().splitlines()]


def refused(call: Callable[[], Any], *said: str) -> None:
    with pytest.raises(MinusfaceError) as error:
        call()
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


# --- whole runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "toy", "stage1", "stage2"])
def test_resume_equals_unbroken(people: Path, tmp_path: Path, stage_one: Path, name: Any) -> None:
    changes: dict[str, Any] = {"task": name}
    if name == "toy":
        changes["codec"] = CodecConfig("raw", SIZE, 2)
    if name == "stage2":
        changes["start"] = StartConfig(generator=str(stage_one))
    whole = settings(people, tmp_path / "whole", **changes)
    broken = replace(whole, out=str(tmp_path / "broken"))
    done = train(whole)
    stopped = train(broken, report=stop_at(4))
    assert (stopped.step, stopped.interrupted) == (4, True)
    torch.manual_seed(99)
    ended = train(broken, resume=True)
    assert (done.step, ended.step, ended.interrupted) == (6, 6, False)
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert len(losses(tmp_path / "whole")) == 6
    for part in ("model", "training"):
        ours, theirs = (load_part(tmp_path / run / "last", part) for run in ("whole", "broken"))
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key


def test_resumed_log_tells_of_each_step_once(people: Path, tmp_path: Path) -> None:
    config = settings(people, tmp_path / "run", task="plain")
    train(config, report=stop_at(4))
    # What a process that was killed at step six would have left, in the middle of a line.
    with open(tmp_path / "run" / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 5, "losses": {"total": 1.0}}\n{"step": 6, "los')
    assert train(config, resume=True).step == 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[4]["losses"] != {"total": 1.0}


def test_stage_two_keeps_stage_ones_generator(
    people: Path, tmp_path: Path, stage_one: Path
) -> None:
    config = settings(
        people, tmp_path / "run", task="stage2", start=StartConfig(generator=str(stage_one))
    )
    train(config)
    given, kept = (load_part(path, prefix="generator.") for path in (stage_one, tmp_path / "run"))
    assert all(torch.equal(given[name], kept[name]) for name in given)
    assert given.keys() == kept.keys()
    crops = FaceCrop(torch.rand(2, 3, SIZE, SIZE) * 2 - 1)
    protected = Protector.load(tmp_path / "run").protect(crops)
    template = Recognizer.load(tmp_path / "run").embed(protected)
    assert template.vectors.shape == (2, 16)


def test_training_learns(people: Path, tmp_path: Path) -> None:
    config = settings(
        people,
        tmp_path / "run",
        task="plain",
        epochs=12,
        optimizer=OptimizerConfig("adamw", lr=5e-3),
    )
    train(config)
    found = [row["total"] for row in losses(tmp_path / "run")]
    assert np.mean(found[-6:]) < 0.7 * np.mean(found[:6])


def test_what_a_run_writes(people: Path, stage_one: Path) -> None:
    assert {p.name for p in stage_one.iterdir()} == {"config.yaml", "log.jsonl", "last"}
    card = load_card(stage_one)
    dataset = FolderDataset(people, size=SIZE)
    assert card.task == "stage1"
    assert card.data == {
        "name": people.name,
        "images": PEOPLE * IMAGES,
        "people": PEOPLE,
        "fingerprint": dataset.fingerprint(),
    }
    assert card.metrics["step"] == 6
    assert card.versions.keys() == {"minusface", "torch", "python"}
    assert card.model["generator"] == {"width": 4}
    assert card.model["recognizer"]["kind"] == "features"
    assert card.config == yaml.safe_load((stage_one / "config.yaml").read_text())


def test_the_fingerprint_follows_the_images(people: Path, tmp_path: Path) -> None:
    folder = draw_people(tmp_path / "faces")
    config = settings(folder, tmp_path / "a", task="plain", epochs=1)
    train(config)
    extra = (folder / "person_0" / "0.png").read_bytes()
    (folder / "person_0" / "extra.png").write_bytes(extra)
    train(replace(config, out=str(tmp_path / "b")))
    first, second = (load_card(tmp_path / run).data for run in ("a", "b"))
    assert first["fingerprint"] != second["fingerprint"]
    assert second["images"] == first["images"] + 1


def test_the_config_reloads(people: Path, tmp_path: Path, stage_one: Path) -> None:
    config = settings(
        people,
        tmp_path / "run",
        task="stage2",
        seed=3,
        epochs=0.4,
        schedule=ScheduleConfig("step", milestones=(0.5, 1.5)),
        start=StartConfig(generator=str(stage_one)),
        evaluation=EvalConfig(every=0.0),
    )
    train(config)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig, "run")
    raw = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    # Its newer name first: the older one is on its way out.
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)
    loaded = instantiate(parser.parse_object({"run": raw})).run
    assert isinstance(loaded, TrainConfig)
    assert loaded == config
    assert set(raw) == set(asdict(config))


def test_evaluation_gets_the_task_and_picks_the_best(people: Path, tmp_path: Path) -> None:
    seen: list[Task] = []

    def evaluate(task: Task) -> dict[str, float]:
        seen.append(task)
        return {"score": [0.2, 0.7, 0.3][len(seen) - 1]}

    config = settings(people, tmp_path / "run", task="plain", epochs=3)
    outcome: Outcome = train(config, evaluate=evaluate)
    assert len({id(task) for task in seen}) == 1
    assert isinstance(seen[0], Task)
    assert [row["score"] for row in outcome.history] == [0.2, 0.7, 0.3]
    assert load_card(tmp_path / "run").metrics["step"] == 6
    assert load_card(tmp_path / "run" / "last").metrics["step"] == 9


def test_a_teacher_is_matched_by_key(people: Path, tmp_path: Path) -> None:
    keys = list(FolderDataset(people, size=SIZE).keys())
    rows = np.random.default_rng(0).normal(size=(2, len(keys), 8)).astype(np.float32)
    np.savez(tmp_path / "teacher.npz", names=np.array(keys), plain=rows[0], flipped=rows[1])
    config = settings(
        people,
        tmp_path / "run",
        task="plain",
        distill=DistillConfig(str(tmp_path / "teacher.npz")),
    )
    train(config)
    assert {"margin", "cosine", "pairwise"} <= losses(tmp_path / "run")[0].keys()
    np.savez(
        tmp_path / "short.npz", names=np.array(keys[1:]), plain=rows[0][1:], flipped=rows[1][1:]
    )
    short = replace(
        config, out=str(tmp_path / "b"), distill=DistillConfig(str(tmp_path / "short.npz"))
    )
    refused(lambda: train(short), "short.npz", keys[0])


# --- refusals ---------------------------------------------------------------------------------------


def test_a_run_is_not_overwritten(people: Path, stage_one: Path) -> None:
    before = {p: p.read_bytes() for p in stage_one.rglob("*") if p.is_file()}
    refused(lambda: train(settings(people, stage_one, seed=1)), str(stage_one), "--resume", "--out")
    assert {p: p.read_bytes() for p in stage_one.rglob("*") if p.is_file()} == before


def test_nothing_to_resume(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(lambda: train(settings(people, out), resume=True), str(out), "nothing to resume")
    assert not out.exists()


def test_resume_with_another_model(people: Path, tmp_path: Path) -> None:
    config = settings(people, tmp_path / "run", task="plain")
    train(config, report=stop_at(2))
    other = replace(config, recognizer=RecognizerConfig("ir_lite", 8))
    refused(lambda: train(other, resume=True), "another architecture")


def test_a_refused_resume_leaves_the_config(people: Path, tmp_path: Path) -> None:
    config = settings(people, tmp_path / "run", task="plain")
    train(config, report=stop_at(2))
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = replace(config, recognizer=RecognizerConfig("ir_lite", 8))
    refused(lambda: train(other, resume=True))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_refused_settings_write_nothing(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for changes, said in (
        ({"task": "toy"}, "codec.name raw"),
        ({"task": "stage2"}, "start.generator"),
        ({"recognizer": RecognizerConfig("ir50")}, "ir_50"),
        ({"batch_size": 100}, "only 12 images"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seed": -1}, "seed -1"),
        ({"device": "gpu9"}, "'gpu9'"),
        ({"data": DataConfig(faces=str(tmp_path / "none"))}, "none"),
        ({"codec": CodecConfig("dct", 32, 2)}, "16x16"),
    ):
        refused(lambda changes=changes: train(settings(people, out, **changes)), said)
        if "codec" not in changes:
            assert not out.exists(), changes


def test_a_damaged_image_stops_a_run_in_one_line(tmp_path: Path) -> None:
    folder = draw_people(tmp_path / "faces")
    (folder / "person_2" / "1.png").write_bytes(b"\x89PNG but no more")
    config = settings(folder, tmp_path / "run", task="plain")
    refused(lambda: train(config), "person_2/1.png")
    assert not (tmp_path / "run" / "last").exists()


def test_open_faces(people: Path, tmp_path: Path) -> None:
    dataset = open_faces(str(people), None, SIZE)
    assert (len(dataset), dataset.classes) == (PEOPLE * IMAGES, PEOPLE)
    (tmp_path / "list.txt").write_text("person_1\nperson_3\n")
    assert open_faces(str(people), str(tmp_path / "list.txt"), SIZE).classes == 2
    refused(lambda: open_faces(str(tmp_path / "none"), None, SIZE), "none")
    (tmp_path / "empty").mkdir()
    refused(lambda: open_faces(str(tmp_path / "empty"), None, SIZE), "empty")
    refused(lambda: open_faces(str(people), str(tmp_path / "no.txt"), SIZE), "no.txt")


def test_open_synthetic_faces() -> None:
    pytest.importorskip("minusface.data.synthetic")
    dataset = open_faces("synthetic:3x2", None, 32, seed=5)
    assert (len(dataset), dataset.classes) == (6, 3)
    assert dataset[0].image.shape == (32, 32, 3)
    for name in ("synthetic", "synthetic:", "synthetic:3", "synthetic:0x5", "synthetic:3x0",
                 "synthetic:ax2", "synthetic:-1x2", "synthetic:3x2 "):  # fmt: skip
        refused(lambda name=name: open_faces(name, None, 32), repr(name), "PEOPLExIMAGES")


def test_pick_device() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto") == torch.device(best)
    refused(lambda: pick_device("gpu"), "'gpu'", "auto, cpu or cuda")
    if best == "cpu":
        refused(lambda: pick_device("cuda"), "no CUDA device")


@pytest.mark.parametrize("name", ["meta", "hpu"])
def test_pick_device_that_is_not_here(name: str) -> None:
    refused(lambda: pick_device(name), name)


# --- batches and augmentation -----------------------------------------------------------------------


def test_batches_are_the_same_for_the_same_step(people: Path, tmp_path: Path) -> None:
    config = settings(people, tmp_path)
    dataset = FolderDataset(people, size=SIZE)
    stream = batches(Loader(dataset, 4, seed=0), config, torch.device("cpu"))
    whole = [next(part) for part in [stream(0)] for _ in range(8)]
    for start in (0, 2, 3, 5):
        tail = stream(start)
        for step in range(start, 8):
            (mine, count), (other, _) = next(tail), whole[step]
            assert count == 4
            assert mine.keys == other.keys
            assert torch.equal(mine.crops, other.crops)
            assert torch.equal(mine.labels, other.labels)
            assert torch.equal(mine.flipped, other.flipped)
    assert whole[0][0].keys != whole[3][0].keys
    assert len({tuple(faces.flipped.tolist()) for faces, _ in whole}) > 2
    epoch = [key for faces, _ in whole[:3] for key in faces.keys]
    assert sorted(epoch) == sorted(dataset.keys())
    for faces, _ in whole:
        people_of = [int(key.split("/")[0][-1]) for key in faces.keys]
        assert faces.labels.tolist() == people_of


def test_to_crops_is_what_a_face_crop_is() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    crops = to_crops(images)
    assert (float(crops.min()), float(crops.max())) == (-1.0, 1.0)
    rgb = images.permute(0, 2, 3, 1).numpy()
    torch.testing.assert_close(crops, FaceCrop.from_uint8(rgb).pixels, rtol=0, atol=1e-6)


def pictures(batch: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, 8, 8, generator=random) * 2 - 1


def draws(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flips_exactly_the_masked_ones() -> None:
    crops = pictures(400)
    made, flipped = augment(crops, draws(), flip=True)
    assert flipped.dtype == torch.bool
    assert 140 < int(flipped.sum()) < 260
    assert torch.equal(made[~flipped], crops[~flipped])
    assert torch.equal(made[flipped], crops[flipped].flip(-1))


def test_without_flip_and_shift_nothing_changes() -> None:
    crops = pictures(50)
    made, flipped = augment(crops, draws(), flip=False, shift=0)
    assert torch.equal(made, crops)
    assert not bool(flipped.any())


@pytest.mark.parametrize("shift", [1, 3])
def test_shift_moves_both_ways_and_repeats_the_border(shift: int) -> None:
    crops = pictures(200)
    made, _ = augment(crops, draws(), flip=False, shift=shift)
    assert made.shape == crops.shape
    moves = set()
    rows = torch.arange(8)
    for before, after in zip(crops, made, strict=True):
        found = [
            (down, right)
            for down in range(-shift, shift + 1)
            for right in range(-shift, shift + 1)
            if torch.equal(
                after, before[:, (rows + down).clamp(0, 7)][:, :, (rows + right).clamp(0, 7)]
            )
        ]
        assert len(found) == 1
        moves.add(found[0])
    ends = {-shift, shift}
    assert ends <= {down for down, _ in moves}
    assert ends <= {right for _, right in moves}
    assert any(down != right for down, right in moves)


def test_augmentation_is_deterministic_and_keeps_its_input() -> None:
    crops = pictures(16)
    kept, state = crops.clone(), torch.random.get_rng_state()
    first = augment(crops, draws(), flip=True, shift=2)
    second = augment(crops, draws(), flip=True, shift=2)
    other = augment(crops, draws(2), flip=True, shift=2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(crops, kept)
    assert torch.equal(torch.random.get_rng_state(), state)
    # Whether crops are moved does not change which are mirrored: teachers go by the mask.
    assert torch.equal(augment(crops, draws(), flip=True, shift=0)[1], first[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_every": 0}, "log_every 0: expected at least 1"),
        ({"save_every": 0}, "save_every 0"),
        ({"epochs": 0.0}, "epochs 0.0: expected more than 0"),
        (
            {"optimizer": OptimizerConfig("adam")},
            "unknown optimizer.name 'adam'; did you mean 'adamw'?",
        ),  # type: ignore[arg-type]
        ({"schedule": ScheduleConfig("linear")}, "known: cosine, step"),  # type: ignore[arg-type]
        ({"optimizer": OptimizerConfig(momentum=1.0)}, "at least 0 and less than 1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MinusfaceError) as caught:
        check_settings(replace(TrainConfig(), **changes))
    assert message in str(caught.value)


def branched(people: Path, out: Path, *weights: float) -> TrainConfig:
    """The same people under several heads, with batches of two, three and so on."""
    branches = tuple(
        BranchConfig(str(people), batch_size=2 + k, weight=weight, scale=8.0, margin=0.1)
        for k, weight in enumerate(weights)
    )
    data = DataConfig(branches=branches)
    return settings(people, out, epochs=1.0, data=data, head=HeadConfig(weight=0.5))


def test_branches_have_heads_of_their_own(people: Path, tmp_path: Path) -> None:
    outcome = train(branched(people, tmp_path / "two", 1.0, 0.25))
    assert outcome.step == 6  # twelve images, two at a time
    tensors = load_part(tmp_path / "two" / "last", part="training")
    assert sum("identity.branches" in name for name in tensors) == 2
    first = losses(tmp_path / "two")[0]
    expected = 0.5 * (first["margin0"] + 0.25 * first["margin1"])
    assert first["identity"] == pytest.approx(expected, rel=1e-5)
    assert first["margin0"] != first["margin1"]


def test_branches_go_on_as_unbroken(people: Path, tmp_path: Path) -> None:
    whole = train(branched(people, tmp_path / "whole", 1.0, 1.0))
    config = branched(people, tmp_path / "half", 1.0, 1.0)
    train(config, report=stop_at(4))
    assert train(config, resume=True).step == whole.step
    assert losses(tmp_path / "half")[-2:] == losses(tmp_path / "whole")[-2:]


def test_branch_refusals(people: Path, tmp_path: Path) -> None:
    config = branched(people, tmp_path / "run", 1.0)
    big = replace(config.data.branches[0], batch_size=99)
    refused(lambda: train(replace(config, data=DataConfig(branches=(big,)))), "batch size 99")


@pytest.mark.parametrize("native", [True, False])
def test_a_card_tells_the_precision_that_auto_was(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native, raising=False)
    config = settings(people, tmp_path / "run", task="plain", epochs=0.2, precision="auto")
    train(config)
    assert load_card(tmp_path / "run").config["precision"] == ("bfloat16" if native else "float32")
    # The run's own file goes with it to other machines.
    raw = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert raw["precision"] == "auto"


def test_an_imitated_bfloat16_is_told_of(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    asked = settings(people, Path("unused"), task="plain", precision="bfloat16")
    for native in (True, False):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda held=native: held, raising=False
        )
        assert bool(slow_precision(asked)) is not native
        assert slow_precision(replace(asked, precision="auto")) == []


def test_going_on_in_another_precision_is_told_of(people: Path, tmp_path: Path) -> None:
    config = settings(people, tmp_path / "run", task="plain", epochs=0.2)
    assert other_precision(config) == []
    train(config)
    assert other_precision(config) == []
    told = other_precision(replace(config, precision="bfloat16"))
    assert "trained in float32 so far and goes on in bfloat16" in told[0]
