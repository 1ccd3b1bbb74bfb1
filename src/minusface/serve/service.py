"""What a service does, apart from HTTP: images to templates to answers, within a key's collection."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError, choice_error
from minusface.index import (
    Added,
    ConflictError,
    Hit,
    Person,
    Request,
    UnknownPersonError,
    load_master,
)
from minusface.index.base import check_name
from minusface.index.places import ERASED, Made, open_index, parts
from minusface.runtime import RecognizerModel, from_bytes, rate_name
from minusface.serve.batching import Batcher, BusyError
from minusface.serve.cursor import Cursors
from minusface.serve.images import ImageError, decode_image
from minusface.serve.keys import ApiKeys
from minusface.serve.limits import RateLimit, Rekeyings
from minusface.serve.room import Room
from minusface.serve.settings import Settings
from minusface.serve.watch import Audit, Metrics

Floats = npt.NDArray[np.float32]
KEYS = "keys.json"
MOST_COSINE = 1.001


class OtherModelError(MinusfaceError):
    """Images of another model's client than this service's recogniser understands."""


class Service:
    """Model, index, keys, limits and logs of a running service.

    Args:
        settings: of it.

    Raises:
        MinusfaceError: a model, key or folder that does not serve; thresholds are missing.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = RecognizerModel(settings.model, settings.variant, settings.threads)
        self.card = self.model.card
        self.thresholds = read_thresholds(self.card.thresholds, f"{settings.model}: card.json")
        if settings.threshold is not None:
            if settings.fmr:
                raise MinusfaceError(
                    "--threshold takes the place of the card's thresholds; expected it or --fmr, not both"
                )
            self.thresholds = {"custom": settings.threshold}
        self.fmr = self._default_fmr()
        self._warn_of_variant()
        master = load_master(settings.master_key_file)
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.keys = ApiKeys(settings.data / KEYS)
        place = settings.index or f"local:{settings.data / 'gallery'}"
        self.remote = parts(place)[0] != "local"
        self.index = open_index(
            place,
            master,
            Made(self.card.embedding_size, self.card.fingerprint),
            settings.data / ERASED,
        )
        self._creating = threading.Lock()
        self.limit = RateLimit(settings.rate, settings.burst)
        self.rekeyings = Rekeyings(settings.rekey_seconds)
        self.room = Room(self.index, settings.max_templates, settings.max_templates_person)
        self.metrics = Metrics()
        self.cursors = Cursors(master)
        self.audit = Audit(settings.data / "audit.log", master)
        self.batcher = Batcher(
            self.model.embed,
            settings.batch,
            settings.batch_wait_ms / 1000,
            settings.waiting,
            self.metrics.batches.observe,
        )
        self.metrics.waiting.set_function(lambda: self.batcher.count)

    def ready(self) -> bool:
        """Whether it can answer."""
        try:
            self.keys.all()
            self.index.collections()
            return self.batcher.alive
        except MinusfaceError:
            return False

    def close(self) -> None:
        """Finish what waits and give everything back."""
        self.batcher.close()
        self.index.close()
        self.audit.close()

    def enroll(
        self, collection: str, people: Sequence[tuple[str, Sequence[str]]], request: str | None
    ) -> list[Added]:
        """Enroll people's images, all embedded before anybody is: :meth:`minusface.index.Index.add`.

        Args:
            collection: the key's.
            people: names, each with images as base64 of PNGs.
            request: an idempotency key for each that follows from it.

        Raises:
            MinusfaceError: an image that is refused, a name that does not serve, a key used otherwise.
            FullError: the collection, or a person, would have too many templates.
        """
        for person, _ in people:
            check_name("person", person)
        self._ensure(collection)
        # The first under the key itself: one person alone is a batch of one.
        wanted = [
            (one[0], len(one[1]), None if request is None else _once(request, number, *one))
            for number, one in enumerate(people)
        ]
        self._check_count(sum(count for _, count, _ in wanted))
        added, start = [], 0
        with self.room.held(collection, wanted):
            rows = self.embed([image for _, images in people for image in images], collection)
            for person, count, one in wanted:
                added.append(self.index.add(collection, person, rows[start : start + count], one))
                self.room.took(collection, added[-1])
                start += count
        return added

    def verify(
        self, collection: str, person: str, image: str, fmr: str | None
    ) -> tuple[float, float, str]:
        """Score, threshold and the threshold's name.

        Raises:
            UnknownPersonError: nobody of this name.
        """
        name, threshold = self.threshold(fmr)
        self._ensure(collection)
        score = float(self.index.scores(collection, person, self.embed([image], collection))[0])
        return score, threshold, name

    def identify(
        self, collection: str, image: str, count: int, fmr: str | None
    ) -> tuple[list[Hit], float, str]:
        """Who reaches the threshold, best first; the threshold and its name."""
        name, threshold = self.threshold(fmr)
        self._ensure(collection)
        hits = self.index.search(collection, self.embed([image], collection), count)[0]
        return [hit for hit in hits if hit.score >= threshold], threshold, name

    def people(
        self, collection: str, after: str | None, limit: int
    ) -> tuple[list[Person], str | None]:
        """A page of people, and what gives the next one, if there may be one.

        Raises:
            MinusfaceError: ``after`` is not what a page of this collection gave.
        """
        start = 0 if after is None else self.cursors.open(collection, after)
        self._ensure(collection)
        found = self.index.people(collection, start, limit)
        full = len(found) == limit
        return found, self.cursors.seal(collection, found[-1].cursor) if full else None

    def erase(self, collection: str, person: str) -> int:
        """Erase a person; how many templates they had."""
        self._ensure(collection)
        try:
            return self.index.erase(collection, person)
        finally:
            self.room.forget(collection)

    def rekey(self, collection: str) -> int:
        """New keys for a collection; their version.

        Raises:
            TooManyError: another collection is being re-keyed, or this one was a short time ago.
        """
        with self.rekeyings.one(collection):
            self._ensure(collection)
            return self.index.rekey(collection)

    def check_model(self, model: str | None) -> None:
        """Refuse images of another model; where a request names none, they are taken for this one's.

        Raises:
            OtherModelError: another fingerprint than the recogniser's.
        """
        if model is not None and model != self.card.fingerprint:
            raise OtherModelError(
                f"the server's model is another (model {self.card.fingerprint!r}): "
                "both halves must come from one export"
            )

    def embed(self, images: Sequence[str], collection: str) -> Floats:
        """Base64 PNGs to templates (B, D); a collection's share of what waits is limited.

        Raises:
            ImageError: one of them is refused; it is numbered where there are several.
            TooManyError: too much of the collection is waiting.
            BusyError: too much is waiting.
        """
        self._check_count(len(images))
        card = self.card
        pictures = np.stack([decode_image(text, card.size, card.n_duplicate) for text in images])
        future = self.batcher.submit(from_bytes(pictures), collection)
        try:
            return future.result(self.settings.work_seconds)
        except FutureTimeoutError as error:
            future.cancel()
            raise BusyError("the images were not embedded in time") from error

    def threshold(self, fmr: str | None) -> tuple[str, float]:
        """A threshold by the name of its false match rate (fmr_1e-2), or the rate (1e-2, 0.01).

        Raises:
            MinusfaceError: the model's card does not tell it.
        """
        name = rate_name(fmr) or self.fmr
        if name not in self.thresholds:
            raise choice_error("false match rate", name, self.thresholds)
        return name, self.thresholds[name]

    def _check_count(self, images: int) -> None:
        most = self.settings.max_images
        if images > most:
            raise ImageError(f"{images} images, expected at most {most} a request")

    def _warn_of_variant(self) -> None:
        """The card's thresholds are of float32 alone, whatever else was exported."""
        variant = self.settings.variant
        if variant != "float32" and self.settings.threshold is None:
            print(
                f"minusface: the thresholds were measured for float32, not for the variant {variant}: false "
                "match rates may be others; measure one of your own for --threshold",
                file=sys.stderr,
                flush=True,
            )

    def _default_fmr(self) -> str:
        if not self.thresholds:
            raise MinusfaceError(
                f"{self.settings.model}: its card holds no thresholds; export with --pairs and --faces, or "
                "give --threshold"
            )
        if self.settings.fmr:
            if self.settings.fmr not in self.thresholds:
                raise choice_error("false match rate", self.settings.fmr, self.thresholds)
            return self.settings.fmr
        return max(self.thresholds, key=lambda name: self.thresholds[name])

    def _ensure(self, collection: str) -> None:
        """A key's collection is made when it is first used."""
        if collection in self.index.collections():
            return
        with self._creating:
            try:
                self.index.create(collection)
            except ConflictError:
                return


def _once(request: str, number: int, person: str, images: Sequence[str]) -> Request:
    """By which a person's enrolment within a request is known again."""
    digest = hashlib.sha256(person.encode("utf-8", "surrogatepass"))
    for image in images:
        digest.update(hashlib.sha256(image.encode()).digest())
    return Request(f"{request}#{number}" if number else request, digest.digest())


def read_thresholds(raw: object, where: str) -> dict[str, float]:
    """A card's thresholds.

    Raises:
        MinusfaceError: something else than cosines by name.
    """
    if not isinstance(raw, dict):
        raise MinusfaceError(f"{where}: thresholds: expected names with numbers")
    for name, value in raw.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # One that nobody reaches lies just above 1.
        if not (number and -1 <= value <= MOST_COSINE):
            raise MinusfaceError(f"{where}: thresholds.{name}: {value!r}, expected a cosine")
    return {name: float(value) for name, value in raw.items()}


__all__ = ["KEYS", "Service", "UnknownPersonError"]
