"""One class a stage: a batch in, named losses out. Nothing here steps an optimiser or writes a file.

Legend: B batch, V permutations an image (views), F channels, N side of a crop, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from minusface import collectives
from minusface.checkpoint import load_into
from minusface.config import TrainConfig
from minusface.devices import sent
from minusface.errors import MinusfaceError, of_key
from minusface.protect import Protector, draw_mask, draw_permutation
from minusface.protect.codec import BlockCodec
from minusface.recognize import Recognizer, Teacher
from minusface.recognize.recognizer import RecognizerKind
from minusface.recognize.twin import Twin
from minusface.share import Share, sharing
from minusface.train.blend import blend
from minusface.train.losses import Faces, IdentityLoss, Losses, consistency, sparsity

# How many people; a number a branch where there are branches.
Classes = int | Sequence[int]
# Calls a function of tensors; where processes train together, so that gradients are summed over them.
Through = Callable[..., Any]


def directly(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """Just the call."""
    return function(*tensors)


class Task(nn.Module):
    """What the stages share: a recogniser, an identity loss, the names things are saved under."""

    kind: RecognizerKind = "crop"

    def __init__(self, config: TrainConfig, classes: Classes, teacher: Teacher | None) -> None:
        super().__init__()
        self.config = config
        self.protector: Protector | None = None
        self.recognizer = Recognizer(
            config.recognizer, self.recognizer_channels(), config.codec.size, self.kind
        )
        self.identity = IdentityLoss(config, classes, teacher)
        self.through: Through = directly

    def recognizer_channels(self) -> int:
        """Channels that the recogniser reads."""
        return 3

    def recognizers(self) -> list[Recognizer]:
        """All that are trained."""
        return [self.recognizer]

    def forward(self, faces: Faces, random: torch.Generator) -> Losses:
        """Named losses of a batch; ``total`` is what is minimised.

        Args:
            faces: the batch.
            random: a CPU generator; every draw of the step comes from it.
        """
        with sharing(faces.share):
            embeddings = self.through(self.recognizer, faces.crops)
        losses = self.identity(embeddings, faces, random)
        return {**losses, "total": losses["identity"]}

    def train(self, mode: bool = True) -> Task:
        """Training mode for all that trains; frozen batch norms keep to their running statistics."""
        super().train(mode)
        if self.config.freeze_batchnorm:
            for layer in self.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def replicated(self) -> nn.ModuleList:
        """The networks that every process holds whole and trains on its own samples."""
        parts: list[nn.Module] = [*self.recognizers()]
        if self.protector is not None and "generator" in self.groups():
            parts.append(self.protector.generator)
        return nn.ModuleList(parts)

    def sharded(self) -> dict[str, tuple[nn.Parameter, range, int]]:
        """Of each of :meth:`training_tensors` that is a part of a larger one: the part, which rows it is,
        and of how many."""
        heads = self.identity.shards()
        return {f"identity.{k}": (h.centres, h.shard, h.classes) for k, h in heads.items()}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by what they belong to; each group gets its own learning rate."""
        own = [p for recognizer in self.recognizers() for p in recognizer.parameters()]
        groups = {"recognizer": [*own, *self.identity.parameters()]}
        if self.protector is not None:
            trained = [p for p in self.protector.generator.parameters() if p.requires_grad]
            if trained:
                groups["generator"] = trained
        return groups

    def spec(self) -> dict[str, Any]:
        """The card's ``model``."""
        shared = {} if self.protector is None else self.protector.spec()
        return {**shared, "recognizer": self.recognizer.spec()}

    def model_tensors(self) -> dict[str, Tensor]:
        """What using the model needs."""
        tensors = {f"recognizer.{k}": v for k, v in self.recognizer.state_dict().items()}
        if self.protector is not None:
            generator = self.protector.generator.state_dict()
            tensors |= {f"generator.{k}": v for k, v in generator.items()}
        return tensors

    def training_tensors(self) -> dict[str, Tensor]:
        """What going on with training needs besides: margin head and projections."""
        return {f"identity.{k}": v for k, v in self.identity.state_dict().items()}

    def load_tensors(self, model: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`model_tensors` and :meth:`training_tensors` gave.

        Raises:
            MinusfaceError: other names or shapes.
        """
        parts: list[tuple[nn.Module, Mapping[str, Tensor], str]] = [
            (self.recognizer, model, "recognizer."),
            (self.identity, training, "identity."),
        ]
        if self.protector is not None:
            parts.append((self.protector.generator, model, "generator."))
        for module, tensors, prefix in parts:
            own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            load_into(module, own, f"checkpoint, {prefix[:-1]}")


class Plain(Task):
    """The unprotected baseline: the recogniser sees crops."""


class StageOne(Task):
    """Generator and recogniser end to end (paper section 3.3, Eq. 5); with the raw codec, the toy case.

    loss = alpha * L1(X, d(x')) + beta * identity(f(x - x')), means over the batch, so that alpha does
    not depend on how many devices share it.
    """

    kind: RecognizerKind = "features"

    def __init__(self, config: TrainConfig, classes: Classes, teacher: Teacher | None) -> None:
        super().__init__(config, classes, teacher)
        self.protector = Protector(config.codec, config.generator)

    def recognizer_channels(self) -> int:
        """The residue's channels."""
        return 3 if self.config.codec.name == "raw" else 3 * self.config.codec.ratio**2

    def forward(self, faces: Faces, random: torch.Generator) -> Losses:
        """See :class:`Task`. ``l1`` is in units of [-1, 1] pixels."""
        with sharing(faces.share):
            made = self.through(self.regenerate, faces.crops)
        regenerated, embeddings, latent = made
        l1 = collectives.mean_over_processes(nnf.l1_loss(regenerated, faces.crops))
        losses = self.identity(embeddings, faces, random)
        weights = self.config.loss
        total = weights.alpha * l1 + weights.beta * losses["identity"]
        losses["l1"] = l1
        if weights.sparsity > 0:
            losses["sparsity"] = sparsity(latent.float(), weights.sparsity_target)
            total = total + weights.sparsity * losses["sparsity"]
        return {**losses, "total": total}

    def regenerate(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X' = d(x') in [-1, 1], embeddings of the residue x - x', and the latent, of crops X.

        The generator ends in a 1x1 convolution and what reads x' is linear, so neither x' nor the
        residue is formed: see ``decode_projected`` and ``forward_difference``.
        """
        assert self.protector is not None
        codec, generator = self.protector.codec, self.protector.generator
        if not isinstance(codec, BlockCodec):
            made = self.protector.subtract(crops)
            regenerated = codec.decode(made.regenerated)
            return regenerated * 2 - 1, self.recognizer(made.residue), made.latent
        last = generator.project
        assert last.bias is not None
        features = self.protector.read(crops)
        hidden, latent = generator.after_first(features.convolve(generator.first))
        regenerated = codec.decode_projected(hidden, last.weight, last.bias)
        response = features.convolve(self.recognizer.first)
        embeddings = self.recognizer.forward_difference(response, hidden, last.weight, last.bias)
        return regenerated * 2 - 1, embeddings, latent


def _check_space(twin: Twin, teacher: Teacher) -> None:
    size = twin.recognizer.config.embedding_size
    if size != teacher.size:
        raise MinusfaceError(
            f"distill.blend: the twin's embeddings have {size} numbers, the teacher's {teacher.size}; "
            "expected a twin that is in the teacher's space"
        )


class StageTwo(Task):
    """A recogniser from scratch on protected images; the generator is frozen (paper section 3.4)."""

    kind: RecognizerKind = "protected"

    def __init__(
        self, config: TrainConfig, classes: Classes, teacher: Teacher | None, protector: Protector
    ) -> None:
        super().__init__(config, classes, teacher)
        self.protector = protector.eval().requires_grad_(False)
        masks = config.stage2.obfuscation == "mask"
        self.protector.mask_fraction = config.stage2.mask_fraction if masks else None
        self.twin: Twin | None = None
        if config.distill.twin is not None:
            with of_key("distill.twin"):
                self.twin = Twin.load(config.distill.twin, self.recognizer)
            if config.distill.blend > 0 and teacher is not None:
                _check_space(self.twin, teacher)

    def recognizer_channels(self) -> int:
        """Three a copy."""
        return 3 * self.config.stage2.n_duplicate

    def train(self, mode: bool = True) -> StageTwo:
        """Training mode for all but the generator."""
        super().train(mode)
        if self.protector is not None:
            self.protector.eval()
        return self

    def forward(self, faces: Faces, random: torch.Generator) -> Losses:
        """See :class:`Task`. The generator runs once an image, whatever the number of permutations."""
        settings, distill, maps = self.config.stage2, self.config.distill, None
        if self.twin is not None:
            faces, maps = self._imitated(self.twin, faces, random)
        protected = self.protect(faces.crops, random, faces.share)
        with sharing(faces.share, settings.permutations):
            if maps is None:
                embeddings, levels = self.through(self.recognizer, protected), []
            else:
                embeddings, levels = self.through(self.recognizer.with_levels, protected)
        losses = self.identity(embeddings, faces, random, settings.permutations)
        total = losses["identity"]
        if self.twin is not None and maps is not None:
            losses["twin"] = collectives.mean_over_processes(self.twin.distance(levels, maps))
            total = total + distill.twin_weight * losses["twin"]
        if settings.consistency > 0 and settings.permutations > 1:
            losses["consistency"] = consistency(embeddings, settings.permutations)
            total = total + settings.consistency * losses["consistency"]
        return {**losses, "total": total}

    def _imitated(
        self, twin: Twin, faces: Faces, random: torch.Generator
    ) -> tuple[Faces, list[Tensor] | None]:
        """The batch, some of it blended and told the twin's embeddings of it; and the twin's maps."""
        distill, teacher = self.config.distill, self.identity.teacher
        rows: Tensor | None = None
        if distill.blend > 0 and teacher is not None:
            targets = faces.told(teacher)
            crops, rows = blend(faces.crops, distill.blend, random, faces.share)
            faces = replace(faces, crops=crops, targets=targets)
        maps: list[Tensor] | None = None
        if distill.twin_weight > 0:
            embeddings, maps = twin.sees(faces.crops)
        if rows is not None and faces.targets is not None and len(rows) > 0:
            # Without maps to imitate the twin is asked about the blended crops alone.
            told = twin.sees(faces.crops[rows])[0] if maps is None else embeddings[rows]
            faces = replace(faces, targets=faces.targets.index_copy(0, rows, told))
        return faces, maps

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator, share: Share | None = None) -> Tensor:
        """(V*B, 3n, N, N) in [0, 1]: every crop under V draws of n permutations, view after view."""
        share = Share.whole(len(crops)) if share is None else share
        assert self.protector is not None
        settings, codec = self.config.stage2, self.protector.codec
        total, channels = share.total, codec.channels
        orders: list[Tensor] = []
        for _ in range(settings.permutations * settings.n_duplicate):
            if settings.obfuscation == "mask":
                drawn = draw_mask(total, channels, settings.mask_fraction, random)
            else:
                drawn = draw_permutation(total, channels, random)
            orders.append(share.of(drawn))
        orders_bnf = sent(torch.stack(orders, dim=1), crops.device)
        images = self.protector.under(crops, orders_bnf).float()
        shape = (len(crops), settings.permutations, -1, *crops.shape[2:])
        return images.view(shape).transpose(0, 1).flatten(0, 1)
