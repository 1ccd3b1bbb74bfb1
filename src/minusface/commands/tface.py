"""``minusface import-tface`` and ``export-tface``."""

from __future__ import annotations

import shlex


def import_tface(checkpoint: str, out: str, json: bool = False) -> int:
    """Turn a checkpoint of TFace's MinusFace into one of ours. What it is is told from its tensors.

    Args:
        checkpoint: a state dict of stage 1 or stage 2 (or of a bare, unprotected IR recogniser), .pth.
        out: a new folder for it.
        json: print what it is as JSON.
    """
    import json as jsons

    from minusface.tface.weights import import_tface as run

    card = run(checkpoint, out)
    if json:
        print(jsons.dumps({"task": card.task, "model": card.model}))
        return 0
    recognizer = card.model["recognizer"]
    words = f"{card.task}: {recognizer['backbone']}, {recognizer['in_channels']} input channels, "
    words += f"{recognizer['embedding_size']}-d templates"
    if card.model.get("generator"):
        words += f", generator of width {card.model['generator']['width']}"
    print(f"{words}, written to {out}")
    following = "inspect" if card.task == "plain" else "protect PHOTO --out protected --checkpoint"
    print(f"next: minusface {following} {shlex.quote(out)}")
    return 0


def export_tface(checkpoint: str, out: str) -> int:
    """Turn a checkpoint into a state dict that TFace's MinusFace loads.

    Args:
        checkpoint: a checkpoint or run folder with an IR backbone.
        out: the .pth file to write; one that is there is replaced.
    """
    from pathlib import Path

    from minusface.errors import MinusfaceError
    from minusface.files import check_writable
    from minusface.tface.weights import export_tface as run
    from minusface.weights import resolve

    # Of another name it is somebody's photo or list, not a state dict of before.
    if Path(out).suffix.lower() not in (".pth", ".pt"):
        raise MinusfaceError(f"--out {out}: expected a .pth file")
    check_writable(Path(out))
    print(f"{run(resolve(checkpoint), out)} tensors written to {out}")
    return 0
