"""Every setting of a run, as frozen dataclasses. No torch here: ``--help`` must answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CodecName = Literal["dct", "dwt", "raw"]
Precision = Literal["float32", "bfloat16"]
InputTransform = Literal["standardized", "rescaled", "as_is"]
TaskName = Literal["plain", "toy", "stage1", "stage2"]


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
    """Name of a backbone: ir_18, ir_34, ir_50, ir_100, their ir_se_ variants, ir_lite, mobilefacenet."""
    embedding_size: int = 512
    """Length of a template."""
    input: InputTransform = "standardized"
    """What happens to X_p first: standardized (a sample and colour: mean 0, std 0.5), rescaled ([0,1] to
    [-1,1]) or as_is (the reference)."""


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


@dataclass(frozen=True)
class DistillConfig:
    """Matching the embeddings of a teacher (no part of the paper)."""

    teacher: str | None = None
    """A .npz (names, plain, flipped) or an ONNX model; none: no distillation."""
    weight: float = 1.0
    """Weight of the distillation loss."""
    pairwise: float = 1.0
    """Weight, within it, of the pairwise-similarity term beside the cosine term."""
