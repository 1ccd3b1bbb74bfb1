"""Every setting of a run, as frozen dataclasses. No torch here: ``--help`` must answer at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

CodecName = Literal["dct", "dwt", "raw"]
Precision = Literal["float32", "bfloat16", "auto"]
InputTransform = Literal["standardized", "unmixed", "unmixed_wide", "rescaled", "as_is"]
TaskName = Literal["plain", "toy", "stage1", "stage2"]
# Of codec.ratio: above, a codec's constants alone take gigabytes.
MOST_RATIO = 32


@dataclass(frozen=True)
class CodecConfig:
    """The linear transform between a crop and its frequency channels (paper section 3.2)."""

    name: CodecName = "dct"
    """dct (the paper's method), dwt (its supplement) or raw (pixels: the paper's toy case)."""
    size: int = 112
    """Side of a crop in pixels."""
    ratio: int = 8
    """Upsampling ratio and block side; ratio squared frequencies a colour."""


@dataclass(frozen=True)
class GeneratorConfig:
    """The U-Net that regenerates the features."""

    width: int = 64
    """Channels of the first level; doubles on each of the four below. 64 is the reference's."""


@dataclass(frozen=True)
class RecognizerConfig:
    """The network from (protected) images to templates."""

    backbone: str = "ir_50"
    """Name of a backbone: ir_18, ir_34, ir_50, ir_100, their ir_se_ variants, ir_lite, ir_lite_96,
    mobilefacenet."""
    embedding_size: int = 512
    """Length of a template."""
    input: InputTransform = "standardized"
    """What happens to X_p first: standardized (a sample and colour: mean 0, std 0.5), unmixed (what no
    permutation changes around a pixel: 21 channels an image), unmixed_wide (the same over more pixels, and
    the colours: 58), rescaled ([0,1] to [-1,1]) or as_is (the reference)."""


@dataclass(frozen=True)
class HeadConfig:
    """The margin head used while training on labels."""

    name: Literal["arcface", "cosface", "curricularface", "adaface"] = "arcface"
    """Which margin."""
    scale: float = 64.0
    """Length of the logits (s in the ArcFace paper)."""
    margin: float = 0.5
    """Margin: an angle for arcface/curricularface, a cosine for cosface, AdaFace's m for adaface."""
    weight: float = 1.0
    """Weight of the classification loss; 0 leaves it out, and labels are not needed."""
    sample_rate: float = 1.0
    """Part of the people whose centres take part in a step, drawn anew each time; those in the batch always
    do. For millions of people."""


@dataclass(frozen=True)
class DistillConfig:
    """Matching the embeddings of a teacher (no part of the paper)."""

    teacher: str | None = None
    """A .npz (names, plain, flipped) or an ONNX model; none: no distillation."""
    weight: float = 1.0
    """Weight of the distillation loss."""
    pairwise: float = 1.0
    """Weight, within it, of the pairwise-similarity term beside the cosine term."""
    relation: float = 0.0
    """Weight of the divergence from the teacher's likeness to all the training images; needs a .npz."""
    temperature: float = 0.08
    """By which cosines are divided there: the lower, the more the nearest images count."""
    twin: str | None = None
    """Stage 2: a checkpoint of task plain with the same IR backbone, whose last two levels' maps of the
    unprotected crop are imitated; none: only the teacher's embeddings are."""
    twin_weight: float = 1.0
    """Weight of the distance to the twin's maps; 0 leaves them out."""
    blend: float = 0.0
    """Chance that a crop is blended with another one of the batch, and the twin's embedding of what comes out
    imitated in the place of the teacher's: faces that nobody has, where there are few photos."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of stage 1's losses (paper section 3.3)."""

    alpha: float = 5.0
    """Weight of the L1 distance between the crop and its regeneration."""
    beta: float = 1.0
    """Weight of the recognition loss."""
    shuffled: float = 0.0
    """Weight of the recognition loss of a second recogniser, which sees protected images while the generator
    is trained: identity then survives the shuffle better (not in the paper; audit what it costs)."""
    adversary: float = 0.0
    """Weight, on the generator, of an attacker that learns beside it to rebuild the crop from its protected
    image, and against which it works (not in the paper)."""
    adversary_width: int = 16
    """Width of the attacker's U-Net."""
    adversary_unmixed: bool = False
    """The attacker also reads what no permutation changes around a pixel (as recognizer.input: unmixed)."""
    views: int = 2
    """Permutations an image for that recogniser and that attacker."""
    sparsity: float = 0.0
    """Weight of the KL sparsity of the generator's bottleneck; 0 in the paper."""
    sparsity_target: float = 0.05
    """Mean activation that the sparsity loss pulls each bottleneck channel to."""


@dataclass(frozen=True)
class StageTwoConfig:
    """How protected images are made and shown while training on them (paper section 3.4)."""

    permutations: int = 3
    """Independent permutations an image an epoch."""
    obfuscation: Literal["shuffle", "mask"] = "shuffle"
    """shuffle (the method) or mask (the paper's ablation: blank a part of the channels)."""
    mask_fraction: float = 0.25
    """Part of the channels that mask blanks."""
    n_duplicate: int = 1
    """Protected images an image is sent as, each under a permutation of its own."""
    consistency: float = 0.0
    """Weight of a term that pulls an image's embeddings under different permutations together
    (not in the paper)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are moved."""

    name: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd (the paper), adamw, or muon, which moves all directions of a matrix alike (class centres, norms
    and biases as adamw does); with adamw's learning rates."""
    lr: float = 1e-2
    """Learning rate of recogniser and head."""
    generator_factor: float = 0.5
    """The generator's learning rate as a part of lr (paper: a half)."""
    momentum: float = 0.9
    """Momentum of sgd and of muon (0.95 is usual); first beta of adamw."""
    weight_decay: float = 1e-4
    """Weight decay of matrices and filters; norms and biases have none."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 leaves it as it is."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate goes."""

    name: Literal["step", "cosine"] = "step"
    """step (the paper: a tenth at each milestone) or cosine to zero."""
    warmup: float = 0.0
    """Epochs of linear rise from zero."""
    milestones: tuple[float, ...] = (10.0, 18.0, 22.0)
    """Epochs at which step multiplies by gamma."""
    gamma: float = 0.1
    """Factor of step at a milestone."""


@dataclass(frozen=True)
class AugmentConfig:
    """The chance that a training crop meets each distortion; a teacher still sees the clean crop."""

    jitter: float = 0.0
    """Turned and scaled."""
    colour: float = 0.0
    """Other brightness, contrast, saturation and cast."""
    grey: float = 0.0
    """Without colour."""
    occlusion: float = 0.0
    """A rectangle in the way."""
    blur: float = 0.0
    """Out of focus."""
    jpeg: float = 0.0
    """Compressed."""


@dataclass(frozen=True)
class BranchConfig:
    """One of several datasets trained on side by side, with people and a margin head of its own."""

    faces: str
    """As data.faces."""
    people: str | None = None
    """As data.people."""
    batch_size: int = 64
    """Images of this dataset a step."""
    weight: float = 1.0
    """Weight of its classification loss, times head.weight."""
    scale: float = 64.0
    """As head.scale."""
    margin: float = 0.5
    """As head.margin."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    faces: str = "synthetic:200x10"
    """folder:DIR (a folder a person; or just DIR), list:FILE[@ROOT], tfrecord:INDEX.txt[@ROOT], recordio:DIR,
    shards:PATTERN or synthetic:PEOPLExIMAGES."""
    people: str | None = None
    """A file that lists the people to train on; by default all. Folders only."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a corrupt record does: fail, or skip: the next readable one takes its place, named on stderr."""
    branches: tuple[BranchConfig, ...] = ()
    """Several datasets at once, each with faces, people, batch_size, weight, scale and margin of its own, in
    the place of data.faces, data.people and batch_size. An epoch is one pass over the one of most steps."""
    flip: bool = True
    """Mirror half of the crops."""
    shift: int = 0
    """Crops are moved by up to this many pixels each way."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Distortions beyond flip and shift."""
    workers: int = 0
    """Processes that read images."""


@dataclass(frozen=True)
class EvalConfig:
    """Held-out pairs looked at after each epoch; the best checkpoint is the best on them."""

    pairs: str | None = None
    """A pairs list (LFW's forms); by default none, or synthetic pairs of other people for synthetic faces."""
    faces: str | None = None
    """The face folder of the pairs; by default that of the training data."""
    every: float = 1.0
    """Epochs between evaluations; 0 for none."""


@dataclass(frozen=True)
class StartConfig:
    """Checkpoints to start from."""

    generator: str | None = None
    """Stage 2 needs a stage-1 checkpoint; its generator is frozen. Stage 1 may start from one."""
    recognizer: str | None = None
    """A checkpoint whose recogniser weights are taken where shapes agree."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    task: TaskName = "stage1"
    """plain (unprotected), toy (subtraction on pixels), stage1 or stage2."""
    out: str = "runs/train"
    """Folder of the run: config.yaml, log.jsonl, last/, best/."""
    seed: int = 0
    """Every random draw comes from it."""
    epochs: float = 24.0
    """How often each image is seen."""
    batch_size: int = 64
    """Images a step, of all processes together; in stage 2 each is shown under several permutations in the
    same step."""
    precision: Precision = "float32"
    """float32; bfloat16 for convolutions and matrix products (weights stay float32); or auto: bfloat16 where
    the device multiplies it itself, else float32."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them, and give freed memory back at
    once: more time, a fraction of the memory. Generator and IR backbones."""
    compile: bool = False
    """Compile the recogniser's training step: minutes before the first step, fewer passes over memory after
    it. Needs a C++ compiler on CPUs; results differ by rounding."""
    dropout: float = 0.4
    """Before the last linear layer of an IR backbone; 0.4 in the reference. Small networks that do not learn
    their training data whole may do better without."""
    freeze_batchnorm: bool = False
    """Batch norms keep to their running statistics, and learn none."""
    sync_batchnorm: bool = False
    """Batch norms take the statistics of all processes' samples; GPUs only. Without it each process
    normalises with its own samples', and the first one's running statistics are kept."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    log_every: int = 10
    """Steps between log lines."""
    save_every: int = 500
    """Steps between saves of last/."""
    tensorboard: bool | None = None
    """Also write TensorBoard events; by default where TensorBoard is installed."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    recognizer: RecognizerConfig = field(default_factory=RecognizerConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    stage2: StageTwoConfig = field(default_factory=StageTwoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    start: StartConfig = field(default_factory=StartConfig)


def plain(config: TrainConfig) -> dict[str, Any]:
    """A config as YAML and JSON can hold it."""

    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: listed(inner) for key, inner in value.items()}
        return [listed(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    raw: dict[str, Any] = listed(asdict(config))
    return raw
