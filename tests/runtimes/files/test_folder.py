"""Folders appear whole or not at all, whatever happens, and a manifest finds every change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimes.errors import UserError
from runtimes.files.folder import (
    changed_files,
    check_files,
    read_json,
    read_manifest,
    sha256_file,
    write_atomic,
    write_json,
    write_manifest,
)


def finished(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, "artifact", {"facts": 1})


def test_every_change_of_a_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    finished(folder, {"a": b"1", "deep/b": b"2", "c": b"3"})
    manifest = read_manifest(folder, "artifact")
    assert changed_files(folder, manifest) == []
    assert manifest["files"]["deep/b"] == sha256_file(folder / "deep" / "b")
    (folder / "a").write_bytes(b"x")
    (folder / "deep" / "b").unlink()
    (folder / "added").touch()
    (folder / "c").unlink()
    (folder / "c").symlink_to(folder / "a")
    problems = changed_files(folder, manifest)
    assert len(problems) == 4
    for name, word in (("a ", "bytes"), ("deep/b", "missing"), ("added", "not named"), ("c ", "link")):
        assert any(problem.startswith(name) and word in problem for problem in problems), (name, problems)
    with pytest.raises(UserError, match="not what was written"):
        check_files(folder, manifest)


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1")
    folder = tmp_path / "artifact"
    finished(folder, {"a": b"1"})
    for name in ("../secret", str(tmp_path / "secret")):
        write_json(folder / "manifest.json", {"kind": "artifact", "format": 1, "files": {
            "a": sha256_file(folder / "a"), name: sha256_file(tmp_path / "secret")}})
        assert any("outside" in problem for problem in changed_files(folder, read_manifest(folder, "artifact")))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_single_flipped_bit_is_found(tmp_path: Path, position: int, bit: int) -> None:
    folder = tmp_path / "artifact"
    if not folder.exists():
        finished(folder, {"model.onnx": os.urandom(2000), "config.json": b"{}" * 50})
    manifest = read_manifest(folder, "artifact")
    path = folder / ("model.onnx" if position % 2 else "config.json")
    good = path.read_bytes()
    bad = bytearray(good)
    bad[position % len(bad)] ^= 1 << bit
    path.write_bytes(bad)
    assert changed_files(folder, manifest)
    path.write_bytes(good)
    assert not changed_files(folder, manifest)


def test_folders_of_another_kind_or_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(tmp_path / "none", "artifact")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        read_manifest(tmp_path, "artifact")
    finished(tmp_path / "a", {})
    with pytest.raises(UserError, match="kind"):
        read_manifest(tmp_path / "a", "student", "teacher")
    write_json(tmp_path / "a" / "manifest.json", {"kind": "artifact", "format": 99})
    with pytest.raises(UserError, match="format"):
        read_manifest(tmp_path / "a", "artifact")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"3"])
def test_broken_json_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(UserError, match=r"some\.json"):
        read_json(tmp_path / "some.json")


def test_nan_never_gets_into_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()
    write_json(tmp_path / "a.json", {"b": "ä"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"b": "ä"}


def test_a_killed_writer_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    code = ("import sys; from pathlib import Path; from runtimes.files.folder import write_atomic\n"
            "path, number = Path(sys.argv[1]), 0\n"
            "while True:\n    write_atomic(path, bytes([number % 256]) * 300_000); number += 1; print(number, flush=True)\n")
    write_atomic(path, bytes(300_000))
    for trial in range(4):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.005 * trial)
            child.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
