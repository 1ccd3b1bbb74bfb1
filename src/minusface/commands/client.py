"""``minusface enroll``, ``verify``, ``identify`` and ``erase``, at a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minusface.client import Client

DIFFERENT = 1


def enroll(
    person: str,
    photos: list[str],
    server: str | None = None,
    model: str | None = None,
    insecure: bool = False,
) -> int:
    """Enroll a person at a server. Photos are protected here and stay here.

    The API key is read from MINUSFACE_API_KEY. Photos must show one face, near, sharp and well lit.

    Args:
        person: a name of your choice.
        photos: one or more.
        server: its address; by default MINUSFACE_SERVER.
        model: a folder of minusface export; by default MINUSFACE_CLIENT_MODEL.
        insecure: allow http without TLS to another machine.
    """
    made = _client(server, model, insecure).enroll(person, photos)
    print(f"{person}: {len(made)} enrolled")
    return 0


def verify_at(
    person: str,
    photo: str,
    server: str | None,
    model: str | None,
    fmr: str | None,
    insecure: bool,
    json: bool,
) -> int:
    """``minusface verify`` where a server decides: does a photo show this person? 0 if so, 1 if not."""
    import dataclasses
    import json as jsons

    found = _client(server, model, insecure).verify(person, photo, fmr)
    if json:
        print(jsons.dumps(dataclasses.asdict(found)))
    else:
        word = "the same person" if found.same else "not the same person"
        print(f"{word} (score {found.score:.3f}, threshold {found.threshold:.3f}, {found.fmr})")
    return 0 if found.same else DIFFERENT


def identify(
    photo: str,
    server: str | None = None,
    model: str | None = None,
    count: int = 5,
    fmr: str | None = None,
    insecure: bool = False,
    json: bool = False,
) -> int:
    """Whom does a photo show? Exit code 0 if somebody is found, 1 if not.

    The API key is read from MINUSFACE_API_KEY.

    Args:
        photo: protected here, and kept here.
        server: its address; by default MINUSFACE_SERVER.
        model: a folder of minusface export; by default MINUSFACE_CLIENT_MODEL.
        count: people at most.
        fmr: a false match rate of the model's card: fmr_1e-3, 1e-3 or 0.001.
        insecure: allow http without TLS to another machine.
        json: print JSON.
    """
    import dataclasses
    import json as jsons

    from minusface.runtime import rate_name

    found = _client(server, model, insecure).identify(photo, count, rate_name(fmr))
    if json:
        print(jsons.dumps(dataclasses.asdict(found)))
    else:
        for person, score in found.matches:
            print(f"{score:.3f}  {person}")
        if not found.matches:
            print(f"nobody (threshold {found.threshold:.3f}, {found.fmr})")
    return 0 if found.matches else DIFFERENT


def erase(person: str, server: str | None = None, insecure: bool = False) -> int:
    """Erase everything of a person at a server: names and templates, for good.

    The API key, of scope admin, is read from MINUSFACE_API_KEY.

    Args:
        person: the name enrolled under.
        server: its address; by default MINUSFACE_SERVER.
        insecure: allow http without TLS to another machine.
    """
    from minusface.client import Client

    count = Client(_server(server), None, insecure=insecure).erase(person)
    print(f"{person}: {count} erased")
    return 0


def _client(server: str | None, model: str | None, insecure: bool) -> Client:
    from minusface.client import Client, Shield
    from minusface.errors import MinusfaceError

    address = _server(server)
    model = model or os.environ.get("MINUSFACE_CLIENT_MODEL")
    if not model:
        raise MinusfaceError("no model: give --model EXPORT, or set MINUSFACE_CLIENT_MODEL")
    return Client(address, Shield(model), insecure=insecure)


def _server(server: str | None) -> str:
    from minusface.errors import MinusfaceError

    server = server or os.environ.get("MINUSFACE_SERVER")
    if not server:
        raise MinusfaceError("no server: give --server URL, or set MINUSFACE_SERVER")
    return server
