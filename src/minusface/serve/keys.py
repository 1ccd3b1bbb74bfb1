"""API keys: who may do what in which collection. Only their hashes are kept.

A key is ``mf_ID_SECRET``; the secret has 256 bits, so that one plain SHA-256 of it gives nothing away.
Keys lie in a JSON file that the service reads again whenever it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from minusface.errors import MinusfaceError, choice_error
from minusface.files import write_atomically

SCOPES = ("enroll", "verify", "admin")
PREFIX = "mf"
DAY = 86_400.0
# Compared with where the key is unknown, so that the time tells nothing.
NOBODY = hashlib.sha256(b"nobody").hexdigest()


@dataclass(frozen=True)
class ApiKey:
    """A key as it is kept."""

    id: str
    sha256: str
    collection: str
    scopes: tuple[str, ...]
    created: float
    """Seconds since 1970."""
    expires: float | None = None
    name: str = ""


class ApiKeys:
    """The keys of a service.

    Args:
        path: their file; none yet is no error.

    Raises:
        MinusfaceError: a damaged file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._mutex = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._refresh()

    def find(self, token: str, now: float | None = None) -> ApiKey | None:
        """The key of a token, or None where it is unknown, wrong or expired."""
        self._refresh()
        prefix, _, rest = token.partition("_")
        number, _, secret = rest.partition("_")
        key = self._keys.get(number) if prefix == PREFIX else None
        given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        right = hmac.compare_digest(given, NOBODY if key is None else key.sha256)
        if key is None or not right:
            return None
        if key.expires is not None and (time.time() if now is None else now) >= key.expires:
            return None
        return key

    def add(
        self,
        collection: str,
        scopes: tuple[str, ...],
        days: float | None = None,
        name: str = "",
    ) -> tuple[ApiKey, str]:
        """A new key, and its token, which is not kept.

        Raises:
            MinusfaceError: an unknown scope, or a file that cannot be written.
        """
        for scope in scopes:
            if scope not in SCOPES:
                raise choice_error("scope", scope, SCOPES)
        if not scopes:
            raise MinusfaceError(f"an API key without scopes (known: {', '.join(SCOPES)})")
        if not 1 <= len(collection) <= 200 or not collection.isprintable():
            raise MinusfaceError("collection: expected 1 to 200 printable characters")
        secret, number = secrets.token_urlsafe(32), secrets.token_hex(6)
        now = time.time()
        key = ApiKey(
            id=number,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            collection=collection,
            scopes=scopes,
            created=now,
            expires=None if days is None else now + days * DAY,
            name=name,
        )
        self._refresh()
        self._write({**self._keys, number: key})
        return key, f"{PREFIX}_{number}_{secret}"

    def revoke(self, number: str) -> None:
        """Remove a key.

        Raises:
            MinusfaceError: there is none of this id.
        """
        self._refresh()
        if number not in self._keys:
            raise choice_error("API key", number, self._keys)
        self._write({n: key for n, key in self._keys.items() if n != number})

    def all(self) -> list[ApiKey]:
        """Every key, oldest first."""
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: key.created)

    def _write(self, keys: dict[str, ApiKey]) -> None:
        raw = {"format": 1, "keys": [asdict(key) for key in keys.values()]}
        write_atomically(self.path, json.dumps(raw, indent=1).encode())
        self.path.chmod(0o600)
        self._refresh()

    def _refresh(self) -> None:
        """Read the file again where it has changed."""
        with self._mutex:
            try:
                about = os.stat(self.path)
            except FileNotFoundError:
                self._keys, self._stamp = {}, None
                return
            stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
            if stamp == self._stamp:
                return
            try:
                raw = json.loads(self.path.read_bytes())
                keys = [
                    ApiKey(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in raw["keys"]
                ]
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise MinusfaceError(f"{self.path}: damaged key file ({error})") from error
            self._keys, self._stamp = {key.id: key for key in keys}, stamp
