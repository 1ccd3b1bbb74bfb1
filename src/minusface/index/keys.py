"""Keys of a gallery: what a thief of the database lacks.

From one master key, kept outside the database, HKDF derives for each collection, its random salt and its
key version: an orthogonal matrix for templates, an AES-256-GCM key for what is stored, a key for names'
handles. Rotating all templates of a collection by one orthogonal matrix leaves every cosine within it as
it was, and makes cosines with any other collection, and with plain embeddings, those of unrelated
directions.

What it does not do: whoever holds plain templates and the rotated ones of the same images, D or more pairs,
can solve for the matrix. And a rotation keeps the shape of the cloud: whoever holds some hundreds of rotated
templates of either collection can lay the two over one another by their main axes and link people fairly
well, knowing nobody (``minusface audit``, unlinkability). Where templates are sealed, as in the embedded
index, the ciphertext guards against both as long as the master key is safe; a database that compares
rotated templates itself has no such guard.

Legend: D embedding.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import unicodedata
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.index.base import StorageError

MASTER_BYTES = 32
SALT_BYTES = 32
NONCE_BYTES = 12
KEPT_BYTES = 256 << 20
ENVIRONMENT = "MINUSFACE_MASTER_KEY"


def new_master() -> bytes:
    """A master key from the operating system's entropy."""
    return os.urandom(MASTER_BYTES)


def parse_master(text: str, where: str) -> bytes:
    """A master key from 64 hexadecimal digits.

    Raises:
        MinusfaceError: anything else; the text is not repeated.
    """
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != MASTER_BYTES:
        raise MinusfaceError(f"{where}: expected a master key of 64 hexadecimal digits")
    return key


def load_master(file: Path | str | None) -> bytes:
    """The master key of a file, or else of the environment: MINUSFACE_MASTER_KEY_FILE, MINUSFACE_MASTER_KEY.

    Raises:
        MinusfaceError: neither is there, the file is readable by others, or holds no key.
    """
    file = file or os.environ.get(f"{ENVIRONMENT}_FILE") or None
    if file is None:
        text = os.environ.get(ENVIRONMENT)
        if not text:
            raise MinusfaceError(
                f"no master key: name its file, or set {ENVIRONMENT}_FILE or {ENVIRONMENT} "
                "(make one with: minusface serve --new-master-key FILE)"
            )
        return parse_master(text, ENVIRONMENT)
    path = Path(file)
    try:
        text = path.read_text("ascii")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise MinusfaceError(f"{path}: cannot read the master key") from error
    if os.name == "posix" and mode & 0o077:
        raise MinusfaceError(f"{path}: others may read the master key (chmod 600 it)")
    return parse_master(text, str(path))


def check_of(master: bytes) -> str:
    """By which a database knows its master key again, without telling it: HMAC-SHA256, hexadecimal."""
    return hmac.digest(master, b"minusface/check", "sha256").hex()


class CollectionKeys:
    """The keys of one version of one collection.

    Args:
        master: 32 bytes.
        salt: of the collection, random; erased with it.
        version: counts re-keyings.
        dimension: D.
    """

    def __init__(self, master: bytes, salt: bytes, version: int, dimension: int) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        assert len(master) == MASTER_BYTES
        assert len(salt) == SALT_BYTES
        self.version = version

        def derived(purpose: str) -> bytes:
            return _hkdf(master, salt, f"minusface/{purpose}/{version}".encode())

        self._cipher = AESGCM(derived("seal"))
        self._handle = derived("handle")
        self.rotation = orthogonal(derived("rotation"), dimension)

    def rotate(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Templates (B, D) as they are stored and searched."""
        return (vectors.astype(np.float64) @ self.rotation.T).astype(np.float32)

    def unrotate(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The inverse of :meth:`rotate`."""
        return (vectors.astype(np.float64) @ self.rotation).astype(np.float32)

    def seal(self, data: bytes, place: bytes) -> bytes:
        """Encrypted and authenticated; opens only at the same ``place``."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """The inverse of :meth:`seal`.

        Raises:
            StorageError: another key, another place, or altered bytes.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as error:
            raise StorageError(
                "index: another master key than it was made with, or altered data"
            ) from error

    def handle(self, text: str) -> bytes:
        """By which a name is found without being stored: HMAC-SHA256 of its composed form (NFC), as names
        that look alike are one, however they were typed."""
        return hmac.digest(self._handle, unicodedata.normalize("NFC", text).encode(), "sha256")


class KeyRing:
    """Keys of those collections that were asked for last: a rotation takes milliseconds to derive.

    Args:
        master: 32 bytes.
        dimension: D.
        most: keys that are kept; by default 256 MiB of them.
    """

    def __init__(self, master: bytes, dimension: int, most: int | None = None) -> None:
        self._master, self._dimension = master, dimension
        self._most = most or max(16, KEPT_BYTES // (8 * dimension**2))
        self._mutex = threading.Lock()
        self._held: OrderedDict[tuple[bytes, int], CollectionKeys] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, salt: bytes, version: int) -> CollectionKeys:
        """Kept, or derived."""
        with self._mutex:
            found = self._held.get((salt, version))
            if found is None:
                found = CollectionKeys(self._master, salt, version, self._dimension)
            self._keep(salt, found)
            return found

    def keep(self, salt: bytes, keys: CollectionKeys) -> None:
        """Take in keys that were derived elsewhere."""
        with self._mutex:
            self._keep(salt, keys)

    def change(self, master: bytes) -> None:
        """From here on keys are derived from another master key."""
        with self._mutex:
            self._master = master
            self._held.clear()

    def _keep(self, salt: bytes, keys: CollectionKeys) -> None:
        self._held[salt, keys.version] = keys
        self._held.move_to_end((salt, keys.version))
        while len(self._held) > self._most:
            self._held.popitem(last=False)


def orthogonal(seed: bytes, dimension: int) -> npt.NDArray[np.float64]:
    """A uniformly distributed orthogonal matrix (D, D), the same for the same seed on every machine.

    QR of Gaussians made from SHAKE-256 by hand: numpy's own streams may change between its versions.
    """
    count = dimension * dimension
    raw = np.frombuffer(hashlib.shake_256(seed).digest(16 * count), "<u8")
    # 53 bits each, in (0, 1): the logarithm below must not meet a zero.
    uniform = ((raw >> 11).astype(np.float64) + 0.5) / 2.0**53
    radius = np.sqrt(-2.0 * np.log(uniform[:count]))
    gaussian = (radius * np.cos(2.0 * np.pi * uniform[count:])).reshape(dimension, dimension)
    q, r = np.linalg.qr(gaussian)
    # The signs of R's diagonal are the algorithm's choice; fixed, the distribution is uniform.
    return np.asarray(q * np.sign(np.diag(r)), np.float64)


def _hkdf(master: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(master)
