"""Files are read once, as plain files of a plausible size; a device answers from the bytes that were hashed, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Case, random_images
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from onnx import numpy_helper

from export.documents.sign import load_signing_key, sign_manifest
from runtimes.artifact.artifact import read_artifact
from runtimes.errors import DONE, UserError
from runtimes.files.folder import changed_files, read_json, sha256_file, write_json, write_manifest
from runtimes.files.reading import MANIFEST_BYTES, read_file
from runtimes.session import open_session
from runtimes.verify import verify

Exported = Callable[[Case], Path]
IMAGES = np.stack(random_images(Case(), 3))
Swap = Callable[[Path, Path], None]


def renamed(source: Path, target: Path) -> None:
    """Another file under the name, at once."""
    copy = source.with_suffix(".copy")
    shutil.copy(source, copy)
    os.replace(copy, target)


def in_place(source: Path, target: Path) -> None:
    """Other bytes in the same file."""
    target.write_bytes(source.read_bytes())


def linked(source: Path, target: Path) -> None:
    """A link to another file under the name."""
    target.unlink()
    target.symlink_to(source)


@pytest.fixture
def signed(exported: Exported, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A signed artifact, another one that answers otherwise and whose manifest agrees with it, and the public key of the first."""
    folder = Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "pub.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    model = onnx.load(other / "model.onnx")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("fc.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([3, 0, -3]), bias.name))
    (other / "model.onnx").write_bytes(model.SerializeToString())
    logits = onnx.TensorProto.FromString((other / "test_data_set_0/output_0.pb").read_bytes())
    changed = numpy_helper.from_array(numpy_helper.to_array(logits) + np.float32([3, 0, -3]), "logits")
    (other / "test_data_set_0/output_0.pb").write_bytes(changed.SerializeToString())
    facts = {name: value for name, value in read_json(other / "manifest.json").items() if name not in ("kind", "format", "files")}
    write_manifest(other, "artifact", facts)
    sign_manifest(folder, load_signing_key(tmp_path / "key.pem"))
    return folder, other, tmp_path / "pub.pem"


SWAPPED = ("model.onnx", "test_data_set_0/output_0.pb", "manifest.json")


@pytest.mark.parametrize("swap", [renamed, in_place, linked])
@pytest.mark.parametrize("before", [True, False], ids=["before a read", "after a read"])
def test_a_file_swapped_at_any_read_never_answers_as_signed(signed: tuple[Path, Path, Path], tmp_path: Path, swap: Swap, before: bool,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other, key = signed
    expected = open_session(folder, public_key=key).run(IMAGES).logits
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    reads, chosen = 0, -1

    def reading(path: Path, most_bytes: int) -> bytes:
        nonlocal reads
        data = read_file(path, most_bytes) if not (before and reads == chosen) else b""
        if reads == chosen:
            for name in SWAPPED:
                swap(other / name, folder / name)
        reads += 1
        return data or read_file(path, most_bytes)

    for module in ("artifact.artifact", "files.folder", "artifact.signature"):
        monkeypatch.setattr(f"runtimes.{module}.read_file", reading)
    ends = {"refused": 0, "signed": 0}
    for turn in range(-1, 9):
        chosen = turn
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        reads = 0
        try:
            session = open_session(folder, public_key=key)
            assert np.array_equal(session.run(IMAGES).logits, expected)
            ends["signed"] += 1
        except UserError:
            ends["refused"] += 1
        reads, code = 0, None
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        try:
            code, report = verify(folder, public_key=key)
        except UserError:
            continue
        assert (code, report["signature"]) == (DONE, "good")
        assert report["model_sha256"] == sha256_file(whole / "model.onnx")
        assert report["difference"] < 1e-3, "the golden vectors are those of the signed model"
    assert min(ends.values()) >= 1, ends


@pytest.mark.parametrize("swap", [renamed, in_place])
def test_a_thread_that_swaps_files_all_the_while_never_gets_another_answer(signed: tuple[Path, Path, Path], tmp_path: Path,
                                                                        swap: Swap) -> None:
    folder, other, key = signed
    expected = open_session(folder, public_key=key).run(IMAGES).logits
    whole, stop = Path(shutil.copytree(folder, tmp_path / "whole")), threading.Event()

    def swapping() -> None:
        while not stop.is_set():
            for source in (other, whole):
                for name in SWAPPED[:2]:
                    swap(source / name, folder / name)

    thread = threading.Thread(target=swapping)
    thread.start()
    refused = 0
    try:
        for _ in range(40):
            try:
                assert np.array_equal(open_session(folder, threads=1, public_key=key).run(IMAGES).logits, expected)
            except UserError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert refused, "nothing was ever caught, so nothing was tried"


def test_an_unsigned_artifact_takes_the_same_road_and_nothing_is_unread_by_check_false(signed: tuple[Path, Path, Path]) -> None:
    folder, other, _ = signed
    artifact = read_artifact(folder)
    renamed(other / "model.onnx", folder / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx has other bytes"):
        artifact.model_bytes()
    with pytest.raises(UserError, match=r"model\.onnx has other bytes"):
        open_session(folder, check=False)
    assert hashlib.sha256(read_artifact(other).model_bytes()[0]).hexdigest() == read_artifact(other).model_sha256


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "a pipe"), "a folder": (Path.mkdir, "a folder"), "a socket": (socket_at, "a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a (device|link)"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "(symbolic links|a link)"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "(No such file|a link)"),
    "six sparse gigabytes": (lambda path: (path.touch(), os.truncate(path, 6 << 30)), "6,442,450,944 bytes; expected at most"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "config.json", "test_data_set_0/input_0.pb", "README.md"])
def test_what_is_no_plain_file_of_a_plausible_size_is_refused_at_once(exported: Exported, tmp_path: Path, name: str, file: str) -> None:
    folder = Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))
    make, told = ODD[name]
    (folder / file).unlink()
    make(folder / file)
    for opened in (read_artifact, open_session, verify):
        with pytest.raises(UserError, match=f"{told}|no manifest" if file == "manifest.json" else told) as caught:
            opened(folder)
        assert "\n" not in str(caught.value)
    if file != "manifest.json":
        with pytest.raises(UserError):
            read_file(folder / file, MANIFEST_BYTES)


@pytest.mark.parametrize("name", ["../manifest.json", "./model.onnx", "test_data_set_0/../model.onnx", "/etc/hostname", "", "a//b", "a\0b",
                                  "\ud800", "x" * 4000, "model.onnx/inside", "\x1b[2J"])
def test_a_manifest_names_files_of_its_folder_alone(exported: Exported, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))
    manifest = read_json(folder / "manifest.json")
    problems = changed_files(folder, {**manifest, "files": {**manifest["files"], name: "0"}})
    assert len(problems) == 1
    assert problems[0].isprintable()
    assert len(problems[0]) < 400


def test_folders_within_folders_without_end_and_links_in_circles_are_walked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "x.json", {})
    write_manifest(tmp_path / "a", "artifact", {})
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    place = tmp_path / "a"
    for _ in range(300):
        place = place / "d"
    place.mkdir(parents=True)
    (place / "deep").touch()
    problems = changed_files(tmp_path / "a", read_json(tmp_path / "a" / "manifest.json"))
    assert sorted(one.split(" is ")[0].split("/")[-1] for one in problems) == ["circle", "deep"]


def test_a_file_of_exactly_the_limit_is_read_and_a_byte_more_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "a", 100) == read_file(tmp_path / "link", 100) == b"x" * 100
    with pytest.raises(UserError, match="100 bytes; expected at most 99"):
        read_file(tmp_path / "a", 99)
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path / "b", 99)
