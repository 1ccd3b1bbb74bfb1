"""Optimisers and learning rates from a config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from minusface.config import OptimizerConfig, ScheduleConfig


def build_optimizer(
    config: OptimizerConfig, groups: Mapping[str, Sequence[nn.Parameter]]
) -> torch.optim.Optimizer:
    """An optimiser with one or two groups a name: matrices decay, norms and biases do not.

    Every group carries ``name`` and ``base_lr``; the generator's is ``generator_factor`` of the others'.
    """
    settings = []
    for name, parameters in groups.items():
        lr = config.lr * (config.generator_factor if name == "generator" else 1.0)
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        for some, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if some:
                group = {"params": some, "lr": lr, "weight_decay": decay}
                settings.append({**group, "name": name, "base_lr": lr})
    if config.name == "adamw":
        return torch.optim.AdamW(settings, betas=(config.momentum, 0.999))
    return torch.optim.SGD(settings, momentum=config.momentum)


def lr_factor(config: ScheduleConfig, epoch: float, epochs: float) -> float:
    """What base learning rates are multiplied by at a (fractional) epoch of a run of ``epochs``."""
    if epoch < config.warmup:
        return (epoch + 1e-8) / config.warmup
    if config.name == "cosine":
        done = (epoch - config.warmup) / max(epochs - config.warmup, 1e-8)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Scale every group's base rate; returns the rates by group name."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
        rates[str(group["name"])] = float(group["lr"])
    return rates
