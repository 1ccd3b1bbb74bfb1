"""DCTDP: frequency channels without DC under Laplace noise (Ji et al., ECCV 2022, arXiv 2207.07316).

Legend: B batch, M crops that ranges are taken from, N side of a crop, K = 63 frequencies a colour.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.peers.base import Card, Pupil, bytes_of
from minusface.peers.frequency import FREQUENCIES, frequencies, laplace
from minusface.recognize import Recognizer

KEPT = FREQUENCIES - 1
# How many scales of the noise fit into the range to either side: 0.03 % of it is cut off.
SCALES = 8
# Moves shares so fast that the recogniser's learning rate, and a hundred steps, do for them.
PACE = 30.0
SEARCHED = 16


class DctDp:
    """Drop DC, add Laplace noise of scale (range of the coefficient) / (its budget).

    Ranges are taken from crops, and how a mean budget is dealt out over coefficients is learned with a
    recogniser: see :meth:`pupil`.

    Args:
        epsilon: mean budget of a coefficient.

    Raises:
        MinusfaceError: a budget that is not above 0.
    """

    name = "dctdp"
    images = KEPT

    def __init__(self, epsilon: float = 1.0) -> None:
        if not epsilon > 0:
            raise MinusfaceError(f"dctdp: budget {epsilon}, expected above 0")
        self.epsilon = epsilon
        self.low = self.reach = self.budget = torch.zeros(0)
        """Least value and range of each coefficient, (3, 63, 1, 1), and its budget, (3, 63, N, N)."""
        self.card = Card(
            "Ji et al., Privacy-Preserving Face Recognition with Learnable Privacy Budgets in Frequency "
            "Domain, ECCV 2022",
            "block DCT, DC dropped, Laplace noise scaled by the coefficient's range over its budget; budgets "
            "of a fixed mean learned with a recogniser",
            "a budget is a channel's share times a place's, as few photos teach it; ranges are a channel's, "
            "over all places, and values are held in them; what is sent is scaled so that the noise fits",
            bytes_of(KEPT),
            "ranges, and a recogniser with the budgets; the recogniser imitates one of plain faces",
        )

    def pupil(self, crops: Tensor, embedding_size: int) -> DealtBudget:
        """See :class:`minusface.peers.base.Taught`."""
        if len(crops) < 1:
            raise MinusfaceError("dctdp: no crops to take ranges from")
        ends = [_ends(part) for part in torch.split(crops, SEARCHED)]
        low = torch.stack([least for least, _ in ends]).amin(0)
        high = torch.stack([most for _, most in ends]).amax(0)
        return DealtBudget(self.epsilon, low, high - low, crops.shape[-1], embedding_size)

    def learn(self, pupil: Pupil) -> None:
        """See :class:`minusface.peers.base.Taught`."""
        assert isinstance(pupil, DealtBudget), "a pupil of its own"
        with torch.no_grad():
            parts = (pupil.low, pupil.reach, pupil.budget())
        self.low, self.reach, self.budget = (part.detach().float().cpu() for part in parts)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 189, N, N), colour by colour.

        Raises:
            MinusfaceError: not taught, or with crops of another size.
        """
        if not self.budget.numel():
            raise MinusfaceError("dctdp: not taught, expected learn(pupil) first")
        if self.budget.shape[-1] != crops.shape[-1]:
            raise MinusfaceError(
                f"dctdp: crops of {crops.shape[-1]} pixels, taught with {self.budget.shape[-1]}"
            )
        low, reach, budget = (part.to(crops) for part in (self.low, self.reach, self.budget))
        return noisy(crops, low, reach, budget, random).clamp(0, 1).flatten(1, 2)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        sha = hashlib.sha256()
        for part in (self.low, self.reach, self.budget):
            sha.update(part.numpy().tobytes())
        return f"{self.name} {self.epsilon:g} {sha.hexdigest()}"


class DealtBudget(Pupil):
    """Shares of a budget, and a recogniser of what is sent under them.

    Args:
        epsilon: mean budget of a coefficient.
        low: (3, 63, 1, 1), least value of each channel, in the units of :func:`frequencies`.
        reach: (3, 63, 1, 1), its range.
        size: N.
        embedding_size: D.
    """

    low: Tensor
    reach: Tensor

    def __init__(
        self, epsilon: float, low: Tensor, reach: Tensor, size: int, embedding_size: int
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("low", low)
        self.register_buffer("reach", reach)
        self.channels = nn.Parameter(torch.zeros(3, KEPT, 1, 1))
        self.places = nn.Parameter(torch.zeros(size, size))
        config = RecognizerConfig("ir_lite", embedding_size, "standardized")
        self.recognizer = Recognizer(config, 3 * KEPT, size, "protected")

    def budget(self) -> Tensor:
        """(3, 63, N, N), of mean epsilon."""
        # The softmax of a sum is the product of the softmaxes.
        channels = (PACE * self.channels).flatten().softmax(0).view_as(self.channels)
        places = (PACE * self.places).flatten().softmax(0).view_as(self.places)
        return self.epsilon * channels.numel() * places.numel() * channels * places

    def forward(self, crops: Tensor, random: torch.Generator) -> list[Tensor]:
        """See :class:`Pupil`."""
        with torch.autocast(crops.device.type, enabled=False):
            sent = noisy(crops, self.low, self.reach, self.budget(), random)
        return [self.recognizer(sent.clamp(0, 1).flatten(1, 2))]


def spread(budget: Tensor) -> Tensor:
    """What multiplies values and noise so that both fit [0, 1]."""
    return 1 / (1 + 2 * SCALES / budget)


def noisy(
    crops: Tensor, low: Tensor, reach: Tensor, budget: Tensor, random: torch.Generator
) -> Tensor:
    """What is sent of crops (B, 3, N, N): (B, 3, 63, N, N), nearly all of it in [0, 1].

    Args:
        crops: in [-1, 1].
        low: see :class:`DealtBudget`.
        reach: likewise.
        budget: of each coefficient, of any shape that goes with (3, 63, N, N).
        random: a CPU generator.
    """
    found = frequencies(crops)[:, :, 1:]
    # A channel of no range at all holds nothing to be told.
    unit = ((found - low) / reach.clamp(min=1e-6)).clamp(0, 1)
    # Of a range of 1 and a budget, the noise has scale 1 / budget; times spread, it is finite for any.
    shrunk = spread(budget)
    noise = laplace(found.shape, random).to(crops.device)
    return (unit - 0.5) * shrunk + noise / (budget + 2 * SCALES) + 0.5


def _ends(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each channel but DC, (3, 63, 1, 1) each."""
    found = frequencies(crops)[:, :, 1:]
    return found.amin((0, 3, 4))[..., None, None], found.amax((0, 3, 4))[..., None, None]


__all__ = ["DctDp", "DealtBudget", "noisy", "spread"]
