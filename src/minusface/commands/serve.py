"""``minusface serve`` and ``minusface keys``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minusface.serve.settings import Settings

# Settings that have a flag.
FLAGS = {
    name: name.replace("_", "-")
    for name in (
        "model", "data", "index", "host", "port", "fmr", "threshold", "variant", "threads", "tls_certificate",
        "tls_key", "proxy",
    )
} | {"master_key_file": "master-key"}  # fmt: skip


def serve(
    model: str | None = None,
    data: str | None = None,
    index: str | None = None,
    host: str | None = None,
    port: int | None = None,
    fmr: str | None = None,
    threshold: float | None = None,
    variant: str | None = None,
    threads: int | None = None,
    master_key: str | None = None,
    new_master_key: str | None = None,
    tls_certificate: str | None = None,
    tls_key: str | None = None,
    proxy: bool = False,
) -> int:
    """Run the recognition service: protected images in, matches out, photos refused.

    What is not given is read from the environment: MINUSFACE_MODEL, MINUSFACE_DATA, MINUSFACE_PORT and
    so on; limits too, as docs/service.md lists. API keys are made with minusface keys. Ctrl-C finishes
    what is under way.

    Args:
        model: a folder of minusface export.
        data: folder for gallery, API keys and audit log.
        index: where the gallery lies, if not in --data: postgresql://USER@HOST/DATABASE or
            qdrant:http://HOST:6333.
        host: address to listen on; by default this machine's own.
        port: to listen on; by default 8080.
        fmr: the false match rate used where a request names none (fmr_1e-3, 1e-3 or 0.001); by default the
            card's strictest.
        threshold: a cosine in the place of the card's thresholds.
        variant: of the recogniser; by default float32.
        threads: for one batch; by default 1, 0 leaves it to onnxruntime.
        master_key: a file of 64 hexadecimal digits; by default MINUSFACE_MASTER_KEY.
        new_master_key: write a new master key to this file, and stop. Without it a gallery cannot be opened:
            keep a copy apart from the gallery's backups.
        tls_certificate: PEM file; serves HTTPS.
        tls_key: PEM file of its key.
        proxy: a proxy in front ends TLS; its forwarding headers are believed.
    """
    from minusface.runtime import rate_name

    if new_master_key is not None:
        return _new_master(Path(new_master_key))
    given: dict[str, Any] = {
        "model": model,
        "data": data,
        "index": index,
        "host": host,
        "port": port,
        "fmr": rate_name(fmr),
        "threshold": threshold,
        "variant": variant,
        "threads": threads,
        "master_key_file": master_key,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "proxy": proxy or None,
    }
    _run({name: value for name, value in given.items() if value is not None})
    return 0


def _run(given: dict[str, Any]) -> None:
    from minusface.errors import MinusfaceError

    try:
        # Asked for here, so that it is not found missing once the gallery is open.
        import uvicorn  # noqa: F401

        from minusface.serve.app import create_app
        from minusface.serve.listen import check_tls, listening, run
        from minusface.serve.service import Service
    except ImportError as error:
        raise MinusfaceError(f'{error.name} is missing: pip install "minusface[serve]"') from error
    settings = _settings(given)
    check_tls(settings.tls_certificate, settings.tls_key)
    sockets = listening(settings.host, settings.port)
    try:
        service = Service(settings)
        try:
            app = create_app(service)
            print(
                f"minusface: model {service.card.fingerprint}, threshold {service.fmr}", flush=True
            )
            if not service.keys.all():
                print("minusface: no API keys yet: minusface keys add --data DIR --collection NAME")
            run(app, settings, sockets)
        finally:
            service.close()
    finally:
        for one in sockets:
            one.close()


def _settings(given: dict[str, Any]) -> Settings:
    """Of arguments and environment.

    Raises:
        MinusfaceError: one that does not serve; flag and variable are named.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from minusface.errors import MinusfaceError
    from minusface.serve.settings import Settings

    try:
        return Settings(**given)
    except SettingsError as error:
        # Lists in the environment are JSON; the error names the field, and repeats nothing of the value.
        name = next(iter(re.findall(r'field "(\w+)"', str(error))), "")
        raise MinusfaceError(
            f'serve: MINUSFACE_{name.upper()}: expected JSON, such as ["https://a.example"]'
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        flag = f"--{FLAGS[name]} or " if name in FLAGS else ""
        raise MinusfaceError(
            f"serve: {name}: {first['msg']} ({flag}MINUSFACE_{name.upper()})"
        ) from error


def _new_master(path: Path) -> int:
    import os

    from minusface.errors import MinusfaceError
    from minusface.index.keys import new_master

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise MinusfaceError(f"{path}: already there; a gallery may depend on it") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{new_master().hex()}\n")
    print(f"{path}: new master key; keep a copy apart from the gallery's backups")
    return 0


def keys(
    action: str,
    data: str,
    collection: str | None = None,
    scopes: str = "enroll,verify",
    days: float | None = None,
    name: str = "",
    id: str | None = None,
    json: bool = False,
) -> int:
    """Make, list or revoke API keys of a service; a running service takes notice at once.

    To rotate a key, add a new one, hand it out, then revoke the old one.

    Args:
        action: add, list or revoke.
        data: the service's folder.
        collection: add: whose people the key is about; made when it is first used.
        scopes: add: of enroll, verify and admin (list, erase, new template keys), parted by commas.
        days: add: for how long, at most 36500; by default without end.
        name: add: a note on what it is for.
        id: revoke: which, as list shows it.
        json: print JSON.
    """
    import dataclasses
    import json as jsons

    from minusface.errors import MinusfaceError, choice_error
    from minusface.serve.keys import ApiKeys

    if action in ("list", "revoke") and not Path(data).is_dir():
        raise MinusfaceError(f"{data}: no such folder, expected a service's --data")
    held = ApiKeys(Path(data) / "keys.json")
    if action == "add":
        if collection is None:
            raise MinusfaceError("keys add: --collection is missing")
        wanted = tuple(part for part in scopes.split(",") if part)
        key, token = held.add(collection, wanted, days, name)
        print(jsons.dumps({"id": key.id, "token": token}) if json else token)
        return 0
    if action == "revoke":
        if id is None:
            raise MinusfaceError("keys revoke: --id is missing")
        held.revoke(id)
        print(f"{id}: revoked")
        return 0
    if action != "list":
        raise choice_error("action", action, ("add", "list", "revoke"))
    if json:
        hidden = [dataclasses.asdict(key) for key in held.all()]
        for entry in hidden:
            del entry["sha256"]
        print(jsons.dumps(hidden, indent=1))
        return 0
    if not held.all():
        print(f"{data}: no keys yet", file=sys.stderr)
    for key in held.all():
        end = "" if key.expires is None else f" until {_date(key.expires)}"
        print(f"{key.id}  {key.collection}  {','.join(key.scopes)}{end}  {key.name}".rstrip())
    return 0


def _date(seconds: float) -> str:
    """Of a time since 1970."""
    import time

    try:
        return time.strftime("%F", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        # Such keys were made before ends were checked; whoever lists them can still revoke them.
        return f"{seconds:g}"
