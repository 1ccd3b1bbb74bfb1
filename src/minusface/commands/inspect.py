"""``minusface inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def inspect(path: str, json: bool = False) -> int:
    """Tell what a checkpoint, a folder of faces or an image holds.

    Args:
        path: a checkpoint or run folder, a folder with a folder a person, or an image file.
        json: print it as JSON.
    """
    import json as jsons

    from minusface.checkpoint import CARD

    place = Path(path)
    if place.is_file() and place.name != CARD:
        found = _image(place)
    elif any(
        (folder / CARD).is_file()
        for folder in (place, place / "best", place / "last", place.parent)
    ):
        found = _checkpoint(place)
    else:
        found = _faces(place)
    if json:
        print(jsons.dumps(found, indent=1))
        return 0
    width = max(map(len, found))
    for key, value in found.items():
        print(f"{key:<{width}}  {value}")
    return 0


def _checkpoint(path: Path) -> dict[str, Any]:
    """A card, in few lines; every file's hash is checked."""
    from minusface import checkpoint

    folder = checkpoint.find(path)
    card = checkpoint.load_card(folder)
    found: dict[str, Any] = {"checkpoint": str(folder), "task": card.task}
    found |= {name: value for name, value in card.model.items() if value is not None}
    for part, entry in card.files.items():
        tensors = checkpoint.load_part(folder, part)
        numbers = sum(t.numel() for t in tensors.values())
        found[f"{part} file"] = (
            f"{entry['name']}: {len(tensors)} tensors, {numbers:,} numbers, hash holds"
        )
        if part == "model":
            for prefix in ("generator", "recognizer"):
                inside = [t.numel() for name, t in tensors.items() if name.startswith(f"{prefix}.")]
                if inside:
                    found[f"{prefix} size"] = f"{sum(inside):,} numbers"
    return {**found, "metrics": card.metrics, "data": card.data, "versions": card.versions}


def _faces(path: Path) -> dict[str, Any]:
    """People, images, sizes, what cannot be read."""
    import numpy as np

    from minusface.data import FolderDataset, decode_image
    from minusface.errors import MinusfaceError
    from minusface.progress import bar

    dataset = FolderDataset(path)
    sizes: dict[str, int] = {}
    unreadable: list[str] = []
    with bar("reading", len(dataset)) as advance:
        for key in list(dataset.keys()):
            advance(1)
            try:
                image = decode_image((path / key).read_bytes(), key)
            except (MinusfaceError, OSError) as error:
                unreadable.append(str(error))
                continue
            size = f"{image.shape[1]}x{image.shape[0]}"
            sizes[size] = sizes.get(size, 0) + 1
    counts = np.bincount(dataset.labels, minlength=dataset.classes)
    return {
        "faces": str(path),
        "people": dataset.classes,
        "images": len(dataset),
        "images a person": f"{counts.min()} to {counts.max()}, median {np.median(counts):g}",
        "people with one image": int((counts == 1).sum()),
        "sizes": sizes,
        "unreadable": unreadable,
        "fingerprint": dataset.fingerprint(),
    }


def _image(path: Path) -> dict[str, Any]:
    """Size and colours of an image."""
    from minusface.faces import is_crop, read_photo

    photo = read_photo(path)
    height, width = photo.shape[:2]
    pixels = photo.reshape(-1, 3).astype(float)
    return {
        "image": str(path),
        "size": f"{width}x{height}",
        "taken as": "a crop, as it is" if is_crop(photo) else "a photo: searched for faces",
        "mean colour (RGB)": [round(v, 1) for v in pixels.mean(0).tolist()],
        "standard deviation": [round(v, 1) for v in pixels.std(0).tolist()],
    }
