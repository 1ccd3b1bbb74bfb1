"""PEEP: weights of eigenfaces under Laplace noise (Chamikara et al. 2020, arXiv 2005.10486).

Legend: B batch, M crops fitted to, N side of a crop, K eigenfaces, P = 3*N*N values of a crop.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of
from minusface.peers.frequency import laplace


class Peep:
    """Project onto eigenfaces, add noise to the weights, send the face that they make.

    Args:
        faces: K, how many eigenfaces at most.
        epsilon: budget of a weight; its noise has scale (range over the crops fitted to) / epsilon.

    Raises:
        MinusfaceError: no eigenface, a budget that is not above 0.
    """

    name = "peep"
    images = 1

    def __init__(self, faces: int = 64, epsilon: float = 4.0) -> None:
        if faces < 1:
            raise MinusfaceError(f"peep: {faces} eigenfaces, expected 1 or more")
        if not epsilon > 0:
            raise MinusfaceError(f"peep: budget {epsilon}, expected above 0")
        self.faces, self.epsilon = faces, epsilon
        self.mean_p: Tensor | None = None
        self.basis_kp = self.low_k = self.high_k = torch.zeros(0)
        self.card = Card(
            "Chamikara et al., Privacy Preserving Face Recognition Utilizing Differential Privacy, "
            "Computers & Security 2020",
            "projection onto eigenfaces, Laplace noise on the weights",
            "colour eigenfaces, 64 of them, budget 4 a weight; weights held in the range of the crops "
            "fitted to; sent as the face that they make",
            bytes_of(1),
            "eigenfaces of some crops, without labels",
        )

    def fit(self, crops: Tensor) -> None:
        """Find eigenfaces and the range of their weights.

        Args:
            crops: (M, 3, N, N) in [-1, 1].

        Raises:
            MinusfaceError: fewer than 2 crops.
        """
        if len(crops) < 2:
            raise MinusfaceError(f"peep: {len(crops)} crops to fit to, expected 2 or more")
        flat_mp = crops.detach().float().cpu().flatten(1)
        self.mean_p = flat_mp.mean(0)
        centred_mp = flat_mp - self.mean_p
        # There are far fewer crops than values: the small Gram matrix has the same directions.
        _, vectors = torch.linalg.eigh((centred_mp @ centred_mp.T).double())
        kept = min(self.faces, len(crops) - 1)
        raw_kp = vectors[:, -kept:].flip(1).T.float() @ centred_mp
        self.basis_kp = raw_kp / raw_kp.norm(dim=1, keepdim=True).clamp(min=1e-6)
        weights_mk = centred_mp @ self.basis_kp.T
        self.low_k, self.high_k = weights_mk.amin(0), weights_mk.amax(0)

    def weights(self, crops: Tensor) -> Tensor:
        """(B, K) on the CPU, held in their range.

        Raises:
            MinusfaceError: not fitted, or to crops of another size.
        """
        if self.mean_p is None:
            raise MinusfaceError("peep: not fitted, expected fit(crops) first")
        flat_bp = crops.detach().float().cpu().flatten(1)
        if flat_bp.shape[1] != len(self.mean_p):
            raise MinusfaceError(f"peep: crops of {crops.shape[-1]} pixels, fitted to other ones")
        found = (flat_bp - self.mean_p) @ self.basis_kp.T
        return found.clamp(self.low_k, self.high_k)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 3, N, N)."""
        weights_bk = self.weights(crops)
        assert self.mean_p is not None
        scale_k = (self.high_k - self.low_k) / self.epsilon
        noisy_bk = weights_bk + laplace(weights_bk.shape, random) * scale_k
        made = (noisy_bk @ self.basis_kp + self.mean_p).view(crops.shape)
        return ((made + 1) / 2).clamp(0, 1).to(crops.device)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        sha = hashlib.sha256(self.basis_kp.numpy().tobytes()).hexdigest()
        return f"{self.name} {self.faces} {self.epsilon:g} {sha}"
