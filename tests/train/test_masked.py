"""The masking ablation after training: evaluation masks, and what can only shuffle refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minusface import cli
from minusface.checkpoint import load_card
from minusface.config import EvalConfig, StageTwoConfig, StartConfig
from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import load_embedder
from minusface.evaluate.held_out import held_out
from minusface.export import export
from minusface.protect import Protector, mask_of_key
from minusface.tface.weights import to_state
from minusface.train.run import train
from minusface.train.tasks import Task
from tests.train.test_run import SIZE, draw_people, settings

CHANNELS = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """people/, stage1/, shuffle/ and mask/."""
    folder = tmp_path_factory.mktemp("runs")
    people = draw_people(folder / "people")
    train(settings(people, folder / "stage1", epochs=0.3))
    for name in ("shuffle", "mask"):
        stage2 = StageTwoConfig(permutations=2, obfuscation=name, mask_fraction=0.4)
        start = StartConfig(generator=str(folder / "stage1"))
        train(
            settings(people, folder / name, epochs=0.3, task="stage2", stage2=stage2, start=start)
        )
    return folder


def test_the_card_tells_of_masks_alone(runs: Path) -> None:
    mask, shuffle = (load_card(runs / name).model for name in ("mask", "shuffle"))
    assert (mask.pop("obfuscation"), mask.pop("mask_fraction")) == ("mask", 0.4)
    assert mask == shuffle


def test_evaluation_masks(runs: Path) -> None:
    embedder = load_embedder(runs / "mask", seed=3)
    crops = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keys = ["a", "b"]
    kept = mask_of_key([f"{key}#0" for key in keys], CHANNELS, 0.4, 3, 1)
    assert (~kept).sum(1).tolist() == [round(0.4 * CHANNELS)] * 2
    assert embedder.protector is not None
    with torch.no_grad():
        residue = embedder.base(crops)
        seen = embedder.view(residue, keys, 1)
        expected = embedder.protector.codec.decode(residue * kept[:, :, None, None])
    torch.testing.assert_close(seen, expected)
    tried = load_embedder(runs / "mask", tries=2)
    with torch.no_grad():
        assert tried.view(tried.base(crops), keys, 0).shape == crops.shape


def test_held_out_evaluation_masks(runs: Path) -> None:
    """What the run's own evaluation says is what evaluating its checkpoint says."""
    pairs = runs / "pairs.txt"
    lines = [f"person_{p}/0.png person_{q}/1.png {int(p == q)}" for p in range(4) for q in range(4)]
    pairs.write_text("\n".join(lines))
    config = settings(
        runs / "people",
        runs / "again",
        task="stage2",
        epochs=0.3,
        stage2=StageTwoConfig(obfuscation="mask", mask_fraction=0.4),
        start=StartConfig(generator=str(runs / "stage1")),
        evaluation=EvalConfig(str(pairs)),
    )
    measure = held_out(config)
    assert measure is not None
    seen: list[Task] = []

    def evaluate(task: Task) -> dict[str, float]:
        seen.append(task)
        return measure(task.recognizer, task.protector)

    found = train(config, evaluate=evaluate).metrics
    protector = seen[0].protector
    assert protector is not None
    assert protector.mask_fraction == 0.4
    loaded = load_embedder(config.out)
    assert measure(loaded.recognizer, loaded.protector) == found
    # And a run that shuffles starts from its generator alike.
    shuffling = replace(
        config,
        out=str(runs / "after"),
        stage2=StageTwoConfig(),
        start=StartConfig(generator=config.out),
    )
    assert train(shuffling).step == 1
    assert "obfuscation" not in load_card(shuffling.out).model


def test_what_shuffles_refuses(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masked = str(runs / "mask")
    for call in (
        lambda: Protector.load(masked),
        lambda: export(masked, tmp_path / "export"),
        lambda: to_state(masked),
    ):
        with pytest.raises(MinusfaceError) as caught:
            call()
        assert str(caught.value).startswith(masked)
        assert "\n" not in str(caught.value)
    crop = str(runs / "people" / "person_0" / "0.png")
    code = cli.main(["protect", crop, "--out", str(tmp_path / "out"), "--checkpoint", masked])
    assert code == 2
    assert "trained on masked channels" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_packed_it_still_masks(runs: Path, tmp_path: Path) -> None:
    assert cli.main(["pack", str(runs / "mask"), "--out", str(tmp_path / "small")]) == 0
    embedder = load_embedder(tmp_path / "small")
    assert embedder.protector is not None
    assert embedder.protector.mask_fraction == 0.4
