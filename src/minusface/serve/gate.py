"""What every request passes before anything of it is believed: who asks, how often, how much.

It runs before the body is read, so that without a key nothing of a body is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import Counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minusface.errors import MinusfaceError
from minusface.serve.keys import ApiKey
from minusface.serve.limits import RateLimit
from minusface.serve.service import Service
from minusface.serve.watch import milliseconds

HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
HSTS = "max-age=31536000"
GUARDED = "/v1/"
# Requests without a key that the audit log notes, a second; metrics count them all.
STRANGERS = 10.0
# Short answers for whoever watches the service; they come however many downloads are under way.
STATE = ("/healthz", "/readyz", "/metrics")


class Refusal(HTTPException):
    """A request that goes no further; an HTTPException, which FastAPI lets pass while it reads a body."""

    def __init__(self, status: int, error: str, message: str, retry: float | None = None) -> None:
        headers = {} if retry is None else {"retry-after": str(max(1, math.ceil(retry)))}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if status in (408, 413):
            # What is left of the body is not read.
            headers["connection"] = "close"
        super().__init__(status, message, headers)
        self.error = error


# What an exception that nobody expected is answered with.
FAULT = Refusal(500, "internal", "Something went wrong on the server.")


class Gate:
    """ASGI middleware in front of all routes.

    Args:
        app: what follows.
        service: keys, limits and logs.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        # Apart, so that whoever reads slowly, without a key, does not stop those who have one.
        self._under_way = {"guarded": 0, "state": 0, "page": 0}
        self._of_collection: Counter[str] = Counter()
        self._strangers = RateLimit(STRANGERS, 10 * STRANGERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, request = time.monotonic(), secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["facts"] = {}
        status, begun = 500, False
        guarded = scope["path"].startswith(GUARDED)
        kind = "guarded" if guarded else "state" if scope["path"] in STATE else "page"
        counted = ""

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                self._dress(MutableHeaders(scope=message), request)
            await send(message)

        self._under_way[kind] += 1
        self.service.metrics.in_flight.set(sum(self._under_way.values()))
        try:
            self._make_way(kind)
            if guarded:
                self._admit(scope)
                counted = self._count(scope)
                receive = self._measured(scope, receive)
            await self.app(scope, receive, answer)
        except Refusal as refusal:
            self.service.metrics.refused.labels(refusal.error).inc()
            await problem(refusal)(scope, receive, answer)
        except Exception:
            if begun:
                raise
            # Whoever stands around the gate would answer without its headers, and the connection be cut.
            logging.getLogger(__name__).exception("request %s: a fault of the service", request)
            await problem(FAULT)(scope, receive, answer)
        finally:
            self._under_way[kind] -= 1
            if counted:
                self._of_collection[counted] -= 1
            self._note(scope, guarded, status, start, request)

    def _make_way(self, kind: str) -> None:
        """Refuse one too many of a kind."""
        settings = self.service.settings
        most = {"guarded": settings.in_flight, "page": settings.downloads}
        if kind in most and self._under_way[kind] > most[kind]:
            raise Refusal(503, "busy", "Too many requests are under way; try again soon.", 1)

    def _count(self, scope: Scope) -> str:
        """The collection that is asked, counted; refuse one too many of it: others shall be answered."""
        collection: str = scope["state"]["key"].collection
        if self._of_collection[collection] >= self.service.settings.in_flight_collection:
            raise Refusal(
                429, "too_many_requests", "Too many requests of this collection are under way.", 1
            )
        self._of_collection[collection] += 1
        return collection

    def _admit(self, scope: Scope) -> None:
        """Find the key; refuse what comes too often or in another form."""
        service, headers = self.service, Headers(scope=scope)
        kind, _, token = headers.get("authorization", "").partition(" ")
        try:
            key = service.keys.find(token.strip()) if kind.lower() == "bearer" else None
        except MinusfaceError:
            # Nobody is let in by keys from before: one of them may have been revoked.
            raise Refusal(503, "storage", "The API keys cannot be read now.", 5) from None
        if key is None:
            raise Refusal(
                401, "unauthorized", "A valid API key is needed: Authorization: Bearer KEY."
            )
        scope["state"]["key"] = key
        wait = service.limit.take(key.id)
        if wait:
            raise Refusal(
                429, "too_many_requests", "This key asks too often; try again later.", wait
            )
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refusal(
                    415, "unsupported_media_type", "Expected Content-Type: application/json."
                )
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 18:
            raise Refusal(400, "bad_request", "Content-Length is no number.")
        if int(length) > service.settings.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        most = self.service.settings.max_body_bytes
        return Refusal(413, "too_large", f"The body is too large: at most {most} bytes.")

    def _measured(self, scope: Scope, receive: Receive) -> Receive:
        """The body, no longer than allowed in bytes and seconds."""
        settings, got = self.service.settings, 0
        deadline = time.monotonic() + settings.body_seconds
        done = False

        async def measured() -> Message:
            nonlocal got, done
            if done:
                return await receive()
            try:
                left = max(0.0, deadline - time.monotonic())
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise Refusal(408, "timeout", "The body did not come in time.") from None
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                done = not message.get("more_body", False)
                if got > settings.max_body_bytes:
                    raise self._too_large()
            return message

        return measured

    def _dress(self, headers: MutableHeaders, request: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers["x-request-id"] = request
        if self.service.settings.tls_certificate or self.service.settings.proxy:
            headers.setdefault("strict-transport-security", HSTS)

    def _note(self, scope: Scope, guarded: bool, status: int, start: float, request: str) -> None:
        metrics = self.service.metrics
        route = getattr(scope.get("route"), "path", "unknown")
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(time.monotonic() - start)
        metrics.in_flight.set(sum(self._under_way.values()))
        key: ApiKey | None = scope["state"].get("key")
        # Who has no key shall not fill the disk.
        if not guarded or (key is None and self._strangers.take("")):
            return
        facts: dict[str, Any] = scope["state"]["facts"]
        self.service.audit.write(
            route.removeprefix(GUARDED),
            request=request,
            status=status,
            ms=milliseconds(start),
            key=key.id if key else None,
            collection=key.collection if key else None,
            **facts,
        )


def problem(refusal: Refusal) -> JSONResponse:
    """A refusal as a response."""
    said = {"error": refusal.error, "message": refusal.detail}
    return JSONResponse(said, refusal.status_code, refusal.headers)
