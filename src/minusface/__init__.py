"""Privacy-preserving face recognition: protect a face crop, recognise the protected image.

Names are imported when they are first used, so that ``import minusface`` and ``--help`` stay quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minusface.errors import MinusfaceError
    from minusface.protect import Protector
    from minusface.recognize import Recognizer
    from minusface.types import FaceCrop, Match, ProtectedImage, Template, verify

# onnxruntime reports its use to its makers over the network, unless it is told not to before it is first
# imported. Nothing that runs here may speak to anybody unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_HOMES = {
    "FaceCrop": "types",
    "Match": "types",
    "MinusfaceError": "errors",
    "ProtectedImage": "types",
    "Protector": "protect",
    "Recognizer": "recognize",
    "Template": "types",
    "verify": "types",
}

__all__ = [
    "FaceCrop",
    "Match",
    "MinusfaceError",
    "ProtectedImage",
    "Protector",
    "Recognizer",
    "Template",
    "__version__",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minusface' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minusface.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
