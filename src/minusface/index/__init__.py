"""Templates to matches: one protocol, three backends, and the keys of a gallery."""

from minusface.index.base import (
    Added,
    ConflictError,
    Entry,
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
from minusface.index.pgvector import PgVectorIndex
from minusface.index.qdrant import QdrantIndex

__all__ = [
    "Added",
    "CollectionKeys",
    "ConflictError",
    "Entry",
    "Hit",
    "Index",
    "LocalIndex",
    "Person",
    "PgVectorIndex",
    "QdrantIndex",
    "Request",
    "Stats",
    "StorageError",
    "UnknownCollectionError",
    "UnknownPersonError",
    "load_master",
    "new_master",
    "orthogonal",
]
