"""Optimisers and learning rates from a config."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minusface import collectives
from minusface.config import OptimizerConfig, ScheduleConfig
from minusface.train.muon import Muon


def build_optimizer(
    config: OptimizerConfig,
    groups: Mapping[str, Sequence[nn.Parameter]],
    sharded: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """An optimiser with up to three groups a name: matrices decay, norms and biases do not.

    Every group carries ``name`` and ``base_lr``; the generator's is ``generator_factor`` of the others'.

    Args:
        config: which one.
        groups: parameters by name.
        sharded: of which a process may hold rows alone. Muon, which moves a matrix as a whole, leaves
            them to AdamW, in one process too: results do not depend on how many there are.
    """
    settings = []
    apart = {id(parameter) for parameter in sharded} if config.name == "muon" else set()
    for name, parameters in groups.items():
        lr = config.lr * (config.generator_factor if name == "generator" else 1.0)
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        turned = [p for p in matrices if id(p) not in apart]
        rows = [p for p in matrices if id(p) in apart]
        decay = config.weight_decay
        for some, decays in ((turned, decay), (rows, decay), (vectors, 0.0)):
            if some:
                group = {"params": some, "lr": lr, "weight_decay": decays}
                if config.name == "muon":
                    group["orthogonal"] = some is turned
                settings.append({**group, "name": name, "base_lr": lr})
    optimizer: torch.optim.Optimizer
    # Fused: one pass over weights, gradients and momenta instead of one an operation.
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(settings, betas=(config.momentum, 0.999), fused=True)
    elif config.name == "muon":
        optimizer = Muon(settings, config.momentum)
    else:
        optimizer = torch.optim.SGD(settings, momentum=config.momentum, fused=True)
    optimizer.register_step_pre_hook(_align_gradients)
    return optimizer


def _align_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Lay gradients and moments out as their weights: a fused step walks them by address, not by index.

    Moments that come from a checkpoint are contiguous, whatever the weights' layout is.
    """

    def aligned(tensor: Tensor, weight: Tensor) -> Tensor:
        return torch.empty_like(weight).copy_(tensor)

    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = aligned(weight.grad, weight)
            moments = optimizer.state.get(weight, {})
            for name, value in moments.items():
                same = isinstance(value, Tensor) and value.shape == weight.shape
                if same and value.stride() != weight.stride():
                    moments[name] = aligned(value, weight)


def clip_gradients(
    optimizer: torch.optim.Optimizer, most: float, sharded: Iterable[nn.Parameter]
) -> None:
    """Shorten the gradient of all parameters to a norm of ``most``.

    Args:
        optimizer: of whose parameters.
        most: largest norm.
        sharded: parameters of which every process holds another part; the others are alike on all.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if collectives.size() == 1:
        nn.utils.clip_grad_norm_(parameters, most)
        return
    apart = {id(parameter) for parameter in sharded}
    squares = [parameters[0].new_zeros(()), parameters[0].new_zeros(())]
    gradients = [(id(p) in apart, p.grad) for p in parameters if p.grad is not None]
    for here_only, gradient in gradients:
        squares[here_only] = squares[here_only] + gradient.norm().square()
    norm = (squares[0] + collectives.sum_over_processes(squares[1])).sqrt()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for _, gradient in gradients:
        gradient.mul_(factor)


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
