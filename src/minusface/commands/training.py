"""What a training tells while it runs: an introduction, a line a log step, a live line on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from minusface.config import TrainConfig
from minusface.train.plan import Progress as Step
from minusface.train.plan import Rehearsal


class TrainingReport:
    """Lines on stderr; on a terminal also one that lives, with the time that remains."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.training = self.live.add_task("training", total=None, left="")
        self.looking = self.live.add_task("held-out pairs", total=None, left="", visible=False)

    def __enter__(self) -> TrainingReport:
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True)

    def step(self, progress: Step) -> None:
        """One log step."""
        left = duration(progress.seconds_left)
        self.live.update(
            self.training,
            total=progress.steps,
            completed=progress.step,
            left=f"{left} left",
        )
        losses = "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
        rates = "  ".join(f"{name} {value:.2e}" for name, value in progress.rates.items())
        self.line(
            f"{progress.step}/{progress.steps}  epoch {progress.epoch:.2f} | {losses} | lr {rates} | "
            f"{progress.samples_per_second:.1f} images/s | {left} left{_memory(progress.gpu_bytes)}"
        )

    def evaluating(self, done: int, total: int) -> None:
        """How far a held-out evaluation is."""
        self.live.update(self.looking, total=total, completed=done, visible=done < total)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """What a held-out evaluation found."""
        from minusface.commands.train import words

        self.line(f"held-out pairs{words(metrics)}")


def introduction(config: TrainConfig, held_out: bool) -> str:
    """What a run begins with: data, batch, parameters, device; a line each.

    Raises:
        MinusfaceError: data, names or a device that are not there.
    """
    from minusface import collectives
    from minusface.devices import pick_precision
    from minusface.train.parallel import pick_device
    from minusface.train.run import open_loader

    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    loader = open_loader(config)
    data, steps, batch = loader.dataset, loader.steps, loader.batch_size
    shown = f"global batch {batch}"
    if config.task == "stage2" and config.stage2.permutations > 1:
        views = config.stage2.permutations
        shown += f" x {views} permutations = {batch * views} protected images"
    together = collectives.size()
    if together > 1:
        shown += f", {batch // together} on each of {together} processes"
    weights = ""
    if config.task in ("stage1", "toy"):
        alpha = config.loss.alpha
        weights = (
            f", loss {alpha:g} * l1 + {config.loss.beta:g} * identity, effective alpha {alpha:g}"
        )
        weights += " (means over the global batch, on any number of processes)"
    pairs = f"every {config.evaluation.every:g} epochs" if held_out else "none"
    return "\n".join(
        (
            f"task     {config.task}{weights}",
            f"data     {data.name}: {len(data)} images of {data.classes} people",
            f"steps    {steps} an epoch, {config.epochs:g} epochs, {shown}",
            f"model    {_sizes(config)}",
            f"device   {device}, {precision}{f', {together} processes' if together > 1 else ''}",
            f"held out {pairs}",
            f"out      {config.out}",
        )
    )


def _sizes(config: TrainConfig) -> str:
    """Parameters of the parts, counted without memory for them."""
    import torch

    from minusface.protect import build_codec, build_generator
    from minusface.recognize import build_backbone

    channels = build_codec(config.codec).channels
    size, backbone = config.recognizer.embedding_size, config.recognizer.backbone
    inputs = {"stage1": channels, "toy": channels, "stage2": 3 * config.stage2.n_duplicate}
    with torch.device("meta"):
        recognizer = build_backbone(backbone, inputs.get(config.task, 3), size, config.codec.size)
        parts = [(f"recogniser {backbone}", recognizer)]
        if config.task != "plain":
            frozen = " (frozen)" if config.task == "stage2" else ""
            generator = build_generator(config.generator, channels)
            parts.append((f"generator width {config.generator.width}{frozen}", generator))
    counts = [(name, sum(p.numel() for p in part.parameters())) for name, part in parts]
    return ", ".join(f"{name} {count / 1e6:.2f} M parameters" for name, count in counts)


def duration(seconds: float) -> str:
    """``45s``, ``12m 05s``, ``3h 20m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def rehearsal(found: Rehearsal, device: str) -> str:
    """What two steps tell of a run; two lines."""
    from minusface.train.parallel import pick_device

    where = "GPU" if pick_device(device).type == "cuda" else "process"
    whole = duration(found.seconds_per_step * found.steps)
    return (
        f"memory   {found.peak_bytes / 2**30:.2f} GiB at most, of each {where}\n"
        f"time     {whole} for {found.steps} steps at {found.seconds_per_step:.3f} s a step, "
        "evaluations and saves apart; nothing was written"
    )


def _memory(gpu_bytes: int | None) -> str:
    return "" if gpu_bytes is None else f" | {gpu_bytes / 2**30:.2f} GiB"
