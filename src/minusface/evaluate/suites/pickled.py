"""Pickles read as data: nothing that they name is imported or called.

A pickle is a program. Here it is taken apart opcode by opcode; the few things of numpy's that face benchmarks
hold are rebuilt, and any other name is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minusface.errors import MinusfaceError


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def read_pickle(data: bytes) -> Any:
    """What a pickle holds: lists, tuples, numbers, text, bytes and numpy arrays of them.

    Raises:
        MinusfaceError: it holds code, or anything else. Whatever a broken pickle trips over, besides.
    """
    return _Machine().run(data)


class _Mark:
    """Where a list begins on the stack."""


class _Name(str):
    """A global of a pickle: its words only."""


@dataclass
class _Dtype:
    """numpy.dtype(text), and the byte order that its state adds."""

    text: str
    order: str = ""

    def real(self) -> np.dtype[Any]:
        order = self.order if self.order in ("<", ">") else ""
        found = np.dtype(order + self.text)
        if found.kind not in "buiSO" or (found.kind == "S" and not found.itemsize):
            raise MinusfaceError(f"holds an array of {found}")
        return found


class _Array:
    """An array being made; its state comes after it."""

    value: Any = None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _array(shape: Sequence[int], dtype: _Dtype, content: Any) -> Any:
    """An array of bytes that are there: no size is believed that they do not fill."""
    kind = dtype.real()
    if kind.kind == "O":
        found = content if isinstance(content, list) else []
        if len(shape) != 1 or len(found) != shape[0]:
            raise MinusfaceError(f"holds an array of objects of shape {shape}")
        return found
    if not isinstance(content, bytes) or len(content) != math.prod(shape) * kind.itemsize:
        raise MinusfaceError("holds an array whose bytes do not fill its shape")
    return np.frombuffer(content, kind).reshape(shape)


def _latin(text: str, codec: str) -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise MinusfaceError(f"holds bytes as {codec!r}")
    return text.encode("latin-1")


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return _array((1,), dtype, content)[0]


def _frombuffer(content: bytes, dtype: _Dtype, shape: Sequence[int], order: str) -> Any:
    if order != "C" and len(shape) > 1:
        raise MinusfaceError(f"holds an array in order {order!r}")
    return _array(shape, dtype, content)


# What stands for each name that is let in; numpy moved its own from one module to another.
KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda text, *_: _Dtype(_text(text)),
    "numpy.ndarray": lambda *_: _Array(),
    "_codecs.encode": _latin,
    **{
        f"numpy.{core}.{name}": made
        for core in ("core", "_core")
        for name, made in (
            ("multiarray._reconstruct", lambda *_: _Array()),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _frombuffer),
        )
    },
}


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


class _Machine:
    """Follows a pickle's steps over lists, tuples, numbers, bytes and the names of ``KNOWN``."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """What the pickle describes.

        Raises:
            MinusfaceError: a step or a name that has no place in a benchmark.
        """
        for step, argument, _ in pickletools.genops(data):
            name = step.name
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in VALUES:
                # Python 2's bytes come as one character each.
                old = name.endswith("STRING")
                self.stack.append(str(argument).encode("latin-1") if old else argument)
            elif name in STEPS:
                STEPS[name](self, argument)
            elif name in CODE:
                raise MinusfaceError(f"holds code ({name.lower()}), which is not run")
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise MinusfaceError(f"holds {HELD.get(name, name.lower())}")
        return _plain(self.stack.pop())

    def marked(self) -> list[Any]:
        """What stands above the last mark, which goes with it."""
        taken: list[Any] = []
        while not isinstance(top := self.stack.pop(), _Mark):
            taken.append(_plain(top))
        return taken[::-1]

    def taken(self, count: int) -> tuple[Any, ...]:
        """The top of the stack, in order."""
        return tuple(_plain(self.stack.pop()) for _ in range(count))[::-1]

    def name(self, module: Any, name: Any) -> None:
        """A global is let in by its words."""
        found = _Name(f"{module}.{name}")
        if found not in KNOWN:
            raise MinusfaceError(f"holds code ({found[:80]!s}), which is not run")
        self.stack.append(found)

    def reduce(self) -> None:
        """A name's stand-in makes its value."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name):
            raise MinusfaceError(f"holds code (a call of {kind_of(name)}), not run")
        self.stack.append(KNOWN[name](*map(_plain, arguments)))

    def build(self) -> None:
        """The state of an array or of its type."""
        state, made = _plain(self.stack.pop()), self.stack[-1]
        if isinstance(made, _Dtype):
            made.order = _text(state[1])
        elif isinstance(made, _Array):
            _, shape, dtype, columns_first, content = state
            if columns_first and len(shape) > 1:
                raise MinusfaceError("holds an array in order 'F'")
            made.value = _array(shape, dtype, content)
        else:
            raise MinusfaceError(f"holds code (a state of {kind_of(made)}), not run")


def _extend(machine: _Machine, values: list[Any]) -> None:
    machine.stack[-1].extend(values)


Step = Callable[[_Machine, Any], Any]
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
CODE = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
HELD = {"EMPTY_DICT": "a dict", "DICT": "a dict", "FLOAT": "a float", "BINFLOAT": "a float"}
STEPS: dict[str, Step] = {
    "MARK": lambda m, _: m.stack.append(_Mark()),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.marked(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "APPEND": lambda m, _: _extend(m, list(m.taken(1))),
    "APPENDS": lambda m, _: _extend(m, m.marked()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.stack.append(m.taken(1)),
    "TUPLE2": lambda m, _: m.stack.append(m.taken(2)),
    "TUPLE3": lambda m, _: m.stack.append(m.taken(3)),
    "BYTEARRAY8": lambda m, value: m.stack.append(bytes(value)),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda m, n: m.memo.__setitem__(n, m.stack[-1])
    ),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, n: m.stack.append(m.memo[n])),
    "GLOBAL": lambda m, words: m.name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.taken(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
