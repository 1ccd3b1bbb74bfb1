"""Where checkpoints are found by name: packaged ones, or a folder of the user's."""

from __future__ import annotations

import os
from pathlib import Path

from minusface.errors import MinusfaceError

HERE = Path(__file__).parent


def default_checkpoint() -> Path | None:
    """The packaged default weights, or None: none ship yet."""
    folder = HERE / "default"
    return folder if (folder / "card.json").is_file() else None


def resolve(name: str | None) -> Path:
    """A checkpoint folder from a name or path; nothing is ever downloaded.

    Args:
        name: None or ``default`` for the packaged weights, a path, or a name under MINUSFACE_HOME.

    Raises:
        MinusfaceError: nothing is there.
    """
    if name in (None, "default"):
        packaged = default_checkpoint()
        if packaged is None:
            raise MinusfaceError(
                "no weights ship yet: give --checkpoint FOLDER (make one with 'minusface demo' or "
                "'minusface train')"
            )
        return packaged
    assert name is not None
    home = os.environ.get("MINUSFACE_HOME")
    if not Path(name).exists() and home and (Path(home) / name).is_dir():
        return Path(home) / name
    return Path(name)
