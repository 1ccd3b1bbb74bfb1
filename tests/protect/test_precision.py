"""A protector whose generator computes in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minusface import packed
from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.protect import Protector, draw_permutation
from minusface.protect.generator import start_lively


def made() -> Protector:
    """One that subtracts something worth to be seen."""
    protector = Protector(CodecConfig(size=32, ratio=4), GeneratorConfig(width=8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start_lively(protector.generator)
        torch.nn.init.normal_(protector.generator.project.weight, std=0.1)
    return protector.eval().requires_grad_(False)


def crops(count: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 32, 32, generator=random) * 2 - 1


ORDER = draw_permutation(3, 48, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("packs", [True, False])
def test_images_and_residues_are_nearly_the_same(
    packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, and by autocast where nothing can be packed."""
    if not packs:
        monkeypatch.setattr(packed, "usable", lambda x, narrow=False: False)
    protector = made()
    with torch.no_grad():
        exact, residue = protector(crops(), ORDER), protector.residue(crops())
        bare = protector.codec.encode(crops())
        protector.precision = "bfloat16"
        found, narrow = protector(crops(), ORDER), protector.residue(crops())
        again = protector(crops(), ORDER)
    assert torch.equal(found, again)
    assert found.dtype == narrow.dtype == torch.float32
    assert not torch.equal(found, exact)
    # What is regenerated is what may be rounded: a hundredth of it, on average a thousandth.
    scale = float((bare - residue).abs().max())
    assert 0 < float((narrow - residue).abs().max()) < 0.02 * scale
    assert float((found - exact).abs().mean()) < 2e-3


def test_a_precision_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Protector.load().precision == "float32"
    assert Protector.load(precision="bfloat16").precision == "bfloat16"
    for able in (True, False):
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, probe, lambda able=able: able, raising=False)
        expected = "bfloat16" if able else "float32"
        assert Protector.load(precision="auto").precision == expected
    with pytest.raises(MinusfaceError, match="unknown precision 'float16'"):
        Protector.load(precision="float16")  # type: ignore[arg-type]


def test_training_is_not_concerned() -> None:
    """It has a precision of its own, by autocast."""
    protector = made()
    protector.generator.requires_grad_(True)
    exact = protector(crops(), ORDER)
    protector.precision = "bfloat16"
    assert torch.equal(protector(crops(), ORDER), exact)
    protector.train()
    with torch.no_grad():
        assert torch.allclose(protector(crops(), ORDER), exact, atol=1e-5)
