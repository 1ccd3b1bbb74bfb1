"""Synthetic faces must be worth training on: a recogniser learns from them what pixels do not show."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from minusface.data import SyntheticFaces, sequential, synthetic_pairs

SIDE = 48


def small_images(faces: SyntheticFaces) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for batch in sequential(faces, 64):
        for image in batch.images.permute(0, 2, 3, 1).numpy():
            images.append(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
        labels.append(batch.labels.numpy())
    pixels = np.stack(images).astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    return pixels, np.concatenate(labels)


def standardized(pixels: np.ndarray) -> torch.Tensor:
    images = torch.from_numpy(pixels)
    mean, std = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True)
    return (images - mean) / (std + 1e-3)


def network(generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    widths = (3, 24, 48, 96, 128)
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 64), nn.BatchNorm1d(64))
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def train(net: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    generator = torch.Generator().manual_seed(1)
    centres = nn.Parameter(torch.randn(int(labels.max()) + 1, 64, generator=generator))
    optimizer = torch.optim.AdamW([*net.parameters(), centres], lr=3e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // 64 * 64].split(64):
            embedded = functional.normalize(net(images[rows]))
            logits = 16 * (embedded @ functional.normalize(centres).T)
            margin = functional.one_hot(labels[rows], len(centres)) * 16 * 0.2
            loss = functional.cross_entropy(logits - margin, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def accuracy(vectors: torch.Tensor, faces: SyntheticFaces) -> float:
    """Share of pairs told right; the threshold comes from other pairs."""
    unit = functional.normalize(vectors.flatten(1))

    def scores(seed: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = synthetic_pairs(faces, 1000, seed)
        a, b = ([faces.index(pair[side]) for pair in pairs] for side in (0, 1))
        return (unit[a] * unit[b]).sum(1).numpy(), np.array([pair[2] for pair in pairs])

    score, same = scores(0)
    levels = np.unique(score)
    threshold = levels[np.argmax([((score >= level) == same).mean() for level in levels])]
    score, same = scores(1)
    return float(((score >= threshold) == same).mean())


@torch.no_grad()
def embedded(net: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    net.eval()
    return net(images) + net(images.flip(3))


@pytest.mark.slow
def test_a_recogniser_learns_unseen_people(record_property: Callable[[str, object], None]) -> None:
    known = SyntheticFaces(120, 8, seed=0)
    unseen = SyntheticFaces(40, 8, seed=1)
    images, labels = small_images(known)
    probes, _ = small_images(unseen)
    net = network(torch.Generator().manual_seed(0))
    with torch.no_grad():
        net(standardized(images[:256]))
    untrained = accuracy(embedded(net, standardized(probes)), unseen)
    pixels = max(accuracy(torch.from_numpy(probes), unseen), accuracy(standardized(probes), unseen))
    net.train()
    once = standardized(images)
    both = torch.cat([once, once.flip(3)])
    train(net, both, torch.from_numpy(labels).repeat(2), epochs=12)
    trained = accuracy(embedded(net, standardized(probes)), unseen)
    for name, value in (("pixels", pixels), ("untrained", untrained), ("trained", trained)):
        record_property(name, round(value, 3))
    print(f"pixels {pixels:.3f}, untrained {untrained:.3f}, trained {trained:.3f}")
    assert trained >= 0.78
    assert pixels <= 0.74
    assert untrained <= 0.74
    assert trained >= max(pixels, untrained) + 0.08
