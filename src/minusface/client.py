"""The client's half: a photo's face is found, aligned and protected here; only the result is sent.

Without torch: onnxruntime runs the exported model (extra ``client``). Each image is shuffled anew from the
operating system's entropy, in several ways, of which the one is sent that shows least; the permutation is
forgotten.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from minusface.asking import (
    ServerError,
    check_address,
    check_texts,
    make_http,
    may_be_done,
    pause,
    understood,
)
from minusface.errors import MinusfaceError
from minusface.faces.detector import Detector
from minusface.faces.photos import read_photo
from minusface.faces.quality import good_crop
from minusface.pixels import UInt8
from minusface.runtime import ClientModel, ExportCard, draw_order, to_bytes

TRIES = 5
AGAIN = (408, 429, 502, 503, 504)
_MAKER = object()


class Sendable:
    """A protected image as PNG: the one thing that a client sends. Only :class:`Shield` makes it."""

    def __init__(self, png: bytes, maker: object) -> None:
        if maker is not _MAKER:
            raise MinusfaceError("only protected images are sent: make them with Shield.protect")
        self._png = png

    @property
    def png(self) -> bytes:
        """The file."""
        return self._png


@dataclass(frozen=True)
class Verification:
    """The answer to a verification."""

    same: bool
    score: float
    threshold: float
    fmr: str


@dataclass(frozen=True)
class Identification:
    """Who reached the threshold, with their scores, best first."""

    matches: tuple[tuple[str, float], ...]
    threshold: float
    fmr: str


class Shield:
    """Photos to protected images, on this machine.

    Args:
        model: a folder of minusface export.
        variant: of its client.
        detector: by default the shipped one (extra ``faces``, part of ``client``).
        threads: for one image; 0 leaves it to onnxruntime.
        tries: permutations of which the one is sent that shows least (:mod:`minusface.protect.choice`); by
            default eight, or one with an export that cannot choose. The paper's method is one.

    Raises:
        MinusfaceError: no export, a damaged one, more tries than it can do, or onnxruntime is missing.
    """

    def __init__(
        self,
        model: Path | str,
        variant: str = "float32",
        detector: Detector | None = None,
        threads: int = 0,
        tries: int | None = None,
    ) -> None:
        self._model = ClientModel(model, variant, threads)
        self._detector = detector
        self.card = self._model.card
        self.tries = self.card.usual_tries if tries is None else tries
        if not 1 <= self.tries <= self.card.most_tries:
            raise MinusfaceError(f"{model}: tries {tries}: expected 1 to {self.card.most_tries}")

    def protect(self, photo: Path | str | UInt8) -> Sendable:
        """A photo's face, protected.

        Args:
            photo: a file, or (H, W, 3) uint8, RGB; exactly the model's size is taken as an aligned crop.

        Raises:
            MinusfaceError: unreadable, no face, or not good enough: a sentence for the person.
        """
        named = isinstance(photo, (str, Path))
        try:
            image = read_photo(photo) if isinstance(photo, (str, Path)) else photo
            crop = good_crop(image, self.card.size, self._detector)
        except MinusfaceError as error:
            if named and str(photo) not in str(error):
                raise type(error)(f"{photo}: {error}") from error
            raise
        order = draw_order(1, self.card.n_duplicate * self.tries, self.card.channels)
        picture = to_bytes(self._model.protect(crop[None], order))[0]
        done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        assert done, "PNG encoding of a valid uint8 image cannot fail"
        return Sendable(data.tobytes(), _MAKER)


class Client:
    """Enroll, verify and identify people at a server.

    Args:
        server: its address; plain http only to this machine, unless ``insecure``.
        key: an API key; by default MINUSFACE_API_KEY.
        shield: protects photos; None for a client that only erases.
        insecure: allow plain http to other machines.
        timeout: seconds to wait for an answer.
        http: an httpx client in the place of one of its own.
        sleep: waits so many seconds between tries.

    Raises:
        MinusfaceError: an address or key that does not serve, or httpx is missing.
    """

    def __init__(
        self,
        server: str,
        shield: Shield | None,
        key: str | None = None,
        *,
        insecure: bool = False,
        timeout: float = 15.0,
        http: Any = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        token = key or os.environ.get("MINUSFACE_API_KEY")
        if not token:
            raise MinusfaceError("no API key: set MINUSFACE_API_KEY")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise MinusfaceError(
                "the API key (MINUSFACE_API_KEY): expected letters, digits, - and _"
            )
        try:
            import httpx
        except ImportError as error:
            raise MinusfaceError('httpx is missing: pip install "minusface[client]"') from error
        encrypted = check_address(server, insecure, httpx)
        self._errors: Any = (httpx.RequestError,)
        self._unsent: Any = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
        # A proxy of the environment would be handed the key in clear, even for this machine's own service.
        self._http = http or make_http(httpx, timeout, trust_env=encrypted)
        self._headers = {"authorization": f"Bearer {token}"}
        self._server, self._shield, self._sleep = server.rstrip("/"), shield, sleep
        self._agreed = False

    def enroll(
        self, person: str, photos: Sequence[Path | str | UInt8 | Sendable]
    ) -> tuple[str, ...]:
        """Enroll photos of a person; the names of the new templates.

        However often it must be tried, it is done once.

        Raises:
            MinusfaceError: a photo that will not do: then nothing is sent.
            ServerError: the server refuses, or does not answer.
        """
        check_texts(person=person)
        images = [self._image(photo) for photo in photos]
        body = {"person": person, "images": images}
        answer = self._send("/v1/enroll", body, once=uuid.uuid4().hex)
        with self._whole():
            return tuple(answer["templates"])

    def verify(
        self, person: str, photo: Path | str | UInt8 | Sendable, fmr: str | None = None
    ) -> Verification:
        """Does a photo show this person? See :meth:`enroll` for errors."""
        check_texts(person=person, fmr=fmr)
        body = {"person": person, "image": self._image(photo), "fmr": fmr}
        answer = self._send("/v1/verify", body)
        with self._whole():
            return Verification(answer["same"], answer["score"], answer["threshold"], answer["fmr"])

    def identify(
        self, photo: Path | str | UInt8 | Sendable, count: int = 5, fmr: str | None = None
    ) -> Identification:
        """Who does a photo show? See :meth:`enroll` for errors."""
        check_texts(fmr=fmr)
        body = {"image": self._image(photo), "count": count, "fmr": fmr}
        answer = self._send("/v1/identify", body)
        with self._whole():
            matches = tuple((match["person"], match["score"]) for match in answer["matches"])
            return Identification(matches, answer["threshold"], answer["fmr"])

    def erase(self, person: str) -> int:
        """Erase everything of a person at the server; how many templates there were.

        0 where an earlier try of this call may have erased them and its answer was lost: nobody of this name
        is there any more.
        """
        check_texts(person=person)
        try:
            answer = self._ask("POST", "/v1/erase", {"person": person})
        except ServerError as error:
            if error.unsure and error.error == "unknown_person":
                return 0
            raise
        with self._whole():
            return int(answer["templates"])

    def _image(self, photo: Path | str | UInt8 | Sendable) -> str:
        """Protected and in base64, once the server is known to recognise this model's images."""
        if self._shield is None:
            raise MinusfaceError("this client has no Shield: it can erase, and send nothing")
        sendable = photo if isinstance(photo, Sendable) else self._shield.protect(photo)
        self._agree(self._shield.card)
        return base64.b64encode(sendable.png).decode()

    def _send(self, path: str, body: dict[str, Any], once: str | None = None) -> dict[str, Any]:
        """Ask with images, naming their model: the server's may have become another since it was asked."""
        assert self._shield is not None, "images were made by it"
        card = self._shield.card
        try:
            return self._ask("POST", path, body | {"model": card.fingerprint}, once)
        except ServerError as error:
            if error.error == "other_model":
                self._agreed = False
                self._agree(card)
            raise

    def _agree(self, card: ExportCard) -> None:
        if self._agreed:
            return
        theirs = self._ask("GET", "/v1/model")
        ours = {"size": card.size, "n_duplicate": card.n_duplicate, "model": card.fingerprint}
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise MinusfaceError(
                    f"the server's model is another ({name} {theirs.get(name)!r}, here {value!r}): "
                    "both halves must come from one export"
                )
        self._agreed = True

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, once: str | None = None
    ) -> dict[str, Any]:
        """An answer, tried again where that may help: every request here may be repeated."""
        headers = self._headers | ({"idempotency-key": once} if once else {})
        unsure = False
        for attempt in range(1, TRIES + 1):
            try:
                answer = self._http.request(method, self._server + path, json=body, headers=headers)
            except self._errors as error:
                unsure = unsure or not isinstance(error, self._unsent)
                if attempt == TRIES:
                    raise ServerError(
                        f"{self._server}: no answer after {TRIES} tries ({type(error).__name__})"
                    ) from error
                self._sleep(pause(attempt, None))
                continue
            if answer.status_code not in AGAIN or attempt == TRIES:
                return understood(self._server, answer, unsure)
            unsure = unsure or may_be_done(answer)
            self._sleep(pause(attempt, answer.headers.get("retry-after")))
        raise AssertionError("the last try returns or raises")

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """An answer that lacks something is another program's."""
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self._server}: an answer that is not understood, no minusface service"
            ) from error


__all__ = [
    "Client",
    "Identification",
    "Sendable",
    "ServerError",
    "Shield",
    "Verification",
]
