"""What a service can be told, by arguments or the environment (``MINUSFACE_PORT=8080``)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from minusface.runtime import rate_name


class Settings(BaseSettings):
    """A service's settings; the environment's names have the prefix ``MINUSFACE_``."""

    model_config = SettingsConfigDict(env_prefix="MINUSFACE_", extra="ignore", allow_inf_nan=False)

    model: Path
    """A folder of minusface export."""
    data: Path
    """Where gallery, API keys and audit log lie."""
    index: str = ""
    """Where the gallery lies, if not in ``data``: postgresql://... or qdrant:http://..."""
    master_key_file: Path | None = None
    """64 hexadecimal digits, readable by its owner only; otherwise MINUSFACE_MASTER_KEY."""
    variant: str = "float32"
    """Of the recogniser."""
    threads: int = Field(1, ge=0, le=256)
    """For one batch; 0 leaves it to onnxruntime."""
    fmr: str = ""
    """False match rate used where a request names none (fmr_1e-3, 1e-3 or 0.001); by default the card's
    strictest."""
    threshold: float | None = Field(None, ge=-1, le=1)
    """A cosine in the place of the card's thresholds, named ``custom``; not together with ``fmr``."""
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    proxy: bool = False
    """Behind a proxy that ends TLS: its forwarding headers are believed."""
    cors_origins: list[str] = []
    """Origins whose pages may ask; none by default."""
    metrics: bool = True
    """Serve /metrics, without a key; it counts all tenants' requests together, and names none and nobody."""
    max_images: int = Field(16, ge=1, le=256)
    """A request, of all its people together."""
    max_body_bytes: int = Field(4 << 20, ge=1024)
    body_seconds: float = Field(10.0, gt=0)
    """In which a request's body must have come."""
    work_seconds: float = Field(10.0, gt=0)
    """In which its images must be embedded."""
    batch: int = Field(16, ge=1, le=256)
    batch_wait_ms: float = Field(0.0, ge=0, le=1000)
    """What comes while a batch is embedded makes the next one; waiting longer only helps on GPUs."""
    waiting: int = Field(128, ge=1)
    """Images that may wait to be embedded; more are refused with 503, and of one collection more than half
    of them with 429."""
    in_flight: int = Field(64, ge=1)
    """Requests with a key at a time; more are refused with 503."""
    in_flight_collection: int = Field(32, ge=1)
    """Of them so many of one collection, by whichever keys; more are refused with 429."""
    downloads: int = Field(64, ge=1)
    """Requests for the page and the documentation at a time, which need no key; more are refused with 503."""
    rate: float = Field(50.0, gt=0)
    """Requests a second and key."""
    burst: float = Field(100.0, ge=1)
    max_templates: int = Field(200_000, ge=1)
    """Of a collection; an enrolment beyond is refused with 409."""
    max_templates_person: int = Field(1000, ge=1)
    """Of a person; an enrolment beyond is refused with 409."""
    rekey_seconds: float = Field(600.0, ge=0)
    """From one re-keying of a collection to the next; 0 sets no limit. One at a time is done in any case."""
    shutdown_seconds: int = Field(20, ge=0)
    """For which requests under way are waited for at the end."""

    @field_validator("fmr")
    @classmethod
    def _named(cls, fmr: str) -> str:
        return rate_name(fmr) or ""
