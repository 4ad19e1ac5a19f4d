"""rd-export --sign: which keys are taken, what is told of the others before any work, what is left in the artifact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Case, image_set, write_student
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

from export.commands import export
from export.config import ExportSettings
from export.documents.sign import load_signing_key, sign_manifest, signed_by
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.verify import verify

KEY = ed25519.Ed25519PrivateKey.generate()
PLAIN = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
LOCKED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
OPENSSH = KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
EXCHANGE = x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def place(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes a key file."""
    def write(data: bytes) -> Path:
        (tmp_path / "key.pem").write_bytes(data)
        return tmp_path / "key.pem"

    return write


def test_an_encrypted_key_takes_its_password_from_the_environment(place: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RD_SIGN_PASSWORD", raising=False)
    with pytest.raises(UserError, match="encrypted; put its password into the environment variable RD_SIGN_PASSWORD"):
        load_signing_key(place(LOCKED))
    monkeypatch.setenv("RD_SIGN_PASSWORD", "guess")
    with pytest.raises(UserError, match="does not open it"):
        load_signing_key(place(LOCKED))
    monkeypatch.setenv("RD_SIGN_PASSWORD", "secret")
    for data in (LOCKED, PLAIN):  # a password lying about does no harm to a key that has none
        assert load_signing_key(place(data)).public_key() == KEY.public_key()


@pytest.mark.parametrize(("data", "told"), [
    (b"hello", "not a PEM file"), (b"", "not a PEM file"), (bytes(1 << 17), "not a PEM file"), (PUBLIC, "holds a public key"),
    (EXCHANGE, "X25519 key, expected Ed25519"), (OPENSSH, "no private key can be read from its OPENSSH PRIVATE KEY"),
    (PLAIN[:60], "no private key can be read"), (b"-----BEGIN CERTIFICATE-----\n", "no private key can be read from its CERTIFICATE")],
    ids=["text", "empty", "zeros", "public", "exchange", "openssh", "cut short", "certificate"])  # never the keys: they are new each time
def test_what_is_no_signing_key_is_told_before_any_work(place: Callable[[bytes], Path], tmp_path: Path, data: bytes, told: str) -> None:
    settings = ExportSettings(student_dir=tmp_path / "not even a student", out=tmp_path / "out", sign=place(data))
    with pytest.raises(UserError, match=told) as caught:
        export(settings, "")
    assert caught.value.exit_code == USAGE
    assert f"--sign {tmp_path / 'key.pem'}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_there_and_a_library_that_is_not_there_are_told(tmp_path: Path, place: Callable[[bytes], Path],
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="No such file") as caught:
        load_signing_key(tmp_path / "none.pem")
    assert caught.value.exit_code == USAGE
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(UserError, match=r"rd-distill\[sign\]") as caught:
        load_signing_key(place(PLAIN))
    assert caught.value.exit_code == MISSING


def test_an_export_is_signed_names_no_key_file_and_is_finished_only_with_its_signature(
        tmp_path: Path, place: Callable[[bytes], Path], capsys: pytest.CaptureFixture[str]) -> None:
    write_student(tmp_path / "student", Case())
    key = place(PLAIN)
    (tmp_path / "pub.pem").write_bytes(PUBLIC)
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, golden_images=8, sign=key, resume=True)
    assert export(settings, f"rd-export --sign={key}", lambda checkpoint: image_set(Case())) == 0
    said = capsys.readouterr().out
    assert "manifest.sig by key sha256:" in said
    assert "--public-key pub.pem" in said.splitlines()[-1]
    code, report = verify(tmp_path / "out", public_key=tmp_path / "pub.pem")
    assert (code, report["signature"]) == (0, "good")
    assert len((tmp_path / "out" / "manifest.sig").read_bytes()) == 64
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or (str(tmp_path).encode() not in path.read_bytes() and PLAIN[30:60] not in path.read_bytes()), path
    assert export(settings, "", lambda checkpoint: image_set(Case())) == 0
    assert "finished already" in capsys.readouterr().out
    assert export(replace(settings, sign=None), "", lambda checkpoint: image_set(Case())) == 0  # signed is more than asked for
    (tmp_path / "out" / "manifest.sig").unlink()
    assert not signed_by(tmp_path / "out", KEY)
    with pytest.raises(UserError, match="not empty"):
        export(settings, "", lambda checkpoint: image_set(Case()))
    sign_manifest(tmp_path / "out", ed25519.Ed25519PrivateKey.generate())
    assert not signed_by(tmp_path / "out", KEY)
