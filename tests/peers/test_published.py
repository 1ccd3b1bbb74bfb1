"""Published protections, each against what defines it."""

from __future__ import annotations

import math

import pytest
import torch

from minusface.errors import MinusfaceError
from minusface.peers import (
    DctDp,
    DuetFace,
    InstaHide,
    LdpSlicing,
    PartialFace,
    Peep,
    PpfrFd,
    ProFace,
)
from minusface.peers.base import Carded, Fitted, Protection, Taught
from minusface.peers.catalogue import PEERS, cards
from minusface.peers.dctdp import DealtBudget, spread
from minusface.peers.duetface import Duet, face
from minusface.peers.frequency import FREQUENCIES, frequencies


def crops(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def ready(peer: Protection, size: int = 32) -> None:
    """As it would be used, but taught nothing yet."""
    if isinstance(peer, Fitted):
        peer.fit(crops(20, size))
    if isinstance(peer, Taught):
        torch.manual_seed(0)
        peer.learn(peer.pupil(crops(20, size), 8))


@pytest.mark.parametrize("name", PEERS)
def test_what_every_peer_promises(name: str) -> None:
    peer = PEERS[name]()
    before = peer.fingerprint()
    ready(peer)
    assert (peer.fingerprint() != before) == isinstance(peer, Fitted | Taught)
    found = peer.protect(crops(), seed())
    assert found.shape == (3, 3 * peer.images, 32, 32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, peer.protect(crops(), seed()))
    assert peer.fingerprint()
    assert peer.name == name
    if isinstance(peer, Carded):
        maps = 3 * 112 * 112 - (56**2 + 28**2 + 14**2) if name == "duetface" else 0
        assert peer.card.bytes_sent == 3 * peer.images * 112 * 112 - maps


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


def budgeted(shares: list[float], epsilon: float = 2.0) -> tuple[DctDp, DealtBudget]:
    """Taught shares of its 189 channels."""
    peer = DctDp(epsilon)
    pupil = peer.pupil(crops(20), 8)
    with torch.no_grad():
        pupil.channels.copy_(torch.tensor(shares).log().view(3, 63, 1, 1) / 30)
    peer.learn(pupil)
    return peer, pupil


def test_dctdp_noise_has_the_scale_of_its_budget() -> None:
    peer, _ = budgeted([1.0] * 188 + [4.0])
    assert peer.budget.mean().item() == pytest.approx(2.0, rel=1e-4)
    assert (peer.budget[2, 62] / peer.budget[0, 0]).mean().item() == pytest.approx(4.0, rel=1e-3)
    grey = torch.zeros(4, 3, 32, 32)
    found = peer.protect(grey, seed()).unflatten(1, (3, 63))
    shrunk = spread(peer.budget)
    middle = (0.5 - peer.low) / peer.reach - 0.5
    noise = (found - 0.5) / shrunk - middle
    # The mean absolute value of Laplace noise is its scale: a range of 1 over the budget.
    measured = noise.abs().mean((0, 3, 4)) * peer.budget.mean((2, 3))
    assert torch.allclose(measured, torch.ones(3, 63), rtol=0.12)
    # Its tails are Laplace's and not a Gaussian's: kurtosis 6, not 3.
    first = noise[:, :2].double()
    assert (first**4).mean() / (first**2).mean() ** 2 > 5


def test_dctdp_ranges_are_those_of_the_crops_and_hold_every_value() -> None:
    peer, _ = budgeted([1.0] * 189, 1e4)
    found = frequencies(crops(20))[:, :, 1:]
    assert torch.allclose(peer.low[..., 0, 0], found.amin((0, 3, 4)))
    assert torch.allclose((peer.low + peer.reach)[..., 0, 0], found.amax((0, 3, 4)), atol=1e-6)
    # Of so large a budget there is hardly noise: what is out of range is cut to it.
    wild = peer.protect(crops(2).sign(), seed())
    assert wild.min() > -0.01
    assert wild.max() < 1.01


class Probe(torch.nn.Module):
    """A recogniser that looks at one channel, in its first row."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 63 + 4, 0] - 0.5


def test_dctdp_deals_its_budget_to_what_tells_people_apart() -> None:
    """Where one row of one channel tells them apart, its share grows; the mean stays."""
    peer = DctDp(20.0)
    some = crops(16, 16)
    pupil = peer.pupil(some, 16)
    pupil.recognizer = Probe()  # type: ignore[assignment]
    telling = (frequencies(some)[:, 1, 5, 0] - pupil.low[1, 4]) / pupil.reach[1, 4] - 0.5
    optimizer = torch.optim.Adam([pupil.channels, pupil.places], lr=1e-3)
    for step in range(30):
        (row,) = pupil(some, seed(step))
        loss = 1 - torch.nn.functional.cosine_similarity(row, telling).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    peer.learn(pupil)
    assert peer.budget.mean().item() == pytest.approx(20.0, rel=1e-4)
    channels, rows = peer.budget.mean((2, 3)), peer.budget.mean((0, 1, 3))
    assert channels[1, 4] == channels.max()
    assert channels[1, 4] > 1.5 * channels.median()
    assert rows.argmax() == 0
    assert rows[0] > 1.2 * rows[1:].max()


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
    ready(peer)
    both = torch.cat([peer.client, peer.server])
    assert sorted(both.tolist()) == list(range(FREQUENCIES))
    found = peer.protect(crops(), seed())[:, :-3].unflatten(1, (3, 54))
    assert torch.equal(found, frequencies(crops())[:, :, peer.server])


def test_duetface_sends_where_the_client_looks_and_nothing_around_the_face() -> None:
    peer = DuetFace()
    ready(peer)
    maps = peer.protect(crops(), seed())[:, -3:]
    for level, (one, side) in enumerate(zip(maps.unbind(1), (16, 8, 4), strict=True)):
        assert one.amax((1, 2)).tolist() == [1.0] * 3, level
        inside = face(side).repeat_interleave(32 // side, 0).repeat_interleave(32 // side, 1)
        assert (one[:, inside == 0] == 0).all()
        # It depends on who is seen, and is no finer than the level.
        assert not torch.equal(one[0], one[1])
        coarse = one[:, :: 32 // side, :: 32 // side]
        assert one.unique().numel() <= coarse.unique().numel()
    # The low frequencies decide, though they stay: maps of what differs in nothing else differ.
    brighter = peer.protect(crops() + torch.linspace(-0.4, 0.4, 32), seed())[:, -3:]
    assert not torch.allclose(maps, brighter, atol=1e-2)


def test_the_server_of_duetface_sees_more_where_the_client_looks() -> None:
    torch.manual_seed(0)
    pupil = DuetFace().pupil(crops(), 8)
    assert isinstance(pupil, Duet)
    seen, served = pupil(crops(), seed())
    assert seen.shape == served.shape == (3, 8)
    served.square().sum().backward()
    # Through the maps alone, the client learns from the server's loss.
    gradient = pupil.glance.levels[0][0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("peer", [DctDp(), DuetFace()])
def test_what_was_not_taught_protects_nothing(peer: Protection) -> None:
    with pytest.raises(MinusfaceError, match="not taught"):
        peer.protect(crops(), seed())


def test_bad_settings_of_peers_are_one_line() -> None:
    with pytest.raises(MinusfaceError, match="subsets of 10"):
        PartialFace(10)
    with pytest.raises(MinusfaceError, match="64 frequencies"):
        PpfrFd(64)
    with pytest.raises(MinusfaceError, match="budget 0"):
        DctDp(0)
    with pytest.raises(MinusfaceError, match="crops of 48 pixels, taught with 32"):
        budgeted([1.0] * 189)[0].protect(crops(1, 48), seed())
    with pytest.raises(MinusfaceError, match="0 eigenfaces"):
        Peep(0)
    with pytest.raises(MinusfaceError, match="1 shares"):
        LdpSlicing(1, [1])
    with pytest.raises(MinusfaceError, match="1 images"):
        InstaHide(1)
    with pytest.raises(MinusfaceError, match="64 frequencies kept"):
        DuetFace(64)


class Fine(torch.nn.Module):
    """A recogniser of what a blur takes away: differences of neighbours in one row."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        row = images[:, 0, 8]
        return row[:, 1:] - row[:, :-1]


def test_proface_looks_like_the_blur_and_carries_what_the_blur_takes_away() -> None:
    peer, some = ProFace(), crops(8, 16)
    torch.manual_seed(0)
    pupil = peer.pupil(some, 15)
    pupil.recognizer = Fine()  # type: ignore[assignment]
    wanted = Fine()((some + 1) / 2)

    def told(rows: torch.Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(rows, wanted).mean())

    blurred = peer.obfuscation.protect(some, seed())
    optimizer = torch.optim.Adam(pupil.fusion.parameters(), lr=3e-3)
    for _ in range(60):
        (row,) = pupil(some, seed())
        assert pupil.beside is not None
        loss = 1 - torch.nn.functional.cosine_similarity(row, wanted).mean() + pupil.beside
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    peer.learn(pupil)
    found = peer.protect(some, seed())
    assert told(Fine()(found)) > told(Fine()(blurred)) + 0.3
    assert (found - blurred).abs().mean() < 0.2 * ((some + 1) / 2 - blurred).abs().mean()
    with pytest.raises(MinusfaceError, match="not taught"):
        ProFace().protect(some, seed())
