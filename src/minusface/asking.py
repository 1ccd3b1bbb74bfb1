"""What a client minds when it asks a server: addresses, texts, proxies, tries, answers."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import urlsplit

from minusface.errors import MinusfaceError

FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerError(MinusfaceError):
    """What the server answered, or that it did not.

    ``status`` is HTTP's, 0 without an answer; ``error`` the server's word for it; ``unsure`` whether an
    earlier try of the same request may have been done.
    """

    unsure = False

    def __init__(self, message: str, status: int = 0, error: str = "") -> None:
        super().__init__(message)
        self.status, self.error = status, error


def make_http(httpx: Any, timeout: float, trust_env: bool) -> Any:
    """An httpx client; MinusfaceError for a proxy of the environment that cannot be used."""
    try:
        return httpx.Client(timeout=timeout, trust_env=trust_env)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        # Its address, which the message may hold, may hold a password.
        reason = (
            'a socks proxy needs: pip install "httpx[socks]"'
            if isinstance(error, ImportError)
            else "expected http://HOST:PORT, https:// or socks5://"
        )
        raise MinusfaceError(
            f"the proxy of the environment (HTTPS_PROXY, ALL_PROXY) cannot be used: {reason}"
        ) from None


def may_be_done(answer: Any) -> bool:
    """Whether a request may have been done in spite of a gateway's answer, or of a storage that failed."""
    if answer.status_code in (502, 504):
        return True
    try:
        said = answer.json()
    except ValueError:
        said = None
    # A gateway's own 503 is not the service's.
    word = said.get("error") if isinstance(said, dict) else None
    return answer.status_code == 503 and word != "busy"


def check_address(server: str, insecure: bool, httpx: Any) -> bool:
    """Whether a server is asked by TLS; MinusfaceError for plain http to others, and what is no address."""
    try:
        parts, _ = urlsplit(server), httpx.URL(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
    except (ValueError, httpx.InvalidURL) as error:
        raise MinusfaceError(f"server {server!r}: expected https://HOST[:PORT]") from error
    if parts.scheme == "http" and parts.hostname not in LOCAL and not insecure:
        raise MinusfaceError(
            f"server {server!r}: without TLS whoever listens could use the key; expected https"
        )
    return parts.scheme == "https"


def check_texts(**texts: str | None) -> None:
    """What came in another encoding than the system's holds half characters: MinusfaceError."""
    for what, text in texts.items():
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise MinusfaceError(f"{what} {text!r}: not UTF-8") from error


def pause(attempt: int, retry_after: str | None) -> float:
    """Seconds before the next try: what the server asks for, else doubling, with chance in it."""
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        return min(LONGEST_WAIT, float(retry_after))
    # Half of it by chance, so that many clients do not come back at once.
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def understood(server: str, answer: Any, unsure: bool) -> dict[str, Any]:
    """What a server says; ServerError where it is no success, or another program's answer."""
    try:
        said = answer.json()
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ServerError(
            f"{server}: status {answer.status_code}, no minusface service", answer.status_code
        )
    if answer.status_code != 200:
        word = str(said.get("error", ""))
        message = said.get("message", f"status {answer.status_code}")
        error = ServerError(f"{server}: {message}", answer.status_code, word)
        error.unsure = unsure
        raise error
    return said
