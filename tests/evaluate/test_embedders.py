"""Embedders: one pass of the generator a batch, permutations by (key, draw), the flip under the same one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from minusface.config import CodecConfig, GeneratorConfig, RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import ProtectedEmbedder, embedder_of, load_embedder
from minusface.evaluate.models import load_model
from minusface.protect import Protector, permutation_of_key
from minusface.recognize import Recognizer
from tests.products import saved, tiny_checkpoint

KEYS = ["a", "b", "c"]


@pytest.mark.parametrize("called", [None, "mine"])
def test_a_row_says_what_it_was_computed_in_whatever_it_is_called(
    tmp_path: Path, called: str | None
) -> None:
    path = tiny_checkpoint(tmp_path / "model", size=16)
    plain, narrow = (load_model(path, called, precision=p) for p in ("float32", "bfloat16"))
    assert plain.name == (called or f"{path} (stage2)")
    assert narrow.name == ("mine (bfloat16)" if called else f"{path} (stage2, bfloat16)")


def models(n_duplicate: int = 1) -> tuple[Recognizer, Protector]:
    protector = Protector(CodecConfig(size=16, ratio=4), GeneratorConfig(width=4), n_duplicate)
    return Recognizer(RecognizerConfig("ir_lite", 8), 3 * n_duplicate, 16, "protected"), protector


def images() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 16, 16), generator=random).to(torch.uint8)


def test_the_generator_runs_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, protector = models()
    calls = []
    original = Protector.residue
    monkeypatch.setattr(
        Protector, "residue", lambda self, crops: calls.append(1) or original(self, crops)
    )
    embedder, batch = ProtectedEmbedder(recognizer, protector), images()
    drawn = [embedder.embed(batch, KEYS, draw, True) for draw in range(3)]
    assert len(calls) == 2  # the images and their mirror images
    assert not torch.equal(drawn[0], drawn[1])
    for draw, found in enumerate(drawn):
        fresh = ProtectedEmbedder(recognizer, protector).embed(images(), KEYS, draw, True)
        torch.testing.assert_close(found, fresh)
    embedder.embed(images(), KEYS, 0, True)
    embedder.embed(images(), KEYS, 0, False)
    assert len(calls) == 2 + 3 * 2 + 2 + 1


@pytest.mark.parametrize("n_duplicate", [1, 2])
def test_the_mirror_image_has_the_same_permutation(n_duplicate: int) -> None:
    recognizer, protector = models(n_duplicate)
    embedder, batch = ProtectedEmbedder(recognizer, protector, seed=5), images()
    order = torch.stack(
        [permutation_of_key([f"{k}#{i}" for k in KEYS], 48, 5, 2) for i in range(n_duplicate)], 1
    )
    recognizer.eval()
    expected = torch.zeros(3, 8)
    crops = batch.float() / 127.5 - 1
    with torch.no_grad():
        for view in (crops, crops.flip(-1)):
            expected += torch.nn.functional.normalize(recognizer(protector(view, order)), dim=1)
    torch.testing.assert_close(embedder.embed(batch, KEYS, 2, True), expected, atol=1e-5, rtol=1e-4)


def test_several_images_of_one_are_summed_and_never_drawn_twice() -> None:
    recognizer, protector = models()
    several, batch = ProtectedEmbedder(recognizer, protector, copies=3), images()
    single = ProtectedEmbedder(recognizer, protector)
    for draw in (0, 1):
        alone = [single.embed(batch, KEYS, 3 * draw + copy, True) for copy in range(3)]
        assert not torch.equal(alone[0], alone[1])
        torch.testing.assert_close(several.embed(batch, KEYS, draw, True), sum(alone))


@pytest.mark.parametrize("images_each", [1, 2])
def test_of_several_tries_what_shows_least_is_embedded_mirrored_alike(images_each: int) -> None:
    recognizer, protector = models()
    recognizer.eval()
    batch, copies = images(), protector.n_duplicate
    tried = ProtectedEmbedder(recognizer, protector, seed=5, copies=images_each, tries=4)
    names = [[f"{k}#{i}" for k in KEYS] for i in range(4 * copies)]
    crops = batch.float() / 127.5 - 1
    expected = torch.zeros(3, 8)
    with torch.no_grad():
        for draw in range(2 * images_each, 3 * images_each):
            orders = torch.stack([permutation_of_key(row, 48, 5, draw) for row in names], 1)
            _, chosen = protector.choose(crops, orders.view(3, copies, 4, 48))
            for view in (crops, crops.flip(-1)):
                made = recognizer(protector(view, chosen))
                expected += torch.nn.functional.normalize(made, dim=1)
    for _ in range(2):
        found = tried.embed(batch, KEYS, 2, True)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # Other images under the same names are chosen for anew.
    other = tried.embed(batch.flip(-1), KEYS, 2, False)
    fresh = ProtectedEmbedder(recognizer, protector, seed=5, copies=images_each, tries=4)
    torch.testing.assert_close(other, fresh.embed(batch.flip(-1), KEYS, 2, False))
    assert not torch.allclose(tried.embed(batch, KEYS, 3, True), expected, atol=1e-3)
    with pytest.raises(MinusfaceError, match="tries 0: expected 1 to 64"):
        embedder_of(recognizer, protector, tries=0)


def test_no_image_of_one_is_refused() -> None:
    with pytest.raises(MinusfaceError, match="--copies 0: expected 1 or more"):
        embedder_of(*models(), copies=0)


def test_eight_bits_round() -> None:
    recognizer, protector = models()
    embedder = ProtectedEmbedder(recognizer, protector, eight_bits=True)
    with torch.no_grad():
        base = embedder.base(images().float() / 127.5 - 1)
        seen = embedder.view(base, KEYS, 0) * 255
    torch.testing.assert_close(seen, seen.round(), atol=1e-4, rtol=0)


def test_protected_needs_its_protector() -> None:
    with pytest.raises(MinusfaceError, match="needs the protector"):
        embedder_of(models()[0], None)


def test_a_recogniser_that_nothing_trained_is_refused(tmp_path: Path) -> None:
    protector = Protector(CodecConfig(size=16, ratio=4), GeneratorConfig(width=4))
    recognizer = Recognizer(RecognizerConfig("ir_lite", 8), 48, 16, "features")
    for beta in (0.0, 1.0):
        config = {"loss": {"beta": beta}}
        saved(tmp_path / f"{beta:g}", "stage1", protector, recognizer, config)
    load_embedder(tmp_path / "1")
    with pytest.raises(MinusfaceError, match=r"loss\.beta 0"):
        load_embedder(tmp_path / "0")
