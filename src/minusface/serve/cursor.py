"""Where a list goes on, sealed: a row's number counts the rows of all tenants, and so tells of others."""

from __future__ import annotations

import base64
import binascii
import hmac
import os

from minusface.errors import MinusfaceError

NUMBER, NONCE, TAG = 8, 12, 16


class Cursors:
    """Numbers to words and back; a word opens in its own collection only.

    Args:
        master: from which the key is derived, so that a cursor outlives a restart.
    """

    def __init__(self, master: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(hmac.digest(master, b"minusface/cursor", "sha256"))

    def seal(self, collection: str, number: int) -> str:
        """A number as a word, another each time."""
        nonce = os.urandom(NONCE)
        sealed = self._cipher.encrypt(nonce, number.to_bytes(NUMBER), collection.encode())
        return base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, collection: str, word: str) -> int:
        """The inverse of :meth:`seal`.

        Raises:
            MinusfaceError: a word that was not given out for this collection.
        """
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(word, b"-_", validate=True)
            if len(sealed) != NONCE + NUMBER + TAG:
                raise ValueError
            number = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], collection.encode())
        except (binascii.Error, ValueError, InvalidTag) as error:
            raise MinusfaceError("after: expected what the page before gave") from error
        return int.from_bytes(number)
