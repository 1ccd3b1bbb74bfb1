"""What a service cannot be started with is told in one line, by flag, variable or file."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import pytest

from minusface.cli import main
from minusface.serve.listen import check_tls, listening


@pytest.fixture
def refused(  # type: ignore[no-untyped-def]
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """Starts the command, which must fail; what it says."""
    monkeypatch.setenv("MINUSFACE_MASTER_KEY", "ab" * 32)

    def call(*given: str) -> str:
        assert main(["serve", str(exported), "--data", str(tmp_path / "data"), *given]) == 2
        said: str = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return call


def test_addresses_that_do_not_serve(refused) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--port", str(port))
    assert f"127.0.0.1:{port}: cannot listen (Address already in use; --host and --port" in said
    assert "nowhere.invalid:8080: cannot listen (" in refused("--host", "nowhere.invalid")
    assert "cannot listen (" in refused("--host", "192.0.2.1", "--port", "0")
    assert "cannot listen (" in refused("--host", "a..b" + "x" * 70)


def test_a_name_with_several_addresses_is_listened_at_all_of_them() -> None:
    sockets = listening("localhost", 0)
    try:
        assert {one.getsockname()[0] for one in sockets} <= {"127.0.0.1", "::1"}
        assert sockets
    finally:
        for one in sockets:
            one.close()


def test_settings_that_do_not_serve(refused, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    for name, value, words in (
        ("CORS_ORIGINS", "https://a.example", "MINUSFACE_CORS_ORIGINS: expected JSON"),
        ("CORS_ORIGINS", "[1]", "(MINUSFACE_CORS_ORIGINS)"),
        ("RATE", "nan", "(MINUSFACE_RATE)"),
        ("BURST", "inf", "(MINUSFACE_BURST)"),
        ("PORT", "x", "(--port or MINUSFACE_PORT)"),
        ("THRESHOLD", "2", "(--threshold or MINUSFACE_THRESHOLD)"),
        ("MASTER_KEY_FILE", "nope", "nope: cannot read the master key"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"MINUSFACE_{name}", value)
            assert words in refused("--port" if name != "PORT" else "--fmr", "0"), name


def pem(folder: Path) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day = datetime.datetime(2026, 1, 1)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, day, day + datetime.timedelta(900)
    )
    folder.mkdir()
    (folder / "cert.pem").write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    form = serialization.PrivateFormat.PKCS8
    for file, lock in (
        ("key.pem", serialization.NoEncryption()),
        ("locked.pem", serialization.BestAvailableEncryption(b"secret")),
    ):
        (folder / file).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))
    return folder / "cert.pem", folder / "key.pem"


def test_certificates_that_do_not_serve(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cert, key = pem(tmp_path / "a")
    _, other = pem(tmp_path / "b")
    check_tls(cert, key)
    text = tmp_path / "text.pem"
    text.write_text("no PEM")
    locked = cert.with_name("locked.pem")
    for given, named in (
        ((tmp_path / "nope.pem", key), "nope.pem: cannot read (No such file"),
        ((cert, tmp_path / "nope.pem"), "nope.pem: cannot read (No such file"),
        ((text, key), "text.pem: no certificate in PEM format"),
        ((key, key), "a/key.pem: no certificate in PEM format"),
        ((cert, text), "text.pem: expected the key of"),
        ((cert, other), "b/key.pem: expected the key of"),
        ((cert, locked), "locked.pem: expected the key of"),
    ):
        said = refused("--tls-certificate", str(given[0]), "--tls-key", str(given[1]))
        assert named in said
    assert "go together" in refused("--tls-certificate", str(cert))
