"""What all attacks of one audit share: photos, protected images, the judge, where things are kept.

Legend: B batch, V views, n images a crop, N side of a crop, T test images.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from minusface.audit.access import BATCH, Target, seeded
from minusface.audit.attack import Fit, Trained, exactly, fit_attacker, key_of
from minusface.audit.budget import Budget
from minusface.audit.measures import Judge
from minusface.audit.ruler import Ruler
from minusface.audit.scene import Photos, Scene
from minusface.files import write_atomically
from minusface.peers.base import Views, views_of
from minusface.recognize import Recognizer

WIDE = 4  # images a crop, above which draws are not kept
TOGETHER = 4  # draws of a photo in memory at once: of 1,024 photos 300 MB
SHOWN = 6  # faces side by side in the report


class Pool:
    """Protected images of the attacker's photos, V draws of each, or a new draw for every batch.

    An epoch uses the next draw of every photo, so that permutations are redrawn every epoch as long as
    there are epochs no more than draws. A few draws are kept at a time: V takes turns to make, not memory.

    Args:
        target: what protects.
        photos: what is protected.
        views: V; None draws anew for every batch.
        seed: of all draws.
        device: where protecting happens.
    """

    def __init__(
        self, target: Target, photos: Photos, views: int | None, seed: int, device: torch.device
    ) -> None:
        self.target, self.photos, self.seed, self.device = target, photos, seed, device
        self.views = views
        self.progress: Callable[[float], None] = lambda part: None
        self._turn = 0
        self._parts: list[Views] = []
        """Draws of this turn, BATCH photos each, of the first photos."""

    def fill(self, turn: int, count: int) -> None:
        """Protect photos, where draws are kept, as far as they are not; tells ``progress`` how far it is.

        Args:
            turn: which TOGETHER of the draws; those of another turn are forgotten.
            count: of how many photos, the first ones.
        """
        if turn != self._turn:
            self._turn, self._parts = turn, []
        for start in range(len(self._parts) * BATCH, count, BATCH):
            self._parts.append(self._drawn(turn, start))
            self.progress(min(start + BATCH, count) / count)

    def _drawn(self, turn: int, start: int) -> Views:
        """A turn's draws of BATCH photos, or as many as there are, from ``start`` on."""
        assert self.views is not None
        random = seeded("pool", self.seed, self.target.name, start, *([turn] if turn else []))
        crops = self.photos.crops(range(start, min(start + BATCH, len(self.photos))))
        some = min(TOGETHER, self.views - turn * TOGETHER)
        drawn = views_of(self.target.protection, crops.to(self.device), random, some)
        order = None if drawn.permutation is None else drawn.permutation.cpu()
        # Half the memory of float32, and twenty times as fine as the eight bits of a PNG.
        return Views(drawn.protected.half().cpu(), order)

    def _kept(self, places: Tensor, epoch: int, count: int) -> Views:
        """An epoch's draw of photos among the first ``count``, on the CPU."""
        assert self.views is not None
        turn, number = divmod(epoch % self.views, TOGETHER)
        self.fill(turn, count)
        found = [self._parts[p // BATCH].view(number).take(p % BATCH) for p in places]
        orders = [one.permutation for one in found if one.permutation is not None]
        images = torch.stack([one.protected for one in found])
        return Views(images, torch.stack(orders) if orders else None)

    def places(self, step: int, size: int, among: int | None = None) -> tuple[Tensor, int]:
        """Which photos a step sees, (B,), and the epoch it is in: every photo once an epoch."""
        count = min(among or len(self.photos), len(self.photos))
        found = []
        for number in range(step * size, (step + 1) * size):
            epoch, place = divmod(number, count)
            found.append(_order(self.seed, epoch, count)[place])
        return torch.tensor(found), step * size // count

    def batch(
        self, step: int, size: int, random: torch.Generator, among: int | None = None
    ) -> tuple[Views, Tensor]:
        """A step's protected images (B, ...) and their photos (B, 3, N, N) in [0, 1], on the device.

        Args:
            step: number of the step.
            size: B.
            random: for draws made anew.
            among: only the first so many photos.
        """
        places, epoch = self.places(step, size, among)
        crops = self.photos.crops(places).to(self.device)
        with exactly(self.device):
            if self.views is None:
                drawn = views_of(self.target.protection, crops, random, 1).view(0)
            else:
                drawn = self._kept(places, epoch, min(among or len(self.photos), len(self.photos)))
        order = None if drawn.permutation is None else drawn.permutation.to(self.device)
        return Views(drawn.protected.float().to(self.device), order), (crops + 1) / 2


def write_strip(out: Path, name: str, images: Tensor) -> str:
    """Write the first of (B, 3, N, N) in [0, 1] side by side; gives the file's name relative to ``out``."""
    some = images[:SHOWN].detach().float().cpu().clamp(0, 1)
    strip = torch.cat(list(some), dim=-1).permute(1, 2, 0).numpy()
    pixels = np.rint(strip[..., ::-1] * 255).astype(np.uint8)
    ok, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    assert ok, "PNG encoding of a valid uint8 image cannot fail"
    relative = f"pictures/{name}.png"
    write_atomically(out / relative, data.tobytes())
    return relative


@functools.lru_cache(maxsize=4)
def fingerprint_of(recognizer: Recognizer) -> str:
    """SHA-256 (hex) of its weights."""
    sha = hashlib.sha256()
    for tensor in recognizer.state_dict().values():
        sha.update(tensor.detach().cpu().float().numpy().tobytes())
    return sha.hexdigest()


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    """The order of photos in an epoch."""
    found: list[int] = torch.randperm(count, generator=seeded("order", seed, epoch, count)).tolist()
    return found


def protect_all(
    target: Target, photos: Photos, random: torch.Generator, device: torch.device
) -> Views:
    """One draw of every photo: (T, 3n, N, N) in [0, 1] on the CPU, in batches."""
    parts = []
    for start in range(0, len(photos), BATCH):
        places = range(start, min(start + BATCH, len(photos)))
        crops = photos.crops(places).to(device)
        parts.append(views_of(target.protection, crops, random, 1).view(0))
    orders = [part.permutation.cpu() for part in parts if part.permutation is not None]
    return Views(
        torch.cat([part.protected.float().cpu() for part in parts]),
        torch.cat(orders) if orders else None,
    )


def views_kept(target: Target, views: int | None) -> int | None:
    """How many draws a pool may keep: of many channels they would fill the memory, and are made anew."""
    return views if target.protection.images <= WIDE else None


def _exact(target: Target) -> str:
    """Name and settings: two fixed permutations are two targets of one name."""
    return f"{target.name} {target.protection.fingerprint()}"


@dataclass
class Bench:
    """The shared parts of one audit."""

    scene: Scene
    ruler: Ruler
    judge: Judge
    budget: Budget
    out: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "float32"
    show: Callable[[float, str], None] = lambda part, note: None
    """Told how far the current attack is, and what it does."""
    _pools: dict[str, Pool] = field(default_factory=dict)
    _tests: dict[str, Views] = field(default_factory=dict)

    def pool(self, target: Target) -> Pool:
        """The attacker's photos as this target protects them."""
        name = _exact(target)
        if name not in self._pools:
            views = views_kept(target, self.budget.views)
            self._pools[name] = Pool(target, self.scene.train, views, self.seed, self.device)
        found = self._pools[name]
        # Filled when a batch is asked for: an attacker that has learned already needs none.
        found.progress = lambda part: self.show(part, f"asking {target.name} for protected images")
        return found

    def forget(self, target: Target) -> None:
        """Give the memory of a target's images back."""
        self._pools.pop(_exact(target), None)
        self._tests.pop(_exact(target), None)

    def tests(self, target: Target) -> Views:
        """The test photos as this target protects them, one draw, the same for all attacks."""
        name = _exact(target)
        if name not in self._tests:
            random = seeded("test", self.seed, target.name)
            self._tests[name] = protect_all(target, self.scene.test, random, self.device)
        return self._tests[name]

    def validation(self, target: Target) -> Views:
        """The validation photos, one draw."""
        random = seeded("validation", self.seed, target.name)
        return protect_all(target, self.scene.validation, random, self.device)

    def key(self, attack: str, target: Target, *more: object) -> str:
        """A name for what is kept of an attack: another one where anything it depends on changes."""
        said = (
            *(target.protection.fingerprint(), self.scene.fingerprint, len(self.scene.train)),
            *([] if target.recognizer is None else [fingerprint_of(target.recognizer)]),
        )
        inputs = (self.budget.views, self.seed, self.precision, *more)
        words = re.sub(r"[^A-Za-z0-9]+", "-", f"{attack} {target.name}").strip("-")
        return f"{words}-{key_of(*said, *inputs)}"

    def learn(
        self,
        name: str,
        module: torch.nn.Module,
        loss: Callable[[int, torch.Generator], Tensor],
        validate: Callable[[], float],
        fit: Fit,
        key: str,
    ) -> Trained:
        """Train an attacker whose state is kept under ``key``."""
        return fit_attacker(
            module,
            loss,
            validate,
            fit,
            seed=self.seed,
            folder=self.out / "state" / key,
            precision=self.precision,
            progress=lambda part: self.show(part, f"{name}: learning"),
        )

    def shot(self, what: str, target: Target) -> str:
        """A name for a picture: attackers of two budgets draw two, and findings of both may be kept."""
        return self.key(what, target, self.budget)

    def picture(self, name: str, images: Tensor) -> str:
        """Keep the first faces of (B, 3, N, N) in [0, 1] side by side; gives the file's relative name."""
        return write_strip(self.out, name, images)

    def shown(self, photos: Photos) -> Tensor:
        """The faces that the report shows, (SHOWN, 3, N, N) in [0, 1]."""
        return (photos.crops(range(min(SHOWN, len(photos)))) + 1) / 2
