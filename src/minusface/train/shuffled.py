"""Stage 1 with a look ahead: a second recogniser sees what the shuffle makes of the residue.

Not in the paper. There the generator is trained for a recogniser of the residue in its order, and stage 2
has to live with what survives the shuffle. Here identity is pulled, while the generator learns, into what
does. Other eyes may then find more of the face in it, too: audit it.

Legend: B batch, V permutations an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface import collectives
from minusface.checkpoint import load_into
from minusface.config import TrainConfig
from minusface.protect import draw_permutation
from minusface.protect.codec import BlockCodec
from minusface.protect.difference import decode_difference
from minusface.recognize import Recognizer, Teacher
from minusface.share import sharing
from minusface.train.losses import Faces, Losses, sparsity
from minusface.train.tasks import Classes, StageOne

# Under which names the second recogniser is saved.
SHUFFLED = "shuffled."


class ShuffledStageOne(StageOne):
    """loss = alpha * L1(X, d(x')) + beta * identity(f(x - x')) + shuffled * identity(f2(d(s(x - x'))))."""

    def __init__(self, config: TrainConfig, classes: Classes, teacher: Teacher | None) -> None:
        super().__init__(config, classes, teacher)
        self.viewer = Recognizer(config.recognizer, 3, config.codec.size, "protected")

    def recognizers(self) -> list[Recognizer]:
        """Of the residue, and of protected images."""
        return [self.recognizer, self.viewer]

    def forward(self, faces: Faces, random: torch.Generator) -> Losses:
        """See :class:`StageOne`; ``shuffled`` is the identity loss of the second recogniser."""
        weights, share, views = self.config.loss, faces.draws, self.config.loss.views
        channels = 3 * self.config.codec.ratio**2
        orders = [share.of(draw_permutation(share.total, channels, random)) for _ in range(views)]

        def looked(crops: Tensor, orders_vbf: Tensor) -> tuple[Tensor, ...]:
            # In one call: processes that train together agree on gradients once a step.
            *made, protected = self.look_ahead(crops, orders_vbf)
            with sharing(faces.share, views):
                return (*made, self.viewer(protected))

        with sharing(faces.share):
            regenerated, embeddings, latent, seen = self.through(
                looked, faces.crops, torch.stack(orders).to(faces.crops.device)
            )
        l1 = collectives.mean_over_processes(nnf.l1_loss(regenerated, faces.crops))
        losses = self.identity(embeddings, faces, random)
        shuffled = self.identity(seen, faces, random, views)["identity"]
        total = weights.alpha * l1 + weights.beta * losses["identity"] + weights.shuffled * shuffled
        losses |= {"l1": l1, "shuffled": shuffled}
        if weights.sparsity > 0:
            losses["sparsity"] = sparsity(latent.float(), weights.sparsity_target)
            total = total + weights.sparsity * losses["sparsity"]
        return {**losses, "total": total}

    def look_ahead(
        self, crops: Tensor, orders_vbf: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``regenerate``, and protected images (V*B, 3, N, N) under the given permutations."""
        assert self.protector is not None
        codec, last = self.protector.codec, self.protector.generator.project
        assert isinstance(codec, BlockCodec)
        assert last.bias is not None
        generator, features = self.protector.generator, self.protector.read(crops)
        hidden, latent = generator.after_first(features.convolve(generator.first))
        regenerated = codec.decode_projected(hidden, last.weight, last.bias)
        response = features.convolve(self.recognizer.first)
        embeddings = self.recognizer.forward_difference(response, hidden, last.weight, last.bias)
        views = [
            decode_difference(codec, features.weigh(order), hidden, last, order)
            for order in orders_vbf
        ]
        return regenerated * 2 - 1, embeddings, latent, torch.cat(views)

    def model_tensors(self) -> dict[str, Tensor]:
        """With the second recogniser, for stage 2 to start from."""
        own = {f"{SHUFFLED}{k}": v for k, v in self.viewer.state_dict().items()}
        return super().model_tensors() | own

    def load_tensors(self, model: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        """See :class:`Task`."""
        super().load_tensors(model, training)
        start = len(SHUFFLED)
        own = {k[start:]: v for k, v in model.items() if k.startswith(SHUFFLED)}
        load_into(self.viewer, own, "checkpoint, shuffled")
