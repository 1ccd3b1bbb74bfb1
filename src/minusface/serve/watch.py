"""What a service tells of itself: numbers for Prometheus, and an audit log without anything biometric."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
import unicodedata
from pathlib import Path
from typing import IO, Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from minusface.errors import MinusfaceError

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Counters; their labels name routes and reasons, never tenants or people."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "minusface_requests", "Requests", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "minusface_request_seconds",
            "Seconds a request",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "minusface_refused", "Requests refused, by reason", ["reason"], registry=self.registry
        )
        self.batches = Histogram(
            "minusface_batch_images",
            "Images embedded together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "minusface_waiting_images", "Images that wait to be embedded", registry=self.registry
        )
        self.in_flight = Gauge(
            "minusface_requests_in_flight", "Requests under way", registry=self.registry
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return bytes(generate_latest(self.registry))


class Audit:
    """Who did what, when, with what outcome: one JSON line an action.

    People appear as pseudonyms, a keyed hash of collection and name: the same person's lines can be found
    by whoever holds the master key and knows the name.

    Args:
        path: appended to; readable by its owner only.
        master: from which the pseudonyms' key is derived.

    Raises:
        MinusfaceError: it cannot be written.
    """

    def __init__(self, path: Path, master: bytes) -> None:
        self._key = hmac.digest(master, b"minusface/audit", "sha256")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._file: IO[str] = os.fdopen(descriptor, "a", encoding="utf-8")
        except OSError as error:
            raise MinusfaceError(f"{path}: cannot write ({error.strerror or error})") from error
        self._log: Any = structlog.wrap_logger(
            structlog.WriteLogger(self._file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )

    def write(self, action: str, **facts: Any) -> None:
        """A line, on its way to the disk when it returns. A full disk does not stop the service."""
        try:
            self._log.info(action, **facts)
        except (OSError, ValueError):
            return

    def pseudonym(self, collection: str, person: str) -> str:
        """16 hex digits that stand for a person, however their name was typed (Unicode NFC)."""
        said = f"{len(collection)}/{collection}/{unicodedata.normalize('NFC', person)}".encode()
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()[:16]

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def milliseconds(since: float) -> float:
    """Since a time of :func:`time.monotonic`, to a tenth."""
    return round((time.monotonic() - since) * 1000, 1)
