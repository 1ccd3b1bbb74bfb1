"""From a config to its task, with fresh weights or those of the checkpoints it starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from minusface import collectives
from minusface.checkpoint import load_card, load_into, load_part
from minusface.config import TrainConfig
from minusface.devices import imitated, pick_precision
from minusface.errors import MinusfaceError, of_key
from minusface.protect import Protector
from minusface.protect.generator import UNet
from minusface.recognize import Recognizer, Teacher, warm_start
from minusface.recognize.iresnet import IResNet
from minusface.share import Dropout
from minusface.train.parallel import pick_device
from minusface.train.settings import check_settings
from minusface.train.shuffled import SHUFFLED, ShuffledStageOne
from minusface.train.tasks import Classes, Plain, StageOne, StageTwo, Task
from minusface.weights import resolve


def build_task(config: TrainConfig, classes: Classes, teacher: Teacher | None) -> Task:
    """The task of a config, with fresh weights drawn from the config's seed.

    Raises:
        MinusfaceError: settings that do not go together, or a start checkpoint of the wrong kind.
    """
    check_settings(config)
    ahead = config.loss.shuffled > 0 or config.loss.adversary > 0
    simple: dict[str, Callable[[TrainConfig, Classes, Teacher | None], Task]] = {
        "plain": Plain,
        "toy": StageOne,
        "stage1": ShuffledStageOne if ahead else StageOne,
    }
    if config.task == "toy" and config.codec.name != "raw":
        raise MinusfaceError(
            f"task toy: works on pixels, expected codec.name raw, not {config.codec.name}"
        )
    if config.task == "stage1" and config.codec.name == "raw":
        raise MinusfaceError("task stage1: codec.name raw is the toy case; expected dct or dwt")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which reaches GPUs' generators, too.
        torch.default_generator.manual_seed(config.seed)
        if config.task == "stage2":
            task: Task = StageTwo(config, classes, teacher, _frozen_protector(config))
        else:
            task = simple[config.task](config, classes, teacher)
    for module in task.modules():
        if isinstance(module, (UNet, IResNet)):
            module.recompute = config.recompute
        if isinstance(module, Dropout):
            module.p = config.dropout
    if config.start.recognizer is not None:
        for recognizer in task.recognizers():
            with of_key("start.recognizer"):
                tensors = _start_of(recognizer, config.start.recognizer)
            with of_key(f"start.recognizer {config.start.recognizer}:"):
                warm_start(recognizer, tensors)
    if config.task != "stage2" and config.start.generator and task.protector is not None:
        with of_key("start.generator"):
            loaded = Protector.load(config.start.generator, masks=True)
            _check_codec(loaded, config)
            tensors = loaded.generator.state_dict()
            load_into(task.protector.generator, tensors, config.start.generator)
    return task


def check_samples(config: TrainConfig, batch_size: int, rows: int) -> None:
    """Refuse steps in which a batch norm learns from one sample: it has no variance.

    Args:
        config: of the run.
        batch_size: samples of all processes.
        rows: samples of this one.

    Raises:
        MinusfaceError: so small a batch, with batch norms that are not frozen.
    """
    views, weights = 1, config.loss
    if config.task == "stage2":
        views = config.stage2.permutations
    elif config.task == "stage1" and weights.beta == 0 and weights.shuffled > 0:
        views = weights.views
    together = collectives.size() if config.sync_batchnorm else 1
    if rows * views * together > 1 or config.freeze_batchnorm:
        return
    raise MinusfaceError(
        f"batch_size {batch_size}: one sample a process, of which batch norms learn nothing; "
        f"expected {2 * collectives.size()} or more, or freeze_batchnorm true"
    )


def _start_of(recognizer: Recognizer, path: str) -> dict[str, torch.Tensor]:
    """Weights to begin with: stage 1 may hold a second recogniser, which has seen protected images."""
    folder = resolve(path)
    if recognizer.kind == "protected":
        seen = load_part(folder, prefix=SHUFFLED)
        if seen:
            return seen
    return load_part(folder, prefix="recognizer.")


def _check_codec(loaded: Protector, config: TrainConfig) -> None:
    """Refuse a generator of other features; those of crops of another size are the same.

    Raises:
        MinusfaceError: another transform or ratio.
    """
    before, now = ((codec.name, codec.ratio) for codec in (loaded.codec_config, config.codec))
    # Pixels have no ratio.
    if before != now and not before[0] == now[0] == "raw":
        raise MinusfaceError(
            f"{config.start.generator}: made with codec {before[0]} of ratio {before[1]}, but the config has "
            f"{now[0]} of ratio {now[1]}"
        )


def _frozen_protector(config: TrainConfig) -> Protector:
    """Stage 2's protector, from the stage-1 checkpoint it is given."""
    if config.start.generator is None:
        raise MinusfaceError(
            "task stage2: start.generator is missing, expected a stage-1 checkpoint"
        )
    with of_key("start.generator"):
        loaded = Protector.load(config.start.generator, masks=True)
    if loaded.codec_config != config.codec or loaded.generator_config != config.generator:
        raise MinusfaceError(
            f"{config.start.generator}: made with {loaded.codec_config} and {loaded.generator_config}, "
            f"but the config has {config.codec} and {config.generator}"
        )
    if loaded.n_duplicate != config.stage2.n_duplicate:
        generator = loaded.generator.state_dict()
        loaded = Protector(config.codec, config.generator, config.stage2.n_duplicate)
        loaded.generator.load_state_dict(generator)
    return loaded


def slow_precision(config: TrainConfig) -> list[str]:
    """A line where bfloat16 is asked for and the device only imitates it."""
    return imitated(config.precision, pick_device(config.device))


def other_precision(config: TrainConfig) -> list[str]:
    """A line where a run goes on in another precision than so far: ``auto`` differs between machines."""
    try:
        before = load_card(Path(config.out) / "last").config.get("precision")
    except MinusfaceError:
        return []  # told of when it is loaded
    now = pick_precision(config.precision, pick_device(config.device))
    if before in (None, now):
        return []
    return [
        f"{config.out}: was trained in {before} so far and goes on in {now}: losses will differ from an "
        f"unbroken run's; --precision {before} keeps to it"
    ]
