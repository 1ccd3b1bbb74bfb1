"""What hostile, broken and impatient clients get: refusals in words, never data, never a 500."""

from __future__ import annotations

import binascii
import http.client
import json
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.serve.images import CHUNKS, ImageError, decode_png
from tests.products import SIZE
from tests.serve.conftest import b64, png, protected_like

BODIES = {
    "/v1/enroll": {"person": "Ann", "images": ["A" * 40]},
    "/v1/enroll/batch": {"people": [{"person": "Ann", "images": ["A" * 40]}]},
    "/v1/verify": {"person": "Ann", "image": "A" * 40},
    "/v1/identify": {"image": "A" * 40},
    "/v1/erase": {"person": "Ann"},
    "/v1/rekey": {},
}

REFUSED = ("bad_image", "looks_like_a_photo", "too_large", "invalid")


def chunk(kind: bytes, body: bytes) -> bytes:
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", binascii.crc32(kind + body))
    )


def made(*chunks: bytes, width: int = SIZE, height: int = SIZE, rest: bytes = b"") -> bytes:
    """A PNG of a header and chunks, all checksums right."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"") + rest


def corpus() -> Iterator[tuple[str, bytes]]:
    """Pictures that must not come in, by name."""
    image = protected_like(0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image))
    good = chunk(b"IDAT", rows)
    yield "a JPEG", cv2.imencode(".jpg", image)[1].tobytes()
    yield "a JPEG behind a PNG", made(good, rest=cv2.imencode(".jpg", image)[1].tobytes())
    yield "a zip behind a PNG", made(good, rest=b"PK\3\4" + bytes(100))
    yield "a page behind a PNG", made(good, rest=b"<script>alert(1)</script>")
    yield "a WebP", cv2.imencode(".webp", image)[1].tobytes()
    yield "a TIFF", cv2.imencode(".tiff", image)[1].tobytes()
    yield "a BMP", cv2.imencode(".bmp", image)[1].tobytes()
    yield "a GIF", b"GIF89a" + bytes(200)
    yield "an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "a PDF", b"%PDF-1.7\n" + bytes(200)
    yield "nothing", b""
    for side in (0, 1, SIZE - 1, SIZE + 1, 65_535, 2**31 - 1, 2**32 - 1):
        yield f"{side} wide", made(good, width=side)
        yield f"{side} high", made(good, height=side)
    bomb = zlib.compress(bytes(50_000_000), 9)
    yield "a bomb of pixels", made(chunk(b"IDAT", bomb))
    yield "a bomb of a profile", made(chunk(b"iCCP", b"x\0\0" + bomb), good)
    yield "a bomb of a note", made(chunk(b"zTXt", b"x\0\0" + bomb), good)
    yield "EXIF", made(chunk(b"eXIf", b"II*\0" + bytes(40)), good)
    yield "an animation", made(chunk(b"acTL", bytes(8)), good)
    yield "two headers", made(chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)), good)
    yield "no pixels", made()
    yield "empty pixels", made(chunk(b"IDAT", b""))
    yield "garbage for pixels", made(chunk(b"IDAT", bytes(range(256)) * 8))
    yield "too few pixels", made(chunk(b"IDAT", zlib.compress(bytes(100))))
    yield (
        "an unknown filter",
        made(chunk(b"IDAT", zlib.compress(b"\x09" * (SIZE * (3 * SIZE + 1))))),
    )
    text = b"Ann, seen at the door at noon. " * 110
    yield "a text as sBIT", made(chunk(b"sBIT", text), good)
    for kind, length in ((b"sRGB", 1), (b"gAMA", 4), (b"cHRM", 32), (b"sBIT", 3), (b"pHYs", 9)):
        name = kind.decode()
        yield f"{name} too long", made(chunk(kind, bytes(length + 2)), good)
        yield f"{name} too short", made(chunk(kind, bytes(length - 1)), good)
        yield f"{name} twice", made(chunk(kind, bytes(length)) * 2, good)
    yield "a text in the end", made(good, chunk(b"IEND", text))[: -len(chunk(b"IEND", b""))]
    yield "a text behind the pixels", made(chunk(b"IDAT", rows + text))
    yield "a text in a chunk of its own behind the pixels", made(good, chunk(b"IDAT", text))
    raw = zlib.decompress(rows)
    yield "a row too many", made(chunk(b"IDAT", zlib.compress(raw + raw[: 3 * SIZE + 1])))
    yield "a row too few", made(chunk(b"IDAT", zlib.compress(raw[: -3 * SIZE - 1])))
    first, second = chunk(b"IDAT", rows[:99]), chunk(b"IDAT", rows[99:])
    yield "pixels in two places", made(first, chunk(b"pHYs", bytes(9)), second)
    yield "pixels without an end", made(chunk(b"IDAT", rows[:-6]))
    yield "interlaced", made(good).replace(*(
        chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, way)) for way in (0, 1)
    ))  # fmt: skip
    yield "a length that lies", made(good)[:33] + struct.pack(">I", 2**31) + made(good)[37:]


def test_what_a_canvas_writes_is_taken() -> None:
    image = protected_like(0)
    clear = np.dstack([image, np.full((SIZE, SIZE), 255, np.uint8)])
    for picture, colour, bits in ((image, 2, 3), (clear, 6, 4)):
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in picture))
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, colour, 0, 0, 0))
        lengths = ((b"sRGB", 1), (b"gAMA", 4), (b"cHRM", 32), (b"sBIT", bits), (b"pHYs", 9))
        notes = b"".join(chunk(kind, b"\1" * length) for kind, length in lengths)
        pixels = b"".join(chunk(b"IDAT", rows[at : at + 500]) for at in range(0, len(rows), 500))
        data = b"\x89PNG\r\n\x1a\n" + head + notes + pixels + chunk(b"IEND", b"")
        assert (decode_png(data, SIZE, 1) == image).all()


@pytest.mark.parametrize("name", [name for name, _ in corpus()])
def test_the_corpus_is_refused(name: str) -> None:
    data = dict(corpus())[name]
    start = time.perf_counter()
    with pytest.raises(ImageError):
        decode_png(data, SIZE, 1)
    assert time.perf_counter() - start < 2, "refusing must not cost what decoding would"


def test_the_corpus_over_http(start) -> None:  # type: ignore[no-untyped-def]
    run = start()
    for name, data in corpus():
        answer = run.ask("POST", "/v1/identify", {"image": b64(data)})
        assert answer.status_code in (413, 422), name
        assert answer.json()["error"] in REFUSED, name
    assert (
        run.ask("POST", "/v1/identify", {"image": b64(png(protected_like(0)))}).status_code == 200
    )


def test_damaged_pictures_by_the_thousand() -> None:
    """Flipped, cut, doubled and spliced; checksums put right again, so that the decoder is reached."""
    draw, good = random.Random(0), png(protected_like(1))
    outcomes = {"refused": 0, "taken": 0}
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            at, how = draw.randrange(8, len(data)), draw.randrange(4)
            if how == 0:
                data[at] ^= 1 << draw.randrange(8)
            elif how == 1:
                del data[at : at + draw.randint(1, 50)]
            elif how == 2:
                data[at:at] = data[at : at + draw.randint(1, 50)]
            else:
                data[at:at] = chunk(
                    draw.choice(sorted(CHUNKS)), draw.randbytes(draw.randint(0, 20))
                )
        try:
            image = decode_png(repaired(bytes(data)), SIZE, 1)
            assert image.shape == (SIZE, SIZE, 3)
            outcomes["taken"] += 1
        except ImageError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 1000


def repaired(data: bytes) -> bytes:
    """Right checksums as far as the chunks can be followed."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if at + 12 + length > len(data):
            break
        out += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out + data[at:]


def test_a_key_that_does_not_open_reaches_nothing(start, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Every guarded operation of the schema, against a service that would tell of any touch."""
    run = start()
    paths = run.client.get("/openapi.json").json()["paths"]
    guarded = [(p, m) for p, methods in paths.items() for m in methods if p.startswith("/v1/")]
    assert {p for p, m in guarded if m == "post"} == set(BODIES)

    class Untouchable:
        def __getattr__(self, name: str) -> None:
            raise AssertionError(f"{name} was touched")

    revoked = run.service.keys.add("a", ("enroll", "verify", "admin"))
    run.service.keys.revoke(revoked[0].id)
    with monkeypatch.context() as patch:
        for part in ("index", "batcher", "model"):
            patch.setattr(run.service, part, Untouchable())
        for path, method in guarded:
            body = json.dumps(BODIES.get(path)).encode() if method == "post" else None
            for value in (None, "", "Bearer", "Bearer x", "Basic eDp5", f"Bearer {revoked[1]}",
                          f"Bearer {run.tokens['expired']}", f"Token {run.tokens['all']}"):  # fmt: skip
                headers = {"content-type": "application/json"}
                headers |= {} if value is None else {"authorization": value}
                answer = run.client.request(method, path, content=body, headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert run.ask("GET", "/v1/people").status_code == 200


def test_another_tenant_sees_and_changes_nothing(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(threshold=-1.0)
    image = b64(png(protected[0]))
    once = {"headers": {"idempotency-key": "the same"}}
    ann = {"person": "Ann", "images": [image]}
    first = run.ask("POST", "/v1/enroll", ann, **once).json()
    for path, body, status in (
        ("/v1/verify", {"person": "Ann", "image": image}, 404),
        ("/v1/erase", {"person": "Ann"}, 404),
        ("/v1/identify", {"image": image}, 200),
        ("/v1/rekey", {}, 200),
    ):
        answer = run.ask("POST", path, body, token="other")
        assert answer.status_code == status, path
        assert "Ann" not in answer.text
    assert run.ask("GET", "/v1/people?limit=1000", token="other").json()["people"] == []
    # The same idempotency key of another tenant is another enrolment.
    theirs = run.ask("POST", "/v1/enroll", ann, token="other", **once).json()
    assert not theirs["replayed"]
    assert not set(theirs["templates"]) & set(first["templates"])
    assert run.ask("POST", "/v1/erase", {"person": "Ann"}, token="other").status_code == 200
    assert run.ask("POST", "/v1/verify", {"person": "Ann", "image": image}).json()["same"]


def test_a_list_tells_nothing_of_other_tenants(start, protected) -> None:  # type: ignore[no-untyped-def]
    """Where it goes on is no number of a row, of which other tenants take some too."""
    run = start()
    body = {"person": "Ann", "images": [b64(png(protected[0]))]}
    for token in ("all", "other"):
        assert run.ask("POST", "/v1/enroll", body, token=token).status_code == 200
    pages = [run.ask("GET", "/v1/people?limit=1").json() for _ in range(2)]
    first, second = (page["after"] for page in pages)
    assert first != second
    assert len(first) == len(run.ask("GET", "/v1/people?limit=1", token="other").json()["after"])
    for after in (first, second):
        page = run.ask("GET", f"/v1/people?limit=1&after={after}").json()
        assert page == {"people": [], "after": None}
    for after, token in ((first, "other"), ("0", "all"), ("1", "all"), ("", "all"), ("é", "all"),
                         (first[:-4] + "AAAA", "all"), ("A" * 48, "all"), ("A" * 200, "all")):  # fmt: skip
        answer = run.ask("GET", f"/v1/people?after={after}", token=token)
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


def test_only_json_comes_in(start) -> None:  # type: ignore[no-untyped-def]
    run = start()
    headers = {"authorization": f"Bearer {run.tokens['all']}"}
    kinds = ("text/plain", "image/png", "image/jpeg", "multipart/form-data; boundary=x", "", "text/json",
             "application/x-www-form-urlencoded", "application/octet-stream")  # fmt: skip
    for path, body in BODIES.items():
        for kind in kinds:
            sent = headers | {"content-type": kind}
            answer = run.client.post(path, content=json.dumps(body).encode(), headers=sent)
            assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")
    for content in (
        b"",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"image": 1}',
        b'{"image": "\\ud800"}',
        b"NaN",
    ):
        sent = headers | {"content-type": "application/json"}
        answer = run.client.post("/v1/identify", content=content, headers=sent)
        assert answer.status_code in (400, 422), content[:20]
        assert set(answer.json()) == {"error", "message"}


def test_too_many_at_a_time_are_told_to_wait(start, live, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(in_flight=2)
    gate, port = threading.Event(), live(run).port
    embed = run.service.model.embed
    run.service.batcher._embed = lambda rows: (gate.wait(10), embed(rows))[1]
    answers: list[tuple[int, str | None]] = []

    def ask() -> None:
        status, headers, _ = asked(port, run.tokens["all"], {"image": b64(png(protected[0]))})
        answers.append((status, headers.get("retry-after")))
        if status == 503:
            gate.set()

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(status for status, _ in answers)[:2] == [200, 200]
    refused = [wait for status, wait in answers if status == 503]
    assert refused
    assert all(int(wait) >= 1 for wait in refused if wait is not None)
    assert None not in refused


def asked(port: int, token: str, body: object) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    connection.request("POST", "/v1/identify", json.dumps(body).encode(), headers)
    answer = connection.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_a_body_that_does_not_come_is_not_waited_for(start, live) -> None:  # type: ignore[no-untyped-def]
    run = start(body_seconds=0.3)
    with socket.create_connection(("127.0.0.1", live(run).port), timeout=10) as wire:
        head = f"POST /v1/identify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {run.tokens['all']}\r\n"
        wire.sendall(
            (head + "content-type: application/json\r\ncontent-length: 99\r\n\r\n{").encode()
        )
        said = b"".join(iter(lambda: wire.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 408")
    assert b'"timeout"' in said


def test_the_end_lets_what_is_under_way_finish(start, live, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    gate, one, answers = threading.Event(), live(run), []
    embed = run.service.model.embed
    run.service.batcher._embed = lambda rows: (gate.wait(10), embed(rows))[1]
    body = {"image": b64(png(protected[0]))}
    thread = threading.Thread(
        target=lambda: answers.append(asked(one.port, run.tokens["all"], body)[0])
    )
    thread.start()
    while not run.service.batcher.count:
        time.sleep(0.01)
    one.server.should_exit = True
    time.sleep(0.3)
    assert not answers
    with pytest.raises(OSError, match="refused"):
        asked(one.port, run.tokens["all"], body)
    gate.set()
    thread.join(15)
    assert answers == [200]


def test_other_origins_only_where_they_are_named(start) -> None:  # type: ignore[no-untyped-def]
    ask = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    run = start()
    for origin in ("https://a.example", "null"):
        answer = run.client.options("/v1/identify", headers={"origin": origin, **ask})
        assert not [name for name in answer.headers if name.startswith("access-control")]
    run = start(cors_origins=["https://a.example"])
    good = run.client.options("/v1/identify", headers={"origin": "https://a.example", **ask})
    assert good.headers["access-control-allow-origin"] == "https://a.example"
    bad = run.client.options("/v1/identify", headers={"origin": "https://b.example", **ask})
    assert "access-control-allow-origin" not in bad.headers
    assert "access-control-allow-credentials" not in good.headers


def test_browsers_are_told_to_stay_with_tls(start) -> None:  # type: ignore[no-untyped-def]
    for path in ("/healthz", "/v1/people", "/"):
        headers = start(proxy=True).client.get(path).headers
        assert headers["strict-transport-security"].startswith("max-age=")
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


def test_refusals_are_logged_without_what_was_sent(start, tmp_path: Path, capfd) -> None:  # type: ignore[no-untyped-def]
    run = start()
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    sent = b64(png(image))
    for body in (
        {"image": sent[:-40]},
        {"image": sent, "person": "Ann Unmistakable"},
        {"image": sent},
    ):
        run.ask("POST", "/v1/identify", body)
    run.ask("POST", "/v1/verify", {"person": "Ann Unmistakable", "image": sent})
    said = capfd.readouterr()
    told = (tmp_path / "data" / "audit.log").read_text() + said.out + said.err
    told += run.client.get("/metrics").text
    vector = run.service.embed([sent], "a")[0] if not _refused(run, sent) else np.zeros(1)
    assert sent[20:60] not in told
    assert "Unmistakable" not in told
    assert f"{float(vector[0]):.4f}" not in told
    assert not [token for token in run.tokens.values() if token in told]


def _refused(run, sent: str) -> bool:  # type: ignore[no-untyped-def]
    return bool(run.ask("POST", "/v1/identify", {"image": sent}).status_code != 200)
