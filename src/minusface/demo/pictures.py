"""The pictures of the report: one photo on its way to three protected images.

Legend: H, W photo pixels, N side of a crop, F channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minusface.demo.photo import Portrait
from minusface.protect import Protector, permutation_of_key
from minusface.recognize.unmix import outlines
from minusface.runtime import CLIENT_TRIES
from minusface.types import FaceCrop, ProtectedImage, UInt8

LONGEST = 480  # side of the photo in the report, pixels
PERMUTATIONS = 3
# The part of an outline picture that is not shown as white.
BRIGHT = 0.98
GREEN = (72, 199, 116)


@dataclass(frozen=True, eq=False)
class Pictures:
    """RGB bytes, each (N, N, 3) but the photo; captions are the report's."""

    photo: UInt8
    crop: UInt8
    regenerated: UInt8
    residue: UInt8
    protected: list[UInt8]
    stretched: list[UInt8]
    """The protected images with every colour standardised, as the recogniser first does."""
    outlined: list[UInt8]
    """What no permutation changes in them, as white outlines: anybody can look at that."""
    residue_levels: float
    """Standard deviation of the decoded residue, in grey levels."""
    contours: float
    """Correlation of edges in the crop with edges in its protected images, mean of the three."""
    outlines: float
    """The same, of the outlines that no permutation changes."""
    images: ProtectedImage
    """The protected images as floats, (3, 3n, N, N)."""

    def files(self) -> dict[str, UInt8]:
        """By the name of the file they are written to."""
        named = {
            "photo": self.photo,
            "crop": self.crop,
            "regenerated": self.regenerated,
            "residue": self.residue,
        }
        named |= {f"protected-{i + 1}": image for i, image in enumerate(self.protected)}
        named |= {f"stretched-{i + 1}": image for i, image in enumerate(self.stretched)}
        return named | {f"outlined-{i + 1}": image for i, image in enumerate(self.outlined)}


@torch.inference_mode()
def make_pictures(portrait: Portrait, protector: Protector, seed: int) -> Pictures:
    """Everything between a photo and its protected images.

    Args:
        portrait: the photo, the face's box and crop.
        protector: of n copies an image; the first copy is shown.
        seed: of the permutations: three times as many as a client tries, and of each lot what it would send.
    """
    crop = FaceCrop.from_uint8(portrait.crop)
    protector.eval()
    made = protector.subtract(crop.pixels)
    decode = protector.codec.decode
    residue = decode(made.residue)
    tried = protector.n_duplicate * CLIENT_TRIES
    count = PERMUTATIONS * tried
    keys = [f"demo photo {number}" for number in range(count)]
    orders = permutation_of_key(keys, protector.codec.channels, seed)
    many = FaceCrop(crop.pixels.expand(PERMUTATIONS, -1, -1, -1))
    images = protector.protect(many, orders.view(PERMUTATIONS, tried, -1), tries=CLIENT_TRIES)
    first = ProtectedImage(images.pixels[:, :3].contiguous())
    return Pictures(
        photo=boxed(portrait.photo, portrait.box),
        crop=portrait.crop,
        regenerated=ProtectedImage(decode(made.regenerated).clamp(0, 1)).to_uint8()[0],
        residue=ProtectedImage(residue).to_uint8()[0],
        protected=list(first.to_uint8()),
        stretched=[stretch(image) for image in first.pixels.numpy()],
        outlined=list(ProtectedImage(white_outlines(first.pixels)).to_uint8()),
        residue_levels=float((residue * 255).std()),
        contours=float(np.mean([same_edges(portrait.crop, image) for image in first.to_uint8()])),
        outlines=float(
            np.mean(
                [
                    correlation(edges(portrait.crop), found.numpy())
                    for found in outlines(first.pixels)
                ]
            )
        ),
        images=images,
    )


def boxed(photo: UInt8, box: Sequence[float]) -> UInt8:
    """The photo, no side longer than the report wants, with the face's box drawn."""
    scale = min(1.0, LONGEST / max(photo.shape[:2]))
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = (round(side * scale) for side in box)
    thickness = max(2, round(max(size) / 160))
    return np.asarray(
        cv2.rectangle(small, (left, top), (right, bottom), GREEN, thickness), np.uint8
    )


def stretch(image: npt.NDArray[np.float32]) -> UInt8:
    """(3, N, N) floats with each colour at mean 0.5 and standard deviation 0.25, as bytes (N, N, 3)."""
    centred = image - image.mean((1, 2), keepdims=True)
    unit = centred / np.maximum(image.std((1, 2), keepdims=True), 1e-4)
    whole = np.clip(0.5 + 0.25 * unit, 0, 1) * 255
    return np.ascontiguousarray(np.rint(whole).astype(np.uint8).transpose(1, 2, 0))


def white_outlines(images: Tensor) -> Tensor:
    """What no shuffle changes in images (B, 3, N, N), to be looked at: the same, in [0, 1]."""
    maps_bnn = outlines(images)
    brightest = maps_bnn.flatten(1).quantile(BRIGHT, dim=1)[:, None, None].clamp_min(1e-6)
    return (maps_bnn / brightest).clamp(0, 1)[:, None].expand(-1, 3, -1, -1)


def same_edges(a: UInt8, b: UInt8) -> float:
    """Correlation of where two images (N, N, 3) have edges, whatever the colours; 0 where one has none."""
    return correlation(edges(a), edges(b))


def correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Of two maps of the same size; 0 where one is flat."""
    x, y = a.ravel(), b.ravel()
    if min(x.std(), y.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def edges(image: UInt8) -> npt.NDArray[np.float32]:
    """The largest slope of the three colours at each pixel, after a slight blur."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.asarray(np.hypot(across, down).max(axis=2), np.float32)


def png(image: UInt8) -> bytes:
    """RGB bytes (H, W, 3) as a PNG file."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok, "PNG encoding of a valid uint8 image cannot fail"
    return data.tobytes()
