"""What the packaged weights make of one photo; compared with what they made of it when they were packed.

python -m tests.weights.pin        # after weights were made anew: writes pinned.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage.data import astronaut

from minusface.protect import Protector, draw_permutation
from minusface.recognize import Recognizer
from minusface.types import FaceCrop

PINNED = Path(__file__).with_name("pinned.json")
# The square around the face in scikit-image's photo: rows, columns.
FACE = (slice(30, 190), slice(145, 305))
PIXELS = 48


def face() -> FaceCrop:
    """The astronaut's face, 112 x 112; cut by hand, so that no detector is in the way."""
    photo = np.ascontiguousarray(astronaut()[FACE])
    crop = cv2.resize(photo, (112, 112), interpolation=cv2.INTER_AREA)
    return FaceCrop.from_uint8(crop[None])


def made() -> dict[str, Any]:
    """Part of the protected image, and the template."""
    order = draw_permutation(1, 192, torch.Generator().manual_seed(7))
    protected = Protector.load("default").protect(face(), order)
    template = Recognizer.load("default").embed(protected).vectors[0]
    some = protected.pixels.flatten()[:: protected.pixels.numel() // PIXELS][:PIXELS]
    return {
        "protected": [round(float(value), 5) for value in some],
        "template": [round(float(value), 5) for value in template],
    }


if __name__ == "__main__":
    PINNED.write_text(json.dumps(made(), indent=1) + "\n")
