"""The recogniser: an input transform and a backbone, from images to templates.

Legend: B batch, n images a crop, C input channels (3n, or 192 for features), H, W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface import checkpoint, packed
from minusface.config import InputTransform, Precision, RecognizerConfig
from minusface.devices import autocast_type, pick_precision
from minusface.errors import MinusfaceError, choice_error
from minusface.recognize.backbones import build_backbone
from minusface.recognize.cohort import NEAR, SLOPE, Cohort
from minusface.recognize.iresnet import IResNet
from minusface.recognize.standard import standardize
from minusface.recognize.unmix import Unmix
from minusface.types import FaceCrop, ProtectedImage, Template
from minusface.weights import resolve

RecognizerKind = Literal["protected", "crop", "features"]

SPEC_TYPES = {
    "backbone": str,
    "embedding_size": int,
    "input": str,
    "in_channels": int,
    "size": int,
    "kind": str,
}
# Left out of the card of a recogniser that has none.
OPTIONAL_TYPES = {"cohort": int, "cohort_near": int, "cohort_slope": float}
PREFIX = "recognizer."
COHORT = "cohort."


class Recognizer(nn.Module):
    """What turns images into templates.

    Args:
        config: backbone, embedding size and input transform.
        in_channels: C.
        size: side of the images, a multiple of 16.
        kind: what it was made for: ``protected`` images in [0, 1], ``crop``s in [-1, 1], or ``features``
            (the residue's frequency channels in stage 1), which are never transformed.
        cohort: centres of a cohort, for templates with one more coordinate; none in training.
        cohort_near: how many of them are near.
        cohort_slope: how much being near counts.

    Raises:
        MinusfaceError: an unknown name, or sizes that do not fit.
    """

    def __init__(
        self,
        config: RecognizerConfig,
        in_channels: int = 3,
        size: int = 112,
        kind: RecognizerKind = "protected",
        cohort: int | None = None,
        cohort_near: int = NEAR,
        cohort_slope: float = SLOPE,
    ) -> None:
        super().__init__()
        if kind not in get_args(RecognizerKind):
            raise choice_error("kind of recogniser", kind, get_args(RecognizerKind))
        if config.input not in get_args(InputTransform):
            raise choice_error("input transform", config.input, get_args(InputTransform))
        if kind != "features" and in_channels % 3:
            raise MinusfaceError(
                f"recogniser: {in_channels} input channels, expected 3 an image for kind {kind!r}"
            )
        self.config = config
        self.in_channels = in_channels
        self.size = size
        self.kind: RecognizerKind = kind
        self.unmix: Unmix | None = None
        if config.input in ("unmixed", "unmixed_wide") and kind != "features":
            self.unmix = Unmix(size, config.input == "unmixed_wide")
        read = in_channels if self.unmix is None else self.unmix.channels(in_channels)
        self.backbone = build_backbone(config.backbone, read, config.embedding_size, size)
        self.cohort: Cohort | None = None
        if cohort is not None:
            self.cohort = Cohort(cohort, config.embedding_size, cohort_near, cohort_slope)
        self.precision: Literal["float32", "bfloat16"] = "float32"
        """Of the backbone's convolutions in evaluation; input transform, sums and cohort stay float32."""

    @property
    def template_size(self) -> int:
        """Numbers of a template: D, and one more with a cohort."""
        return self.config.embedding_size if self.cohort is None else self.cohort.size

    def prepare(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The input transform: (B, C, H, W) to the same, or with ``unmixed`` to (B, 7C, H, W) or more.

        ``standardized`` and what is unmixed apply to protected images and crops; ``rescaled`` brings
        protected images from [0, 1] to [-1, 1], where crops are already; features stay as they are.

        Args:
            pixels: any float type.
            dtype: of what ``unmixed`` gives; the others keep theirs.
        """
        if self.kind == "features" or self.config.input == "as_is":
            return pixels
        if self.unmix is not None:
            return cast(Tensor, self.unmix(pixels, dtype))
        if self.config.input == "standardized":
            return standardize(pixels)
        return pixels * 2.0 - 1.0 if self.kind == "protected" else pixels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), untransformed, to raw embeddings (B, D); with a cohort, in evaluation mode, to unit
        rows (B, D + 1)."""
        packs = self._packs(x)
        embeddings = self._embeddings(self.prepare(x, self._read_in(x, packs)), packs)
        if self.cohort is None or self.training:
            return embeddings
        return cast(Tensor, self.cohort(embeddings))

    def _packs(self, x: Tensor) -> bool:
        """Whether convolutions are computed in bfloat16 by packed weights, where they are frozen."""
        if self.precision == "float32" or self.training or not isinstance(self.backbone, IResNet):
            return False
        return packed.usable(x.new_empty(0, dtype=torch.bfloat16), narrow=True)

    def _read_in(self, x: Tensor, packs: bool) -> torch.dtype:
        """The type that the first convolution reads: nothing is written in another one first."""
        return torch.bfloat16 if packs else autocast_type(x.device.type) or torch.float32

    def _embeddings(self, pixels: Tensor, packs: bool) -> Tensor:
        """The backbone's, of transformed images, in the precision that is asked for."""
        if self.precision == "float32" or self.training or torch.is_grad_enabled():
            return cast(Tensor, self.backbone(pixels))
        if packs:
            # Two passes; torch's one of both takes twice as long.
            narrow = pixels.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
            return cast(Tensor, self.backbone(narrow))
        with torch.autocast(pixels.device.type, torch.bfloat16):
            return cast(Tensor, self.backbone(pixels))

    def with_levels(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Raw embeddings (B, D), and what each level of an IR backbone ends with, (B, K, H, W)."""
        levels: list[Tensor] = []
        embeddings = cast(Any, self.backbone).after_first(
            self.first(self.prepare(x, self._read_in(x, False))), levels
        )
        return cast(Tensor, embeddings), levels

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that reads the input."""
        return cast(nn.Conv2d, self.backbone.first)

    def forward_difference(
        self, response: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """Embeddings of features less ``weight * hidden + bias``, a difference that is never formed.

        A convolution is linear: its response to the difference is the difference of its responses, and
        a 1x1 convolution before it folds into its filters. This spares a training step four tensors of
        the features' size.

        Args:
            response: of the first convolution, ``first``, to the features.
            hidden: (B, M, H, W).
            weight: (C, M, 1, 1) of a 1x1 convolution.
            bias: (C,) of it.

        Returns:
            Raw embeddings (B, D).
        """
        assert self.kind == "features", "the input transform of images is not linear"
        first = self.first
        folded = torch.einsum("ochw,cm->omhw", first.weight, weight[:, :, 0, 0])
        constant = torch.einsum("ochw,c->ohw", first.weight, bias)[:, None]
        stride, padding = first.stride, cast("tuple[int, int]", first.padding)
        # One map for all samples: it differs from a plain bias at the border, where the filter hangs out.
        ones = hidden.new_ones(1, 1, *hidden.shape[2:])
        border = nnf.conv2d(ones, constant, stride=stride, padding=padding)
        # The sign goes into the filters, not into a tensor of the response's size.
        response = response - border + nnf.conv2d(hidden, -folded, stride=stride, padding=padding)
        return cast(Tensor, cast(Any, self.backbone).after_first(response))

    def embed(self, images: ProtectedImage | FaceCrop, batch_size: int = 64) -> Template:
        """Templates of images, in evaluation mode, without gradients: float32 rows of unit length.

        Raises:
            MinusfaceError: images of a type, channel count or size it was not made for.
        """
        self._admit(images)
        if batch_size < 1:
            raise MinusfaceError(f"batch_size {batch_size}, expected 1 or more")
        weight = next(self.backbone.parameters())
        training = self.training
        if training:
            self.eval()
        try:
            with torch.inference_mode():
                parts = torch.split(images.pixels, batch_size)
                rows = [self(part.to(weight)).float() for part in parts]
                found = nnf.normalize(torch.cat(rows), dim=1).to(images.pixels.device)
        finally:
            if training:
                self.train()
        # A copy: what was made in inference mode can be no part of anything that learns.
        return Template(found.clone())

    def _admit(self, images: ProtectedImage | FaceCrop) -> None:
        """Refuse images it was not made for."""
        if self.kind == "features":
            raise MinusfaceError(
                "this recogniser reads frequency features inside stage 1 and embeds no images; "
                "use a stage 2 checkpoint for protected images"
            )
        if self.kind == "protected" and not isinstance(images, ProtectedImage):
            raise MinusfaceError(
                f"this recogniser takes ProtectedImage, not {type(images).__name__}: "
                "a photo must be protected first"
            )
        if self.kind == "crop" and not isinstance(images, FaceCrop):
            raise MinusfaceError(
                f"this recogniser was made for unprotected crops: expected FaceCrop, "
                f"not {type(images).__name__}"
            )
        expected = (self.in_channels, self.size, self.size)
        if tuple(images.pixels.shape[1:]) != expected:
            raise MinusfaceError(
                f"recogniser: images of shape {tuple(images.pixels.shape[1:])}, expected {expected}"
            )

    def spec(self) -> dict[str, Any]:
        """What a checkpoint's card must hold to rebuild it (``card.model["recognizer"]``)."""
        return {
            "backbone": self.config.backbone,
            "embedding_size": self.config.embedding_size,
            "input": self.config.input,
            "in_channels": self.in_channels,
            "size": self.size,
            "kind": self.kind,
            **({} if self.cohort is None else self.cohort.spec()),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], where: str = "recogniser") -> Recognizer:
        """A fresh one from what :meth:`spec` gave; ``where`` names its source in errors.

        Raises:
            MinusfaceError: fields missing, unknown, or of another type.
        """
        known = SPEC_TYPES | OPTIONAL_TYPES
        if not isinstance(spec, Mapping) or not set(SPEC_TYPES) <= set(spec) <= set(known):
            given = sorted(map(str, spec)) if isinstance(spec, Mapping) else type(spec).__name__
            raise MinusfaceError(f"{where}: recognizer has {given}, expected {sorted(SPEC_TYPES)}")
        for name, kind in known.items():
            if name in spec and type(spec[name]) is not kind:
                raise MinusfaceError(
                    f"{where}: recognizer.{name} is {spec[name]!r}, expected {kind.__name__}"
                )
        config = RecognizerConfig(spec["backbone"], spec["embedding_size"], spec["input"])
        form = {name: spec[name] for name in OPTIONAL_TYPES if name in spec}
        return cls(config, spec["in_channels"], spec["size"], spec["kind"], **form)

    @classmethod
    def load(cls, path: Path | str = "default", precision: Precision = "float32") -> Recognizer:
        """Rebuild the recogniser of a checkpoint, in evaluation mode, frozen, on the CPU.

        Args:
            path: a checkpoint or run folder, a name under MINUSFACE_HOME, or the name of packaged weights.
            precision: float32; ``bfloat16`` for the backbone's convolutions: nearly twice as fast where
                the processor multiplies it itself, many times slower where it only imitates it; or
                ``auto``, which looks. Templates of both compare: they agree to a thousandth or so.

        Raises:
            MinusfaceError: no checkpoint, none with a recogniser, damaged or foreign tensors, or an
                unknown precision.
        """
        if precision not in get_args(Precision):
            raise choice_error("precision", precision, get_args(Precision))
        path = resolve(str(path))
        card = checkpoint.load_card(path)
        spec = card.model.get("recognizer")
        if spec is None:
            raise MinusfaceError(f"{path}: this checkpoint ({card.task}) holds no recogniser")
        recognizer = cls.from_spec(spec, str(path))
        tensors = checkpoint.load_part(path, prefix=PREFIX)
        checkpoint.load_into(recognizer.backbone, backbone_tensors(tensors), str(path))
        if recognizer.cohort is not None:
            held = {k.removeprefix(COHORT): v for k, v in tensors.items() if k.startswith(COHORT)}
            checkpoint.load_into(recognizer.cohort, held, f"{path}, cohort")
            recognizer.cohort.check_form(f"{path}, cohort")
        recognizer.precision = pick_precision(precision, "cpu")
        return recognizer.eval().requires_grad_(False)


def backbone_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors by its own names, from a state dict of it or of a :class:`Recognizer`."""
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if not name.startswith(COHORT)
    }
