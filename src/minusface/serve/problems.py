"""Errors as answers: a status, a word for programs, a sentence for people; nothing of what was given."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from minusface.errors import MinusfaceError
from minusface.index import ConflictError, StorageError, UnknownCollectionError, UnknownPersonError
from minusface.serve.batching import BusyError
from minusface.serve.gate import FAULT, GUARDED, Refusal, problem
from minusface.serve.images import ImageError, NaturalImageError
from minusface.serve.limits import TooManyError
from minusface.serve.room import FullError
from minusface.serve.service import OtherModelError, Service

# The first that fits, from the particular to the general.
ERRORS: tuple[tuple[type[Exception], int, str], ...] = (
    (NaturalImageError, 422, "looks_like_a_photo"),
    (ImageError, 422, "bad_image"),
    (UnknownPersonError, 404, "unknown_person"),
    (UnknownCollectionError, 404, "unknown_collection"),
    (OtherModelError, 409, "other_model"),
    (FullError, 409, "full"),
    (ConflictError, 409, "conflict"),
    (TooManyError, 429, "too_many_requests"),
    (BusyError, 503, "busy"),
    (StorageError, 503, "storage"),
    (MinusfaceError, 422, "invalid"),
)


def said(status: int, error: str, message: str, retry: float | None = None) -> JSONResponse:
    """An answer of a word and a sentence; ``retry`` in seconds."""
    headers = None if retry is None else {"retry-after": str(max(1, math.ceil(retry)))}
    return JSONResponse({"error": error, "message": message}, status, headers)


def add_handlers(app: FastAPI, service: Service) -> None:
    """Have an application answer errors so."""

    async def ours(request: Request, error: Exception) -> Response:
        status, word = next((code, w) for kind, code, w in ERRORS if isinstance(error, kind))
        service.metrics.refused.labels(word).inc()
        message = " ".join(str(error).split())
        if isinstance(error, StorageError):
            message = f"The gallery cannot be written or read now; {_done(request, service)}."
        if isinstance(error, TooManyError):
            return said(status, word, message, error.retry)
        return said(status, word, message, 2 if status == 503 else None)

    async def invalid(request: Request, error: Exception) -> Response:
        # What was given is not repeated: it may be an image or a name.
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return said(422, "invalid", f"{where}: {first['msg']}")

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, Refusal):
            service.metrics.refused.labels(error.error).inc()
            return problem(error)
        answer = said(error.status_code, "http", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def ours_fault(request: Request, error: Exception) -> Response:
        # Of what lies around the gate; within, it answers itself.
        return problem(FAULT)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        MinusfaceError: ours,
        RequestValidationError: invalid,
        HTTPException: http,
        Exception: ours_fault,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _done(request: Request, service: Service) -> str:
    """What may have been done of a request that the storage failed at."""
    asked = request.url.path.removeprefix(GUARDED)
    if asked == "erase":
        return "what could not be erased may be at the next start: ask again"
    # A folder does one thing whole or not at all; where a database's answer was lost nobody knows.
    unsure = {"enroll", "rekey"} if service.remote else set()
    if asked not in unsure | {"enroll/batch"}:
        return "nothing was changed"
    if asked == "rekey":
        return "new keys may be in use already"
    if "idempotency-key" in request.headers:
        return "it may have been done in part: ask again with the same idempotency key"
    return "it may have been done in part, and asked again without an idempotency key is done twice"
