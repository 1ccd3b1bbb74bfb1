"""The client: what it sends and what not, how it tries again, what it says to the person; without torch."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from minusface.client import TRIES, Client, Sendable, ServerError, Shield
from minusface.data.synthetic import SyntheticFaces
from minusface.errors import MinusfaceError
from minusface.faces import Face, NoFaceError
from minusface.faces.quality import LEAST_EYES, QualityError, check_crop, good_crop
from minusface.runtime import rate_name
from minusface.serve import images
from tests.products import SIZE


class Seen:
    """A detector that finds the faces it is told."""

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def detect(self, image: np.ndarray) -> list[Face]:
        return self.faces


def face(x: float = 60, y: float = 60, eyes: float = 35, side: float = 80) -> Face:
    marks = np.array([(-0.5, 0), (0.5, 0), (0, 0.6), (-0.4, 1.15), (0.4, 1.15)]) * eyes + (x, y)
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return Face(box, 0.99, marks.astype(np.float32))


def photo(seed: int = 0, side: int = 160) -> np.ndarray:
    """Sharp noise on soft patches: bright and sharp enough anywhere."""
    random = np.random.default_rng(seed)
    soft = cv2.resize(random.integers(60, 190, (8, 8, 3), dtype=np.uint8), (side, side))
    return np.clip(soft + random.normal(0, 25, soft.shape), 0, 255).astype(np.uint8)


def png(data: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


class Wire:
    """An HTTP client that remembers what was sent, fails as told, and asks the service otherwise."""

    def __init__(self, client: Any, *plan: object) -> None:
        self.client, self.plan = client, list(plan)
        self.sent: list[tuple[str, Any, dict[str, str]]] = []

    def request(self, method: str, url: str, json: Any = None, headers: Any = None) -> Any:
        self.sent.append((url, json, headers))
        step = self.plan.pop(0) if self.plan else "pass"
        if step == "lost before":
            raise httpx.ConnectError("no")
        if isinstance(step, httpx.Response):
            return step
        answer = self.client.request(method, url, json=json, headers=headers)
        if step == "lost after":
            raise httpx.ReadTimeout("no")
        return answer


@pytest.fixture
def service(start, monkeypatch):  # type: ignore[no-untyped-def]
    # The tiny model was never trained: its protected images look like anything.
    monkeypatch.setattr(images, "looks_natural", lambda image: False)
    return start()


@pytest.fixture
def shield(exported: Path) -> Shield:
    return Shield(exported, detector=Seen(face()), threads=1)


def client_of(service: Any, shield: Shield, *plan: object) -> tuple[Client, Wire, list[float]]:
    waits: list[float] = []
    wire = Wire(service.client, *plan)
    made = Client("http://localhost", shield, service.tokens["all"], http=wire, sleep=waits.append)
    return made, wire, waits


def test_a_life(service: Any, shield: Shield, tmp_path: Path) -> None:
    client, wire, _ = client_of(service, shield)
    file = tmp_path / "me.png"
    cv2.imwrite(str(file), photo())
    assert len(client.enroll("Ann", [file, photo(1)])) == 2
    verified = client.verify("Ann", photo())
    assert -1 <= verified.score <= 1
    assert verified.fmr == "fmr_1e-2"
    assert verified.same == (verified.score >= verified.threshold)
    found = client.identify(photo(), fmr="fmr_1e-1")
    assert found.threshold == 0.5
    assert client.erase("Ann") == 2
    with pytest.raises(ServerError, match="nobody of this name") as refusal:
        client.verify("Ann", photo())
    assert (refusal.value.status, refusal.value.error) == (404, "unknown_person")
    assert [url.rpartition("/")[2] for url, *_ in wire.sent][:2] == ["model", "enroll"]


def test_nothing_but_protected_images_is_sent(service: Any, shield: Shield) -> None:
    client, wire, _ = client_of(service, shield)
    image = photo()
    client.enroll("Ann", [image])
    (sent,) = wire.sent[1][1]["images"]
    picture = png(sent)
    assert picture.shape == (SIZE, SIZE, 3)
    crop = good_crop(image, SIZE, Seen(face()))
    likeness = np.corrcoef(crop.ravel(), picture[:, :, ::-1].ravel())[0, 1]
    assert abs(likeness) < 0.6
    assert set(wire.sent[1][1]) == {"person", "images", "model"}
    with pytest.raises(MinusfaceError, match="only protected images"):
        Sendable(b"a photo", None)


def test_each_time_another_permutation(shield: Shield) -> None:
    assert shield.protect(photo()).png != shield.protect(photo()).png


def test_a_lost_answer_enrolls_once(service: Any, shield: Shield) -> None:
    client, wire, waits = client_of(service, shield, "pass", "lost after", "lost before")
    assert len(client.enroll("Ann", [photo()])) == 1
    keys = {headers["idempotency-key"] for url, _, headers in wire.sent if url.endswith("enroll")}
    assert len(keys) == 1
    assert len(wire.sent) == 4
    people = service.ask("GET", "/v1/people").json()["people"]
    assert people == [{"person": "Ann", "templates": 1}]
    assert len(waits) == 2
    assert 0.1 < waits[0] < waits[1] < 0.6


def test_a_lost_answer_to_an_erasure_is_no_failure(service: Any, shield: Shield) -> None:
    def erase(*plan: object) -> int:
        client, _, _ = client_of(service, shield, *plan)
        return client.erase("Ann")

    storage = httpx.Response(503, json={"error": "storage", "message": "Not now."})
    busy = httpx.Response(503, json={"error": "busy", "message": "Busy."})
    for lost in ("lost after", storage, httpx.Response(502, text="<html>")):
        client_of(service, shield)[0].enroll("Ann", [photo()])
        if lost != "lost after":
            assert erase() == 1
        assert erase(lost, "lost before") == 0
    # Who was never there is not called erased where no try can have been done.
    for refused in ([], ["lost before"], [busy, busy]):
        with pytest.raises(ServerError, match="nobody of this name"):
            erase(*refused)
    for lost in ("lost after", storage):
        client, _, _ = client_of(service, shield, lost)
        client._headers["authorization"] = "Bearer wrong"
        with pytest.raises(ServerError, match="valid API key"):
            client.erase("Ann")


def test_it_waits_as_long_as_it_is_told_and_gives_up(service: Any, shield: Shield) -> None:
    busy = httpx.Response(
        503, json={"error": "busy", "message": "Busy."}, headers={"retry-after": "7"}
    )
    client, wire, waits = client_of(service, shield, "pass", busy, busy)
    client.identify(photo())
    assert waits == [7.0, 7.0]
    client, wire, waits = client_of(service, shield, *[busy] * TRIES)
    with pytest.raises(ServerError, match="Busy") as refusal:
        client.identify(photo())
    assert (refusal.value.status, len(wire.sent)) == (503, TRIES)
    client, wire, _ = client_of(service, shield, *["lost before"] * TRIES)
    with pytest.raises(ServerError, match=f"no answer after {TRIES} tries"):
        client.identify(photo())
    client, wire, _ = client_of(service, shield, httpx.Response(502, text="<html>"), *["pass"] * 9)
    client.identify(photo())
    client, wire, _ = client_of(service, shield, httpx.Response(404, text="<html>"))
    with pytest.raises(ServerError, match="no minusface service"):
        client.identify(photo())


def test_another_programs_answers_are_told(service: Any, shield: Shield) -> None:
    about = httpx.Response(200, json=service.ask("GET", "/v1/model").json())
    for said in ({}, {"templates": None}, {"same": True}, {"matches": [{}]}):
        for ask in ("enroll", "verify", "identify", "erase"):
            odd = httpx.Response(200, json=said)
            plan = [odd] if ask == "erase" else [about, odd]
            client, _, _ = client_of(service, shield, *plan)
            given = {
                "enroll": ("Ann", [photo()]),
                "verify": ("Ann", photo()),
                "identify": (photo(),),
            }
            with pytest.raises(ServerError, match="not understood, no minusface service"):
                getattr(client, ask)(*given.get(ask, ("Ann",)))


@pytest.mark.parametrize(
    "array",
    [np.zeros((SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE, 3)), np.zeros((0, 0, 3), np.uint8)],
)
def test_arrays_that_are_no_photos(shield: Shield, array: np.ndarray) -> None:
    with pytest.raises(MinusfaceError, match=r"expected uint8 \(H, W, 3\) in RGB, not empty"):
        shield.protect(array)


def test_refusals_are_not_tried_again(service: Any, shield: Shield) -> None:
    client, wire, waits = client_of(service, shield)
    client._headers["authorization"] = "Bearer wrong"
    with pytest.raises(ServerError, match="valid API key"):
        client.identify(photo())
    assert len(wire.sent) == 1
    assert not waits


def test_another_model_is_told_before_anything_is_sent(service: Any, shield: Shield) -> None:
    about = service.ask("GET", "/v1/model").json() | {"model": "another"}
    client, wire, _ = client_of(service, shield, httpx.Response(200, json=about))
    with pytest.raises(MinusfaceError, match="both halves must come from one export"):
        client.enroll("Ann", [photo()])
    assert len(wire.sent) == 1


def test_a_model_that_changed_since_is_told_the_same(
    service: Any, shield: Shield, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, wire, _ = client_of(service, shield)
    client.enroll("Ann", [photo()])
    assert wire.sent[1][1]["model"] == shield.card.fingerprint
    monkeypatch.setattr(type(service.service.card), "fingerprint", "another")
    wire.plan = []
    # Ours is what it was: the server's alone is another now.
    monkeypatch.setattr(shield, "card", Frozen(shield.card, wire.sent[1][1]["model"]))
    for ask in (
        lambda: client.enroll("Ann", [photo()]),
        lambda: client.verify("Ann", photo()),
        lambda: client.identify(photo()),
    ):
        client._agreed, before = True, len(wire.sent)
        with pytest.raises(MinusfaceError, match=r"model is another \(model 'another', here '"):
            ask()
        # What was refused, and a look at the model: not tried again.
        assert len(wire.sent) == before + 2
    assert service.ask("GET", "/v1/people").json()["people"] == [{"person": "Ann", "templates": 1}]


class Frozen:
    """A card whose fingerprint stays what it was."""

    def __init__(self, card: Any, fingerprint: str) -> None:
        self._card, self.fingerprint = card, fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._card, name)


def test_a_bad_photo_sends_nothing(service: Any, exported: Path, tmp_path: Path) -> None:
    client, wire, _ = client_of(service, Shield(exported, detector=Seen(), threads=1))
    cv2.imwrite(str(tmp_path / "wall.png"), photo())
    with pytest.raises(NoFaceError, match=r"wall\.png: no face found"):
        client.enroll("Ann", [tmp_path / "wall.png"])
    assert not wire.sent


def test_addresses_and_keys(shield: Shield, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINUSFACE_API_KEY", raising=False)
    for server in ("", "ftp://x", "https://", "localhost:80", "http://[::1", "http://[x]",
                   "http://localhost:x", "http://localhost:99999"):  # fmt: skip
        with pytest.raises(MinusfaceError, match="expected https://HOST"):
            Client(server, shield, "k")
    with pytest.raises(MinusfaceError, match="without TLS"):
        Client("http://example.org", shield, "k")
    Client("http://example.org", shield, "k", insecure=True)
    with pytest.raises(MinusfaceError, match="expected https://HOST"):
        Client("https://a\0b", shield, "k")
    for key in ("k\n", "schlüssel", "a b", "\udcff"):
        with pytest.raises(
            MinusfaceError, match=r"the API key \(MINUSFACE_API_KEY\): expected letters"
        ):
            Client("https://example.org", shield, key)
    with pytest.raises(MinusfaceError, match="no API key"):
        Client("https://example.org", shield)


def test_texts_that_cannot_be_sent(service: Any, shield: Shield) -> None:
    client, wire, _ = client_of(service, shield)
    for ask in (
        lambda: client.enroll("Ann\udcff", [photo()]),
        lambda: client.verify("Ann\udcff", photo()),
        lambda: client.verify("Ann", photo(), "\udcff"),
        lambda: client.identify(photo(), fmr="\udcff"),
        lambda: client.erase("Ann\udcff"),
    ):
        with pytest.raises(MinusfaceError, match=r"(person 'Ann|fmr ').udcff': not UTF-8"):
            ask()
    assert not wire.sent


class Proxy:
    """Listens, and remembers what it was sent."""

    def __init__(self) -> None:
        self.wire, self.seen = socket.create_server(("127.0.0.1", 0)), b""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self.wire, suppress(OSError):
            while True:
                caller, _ = self.wire.accept()
                with caller:
                    self.seen += caller.recv(4000)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.wire.getsockname()[1]}"


def test_no_proxy_sees_a_key_in_clear(
    service: Any, live: Any, shield: Shield, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one asked the way to this machine; with TLS it only carries."""
    proxy, port = Proxy(), live(service).port
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.address)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    token = service.tokens["all"]
    Client(f"http://localhost:{port}", shield, token).identify(photo())
    # Libraries may ask it for addresses of their own.
    assert b"localhost" not in proxy.seen
    assert token.encode() not in proxy.seen
    safe = Client("https://faces.invalid", shield, token, sleep=lambda seconds: None)
    with pytest.raises(ServerError, match="no answer"):
        safe.identify(photo())
    assert b"CONNECT faces.invalid:443" in proxy.seen
    assert token.encode() not in proxy.seen


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("socks5://me:hunter2@h:1", "httpx[socks]"),
        ("ftp://me:hunter2@h:1", "expected http://"),
        ("http://me:hunter2@h:x", "expected http://"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(
    shield: Shield, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    # As where the package is not installed.
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(MinusfaceError, match="the proxy of the environment") as raised:
        Client("https://example.org", shield, "k")
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    Client("http://localhost", shield, "k")


def test_quality_is_told_in_words() -> None:
    def refused(words: str, image: np.ndarray, *faces: Face) -> None:
        with pytest.raises(QualityError, match=words):
            good_crop(image, SIZE, Seen(*faces))

    fine = photo()
    assert good_crop(fine, SIZE, Seen(face())).shape == (SIZE, SIZE, 3)
    small = face(60, 60, 20, 30)
    assert good_crop(fine, SIZE, Seen(face(), small)).shape == (SIZE, SIZE, 3)
    refused("several faces", fine, face(50), face(110))
    refused("too small .* come closer", fine, face(eyes=LEAST_EYES - 1))
    refused("cut off", fine, face(10))
    refused("too dark", fine // 16, face())
    refused("too bright", 255 - fine // 16, face())
    refused("blurred", cv2.GaussianBlur(fine, (0, 0), 8), face())
    with pytest.raises(QualityError, match="too dark"):
        good_crop(np.zeros((SIZE, SIZE, 3), np.uint8), SIZE)


def test_most_real_crops_are_good_enough(shared: Path) -> None:
    files = sorted((shared / "faces" / "lfw-112x112").glob("*/*.jpg"))[:200]
    bad = 0
    for file in files:
        try:
            check_crop(np.ascontiguousarray(cv2.imread(str(file))[:, :, ::-1]))
        except QualityError:
            bad += 1
    assert bad <= 4


def test_several_permutations_are_tried(exported: Path, tmp_path: Path) -> None:
    import shutil

    asked: list[int] = []

    def protect_under(shield: Shield) -> None:
        own = shield._model.protect
        shield._model.protect = lambda crops, order: (
            asked.append(order.shape[1]),
            own(crops, order),
        )[1]  # type: ignore[method-assign]
        shield.protect(photo())

    protect_under(Shield(exported, detector=Seen(face()), threads=1))
    protect_under(Shield(exported, detector=Seen(face()), threads=1, tries=3))
    # An export of before cannot choose.
    shutil.copytree(exported, tmp_path / "old")
    card = json.loads((tmp_path / "old" / "card.json").read_text())
    del card["most_tries"]
    (tmp_path / "old" / "card.json").write_text(json.dumps(card))
    protect_under(Shield(tmp_path / "old", detector=Seen(face()), threads=1))
    assert asked == [8, 3, 1]
    with pytest.raises(MinusfaceError, match="tries 2: expected 1 to 1"):
        Shield(tmp_path / "old", tries=2)
    with pytest.raises(MinusfaceError, match="tries 65: expected 1 to 64"):
        Shield(exported, tries=65)


def test_no_torch_is_loaded(exported: Path, tmp_path: Path) -> None:
    """Asked of a fresh interpreter in which torch cannot be imported at all."""
    drawn = np.asarray(SyntheticFaces(1, 1, 0, size=SIZE)[0].image)
    cv2.imwrite(str(tmp_path / "crop.png"), drawn[:, :, ::-1])
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from minusface.client import Client, Shield\n"
        "from minusface.faces import quality\n"
        "quality.LEAST_SHARPNESS = 0\n"
        f"print(len(Shield({str(exported)!r}, threads=1).protect({str(tmp_path / 'crop.png')!r}).png))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


def test_the_commands(
    start, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    import uvicorn

    from minusface.cli import main

    monkeypatch.setattr(images, "looks_natural", lambda image: False)
    run = start(threshold=-1.0)
    config = uvicorn.Config(run.client.app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        monkeypatch.setenv("MINUSFACE_API_KEY", run.tokens["all"])
        cv2.imwrite(str(tmp_path / "a.png"), photo(side=SIZE))
        at = ["--server", f"http://127.0.0.1:{port}", "--model", str(exported)]
        image = str(tmp_path / "a.png")
        assert main(["enroll", "Ann", image, image, *at]) == 0
        assert capsys.readouterr().out == "Ann: 2 enrolled\n"
        assert main(["verify", "Ann", image, *at]) == 0
        assert capsys.readouterr().out.startswith("the same person (score ")
        assert main(["identify", image, *at, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["matches"][0][0] == "Ann"
        assert main(["identify", image, *at, "--fmr", "custom"]) == 0
        capsys.readouterr()
        assert main(["identify", image, *at, "--fmr", "0.01"]) == 2
        assert "unknown false match rate 'fmr_1e-2'" in capsys.readouterr().err
        assert main(["verify", "Bob", image, *at]) == 2
        assert "nobody of this name" in capsys.readouterr().err
        assert main(["verify", "Ann", image, *at, "--fmr", "x"]) == 2
        assert main(["enroll", "Ann", str(tmp_path / "none.jpg"), *at]) == 2
        assert main(["identify", image]) == 2
        capsys.readouterr()
        # Needs no model: nothing of a photo is sent.
        assert main(["erase", "Ann", *at[:2]]) == 0
        assert capsys.readouterr().out == "Ann: 2 erased\n"
        assert main(["erase", "Ann", *at[:2]]) == 2
        assert "nobody of this name" in capsys.readouterr().err
        for wrong, said in (
            (["verify", "Ann\udcff", image, *at], "person 'Ann\\udcff': not UTF-8"),
            (
                ["identify", image, "--server", "http://[::1", *at[2:]],
                "expected https://HOST[:PORT]",
            ),
        ):
            assert main(wrong) == 2
            assert said in capsys.readouterr().err
        monkeypatch.setenv("MINUSFACE_API_KEY", "mf_é")
        assert main(["identify", image, *at]) == 2
        assert "the API key (MINUSFACE_API_KEY): expected letters" in capsys.readouterr().err
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("0.01", "fmr_1e-2"), ("1e-2", "fmr_1e-2"), ("fmr_1e-2", "fmr_1e-2"), ("fmr_0.001", "fmr_1e-3"),
        ("0.014", "fmr_0.014"), ("custom", "custom"), ("nan", "nan"), ("", ""), (None, None),
    ],
)  # fmt: skip
def test_what_a_rate_is_called(given: str | None, name: str | None) -> None:
    assert rate_name(given) == name
