"""What goes in and out, for the API and its documentation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Name = Annotated[
    str,
    Field(min_length=1, max_length=200, description="Chosen by you, unique in the collection"),
]
Image = Annotated[
    str,
    Field(
        min_length=4,
        description="Base64 of a protected image: an RGB PNG of the model's size. Photos are refused.",
    ),
]
Fmr = Annotated[
    str | None,
    Field(
        max_length=40,
        description="A false match rate of the model's card: fmr_1e-3, 1e-3 or 0.001",
    ),
]


Model = Annotated[
    str | None,
    Field(
        max_length=64,
        description="The model that protected the images, as GET /v1/model tells; another than the "
        "server's is refused (409, other_model)",
    ),
]


class Strict(BaseModel):
    """Unknown fields are refused, by one error for all of them: a body has room for 400,000."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.keys() <= cls.model_fields.keys():
            known = ", ".join(cls.model_fields) or "none"
            raise PydanticCustomError(
                "extra_forbidden", "unknown fields (known: {known})", {"known": known}
            )
        return given


class PersonImages(Strict):
    """One person's protected images."""

    person: Name
    images: Annotated[list[Image], Field(min_length=1, max_length=256)]


class EnrollRequest(PersonImages):
    """One person's protected images, and the model that protected them."""

    model: Model = None


class BatchEnrollRequest(Strict):
    """Several people's protected images."""

    people: Annotated[list[PersonImages], Field(min_length=1, max_length=256)]
    model: Model = None


class VerifyRequest(Strict):
    """Is it this person?"""

    person: Name
    image: Image
    fmr: Fmr = None
    model: Model = None


class IdentifyRequest(Strict):
    """Who is it?"""

    image: Image
    count: Annotated[int, Field(ge=1, le=100, description="People at most")] = 5
    fmr: Fmr = None
    model: Model = None


class PersonRequest(Strict):
    """A person by name; not in the address, which proxies log."""

    person: Name


class Enrolled(BaseModel):
    """What was enrolled."""

    person: str
    templates: Annotated[list[str], Field(description="Random names of the new templates")]
    replayed: Annotated[bool, Field(description="Done before, under the same idempotency key")]


class BatchEnrolled(BaseModel):
    """In the order of the request."""

    people: list[Enrolled]


class Verified(BaseModel):
    """The answer to a verification."""

    same: bool
    score: Annotated[float, Field(description="Cosine, -1 to 1")]
    threshold: float
    fmr: str


class Candidate(BaseModel):
    """A person who may be meant."""

    person: str
    score: float


class Identified(BaseModel):
    """Those at or above the threshold, best first. In a gallery of many, the rate holds for each."""

    matches: list[Candidate]
    threshold: float
    fmr: str


class PersonEntry(BaseModel):
    """One of a list."""

    person: str
    templates: int


class PeoplePage(BaseModel):
    """A page of people, in the order of their enrolment."""

    people: list[PersonEntry]
    after: Annotated[str | None, Field(description="Give this to get the next page")]


class Erased(BaseModel):
    """What was erased."""

    templates: int


class Rekeyed(BaseModel):
    """New keys."""

    version: int


class About(BaseModel):
    """What a client must know of the model."""

    size: int
    channels: int
    n_duplicate: int
    model: str
    thresholds: dict[str, float]
    fmr: Annotated[str, Field(description="Used where a request names none")]
    max_images: int


class Problem(BaseModel):
    """What went wrong."""

    error: Annotated[str, Field(description="A word for programs")]
    message: Annotated[str, Field(description="A sentence for people")]


class Health(BaseModel):
    """How the service does."""

    status: str
