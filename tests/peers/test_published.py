"""Published protections, each against what defines it."""

from __future__ import annotations

import math

import pytest
import torch

from minusface.errors import MinusfaceError
from minusface.peers import DctDp, DuetFace, InstaHide, LdpSlicing, PartialFace, Peep, PpfrFd
from minusface.peers.base import Carded, Fitted
from minusface.peers.catalogue import PEERS, cards
from minusface.peers.frequency import FREQUENCIES, frequencies


def crops(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("name", PEERS)
def test_what_every_peer_promises(name: str) -> None:
    peer = PEERS[name]()
    if isinstance(peer, Fitted):
        peer.fit(crops(20))
    found = peer.protect(crops(), seed())
    assert found.shape == (3, 3 * peer.images, 32, 32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, peer.protect(crops(), seed()))
    assert peer.fingerprint()
    assert peer.name == name
    if isinstance(peer, Carded):
        assert peer.card.bytes_sent == 3 * peer.images * 112 * 112


def test_cards_name_every_peer() -> None:
    said = cards()
    assert all(f"{name}\n" in said for name in PEERS)


def test_frequencies_fit_their_range() -> None:
    extreme = crops().sign()
    found = frequencies(extreme)
    assert found.shape == (3, 3, FREQUENCIES, 32, 32)
    assert found.min() > 0
    assert found.max() < 1
    # A flat crop has DC alone.
    flat = frequencies(torch.full((1, 3, 32, 32), 0.7))
    assert torch.allclose(flat[:, :, 1:], torch.tensor(0.5), atol=1e-3)
    assert flat[0, 0, 0].mean() > 0.6


def test_partialface_deals_every_high_frequency_once_a_rank() -> None:
    peer = PartialFace()
    assert peer.subsets.shape == (18, 9)
    for rank in peer.subsets.view(3, 54):
        assert len(set(rank.tolist())) == 54
    assert not set(peer.subsets.flatten().tolist()) & {0, 1, 8, 2, 16}
    drawn = torch.bincount(peer.draw(18_000, seed()), minlength=18)
    assert (drawn - 1000).abs().max() < 150


def test_partialface_sends_what_it_drew() -> None:
    peer = PartialFace()
    subset = peer.subsets[peer.draw(3, seed())]
    expected = frequencies(crops())
    found = peer.protect(crops(), seed()).unflatten(1, (3, 9))
    for number in range(3):
        assert torch.equal(found[number], expected[number][:, subset[number]])


def test_ppfr_fd_says_nothing_of_brightness_and_contrast() -> None:
    peer = PpfrFd()
    assert 0 not in peer.kept.tolist()
    found = peer.protect(crops() * 0.5, seed())
    brighter = peer.protect(crops() * 0.5 + 0.3, seed())
    assert torch.allclose(found, brighter, atol=0.02)
    assert torch.allclose(found.mean((2, 3)), torch.tensor(0.5), atol=0.01)


def test_dctdp_noise_has_the_scale_of_its_budget() -> None:
    shares = [1.0] * 62 + [4.0]
    peer = DctDp(2.0, shares)
    assert peer.budget.mean() == pytest.approx(2.0)
    grey = torch.zeros(4, 3, 32, 32)
    found = peer.protect(grey, seed()).unflatten(1, (3, 63))
    noise = (found - 0.5) / peer.spread()[:, None, None]
    # The mean absolute value of Laplace noise is its scale.
    measured = noise.abs().mean((0, 1, 3, 4))
    assert torch.allclose(measured * peer.budget, torch.ones(63), rtol=0.06)
    # Its tails are Laplace's and not a Gaussian's: kurtosis 6, not 3.
    first = noise[:, :, :62].double()
    assert (first**4).mean() / (first**2).mean() ** 2 > 5


def test_peep_sends_eigenfaces_with_noise_of_the_budget() -> None:
    peer = Peep(4, 2.0)
    with pytest.raises(MinusfaceError, match="not fitted"):
        peer.protect(crops(), seed())
    peer.fit(crops(20, 16) * 0.1)
    gram = peer.basis_kp @ peer.basis_kp.T
    assert torch.allclose(gram, torch.eye(4), atol=1e-4)
    same = (crops(1, 16) * 0.1).expand(4000, -1, -1, -1)
    found = peer.protect(same, seed()) * 2 - 1
    assert peer.mean_p is not None
    noise = (found.flatten(1) - peer.mean_p) @ peer.basis_kp.T - peer.weights(same)
    scale = (peer.high_k - peer.low_k) / 2.0
    assert torch.allclose(noise.abs().mean(0) / scale, torch.ones(4), rtol=0.1)


def test_ldp_slicing_keeps_its_budget_by_count() -> None:
    peer = LdpSlicing(8.0, [4, 2, 1, 1, 1, 1, 1, 1])
    assert sum(peer.budget) == pytest.approx(8.0)
    before = ((crops(8, 64) + 1) * 127.5).round().long()
    after = (peer.protect(crops(8, 64), seed()) * 255).round().long()
    for plane, epsilon in enumerate(peer.budget):
        flipped = ((before ^ after) >> (7 - plane) & 1).float().mean().item()
        assert math.log((1 - flipped) / flipped) == pytest.approx(epsilon, abs=0.05)


def test_instahide_weights_and_signs() -> None:
    peer = InstaHide()
    rows = peer.weights(5000, seed())
    assert torch.allclose(rows.sum(1), torch.ones(5000), atol=1e-5)
    assert rows.min() >= 0
    assert rows.max() <= 0.65 + 1e-6
    peer.fit(crops(20))
    mixed = peer.mix(crops(), seed())
    found = peer.protect(crops(), seed()) * 2 - 1
    assert torch.allclose(found.abs(), mixed.abs(), atol=1e-5)
    assert (found.sign() == mixed.sign()).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_duetface_splits_every_frequency_between_the_two() -> None:
    peer = DuetFace()
    both = torch.cat([peer.client, peer.server])
    assert sorted(both.tolist()) == list(range(FREQUENCIES))
    found = peer.protect(crops(), seed()).unflatten(1, (3, 54))
    assert torch.equal(found, frequencies(crops())[:, :, peer.server])


def test_bad_settings_of_peers_are_one_line() -> None:
    with pytest.raises(MinusfaceError, match="subsets of 10"):
        PartialFace(10)
    with pytest.raises(MinusfaceError, match="64 frequencies"):
        PpfrFd(64)
    with pytest.raises(MinusfaceError, match="budget 0"):
        DctDp(0)
    with pytest.raises(MinusfaceError, match="2 shares"):
        DctDp(1, [1, 2])
    with pytest.raises(MinusfaceError, match="0 eigenfaces"):
        Peep(0)
    with pytest.raises(MinusfaceError, match="1 shares"):
        LdpSlicing(1, [1])
    with pytest.raises(MinusfaceError, match="1 images"):
        InstaHide(1)
    with pytest.raises(MinusfaceError, match="64 frequencies kept"):
        DuetFace(64)
