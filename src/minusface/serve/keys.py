"""API keys: who may do what in which collection. Only their hashes are kept.

A key is ``mf_ID_SECRET``; the secret has 256 bits, so that one plain SHA-256 of it gives nothing away.
Keys lie in a JSON file that the service reads again whenever it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from minusface.errors import MinusfaceError, choice_error
from minusface.files import NO_LINK, hand_over, write_atomically

SCOPES = ("enroll", "verify", "admin")
PREFIX = "mf"
DAY = 86_400.0
# A century: beyond the calendar, a key's end could not be written as a date.
MOST_DAYS = 36_500.0
LONGEST_NOTE = 200
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
        MinusfaceError: a damaged file, or one that cannot be read.
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
        # Asked so that an end which is no number (nan) is past, not never.
        if key.expires is not None and not (time.time() if now is None else now) < key.expires:
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

        Args:
            collection: whose people it is about.
            scopes: what it may do.
            days: for how long; without end by default.
            name: a note.

        Raises:
            MinusfaceError: an unknown scope, a collection, time or note that does not serve, or a file that
                cannot be written.
        """
        collection = _check(collection, scopes, days, name)
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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise MinusfaceError(
                f"{self.path}: cannot write ({error.strerror or error})"
            ) from error
        with self._alone():
            self._write({**self._keys, number: key})
        return key, f"{PREFIX}_{number}_{secret}"

    def revoke(self, number: str) -> None:
        """Remove a key.

        Raises:
            MinusfaceError: there is none of this id, or a file that cannot be written.
        """
        with self._alone():
            if number not in self._keys:
                raise choice_error("API key", number, self._keys)
            self._write({n: key for n, key in self._keys.items() if n != number})

    def all(self) -> list[ApiKey]:
        """Every key, oldest first."""
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: key.created)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """From reading to writing nobody else writes: what they add, or revoke, would be undone.

        The lock is a file beside, as the keys' own is replaced by each writing.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT | NO_LINK, 0o600)
        except OSError as error:
            raise MinusfaceError(f"{lock}: cannot write ({error.strerror or error})") from error
        try:
            hand_over(file, lock.parent)
            if os.name == "posix":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            self._stamp = None
            self._refresh()
            yield
        finally:
            os.close(file)

    def _write(self, keys: dict[str, ApiKey]) -> None:
        raw = {"format": 1, "keys": [asdict(key) for key in keys.values()]}
        write_atomically(self.path, json.dumps(raw, indent=1).encode(), mode=0o600, owned=True)
        self._refresh()

    def _refresh(self) -> None:
        """Read the file again where it has changed."""
        with self._mutex:
            try:
                about = os.stat(self.path)
                stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
                if stamp == self._stamp:
                    return
                data = self.path.read_bytes()
            except FileNotFoundError:
                self._keys, self._stamp = {}, None
                return
            except OSError as error:
                raise MinusfaceError(
                    f"{self.path}: cannot read ({error.strerror or error})"
                ) from error
            try:
                raw = json.loads(data)
                keys = [
                    ApiKey(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in raw["keys"]
                ]
            except (ValueError, TypeError, KeyError) as error:
                raise MinusfaceError(f"{self.path}: damaged key file ({error})") from error
            self._keys, self._stamp = {key.id: key for key in keys}, stamp


def _check(collection: str, scopes: tuple[str, ...], days: float | None, name: str) -> str:
    """Whether a key may be made like this; the collection as indexes write it.

    Raises:
        MinusfaceError: it may not.
    """
    from minusface.index.base import check_name

    for scope in scopes:
        if scope not in SCOPES:
            raise choice_error("scope", scope, SCOPES)
    if not scopes:
        raise MinusfaceError(f"an API key without scopes (known: {', '.join(SCOPES)})")
    if len(name) > LONGEST_NOTE or (name and not name.isprintable()):
        raise MinusfaceError(f"name: expected at most {LONGEST_NOTE} printable characters")
    if days is not None and not (math.isfinite(days) and 0 < days <= MOST_DAYS):
        raise MinusfaceError(f"days {days:g}: expected more than 0, at most {MOST_DAYS:g}")
    return check_name("collection", collection)
