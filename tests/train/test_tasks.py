"""Each task's losses against the literal computation, what learns and what must not, and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface import checkpoint
from minusface.checkpoint import Card
from minusface.config import (
    CodecConfig,
    DistillConfig,
    GeneratorConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    RecognizerConfig,
    StageTwoConfig,
    StartConfig,
    TaskName,
    TrainConfig,
)
from minusface.errors import MinusfaceError
from minusface.protect import DWTCodec, Protector, draw_mask, draw_permutation
from minusface.recognize import Recognizer
from minusface.train.build import build_task
from minusface.train.schedule import build_optimizer
from minusface.train.tasks import Faces, StageOne, StageTwo, Task, consistency, sparsity
from tests.reference import codec as literal
from tests.reference import heads, losses

SIZE, RATIO, CHANNELS, CLASSES = 16, 2, 12, 5
FIRST = "backbone.input_layer.0.weight"


class FixedTeacher:
    """Targets by key; the mirrored images' are the negatives."""

    size = 8

    def targets(self, keys: Sequence[str], crops: Tensor, flipped: Tensor) -> Tensor:
        rows = [
            torch.randn(self.size, generator=torch.Generator().manual_seed(int(key)))
            for key in keys
        ]
        signs = 1 - 2 * flipped.float()
        return torch.nn.functional.normalize(torch.stack(rows), dim=1) * signs[:, None]


def settings(task: TaskName = "stage1", **changes: Any) -> TrainConfig:
    base = TrainConfig(
        task=task,
        codec=CodecConfig("raw" if task == "toy" else "dct", SIZE, RATIO),
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", 16),
        head=HeadConfig(scale=8.0),
    )
    return replace(base, **changes)


def faces(batch: int = 4, seed: int = 0) -> Faces:
    random = torch.Generator().manual_seed(seed)
    crops = torch.rand(batch, 3, SIZE, SIZE, generator=random) * 2 - 1
    labels = torch.randint(0, CLASSES, (batch,), generator=random)
    keys = [str(number) for number in range(batch)]
    return Faces(crops, labels, keys, torch.arange(batch) % 2 == 0)


def draws(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alive(task: Task) -> Task:
    """With a generator whose output is of the size of what it should regenerate, biases included."""
    if task.protector is not None:
        last = task.protector.generator.project
        torch.nn.init.normal_(last.weight, std=3.0, generator=draws(1))
        assert last.bias is not None
        torch.nn.init.normal_(last.bias, std=3.0, generator=draws(2))
    return task


def stage_one_checkpoint(folder: Path, config: TrainConfig | None = None) -> Path:
    config = config or settings("stage1")
    task = alive(build_task(config, CLASSES, None))
    checkpoint.save(folder, Card(config.task, task.spec()), {"model": task.model_tensors()})
    return folder


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_one_checkpoint(tmp_path_factory.mktemp("stage1"))


def stage_two(stage_one: Path, **changes: Any) -> StageTwo:
    config = settings(
        "stage2", stage2=StageTwoConfig(**changes), start=StartConfig(generator=str(stage_one))
    )
    task = build_task(config, CLASSES, None)
    assert isinstance(task, StageTwo)
    return task


def numbers(tensor: Tensor) -> Any:
    return tensor.detach().double().numpy()


def margin_loss(task: Task, embeddings: Tensor, labels: Sequence[int]) -> float:
    head = task.identity.head
    assert head is not None
    centres = numbers(head.centres)
    logits = heads.arcface(numbers(embeddings), centres, list(labels), head.scale, head.margin)
    return losses.cross_entropy(logits, labels)


def refused(call: Callable[[], Any], *said: str) -> None:
    with pytest.raises(MinusfaceError) as error:
        call()
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


# --- losses -----------------------------------------------------------------------------------------


def test_plain_is_the_margin_loss_of_crops() -> None:
    task, batch = build_task(settings("plain"), CLASSES, None).eval(), faces()
    with torch.no_grad():
        found = task(batch, draws())
    assert found.keys() == {"margin", "identity", "total"}
    expected = margin_loss(task, task.recognizer(batch.crops), batch.labels.tolist())
    for value in found.values():
        assert float(value) == pytest.approx(expected, rel=1e-4)


def literal_stage_one(task: Task, batch: Faces) -> tuple[Tensor, Tensor, Tensor]:
    """X', embeddings and latent by way of the upsampled image and the residue."""
    assert task.protector is not None
    basis = None
    if isinstance(task.protector.codec, DWTCodec):
        basis = literal.haar_packet_matrix(RATIO)
    features = literal.encode(batch.crops, RATIO, basis)
    regenerated, latent = task.protector.generator(features)
    image = literal.decode(regenerated, RATIO, basis) * 2 - 1
    return image, task.recognizer(features - regenerated), latent


@pytest.mark.parametrize("codec", ["dct", "dwt"])
@pytest.mark.parametrize("weights", [(5.0, 1.0, 0.0), (0.5, 2.0, 3.0)])
def test_stage_one_losses(codec: Any, weights: tuple[float, float, float]) -> None:
    alpha, beta, sparse = weights
    config = settings(
        codec=CodecConfig(codec, SIZE, RATIO), loss=LossConfig(alpha, beta, sparsity=sparse)
    )
    task, batch = alive(build_task(config, CLASSES, None)).eval(), faces()
    with torch.no_grad():
        found = task(batch, draws())
        image, embeddings, latent = literal_stage_one(task, batch)
    l1 = losses.l1(numbers(image), numbers(batch.crops))
    identity = margin_loss(task, embeddings, batch.labels.tolist())
    expected = {"margin": identity, "identity": identity, "l1": l1}
    total = alpha * l1 + beta * identity
    if sparse:
        expected["sparsity"] = losses.sparsity(numbers(latent), 0.05)
        total += sparse * expected["sparsity"]
    assert found.keys() == {*expected, "total"}
    for name, value in {**expected, "total": total}.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-3), name
    assert l1 > 0.05


def test_stage_one_gradients_are_those_of_the_literal_computation() -> None:
    task = alive(build_task(settings(), CLASSES, None)).train()
    other, batch = copy.deepcopy(task), faces()
    torch.manual_seed(0)
    task(batch, draws())["total"].backward()
    torch.manual_seed(0)
    image, embeddings, _ = literal_stage_one(other, batch)
    l1 = torch.nn.functional.l1_loss(image, batch.crops)
    (5 * l1 + other.identity(embeddings, batch, draws())["identity"]).backward()
    for (name, ours), theirs in zip(task.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        scale = float(theirs.grad.abs().max())
        assert float((ours.grad - theirs.grad).abs().max()) <= 1e-3 * scale + 1e-6, name


@pytest.mark.parametrize("name", ["stage1", "toy"])
def test_the_gradient_reaches_generator_and_recogniser(name: TaskName) -> None:
    task = alive(build_task(settings(name), CLASSES, None)).train()
    task(faces(), draws())["total"].backward()
    groups = task.groups()
    assert groups.keys() == {"recognizer", "generator"}
    for group, parameters in groups.items():
        moved = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]
        # A dead ReLU at the bottom may cost a bias its gradient; nearly all must have one.
        assert sum(moved) >= 0.8 * len(moved), group


def test_the_identity_loss_alone_teaches_the_generator() -> None:
    task = alive(build_task(settings(loss=LossConfig(alpha=0.0)), CLASSES, None)).train()
    task(faces(), draws())["total"].backward()
    assert task.protector is not None
    grad = task.protector.generator.project.weight.grad
    assert grad is not None
    assert float(grad.abs().sum()) > 0


def test_toy_subtracts_pixels() -> None:
    task, batch = alive(build_task(settings("toy"), CLASSES, None)).eval(), faces()
    assert task.protector is not None
    assert task.recognizer.in_channels == 3
    with torch.no_grad():
        found = task(batch, draws())
        regenerated = task.protector.generator(batch.crops)[0]
        embeddings = task.recognizer(batch.crops - regenerated)
    l1 = losses.l1(numbers(regenerated.clamp(-1, 1)), numbers(batch.crops))
    identity = margin_loss(task, embeddings, batch.labels.tolist())
    assert float(found["l1"]) == pytest.approx(l1, rel=1e-4)
    assert float(found["total"]) == pytest.approx(5 * l1 + identity, rel=1e-4)


@pytest.mark.parametrize("name", ["plain", "toy", "stage1", "stage2"])
def test_losses_are_finite_scalars_in_bfloat16_too(name: TaskName, stage_one: Path) -> None:
    config = settings(
        name, start=StartConfig(generator=str(stage_one) if name == "stage2" else None)
    )
    task = alive(build_task(config, CLASSES, None)).eval()
    wide = task(faces(), draws())
    with torch.autocast("cpu", torch.bfloat16):
        narrow = task(faces(), draws())
    narrow["total"].backward()
    assert wide.keys() == narrow.keys()
    for key, value in narrow.items():
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(wide[key].detach()), rel=0.1), key
    for parameter in task.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


def test_distillation_and_labels_add_up() -> None:
    config = settings(
        "plain",
        head=HeadConfig(scale=8.0, weight=0.5),
        distill=DistillConfig(teacher="given", weight=2.0, pairwise=0.25),
    )
    teacher, batch = FixedTeacher(), faces()
    task = build_task(config, CLASSES, teacher).eval()
    assert task.identity.distill is not None
    with torch.no_grad():
        found = task(batch, draws())
        embeddings = task.recognizer(batch.crops)
        projected = task.identity.distill.projection(embeddings)
    assert found.keys() == {"margin", "cosine", "pairwise", "identity", "total"}
    targets = teacher.targets(batch.keys, batch.crops, batch.flipped)
    expected = losses.distillation(numbers(projected), numbers(targets))
    assert float(found["cosine"]) == pytest.approx(expected, rel=1e-4)
    margin = margin_loss(task, embeddings, batch.labels.tolist())
    total = 0.5 * margin + 2.0 * (expected + 0.25 * float(found["pairwise"]))
    assert float(found["total"]) == pytest.approx(total, rel=1e-4)


def test_distillation_alone_needs_no_labels() -> None:
    config = settings(
        "plain", head=HeadConfig(weight=0.0), distill=DistillConfig(teacher="given", weight=1.0)
    )
    task = build_task(config, 1, FixedTeacher())
    assert task.identity.head is None
    assert task(faces(), draws()).keys() == {"cosine", "pairwise", "identity", "total"}


# --- stage 2 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_stage_two_leaves_the_generator_bitwise_alone(stage_one: Path, optimizer: Any) -> None:
    task = stage_two(stage_one, consistency=0.5).train()
    assert task.protector is not None
    generator = task.protector.generator
    before = copy.deepcopy(generator.state_dict())
    start = copy.deepcopy(task.recognizer.state_dict())
    moving = build_optimizer(OptimizerConfig(optimizer, lr=0.1, weight_decay=0.1), task.groups())
    assert {group["name"] for group in moving.param_groups} == {"recognizer"}
    for step in range(3):
        task.train()
        moving.zero_grad()
        task(faces(seed=step), draws(step))["total"].backward()
        moving.step()
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())
    assert not any(module.training for module in task.protector.modules())
    assert task.recognizer.training
    assert task.identity.training
    changed = task.recognizer.state_dict()
    assert not torch.equal(changed[FIRST], start[FIRST])
    assert torch.equal(
        checkpoint.load_part(stage_one, prefix="generator.")["project.weight"],
        task.model_tensors()["generator.project.weight"],
    )


def test_stage_two_loss_is_the_mean_over_views(stage_one: Path) -> None:
    task, batch = stage_two(stage_one, permutations=3, consistency=0.5).eval(), faces()
    with torch.no_grad():
        found = task(batch, draws())
        embeddings = task.recognizer(task.protect(batch.crops, draws()))
    margin = margin_loss(task, embeddings, batch.labels.tolist() * 3)
    agree = losses.consistency(numbers(embeddings), 3)
    assert found.keys() == {"margin", "identity", "consistency", "total"}
    assert float(found["margin"]) == pytest.approx(margin, rel=1e-4)
    assert float(found["consistency"]) == pytest.approx(agree, rel=1e-3, abs=1e-5)
    assert float(found["total"]) == pytest.approx(margin + 0.5 * agree, rel=1e-4)


def test_distillation_targets_every_view(stage_one: Path) -> None:
    config = settings(
        "stage2",
        head=HeadConfig(weight=0.0),
        distill=DistillConfig(teacher="given", pairwise=0.0),
        start=StartConfig(generator=str(stage_one)),
    )
    teacher, batch = FixedTeacher(), faces()
    task = build_task(config, CLASSES, teacher).eval()
    assert isinstance(task, StageTwo)
    assert task.identity.distill is not None
    with torch.no_grad():
        found = task(batch, draws())
        embeddings = task.recognizer(task.protect(batch.crops, draws()))
        projected = task.identity.distill.projection(embeddings)
    targets = teacher.targets(batch.keys, batch.crops, batch.flipped)
    expected = losses.distillation(numbers(projected), np.concatenate([numbers(targets)] * 3))
    assert float(found["total"]) == pytest.approx(expected, rel=1e-4)


def literal_residue(task: StageTwo, crops: Tensor) -> Tensor:
    assert task.protector is not None
    with torch.no_grad():
        features = literal.encode(crops, RATIO)
        return features - task.protector.generator(features)[0]


def test_views_are_literal_and_differ(stage_one: Path) -> None:
    task, random = stage_two(stage_one, permutations=3), draws()
    # The same crop four times: only permutations can tell the samples apart.
    crops = faces().crops[:1].repeat(4, 1, 1, 1)
    images = task.protect(crops, draws())
    assert images.shape == (12, 3, SIZE, SIZE)
    assert not images.requires_grad
    assert images.dtype == torch.float32
    residue = literal_residue(task, crops)
    for view in range(3):
        order = draw_permutation(4, CHANNELS, random)
        expected = literal.decode(literal.shuffle(residue, order), RATIO)
        torch.testing.assert_close(images[view * 4 : view * 4 + 4], expected, rtol=0, atol=1e-4)
    for a in range(12):
        for b in range(a):
            assert float((images[a] - images[b]).abs().max()) > 0.01, (a, b)


def test_protect_is_deterministic_given_the_draws(stage_one: Path) -> None:
    task, crops = stage_two(stage_one), faces().crops
    assert torch.equal(task.protect(crops, draws(1)), task.protect(crops, draws(1)))
    assert not torch.equal(task.protect(crops, draws(1)), task.protect(crops, draws(2)))
    global_before = torch.random.get_rng_state()
    task.protect(crops, draws(1))
    assert torch.equal(torch.random.get_rng_state(), global_before)


def test_mask_blanks_channels(stage_one: Path) -> None:
    task = stage_two(stage_one, permutations=2, obfuscation="mask", mask_fraction=0.25)
    crops, random = faces().crops, draws()
    images, residue = task.protect(crops, draws()), literal_residue(task, crops)
    for view in range(2):
        kept = draw_mask(4, CHANNELS, 0.25, random)
        assert kept.sum(1).tolist() == [CHANNELS - 3] * 4
        expected = literal.decode(residue * kept[:, :, None, None], RATIO)
        torch.testing.assert_close(images[view * 4 : view * 4 + 4], expected, rtol=0, atol=1e-4)
    assert not torch.equal(images[:4], images[4:])


def test_copies_stack_along_the_channels(stage_one: Path, tmp_path: Path) -> None:
    task = stage_two(stage_one, permutations=2, n_duplicate=2)
    crops = faces().crops
    images = task.protect(crops, draws())
    assert images.shape == (8, 6, SIZE, SIZE)
    assert task.recognizer.in_channels == 6
    halves = images.view(8, 2, 3, SIZE, SIZE)
    single = stage_two(stage_one, permutations=4).protect(crops, draws()).view(4, 4, 3, SIZE, SIZE)
    for view in range(2):
        for copied in range(2):
            assert torch.equal(halves[view * 4 : view * 4 + 4, copied], single[view * 2 + copied])
    assert bool(torch.isfinite(task(faces(), draws())["total"]))
    checkpoint.save(tmp_path, Card("stage2", task.spec()), {"model": task.model_tensors()})
    assert Protector.load(tmp_path).n_duplicate == 2
    loaded = Recognizer.load(tmp_path)
    assert (loaded.in_channels, loaded.kind) == (6, "protected")


def test_one_permutation_has_no_consistency(stage_one: Path) -> None:
    task = stage_two(stage_one, permutations=1, consistency=1.0)
    assert "consistency" not in task(faces(), draws())


# --- the two extra losses ---------------------------------------------------------------------------


@pytest.mark.parametrize("views", [2, 3, 5])
def test_consistency_is_the_mean_pairwise_cosine(views: int) -> None:
    embeddings = torch.randn(views * 4, 6, generator=draws()) * 3
    expected = losses.consistency(numbers(embeddings), views)
    assert float(consistency(embeddings, views)) == pytest.approx(expected, abs=1e-5)
    equal = embeddings[:4].repeat(views, 1) * torch.rand(views * 4, 1, generator=draws())
    assert float(consistency(equal, views)) == pytest.approx(0.0, abs=1e-5)


def test_opposite_views_disagree_most() -> None:
    vector = torch.randn(4, 6, generator=draws())
    assert float(consistency(torch.cat([vector, -vector]), 2)) == pytest.approx(2.0, abs=1e-5)


def test_sparsity_is_the_divergence() -> None:
    latent = torch.rand(2, 3, 2, 2, generator=draws()) * 4
    expected = losses.sparsity(numbers(latent), 0.05)
    assert float(sparsity(latent, 0.05)) == pytest.approx(expected, rel=1e-5)


def test_sparsity_is_safe_at_the_ends() -> None:
    for latent in (torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 1e30)):
        latent.requires_grad_(True)
        loss = sparsity(latent, 0.05)
        loss.backward()
        assert bool(torch.isfinite(loss))
        assert latent.grad is not None
        assert bool(torch.isfinite(latent.grad).all())


@pytest.mark.parametrize("target", [0.05, 0.5])
def test_sparsity_is_least_at_its_target(target: float) -> None:
    def at(mean: float) -> float:
        return float(sparsity(torch.full((2, 3, 2, 2), mean / (1 - mean)), target))

    assert at(target) == pytest.approx(0.0, abs=1e-6)
    values = [at(mean) for mean in (0.01, target * 0.7, target, target * 1.3, 0.9)]
    assert values[0] > values[1] > values[2] < values[3] < values[4]


# --- building ---------------------------------------------------------------------------------------


def test_weights_come_from_the_seed_and_nothing_else() -> None:
    state = torch.random.get_rng_state()
    first = build_task(settings(), CLASSES, None).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    again = build_task(settings(), CLASSES, None).state_dict()
    other = build_task(settings(seed=1), CLASSES, None).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[f"recognizer.{FIRST}"], other[f"recognizer.{FIRST}"])


@pytest.mark.parametrize("name", ["plain", "toy", "stage1"])
def test_tensors_round_trip(name: TaskName) -> None:
    task = build_task(settings(name), CLASSES, None)
    other = build_task(settings(name, seed=1), CLASSES, None)
    other.load_tensors(task.model_tensors(), task.training_tensors())
    for key, tensor in task.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
    short = {k: v for k, v in task.model_tensors().items() if FIRST not in k}
    refused(lambda: other.load_tensors(short, task.training_tensors()), "recognizer", "missing")


def test_stage_one_goes_on_from_a_generator(stage_one: Path) -> None:
    task = build_task(settings(start=StartConfig(generator=str(stage_one))), CLASSES, None)
    assert isinstance(task, StageOne)
    assert task.protector is not None
    given = checkpoint.load_part(stage_one, prefix="generator.")
    for name, tensor in task.protector.generator.state_dict().items():
        assert torch.equal(tensor, given[name])
    assert "generator" in task.groups()


def test_stage_two_starts_from_a_residue_recogniser(stage_one: Path) -> None:
    config = settings(
        "stage2", start=StartConfig(generator=str(stage_one), recognizer=str(stage_one))
    )
    task = build_task(config, CLASSES, None)
    given = checkpoint.load_part(stage_one, prefix="recognizer.")
    own = task.recognizer.state_dict()
    same = [name for name in own if own[name].shape == given[name].shape]
    assert set(own) - set(same) == {FIRST}
    assert all(torch.equal(own[name], given[name]) for name in same)


def test_refusals_of_settings(stage_one: Path) -> None:
    dct = CodecConfig("dct", SIZE, RATIO)
    refused(lambda: build_task(settings("toy", codec=dct), CLASSES, None), "toy", "raw", "dct")
    raw = CodecConfig("raw", SIZE, RATIO)
    refused(lambda: build_task(settings("stage1", codec=raw), CLASSES, None), "dct or dwt")
    refused(lambda: build_task(settings("plain"), 1, None), "1 person", "2 or more")
    nothing = settings("plain", head=HeadConfig(weight=0.0))
    refused(lambda: build_task(nothing, CLASSES, None), "nothing to learn")
    unknown = settings("plain", recognizer=RecognizerConfig("ir50", 16))
    refused(lambda: build_task(unknown, CLASSES, None), "'ir50'", "ir_50", "mobilefacenet")


def test_refusals_of_stage_two(stage_one: Path, tmp_path: Path) -> None:
    def build(path: Path | None, **changes: Any) -> Callable[[], Task]:
        start = StartConfig(generator=None if path is None else str(path))
        return lambda: build_task(settings("stage2", start=start, **changes), CLASSES, None)

    refused(build(None), "start.generator", "stage-1 checkpoint")
    refused(build(tmp_path / "none"), f"start.generator {tmp_path / 'none'}: not a checkpoint")
    lost = StartConfig(generator=str(stage_one), recognizer="/none")
    refused(
        lambda: build_task(settings("stage2", start=lost), CLASSES, None),
        "start.recognizer /none: not a checkpoint",
    )
    refused(build(stage_one, generator=GeneratorConfig(8)), str(stage_one), "width=4", "width=8")
    other = CodecConfig("dct", SIZE, 4)
    refused(build(stage_one, codec=other), str(stage_one), "ratio=2", "ratio=4")
    plain = build_task(settings("plain"), CLASSES, None)
    checkpoint.save(
        tmp_path / "plain", Card("plain", plain.spec()), {"model": plain.model_tensors()}
    )
    refused(build(tmp_path / "plain"), "'plain' checkpoint holds no generator")


def test_refusal_of_a_warm_start_from_another_backbone(stage_one: Path) -> None:
    config = settings(
        "plain",
        recognizer=RecognizerConfig("mobilefacenet", 16),
        start=StartConfig(recognizer=str(stage_one)),
    )
    refused(lambda: build_task(config, CLASSES, None), "another backbone than mobilefacenet")


def test_refusal_of_a_stage_one_start_of_another_width(stage_one: Path) -> None:
    config = settings(generator=GeneratorConfig(8), start=StartConfig(generator=str(stage_one)))
    refused(lambda: build_task(config, CLASSES, None), str(stage_one))


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "stage3"},
        {"stage2": StageTwoConfig(permutations=0)},
        {"stage2": StageTwoConfig(obfuscation="blur")},  # type: ignore[arg-type]
        {"stage2": StageTwoConfig(obfuscation="mask", mask_fraction=1.5)},
        {"loss": LossConfig(sparsity=1.0, sparsity_target=0.0)},
    ],
    ids=["task", "no permutation", "obfuscation", "mask fraction", "sparsity target"],
)
def test_refusal_when_built_of_what_cannot_train(changes: dict[str, Any], stage_one: Path) -> None:
    name: Any = "stage1" if "loss" in changes else "stage2"
    config = settings(name, start=StartConfig(generator=str(stage_one)))
    refused(lambda: build_task(replace(config, **changes), CLASSES, None))
