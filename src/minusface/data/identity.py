"""Who a synthetic person is, and how one picture of them differs from the next.

Lengths are pixels of the 112 x 112 crop, measured from the middle between the eyes: x to the right, y
down, z towards the viewer. Colours are RGB, 0 to 255. Angles are radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKINS = ((248, 220, 200), (233, 192, 160), (208, 155, 115), (158, 106, 72), (100, 66, 46))
HAIRS = (
    (26, 22, 22),
    (58, 38, 28),
    (104, 70, 44),
    (205, 170, 108),
    (150, 72, 36),
    (148, 146, 144),
    (222, 220, 214),
)
IRISES = (
    (62, 38, 22),
    (100, 66, 34),
    (122, 112, 52),
    (78, 118, 82),
    (86, 128, 168),
    (120, 132, 140),
)
FRAMES = ((24, 22, 24), (96, 52, 30), (150, 150, 156), (140, 30, 40), (34, 60, 120))
STYLES = ("bald", "receding", "short", "parted_left", "parted_right", "fringe", "long", "curly")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")


@dataclass(frozen=True)
class Mark:
    """A mole (round, dark) or a scar (a light line)."""

    x: float
    y: float
    size: float
    """Radius of a mole, half length of a scar."""
    angle: float
    """Direction of a scar."""
    scar: bool


@dataclass(frozen=True)
class Identity:
    """What stays the same in every picture of a person."""

    temple: float
    """Half width of the head beside the eyes."""
    cheek: float
    """Half width at the cheekbones."""
    jaw: float
    """Half width at the corners of the mouth."""
    chin_width: float
    chin: float
    """y of the chin."""
    eye_half: float
    """Half the distance between the eyes."""
    eye_width: float
    eye_height: float
    eye_tilt: float
    lid: float
    """How far the crease lies above the eye."""
    iris: float
    iris_colour: Colour
    brow_gap: float
    brow_thickness: float
    brow_length: float
    brow_arch: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    nose_depth: float
    bridge: float
    mouth_drop: float
    """y of the mouth."""
    mouth_half: float
    upper_lip: float
    lower_lip: float
    mouth_curve: float
    socket: float
    """Depth of the eye sockets, 0 to 1."""
    cheekbone: float
    """Prominence of the cheekbones, 0 to 1."""
    age: float
    """Depth of the lines of age, 0 to 1."""
    ear: float
    skin: Colour
    lips: Colour
    hair_colour: Colour
    hair: str
    """One of STYLES."""
    hairline: float
    """y of the hairline, negative."""
    beard: str
    """One of BEARDS."""
    glasses: str
    """none, round or square."""
    frame: Colour
    freckles: tuple[tuple[float, float, float], ...]
    """(x, y, radius) each."""
    marks: tuple[Mark, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Identity:
        """A person at random."""

        def between(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        def one_of(names: tuple[str, ...], weights: tuple[float, ...]) -> str:
            return names[int(rng.choice(len(names), p=np.asarray(weights) / sum(weights)))]

        skin = _blend(SKINS, rng, along=True)
        reddish = np.asarray(skin) * (0.86, 0.62, 0.62) + (18, 2, 8)
        cheek = between(37, 46)
        return cls(
            temple=cheek + between(-3, 2.5),
            cheek=cheek,
            jaw=cheek - between(2, 13),
            chin_width=between(8, 19),
            chin=between(57, 70),
            eye_half=between(15.8, 19.4),
            eye_width=between(5.2, 8.4),
            eye_height=between(2.2, 4.4),
            eye_tilt=between(-0.22, 0.22),
            lid=between(0.6, 3.2),
            iris=between(2.5, 3.5),
            iris_colour=_blend(IRISES, rng),
            brow_gap=between(6.5, 12),
            brow_thickness=between(0.8, 3.4),
            brow_length=between(7.5, 12),
            brow_arch=between(0, 3.6),
            brow_tilt=between(-0.22, 0.22),
            nose_length=between(16, 25),
            nose_width=between(5, 10.5),
            nose_depth=between(7, 15),
            bridge=between(1.8, 4.5),
            mouth_drop=between(36, 44),
            mouth_half=between(10.5, 17),
            upper_lip=between(1.0, 3.6),
            lower_lip=between(1.6, 4.8),
            mouth_curve=between(-1.8, 1.8),
            socket=between(0, 1),
            cheekbone=between(0, 1),
            age=between(0, 1) ** 2,
            ear=between(0.7, 1.3),
            skin=skin,
            lips=_colour(reddish + rng.uniform(-14, 14, 3)),
            hair_colour=_blend(HAIRS, rng),
            hair=one_of(STYLES, (1, 1, 2, 1.5, 1.5, 2, 2, 1.5)),
            hairline=between(-45, -30),
            beard=one_of(BEARDS, (12, 2, 2, 1.5, 2.5)),
            glasses=one_of(("none", "round", "square"), (8, 1, 1)),
            frame=_colour(FRAMES[int(rng.integers(len(FRAMES)))]),
            freckles=_freckles(rng),
            marks=tuple(_mark(rng) for _ in range(int(rng.integers(0, 4)))),
        )


@dataclass(frozen=True)
class Look:
    """What changes from picture to picture; the defaults are a passport photo."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    """What is left of it after alignment."""
    shift: tuple[float, float] = (0.0, 0.0)
    zoom: float = 1.0
    smile: float = 0.0
    """-1 to 1."""
    mouth_open: float = 0.0
    """0 to 1."""
    brow_raise: float = 0.0
    """-1 to 1."""
    eye_open: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)
    light: tuple[float, float] = (0.0, 0.0)
    """Where it comes from, right and down, times its strength."""
    exposure: float = 1.0
    cast: Colour = (1.0, 1.0, 1.0)
    """Gain of red, green and blue."""
    contrast: float = 1.0
    background: Colour = (128.0, 132.0, 140.0)
    blur: float = 0.0
    """Standard deviation in pixels."""
    noise: float = 0.0
    """Half width of uniform noise, in grey levels."""
    occlusion: tuple[float, float, float, float] | None = None
    """x, y, radius, angle of something held before the face."""
    occluder: Colour = (90.0, 90.0, 90.0)
    seed: int = 0
    """Seed of the noise."""

    @classmethod
    def draw(cls, rng: np.random.Generator, strength: float = 1.0) -> Look:
        """A picture at random; ``strength`` 0 gives passport photos, 1 photos in the wild."""

        def spread(sigma: float, limit: float) -> float:
            return float(np.clip(rng.normal(0, sigma), -limit, limit)) * strength

        direction = rng.uniform(0, 2 * np.pi)
        power = strength * rng.uniform(0.0, 0.6)
        hidden = rng.random() < 0.15 * strength
        side = rng.uniform(0, 2 * np.pi)
        warmth, tint = spread(0.1, 0.22), spread(0.04, 0.1)
        return cls(
            yaw=spread(0.28, 0.62),
            pitch=spread(0.16, 0.36),
            roll=spread(0.04, 0.1),
            shift=(spread(1.3, 3), spread(1.3, 3)),
            zoom=1 + spread(0.03, 0.07),
            smile=spread(0.6, 1),
            mouth_open=max(0.0, spread(0.45, 1)),
            brow_raise=spread(0.5, 1),
            eye_open=1 + spread(0.2, 0.6),
            gaze=(spread(0.8, 2), spread(0.4, 1)),
            light=(float(np.cos(direction) * power), float(np.sin(direction) * power)),
            exposure=float(np.exp(min(spread(0.28, 0.6), 0.25))),
            cast=(1 + warmth, 1 + tint, 1 - warmth),
            contrast=1 + spread(0.18, 0.4),
            background=_colour(rng.uniform(20, 235, 3)),
            blur=abs(spread(0.5, 1.3)),
            noise=abs(spread(7, 18)),
            occlusion=(
                float(56 + 48 * np.cos(side)),
                float(60 + 48 * np.sin(side)),
                float(rng.uniform(14, 27)),
                float(rng.uniform(0, np.pi)),
            )
            if hidden
            else None,
            occluder=_colour(rng.uniform(20, 220, 3)),
            seed=int(rng.integers(2**32)),
        )


def _colour(values: object) -> Colour:
    red, green, blue = np.clip(np.asarray(values, np.float64), 0, 255).tolist()
    return (red, green, blue)


def _blend(palette: tuple[Colour, ...], rng: np.random.Generator, along: bool = False) -> Colour:
    """A colour between two of a palette: neighbours when it runs ``along`` one, else any."""
    colours = np.asarray(palette, np.float64)
    first = int(rng.integers(len(colours) - 1)) if along else int(rng.integers(len(colours)))
    second = first + 1 if along else int(rng.integers(len(colours)))
    share = rng.uniform(0, 1 if along else 0.4)
    mixed = colours[first] * (1 - share) + colours[second] * share
    return _colour(mixed * rng.uniform(0.94, 1.06) + rng.uniform(-7, 7, 3))


def _freckles(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    count = int(rng.integers(12, 36)) if rng.random() < 0.2 else 0
    x = rng.normal(0, 15, count)
    y = rng.normal(17, 5, count)
    radius = rng.uniform(0.35, 0.8, count)
    return tuple(zip(x.tolist(), y.tolist(), radius.tolist(), strict=True))


def _mark(rng: np.random.Generator) -> Mark:
    scar = rng.random() < 0.25
    return Mark(
        x=float(rng.uniform(-32, 32)),
        y=float(rng.uniform(-26, 50)),
        size=float(rng.uniform(4, 8) if scar else rng.uniform(0.7, 1.7)),
        angle=float(rng.uniform(0, np.pi)),
        scar=bool(scar),
    )
