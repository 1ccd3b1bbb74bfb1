"""``minusface index``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minusface.index.places import Made, Rekeyed
    from minusface.index.transfer import Moved


def index(
    action: Literal["stats", "export", "import", "move"],
    place: str,
    to: str | None = None,
    collection: str | None = None,
    out: str | None = None,
    model: str | None = None,
    master_key: str | None = None,
    to_master_key: str | None = None,
    json: bool = False,
) -> int:
    """Look at galleries, and move them between backends, without photos.

    stats PLACE; export PLACE --collection NAME --out FILE; import FILE --to PLACE --collection NAME;
    move PLACE --to PLACE. A place is a folder (local:FOLDER; a service's is DATA/gallery),
    postgresql://USER@HOST/DATABASE or qdrant:http://HOST:6333. What was stopped goes on with the same
    command; nothing is doubled. A file holds templates under no key: it is biometric data.

    Args:
        action: stats, export, import or move.
        place: an index, or for import a file of minusface index export or minusface migrate.
        to: for import and move: the index that receives.
        collection: the tenant; stats and move take all by default.
        out: for export: an .npz to write.
        model: for import into a new index: the folder of minusface export whose templates these are.
        master_key: a file of the master key; by default MINUSFACE_MASTER_KEY_FILE, or the key itself in
            MINUSFACE_MASTER_KEY.
        to_master_key: of the receiving index; by default the same.
        json: print the outcome as JSON.
    """
    from minusface.errors import MinusfaceError, choice_error
    from minusface.index import load_master

    actions = {"stats": _stats, "export": _export, "import": _import, "move": _move}
    if action not in actions:
        raise choice_error("action", action, actions)
    needed = {"export": {"--out": out, "--collection": collection}, "move": {"--to": to}}
    needed["import"] = {"--to": to, "--collection": collection}
    for flag, value in needed.get(action, {}).items():
        if value is None:
            raise MinusfaceError(f"index {action}: {flag} is missing")
    own = load_master(master_key)
    others = own if to_master_key is None else load_master(to_master_key)
    asked = _Asked(place, to or "", collection, out or "", model, own, others, json)
    actions[action](asked)
    return 0


class _Asked:
    """What the command was given."""

    def __init__(
        self,
        place: str,
        to: str,
        collection: str | None,
        out: str,
        model: str | None,
        master: bytes,
        other_master: bytes,
        json: bool,
    ) -> None:
        self.place, self.to, self.collection, self.out = place, to, collection, out
        self.model, self.master, self.other_master, self.json = model, master, other_master, json

    def opened(self) -> tuple[Rekeyed, Made, Sequence[str]]:
        """The index at the place, what it was made for, and the collections that are meant."""
        from minusface.index import UnknownCollectionError
        from minusface.index.places import made_for, open_index

        made = made_for(self.place)
        found = open_index(self.place, self.master, made)
        names = found.collections()
        if self.collection is not None and self.collection not in names:
            found.close()
            raise UnknownCollectionError(f"no collection {self.collection!r}, known: {names}")
        return found, made, names if self.collection is None else [self.collection]


def _stats(asked: _Asked) -> None:
    import json as jsons

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found, made, names = asked.opened()
    try:
        stats = {name: found.stats(name) for name in names}
    finally:
        found.close()
    if asked.json:
        told = {name: vars(one) for name, one in stats.items()}
        print(jsons.dumps({"dimension": made.dimension, "model": made.model, "collections": told}))
        return
    table = Table("collection", "people", "templates", "search", "key version", box=None)
    for name, one in stats.items():
        search = "exact" if one.exact else "approximate"
        # Not as markup: it is whatever somebody called it.
        table.add_row(
            Text(name), f"{one.people:,}", f"{one.templates:,}", search, str(one.key_version)
        )
    Console().print(table)
    print(f"model {made.model or 'not named'}, {made.dimension} numbers a template")


def _export(asked: _Asked) -> None:
    from pathlib import Path

    from minusface.index.transfer import gallery_of, write_gallery

    found, made, names = asked.opened()
    try:
        gallery = gallery_of(found, names[0], made.model)
    finally:
        found.close()
    write_gallery(Path(asked.out), gallery)
    count, people = len(gallery.templates), len(set(gallery.people))
    following = f"minusface index import {shlex.quote(asked.out)} --to PLACE --collection NAME"
    if asked.json:
        _print_json({"out": asked.out, "people": people, "templates": count})
        return
    print(
        f"{asked.out}: {count:,} templates of {people:,} people, under no key: biometric data, "
        "delete it when it has been imported"
    )
    print(f"next: {following}")


def _import(asked: _Asked) -> None:
    from pathlib import Path

    from minusface.errors import MinusfaceError
    from minusface.index.places import Made, made_for, open_index
    from minusface.index.transfer import read_gallery, transfer
    from minusface.progress import bar

    gallery = read_gallery(Path(asked.place))
    said = gallery.model or _fingerprint(asked.model)
    _check_size(asked, gallery.templates.shape[1])
    made = Made(gallery.templates.shape[1], said) if said else made_for(asked.to)
    if asked.model is not None and _fingerprint(asked.model) != made.model:
        raise MinusfaceError(
            f"{asked.place}: made for model {made.model}, expected {_fingerprint(asked.model)}"
        )
    if made.dimension != gallery.templates.shape[1]:
        raise MinusfaceError(
            f"{asked.place}: {gallery.templates.shape[1]} numbers a template, expected {made.dimension}"
        )
    index = open_index(asked.to, asked.other_master, made)
    assert asked.collection is not None
    try:
        with bar("enrolling", len(set(gallery.people))) as advance:
            moved = transfer(gallery.entries(), index, asked.collection, advance)
    finally:
        index.close()
    _tell(asked, {asked.collection: moved})


def _check_size(asked: _Asked, size: int) -> None:
    """Refuse templates of another size than the model makes: nobody would ever be found among them."""
    from pathlib import Path

    from minusface.errors import MinusfaceError
    from minusface.runtime import load_export_card

    if asked.model is None:
        return
    expected = load_export_card(Path(asked.model)).embedding_size
    if size != expected:
        raise MinusfaceError(
            f"{asked.place}: {size} numbers a template, expected {expected} as {asked.model} makes them"
        )


def _move(asked: _Asked) -> None:
    from minusface.errors import MinusfaceError
    from minusface.index.places import open_index, parts, safe
    from minusface.index.transfer import transfer
    from minusface.progress import bar

    if parts(asked.place) == parts(asked.to):
        raise MinusfaceError(f"index move: from {safe(asked.place)} to itself")
    source, made, names = asked.opened()
    try:
        target = open_index(asked.to, asked.other_master, made)
        try:
            total = sum(source.stats(name).people for name in names)
            with bar("moving", total) as advance:
                moved = {n: transfer(source.entries(n), target, n, advance) for n in names}
        finally:
            target.close()
    finally:
        source.close()
    _tell(asked, moved)


def _tell(asked: _Asked, moved: dict[str, Moved]) -> None:
    from minusface.index.places import safe

    if asked.json:
        _print_json({name: one._asdict() for name, one in moved.items()})
        return
    for name, one in moved.items():
        again = f"; {one.repeated:,} were there from before" if one.repeated else ""
        print(f"{name}: {one.templates:,} templates of {one.people:,} people enrolled{again}")
    print(f"next: minusface index stats {shlex.quote(safe(asked.to))}")


def _fingerprint(model: str | None) -> str:
    """Of the model in a folder of ``minusface export``; empty where none is named."""
    if model is None:
        return ""
    from pathlib import Path

    from minusface.runtime import load_export_card

    return load_export_card(Path(model)).fingerprint


def _print_json(told: object) -> None:
    import json as jsons

    print(jsons.dumps(told, indent=1))
