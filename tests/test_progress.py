"""What long work tells where there is no terminal."""

from __future__ import annotations

import pytest

from minusface import progress


def test_a_log_file_hears_of_long_work_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with progress.noted_bar("audit") as show:
        show(0.1, "short work says nothing")
        clock += progress.EVERY
        show(0.25, "recovery: blur")
        show(0.5, "too soon after it")
        clock += 2 * progress.EVERY
        show(1.0, "linkage")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["audit  25 %  recovery: blur", "audit 100 %  linkage"]


def test_and_of_what_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with progress.bar_of("embedding", 200) as show:
        show(1, 4)
        clock += progress.EVERY
        show(3, 4)
    assert capsys.readouterr().err == "embedding  75 %  150/200\n"
