"""The client's commands where torch cannot be imported: own processes, a live service, a real photo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from minusface.serve import images

# Refuses torch and what only training and the server need, also to libraries that could do without.
BLOCK = """
import sys

class Blocked:
    names = ("torch", "safetensors", "onnx", "onnxscript", "faiss", "fastapi", "skimage", "sklearn")

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""
COMMAND = """
from minusface.cli import main
code = main(sys.argv[1:])
assert not [name for name in sys.modules if name.partition(".")[0] in Blocked.names]
sys.exit(code)
"""


def test_the_commands_need_no_torch(
    start, live, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    # The tiny model was never trained: its protected images look like anything.
    monkeypatch.setattr(images, "looks_natural", lambda image: False)
    run = start(threshold=-1.0)
    port = live(run).port
    data = pytest.importorskip("skimage.data")
    photo = tmp_path / "astronaut.png"
    cv2.imwrite(str(photo), data.astronaut()[:, :, ::-1])
    environment = dict(os.environ, MINUSFACE_SERVER=f"http://127.0.0.1:{port}")
    environment |= {"MINUSFACE_CLIENT_MODEL": str(exported), "OMP_NUM_THREADS": "1"}
    environment["MINUSFACE_API_KEY"] = run.tokens["all"]

    def minusface(*given: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCK + COMMAND, *given]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    enrolled = minusface("enroll", "Eileen", str(photo))
    assert (enrolled.returncode, enrolled.stdout) == (0, "Eileen: 1 enrolled\n"), enrolled.stderr
    verified = minusface("verify", "Eileen", str(photo))
    assert verified.stdout.startswith("the same person (score "), verified.stderr
    found = minusface("identify", str(photo), "--json")
    assert json.loads(found.stdout)["matches"][0][0] == "Eileen", found.stderr
    blocked = [sys.executable, "-c", BLOCK + "import torch"]
    assert "torch is blocked" in subprocess.run(blocked, capture_output=True, text=True).stderr
