"""The service over HTTP. Endpoints block in threads; what they wait for is the embedding worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Security
from fastapi.responses import HTMLResponse, Response
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware

from minusface import __version__
from minusface.serve import schemas as s
from minusface.serve.gate import Gate, Refusal
from minusface.serve.keys import ApiKey
from minusface.serve.pages import docs_page
from minusface.serve.problems import add_handlers, said
from minusface.serve.service import Service
from minusface.serve.site import site_routes

# Threads of their own for those who ask whether it can answer.
WATCHERS = 4
ANSWERS: dict[int | str, dict[str, Any]] = {
    code: {"model": s.Problem} for code in (400, 401, 403, 408, 413, 415, 422, 429, 503)
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": s.Problem}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": s.Problem}}
Once = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same for every try of one enrolment: it is done once",
    ),
]


def create_app(service: Service) -> FastAPI:
    """The application of a service; its end closes the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # A thread for each request that is let in: none waits for one unseen, past its time.
        settings = service.settings
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = settings.in_flight + settings.downloads
        yield
        service.close()

    app = FastAPI(
        title="minusface",
        version=__version__,
        description="Face recognition from protected images. Photos are never accepted.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={},
    )
    app.include_router(_open_routes(app, service))
    app.include_router(_guarded_routes(service))
    app.include_router(site_routes(service.settings.model, service.card))
    add_handlers(app, service)
    app.add_middleware(Gate, service=service)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
        )
    return app


def _open_routes(app: FastAPI, service: Service) -> APIRouter:
    router = APIRouter(tags=["state"])
    watchers = anyio.CapacityLimiter(WATCHERS)

    @router.get("/healthz", response_model=s.Health)
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @router.get("/readyz", response_model=s.Health, responses={503: {"model": s.Problem}})
    async def ready() -> Any:
        """It can answer."""
        if await anyio.to_thread.run_sync(service.ready, limiter=watchers):
            return {"status": "ready"}
        return said(503, "not_ready", "The service cannot answer now.", retry=5)

    @router.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        page, policy = docs_page(app.openapi())
        return HTMLResponse(page, headers={"content-security-policy": policy})

    if service.settings.metrics:

        @router.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _allowed(scope: str) -> Callable[[Request], ApiKey]:
    """The request's key, if it may do this; the gate has found it."""

    def check(request: Request) -> ApiKey:
        key: ApiKey = request.state.key
        if scope not in key.scopes:
            raise Refusal(403, "forbidden", f"This API key lacks the scope {scope!r}.")
        return key

    return check


Enroller = Annotated[ApiKey, Depends(_allowed("enroll"))]
Verifier = Annotated[ApiKey, Depends(_allowed("verify"))]
Admin = Annotated[ApiKey, Depends(_allowed("admin"))]


def _guarded_routes(service: Service) -> APIRouter:
    bearer = HTTPBearer(auto_error=False, description="An API key made with minusface keys add")
    router = APIRouter(prefix="/v1", responses=ANSWERS, dependencies=[Security(bearer)])
    _enrolling(router, service)
    _asking(router, service)
    _administering(router, service)
    return router


def _enrolling(router: APIRouter, service: Service) -> None:
    def enrolled(
        request: Request, key: ApiKey, asked: Sequence[s.PersonImages], once: str | None
    ) -> list[dict[str, Any]]:
        for one in asked:
            _fact(request, service, key, one.person, images=len(one.images))
        people = [(one.person, one.images) for one in asked]
        found = zip(asked, service.enroll(key.collection, people, once), strict=True)
        return [
            {"person": one.person, "templates": added.templates, "replayed": added.replayed}
            for one, added in found
        ]

    @router.post("/enroll", response_model=s.Enrolled, responses=CONFLICT)
    def enroll(
        request: Request, asked: s.EnrollRequest, key: Enroller, once: Once = None
    ) -> dict[str, Any]:
        """Enroll protected images of a person, new or known (scope enroll)."""
        service.check_model(asked.model)
        return enrolled(request, key, [asked], once)[0]

    @router.post("/enroll/batch", response_model=s.BatchEnrolled, responses=CONFLICT)
    def enroll_batch(
        request: Request, asked: s.BatchEnrollRequest, key: Enroller, once: Once = None
    ) -> dict[str, Any]:
        """Enroll several people (scope enroll), with no more images together than one may have.

        Nobody is enrolled where an image is refused. Where the gallery fails it stops; tried again under the
        same idempotency key it goes on from there.
        """
        service.check_model(asked.model)
        return {"people": enrolled(request, key, asked.people, once)}


def _asking(router: APIRouter, service: Service) -> None:
    @router.post("/verify", response_model=s.Verified, responses=MISSING | CONFLICT)
    def verify(request: Request, asked: s.VerifyRequest, key: Verifier) -> dict[str, Any]:
        """Is it this person? (scope verify)"""
        _fact(request, service, key, asked.person)
        service.check_model(asked.model)
        score, threshold, fmr = service.verify(key.collection, asked.person, asked.image, asked.fmr)
        same = score >= threshold
        request.state.facts["same"] = same
        return {"same": same, "score": score, "threshold": threshold, "fmr": fmr}

    @router.post("/identify", response_model=s.Identified, responses=CONFLICT)
    def identify(request: Request, asked: s.IdentifyRequest, key: Verifier) -> dict[str, Any]:
        """Who is it? (scope verify)"""
        service.check_model(asked.model)
        hits, threshold, fmr = service.identify(key.collection, asked.image, asked.count, asked.fmr)
        request.state.facts["found"] = len(hits)
        matches = [{"person": hit.person, "score": hit.score} for hit in hits]
        return {"matches": matches, "threshold": threshold, "fmr": fmr}

    @router.get("/model", response_model=s.About)
    def about(request: Request) -> dict[str, Any]:
        """What protected images must be like (any scope)."""
        card = service.card
        return {
            "size": card.size,
            "channels": card.channels,
            "n_duplicate": card.n_duplicate,
            "model": card.fingerprint,
            "thresholds": service.thresholds,
            "fmr": service.fmr,
            "max_images": service.settings.max_images,
        }


def _administering(router: APIRouter, service: Service) -> None:
    @router.get("/people", response_model=s.PeoplePage)
    def people(
        key: Admin,
        after: Annotated[
            str | None, Query(max_length=100, description="What the page before gave")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Who is enrolled (scope admin)."""
        found, following = service.people(key.collection, after, limit)
        entries = [{"person": one.name, "templates": one.templates} for one in found]
        return {"people": entries, "after": following}

    @router.post("/erase", response_model=s.Erased, responses=MISSING)
    def erase(request: Request, asked: s.PersonRequest, key: Admin) -> dict[str, Any]:
        """Erase everything of a person; it is gone when this answers (scope admin)."""
        _fact(request, service, key, asked.person)
        return {"templates": service.erase(key.collection, asked.person)}

    @router.post("/rekey", response_model=s.Rekeyed)
    def rekey(key: Admin, asked: s.Strict) -> dict[str, Any]:
        """Bring the collection under new keys, without photos; takes a while (scope admin).

        One at a time, and one of a collection in ten minutes (429).
        """
        return {"version": service.rekey(key.collection)}


def _fact(request: Request, service: Service, key: ApiKey, person: str, **more: Any) -> None:
    """For the audit log."""
    facts = request.state.facts
    facts.setdefault("people", []).append(service.audit.pseudonym(key.collection, person))
    for name, value in more.items():
        facts[name] = facts.get(name, 0) + value
