"""Where checkpoints are found by name: packaged ones, or a folder of the user's."""

from __future__ import annotations

import os
from pathlib import Path

from minusface.errors import MinusfaceError

HERE = Path(__file__).parent


def default_checkpoint() -> Path | None:
    """The packaged default weights, or None where a build left them out."""
    folder = HERE / "default"
    return folder if (folder / "card.json").is_file() else None


def packaged() -> list[str]:
    """Names of the weights that ship."""
    return sorted(card.parent.name for card in HERE.glob("*/card.json"))


def called(folder: Path) -> str:
    """What reports call a checkpoint: packaged weights go by name, wherever they are installed."""
    return folder.name if folder.parent == HERE else str(folder)


def resolve(name: str | None) -> Path:
    """A checkpoint folder from a name or path; nothing is ever downloaded.

    A folder of the user's wins over a name under MINUSFACE_HOME, and that over a packaged one.

    Args:
        name: None for the packaged ``default``; otherwise a path, a name under MINUSFACE_HOME, or the name of
            packaged weights.

    Raises:
        MinusfaceError: a packaged name that does not ship.
    """
    home = os.environ.get("MINUSFACE_HOME")
    if name is not None:
        if Path(name).exists():
            return Path(name)
        if home and (Path(home) / name).is_dir():
            return Path(home) / name
    wanted = "default" if name is None else name
    if wanted in packaged():
        return HERE / wanted
    if wanted == "default":
        raise MinusfaceError(
            "default: this build brings no weights; give --checkpoint FOLDER (make one with "
            "'minusface demo' or 'minusface train')"
        )
    return Path(wanted)
