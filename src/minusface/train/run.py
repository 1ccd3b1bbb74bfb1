"""A training run from its config: data, teacher, task, evaluation, loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from minusface import collectives
from minusface.checkpoint import Card, load_card, versions
from minusface.config import TrainConfig, plain
from minusface.data import FaceDataset, Loader
from minusface.data.branches import BranchLoader, Joined
from minusface.data.source import open_faces
from minusface.devices import pick_precision, sent
from minusface.errors import MinusfaceError
from minusface.files import write_atomically
from minusface.recognize import Teacher, TeacherFile, load_teacher
from minusface.share import Share
from minusface.train.augment import augment, mirrored, to_crops
from minusface.train.build import build_task, check_samples
from minusface.train.compiled import compile_recognizer
from minusface.train.distort import distort
from minusface.train.going_on import check_out, check_same
from minusface.train.loggers import Logger
from minusface.train.loop import fit, rehearse
from minusface.train.losses import Faces
from minusface.train.parallel import pick_device, replicate, synchronise_norms
from minusface.train.plan import LoopConfig, Outcome, Progress, Rehearsal, step_seed
from minusface.train.settings import check_settings
from minusface.train.tasks import Task
from minusface.weights import resolve

# Augmentation draws from a stream of its own, so that a task may draw as much as it likes.
AUGMENT_STREAM = 0x5EED


def open_loader(config: TrainConfig) -> Loader | BranchLoader:
    """The training data of a config in batches: one dataset, or branches side by side.

    Where processes train together, this one's part of each batch.

    Raises:
        MinusfaceError: see :func:`minusface.data.source.open_faces`; a dataset smaller than its batch.
    """
    data, seed, workers = config.data, config.seed, config.data.workers
    part = (collectives.rank(), collectives.size())
    if not data.branches:
        faces = open_configured(config)
        return Loader(faces, config.batch_size, seed=seed, workers=workers, part=part)
    size, on_error = config.codec.size, data.on_error
    return BranchLoader(
        [
            Loader(
                open_faces(branch.faces, branch.people, size, seed, on_error),
                branch.batch_size,
                # Branches of one dataset are drawn differently.
                seed=step_seed(seed, number),
                workers=workers,
                part=part,
            )
            for number, branch in enumerate(data.branches)
        ]
    )


def open_configured(config: TrainConfig) -> FaceDataset:
    """The training data of a config without branches.

    Raises:
        MinusfaceError: see :func:`minusface.data.source.open_faces`.
    """
    data = config.data
    return open_faces(data.faces, data.people, config.codec.size, config.seed, data.on_error)


def batches(
    loader: Loader | BranchLoader, config: TrainConfig, device: torch.device
) -> Callable[[int], Iterator[tuple[Faces, int]]]:
    """From a step on, augmented batches forever; the same for the same step, whenever it is reached.

    With each batch goes the number of samples that all processes together have at that step.
    """
    parted = collectives.size() > 1
    # A file knows its embeddings by name; a network looks.
    looks = Path(config.distill.teacher or "").suffix.lower() == ".onnx"
    share = Share(torch.tensor(list(loader.rows)), loader.batch_size) if parted else None

    def stream(step: int) -> Iterator[tuple[Faces, int]]:
        while True:
            epoch, offset = divmod(step, loader.steps)
            for batch in loader.epoch(epoch, offset):
                random = torch.Generator().manual_seed(
                    step_seed(config.seed + AUGMENT_STREAM, step)
                )
                whole = to_crops(sent(batch.images, device))
                crops, flipped = augment(
                    whole,
                    random,
                    flip=config.data.flip,
                    shift=config.data.shift,
                    share=share,
                )
                crops = distort(crops, random, config.data.augment, share)
                faces = Faces(crops, sent(batch.labels, device), batch.keys, flipped, share)
                if looks:
                    faces = replace(faces, clean=mirrored(whole, flipped))
                yield faces, loader.batch_size
                step += 1

    return stream


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    evaluate: Callable[[Task], dict[str, float]] | None = None,
    loggers: Sequence[Logger] = (),
    profile: bool = False,
) -> Outcome:
    """Train as a config says, alone or as one of several processes (:mod:`minusface.train.parallel`).

    Args:
        config: everything of the run.
        resume: go on from ``last/`` of ``config.out``.
        report: called with each log line.
        evaluate: metrics of the task as it is; ``score`` decides which checkpoint is best.
        loggers: told log lines and evaluations, besides ``log.jsonl``.
        profile: write a trace of a few steps under ``config.out``.

    Raises:
        MinusfaceError: bad settings, data or checkpoints; a run already in ``config.out``.
    """
    check_settings(config)
    out = Path(config.out)
    check_out(config, resume)
    built = build(config)
    if resume:
        check_same(out / "last", built.card)
    if collectives.rank() == 0:
        text = yaml.safe_dump(plain(config), sort_keys=False)
        write_atomically(out / "config.yaml", text.encode())
    return fit(
        built.task,
        built.batches,
        built.settings,
        built.card,
        evaluate=None if evaluate is None else lambda: evaluate(built.task),
        report=report,
        resume=resume,
        loggers=loggers,
        profile=profile,
    )


def dry_run(config: TrainConfig) -> Rehearsal:
    """Build everything of a run and take two steps; nothing is written.

    Raises:
        MinusfaceError: what :func:`train` would raise so far, but for a run that is there already.
    """
    check_settings(config)
    built = build(config)
    return rehearse(built.task, built.batches, built.settings, built.card)


@dataclass(frozen=True)
class Built:
    """Everything of a run, ready for its first step."""

    task: Task
    batches: Callable[[int], Iterator[tuple[Faces, int]]]
    settings: LoopConfig
    card: Card


def build(config: TrainConfig) -> Built:
    """Data, teacher and task of a config.

    Raises:
        MinusfaceError: bad settings, data or checkpoints.
    """
    device = pick_device(config.device)
    if config.sync_batchnorm and device.type == "cpu":
        raise MinusfaceError("sync_batchnorm true: works on GPUs only, expected false on a CPU")
    config = replace(config, precision=pick_precision(config.precision, device))
    loader = open_loader(config)
    check_samples(config, loader.batch_size, len(loader.rows))
    dataset = loader.dataset
    classes = [p.classes for p in dataset.parts] if isinstance(dataset, Joined) else dataset.classes
    teacher = open_teacher(config, dataset)
    task = build_task(config, classes, teacher)
    if config.sync_batchnorm:
        for recognizer in task.recognizers():
            synchronise_norms(recognizer)
    task = task.to(device)
    if device.type == "cpu" or config.precision == "bfloat16":
        # Convolutions run fastest with channels innermost; values stay the same.
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.compile:
        for recognizer in task.recognizers():
            compile_recognizer(recognizer, device)
    replicate(task, device)
    card = Card(
        task=config.task,
        model=task.spec(),
        config=plain(config),
        data={
            "name": dataset.name,
            "images": len(dataset),
            "people": dataset.classes,
            "fingerprint": dataset.fingerprint(),
            **teacher_of(teacher),
        },
        versions=versions(),
    )
    settings = LoopConfig(
        out=Path(config.out),
        seed=config.seed,
        epochs=config.epochs,
        steps_per_epoch=loader.steps,
        precision=config.precision,
        device=device,
        log_every=config.log_every,
        save_every=config.save_every,
        evaluate_every=config.evaluation.every,
        optimizer=config.optimizer,
        schedule=config.schedule,
    )
    return Built(task, batches(loader, config, device), settings, card)


def open_teacher(config: TrainConfig, dataset: FaceDataset) -> Teacher | None:
    """The teacher of a config, centred on the training images, or None.

    Raises:
        MinusfaceError: see :func:`load_teacher`; or one file's name for images of several branches.
    """
    if config.distill.teacher is None:
        return None
    # Branches may list no keys at all, as a dataset that has no list.
    keys = list(getattr(dataset, "keys", tuple)())
    teacher = load_teacher(config.distill.teacher, keys or None)
    if isinstance(teacher, TeacherFile) and isinstance(dataset, Joined):
        repeated = dataset.repeated_key()
        if repeated is not None:
            raise MinusfaceError(
                f"data.branches: {repeated!r} is in two of them, {teacher.where} has one embedding of it; "
                "expected names that differ, or an .onnx teacher"
            )
    return teacher


def teacher_of(teacher: Teacher | None) -> dict[str, object]:
    """What a card says of its teacher: whoever holds the teacher's embeddings can then move to this model."""
    if not isinstance(teacher, TeacherFile) or teacher.centre is None:
        return {}
    centre = [round(float(value), 7) for value in teacher.centre]
    return {"teacher": {"name": Path(teacher.where).name, "centre": centre}}


def drawn_again(config: TrainConfig) -> list[str]:
    """A line where a training draws what the one it begins from has drawn, and partly learned by heart."""
    if config.start.recognizer is None:
        return []
    try:
        before = load_card(resolve(config.start.recognizer))
    except MinusfaceError:
        return []  # told of when it is loaded
    faces = Path(str(dict(before.config.get("data", {})).get("faces"))).name
    same = (before.task, before.config.get("seed"), faces)
    if same != (config.task, config.seed, Path(config.data.faces).name):
        return []
    return [
        f"seed {config.seed} is start.recognizer's, too: the same batches, distortions and permutations come "
        "again; another seed draws new ones"
    ]
