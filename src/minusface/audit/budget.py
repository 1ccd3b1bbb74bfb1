"""How much an audit spends: three named budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from minusface.audit.attack import Fit
from minusface.errors import MinusfaceError, choice_error


@dataclass(frozen=True)
class Budget:
    """What every attacker gets; the same for all protections, so that they can be compared."""

    name: str = "small"
    train_images: int | None = 1024
    """Photos the attacker has and may have protected; None takes all there are."""
    validation_images: int = 64
    pairs: int = 200
    """Test pairs, half of one person and half of two."""
    views: int | None = 4
    """How many draws of each training photo are made, an epoch each, before they come again; a few at a time
    are kept. None draws anew for every batch, which costs the generator's time each time."""
    width: int = 12
    """Of the recovery U-Net; the paper's has 64."""
    recovery: Fit = field(default_factory=lambda: Fit(steps=256))
    averages: tuple[int, ...] = (1, 4, 16, 64, 256)
    """How many protected images of a photo are averaged."""
    averaging_images: int = 256
    averaging_pairs: int = 60
    averaging: Fit = field(default_factory=lambda: Fit(steps=160, validate_every=40))
    linkage: Fit = field(default_factory=lambda: Fit(steps=128, lr=1e-3, validate_every=32))
    linkage_images: tuple[int | None, ...] = (100, 1000, None)
    linkage_backbones: tuple[str, ...] = ("ir_lite",)
    """Of the students; the judge's own backbone takes the place of the first where it is not among them."""
    ruler: Fit = field(default_factory=lambda: Fit(steps=300, batch_size=32, validate_every=60))
    """Training of the independent recogniser where none is given."""
    similar: int = 64
    """Images that SSIM and PSNR are means over."""
    detect: int = 40
    """Images that the face detector looks at."""
    inversion_images: int = 2
    inversion_steps: int = 120
    attribute_images: int = 320
    attributes: Fit = field(default_factory=lambda: Fit(steps=200, validate_every=25))
    attribute_views: int = field(default=2, metadata={"later": True})
    """As ``views``, of the photos that attributes are learned on."""
    decoder: Fit = field(default_factory=lambda: Fit(steps=240, validate_every=40))
    lessons: Fit = field(default_factory=lambda: Fit(steps=128, lr=1e-3, validate_every=32))
    """Training of peers that learn what they protect with."""
    thorough: bool = False
    """Recovery also from re-encoded images, and of the residue."""


MEDIUM = Budget(
    name="medium",
    thorough=True,
    train_images=9000,
    validation_images=256,
    pairs=1000,
    views=None,
    width=32,
    recovery=Fit(steps=6000, validate_every=300),
    averaging_images=2000,
    averaging_pairs=200,
    averaging=Fit(steps=1500, validate_every=150),
    linkage=Fit(steps=3000, batch_size=32, lr=1e-3, validate_every=200),
    linkage_backbones=("ir_lite", "mobilefacenet"),
    ruler=Fit(steps=4000, batch_size=64, validate_every=250),
    similar=500,
    detect=200,
    inversion_images=8,
    inversion_steps=600,
    attribute_images=2000,
    attributes=Fit(steps=2000, validate_every=100),
    decoder=Fit(steps=4000, batch_size=32, validate_every=200),
    lessons=Fit(steps=3000, batch_size=32, lr=1e-3, validate_every=200),
)

PAPER = Budget(
    name="paper",
    thorough=True,
    train_images=None,
    validation_images=1000,
    pairs=6000,
    views=None,
    width=64,
    # Batch and rate are the paper's; its 1.3 million images make 20,000 steps an epoch.
    recovery=Fit(steps=200_000, batch_size=64, lr=1e-3, validate_every=2000, patience=10),
    averaging_images=20_000,
    averaging_pairs=1000,
    averaging=Fit(steps=20_000, batch_size=64, lr=1e-3, validate_every=1000),
    linkage=Fit(steps=60_000, batch_size=128, lr=1e-3, validate_every=2000),
    linkage_backbones=("ir_18", "mobilefacenet"),
    ruler=Fit(steps=100_000, batch_size=256, validate_every=2000),
    similar=2000,
    detect=1000,
    inversion_images=32,
    inversion_steps=3000,
    attribute_images=20_000,
    attributes=Fit(steps=10_000, batch_size=64, validate_every=500),
    decoder=Fit(steps=60_000, batch_size=64, validate_every=2000),
    lessons=Fit(steps=60_000, batch_size=128, lr=1e-3, validate_every=2000),
)

BUDGETS = {budget.name: budget for budget in (Budget(), MEDIUM, PAPER)}


# What `longer` stretches: attackers, not the recogniser that judges them.
ATTACKERS = ("recovery", "averaging", "linkage", "attributes", "decoder")


def budget_of(name: str, longer: float = 1.0, photos: int | None = None) -> Budget:
    """A budget by name, or one made of it.

    Args:
        name: small, medium or paper.
        longer: times its steps, for every attacker that learns; they look at their validation split as often,
            and see as many times the draws of a photo, where these are counted.
        photos: the attacker's, in the place of the budget's own.

    Raises:
        MinusfaceError: an unknown name, or a number that makes no budget.
    """
    if name not in BUDGETS:
        raise choice_error("budget", name, BUDGETS)
    if not 0 < longer < float("inf"):
        raise MinusfaceError(f"--longer {longer:g}: expected a number above 0")
    if photos is not None and photos < 1:
        raise MinusfaceError(f"--photos {photos}: expected 1 or more")
    budget = BUDGETS[name]
    if longer != 1:
        fits: dict[str, Any] = {
            kind: _stretched(getattr(budget, kind), longer) for kind in ATTACKERS
        }
        # Of draws that come again and again a longer attacker would learn the draws.
        times = math.ceil(longer)
        budget = replace(
            budget,
            name=f"{budget.name}, {longer:g} times as long",
            views=None if budget.views is None else times * budget.views,
            attribute_views=times * budget.attribute_views,
            **fits,
        )
    if photos is not None:
        budget = replace(budget, name=f"{budget.name}, {photos} photos", train_images=photos)
    return budget


def _stretched(fit: Fit, by: float) -> Fit:
    """Of so many times the steps."""
    every = max(1, round(fit.validate_every * by))
    return replace(fit, steps=max(1, round(fit.steps * by)), validate_every=every)
