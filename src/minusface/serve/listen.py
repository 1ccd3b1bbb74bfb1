"""Where a service listens: addresses and certificates are tried before the gallery is opened."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from minusface.errors import MinusfaceError
from minusface.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listening(host: str, port: int) -> list[socket.socket]:
    """A bound socket for each address of a host.

    Raises:
        MinusfaceError: an unknown host, an address that is not this machine's, or a port in use.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for number, (family, _, _, _, address) in enumerate(found, 1):
            try:
                opened.append(_bound(family, address))
            except OSError as error:
                # localhost names ::1 on machines without IPv6 too.
                if error.errno not in ABSENT or (number == len(found) and not opened):
                    raise
    except (OSError, ValueError) as error:
        for one in opened:
            one.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise MinusfaceError(
            f"serve: {where}: cannot listen ({reason}; --host and --port, or MINUSFACE_HOST and _PORT)"
        ) from error
    return opened


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A service that starts again need not wait for the connections of the one before to be forgotten.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Otherwise it takes IPv4's port too, which has a socket of its own.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one


def check_tls(certificate: Path | None, key: Path | None) -> None:
    """Whether the files of a certificate and its key serve.

    Raises:
        MinusfaceError: one is missing, unreadable or something else; it is named.
    """
    if certificate is None or key is None:
        if certificate is not key:
            raise MinusfaceError("serve: --tls-certificate and --tls-key go together")
        return
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise MinusfaceError(f"{file}: cannot read ({error.strerror or error})") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except (ssl.SSLError, ValueError) as error:
        raise MinusfaceError(f"{certificate}: no certificate in PEM format") from error
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise MinusfaceError(
            f"{key}: expected the key of {certificate} in PEM format, without a password"
        ) from error


def run(app: ASGIApp, settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve until told to stop; what is under way is finished."""
    import uvicorn

    config = uvicorn.Config(
        app,
        # One process: the gallery's search and the rate limits live in it.
        workers=1,
        # Addresses and paths of every request would tell who was looked for when.
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=settings.proxy,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        timeout_keep_alive=30,
        # Of connections, idle ones too: what is beyond gets a plain 503 before anything is read.
        limit_concurrency=2 * (settings.in_flight + settings.downloads),
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets)
