"""The independent recogniser: it knows nothing of the protection, and says whose face an image shows.

Attackers distil from it, and recovered faces are judged by it. Legend: B batch, N side, D embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.audit.access import BATCH
from minusface.audit.attack import Fit, autocast, fit_attacker
from minusface.audit.scene import Photos, Scene
from minusface.config import HeadConfig, RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import PlainEmbedder
from minusface.evaluate.models import load_model
from minusface.evaluate.onnx_embedder import OnnxEmbedder
from minusface.recognize import Recognizer, build_head, head_loss
from minusface.weights import resolve

OWN = RecognizerConfig("ir_lite", 128, "standardized")
# Of ArcFace, for people in the hundreds and steps in the hundreds.
HEAD = HeadConfig(name="cosface", scale=24.0, margin=0.2)


class Ruler:
    """An independent recogniser of plain faces.

    Args:
        embed: from crops (B, 3, N, N) in [-1, 1] to (B, D), of any length but zero.
        words: what it is, for the report.
        fingerprint: changes when it does.
        recognizer: of ours, where it is one: students may start from its weights.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        words: str,
        fingerprint: str,
        recognizer: Recognizer | None = None,
    ) -> None:
        self._embed, self.words, self.fingerprint = embed, words, fingerprint
        self.recognizer = recognizer

    @torch.no_grad()
    def embed(self, crops: Tensor) -> Tensor:
        """Crops (B, 3, N, N) in [-1, 1] to unit rows (B, D), on the CPU."""
        rows = [self._embed(part).float().cpu() for part in torch.split(crops, BATCH)]
        return nnf.normalize(torch.cat(rows), dim=1)

    def embed_photos(self, photos: Photos) -> Tensor:
        """(len, D) of photos."""
        parts = torch.split(torch.arange(len(photos)), 256)
        return torch.cat([self.embed(photos.crops(part)) for part in parts])


def load_ruler(path: str | Path, device: torch.device) -> Ruler:
    """A plain checkpoint of ours, by folder or name, or any ONNX embedder.

    Raises:
        MinusfaceError: a model of protected images, or none.
    """
    model = load_model(resolve(str(path)))
    embedder = model.embedder
    if isinstance(embedder, PlainEmbedder):
        return _of(embedder.recognizer.to(device), str(path), model.fingerprint)
    if not isinstance(embedder, OnnxEmbedder):
        raise MinusfaceError(
            f"{path}: recognises protected images; the independent recogniser must know plain faces only"
        )

    def embed(crops: Tensor) -> Tensor:
        images = ((crops.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return embedder.embed(images, [""] * len(images), 0, False)

    return Ruler(embed, str(path), model.fingerprint)


def train_ruler(
    scene: Scene,
    budget: Fit,
    folder: Path | None,
    *,
    size: int,
    seed: int,
    device: torch.device,
    precision: str,
    progress: Callable[[float], None] = lambda part: None,
) -> Ruler:
    """A small one, from the names of the attacker's own people; for machines that have no other.

    Its weights are those that tell the scene's several photos of a person from others' best; the last ones
    where it has none.

    Args:
        scene: whose photos it learns from.
        budget: how much it may learn.
        folder: where its state is kept, under a name that begins like this; None keeps nothing.
        size: side of the crops.
        seed: of the draws.
        device: where it learns.
        precision: ``bfloat16`` learns in it.
        progress: told the part of the steps done.

    Raises:
        MinusfaceError: the attacker's photos show one person only.
    """
    people = sorted(set(scene.train.labels.tolist()))
    if len(people) < 2:
        raise MinusfaceError("the attacker's photos show one person: give --recognizer FILE")
    number = {person: place for place, person in enumerate(people)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recognizer = Recognizer(OWN, 3, size, "crop").to(device)
        head = build_head(HEAD, OWN.embedding_size, len(people)).to(device)
    fingerprint = _fingerprint(scene, budget, seed, size)
    _learn(
        recognizer,
        head,
        scene,
        number,
        budget,
        seed=seed,
        # Of another training, or looked at by other photos, it is another one.
        folder=None if folder is None else folder.with_name(f"{folder.name}-{fingerprint[:12]}"),
        precision=precision,
        progress=progress,
    )
    return _of(recognizer, _words(scene, len(people)), fingerprint)


def _words(scene: Scene, people: int) -> str:
    """What a judge that is trained here is."""
    last = (
        "; there are no two photos of one person to choose its weights by: they are the last ones"
    )
    return (
        f"trained here on the attacker's {len(scene.train)} photos of {people} people: a weak ruler; "
        f"give --recognizer for a better one{last if scene.paired is None else ''}"
    )


def _learn(
    recognizer: Recognizer,
    head: nn.Module,
    scene: Scene,
    number: dict[int, int],
    budget: Fit,
    **how: Any,
) -> None:
    """Train it; ``number`` is the class of a person, ``how`` is for :func:`fit_attacker`."""
    both, done = nn.ModuleList([recognizer, head]), 0
    device = next(recognizer.parameters()).device

    def loss(step: int, random: torch.Generator) -> Tensor:
        nonlocal done
        done = step + 1
        places = torch.randint(len(scene.train), (budget.batch_size,), generator=random)
        crops = augmented(scene.train.crops(places), random).to(device)
        labels = torch.tensor([number[int(scene.train.labels[p])] for p in places], device=device)
        return head_loss(head(recognizer(crops), labels), labels)

    def validate() -> float:
        if scene.paired is None:
            # Always better than before, so that the last weights are kept: there is nothing to choose by.
            return 1 - done / budget.steps
        return _disorder(recognizer, scene.paired, device)

    fit_attacker(both, loss, validate, budget, **how)


def _fingerprint(scene: Scene, budget: Fit, seed: int, size: int) -> str:
    """SHA-256 (hex) of all that a judge that is trained here comes from."""
    said = json.dumps([scene.fingerprint, repr(budget), seed, size])
    chosen = b"last" if scene.paired is None else scene.paired.crops().numpy().tobytes()
    return hashlib.sha256(said.encode() + chosen).hexdigest()


def augmented(crops: Tensor, random: torch.Generator) -> Tensor:
    """Half of the crops mirrored, all moved by up to four pixels."""
    mirrored = torch.rand(len(crops), generator=random) < 0.5
    turned = torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
    dx, dy = torch.randint(-4, 5, (2,), generator=random).tolist()
    return turned.roll((dy, dx), (-2, -1))


def _of(recognizer: Recognizer, words: str, fingerprint: str) -> Ruler:
    recognizer.eval().requires_grad_(False)
    device = next(recognizer.parameters()).device

    def embed(crops: Tensor) -> Tensor:
        with autocast(device, "float32"):
            rows: Tensor = recognizer(crops.to(device))
        return rows

    return Ruler(embed, words, fingerprint, recognizer)


def _disorder(recognizer: Recognizer, photos: Photos, device: torch.device) -> float:
    """How often a pair of two people looks more alike than one of one person, among photos that hold pairs
    of both kinds; in [0, 1]."""
    rows = nnf.normalize(
        torch.cat(
            [recognizer(p.to(device)).float().cpu() for p in torch.split(photos.crops(), BATCH)]
        )
    )
    labels = torch.from_numpy(photos.labels)
    same = labels[:, None] == labels[None]
    above = torch.ones_like(same).triu(1).bool()
    scores = rows @ rows.T
    genuine, impostor = scores[same & above], scores[~same & above]
    below = torch.searchsorted(impostor.sort().values, genuine)
    return float(1 - below.double().mean() / len(impostor))
