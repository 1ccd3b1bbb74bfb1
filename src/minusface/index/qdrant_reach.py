"""The way to a Qdrant server, and its errors as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from minusface.errors import MinusfaceError
from minusface.index.base import StorageError

PATIENCE = 5


def connect(url: str) -> Any:
    """A client of a server, or of the process's own memory (``:memory:``).

    Raises:
        MinusfaceError: qdrant-client is missing, or the address cannot be understood.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MinusfaceError(f'{error.name} is missing: pip install "minusface[qdrant]"') from error
    if url == ":memory:":
        return QdrantClient(":memory:")
    try:
        with storing():
            return QdrantClient(url=url, timeout=PATIENCE)
    except (ValueError, ImportError):
        # Its message would repeat what may be part of the password, here or in a proxy's address.
        raise MinusfaceError(
            "index: this address of Qdrant, or of the environment's proxy, cannot be understood "
            "(expected qdrant:http://HOST:6333; : / @ # in a password are written %3A, %2F, %40, %23)"
        ) from None


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Qdrant's errors as ours."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except MinusfaceError:
        raise
    except (ApiException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"Qdrant: {reason}") from error
