"""What peers must see or learn before they can protect: from the attacker's photos, never those attacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.audit.access import BATCH, Target, seeded
from minusface.audit.bench import Bench
from minusface.peers.base import Fitted, Protection, Taught
from minusface.recognize import DistillLoss, DistillLosses

# Photos that peers are fitted to.
FITTED = 512


def prepare(bench: Bench, peers: Sequence[Protection]) -> None:
    """Fit those that must see faces, teach those that learn; what was taught before is taken up again."""
    photos = bench.scene.train
    some = photos.crops(range(min(FITTED, len(photos))))
    for peer in peers:
        if isinstance(peer, Fitted):
            peer.fit(some)
        if isinstance(peer, Taught):
            _teach(bench, peer, some)


def _teach(bench: Bench, peer: Taught, some: Tensor) -> None:
    """Its recogniser, and with it the rest, imitates the independent one, as every protection's does."""
    photos, held, fit = bench.scene.train, bench.scene.validation, bench.budget.lessons
    targets = bench.ruler.embed_photos(photos)
    wanted = bench.ruler.embed_photos(held)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        pupil = peer.pupil(some, targets.shape[1])
        distill = DistillLoss(targets.shape[1], targets.shape[1])
    pupil.to(bench.device)

    def loss(step: int, random: torch.Generator) -> Tensor:
        places = torch.randint(len(photos), (fit.batch_size,), generator=random)
        crops = photos.crops(places).to(bench.device)
        wanted_now = targets[places].to(bench.device)
        parts: list[DistillLosses] = [distill(row, wanted_now) for row in pupil(crops, random)]
        beside = [] if pupil.beside is None else [pupil.beside]
        return torch.stack([*(part.total for part in parts), *beside]).sum()

    def validate() -> float:
        random = seeded("lesson", bench.seed, peer.name)
        parts = torch.split(held.crops(), BATCH)
        rows = torch.cat([pupil(p.to(bench.device), random)[-1].float().cpu() for p in parts])
        return float(1 - (nnf.normalize(rows, dim=1) * wanted).sum(1).mean())

    key = bench.key("lesson", Target(peer), fit, bench.ruler.fingerprint)
    bench.learn(f"{peer.name}, what it protects with", pupil, loss, validate, fit, key)
    peer.learn(pupil)
