"""Nothing of ours speaks to anybody unasked: all that a process would send is caught by a proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minusface.export import export
from tests.products import tiny_checkpoint

# Told nothing, onnxruntime 1.32 spoke first 9 seconds after a model was opened (twice measured).
WAIT = 13
CODE = """
import sys, time
from minusface.runtime import ClientModel, RecognizerModel
ClientModel(sys.argv[1], threads=1), RecognizerModel(sys.argv[1], threads=1)
time.sleep({wait})
"""


def calls(code: str, folder: Path) -> list[bytes]:
    """First lines of what a process that runs the code says to its proxy."""
    said: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            said.append(connection.recv(200).split(b"\r\n")[0])
            connection.close()

    threading.Thread(target=listen, daemon=True).start()
    proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    quiet = ("no_proxy", "ort_disable_telemetry")
    kept = {name: value for name, value in os.environ.items() if name.lower() not in quiet}
    kept |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
    command = [sys.executable, "-c", code, str(folder)]
    result = subprocess.run(command, env=kept, capture_output=True, text=True)
    server.close()
    assert result.returncode == 0, result.stderr
    return said


def test_models_are_opened_in_silence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export(tiny_checkpoint(tmp_path / "checkpoint"), tmp_path / "out")
    assert calls(CODE.format(wait=WAIT), tmp_path / "out") == []
