"""Who may judge whether a rebuilt face is the person."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface.audit.attack import Fit
from minusface.audit.ruler import Ruler, _disorder, load_ruler, train_ruler
from minusface.audit.scene import Photos, Scene, _several, open_scene
from minusface.checkpoint import load_card
from minusface.errors import MinusfaceError


def test_packaged_weights_are_found_by_name_and_are_no_judge() -> None:
    with pytest.raises(MinusfaceError, match="default: recognises protected images"):
        load_ruler("default", torch.device("cpu"))


def trained(scene: Scene, fit: Fit, folder: Path | None = None) -> Ruler:
    with torch.random.fork_rng(devices=[]):
        return train_ruler(
            scene,
            fit,
            folder,
            size=32,
            seed=0,
            device=torch.device("cpu"),
            precision="float32",
        )


def weights(ruler: Ruler) -> Tensor:
    assert ruler.recognizer is not None
    return torch.cat([value.flatten().float() for value in ruler.recognizer.state_dict().values()])


def test_it_is_chosen_by_several_photos_of_a_person(tmp_path: Path) -> None:
    """Of a few photos drawn at random hardly two are of one person, and none told it worse or better."""
    scene = open_scene("synthetic:40x6", 32, train_images=60, validation_images=5, pairs=6, seed=0)
    assert len(set(scene.validation.labels.tolist())) == len(scene.validation)
    assert scene.paired is not None
    assert len(scene.paired) >= 5
    counts = Counter(scene.paired.labels.tolist())
    assert len(counts) >= 2
    assert min(counts.values()) >= 2
    others = {*scene.train.keys, *scene.test.keys}
    assert not others & set(scene.paired.keys)
    assert not set(counts) & set(scene.train.labels.tolist())
    ruler = trained(scene, Fit(steps=8, batch_size=8, validate_every=1, patience=8), tmp_path / "r")
    (folder,) = tmp_path.iterdir()
    losses = [point["loss"] for point in load_card(folder).metrics["points"]]
    assert len(set(losses)) > 1
    assert all(0 <= loss <= 1 for loss in losses)
    assert "last ones" not in ruler.words
    # What was learned with other photos to choose by is another judge, kept elsewhere.
    other = trained(replace(scene, paired=None), Fit(steps=1, validate_every=1), tmp_path / "r")
    assert other.fingerprint != ruler.fingerprint
    assert len(list(tmp_path.iterdir())) == 2


def test_without_two_photos_of_a_person_the_last_weights_are_kept() -> None:
    scene = open_scene("synthetic:40x6", 32, train_images=60, validation_images=5, pairs=6, seed=0)
    scene = replace(scene, paired=None)
    often = trained(scene, Fit(steps=6, batch_size=8, validate_every=1, patience=2))
    once = trained(scene, Fit(steps=6, batch_size=8, validate_every=6))
    assert torch.equal(weights(often), weights(once))
    assert often.words.endswith("they are the last ones")


def test_pairs_in_the_wrong_order_are_counted() -> None:
    """By hand: of two people two photos each, one genuine pair is below two of the four others."""

    class Known(torch.nn.Module):
        def forward(self, crops: Tensor) -> Tensor:
            angle = crops[:, 0, 0, 0] * torch.pi / 2
            return torch.stack([angle.cos(), angle.sin()], 1)

    # In the photos' first value, as angles: person 0 at 0 and 60 degrees, person 1 at 50 and 90.
    bytes_of = [round((degrees / 90 + 1) * 127.5) for degrees in (0, 60, 50, 90)]
    photos = Photos(
        lambda place: np.full((2, 2, 3), bytes_of[place], np.uint8), list("abcd"), [0, 0, 1, 1]
    )
    # Genuine: 60 and 40 degrees apart; of two people: 50, 90, 10 and 30.
    found = _disorder(Known(), photos, torch.device("cpu"))  # type: ignore[arg-type]
    assert found == pytest.approx((3 + 2) / 8)


def test_photos_of_one_are_looked_for_among_whom_the_attacker_lacks() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 4])
    order = np.arange(10)
    # 1 and 2 are strangers with two photos each; 3 has one only, 4 is known.
    assert _several(labels, order, np.array([0, 9]), 9) == [3, 4, 5, 6]
    # Two people are needed, whatever was asked for; nobody beyond is.
    assert _several(labels, order, np.array([7]), 2) == [0, 1, 2, 3, 4]
    # Where only one stranger has two, and where all are known: photos that the attacker lacks.
    assert _several(labels[:7], order[:7], np.array([0, 3]), 9) == [1, 2, 5, 6]
    more = np.array([0, 0, 0, 1, 1, 1])
    assert _several(more, order[:6], np.array([0, 3]), 9) == [1, 2, 4, 5]
    # Nobody has two, or one person alone.
    assert _several(labels, order, np.array([0, 3, 5, 7, 8]), 9) == []
    assert _several(labels, order, np.array([1, 3, 5, 8]), 9) == []
