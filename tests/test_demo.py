"""The demo, on drawn faces and a budget of seconds."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from minusface.checkpoint import load_card
from minusface.commands.demo import demo
from minusface.config import DataConfig
from minusface.data import FolderDataset
from minusface.demo import Budget, Options, journey, run, training
from minusface.demo.findings import EIGHT_BIT, PROTECTED, RESIDUE, UNPROTECTED, Findings, sentences
from minusface.demo.html import report
from minusface.demo.journey import make_room
from minusface.demo.photo import open_portrait
from minusface.demo.pictures import Pictures, make_pictures, png, same_edges
from minusface.demo.progress import Phase, Trail, spoken
from minusface.demo.source import (
    find_teacher,
    hold_out,
    make_pairs,
    open_source,
    synthetic_source,
    write_lists,
)
from minusface.demo.training import Trained, recipe, train_stage
from minusface.errors import MinusfaceError
from minusface.evaluate import (
    Pair,
    PairList,
    VerificationResult,
    evaluate_pairs,
    read_pairs,
)
from minusface.evaluate.embedders import load_embedder
from minusface.protect import Protector
from minusface.types import ProtectedImage

TINY = Budget(
    minutes=0.06,
    batch_size=8,
    embedding_size=16,
    width=2,
    permutations=2,
    max_epochs=1,
    pace_steps=2,
    similarity_crops=5,
    pairs=40,
    synthetic=(8, 4),
    synthetic_held_out=(6, 3),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Findings, str]]:
    """One demo from end to end: its folder, what it found, what it printed on the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    said = io.StringIO()
    options = Options(faces="synthetic", out=str(out), minutes=TINY.minutes, train=True)
    yield out, run(options, Console(file=said), TINY), said.getvalue()
    torch.set_num_threads(threads)


class Page(HTMLParser):
    """What a page shows, and whether its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.images.append(given["src"] or "")
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += " " + data


def test_demo_writes_a_report_with_all_its_parts(done: tuple[Path, Findings, str]) -> None:
    out, found, said = done
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert set(found.rows) == {UNPROTECTED, RESIDUE, PROTECTED, EIGHT_BIT}
    for words in (
        "AUC",
        "EER",
        "TAR at FAR 0.01",
        "SSIM",
        "Identity is kept by design",
        "drawn faces",
    ):
        assert words in page.words
    for sentence in sentences(found):
        assert sentence in page.words
    assert "minusface demo --faces synthetic" in page.words
    assert "prefers-color-scheme: dark" in text
    assert "[1/5]" in said
    assert "[5/5]" in said
    assert "left" in said


def test_report_stands_alone_and_shows_no_other_photo(done: tuple[Path, Findings, str]) -> None:
    out, _, _ = done
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    inside = [base64.b64decode(link.split(",")[1]) for link in page.images]
    beside = {path.stem: path.read_bytes() for path in (out / "pictures").iterdir()}
    assert sorted(inside) == sorted(beside.values())
    assert set(beside) == {
        "photo", "crop", "regenerated", "residue",
        "protected-1", "protected-2", "protected-3", "stretched-1", "stretched-2", "stretched-3",
        "outlined-1", "outlined-2", "outlined-3",
    }  # fmt: skip
    assert not [path for path in out.rglob("*.png") if path.parent.name != "pictures"]


def test_results_are_those_of_the_checkpoints(done: tuple[Path, Findings, str]) -> None:
    out, found, _ = done
    saved = json.loads((out / "results.json").read_text())
    assert saved["rows"][PROTECTED]["accuracy"] == found.rows[PROTECTED].accuracy
    assert [one["task"] for one in saved["trained"]] == ["plain", "stage1", "stage2"]
    assert load_card(out / "stage2").task == "stage2"
    # What `minusface evaluate` computes, image by image and draw by draw.
    source = synthetic_source(TINY, 0)
    for eight_bits, name in ((False, PROTECTED), (True, EIGHT_BIT)):
        embedder = load_embedder(out / "stage2", eight_bits=eight_bits)
        slow = evaluate_pairs(
            embedder, source.read, source.pairs, draws=1 if eight_bits else TINY.draws
        )
        assert [one.accuracy for one in found.rows[name].per_draw] == pytest.approx(
            [one.accuracy for one in slow.per_draw]
        )
        assert found.rows[name].auc == pytest.approx(slow.auc, abs=1e-6)


def test_protected_images_of_the_report_are_images_under_three_permutations(
    done: tuple[Path, Findings, str],
) -> None:
    out, found, _ = done
    files = [out / "pictures" / f"protected-{i}.png" for i in (1, 2, 3)]
    images = [cv2.imread(str(file)) for file in files]
    assert all(image is not None and image.shape == (112, 112, 3) for image in images)
    assert len({image.tobytes() for image in images if image is not None}) == 3
    pictures = make_pictures(open_portrait(None), Protector.load(out / "stage2"), 0)
    assert png(pictures.protected[0]) == files[0].read_bytes()
    assert len(found.same_photo) == 3
    assert 0 < found.residue_levels < 128


def test_second_demo_keeps_the_trainings_of_the_first_aside(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make_room(tmp_path)
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain" / str(number)).touch()
        (tmp_path / "report.html").write_text(str(number))
        (tmp_path / "mine.txt").touch()
    make_room(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt", "previous"]
    assert [p.name for p in (tmp_path / "previous" / "plain").iterdir()] == ["3"]
    assert (tmp_path / "previous" / "report.html").read_text() == "3"


class Angles:
    """Embeds ``.../a`` as one direction, and ``.../b`` as the same one or a right angle, as told."""

    def __init__(self, alike: dict[str, bool]) -> None:
        self.alike = alike

    def embed(
        self, images: torch.Tensor, keys: Sequence[str], draw: int, flip: bool
    ) -> torch.Tensor:
        rows = [(1.0, 0.0) if self.alike.get(key, True) else (0.0, 1.0) for key in keys]
        return torch.tensor(rows)


def result(accuracy: float, draws: int = 2) -> VerificationResult:
    """A made-up result on 400 pairs, right in this part of each fold."""
    pairs, alike = [], {}
    for number in range(400):
        same, right = number < 200, number % 20 < round(20 * accuracy)
        pair = Pair(f"{number}/a", f"{number if same else number + 1000}/b", same)
        pairs.append(pair)
        alike[pair.b] = same == right
    image = np.zeros((8, 8, 3), np.uint8)
    return evaluate_pairs(Angles(alike), lambda _: image, PairList.from_pairs(pairs), draws=draws)


def findings(protected: float, plain: float | None = 0.9, **others: Any) -> Findings:
    rows = {} if plain is None else {UNPROTECTED: result(plain, draws=1)}
    given: dict[str, Any] = {
        "data": "faces",
        "held_out": "pairs",
        "objective": "labels",
        "pairs": 400,
        "draws": 2,
        "rows": {**rows, PROTECTED: result(protected), EIGHT_BIT: result(protected, draws=1)},
        "trained": [],
        "settings": {},
        "photo": "photo",
        "same_photo": [0.5, 0.7],
        "residue_levels": 1.0,
        "contours": 0.1,
        "ssim": 0.3,
        "psnr": 15.0,
        "similarity_crops": 200,
    }
    return Findings(**(given | others))


@pytest.mark.parametrize(
    ("protected", "words"),
    [
        (0.5, "cannot be told from guessing"),
        (0.6, "of no use"),
        (0.8, "From protected images alone the recogniser gets 80.0 %"),
    ],
)
def test_words_follow_the_numbers(protected: float, words: str) -> None:
    told = " ".join(sentences(findings(protected)))
    assert words in told
    assert f"costs {100 * (0.9 - protected):.1f} points" in told


def test_words_admit_what_is_not_good() -> None:
    told = " ".join(sentences(findings(0.89, contours=0.6, residue_levels=30.0)))
    assert "may be chance" in told
    assert "contours of the face show through" in told
    assert "may be made out by eye" in told
    assert "they show the face" in " ".join(sentences(findings(0.89, outlines=0.4)))
    assert "they tell little" in " ".join(sentences(findings(0.89, outlines=0.1)))
    little = " ".join(sentences(findings(0.89, contours=0.05)))
    assert "few contours show through" in little
    assert "not blank: lines of the face are left in it" in told
    made = Trained("stage1", 9.0, 5, 0.1, 10.0, False, {"l1": 0.1})
    shown = " ".join(sentences(findings(0.89, residue_levels=30.0, trained=[made])))
    assert "not blank: a longer stage 1 is needed" in shown
    cut = Trained("stage2", 9.0, 5, 0.1, 10.0, cut_short=True)
    assert "stage2 was stopped before" in " ".join(sentences(findings(0.8, trained=[cut])))


def pictures() -> Pictures:
    grey = np.full((112, 112, 3), 128, np.uint8)
    images = ProtectedImage(torch.full((3, 3, 112, 112), 0.5))
    return Pictures(grey, grey, grey, grey, *[[grey] * 3] * 3, 1.0, 0.1, 0.1, images)


def test_report_escapes_what_comes_from_outside() -> None:
    nasty = '<script>alert("x")</script>&'
    found = findings(0.8, photo=nasty, data=nasty, next_command=nasty, settings={nasty: nasty})
    text = report(found, pictures())
    assert "<script" not in text
    page = Page(text)
    assert page.open == []
    assert page.words.count(nasty) == 5


def test_report_of_packaged_weights_has_no_trainings() -> None:
    page = Page(report(findings(0.8, plain=None, weights="w/default"), pictures()))
    assert "w/default (packaged; nothing was trained here)" in page.words
    assert "trained for minutes" not in page.words
    assert "Weights of one research collection" in page.words
    assert "unprotected crop" not in page.words


def test_packaged_weights_spare_the_training(
    done: tuple[Path, Findings, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before, _ = done
    monkeypatch.setattr(journey, "packaged_weights", lambda: folder / "stage2")
    options = Options(faces="synthetic", out=str(tmp_path / "demo"))
    # What the run before wrote is kept here, too.
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / ".demo").touch()
    for name in ("stage2/best/card.json", "pictures/photo.png", "report.html", "people-train.txt"):
        (tmp_path / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "demo" / name).write_text("before")
    found = run(options, Console(file=io.StringIO()), TINY)
    kept = tmp_path / "demo" / "previous"
    for name in ("stage2/best/card.json", "pictures/photo.png", "report.html", "people-train.txt"):
        assert (kept / name).read_text() == "before"
    assert set(found.rows) == {PROTECTED, EIGHT_BIT}
    assert found.rows[PROTECTED].auc == pytest.approx(before.rows[PROTECTED].auc, abs=1e-6)
    assert not (tmp_path / "demo" / "stage2").exists()
    assert found.report.is_file()


def face_folder(root: Path, people: dict[str, int]) -> Path:
    """A folder of drawn squares: enough to be listed, not looked at."""
    folder = root / "faces"
    picture = png(np.full((112, 112, 3), 90, np.uint8))
    for name, images in people.items():
        (folder / name).mkdir(parents=True)
        for number in range(images):
            (folder / name / f"{number}.png").write_bytes(picture)
    return folder


def test_any_folder_is_parted_by_people(tmp_path: Path) -> None:
    # Names that are numbers, as many as could pass for a count.
    folder = face_folder(tmp_path, {str(n): 1 + n % 3 for n in range(60)})
    out = tmp_path / "out"
    source = open_source(str(folder), out, TINY, 0)
    again = open_source(str(folder), out, TINY, 0)
    assert not out.exists()
    write_lists(source)
    assert source.pairs.keys == again.pairs.keys
    trained = set(FolderDataset(folder, people=source.train.people).people)
    held_out = {key.split("/")[0] for key in source.pairs.keys}
    assert len(held_out) == 20
    assert not trained & held_out
    assert len(trained) == 40
    listed = read_pairs(out / "pairs-held-out.txt", folder)
    assert list(listed) == list(source.pairs)
    for pair in source.pairs:
        assert (pair.a.split("/")[0] == pair.b.split("/")[0]) == pair.same


def test_of_weights_made_elsewhere_nobody_is_told_to_be_unseen(tmp_path: Path) -> None:
    folder = face_folder(tmp_path, {str(n): 2 for n in range(40)})
    here = open_source(str(folder), tmp_path / "out", TINY, 0)
    elsewhere = open_source(str(folder), tmp_path / "out", TINY, 0, trained=False)
    assert "people held out of faces" in here.pairs_words
    assert "held out" not in elsewhere.pairs_words
    assert "people of that list flatter them" in elsewhere.pairs_words


def test_names_that_are_no_utf8_are_listed(tmp_path: Path) -> None:
    folder = face_folder(tmp_path, {os.fsdecode(b"J\xf6rg %d" % n): 2 for n in range(8)})
    for image in sorted(folder.rglob("0.png")):
        image.rename(image.with_name(os.fsdecode(b"\xe9.png")))
    source = open_source(str(folder), tmp_path / "out", TINY, 0)
    write_lists(source)
    assert b"\xe9.png" in (tmp_path / "out" / "pairs-held-out.txt").read_bytes()
    assert len(FolderDataset(folder, people=source.train.people).people) == 4
    listed = read_pairs(tmp_path / "out" / "pairs-held-out.txt", folder)
    assert list(listed) == list(source.pairs)


def test_folder_with_too_few_people_is_refused(tmp_path: Path) -> None:
    folder = face_folder(tmp_path, {"a": 2, "b": 2, "c": 1, "d": 1, "e": 2})
    with pytest.raises(MinusfaceError, match="3 people with two images"):
        open_source(str(folder), tmp_path, TINY, 0)


def test_teacher_is_used_only_where_it_knows_the_images(tmp_path: Path) -> None:
    folder = face_folder(tmp_path, {"a": 2, "b": 2})
    assert find_teacher(folder, ["a/0.png"])[0] is None
    rows = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float16)
    file = tmp_path / "some-teacher.npz"
    np.savez(file, names=np.array(["a/0.png", "b/1.png"]), plain=rows, flipped=rows)
    assert find_teacher(folder, ["a/0.png"])[0] == file
    found, words = find_teacher(folder, ["a/0.png", "a/1.png"])
    assert found is None
    assert "some-teacher.npz is not used" in words


def test_pairs_are_balanced_and_distinct() -> None:
    people = {f"p{n}": [f"p{n}/{i}" for i in range(4)] for n in range(12)}
    pairs = make_pairs(people, 60, 3)
    assert len(pairs) == 60
    assert int(pairs.same.sum()) == 30
    assert len({(pair.a, pair.b) for pair in pairs}) == 60
    assert [*make_pairs(people, 60, 3)] == [*pairs]
    assert [*make_pairs(people, 60, 4)] != [*pairs]


def test_people_take_turns_in_genuine_pairs() -> None:
    """Somebody of 530 photos has 140,000 pairs, nine others 3 each: drawn alike, he would make them all."""
    people = {f"p{n}": [f"p{n}/{i}" for i in range(530 if n == 4 else 3)] for n in range(10)}
    pairs = make_pairs(people, 40, 0)
    whose = [pair.a.split("/")[0] for pair in pairs if pair.same]
    assert {name: whose.count(name) for name in people} == dict.fromkeys(people, 2)
    assert whose == sorted(whose), "a person's stand together: folds are cut from the list as it is"
    more = make_pairs(people, 100, 0)
    whose = [pair.a.split("/")[0] for pair in more if pair.same]
    assert (len(whose), whose.count("p4")) == (50, 50 - 27)
    assert len({(pair.a, pair.b) for pair in more}) == 100


def test_hold_out_leaves_half_to_train_on() -> None:
    people = {f"p{n}": ["a", "b"] for n in range(10)}
    kept, held_out = hold_out(people, 0, "here")
    assert len(kept) == len(held_out) == 5
    assert hold_out(people, 1, "here")[1] != held_out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photo": "grey.png"}, "grey.png: no face found"),
        ({"photo": "missing.jpg"}, "missing.jpg: cannot read"),
        ({"faces": "nowhere"}, "nowhere: no such folder"),
        ({"minutes": 0.0}, "minutes 0.0"),
        ({"minutes": float("nan")}, "minutes nan"),
        ({"seed": -1}, "seed -1"),
        ({"out": "grey.png"}, "is a file"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grey.png").write_bytes(png(np.full((200, 200, 3), 120, np.uint8)))
    with pytest.raises(MinusfaceError, match=re.escape(words)) as told:
        run(Options(**({"out": "demo"} | options)), Console(file=io.StringIO()))
    assert "\n" not in str(told.value)
    assert not Path("demo", "plain").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("pictures/aunt.jpg", "pictures/aunt.png", "previous/pictures/x"),
        "stage1/last",
        "report.html",
    ],
)
def test_pictures_and_trainings_of_others_are_not_moved(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    shown = name.removesuffix("/last")
    with pytest.raises(MinusfaceError, match=re.escape(f"{shown}: is no demo's")):
        run(Options(faces="synthetic", out=str(tmp_path)), Console(file=io.StringIO()), TINY)
    assert (tmp_path / name).is_file()


def test_ctrl_c_ends_the_demo_without_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(SystemExit) as left:
        demo(faces="synthetic", out=str(tmp_path / "demo"), minutes=0.1, train=True)
    assert left.value.code == 130
    assert "stopped" in capsys.readouterr().err
    assert not (tmp_path / "demo" / "report.html").exists()


def test_training_that_became_slow_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "measure_pace", lambda *_: 0.002)
    monkeypatch.setattr(training, "PATIENCE", 0.0)
    config = recipe("plain", tmp_path, DataConfig(faces="synthetic:8x4"), None, TINY, 0)
    one = train_stage(config, 1.0, replace(TINY, max_epochs=25))
    assert one.cut_short
    assert load_card(tmp_path / "plain" / "last").task == "plain"


def test_time_left_is_guessed_then_seen() -> None:
    now = 0.0
    said = io.StringIO()
    trail = Trail([Phase("a", 10), Phase("b", 20)], Console(file=said), clock=lambda: now)
    with trail:
        trail.next("a")
        assert trail.left() == 30
        now = 10.0
        trail.update(0.5)
        # Half of the guess of 10 s, half of the 20 s that it now seems to take.
        assert trail.left() == 20 + 0.5 * (0.5 * 20 + 0.5 * 10)
        trail.update(0.9, "a note", seconds_left=3)
        assert trail.left() == 23
        now = 16.0
        trail.update(0.95, seconds_left=2)
        trail.next("b")
    lines = said.getvalue().splitlines()
    assert lines[0] == "[1/2] a, 30 s left"
    assert lines[-1] == "[2/2] b, 20 s left"
    assert len(lines) == 4


def test_live_bar_shows_the_note_as_it_is() -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=120)
    with Trail([Phase("a [b]", 10)], console) as trail:
        trail.next("a [b]")
        trail.update(0.5, "x [/y]", 95)
        assert trail.bar is not None
        trail.bar.refresh()
    assert "[1/1] a [b]" in said.getvalue()
    assert "x [/y]" in said.getvalue()
    assert "1:35 min left" in said.getvalue()


def test_durations_are_spoken() -> None:
    assert [spoken(s) for s in (0, 59.6, 89, 90, 611)] == [
        "0 s",
        "60 s",
        "89 s",
        "1:30 min",
        "10:11 min",
    ]


def test_same_edges_sees_contours_whatever_the_colours() -> None:
    crop = open_portrait(None).crop
    recoloured = np.ascontiguousarray(255 - crop[..., ::-1])
    noise = np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8)
    assert same_edges(crop, recoloured) > 0.9
    assert abs(same_edges(crop, noise)) < 0.1
    assert same_edges(crop, np.full_like(crop, 7)) == 0
