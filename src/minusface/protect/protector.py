"""A crop becomes a protected image: the paper's inference in a dozen lines (sections 3.2 to 3.4).

Legend: B batch, n copies (``n_duplicate``), F channels, N side of a crop in pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from minusface import checkpoint, packed
from minusface.config import CodecConfig, GeneratorConfig, Precision
from minusface.devices import pick_precision, without_autocast
from minusface.errors import MinusfaceError, choice_error, of_key
from minusface.protect.choice import check_tries, least_shown
from minusface.protect.codec import BlockCodec, Codec, build_codec
from minusface.protect.generator import Regeneration, build_generator
from minusface.protect.reading import Features, UnwrittenFeatures, can_stay_unwritten, read
from minusface.protect.rows import Rows
from minusface.protect.shuffle import check_permutation, draw_permutation_from_entropy
from minusface.protect.spec import config_of, copies_of, mask_of, mask_spec
from minusface.types import FaceCrop, ProtectedImage
from minusface.weights import resolve


class Residue(NamedTuple):
    """Everything between a crop and its protected image, for training, audits and pictures."""

    features: Tensor
    """x = e(X): (B, F, N, N)."""
    regenerated: Tensor
    """x' = g(x): (B, F, N, N)."""
    residue: Tensor
    """r = x - x': (B, F, N, N)."""
    latent: Tensor
    """The generator's bottleneck."""


class Protector(nn.Module):
    """Subtract what the generator regenerates, shuffle what is left.

    Deterministic given its arguments: the same crop and permutation give the same bits. The permutation
    always comes from outside.

    Args:
        codec_config: the transform.
        generator_config: the U-Net.
        n_duplicate: n, how many independent permutations an image is sent under (paper: 1).
    """

    codec: Codec
    mask_fraction: float | None = None
    """Part of the channels that is masked where the paper's ablation is trained; None: they are shuffled."""

    def __init__(
        self, codec_config: CodecConfig, generator_config: GeneratorConfig, n_duplicate: int = 1
    ) -> None:
        super().__init__()
        if n_duplicate < 1:
            raise MinusfaceError(f"n_duplicate {n_duplicate}: expected at least 1")
        self.codec_config, self.generator_config = codec_config, generator_config
        self.n_duplicate = n_duplicate
        self.codec = build_codec(codec_config)
        self.generator = build_generator(generator_config, self.codec.channels)
        self.rows = Rows(self.codec) if isinstance(self.codec, BlockCodec) else None
        self.precision: Literal["float32", "bfloat16"] = "float32"
        """Of the generator's convolutions in evaluation; transform, subtraction and decoding stay float32."""

    def forward(self, crops: Tensor, permutation: Tensor) -> Tensor:
        """Crops (B, 3, N, N) in [-1, 1] and their permutations -> X_p (B, 3n, N, N) in [0, 1].

        Args:
            crops: RGB.
            permutation: (B, F) or (B, n, F) integers; or the same of bools, True for channels to keep:
                the paper's masking ablation, which blanks channels in the place of shuffling them.
        """
        shape = (len(crops), self.n_duplicate, self.codec.channels)
        return self.under(crops, permutation.view(shape))

    def under(self, crops: Tensor, orders: Tensor) -> Tensor:
        """As :meth:`forward` under any number k of permutations (B, k, F): (B, 3k, N, N)."""
        shuffled = orders.dtype != torch.bool
        if shuffled and not torch.is_grad_enabled() and self.rows and can_stay_unwritten(crops):
            dtype, around = self._computed_in(crops)
            with around:
                features = self.read(crops, dtype)
                assert isinstance(features, UnwrittenFeatures)
                response = features.convolve(self.generator.first)
                hidden, last = self.generator.after_first(response)[0], self.generator.project
            return self.rows.protected(features.lines, hidden, last, orders)
        residue = self.residue(crops)
        return torch.cat([self._obfuscate(residue, order) for order in orders.unbind(1)], dim=1)

    def _computed_in(
        self, crops: Tensor
    ) -> tuple[torch.dtype | None, contextlib.AbstractContextManager[Any]]:
        """The type of the generator's convolutions where they are packed, else the autocast around them."""
        if self.precision == "float32" or self.training or torch.is_grad_enabled():
            return None, contextlib.nullcontext()
        if packed.usable(crops.new_empty(0, dtype=torch.bfloat16), narrow=True):
            return torch.bfloat16, contextlib.nullcontext()
        return None, torch.autocast(crops.device.type, torch.bfloat16)

    def choose(
        self, crops: Tensor, orders: Tensor, residue: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of K permutations for each copy the one under which the image shows least of the crop's outlines.

        The generator runs once. See :mod:`minusface.protect.choice`.

        Args:
            crops: (B, 3, N, N) in [-1, 1], RGB.
            orders: (B, n, K, F) integers.
            residue: (B, F, N, N), of whoever has it already.

        Returns:
            X_p (B, 3n, N, N) in [0, 1], and the permutations chosen, (B, n, F).
        """
        batch, copies, tries, channels = orders.shape
        every = orders.flatten(1, 2)
        if residue is None:
            images = self.under(crops, every)
        else:
            images = torch.cat([self._obfuscate(residue, order) for order in every.unbind(1)], 1)
        images_ak = images.reshape(batch * copies, tries, 3, *images.shape[2:])
        best_a = least_shown(crops.repeat_interleave(copies, 0), images_ak)
        row_a = torch.arange(len(best_a), device=best_a.device)
        chosen = orders.flatten(0, 1)[row_a, best_a].view(batch, copies, channels)
        return images_ak[row_a, best_a].reshape(batch, 3 * copies, *images.shape[2:]), chosen

    def read(self, crops: Tensor, dtype: torch.dtype | None = None) -> Features:
        """What is linear in the features of crops, ready to be asked; not for the toy case.

        Args:
            crops: (B, 3, N, N) in [-1, 1], RGB.
            dtype: of what is asked; by default what autocast asks for.
        """
        assert isinstance(self.codec, BlockCodec)
        assert self.rows is not None
        return read(self.codec, self.rows, crops, dtype)

    def obfuscate(self, residue: Tensor, permutation: Tensor) -> Tensor:
        """The second half of :meth:`forward`: a residue (B, F, N, N) and permutations -> X_p."""
        orders = permutation.view(len(residue), self.n_duplicate, self.codec.channels).unbind(1)
        return torch.cat([self._obfuscate(residue, order) for order in orders], dim=1)

    def _obfuscate(self, residue: Tensor, order: Tensor) -> Tensor:
        if order.dtype == torch.bool:
            return self.codec.decode(residue * order[:, :, None, None])
        return self.codec.decode(residue, order)

    def residue(self, crops: Tensor) -> Tensor:
        """r = x - g(x) of crops (B, 3, N, N) in [-1, 1]: (B, F, N, N).

        Without a gradient to keep, the generator's last 1x1 convolution is subtracted from the features
        in their own memory: x' is never written.
        """
        if torch.is_grad_enabled() or not isinstance(self.codec, BlockCodec):
            return self.subtract(crops).residue
        dtype, around = self._computed_in(crops)
        with around:
            features = self.codec.encode(crops)
            narrow = features if dtype is None else features.to(dtype)
            # Convolutions are fastest with channels innermost, the decoder with channels outermost.
            inner = narrow.contiguous(memory_format=torch.channels_last)
            hidden, last = self.generator.hidden(inner)[0], self.generator.project
        assert last.bias is not None
        with without_autocast(crops.device.type):
            hidden_bmn = hidden.to(features.dtype).contiguous().flatten(2)
            weight_bfm = last.weight.flatten(1).expand(len(crops), -1, -1)
            features -= last.bias[:, None, None]
            features.flatten(2).baddbmm_(weight_bfm, hidden_bmn, alpha=-1)
        return features

    def subtract(self, crops: Tensor) -> Residue:
        """Features, their regeneration and the residue of crops (B, 3, N, N) in [-1, 1]."""
        features = self.codec.encode(crops)
        made: Regeneration = self.generator(features)
        return Residue(features, made.regenerated, features - made.regenerated, made.latent)

    def protect(
        self,
        crops: FaceCrop | Tensor,
        permutation: Tensor | None = None,
        batch_size: int = 32,
        tries: int = 1,
    ) -> ProtectedImage:
        """Protect crops; this is what a client calls.

        Args:
            crops: faces aligned to the template, or their pixels (B, 3, N, N) in [-1, 1], RGB.
            permutation: (B, n, F) or (B, F); by default drawn from the operating system's entropy. With
                tries, (B, n * tries, F).
            batch_size: how many crops at once.
            tries: so many permutations for each copy; the image is kept that shows least of the photo's
                outlines (:mod:`minusface.protect.choice`). The paper's method is 1.

        Returns:
            X_p, (B, 3n, N, N) in [0, 1], on the CPU.

        Raises:
            MinusfaceError: NaN, values outside [-1, 1], another size, a wrong permutation, batch size or
                number of tries.
        """
        if batch_size < 1:
            raise MinusfaceError(f"batch_size {batch_size}, expected 1 or more")
        faces = crops if isinstance(crops, FaceCrop) else FaceCrop(crops)
        shape = (len(faces), self.n_duplicate * check_tries(tries), self.codec.channels)
        if permutation is None:
            flat = draw_permutation_from_entropy(shape[0] * shape[1], shape[2])
            permutation = flat.view(shape)
        permutation = check_permutation(permutation, shape)
        size = self.codec_config.size
        # Made outside inference mode, as what is made there can be no part of anything that learns.
        pixels = torch.empty(len(faces), self.n_duplicate * 3, size, size)
        weight = next(self.parameters())
        was_training = self.training
        self.eval()
        try:
            parts = [torch.split(t, batch_size) for t in (pixels, faces.pixels, permutation)]
            with torch.inference_mode():
                for into, part, orders in zip(*parts, strict=True):
                    into.copy_(self._tried(part.to(weight), orders.to(weight.device), tries))
        finally:
            self.train(was_training)
        return ProtectedImage(pixels)

    def _tried(self, crops: Tensor, orders: Tensor, tries: int) -> Tensor:
        if tries == 1:
            images: Tensor = self(crops, orders)
            return images
        shape = (len(crops), self.n_duplicate, tries, self.codec.channels)
        return self.choose(crops, orders.view(shape))[0]

    def spec(self) -> dict[str, Any]:
        """What a checkpoint's card must say to rebuild this protector."""
        return {
            "codec": asdict(self.codec_config),
            "generator": asdict(self.generator_config),
            "n_duplicate": self.n_duplicate,
            **mask_spec(self.mask_fraction),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], where: str = "protector") -> Protector:
        """A protector with fresh weights, from a card's ``model``; ``where`` names its source in errors.

        Raises:
            MinusfaceError: a field is missing, unknown or of another type.
        """
        codec = config_of(CodecConfig, spec, "codec", where)
        generator = config_of(GeneratorConfig, spec, "generator", where)
        copies = copies_of(spec, where)
        with of_key(f"{where}:"):
            made = cls(codec, generator, copies)
        made.mask_fraction = mask_of(spec, where)
        return made

    @classmethod
    def load(
        cls, path: str | Path = "default", masks: bool = False, precision: Precision = "float32"
    ) -> Protector:
        """The protector of a stage-1 or stage-2 checkpoint, in eval mode, frozen.

        Args:
            path: a checkpoint or run folder, a name under MINUSFACE_HOME, or the name of packaged weights.
            masks: take one that masks channels, too: who asks draws as its ``mask_fraction`` says.
            precision: float32; ``bfloat16`` for the generator's convolutions, as in training: faster where
                the processor multiplies it itself, many times slower where it only imitates it; or
                ``auto``, which looks. The same photo and permutation give nearly the same image.

        Raises:
            MinusfaceError: no checkpoint, a damaged one, one without a generator, one that masks, or an
                unknown precision.
        """
        if precision not in get_args(Precision):
            raise choice_error("precision", precision, get_args(Precision))
        path = resolve(str(path))
        card = checkpoint.load_card(path)
        if not card.model.get("generator"):
            raise MinusfaceError(
                f"{path}: a {card.task!r} checkpoint holds no generator (expected stage1 or stage2)"
            )
        protector = cls.from_spec(card.model, str(path))
        if protector.mask_fraction is not None and not masks:
            raise MinusfaceError(
                f"{path}: trained on masked channels (stage2.obfuscation mask), which only training and "
                "evaluation follow; expected a checkpoint of obfuscation shuffle"
            )
        tensors = checkpoint.load_part(path, prefix="generator.")
        checkpoint.load_into(protector.generator, tensors, str(path))
        protector.precision = pick_precision(precision, "cpu")
        return protector.eval().requires_grad_(False)
