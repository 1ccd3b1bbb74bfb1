"""``minusface inspect``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# So many images are decoded unless all are asked for.
SAMPLE = 1000
LISTED = 20
# Longer lists are counted.
MOST_LISTED = 8
Found = dict[str, Any]


def inspect(path: str, all: bool = False, json: bool = False) -> int:
    """Tell what a checkpoint, a folder of faces or an image holds.

    The exit code is 2 where a checkpoint's file is damaged or an image cannot be read.

    Args:
        path: a checkpoint or run folder, the name of weights (default), a folder with a folder a person,
            a folder of images, or an image file.
        all: decode every image of a folder, not just 1000 spread over it.
        json: print it as JSON.
    """
    import json as jsons

    from minusface.checkpoint import CARD
    from minusface.errors import MinusfaceError
    from minusface.weights import resolve

    place = resolve(path)
    if not place.exists():
        raise MinusfaceError(f"{path}: no such file or folder")
    cards = (place, place / CARD, place / "best" / CARD, place / "last" / CARD)
    if any(card.name == CARD and card.is_file() for card in cards):
        found, damaged = _checkpoint(place)
    elif place.is_file():
        found, damaged = _image(place), False
    else:
        found, damaged = _folder(place, all)
    print(jsons.dumps(found, indent=1) if json else _table(found))
    return 2 if damaged else 0


def _table(found: Found) -> str:
    """Keys and values in two columns; what is nested further in a line each."""
    rows: list[tuple[str, str]] = []
    for key, value in found.items():
        if isinstance(value, dict):
            rows += _rows(key, value)
        elif isinstance(value, list):
            rows += [(key if number == 0 else "", _words(v)) for number, v in enumerate(value)]
            rows += [] if value else [(key, "none")]
        else:
            rows.append((key, _words(value)))
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def _rows(key: str, value: dict[str, Any]) -> list[tuple[str, str]]:
    """A row each, down to what holds plain values alone."""
    rows: list[tuple[str, str]] = []
    for name, inner in value.items():
        if inner is None or inner == {}:
            continue
        if isinstance(inner, dict) and any(isinstance(v, (dict, list)) for v in inner.values()):
            rows += _rows(f"{key}.{name}", inner)
        elif isinstance(inner, list) and inner and all(isinstance(v, dict) for v in inner):
            rows += [(f"{key}.{name}", _words(one)) for one in inner]
        else:
            rows.append((f"{key}.{name}", _words(inner)))
    return rows


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        long = len(value) > MOST_LISTED
        return f"{len(value):,} values" if long else f"[{', '.join(map(_words, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _checkpoint(path: Path) -> tuple[Found, bool]:
    """A card in few lines, every file checked against its hash; and whether one is damaged."""
    from minusface import checkpoint
    from minusface.errors import MinusfaceError

    folder = checkpoint.find(path)
    card = checkpoint.load_card(folder)
    model = {key: value for key, value in card.model.items() if value is not None}
    parameters: dict[str, int] = {}
    files: dict[str, str] = {}
    damaged = False
    for part, entry in card.files.items():
        try:
            tensors = checkpoint.load_part(folder, part)
        except MinusfaceError as error:
            files[part], damaged = f"DAMAGED: {error}", True
            continue
        files[part] = f"{entry['name']}, {entry['bytes']:,} bytes, hash holds"
        if part == "model":
            parameters = _parameters({name: t.numel() for name, t in tensors.items()})
    return {
        "checkpoint": str(folder),
        "task": card.task,
        "model": model,
        "parameters": parameters,
        "metrics": card.metrics,
        "data": card.data,
        "versions": card.versions,
        "files": files,
    }, damaged


def _parameters(counts: dict[str, int]) -> dict[str, int]:
    """Learned numbers by part, from the tensors' names; running statistics are not learned."""
    running = ("running_mean", "running_var", "num_batches_tracked")
    parts: Counter[str] = Counter()
    for name, count in counts.items():
        if not name.endswith(running):
            parts[name.partition(".")[0]] += count
    return dict(sorted(parts.items()))


def _folder(path: Path, everything: bool) -> tuple[Found, bool]:
    """People, images, sizes, formats, what cannot be read; and whether there is such."""
    import numpy as np

    from minusface.data import FolderDataset
    from minusface.faces import list_photos

    if not any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()):
        files = list_photos([path])
        looked, damaged = _look(files, everything)
        return {"images": str(path), "count": len(files), **looked}, damaged
    dataset = FolderDataset(path)
    counts = np.bincount(dataset.labels, minlength=dataset.classes)
    looked, damaged = _look([path / key for key in dataset.keys()], everything)  # noqa: SIM118
    return {
        "faces": str(path),
        "people": dataset.classes,
        "count": len(dataset),
        "a person": {
            "least": int(counts.min()),
            "median": float(np.median(counts)),
            "most": int(counts.max()),
            "with one image": int((counts == 1).sum()),
        },
        **looked,
        "fingerprint": dataset.fingerprint(),
    }, damaged


def _look(files: Sequence[Path], everything: bool) -> tuple[Found, bool]:
    """Formats of all files; sizes and damage of all or a thousand of them."""
    from minusface.data import decode_image
    from minusface.errors import MinusfaceError
    from minusface.progress import bar

    step = 1 if everything else max(1, -(-len(files) // SAMPLE))
    chosen = files[::step]
    sizes: Counter[str] = Counter()
    unreadable: list[str] = []
    with bar("reading", len(chosen)) as advance:
        for file in chosen:
            advance(1)
            try:
                image = decode_image(file.read_bytes(), str(file))
            except (MinusfaceError, OSError) as error:
                unreadable.append(str(error))
                continue
            sizes[f"{image.shape[1]}x{image.shape[0]}"] += 1
    more = len(unreadable) - LISTED
    listed = unreadable[:LISTED] + ([f"and {more} more"] if more > 0 else [])
    return {
        "formats": dict(Counter(file.suffix.lower().lstrip(".") for file in files).most_common()),
        "decoded": f"{len(chosen)} of {len(files)}" + ("" if step == 1 else " (--all for each)"),
        "sizes": dict(sizes.most_common(LISTED)),
        "unreadable": listed,
    }, bool(unreadable)


def _image(path: Path) -> Found:
    """Size and colours of an image."""
    from minusface.faces import is_crop, read_photo

    photo = read_photo(path)
    height, width = photo.shape[:2]
    pixels = photo.reshape(-1, 3).astype(float)
    return {
        "image": str(path),
        "size": f"{width}x{height}",
        "protect takes it": "as a crop, as it is" if is_crop(photo) else "as a photo with a face",
        "mean RGB": ", ".join(f"{v:.1f}" for v in pixels.mean(0)),
        "deviation RGB": ", ".join(f"{v:.1f}" for v in pixels.std(0)),
    }
