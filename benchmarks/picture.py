"""The README's picture: a photo's crop, and what leaves the client, as it is and as others may look at it.

    python benchmarks/picture.py --out docs/protected.png [--json FILE]

The photo is scikit-image's astronaut (NASA, public domain). Columns: the crop, which stays; the protected
image that a client sends, the one of eight permutations that shows least; the same with its contrast
stretched; the same behind the filter that no permutation changes; and, stretched, the one of the eight that
shows most.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from minusface.demo.photo import open_portrait
from minusface.demo.pictures import png, stretch, white_outlines
from minusface.files import write_atomically
from minusface.protect import Protector, permutation_of_key
from minusface.protect.choice import shown
from minusface.runtime import CLIENT_TRIES
from minusface.types import FaceCrop, ProtectedImage, UInt8

SCALE, GAP = 1, 6


def columns(seed: int) -> tuple[list[UInt8], list[float]]:
    """The pictures, each (112, 112, 3), and how much of the outlines each permutation shows."""
    portrait, protector = open_portrait(None), Protector.load("default")
    crops = FaceCrop.from_uint8(portrait.crop).pixels
    keys = [f"picture {number}" for number in range(CLIENT_TRIES)]
    orders = permutation_of_key(keys, protector.codec.channels, seed)
    with torch.inference_mode():
        made = protector.under(crops, orders[None]).view(1, CLIENT_TRIES, 3, *crops.shape[2:])
        seen = shown(crops, made)[0]
    least, most = made[0, seen.argmin()], made[0, seen.argmax()]
    behind = ProtectedImage(white_outlines(least[None])).to_uint8()[0]
    sent = ProtectedImage(least[None]).to_uint8()[0]
    pictures = [portrait.crop, sent, stretch(least.numpy()), behind, stretch(most.numpy())]
    return pictures, sorted(seen.tolist())


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/protected.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    pictures, seen = columns(asked.seed)
    gap: UInt8 = np.full((112 * SCALE, GAP, 3), 255, np.uint8)
    strip: list[UInt8] = []
    for picture in pictures:
        large = cv2.resize(picture, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)
        strip += [np.asarray(large, np.uint8), gap]
    write_atomically(asked.out, png(np.ascontiguousarray(np.concatenate(strip[:-1], 1))))
    print("outlines shown:", ", ".join(f"{value:.2f}" for value in seen))
    if asked.json:
        asked.json.write_text(json.dumps({"outlines": seen}, indent=1))
    print(f"written: {asked.out}")


if __name__ == "__main__":
    main()
