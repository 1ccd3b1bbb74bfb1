"""Whether a run may begin in a folder, or go on there: asked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minusface.checkpoint import CARD, Card, load_card
from minusface.config import TrainConfig, plain
from minusface.errors import MinusfaceError
from minusface.train.parallel import attempts


def check_out(config: TrainConfig, resume: bool) -> None:
    """Refuse to overwrite a run, or to go on with none.

    Raises:
        MinusfaceError: ``last/`` of a run's folder is there, or is not; or its ``best/`` alone is, unless
            torchrun starts the same run again.
    """
    out = Path(config.out)
    there = (out / "last" / CARD).is_file()
    if there and not resume:
        raise MinusfaceError(
            f"{out}: holds a run already; --resume goes on with it, --out takes another"
        )
    alone = not resume and (out / "best" / CARD).is_file()
    if alone and not (attempts() > 0 and _same_settings(out / "best", config)):
        raise MinusfaceError(
            f"{out}: holds best/ of a run that was stopped before its first save; expected another --out, "
            "or a folder without it"
        )
    if resume and not there:
        raise MinusfaceError(f"{out}: nothing to resume (no last/{CARD})")


def _same_settings(best: Path, config: TrainConfig) -> bool:
    """Whether a best was made by this very config: what torchrun starts again after a refusal is another."""
    try:
        before = dict(load_card(best).config)
    except MinusfaceError:
        return False
    # A card says which precision ``auto`` was.
    return {**before, "precision": None} == {**plain(config), "precision": None}


def check_same(last: Path, card: Card) -> None:
    """Refuse to go on with what would not repeat the unbroken run's losses.

    Raises:
        MinusfaceError: another architecture, other images, or a setting that may not change.
    """
    before = load_card(last)
    if before.model != card.model:
        raise MinusfaceError(f"{last}: holds another architecture than the config describes")
    if before.data.get("fingerprint") != card.data["fingerprint"]:
        raise MinusfaceError(
            f"{last}: was trained on other images than {card.data['name']} holds now"
        )
    held, now = _kept(before.config), _kept(card.config)
    for key in {**now, **held}:
        if held.get(key) != now.get(key):
            raise MinusfaceError(
                f"{last}: was trained with {key} {held.get(key)}, the config has {now.get(key)}"
            )


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides batches and draws, and whose moments are kept, by key."""
    kept = {key: config.get(key) for key in ("seed", "batch_size")}
    kept["optimizer.name"] = config.get("optimizer", {}).get("name")
    for number, branch in enumerate(config.get("data", {}).get("branches", [])):
        kept[f"data.branches.{number}.batch_size"] = branch.get("batch_size")
    return kept
