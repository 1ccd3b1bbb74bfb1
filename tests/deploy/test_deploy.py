"""What stands in deploy/: it parses, it is closed by default, and its lists agree with the package's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from minusface.serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# What the command line and the pictures need, beside the extras.
COMMON = {"numpy", "opencv-python-headless", "jsonargparse[signatures]", "rich"}


def named(lines: list[str]) -> dict[str, str]:
    """Requirements by name."""
    found = [re.match(r"([a-z0-9\-\[\]]+)(.*)", line, re.IGNORECASE) for line in lines]
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("extra", ["client", "serve"])
def test_the_lists_without_torch_are_the_extras(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = named(project["dependencies"])
    expected = named(project["optional-dependencies"][extra]) | {n: core[n] for n in COMMON}
    lines = (DEPLOY / f"requirements-{extra}.txt").read_text().splitlines()
    assert named([line for line in lines if not line.startswith("#")]) == expected
    assert "torch" not in expected


def test_the_compose_file_is_closed_by_default() -> None:
    made = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = made["services"]
    assert {name for name, s in services.items() if "profiles" not in s} == {"minusface"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not any(
            "PASSWORD:" in str(v) or "KEY" in str(v) for v in service.get("environment", {})
        )
        for secret in service.get("secrets", []):
            assert made["secrets"][secret]["file"].startswith("./secrets/")
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source.startswith("${") or source in made["volumes"], volume
        assert set(service["networks"]) <= set(made["networks"])
    own, database = services["minusface"], services["postgres"]
    assert own["user"] == "10001:10001"
    assert own["ports"] == ["127.0.0.1:8080:8080"]
    assert "/readyz" in own["healthcheck"]["test"][-1]
    assert "ports" not in database
    assert [made["networks"][n] for n in database["networks"]] == [{"internal": True}]
    for name in own["environment"]:
        assert name.removeprefix("MINUSFACE_").lower() in Settings.model_fields, name


def test_the_image_runs_as_nobody_and_without_torch() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "--no-deps ." in text
    assert "requirements-serve.txt" in text
    for name in re.findall(r"MINUSFACE_([A-Z_]+)=", text):
        assert name.lower() in Settings.model_fields, name
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / part).exists() for part in source.split()), source


def test_docker_takes_the_compose_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    command = [str(docker), "compose"]
    if docker is None or subprocess.run([*command, "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not here")
    environment = {"MINUSFACE_EXPORT": str(tmp_path), "PATH": str(Path(docker).parent)}
    for profile in ("tls", "postgres"):
        asked = [*command, "-f", str(DEPLOY / "compose.yaml"), "--profile", profile, "config", "-q"]
        result = subprocess.run(asked, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "minusface.service").read_text()
    for wanted in ("NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "UMask=0077"):
        assert wanted in text.splitlines()
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "minusface.service"
    # verify wants a program that is there.
    unit.write_text(text.replace("/opt/minusface/bin/minusface", sys.executable))
    result = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    said = [line for line in result.stderr.splitlines() if "minusface.service" in line]
    assert result.returncode == 0, result.stderr
    assert not said


def test_a_copy_of_a_running_service_brings_nobody_back(tmp_path: Path) -> None:
    """The documented backup and restore, across an erasure."""
    import numpy as np

    from minusface.index import LocalIndex

    data, copy = tmp_path / "data", tmp_path / "copy"
    index = LocalIndex(data / "gallery", 8, bytes(32))
    index.create("a")
    for number, name in enumerate(("Ann", "Bob", "Cem")):
        index.add("a", name, np.eye(8, dtype=np.float32)[number : number + 1])
    index.erase("a", "Cem")
    (data / "keys.json").write_text("{}")
    script = [sys.executable, str(DEPLOY / "backup.py"), str(data)]
    # While it is open, from another process.
    subprocess.run([*script, str(copy)], check=True)
    assert sorted(p.name for p in copy.iterdir()) == ["erased.log", "gallery.sqlite", "keys.json"]
    assert all(p.stat().st_mode & 0o077 == 0 for p in copy.iterdir())
    again = subprocess.run([*script, str(copy)], capture_output=True, text=True)
    assert (again.returncode, again.stderr[:7]) == (1, "backup:")
    index.erase("a", "Ann")
    index.close()
    # On the same machine erased.log is kept; on a new one it comes from the newest copy.
    for folder, people in ((data, ["Bob"]), (tmp_path / "new", ["Ann", "Bob"])):
        (folder / "gallery").mkdir(parents=True, exist_ok=True)
        for file in (folder / "gallery").glob("gallery.sqlite*"):
            file.unlink()
        shutil.copy(copy / "gallery.sqlite", folder / "gallery" / "gallery.sqlite")
        with (folder / "gallery" / "erased.log").open("ab") as log:
            log.write((copy / "erased.log").read_bytes())
        index = LocalIndex(folder / "gallery", 8, bytes(32))
        assert [p.name for p in index.people("a")] == people
        index.close()


def test_a_copy_of_a_service_with_a_database(tmp_path: Path) -> None:
    """Its gallery lies elsewhere; hashes of keys and what was erased are here."""
    data = tmp_path / "data"
    (data / "gallery").mkdir(parents=True)

    def run(copy: str, *more: str, folder: Path = data) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(DEPLOY / "backup.py"), str(folder), str(tmp_path / copy), *more]
        return subprocess.run(line, capture_output=True, text=True)

    (data / "keys.json").write_text("{}")
    (data / "erased.log").write_text("now\n")
    # Left behind by a gallery that was moved: who stands there stays erased, too.
    (data / "gallery" / "erased.log").write_text("before\n")
    done = run("copy", "--database")
    assert (done.returncode, done.stdout) == (0, "copied: erased.log, keys.json\n"), done.stderr
    assert (tmp_path / "copy" / "erased.log").read_text() == "before\nnow\n"
    # A gallery that is looked for and not there is no backup.
    wrong = run("other")
    assert (wrong.returncode, wrong.stderr[:7]) == (1, "backup:")
    assert "--database" in wrong.stderr
    assert not (tmp_path / "other").exists()
    assert run("none", "--database", folder=tmp_path / "none").returncode == 1


def pip_lines(name: str) -> list[str]:
    """What follows ``pip install`` in a page, comments aside."""
    text = (ROOT / "docs" / name).read_text()
    found = re.findall(r"pip install ([^`#\n]+)", text)
    return [line.strip() for line in found]


def test_what_the_pages_install_is_in_the_clone() -> None:
    """There is no package of this name on an index."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    lines = pip_lines("deploy.md")
    lists = [
        f"-c constraints.txt -r deploy/requirements-{name}.txt" for name in ("client", "serve")
    ]
    # The two kinds, then what systemd starts.
    assert lines == [lists[0], "--no-deps .", lists[1], "--no-deps .", lists[1], "--no-deps ."]
    assert all((ROOT / word).is_file() for line in lists for word in line.split()[1::2])
    (line,) = pip_lines("service.md")
    named = re.fullmatch(r'-c constraints\.txt -e "\.\[([a-z,]+)\]"', line)
    assert named is not None
    assert {"export", "serve", "client"} <= set(named[1].split(",")) <= set(extras)


def test_the_strictest_threshold_is_said_to_decide() -> None:
    """And how much it misses, as the default weights' card has it."""
    import json

    card = ROOT / "src" / "minusface" / "weights" / "default" / "card.json"
    points = json.loads(card.read_text())["metrics"]["thresholds"]
    strictest = max(points, key=lambda name: points[name]["threshold"])
    text = " ".join((ROOT / "docs" / "service.md").read_text().split())
    for name, words in (
        (strictest, "`, at which {:.0f} % of"),
        ("fmr_1e-2", "`, which misses {:.0f} %"),
    ):
        assert f"`{name}{words.format(100 * points[name]['fnmr'])}" in text
