"""``minusface data``: look at face datasets, convert, align, split, teach and mix them."""

from __future__ import annotations

import json as jsons
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minusface.arguments import HELP, parse
from minusface.commands.teaching import mix, teach
from minusface.errors import MinusfaceError, choice_error

USAGE = """usage: minusface data inspect|convert|align|split|teach|mix ...

  inspect DATA                        people, images, sizes, unreadable files, duplicates
  convert DATA --to FORMAT --out DIR  from any format to any other, stored bytes kept
  align PHOTOS --out DIR              folders of photos to folders of aligned crops
  split DATA --out DIR                people to train and to test on, and a list of test pairs
  teach DATA --network FILE --out F   another network's embeddings, to be imitated where labels are few
  mix DATA --network FILE --out DIR   the same, and mixtures of faces beside the photos

DATA is folder:DIR (or DIR), list:FILE[@ROOT], tfrecord:INDEX.txt[@ROOT], recordio:DIR,
shards:PATTERN or synthetic:PEOPLExIMAGES. minusface data VERB --help tells about one."""

LISTED = 10


def inspect(data: str, all: bool = False, json: bool = False) -> int:
    """Tell what a dataset holds. The exit code is 2 where an image cannot be read.

    Args:
        data: the dataset; see minusface data --help.
        all: look at every image, not just 1000 spread over it; duplicates are found only so.
        json: print it as JSON.
    """
    from minusface.commands.inspect import _table
    from minusface.data.source import open_faces
    from minusface.data.survey import survey
    from minusface.progress import bar

    dataset = open_faces(data)
    with bar("reading", len(dataset)) as advance:
        found = survey(dataset, everything=all, advance=advance)
    print(jsons.dumps(found.to_dict(), indent=1) if json else _table(found.to_dict()))
    return 2 if found.unreadable else 0


def convert(
    data: str, to: str, out: str, on_error: str = "fail", size: int = 112, json: bool = False
) -> int:
    """Write a dataset in another format, stored bytes kept. A stopped run goes on when it is called again.

    Args:
        data: the dataset; see minusface data --help.
        to: folder, list, tfrecord, recordio or shards.
        out: a new folder.
        on_error: what an unreadable image does: fail, or skip (counted and listed).
        size: side of the crops in pixels.
        json: print the outcome as JSON.
    """
    from minusface.data.convert import convert as run
    from minusface.data.source import open_faces
    from minusface.progress import bar

    if on_error not in ("fail", "skip"):
        raise choice_error("on_error", on_error, ("fail", "skip"))
    dataset = open_faces(data, size=size)
    with bar("converting", len(dataset)) as advance:
        done = run(dataset, to, Path(out), skip=on_error == "skip", advance=advance)
    if json:
        counts = {"written": done.written, "people": done.people, "resumed": done.resumed}
        print(jsons.dumps({**counts, "spec": done.spec, "skipped": done.skipped}))
        return 0
    already = f" (went on after {done.resumed:,})" if done.resumed else ""
    print(f"{done.written:,} images of {done.people:,} people in {out}{already}")
    _list("skipped", done.skipped)
    print(f"next: minusface data inspect {shlex.quote(done.spec)}")
    return 0


def align(photos: str, out: str, workers: int = 0, size: int = 112, json: bool = False) -> int:
    """Find and align the face of every photo. A stopped run goes on where it was.

    Writes OUT/person/photo.jpg, OUT/misses.csv and OUT/contact_sheet.jpg.

    Args:
        photos: a folder of photos, in a folder a person.
        out: where crops go; outside of it.
        workers: processes; 0 for one a core.
        size: side of the crops in pixels.
        json: print the outcome as JSON.
    """
    from minusface.faces import list_photos
    from minusface.faces.folders import MISSES, SHEET, align_folder
    from minusface.progress import bar

    if workers < 0:
        raise MinusfaceError(f"workers {workers}: expected 1 or more, or 0 for one a core")
    total = len(list_photos([photos]))
    with bar("aligning", total) as advance:
        done = align_folder(photos, out, size=size, workers=workers or None, advance=advance)
    if json:
        counts = {"photos": done.photos, "written": done.written, "present": done.present}
        print(jsons.dumps({**counts, "misses": done.misses}))
        return 0
    already = f", {done.present:,} were there already" if done.present else ""
    print(f"{done.written:,} crops of {done.photos:,} photos written to {out}{already}")
    _list(f"without a crop, all in {Path(out) / MISSES}", done.misses)
    print(f"look at: {Path(out) / SHEET}")
    print(f"next: minusface data inspect {shlex.quote(out)}")
    return 0


def split(
    data: str, out: str, test: float = 0.1, pairs: int = 3000, seed: int = 0, json: bool = False
) -> int:
    """Part people into train and test, and draw test pairs: OUT/train.txt, test.txt and pairs.txt.

    Lists of people have a line NAME<tab>IMAGES a person, as LFW's have.

    Args:
        data: a folder with a folder a person.
        out: where the lists go; no other lists of these names are replaced.
        test: part of the people that is held out.
        pairs: genuine pairs, and impostor pairs as well.
        seed: the same seed gives the same lists.
        json: print the outcome as JSON.
    """
    from minusface.data import FolderDataset
    from minusface.data.source import open_faces
    from minusface.data.split import list_texts, split_people, write_lists

    dataset = open_faces(data)
    if not isinstance(dataset, FolderDataset):
        raise MinusfaceError(
            f"{data}: lists of people need a folder a person; minusface data convert {data} "
            "--to folder --out DIR makes one"
        )
    images: list[list[str]] = [[] for _ in dataset.people]
    for label, key in zip(dataset.labels.tolist(), dataset.keys(), strict=True):
        images[label].append(key)
    found = split_people(dataset.people, images, test=test, pairs=pairs, seed=seed)
    texts = list_texts(found, dict(zip(dataset.people, map(len, images), strict=True)))
    folder = Path(out)
    write_lists(folder, texts)
    counts = {"train": len(found.train), "test": len(found.test), "pairs": len(found.pairs)}
    if json:
        print(jsons.dumps(counts))
        return 0
    print(
        f"{counts['train']:,} people to train on, {counts['test']:,} others to test on with "
        f"{counts['pairs']:,} pairs: {folder}/{{train,test,pairs}}.txt"
    )
    print(
        f"next: minusface train configs/quickstart.yaml --data.faces {shlex.quote(data)} "
        f"--data.people {shlex.quote(f'{folder}/train.txt')} "
        f"--evaluation.pairs {shlex.quote(f'{folder}/pairs.txt')}"
    )
    return 0


def _list(what: str, entries: list[tuple[str, str]]) -> None:
    if entries:
        print(f"{len(entries):,} {what}:", file=sys.stderr)
        for key, reason in entries[:LISTED]:
            print(f"  {key}: {reason}", file=sys.stderr)
        if len(entries) > LISTED:
            print(f"  and {len(entries) - LISTED:,} more", file=sys.stderr)


VERBS: dict[str, tuple[Callable[..., int], str]] = {
    "inspect": (inspect, "data"),
    "convert": (convert, "data"),
    "align": (align, "photos"),
    "split": (split, "data"),
    "teach": (teach, "data"),
    "mix": (mix, "data"),
}


def data(verb: str, options: dict[str, Any]) -> int:
    """Run one of the verbs."""
    return VERBS[verb][0](**options)


def _parse(arguments: list[str]) -> dict[str, Any] | None:
    if not arguments or arguments[0] in HELP:
        print(USAGE)
        return None
    verb, *rest = arguments
    if verb not in VERBS:
        raise choice_error("verb of minusface data", verb, VERBS)
    function, positional = VERBS[verb]
    options = parse(f"minusface data {verb}", function, (positional,), rest)
    return None if options is None else {"verb": verb, "options": options}


data.parse = _parse  # type: ignore[attr-defined]
