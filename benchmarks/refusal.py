"""How often the service's check takes a photo for protected, or a protected image for a photo.

    python benchmarks/refusal.py EXPORT --faces DIR [--images 2000] [--skip 1000] [--json FILE]

On crops of a face folder, on drawn faces, and on the protected images of both; grey and strongly compressed
photos beside.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from minusface.data.synthetic import SyntheticFaces
from minusface.runtime import ClientModel, draw_order, to_bytes
from minusface.serve.refusal import looks_natural

Images = Sequence[np.ndarray]


def protected(model: ClientModel, images: Images) -> list[np.ndarray]:
    card, made = model.card, []
    for start in range(0, len(images), 16):
        crops = np.stack(images[start : start + 16])
        order = draw_order(len(crops), card.n_duplicate, card.channels)
        made += list(to_bytes(model.protect(crops, order)))
    return made


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("export")
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--skip", type=int, default=1000, help="the rule was fitted on these")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = ClientModel(options.export, threads=1)
    files = sorted(options.faces.glob("*/*.jpg"))
    random.Random(1).shuffle(files)
    chosen = files[options.skip : options.skip + options.images]
    photos = [cv2.imread(str(file))[:, :, ::-1] for file in chosen]
    people = SyntheticFaces(100, 4, 1, size=model.card.size)
    drawn = [np.asarray(people[number].image) for number in range(len(people))]
    rows = {
        "crops taken for protected": (photos, False),
        "grey crops taken for protected": ([grey(i) for i in photos], False),
        "JPEG (20) crops taken for protected": ([jpeg(i) for i in photos], False),
        "drawn faces taken for protected": (drawn, False),
        "protected crops taken for photos": (protected(model, photos), True),
        "protected drawn faces taken for photos": (protected(model, drawn), True),
    }
    found = {}
    for name, (images, wrong) in rows.items():
        count = sum(looks_natural(image) == wrong for image in images)
        found[name] = {"wrong": count, "of": len(images)}
        print(f"{name:<40} {count:>5} of {len(images)}  {100 * count / len(images):.2f} %")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
