"""How much an audit spends: three named budgets."""

from __future__ import annotations

from dataclasses import dataclass, field

from minusface.audit.attack import Fit
from minusface.errors import choice_error


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
    """How many draws of each training photo are made; None draws anew for every batch, which costs the
    generator's time each time."""
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
    decoder: Fit = field(default_factory=lambda: Fit(steps=240, validate_every=40))


MEDIUM = Budget(
    name="medium",
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
)

PAPER = Budget(
    name="paper",
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
)

BUDGETS = {budget.name: budget for budget in (Budget(), MEDIUM, PAPER)}


def budget_of(name: str) -> Budget:
    """A budget by name.

    Raises:
        MinusfaceError: an unknown name.
    """
    if name not in BUDGETS:
        raise choice_error("budget", name, BUDGETS)
    return BUDGETS[name]
