"""What is made of a network's frozen weights once, and how it is told that they are no longer the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Made = TypeVar("Made")


class Kept:
    """What was made of a module's frozen weights, once; made anew when they have changed.

    For weights that learn it is not: fused optimisers write to them unseen, so that networks call
    :func:`may_learn`. Unseen is ``weight.data.mul_(2)``, too: whoever does that calls :func:`forget`.
    Pickled and copied it is empty.
    """

    every: ClassVar[WeakSet[Kept]] = WeakSet()
    made: ClassVar[int] = 0
    """How often anything was made, by whomever."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        Kept.every.add(self)

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()

    def __len__(self) -> int:
        return len(self._found)

    def held(self, owner: nn.Module) -> Any:
        """What is kept of an owner, or None."""
        return self._found.get(owner)

    def hold(self, owner: nn.Module, made: Any) -> None:
        """Keep what was made, as long as its owner is there."""
        Kept.made += 1
        self._found[owner] = made

    def drop(self, owner: nn.Module) -> None:
        """Keep nothing of an owner."""
        self._found.pop(owner, None)

    def get(
        self, owner: nn.Module, weights: Sequence[Tensor | None], make: Callable[[], Made]
    ) -> Made:
        """What ``make`` made, or makes now.

        Args:
            owner: whose it is; forgotten with it.
            weights: all that it is made of.
            make: called where there is nothing of these weights.
        """
        state = tuple(map(_state, weights))
        found = self.held(owner)
        if found is None or found[0] != state:
            # With the weights themselves, as long as they are told by their address.
            alive = [None if tensor is None else tensor.detach() for tensor in weights]
            found = (state, make(), alive)
            self.hold(owner, found)
        return cast(Made, found[1])


def forget(network: nn.Module) -> None:
    """Keep nothing of a network's weights, after a write that nothing tells of (:class:`Kept`)."""
    for layer in network.modules():
        for kept in Kept.every:
            kept.drop(layer)


_LEARNING: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def may_learn(network: nn.Module) -> None:
    """Called by a network in each pass: where its weights get gradients, nothing made of them is kept.

    A fused optimiser may write to them now, and they may be frozen again later. As long as nothing new is
    made it is a look-up.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    if _LEARNING.get(network) == Kept.made:
        return
    if any(weight.requires_grad for weight in network.parameters()):
        forget(network)
        _LEARNING[network] = Kept.made


def _state(tensor: Tensor | None) -> tuple[int, int] | None:
    """Another one when a tensor is written to, or exchanged; but not where :class:`Kept` says so."""
    if tensor is None:
        return None
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


class Watched:
    """Whether a whole network is as it was: the same layers, in evaluation mode, of the same frozen weights.

    Nothing of it holds the network itself. Writes are told as :class:`Kept` tells them.
    """

    def __init__(self, network: nn.Module) -> None:
        inner = list(network.modules())[1:]
        self._as_torch = all(map(as_torch, inner))
        self._inner = list(map(vars, inner))
        self._layers = [(vars(layer), dict(layer._modules)) for layer in network.modules()]
        self._tensors = [
            # With the weights themselves, as long as they are told by their address.
            (held, name, tensor, _state(tensor), tensor.detach())
            for layer in network.modules()
            for held in (layer._parameters, layer._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]

    def frozen(self) -> bool:
        """Whether nothing of it learns, nor gathers statistics."""
        return not any(layer["training"] for layer, _ in self._layers) and not any(
            tensor.requires_grad for _, _, tensor, _, _ in self._tensors
        )

    def plain(self) -> bool:
        """Whether the layers within can be merged: no hooks, and no forward of their own."""
        return self._as_torch and not any(
            layer["_forward_hooks"] or layer["_forward_pre_hooks"] or "forward" in layer
            for layer in self._inner
        )

    def unchanged(self) -> bool:
        """Whether it is as it was when this was made, frozen and plain."""
        return (
            all(layer["_modules"] == parts for layer, parts in self._layers)
            and self.frozen()
            and self.plain()
            and all(
                held.get(name) is tensor and _state(tensor) == state
                for held, name, tensor, state, _ in self._tensors
            )
        )


# What computes layers that are merged, by kind.
_FORWARDS: tuple[tuple[type[nn.Module], tuple[Any, ...]], ...] = (
    (nn.Conv2d, (nn.Conv2d.forward,)),
    (nn.ConvTranspose2d, (nn.ConvTranspose2d.forward,)),
    (_BatchNorm, (_BatchNorm.forward, nn.SyncBatchNorm.forward)),
)


def as_torch(layer: nn.Module) -> bool:
    """Whether a layer's class has no forward of its own, be it a convolution or a batch norm."""
    return all(type(layer).forward in known for kind, known in _FORWARDS if isinstance(layer, kind))


def hooked(*layers: nn.Module) -> bool:
    """Whether somebody wants to be told of what enters or leaves layers: packed, they tell nobody."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
