"""Templates to matches: one protocol, the embedded index, and the keys of a gallery."""

from minusface.index.base import (
    Added,
    ConflictError,
    Hit,
    Index,
    Person,
    Request,
    Stats,
    StorageError,
    UnknownCollectionError,
    UnknownPersonError,
)
from minusface.index.keys import CollectionKeys, load_master, new_master, orthogonal
from minusface.index.local import LocalIndex

__all__ = [
    "Added",
    "CollectionKeys",
    "ConflictError",
    "Hit",
    "Index",
    "LocalIndex",
    "Person",
    "Request",
    "Stats",
    "StorageError",
    "UnknownCollectionError",
    "UnknownPersonError",
    "load_master",
    "new_master",
    "orthogonal",
]
