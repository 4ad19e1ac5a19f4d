"""A signed artifact is its maker's or is refused before any runtime opens it: bits, files, keys, every way to tamper (S-1, S-7)."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Case
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from export.documents.sign import load_signing_key, sign_manifest
from runtimes import session
from runtimes.artifact import artifact as artifact_module
from runtimes.artifact.artifact import read_artifact
from runtimes.artifact.signature import fingerprint, load_public_key
from runtimes.errors import FAILED, MISSING, USAGE, UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.session import open_session
from runtimes.verify import verify

Exported = Callable[[Case], Path]


def private_pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with key.pem, pub.pem and other.pem, the public key of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    key = ed25519.Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(private_pem(key))
    (folder / "pub.pem").write_bytes(public_pem(key))
    (folder / "other.pem").write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    return folder


@pytest.fixture
def signed(exported: Exported, keys: Path, tmp_path: Path) -> Path:
    """A signed copy that a test may damage."""
    folder = Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))
    sign_manifest(folder, load_signing_key(keys / "key.pem"))
    return folder


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever opens a model fails the test."""
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a runtime was asked to open the model")

    monkeypatch.setattr(session, "open_runtime", opened)
    monkeypatch.setattr("runtimes.verify.open_runtime", opened)
    monkeypatch.setattr("runtimes.models.operators.read_graph", opened)


def refused(folder: Path, key: Path) -> str:
    """The one reason why both doors refuse a folder, with exit code 1."""
    with pytest.raises(UserError) as by_session:
        open_session(folder, public_key=key, check=False)
    with pytest.raises(UserError) as by_verify:
        verify(folder, public_key=key)
    assert by_session.value.exit_code == by_verify.value.exit_code == FAILED
    assert str(by_session.value) == str(by_verify.value)
    return str(by_verify.value)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runtimes.cli", *arguments], capture_output=True, text=True, check=False)


def test_a_signed_artifact_opens_with_its_maker_s_key_and_says_whose_it_is(signed: Path, keys: Path) -> None:
    code, report = verify(signed, public_key=keys / "pub.pem")
    assert (code, report["signature"]) == (0, "good")
    assert report["signed_by"] == fingerprint(load_public_key(keys / "pub.pem")) == read_artifact(
        signed, public_key=str(keys / "pub.pem")).signed_by
    open_session(signed, public_key=keys / "pub.pem").close()
    run = command(str(signed), "--public-key", str(keys / "pub.pem"))
    assert (run.returncode, run.stderr) == (0, "")
    assert f"signed by key {report['signed_by']}" in run.stdout


def test_without_a_key_it_is_said_that_nobody_looked(signed: Path, exported: Exported) -> None:
    assert "NOT CHECKED" in command(str(signed)).stdout
    assert json.loads(command(str(signed), "--json").stdout)["signature"] == "not checked"
    _, report = verify(exported(Case()))
    assert (report["signature"], report["signed_by"]) == ("none", None)


@pytest.mark.usefixtures("no_runtime")
def test_every_file_is_covered_and_a_hundred_flipped_bits_are_all_refused(signed: Path, keys: Path) -> None:
    draw = random.Random(0)
    files = sorted(path for path in signed.rglob("*") if path.is_file())
    assert {"manifest.json", "manifest.sig", "model.onnx", "parity.json"} <= {path.name for path in files}
    for number in range(100):
        path = files[number % len(files)]
        whole = path.read_bytes()
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        refused(signed, keys / "pub.pem")
        path.write_bytes(whole)
    with pytest.raises(AssertionError, match="runtime"):  # whole again: now it would be opened
        verify(signed, public_key=keys / "pub.pem")


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize(("what", "told"), [
    ("stripped", "not signed"), ("added", "extra.bin is not named"), ("removed", "config.json is missing"),
    ("renamed", "config.json is missing"), ("linked folder", "more is not named"), ("a second signature", "manifest.sig is not named"),
    ("a linked signature", "not signed"), ("longer", "65 bytes, expected 64"), ("shorter", "63 bytes, expected 64"),
    ("empty", "0 bytes, expected 64"), ("resealed", "is not a signature of manifest.json"), ("a changed figure", "parity.json has other")])
def test_what_was_added_removed_renamed_or_sealed_anew_is_refused(signed: Path, keys: Path, tmp_path: Path, what: str, told: str) -> None:
    signature, config, parity = signed / "manifest.sig", signed / "config.json", signed / "parity.json"
    if what == "stripped":
        signature.unlink()
    elif what == "added":
        (signed / "extra.bin").touch()
    elif what == "removed":
        config.unlink()
    elif what == "renamed":
        config.rename(signed / "config2.json")
    elif what == "linked folder":
        (signed / "more").symlink_to(tmp_path)
    elif what == "a second signature":
        shutil.copy(signature, signed / "test_data_set_0")
    elif what == "a linked signature":
        shutil.move(signature, tmp_path / "elsewhere.sig")
        signature.symlink_to(tmp_path / "elsewhere.sig")
    elif what in ("longer", "shorter", "empty"):
        data = signature.read_bytes()
        signature.write_bytes({"longer": data + b"\0", "shorter": data[:-1], "empty": b""}[what])
    else:
        write_json(parity, {**read_json(parity), "flips": 7})
        if what == "resealed":
            manifest = read_json(signed / "manifest.json")
            write_manifest(signed, "artifact", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    assert told in refused(signed, keys / "pub.pem")


@pytest.mark.usefixtures("no_runtime")
def test_another_s_key_is_refused_by_name(signed: Path, keys: Path) -> None:
    assert "is not a folder" in refused(signed / "nowhere", keys / "pub.pem")
    said = refused(signed, keys / "other.pem")
    assert fingerprint(load_public_key(keys / "other.pem")) in said
    run = command(str(signed), "--public-key", str(keys / "other.pem"))
    assert run.returncode == FAILED
    assert run.stderr.startswith("error:")


def test_a_bad_public_key_is_a_usage_error_in_one_sentence(signed: Path, keys: Path, tmp_path: Path) -> None:
    bad = {"not there": None, "text": b"hello", "empty": b"", "large": b"-----BEGIN PUBLIC KEY-----" + bytes(1 << 17),
           "private key": (keys / "key.pem").read_bytes(), "rsa": public_pem(rsa.generate_private_key(65537, 2048)),
           "curve": public_pem(ec.generate_private_key(ec.SECP256R1())), "cut": (keys / "pub.pem").read_bytes()[:60],
           "certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "folder": None}
    (tmp_path / "folder").mkdir()
    for name, data in bad.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UserError, match="--public-key") as caught:
            verify(signed, public_key=path)
        assert caught.value.exit_code == USAGE, name
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert command(str(signed), "--public-key", str(tmp_path / "rsa")).returncode == USAGE


def test_without_the_library_nothing_passes_and_the_words_to_install_it_are_said(signed: Path, keys: Path) -> None:
    code = ("import sys\nsys.modules['cryptography'] = None\nsys.argv = ['rd-verify', *sys.argv[1:]]\n"
            "from runtimes.cli import verify_main\nverify_main()")
    run = subprocess.run([sys.executable, "-c", code, str(signed), "--public-key", str(keys / "pub.pem")], capture_output=True, text=True,
                         check=False)
    assert run.returncode == MISSING
    assert "pip install 'rd-distill[sign]'" in run.stderr
    plain = subprocess.run([sys.executable, "-c", code, str(signed)], capture_output=True, text=True, check=False)
    assert plain.returncode == 0, "a device that checks no signature needs no library for it"


def test_the_manifest_that_is_read_is_the_one_that_was_checked(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = artifact_module.signed_manifest

    def swapped(folder: Path, key: Path) -> tuple[bytes, str]:
        result = checked(folder, key)
        (folder / "manifest.json").write_text("{}")  # somebody is quick
        return result

    monkeypatch.setattr(artifact_module, "signed_manifest", swapped)
    assert read_artifact(signed, public_key=keys / "pub.pem").classes == ("a", "b", "c")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_makes_the_keys_checks_the_signature_and_writes_the_same_one(signed: Path, tmp_path: Path) -> None:
    def openssl(*arguments: str) -> bytes:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, check=True).stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem")
    name = sign_manifest(signed, load_signing_key(tmp_path / "key.pem"))
    manifest = str(signed / "manifest.json")
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", manifest, "-sigfile", str(signed / "manifest.sig"))
    openssl("pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", manifest, "-out", "other.sig")
    assert (tmp_path / "other.sig").read_bytes() == (signed / "manifest.sig").read_bytes()
    (tmp_path / "der").write_bytes(openssl("pkey", "-pubin", "-in", "pub.pem", "-outform", "DER"))
    assert name.removeprefix("sha256:") in openssl("dgst", "-sha256", "der").decode()


@pytest.mark.parametrize("files", [None, [], "model.onnx", {"a\0b": "0"}, {"\ud800": "0"}, {"/etc/passwd": "0"}, {"../x": "0"}, {"": "0"}])
def test_a_manifest_with_odd_files_is_refused_in_words(signed: Path, files: object) -> None:
    manifest = {**read_json(signed / "manifest.json"), "files": files}
    (signed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        verify(signed)


def test_an_engine_alone_is_never_accepted(signed: Path) -> None:
    """S-7: an engine is code for one GPU; it counts only beside the ONNX that it says it was built from."""
    manifest = read_json(signed / "manifest.json")
    (signed / "model.engine").write_bytes(b"engine")
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")}
    facts["artifact"] = {**facts["artifact"], "target": "trt", "model": "model.engine"}
    right = {"library": "tensorrt_rtx", "version": "1.7", "gpus": ["sm86"], "onnx_sha256": manifest["files"]["model.onnx"]}
    elsewhere = {**right, "onnx_sha256": "0" * 64}
    unsaid = {key: value for key, value in right.items() if key != "onnx_sha256"}
    for engine, told in ((elsewhere, "not built from the"), (unsaid, "not built from the"), ({}, "engine"), (None, "engine"),
                         ("x", "engine")):
        write_manifest(signed, "artifact", {**facts, "engine": engine})
        with pytest.raises(UserError, match=told):
            read_artifact(signed)
    write_manifest(signed, "artifact", {**facts, "engine": right})
    assert read_artifact(signed).model == "model.engine"
    shutil.move(signed / "model.onnx", signed.parent / "model.onnx")
    write_manifest(signed, "artifact", {**facts, "engine": right})
    with pytest.raises(UserError, match=r"does not name model\.onnx"):
        read_artifact(signed)
    shutil.move(signed.parent / "model.onnx", signed / "model.onnx")
