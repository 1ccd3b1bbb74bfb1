"""Going on after a stop: evaluations that were due, and what was calibrated in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minusface import checkpoint
from minusface.checkpoint import CARD, Card, load_card, load_part
from minusface.config import TrainConfig, plain
from minusface.errors import MinusfaceError
from minusface.train.going_on import check_out
from minusface.train.parallel import restarted
from tests.train.test_loop import Toy, equal, lines, settings, train


def scored(*scores: float | None) -> Callable[[], dict[str, float]]:
    """Evaluations with these scores; Ctrl-C in the place of None."""
    left = iter(scores)

    def evaluate() -> dict[str, float]:
        score = next(left)
        if score is None:
            raise KeyboardInterrupt
        return {"score": score}

    return evaluate


def evaluated(out: Path) -> list[tuple[int, float]]:
    found = [line for line in lines(out) if "evaluation" in line]
    return [(line["step"], line["evaluation"]["score"]) for line in found]


@pytest.mark.parametrize(("stopped", "at"), [((None,), 3), ((0.1, None), 6)])
def test_ctrl_c_in_an_evaluation_leaves_it_due(
    tmp_path: Path, stopped: tuple[float | None, ...], at: int
) -> None:
    whole, _ = train(settings(tmp_path / "whole"))
    out = tmp_path / "run"
    config = settings(out, evaluate_every=1.0)
    _, ended = train(config, evaluate=scored(*stopped))
    assert (ended.step, ended.interrupted) == (at, True)
    assert load_card(out / "last").metrics["evaluation_due"] is True
    left = [0.5, 0.7] if at == 3 else [0.7]
    task, ended = train(config, Toy(seed=5), evaluate=scored(*left), resume=True)
    assert (ended.step, ended.interrupted, ended.metrics) == (6, False, {"score": 0.7})
    assert evaluated(out) == [(3, 0.5 if at == 3 else 0.1), (6, 0.7)]
    assert load_card(out / "best").metrics == {"score": 0.7, "step": 6, "best": 0.7}
    assert load_card(out / "last").metrics == {"score": 0.7, "step": 6, "best": 0.7}
    assert equal(task.state_dict(), whole.state_dict())
    assert equal(load_part(out / "best"), load_part(out / "last"))


@pytest.mark.parametrize("at", [3, 6])
def test_ctrl_c_in_the_step_that_ends_an_epoch(tmp_path: Path, at: int) -> None:
    task = Toy()
    task.stop_at = at
    config = settings(tmp_path, evaluate_every=1.0)
    _, ended = train(config, task, evaluate=scored(0.1, 0.2))
    assert (ended.step, ended.interrupted) == (at, True)
    left = [0.5, 0.7] if at == 3 else [0.7]
    train(config, Toy(seed=5), evaluate=scored(*left), resume=True)
    assert evaluated(tmp_path) == [(3, 0.5 if at == 3 else 0.1), (6, 0.7)]
    assert load_card(tmp_path / "best").metrics["step"] == 6


def test_ctrl_c_while_the_best_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.write_atomically

    def write(path: Path, data: bytes) -> None:
        if path.parent.name == "best":
            raise KeyboardInterrupt
        real(path, data)

    config = settings(tmp_path, evaluate_every=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_atomically", write)
        _, ended = train(config, evaluate=scored(0.5))
    assert (ended.step, ended.interrupted) == (3, True)
    assert load_card(tmp_path / "last").metrics["best"] is None
    train(config, Toy(seed=5), evaluate=scored(0.5, 0.3), resume=True)
    assert load_card(tmp_path / "best").metrics == {"score": 0.5, "step": 3, "best": 0.5}
    assert evaluated(tmp_path) == [(3, 0.5), (6, 0.3)]


def kept_best(config: TrainConfig) -> None:
    """As a run leaves it that is killed between its first evaluation and its first save."""
    found = replace(config, precision="float32")
    card = Card("plain", {}, config=plain(found), metrics={"step": 3, "score": 0.5})
    checkpoint.save(Path(config.out) / "best", card, {"model": {}})


def test_the_best_of_a_run_that_never_saved_is_no_other_runs(tmp_path: Path) -> None:
    config = TrainConfig(out=str(tmp_path), precision="auto")
    check_out(config, resume=False)
    kept_best(config)
    with pytest.raises(MinusfaceError, match="stopped before its first save"):
        check_out(config, resume=False)


def test_torchrun_starts_again_beside_the_best_of_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(out=str(tmp_path), precision="auto")
    kept_best(config)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(MinusfaceError, match="stopped before its first save"):
        check_out(config, resume=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not restarted(config.out)
    check_out(config, resume=False)
    # After a refusal torchrun starts again, too: of another run's best that is no leave to write.
    for other in (replace(config, seed=1), replace(config, epochs=1.0)):
        with pytest.raises(MinusfaceError, match="stopped before its first save"):
            check_out(other, resume=False)
    (tmp_path / "best" / CARD).write_text("damaged")
    with pytest.raises(MinusfaceError, match="stopped before its first save"):
        check_out(config, resume=False)


def test_what_is_due_is_forgotten_without_an_evaluation(tmp_path: Path) -> None:
    config = settings(tmp_path, evaluate_every=1.0)
    train(config, evaluate=scored(None))
    train(config, Toy(seed=5), resume=True)
    assert "evaluation_due" not in load_card(tmp_path / "last").metrics


def test_thresholds_of_other_weights_go(tmp_path: Path) -> None:
    config = settings(tmp_path, evaluate_every=1.0)
    train(config, evaluate=scored(0.5, None))
    file = tmp_path / "last" / CARD
    raw = json.loads(file.read_text())
    raw["metrics"] |= {"thresholds": {"fmr_1e-1": 0.3}, "calibrated_on": "faces", "groups": {}}
    file.write_text(json.dumps(raw))
    train(config, Toy(seed=5), evaluate=scored(0.7), resume=True)
    for name in ("last", "best"):
        assert load_card(tmp_path / name).metrics == {"score": 0.7, "step": 6, "best": 0.7}
