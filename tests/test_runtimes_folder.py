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

from runtimes.errors import USAGE, UserError
from runtimes.folder import (
    changed_files,
    check_files,
    check_out,
    new_folder,
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


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failing_block_leaves_nothing_and_keeps_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out, {"old": b"1"})

    def half() -> None:
        with new_folder(out, overwrite=True) as folder:
            (folder / "new").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwriting_replaces_the_whole_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out, {"old": b"1"})
    with new_folder(out, overwrite=True) as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in out.iterdir()] == ["new"]


def test_orphans_of_killed_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp-123").mkdir()
    (tmp_path / ".out.tmp-123" / "half").touch()
    with new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_moved_aside_by_a_killed_replacement_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp-old-123").mkdir()
    (tmp_path / ".out.tmp-old-123" / "result").write_text("kept")
    with pytest.raises(UserError, match="not empty"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "result").read_text() == "kept"


def test_a_used_output_is_refused_as_usage_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_out(tmp_path / "out", overwrite=False)
    (tmp_path / "out" / "a").touch()
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        with pytest.raises(UserError) as caught:
            check_out(tmp_path / name, overwrite=False)
        assert caught.value.exit_code == USAGE
    check_out(tmp_path / "out", overwrite=True)


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"below .*file, which is a file"):
        check_out(tmp_path / "file" / "deep" / "out", overwrite=True)
    check_out(tmp_path / "new" / "deep" / "out", overwrite=False)
    locked = str(tmp_path)  # rights are asked of the system, and root has them all
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != locked)
    with pytest.raises(UserError, match="no right to write in") as caught:
        check_out(tmp_path / "new" / "deep" / "out", overwrite=False)
    assert caught.value.exit_code == USAGE


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
    with pytest.raises(UserError, match="not a folder"):
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
    code = ("import sys; from pathlib import Path; from runtimes.folder import write_atomic\n"
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
