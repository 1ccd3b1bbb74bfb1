"""One key's requests, however many or odd, leave the service to the others."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from minusface.errors import MinusfaceError
from minusface.index import Added, Request, Stats
from minusface.serve.images import ImageError, decode_png
from minusface.serve.room import BELIEVED, FullError, Room
from minusface.serve.schemas import VerifyRequest
from minusface.serve.service import Service
from minusface.serve.settings import Settings
from tests.products import SIZE
from tests.serve.conftest import b64, png
from tests.serve.test_abuse import asked


def test_unknown_fields_are_one_error_however_many(start) -> None:  # type: ignore[no-untyped-def]
    run = start()
    body = {str(number): 0 for number in range(1000)}
    with pytest.raises(ValidationError) as refused:
        VerifyRequest.model_validate(body)
    assert refused.value.error_count() == 1
    for path, known in (("verify", "person, image, fmr, model"), ("rekey", "none")):
        answer = run.ask("POST", f"/v1/{path}", body)
        assert answer.status_code == 422
        assert answer.json()["message"] == f"body: unknown fields (known: {known})"
    nested = {"people": [{"person": "Ann", "images": ["AAAA"], "note": "x"}]}
    answer = run.ask("POST", "/v1/enroll/batch", nested)
    assert answer.json()["message"].startswith("body.people.0: unknown fields")


def test_a_batch_holds_no_more_images_than_a_request(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(max_images=3)
    image = b64(png(protected[0]))
    people = [{"person": name, "images": [image, image]} for name in ("Ann", "Bob")]
    answer = run.ask("POST", "/v1/enroll/batch", {"people": people})
    assert (answer.status_code, answer.json()["message"]) == (
        422,
        "4 images, expected at most 3 a request",
    )
    assert run.ask("GET", "/v1/people").json()["people"] == [], "and nobody is enrolled by half"


def test_a_batch_is_embedded_at_once_or_nobody_is_enrolled(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(work_seconds=1.0)
    embed, sizes = run.service.model.embed, []
    run.service.batcher._embed = lambda rows: (sizes.append(len(rows)), embed(rows))[1]
    people = [{"person": f"p{n}", "images": [b64(png(protected[n]))]} for n in range(4)]
    bad = [*people[:3], {"person": "p3", "images": [b64(b"no PNG at all")]}]
    assert run.ask("POST", "/v1/enroll/batch", {"people": bad}).status_code == 422
    bad[3] = {"person": " p3", "images": people[3]["images"]}
    assert run.ask("POST", "/v1/enroll/batch", {"people": bad}).status_code == 422
    run.service.batcher._embed = lambda rows: (time.sleep(1.5), embed(rows))[1]
    answer = run.ask("POST", "/v1/enroll/batch", {"people": people})
    assert (answer.status_code, answer.json()["error"]) == (503, "busy")
    assert run.ask("GET", "/v1/people").json()["people"] == []
    run.service.batcher._embed = lambda rows: (sizes.append(len(rows)), embed(rows))[1]
    time.sleep(0.6)
    answer = run.ask("POST", "/v1/enroll/batch", {"people": people})
    assert [one["person"] for one in answer.json()["people"]] == [f"p{n}" for n in range(4)]
    assert sizes == [4]


def test_a_collection_does_not_take_all_places(start, live, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(in_flight=8, in_flight_collection=2)
    gate, port = threading.Event(), live(run).port
    embed = run.service.model.embed
    run.service.batcher._embed = lambda rows: (gate.wait(10), embed(rows))[1]
    statuses: list[int] = []
    body = {"image": b64(png(protected[0]))}

    def ask() -> None:
        status, headers, _ = asked(port, run.tokens["all"], body)
        statuses.append(status)
        if status == 429:
            assert int(headers["retry-after"]) >= 1

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while statuses.count(429) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert statuses == [429] * 3
    assert run.ask("GET", "/v1/people", token="verify").status_code == 429, "by another key, too"
    assert run.ask("GET", "/v1/model", token="other").status_code == 200
    gate.set()
    for thread in threads:
        thread.join(20)
    assert statuses[3:] == [200, 200]
    assert run.ask("GET", "/v1/people").status_code == 200, "places are given back"


def test_its_state_is_told_though_every_thread_is_taken(start, live, protected) -> None:  # type: ignore[no-untyped-def]
    # 40 threads are what the server has where nobody asks for more.
    run = start(in_flight=60, in_flight_collection=60)
    gate, port = threading.Event(), live(run).port
    embed = run.service.model.embed
    run.service.batcher._embed = lambda rows: (gate.wait(10), embed(rows))[1]
    body = {"image": b64(png(protected[0]))}
    threads = [
        threading.Thread(target=asked, args=(port, run.tokens["all"], body)) for _ in range(45)
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.0)
        import httpx

        for path in ("/healthz", "/readyz", "/metrics"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 200
    finally:
        gate.set()
        for thread in threads:
            thread.join(20)


def test_a_threshold_takes_the_place_of_the_cards(start, exported, tmp_path, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(threshold=0.8)
    assert run.ask("GET", "/v1/model").json()["thresholds"] == {"custom": 0.8}
    body = {"image": b64(png(protected[0])), "fmr": "fmr_1e-1"}
    assert run.ask("POST", "/v1/identify", body).status_code == 422
    with pytest.raises(MinusfaceError, match="not both"):
        Service(Settings(model=exported, data=tmp_path / "d", threshold=0.3, fmr="fmr_1e-1"))


@pytest.mark.parametrize("colour", [(0, 0, 0), (127, 127, 127), (150, 100, 90)])
def test_blank_pictures_are_nobody(colour: tuple[int, int, int]) -> None:
    blank = np.full((SIZE, SIZE, 3), colour, np.uint8)
    # Of three colours each blank: a picture's spread is that of its pixels, not of its colours.
    for picture in (blank, np.clip(blank.astype(int) + np.eye(SIZE, dtype=int)[..., None], 0, 255)):
        with pytest.raises(ImageError, match="blank"):
            decode_png(png(picture.astype(np.uint8)), SIZE, 1)


def test_damaged_keys_let_nobody_in_and_are_told(start) -> None:  # type: ignore[no-untyped-def]
    run = start()
    path: Path = run.service.keys.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    answer = run.ask("GET", "/v1/model")
    assert (answer.status_code, answer.json()["error"]) == (503, "storage")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["retry-after"]
    assert run.client.get("/readyz").status_code == 503
    path.write_bytes(whole)
    assert run.ask("GET", "/v1/model").status_code == 200
    assert run.client.get("/readyz").status_code == 200


def test_strangers_do_not_fill_the_log(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = start()
    for _ in range(300):
        assert run.ask("GET", "/v1/model", token="nonsense").status_code == 401
    assert run.ask("GET", "/v1/model").status_code == 200
    lines = [json.loads(one) for one in (tmp_path / "data" / "audit.log").read_text().splitlines()]
    assert 50 < sum(line["status"] == 401 for line in lines) < 290
    assert lines[-1]["status"] == 200
    assert 'reason="unauthorized"} 300.0' in run.client.get("/metrics").text


def test_an_erasure_that_failed_is_not_called_undone(start, protected, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from minusface.index import StorageError

    run = start()
    run.ask("POST", "/v1/enroll", {"person": "Ann", "images": [b64(png(protected[0]))]})

    def full(*given: object) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(run.service.index, "erase", full)
        answer = run.ask("POST", "/v1/erase", {"person": "Ann"})
    assert answer.status_code == 503
    assert "nothing was changed" not in answer.text
    assert "ask again" in answer.text
    assert run.ask("POST", "/v1/erase", {"person": "Ann"}).json() == {"templates": 1}


@pytest.mark.parametrize(
    ("path", "remote", "key", "said"),
    [
        ("enroll/batch", False, "k", "in part: ask again with the same idempotency key"),
        ("enroll/batch", False, "", "without an idempotency key is done twice"),
        ("enroll", False, "k", "nothing was changed"),
        ("enroll", True, "k", "in part: ask again with the same idempotency key"),
        ("rekey", False, "", "nothing was changed"),
        ("rekey", True, "", "may be in use"),
    ],
)
def test_what_may_have_been_done_is_not_called_undone(  # type: ignore[no-untyped-def]
    start, protected, monkeypatch, path: str, remote: bool, key: str, said: str
) -> None:
    from minusface.index import StorageError

    run, done = start(), []
    real = run.service.index.add

    def full(*given: Any) -> Any:
        done.append(given[:2])
        if len(done) == 2 or path != "enroll/batch":
            raise StorageError("disk full")
        return real(*given)

    monkeypatch.setattr(run.service, "remote", remote)
    people = [{"person": f"p{n}", "images": [b64(png(protected[n]))]} for n in range(2)]
    body = {"enroll": people[0], "enroll/batch": {"people": people}}.get(path, {})
    headers = {"idempotency-key": key} if key else {}
    with monkeypatch.context() as patched:
        for step in ("add", "rekey"):
            patched.setattr(run.service.index, step, full)
        answer = run.ask("POST", f"/v1/{path}", body, headers=headers)
    assert answer.status_code == 503
    assert said in answer.json()["message"]
    there = 1 if path == "enroll/batch" else 0
    assert len(run.ask("GET", "/v1/people").json()["people"]) == there
    if key:
        assert run.ask("POST", f"/v1/{path}", body, headers=headers).status_code == 200


def test_the_service_knows_where_its_gallery_lies(start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert start().service.remote is False
    assert start(index=f"local:{tmp_path / 'other'}").service.remote is False
    pytest.importorskip("qdrant_client", reason="the extra qdrant")
    assert start(index="qdrant::memory:").service.remote is True


def test_large_enrolments_of_one_leave_room_in_the_queue(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(waiting=64, in_flight_collection=30)
    gate, embed = threading.Event(), run.service.model.embed
    run.service.batcher._embed = lambda rows: (gate.wait(10), embed(rows))[1]
    image = b64(png(protected[0]))
    answers: dict[str, list[Any]] = {"all": [], "other": []}

    def ask(token: str, path: str, body: dict[str, Any]) -> None:
        answers[token].append(run.ask("POST", path, body, token=token))

    def threads(count: int, *what: Any) -> list[threading.Thread]:
        made = [threading.Thread(target=ask, args=what) for _ in range(count)]
        for thread in made:
            thread.start()
        return made

    large = threads(6, "all", "/v1/enroll", {"person": "Ann", "images": [image] * 16})
    deadline = time.monotonic() + 10
    while len(answers["all"]) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [answer.status_code for answer in answers["all"]] == [429] * 4
    assert answers["all"][0].json()["error"] == "too_many_requests"
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers["all"])
    small = threads(8, "other", "/v1/identify", {"image": image})
    while run.service.batcher.count < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    gate.set()
    for thread in large + small:
        thread.join(20)
    assert [answer.status_code for answer in answers["other"]] == [200] * 8
    assert [answer.status_code for answer in answers["all"][4:]] == [200] * 2


def test_templates_end_somewhere(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start(max_templates=4, max_templates_person=3)
    sizes: list[int] = []
    embed = run.service.model.embed
    run.service.batcher._embed = lambda rows: (sizes.append(len(rows)), embed(rows))[1]
    image = b64(png(protected[0]))

    def enroll(person: str, count: int, key: str = "", token: str = "all") -> tuple[int, str]:
        headers = {"idempotency-key": key} if key else {}
        body = {"person": person, "images": [image] * count}
        answer = run.ask("POST", "/v1/enroll", body, token=token, headers=headers)
        return answer.status_code, answer.json().get("error", "")

    assert enroll("Ann", 2, "k1") == (200, "")
    assert enroll("Ann", 2, "k2") == (409, "full")
    assert enroll("Ann", 1, "k3") == (200, "")
    assert enroll("Bob", 2) == (409, "full")
    assert sizes == [2, 1], "nothing is embedded that has no room"
    assert enroll("Bob", 1, "k4") == (200, "")
    # Done before: it needs no room. The same key for something else is told as ever.
    assert enroll("Ann", 2, "k1") == (200, "")
    assert enroll("Cem", 1, "k4") == (409, "conflict")
    assert enroll("Cem", 1, token="other") == (200, ""), "another collection has room of its own"
    people = [{"person": name, "images": [image]} for name in ("Ann", "Jos\u00e9", "Jose\u0301")]
    batch = run.ask("POST", "/v1/enroll/batch", {"people": people * 2}, token="other")
    assert (batch.status_code, batch.json()["error"]) == (409, "full")
    assert "4 templates" in batch.json()["message"]
    assert run.ask("POST", "/v1/erase", {"person": "Ann"}).json() == {"templates": 3}
    assert enroll("Dan", 3) == (200, "")
    assert enroll("Dan", 1) == (409, "full")
    told = run.ask("POST", "/v1/enroll", {"person": "Eve", "images": [image]}).json()
    assert "at most 4 templates" in told["message"]


@pytest.mark.parametrize("kind", ["local", "qdrant"])
def test_a_person_in_two_spellings_has_one_limit(start, protected, kind: str) -> None:  # type: ignore[no-untyped-def]
    if kind == "qdrant":
        pytest.importorskip("qdrant_client", reason="the extra qdrant")
    run = start(
        max_templates_person=1, **({"index": "qdrant::memory:"} if kind == "qdrant" else {})
    )
    image = b64(png(protected[0]))
    people = [{"person": name, "images": [image]} for name in ("Jos\u00e9", "Jose\u0301")]
    both = run.ask("POST", "/v1/enroll/batch", {"people": people})
    assert (both.status_code, both.json()["error"]) == (409, "full")
    assert run.ask("POST", "/v1/enroll", people[0]).status_code == 200
    late = run.ask("POST", "/v1/enroll", people[1])
    assert (late.status_code, late.json()["error"]) == (409, "full")
    assert run.ask("GET", "/v1/people").json()["people"][0]["templates"] == 1


@pytest.mark.parametrize("limit", [{"max_templates": 3}, {"max_templates_person": 3}])
def test_enrolments_at_one_moment_share_the_room(start, protected, limit: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    run, image = start(**limit), b64(png(protected[0]))
    gate, embed = threading.Event(), run.service.model.embed
    run.service.batcher._embed = lambda rows: (gate.wait(10), embed(rows))[1]
    answers: list[tuple[int, str]] = []

    def enroll(key: str) -> None:
        body = {"person": "Ann", "images": [image] * 2}
        answer = run.ask("POST", "/v1/enroll", body, headers={"idempotency-key": key})
        answers.append((answer.status_code, answer.json().get("error", "")))

    tries = [threading.Thread(target=enroll, args=[key]) for key in ("k1", "k1", "k2", "k3")]
    deadline = time.monotonic() + 10
    for number, thread in enumerate(tries):
        thread.start()
        while number == 0 and not run.service.room._held and time.monotonic() < deadline:
            time.sleep(0.01)
    while len(answers) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    held = len(run.service.room._held)
    gate.set()
    for thread in tries:
        thread.join(20)
    # Two of three keys find no room; the second try of the first needs none.
    assert answers[:2] == [(409, "full")] * 2
    assert held == len(answers) - 2 == 2
    assert answers[2:] == [(200, "")] * 2
    assert run.ask("GET", "/v1/people").json()["people"][0]["templates"] == 2
    assert not run.service.room._held


def test_tries_of_one_enrolment_count_once() -> None:
    class Empty:
        def stats(self, collection: str) -> Stats:
            return Stats(0, 0, True, 1)

        def count(self, collection: str, person: str) -> int:
            return 0

    index: Any = Empty()
    room, once = Room(index, 4, 4), Request("k", b"d")
    with room.held("a", [("Ann", 2, once)]), room.held("a", [("Ann", 2, once)]):
        with room.held("a", [("Bob", 2, None)]):
            with pytest.raises(FullError), room.held("a", [("Cem", 1, None)]):
                pass
            with room.held("b", [("Cem", 4, None)]):
                pass
        with room.held("a", [("Ann", 2, Request("other", b"d"))]):
            pass
        with pytest.raises(FullError), room.held("a", [("Ann", 3, None)]):
            pass
    with room.held("a", [("Cem", 4, None)]):
        pass


def test_a_collection_is_counted_now_and_then() -> None:
    now, counted = [0.0], []

    class Counting:
        """Somebody else enrolls in it, too."""

        there = 0

        def stats(self, collection: str) -> Stats:
            counted.append(collection)
            return Stats(1, self.there, True, 1)

        def count(self, collection: str, person: str) -> int:
            return 0

    index: Any = Counting()
    room = Room(index, 10, 10, clock=lambda: now[0])

    def check(count: int) -> None:
        with room.held("a", [("Ann", count, None)]):
            pass

    for _ in range(4):
        check(2)
        room.took("a", Added(("x", "y"), False))
        room.took("a", Added(("x", "y"), True))
    assert counted == ["a"]
    index.there = 8
    # Eight were enrolled here: no room for three by what is known; counted once in a second, not more often.
    now[0] = 5.0
    for _ in range(3):
        with pytest.raises(FullError, match="at most 10 templates"):
            check(3)
    assert len(counted) == 2
    index.there = 0
    now[0] = 6.5
    check(3)
    assert len(counted) == 3
    index.there = 9
    now[0] = 6.5 + BELIEVED
    with pytest.raises(FullError):
        check(2)


def test_new_keys_are_not_made_in_a_loop(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    assert run.ask("POST", "/v1/rekey", {}).json() == {"version": 2}
    again = run.ask("POST", "/v1/rekey", {})
    assert (again.status_code, again.json()["error"]) == (429, "too_many_requests")
    assert 590 < int(again.headers["retry-after"]) <= 600
    gate, begun, real = threading.Event(), threading.Event(), run.service.index.rekey

    def slow(collection: str) -> int:
        begun.set()
        gate.wait(10)
        return int(real(collection))

    run.service.index.rekey = slow
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(run.ask("POST", "/v1/rekey", {}, token="other"))
    )
    thread.start()
    assert begun.wait(10)
    third = run.service.keys.add("c", ("admin",))[1]
    during = run.ask("POST", "/v1/rekey", {}, token=third)
    assert (during.status_code, during.headers["retry-after"]) == (429, "10")
    gate.set()
    thread.join(10)
    assert answers[0].json() == {"version": 2}
    assert run.ask("POST", "/v1/rekey", {}, token=third).json() == {"version": 2}
    run = start(rekey_seconds=0)
    versions = [run.ask("POST", "/v1/rekey", {}).json()["version"] for _ in range(2)]
    assert versions == [3, 4]


def test_images_of_another_model_are_refused(start, protected) -> None:  # type: ignore[no-untyped-def]
    run = start()
    image, model = b64(png(protected[0])), run.ask("GET", "/v1/model").json()["model"]
    person = {"person": "Ann", "images": [image]}
    for path, body in (
        ("enroll", person),
        ("enroll/batch", {"people": [person]}),
        ("verify", {"person": "Ann", "image": image}),
        ("identify", {"image": image}),
    ):
        answer = run.ask("POST", f"/v1/{path}", body | {"model": "0" * 16})
        assert (answer.status_code, answer.json()["error"]) == (409, "other_model"), path
        assert "both halves must come from one export" in answer.json()["message"]
        if path == "enroll":
            assert run.ask("GET", "/v1/people").json()["people"] == []
        assert run.ask("POST", f"/v1/{path}", body | {"model": model}).status_code == 200, path
        assert run.ask("POST", f"/v1/{path}", body).status_code == 200, path
