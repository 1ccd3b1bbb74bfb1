"""The service over HTTP: what it does, whom it lets, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.data.synthetic import SyntheticFaces
from minusface.errors import MinusfaceError
from minusface.index import StorageError
from minusface.serve.service import Service
from minusface.serve.settings import Settings
from tests.products import SIZE
from tests.serve.conftest import b64, png


def test_a_life(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    images = [b64(png(image)) for image in protected]
    for person in range(3):
        answer = run.ask("POST", "/v1/enroll", {"person": f"p{person}", "images": [images[person]]})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["templates"]) == 1
    right = run.ask("POST", "/v1/verify", {"person": "p1", "image": images[1]}).json()
    assert right["same"]
    assert right["score"] == pytest.approx(1, abs=1e-4)
    assert (right["threshold"], right["fmr"]) == (0.9, "fmr_1e-2")
    loose = {"person": "p1", "image": images[1], "fmr": "fmr_1e-1"}
    for rate in ("fmr_1e-1", "1e-1", "0.1"):
        assert run.ask("POST", "/v1/verify", loose | {"fmr": rate}).json()["threshold"] == 0.5
    found = run.ask("POST", "/v1/identify", {"image": images[2]}).json()
    assert found["matches"][0]["person"] == "p2"
    page = run.ask("GET", "/v1/people?limit=2").json()
    assert [p["person"] for p in page["people"]] == ["p0", "p1"]
    rest = run.ask("GET", f"/v1/people?after={page['after']}").json()
    assert [p["person"] for p in rest["people"]] == ["p2"]
    assert rest["after"] is None
    assert run.ask("POST", "/v1/rekey", {}).json() == {"version": 2}
    assert run.ask("POST", "/v1/verify", {"person": "p1", "image": images[1]}).json()["same"]
    assert run.ask("POST", "/v1/erase", {"person": "p1"}).json() == {"templates": 1}
    gone = run.ask("POST", "/v1/verify", {"person": "p1", "image": images[1]})
    assert (gone.status_code, gone.json()["error"]) == (404, "unknown_person")
    run = start()
    assert len(run.ask("GET", "/v1/people").json()["people"]) == 2
    about = run.ask("GET", "/v1/model", token="verify").json()
    assert (about["size"], about["n_duplicate"], about["fmr"]) == (SIZE, 1, "fmr_1e-2")


def test_batches_and_repeats(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    people = [{"person": f"p{n}", "images": [b64(png(protected[n]))]} for n in range(3)]
    once = {"headers": {"idempotency-key": "k1"}}
    first = run.ask("POST", "/v1/enroll/batch", {"people": people}, **once).json()["people"]
    again = run.ask("POST", "/v1/enroll/batch", {"people": people}, **once).json()["people"]
    assert [p["replayed"] for p in first] == [False] * 3
    assert [p["replayed"] for p in again] == [True] * 3
    assert [p["templates"] for p in first] == [p["templates"] for p in again]
    one = {"headers": {"idempotency-key": "k2"}}
    assert run.ask("POST", "/v1/enroll", people[0], **one).status_code == 200
    clash = run.ask("POST", "/v1/enroll", people[1], **one)
    assert (clash.status_code, clash.json()["error"]) == (409, "conflict")
    assert sum(p["templates"] for p in run.ask("GET", "/v1/people").json()["people"]) == 4
    # Tries that come after the person was erased bring nobody back.
    assert run.ask("POST", "/v1/erase", {"person": "p0"}).json() == {"templates": 2}
    for path, body, key in (
        ("/v1/enroll", people[0], one),
        ("/v1/enroll/batch", {"people": people}, once),
    ):
        late = run.ask("POST", path, body, **key)
        assert (late.status_code, late.json()["error"]) == (409, "conflict")
        assert "erased since" in late.json()["message"]
    assert {p["person"] for p in run.ask("GET", "/v1/people").json()["people"]} == {"p1", "p2"}


def test_keys_open_what_they_should(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    body = {"person": "Ann", "images": [b64(png(protected[0]))]}
    assert run.ask("POST", "/v1/enroll", body).status_code == 200
    for token in (
        "",
        "nonsense",
        "expired",
        run.tokens["all"][:-1],
        run.tokens["all"] + "x",
        "mf_a_b",
    ):
        for method, path in (("POST", "/v1/enroll"), ("GET", "/v1/people"), ("GET", "/v1/model")):
            answer = run.ask(method, path, body if method == "POST" else None, token=token)
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    for path, sent in (("/v1/enroll", body), ("/v1/erase", {"person": "Ann"}), ("/v1/rekey", {})):
        answer = run.ask("POST", path, sent, token="verify")
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert run.ask("GET", "/v1/people", token="other").json()["people"] == []
    assert run.ask("POST", "/v1/erase", {"person": "Ann"}, token="other").status_code == 404
    image = {"image": body["images"][0]}
    assert run.ask("POST", "/v1/identify", image, token="other").json()["matches"] == []
    run.service.keys.revoke(run.tokens["verify"].split("_")[1])
    assert run.ask("GET", "/v1/model", token="verify").status_code == 401


def test_photos_are_refused(start) -> None:  # type: ignore[no-untyped-def]
    run = start()
    faces = SyntheticFaces(4, 2, 0, size=SIZE)
    refused = 0
    for number in range(8):
        photo = np.asarray(faces[number].image)
        answer = run.ask("POST", "/v1/identify", {"image": b64(png(photo))})
        refused += answer.status_code == 422 and answer.json()["error"] == "looks_like_a_photo"
    assert refused == 8
    assert "protect it on the client" in answer.json()["message"]


def test_what_is_no_protected_image_is_refused(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    image = protected[0]
    good = png(image)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    huge = good[:16] + (60_000).to_bytes(4) + (60_000).to_bytes(4) + good[24:]
    noted = good[:33] + b"\0\0\0\4tEXt" + b"a\0bc" + b"\xaf\x1c\x0b\x33" + good[33:]
    cases = {
        "jpeg": jpeg,
        "garbage": bytes(range(256)) * 4,
        "cut short": good[:-20],
        "polyglot": good + b"PK\3\4 more",
        "huge": huge,
        "notes": noted,
        "damaged": good[:60] + bytes([good[60] ^ 255]) + good[61:],
        "grey": cv2.imencode(".png", image[:, :, 0])[1].tobytes(),
        "wide": png(np.concatenate([image, image], 1)),
        "transparent": cv2.imencode(".png", np.dstack([image, image[:, :, 0] | 1]))[1].tobytes(),
        "signature only": good[:8],
        "header only": good[:33],
        "sixteen bits": cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes(),
        "empty header": good[:8] + b"\0\0\0\0IEND\xaeB`\x82",
    }
    for name, data in cases.items():
        answer = run.ask("POST", "/v1/identify", {"image": b64(data)})
        assert (answer.status_code, answer.json()["error"]) == (422, "bad_image"), name
    for text in ("####", "é" * 8, "A" * 200_000):
        assert run.ask("POST", "/v1/identify", {"image": text}).json()["error"] == "bad_image"
    opaque = cv2.imencode(
        ".png", np.dstack([image[:, :, ::-1], np.full((SIZE, SIZE), 255, np.uint8)])
    )[1]
    assert run.ask("POST", "/v1/identify", {"image": b64(opaque.tobytes())}).status_code == 200


def test_bad_requests_are_sentences_that_repeat_nothing(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(max_body_bytes=50_000, max_images=2)
    image = b64(png(protected[0]))
    for body in ({}, {"person": "", "images": [image]}, {"person": "Ann", "images": []}, [], None,
                 {"person": "Ann", "images": [image], "extra": 1}):  # fmt: skip
        answer = run.ask("POST", "/v1/enroll", body)
        assert answer.status_code in (415, 422), body
        assert set(answer.json()) == {"error", "message"}
        assert image[:40] not in answer.text
    many = run.ask("POST", "/v1/enroll", {"person": "Ann", "images": [image] * 3})
    assert "at most 2" in many.json()["message"]
    wrong = run.ask("POST", "/v1/verify", {"person": "Ann", "image": image, "fmr": "fmr_1e-9"})
    assert "known: fmr_1e-1, fmr_1e-2" in wrong.json()["message"]
    assert run.ask("POST", "/v1/enroll", {"person": " x", "images": [image]}).status_code == 422
    large = run.ask("POST", "/v1/identify", {"image": "A" * 60_000})
    assert (large.status_code, large.json()["error"]) == (413, "too_large")

    def pieces():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b"A" * 1000

    headers = {"authorization": f"Bearer {run.tokens['all']}", "content-type": "application/json"}
    streamed = run.client.post("/v1/identify", content=pieces(), headers=headers)
    assert (streamed.status_code, streamed.json()["error"]) == (413, "too_large")
    plain = run.client.post(
        "/v1/identify", content=b"{}", headers=headers | {"content-type": "text/plain"}
    )
    assert (plain.status_code, plain.json()["error"]) == (415, "unsupported_media_type")
    broken = run.client.post("/v1/identify", content=b"{", headers=headers)
    assert (broken.status_code, broken.json()["error"]) == (422, "invalid")
    assert run.ask("GET", "/v1/nowhere").json() == {"error": "http", "message": "Not Found"}
    assert run.ask("GET", "/v1/enroll").status_code == 405


def test_who_asks_too_often_waits(start) -> None:  # type: ignore[no-untyped-def]
    run = start(rate=0.1, burst=3)
    codes = [run.ask("GET", "/v1/model").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert int(run.ask("GET", "/v1/model").headers["retry-after"]) >= 5
    assert run.ask("GET", "/v1/model", token="other").status_code == 200


def test_a_full_queue_and_a_slow_model_say_so(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(waiting=2, work_seconds=0.3, batch=1)
    gate = threading.Event()
    run.service.batcher._embed = lambda rows: (gate.wait(5), run.service.model.embed(rows))[1]
    body = {"image": b64(png(protected[0]))}
    answers = []
    tokens = [run.service.keys.add(name, ("verify",))[1] for name in "cdefgh"]
    threads = [
        threading.Thread(
            target=lambda token=token: answers.append(
                run.ask("POST", "/v1/identify", body, token=token)
            )
        )
        for token in tokens
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["retry-after"] == "2" for answer in answers)
    assert "minusface_waiting_images 2.0" in run.client.get("/metrics").text
    gate.set()
    time.sleep(0.3)
    assert run.ask("POST", "/v1/identify", body).status_code == 200
    time.sleep(0.1)
    assert "minusface_waiting_images 0.0" in run.client.get("/metrics").text


def test_a_storage_that_fails_is_no_crash(start, protected, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    run = start()
    body = {"person": "Ann", "images": [b64(png(protected[0]))]}

    def full(*given: object) -> None:
        raise StorageError("/secret/path: disk full")

    monkeypatch.setattr(run.service.index, "add", full)
    answer = run.ask("POST", "/v1/enroll", body)
    assert (answer.status_code, answer.json()["error"]) == (503, "storage")
    assert "secret" not in answer.text

    def broken(*given: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(run.service.index, "add", broken)
    answer = run.ask("POST", "/v1/enroll", body)
    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert "secret" not in answer.text


def test_a_fault_is_answered_as_everything_is_and_told_to_the_operator(  # type: ignore[no-untyped-def]
    start, live, monkeypatch, caplog, tmp_path
) -> None:
    import httpx

    run = start(cors_origins=["https://a.example"])

    def broken(*given: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(run.service.index, "people", broken)
    headers = {"authorization": f"Bearer {run.tokens['all']}", "origin": "https://a.example"}
    url = f"http://127.0.0.1:{live(run).port}/v1/people"
    with httpx.Client() as client:
        # The second over the connection of the first.
        answers = [client.get(url, headers=headers) for _ in range(2)]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]) == (500, "internal")
        assert "fault of ours" not in answer.text
        assert answer.headers["x-request-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
    log, patience = tmp_path / "data" / "audit.log", time.monotonic() + 30
    # Written once the answer is on its way.
    while len(log.read_text().splitlines()) < 2 and time.monotonic() < patience:
        time.sleep(0.01)
    lines = [json.loads(one) for one in log.read_text().splitlines()]
    assert [(line["event"], line["status"], line["request"]) for line in lines] == [
        ("people", 500, answer.headers["x-request-id"]) for answer in answers
    ]
    told = [record for record in caplog.records if record.exc_info]
    assert [str(record.exc_info[1]) for record in told] == ["a fault of ours"] * 2
    for record, answer in zip(told, answers, strict=True):
        assert answer.headers["x-request-id"] in record.getMessage()


def test_health_metrics_docs_and_headers(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    run.ask(
        "POST", "/v1/enroll", {"person": "Ann Unmistakable", "images": [b64(png(protected[0]))]}
    )
    assert run.client.get("/healthz").json() == {"status": "ok"}
    assert run.client.get("/readyz").json() == {"status": "ready"}
    text = run.client.get("/metrics").text
    assert 'minusface_requests_total{route="/v1/enroll",status="200"} 1.0' in text
    assert "Unmistakable" not in text
    docs = run.client.get("/docs")
    assert "POST /v1/enroll" in docs.text
    assert "http" not in docs.headers["content-security-policy"]
    assert "<script" not in docs.text
    assert "//" not in docs.text.replace("<!doctype", "")
    for path in ("/healthz", "/docs", "/openapi.json", "/v1/people", "/nowhere"):
        headers = run.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "strict-transport-security" not in headers
    assert (
        "access-control-allow-origin"
        not in run.client.get("/healthz", headers={"origin": "https://evil.example"}).headers
    )
    assert start(metrics=False, proxy=True).client.get("/metrics").status_code == 404
    run.service.batcher.close()


def test_the_audit_log_tells_who_but_nothing_biometric(start, protected, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = start()
    image = b64(png(protected[0]))
    run.ask("POST", "/v1/enroll", {"person": "Ann Unmistakable", "images": [image]})
    run.ask("POST", "/v1/verify", {"person": "Ann Unmistakable", "image": image})
    run.ask("POST", "/v1/identify", {"image": image})
    run.ask("GET", "/v1/people", token="nonsense")
    text = (tmp_path / "data" / "audit.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["enroll", "verify", "identify", "unknown"]
    assert [line["status"] for line in lines] == [200, 200, 200, 401]
    assert lines[0]["people"] == lines[1]["people"]
    assert lines[1]["same"] is True
    assert lines[0]["key"] == run.tokens["all"].split("_")[1]
    assert "Unmistakable" not in text
    assert image[:30] not in text
    assert "score" not in text
    for token in run.tokens.values():
        assert token.split("_", 2)[2] not in text
    assert (tmp_path / "data" / "audit.log").stat().st_mode & 0o077 == 0


def test_a_person_has_one_pseudonym_however_the_name_was_typed(start) -> None:  # type: ignore[no-untyped-def]
    audit = start().service.audit
    assert audit.pseudonym("a", "Jos\u00e9") == audit.pseudonym("a", "Jose\u0301")
    assert audit.pseudonym("a", "Jos\u00e9") != audit.pseudonym("a", "Jose")


def test_keys_that_cannot_be_read_are_no_crash(start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = start()
    for name in ("keys.json", ".keys.json.lock"):
        (tmp_path / "data" / name).unlink()
    (tmp_path / "data" / "keys.json").symlink_to(tmp_path / "data" / "keys.json")
    answer = run.ask("GET", "/v1/model")
    assert (answer.status_code, answer.json()["error"]) == (503, "storage")
    assert run.client.get("/readyz").status_code == 503


def test_a_service_that_cannot_serve_says_why(exported, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MINUSFACE_MASTER_KEY", "ab" * 32)
    with pytest.raises(MinusfaceError, match="unknown false match rate 'fmr_1e-8'"):
        Service(Settings(model=exported, data=tmp_path, fmr="fmr_1e-8"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in exported.iterdir():
        (bare / file.name).write_bytes(file.read_bytes())
    raw = json.loads((bare / "card.json").read_text())
    (bare / "card.json").write_text(json.dumps(raw | {"thresholds": {}}))
    with pytest.raises(MinusfaceError, match="holds no thresholds"):
        Service(Settings(model=bare, data=tmp_path))
    service = Service(Settings(model=bare, data=tmp_path / "data", threshold=0.3))
    assert service.threshold(None) == ("custom", 0.3)
    service.close()
    for wrong in ([1], {"fmr_1e-3": None}, {"fmr_1e-3": "0.5"}, {"fmr_1e-3": True}, {"fmr_1e-3": 2}, "x",
                  {"fmr_1e-3": float("nan")}, {"fmr_1e-3": -1.5}, None):  # fmt: skip
        (bare / "card.json").write_text(json.dumps(raw | {"thresholds": wrong}))
        with pytest.raises(MinusfaceError, match=r"bare: card\.json: thresholds"):
            Service(Settings(model=bare, data=tmp_path))
    monkeypatch.delenv("MINUSFACE_MASTER_KEY")
    with pytest.raises(MinusfaceError, match="no master key"):
        Service(Settings(model=exported, data=tmp_path / "other"))


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_another_variant_than_the_thresholds_is_told(  # type: ignore[no-untyped-def]
    exported, tmp_path, monkeypatch, capfd, threshold
) -> None:
    monkeypatch.setenv("MINUSFACE_MASTER_KEY", "ab" * 32)
    other = tmp_path / "other"
    other.mkdir()
    for file in exported.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    raw = json.loads((other / "card.json").read_text())
    raw["files"]["recognizer"]["int8"] = raw["files"]["recognizer"]["float32"]
    (other / "card.json").write_text(json.dumps(raw))
    for variant in ("float32", "int8"):
        given = {"model": other, "data": tmp_path / variant, "variant": variant}
        Service(Settings(**given, threshold=threshold)).close()
        said = capfd.readouterr().err
        warned = "minusface: the thresholds were measured for float32" in said
        assert warned == (variant == "int8" and threshold is None)
        assert len(said.splitlines()) == warned


def test_the_server_loads_neither_torch_nor_the_client() -> None:
    code = (
        "import sys, minusface.serve.app; "
        "print([m for m in sys.modules if m == 'torch' or m.startswith(('minusface.faces', "
        "'minusface.protect', 'minusface.recognize'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_no_request_of_the_schema_breaks_it(start) -> None:  # type: ignore[no-untyped-def]
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    run = start(rate=1e6, burst=1e6)
    schema = schemathesis.openapi.from_asgi("/openapi.json", run.client.app)
    headers = {"authorization": f"Bearer {run.tokens['all']}"}
    tried = 0
    for operation in schema.get_all_operations():
        ok = operation.ok()

        @given(case=ok.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def one(case) -> None:  # type: ignore[no-untyped-def]
            nonlocal tried
            tried += 1
            sent = case.as_transport_kwargs()
            sent = {k: v for k, v in sent.items() if k in ("json", "params", "data", "content")}
            answer = run.client.request(
                case.method, case.path, headers={**headers, **_plain(case.headers)}, **sent
            )
            assert answer.status_code < 500, answer.text
            assert answer.headers["x-request-id"]

        one()
    assert tried > 100


def _plain(headers: object) -> dict[str, str]:
    """Headers that a client can send at all."""
    given = dict(headers or {})  # type: ignore[call-overload]
    return {
        k: v for k, v in given.items()
        if isinstance(v, str) and v.isascii() and v.isprintable() and k.lower() != "authorization"
    }  # fmt: skip


def test_it_runs_as_a_command(exported: Path, tmp_path: Path) -> None:
    """A real process on a real port: key made by the command, graceful end by SIGTERM."""
    import os
    import signal
    import socket
    import urllib.request

    minusface = [sys.executable, "-m", "minusface"]
    key_file, data = tmp_path / "master", tmp_path / "data"
    subprocess.run([*minusface, "serve", "--new-master-key", str(key_file)], check=True, timeout=60)
    again = subprocess.run(
        [*minusface, "serve", "--new-master-key", str(key_file)], capture_output=True, text=True
    )
    assert again.returncode == 2
    assert "already there" in again.stderr
    added = subprocess.run(
        [*minusface, "keys", "add", "--data", str(data), "--collection", "a"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*minusface, "serve", str(exported), "--data", str(data), "--port", str(port)]
    child = subprocess.Popen(
        [*command, "--master-key", str(key_file)],
        # Meant for other services: this one is one process.
        env={**os.environ, "OMP_NUM_THREADS": "1", "WEB_CONCURRENCY": "2"},
    )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/model",
            headers={"authorization": f"Bearer {added.stdout.strip()}"},
        )
        for _ in range(100):
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    assert json.load(answer)["size"] == SIZE
                    assert "server" not in answer.headers
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the service did not start")
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) in (0, -signal.SIGTERM)
    listed = subprocess.run(
        [*minusface, "keys", "list", "--data", str(data)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split()[1:] == ["a", "enroll,verify"]
    missing = subprocess.run([*minusface, "serve"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "MINUSFACE_MODEL" in missing.stderr
