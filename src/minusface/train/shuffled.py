"""Stage 1 with a look ahead: a second recogniser, or an attacker, sees what the shuffle makes of the residue.

Not in the paper. There the generator is trained for a recogniser of the residue in its order, and stage 2
has to live with what survives the shuffle. Here identity is pulled, while the generator learns, into what
does; other eyes may then find more of the face in it, too, against which the attacker works. Audit it.

Legend: B batch, V permutations an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface import collectives
from minusface.checkpoint import load_into
from minusface.config import TrainConfig
from minusface.devices import sent
from minusface.protect import draw_permutation
from minusface.protect.codec import BlockCodec
from minusface.protect.difference import decode_difference
from minusface.recognize import Recognizer, Teacher
from minusface.share import sharing
from minusface.train.adversary import Adversary
from minusface.train.losses import Faces, Losses, sparsity
from minusface.train.tasks import Classes, StageOne

# Under which names the second recogniser is saved.
SHUFFLED = "shuffled."
# The attacker, which is not part of the model.
ADVERSARY = "adversary."


class ShuffledStageOne(StageOne):
    """loss = alpha * L1(X, d(x')) + beta * identity(f(x - x')) + shuffled * identity(f2(X_p)), and for the
    generator - adversary * L1(X, a(X_p)), where X_p = d(s(x - x')) and a is trained to rebuild."""

    def __init__(self, config: TrainConfig, classes: Classes, teacher: Teacher | None) -> None:
        super().__init__(config, classes, teacher)
        weights, size = config.loss, config.codec.size
        self.viewer: Recognizer | None = None
        self.adversary: Adversary | None = None
        if weights.shuffled > 0:
            self.viewer = Recognizer(config.recognizer, 3, size, "protected")
        # With beta 0 it would be a third of a step's time, for a gradient that nobody asks for.
        self.reads_residue = weights.beta > 0 or self.viewer is None
        if weights.adversary > 0:
            unmixed = size if weights.adversary_unmixed else None
            self.adversary = Adversary(weights.adversary_width, weights.adversary, unmixed)

    def recognizers(self) -> list[Recognizer]:
        """Of the residue, unless it counts for nothing, and of protected images."""
        own = [self.recognizer] if self.reads_residue else []
        return own if self.viewer is None else [*own, self.viewer]

    def replicated(self) -> nn.ModuleList:
        """See :class:`Task`."""
        parts = super().replicated()
        return parts if self.adversary is None else parts.append(self.adversary)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """See :class:`Task`."""
        groups = super().groups()
        if self.adversary is not None:
            groups["adversary"] = list(self.adversary.parameters())
        return groups

    def forward(self, faces: Faces, random: torch.Generator) -> Losses:
        """See :class:`StageOne`; ``shuffled`` is the identity loss of the second recogniser, ``rebuilt`` the
        attacker's L1 distance in units of [-1, 1] pixels (``total`` counts it as the attacker does)."""
        weights, share, views = self.config.loss, faces.draws, self.config.loss.views
        channels = 3 * self.config.codec.ratio**2
        orders = [share.of(draw_permutation(share.total, channels, random)) for _ in range(views)]

        def looked(crops: Tensor, orders_vbf: Tensor) -> tuple[Tensor | None, ...]:
            # In one call: processes that train together agree on gradients once a step.
            *made, latent, protected = self.look_ahead(crops, orders_vbf)
            with sharing(faces.share, views):
                seen = None if self.viewer is None else self.viewer(protected)
            rebuilt = None if self.adversary is None else self.adversary(protected)
            return (*made, latent, seen, rebuilt)

        with sharing(faces.share):
            regenerated, embeddings, latent, seen, rebuilt = self.through(
                looked, faces.crops, sent(torch.stack(orders), faces.crops.device)
            )
        l1 = collectives.mean_over_processes(nnf.l1_loss(regenerated, faces.crops))
        losses: Losses = {}
        total = weights.alpha * l1
        if embeddings is not None:
            losses = self.identity(embeddings, faces, random)
            total = total + weights.beta * losses["identity"]
        losses["l1"] = l1
        if self.viewer is not None:
            losses["shuffled"] = self.identity(seen, faces, random, views)["identity"]
            total = total + weights.shuffled * losses["shuffled"]
        if self.adversary is not None:
            found = nnf.l1_loss(rebuilt, faces.crops.repeat(views, 1, 1, 1))
            losses["rebuilt"] = collectives.mean_over_processes(found)
            total = total + losses["rebuilt"]
        if weights.sparsity > 0:
            losses["sparsity"] = sparsity(latent.float(), weights.sparsity_target)
            total = total + weights.sparsity * losses["sparsity"]
        return {**losses, "total": total}

    def look_ahead(
        self, crops: Tensor, orders_vbf: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """As ``regenerate``, and protected images (V*B, 3, N, N) under the given permutations; no embeddings
        of the residue where they count for nothing."""
        assert self.protector is not None
        codec, last = self.protector.codec, self.protector.generator.project
        assert isinstance(codec, BlockCodec)
        assert last.bias is not None
        generator, features = self.protector.generator, self.protector.read(crops)
        hidden, latent = generator.after_first(features.convolve(generator.first))
        regenerated = codec.decode_projected(hidden, last.weight, last.bias)
        embeddings = None
        if self.reads_residue:
            response = features.convolve(self.recognizer.first)
            embeddings = self.recognizer.forward_difference(
                response, hidden, last.weight, last.bias
            )
        views = [
            decode_difference(codec, features.weigh(order), hidden, last, order)
            for order in orders_vbf
        ]
        return regenerated * 2 - 1, embeddings, latent, torch.cat(views)

    def model_tensors(self) -> dict[str, Tensor]:
        """With the second recogniser, for stage 2 to start from."""
        return super().model_tensors() | _named(SHUFFLED, self.viewer)

    def training_tensors(self) -> dict[str, Tensor]:
        """With the attacker."""
        return super().training_tensors() | _named(ADVERSARY, self.adversary)

    def load_tensors(self, model: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        """See :class:`Task`."""
        super().load_tensors(model, training)
        for part, tensors, prefix in (
            (self.viewer, model, SHUFFLED),
            (self.adversary, training, ADVERSARY),
        ):
            if part is not None:
                own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                load_into(part, own, f"checkpoint, {prefix[:-1]}")


def _named(prefix: str, part: nn.Module | None) -> dict[str, Tensor]:
    """A part's tensors, under its prefix."""
    return {} if part is None else {f"{prefix}{k}": v for k, v in part.state_dict().items()}
