"""A run's state between steps, as named tensors: what a resumed run needs to go on unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minusface import checkpoint, collectives
from minusface.errors import MinusfaceError

# A checkpoint's parts that hold rows of sharded tensors: shard0, shard1 ... Their tensors are called
# NAME#FIRST_ROW, so that a reader needs not know how many processes wrote them.
SHARD = "shard"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments as ``optimizer.<parameter number>.<name>``."""
    tensors = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Put moments back. Learning rates are the schedule's and come from the step.

    Raises:
        MinusfaceError: moments of other parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    whole = optimizer.state_dict()
    count = sum(len(group["params"]) for group in whole["param_groups"])
    if state and max(state) >= count:
        raise MinusfaceError(
            f"{where}: optimiser state of {max(state) + 1} tensors, expected {count}"
        )
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        for key, value in values.items():
            if value.ndim and value.shape != shapes[index]:
                raise MinusfaceError(f"{where}: {key} of parameter {index} has another shape")
    whole["state"] = state
    optimizer.load_state_dict(whole)


class Shards:
    """The tensors of which every process holds other rows, moments included; how they are saved and read.

    Args:
        sharded: by name: the parameter, which rows it holds, and of how many.
        optimizer: of these parameters.
    """

    def __init__(
        self,
        sharded: Mapping[str, tuple[nn.Parameter, range, int]],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.parameters = [parameter for parameter, _, _ in sharded.values()]
        self.rows = {name: (rows, total) for name, (_, rows, total) in sharded.items()}
        order = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = {id(parameter): number for number, parameter in enumerate(order)}
        self.moments = {
            numbers[id(parameter)]: (rows, total)
            for parameter, rows, total in sharded.values()
            if id(parameter) in numbers
        }

    def place(self, name: str, tensor: Tensor) -> tuple[range, int] | None:
        """Which rows of how many this process holds of a tensor; None where it is not sharded."""
        if name.startswith("optimizer.") and tensor.ndim:
            return self.moments.get(int(name.split(".")[1]))
        return self.rows.get(name)

    def collect(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """What the first process writes: what is not sharded, then the processes' shards in turn.

        The others :meth:`send` meanwhile. One shard is here at a time.
        """
        places = {name: self.place(name, tensor) for name, tensor in tensors.items()}
        yield "training", {name: tensors[name] for name, place in places.items() if place is None}
        for process in range(collectives.size()):
            shard = {}
            for name, place in sorted(places.items()):
                if place is None:
                    continue
                tensor, rows = tensors[name], collectives.share_of(place[1], process)
                if process > 0:
                    tensor = tensor.new_empty(len(rows), *tensor.shape[1:])
                    dist.recv(tensor, process)
                shard[f"{name}#{rows.start}"] = tensor
            if shard:
                yield f"{SHARD}{process}", shard

    def send(self, tensors: Mapping[str, Tensor]) -> None:
        """This process's shards to the first one, in the order of :meth:`collect`."""
        for name, tensor in sorted(tensors.items()):
            if self.place(name, tensor) is not None:
                dist.send(tensor.detach().contiguous(), 0)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """The training tensors of a checkpoint, of sharded ones this process's rows.

        Raises:
            MinusfaceError: a damaged checkpoint, or one in which rows are missing.
        """
        found: dict[str, Tensor] = {}
        filled: dict[str, int] = {}
        for part in checkpoint.load_card(folder).files:
            if part != "training" and not part.startswith(SHARD):
                continue
            for name, tensor in checkpoint.load_part(folder, part).items():
                bare, _, first = name.partition("#")
                place = self.place(bare, tensor)
                # Whole ones of another length too: who loads them tells what is wrong.
                if place is None or (not first and len(tensor) != place[1]):
                    found[bare] = tensor
                    continue
                start, rows = int(first or 0), place[0]
                whole = found.setdefault(bare, tensor.new_empty(len(rows), *tensor.shape[1:]))
                begin, end = max(start, rows.start), min(start + len(tensor), rows.stop)
                if begin < end:
                    whole[begin - rows.start : end - rows.start] = tensor[
                        begin - start : end - start
                    ]
                filled[bare] = filled.get(bare, 0) + max(end - begin, 0)
        for name, count in filled.items():
            if count != len(found[name]):
                raise MinusfaceError(
                    f"{folder}: {name} has {count} rows of the {len(found[name])} expected here"
                )
        return found
