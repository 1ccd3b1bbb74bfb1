"""The command, its report, and what it makes of failure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minusface import checkpoint
from minusface.audit import budget as budgets
from minusface.audit import plan as plans
from minusface.audit import run as runs
from minusface.audit.attack import Fit
from minusface.audit.curves import Line, chart
from minusface.audit.finding import Finding, keep, kept
from minusface.audit.run import Options, run_audit
from minusface.checkpoint import Card
from minusface.cli import main
from minusface.config import CodecConfig, GeneratorConfig, RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.protect import Protector
from minusface.recognize import Recognizer
from tests.audit.conftest import TINY, finding
from tests.products import saved

SHORT = Fit(steps=2, batch_size=4, validate_every=1)
SHORTEST = replace(
    TINY,
    train_images=30,
    validation_images=6,
    pairs=20,
    views=1,
    width=2,
    recovery=SHORT,
    averages=(1, 8),
    averaging_images=8,
    averaging_pairs=8,
    averaging=SHORT,
    linkage=SHORT,
    linkage_images=(10, None),
    ruler=SHORT,
    similar=4,
    detect=1,
    inversion_steps=2,
    attribute_images=24,
    attributes=SHORT,
    decoder=SHORT,
)


def test_the_toy_case_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    protector = Protector(CodecConfig("raw", size=32), GeneratorConfig(2))
    saved(tmp_path / "toy", "stage1", protector, None)
    with pytest.raises(MinusfaceError, match=r"toy case \(codec raw\), which shuffles nothing"):
        run_audit(Options(tmp_path / "toy", "synthetic:9x3", tmp_path / "out", SHORTEST))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-2 checkpoint, untrained, for crops of 32 pixels."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    protector = Protector(CodecConfig(size=32), GeneratorConfig(2))
    recognizer = Recognizer(RecognizerConfig("ir_lite", 16, "standardized"), 3, 32, "protected")
    tensors = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
    tensors |= {f"recognizer.{k}": v for k, v in recognizer.state_dict().items()}
    spec = {**protector.spec(), "recognizer": recognizer.spec()}
    checkpoint.save(folder, Card("stage2", spec), {"model": tensors})
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budgets.BUDGETS, "small", SHORTEST)


@pytest.mark.usefixtures("short")
def test_the_command_writes_a_report_that_needs_nothing_beside_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["audit", "--checkpoint", str(model), "--data", "synthetic:12x4", "--out", str(out)]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in said
    # A ruler of two steps judges nothing, and says so.
    assert "CONTROL FAILED" in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What this protects, what it does not" in page
    assert 'class="failed">CONTROL FAILED' in page
    for found in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert found.startswith("data:image/webp;base64,")
    assert "http" not in page
    report = json.loads((out / "report.json").read_text())
    attacks = {finding["attack"] for finding in report["findings"]}
    assert attacks >= {"viewing", "recovery", "linkage", "averaging", "unlinkability", "templates"}
    assert attacks >= {"inversion", "attributes", "repetition"}
    assert {cost["target"] for cost in report["costs"]} == {
        "unprotected", "pixelation", "blur", "minusface",
    }  # fmt: skip
    assert all(finding["needs"] for finding in report["findings"])
    assert "small" not in report["about"]["budget"]  # the name of the budget that ran


def test_a_stopped_audit_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(
        model, "synthetic:12x4", tmp_path, SHORTEST, peers=(), attacks=("viewing", "recovery")
    )
    ran: list[str] = []
    blind = plans.recovery.run_blind
    stop = True

    def recorded(bench: object) -> list[Finding]:
        ran.append("blind")
        if stop:
            raise KeyboardInterrupt
        return blind(bench)  # type: ignore[arg-type]

    monkeypatch.setattr(plans.recovery, "run_blind", recorded)
    with pytest.raises(KeyboardInterrupt):
        run_audit(options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "findings").iterdir()}
    assert before
    stop = False
    first = run_audit(options)
    assert ran == ["blind", "blind"]
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when
    assert "findings are of" not in first.about
    monkeypatch.setattr(runs, "commit", lambda: "a later one")
    again = run_audit(options)
    assert ran == ["blind", "blind"]
    assert again.findings == first.findings
    assert again.about["commit"] == "a later one"
    count = len(first.findings)
    earlier = f"{first.findings[0].made} ({count} of {count} findings)"
    assert again.about["findings are of"] == earlier
    assert first.about["commit"] in earlier
    assert earlier in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("short")
def test_what_is_published_shows_nobody_of_the_data(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, shown = tmp_path / "out", tmp_path / "shown"
    line = ["audit", "--checkpoint", str(model), "--data", "synthetic:12x4", "--out", str(out)]
    line += ["--attacks", "viewing,recovery,linkage", "--publish", str(shown)]
    line += ["--variants", "signs,duplicate-2", "--beside", f"other={model}", "--peers", "blur"]
    assert main(line) == 0
    assert f"to show: {shown / 'report.html'}" in capsys.readouterr().out
    own, public = (json.loads((path / "report.json").read_text()) for path in (out, shown))
    names = {cost["target"] for cost in public["costs"]}
    assert names == {
        *("unprotected", "blur", "minusface", "minusface-signs", "minusface-duplicate-2"),
        "minusface-other",
    }
    for one, other in zip(own["findings"], public["findings"], strict=True):
        assert (one["measures"], one["target"]) == (other["measures"], other["target"])
    private = {path.read_bytes() for path in (out / "pictures").iterdir()}
    pictures = {path.read_bytes() for path in (shown / "pictures").iterdir()}
    assert len(pictures) > 8
    assert not private & pictures
    assert {path.name for path in shown.iterdir()} == {
        *("pictures", "report.json", "report.html", "table.md"),
    }
    page = (shown / "report.html").read_text()
    assert "none of them in the data" in page
    assert "as sensitive as they are" not in page
    table = (shown / "table.md").read_text()
    assert "| **minusface** |" in table
    assert table.count("\n") == 2 + len(names) + 1
    # The judge of photos was not trained as the others' recognisers were.
    alike = {row.split(" | ")[0]: row.split(" | ")[2] for row in table.splitlines()[2:]}
    assert alike["| unprotected"] == "–"
    assert alike["| blur"].endswith("%")


def test_names_twice_are_refused(model: Path, tmp_path: Path) -> None:
    options = Options(
        model, "synthetic:12x4", tmp_path, SHORTEST, variants=("signs",), beside=(f"signs={model}",)
    )
    with pytest.raises(MinusfaceError, match="minusface-signs: two protections"):
        run_audit(options)


def test_findings_survive_the_disk(tmp_path: Path) -> None:
    one = replace(finding("recovery", "x", ssim=0.5), notes=("a", "b"))
    keep(tmp_path / "f.json", [one])
    assert kept(tmp_path / "f.json") == [one]
    (tmp_path / "f.json").write_text("{")
    assert kept(tmp_path / "f.json") is None


def test_charts_hold_what_they_are_given() -> None:
    drawn = chart("a < b", "x", "y", [Line("one", ((1, 2.0), (10, 3.0))), Line("two", ((1, 1),))])
    assert "a &lt; b" in drawn
    assert drawn.count("<polyline") == 1
    assert chart("t", "x", "y", []) == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--data is missing"),
        (["--data", "synthetic:3"], "expected synthetic:PEOPLExIMAGES"),
        (
            ["--data", "synthetic:9x2", "--peers", "bluur"],
            "unknown peer 'bluur'; did you mean 'blur'",
        ),
        (["--data", "synthetic:9x2", "--attacks", "recover"], "unknown attack 'recover'"),
        (["--data", "synthetic:9x2", "--budget", "huge"], "--budget: expected one of small"),
        (["--data", "synthetic:9x2", "--lpips", "none.pt"], "none.pt: no such file"),
        (["--data", "synthetic:40x4", "--recognizer", "/none"], "/none: not a checkpoint"),
        (["--data", "/none"], "/none"),
        (["--data", "synthetic:9x2", "--device", "tpu"], "unknown device 'tpu'"),
        (["--data", "synthetic:9x2", "--seed", "-1"], "--seed -1: expected at least 0"),
        (["--data", "synthetic:9x2", "--seed", f"{2**63}"], f"--seed {2**63}: expected at least 0"),
    ],
)
def test_errors_are_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    line = ["audit", "--checkpoint", str(model), "--out", str(tmp_path), *flags]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_recogniser_of_protected_images_is_no_ruler(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["audit", "--checkpoint", str(model), "--data", "synthetic:40x4", "--out", str(tmp_path)]
    assert main([*line, "--recognizer", str(model)]) == 2
    assert "must know plain faces only" in capsys.readouterr().err
