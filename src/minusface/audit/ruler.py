"""The independent recogniser: it knows nothing of the protection, and says whose face an image shows.

Attackers distil from it, and recovered faces are judged by it. Legend: B batch, N side, D embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

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
    both = nn.ModuleList([recognizer, head])

    def loss(step: int, random: torch.Generator) -> Tensor:
        places = torch.randint(len(scene.train), (budget.batch_size,), generator=random)
        crops = augmented(scene.train.crops(places), random).to(device)
        labels = torch.tensor([number[int(scene.train.labels[p])] for p in places], device=device)
        return head_loss(head(recognizer(crops), labels), labels)

    def validate() -> float:
        return _disorder(recognizer, scene.validation, device)

    fit_attacker(
        both,
        loss,
        validate,
        budget,
        seed=seed,
        folder=folder,
        precision=precision,
        progress=progress,
    )
    said = json.dumps([scene.fingerprint, repr(budget), seed, size])
    words = (
        f"trained here on the attacker's {len(scene.train)} photos of {len(people)} people: a weak ruler; "
        "give --recognizer for a better one"
    )
    return _of(recognizer, words, hashlib.sha256(said.encode()).hexdigest())


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
    """How often a pair of two people looks more alike than one of one person, among photos; in [0, 1]."""
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
    if not len(genuine) or not len(impostor):
        return 1.0
    return float((genuine[:, None] <= impostor[None]).float().mean())
