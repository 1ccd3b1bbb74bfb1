"""The page at ``/``: static files of this package, and the client's model out of the export folder.

The work is done in the browser. Nothing here reads a photo, nor could: what is served is fixed at the start.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from minusface.runtime import ExportCard

WEB = Path(__file__).parent / "web"
PAGES = ("app", "ask", "frame", "png", "protect", "quality", "secret")
# What `make web` copies out of npm's onnxruntime-web.
ORT = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "LICENSE")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"} | {
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
# The last two let the browser share memory between threads.
HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
}


class Checked:
    """A file that is given away as long as it is the one that was named.

    It is hashed when it has changed, and not for each who asks: anybody may ask, without a key.

    Args:
        path: it may be missing.
        sha256: of it.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self._sha256 = path, sha256
        self._mutex = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._right = False
        self.intact()

    def intact(self) -> os.stat_result | None:
        """What the system says of the file; None if it is missing or another."""
        with self._mutex:
            try:
                about = os.stat(self.path)
                stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
                if stamp != self._stamp:
                    with open(self.path, "rb") as file:
                        digest = hashlib.file_digest(file, "sha256")
                    self._right = digest.hexdigest() == self._sha256
                    self._stamp = stamp
            except OSError:
                return None
            return about if self._right else None


def site_routes(folder: Path, card: ExportCard) -> APIRouter:
    """Routes of the page and of what it loads.

    Args:
        folder: the export folder, for client.onnx.
        card: its card.
    """
    router = APIRouter(include_in_schema=False)
    entry = card.files["client"]["float32"]
    model = Checked(folder / Path(str(entry["name"])).name, str(entry["sha256"]))
    allowed = {f"{name}.js": WEB / f"{name}.js" for name in PAGES}
    allowed["style.css"] = WEB / "style.css"
    allowed |= {f"ort/{name}": WEB / "ort" / name for name in ORT}

    @router.get("/")
    def page() -> Response:
        return _file(WEB / "index.html")

    @router.get("/web/models/about.json")
    def about() -> Response:
        said = {"size": card.size, "channels": card.channels, "copies": card.n_duplicate}
        said |= {"tries": card.usual_tries}
        return JSONResponse(said | {"model": card.fingerprint}, headers=HEADERS)

    @router.get("/web/models/client.onnx")
    def client() -> Response:
        about = model.intact()
        if about is None:
            return _missing("The server's export folder holds no intact client.onnx for this page.")
        kind = "application/octet-stream"
        return FileResponse(model.path, media_type=kind, headers=HEADERS, stat_result=about)

    @router.get("/web/{name:path}")
    def asset(name: str) -> Response:
        if name not in allowed:
            return _missing("There is no such file.")
        if not allowed[name].is_file():
            return _missing("onnxruntime-web is not in this installation: run make web.")
        return _file(allowed[name])

    return router


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=TYPES.get(path.suffix, "text/plain"), headers=HEADERS)


def _missing(message: str) -> Response:
    return JSONResponse({"error": "http", "message": message}, 404, HEADERS)
