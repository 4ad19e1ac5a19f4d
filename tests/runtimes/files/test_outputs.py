"""A command writes only where nothing of anybody else's lies, and a folder appears whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.run import opened_run, start_run
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import write_manifest
from runtimes.files.lock import lock_file, writer_note
from runtimes.files.outputs import check_apart, check_out, claimed, foreign_entries, new_folder


def finished(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, "artifact", {"facts": 1})


def refused(out: Path, *, overwrite: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        check_out(out, overwrite=overwrite)
    assert caught.value.exit_code == USAGE
    return str(caught.value)


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
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwriting_spares_what_was_added_to_a_folder_or_changed_in_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out, {"old": b"1", "deep/old": b"2"})
    (out / ".DS_Store").write_bytes(b"a file manager was here")
    check_out(out, overwrite=True)
    (out / "deep" / "notes.txt").write_text("mine")
    assert "deep/notes.txt" in refused(out)
    (out / "deep" / "notes.txt").unlink()
    (out / "link").symlink_to(tmp_path)
    assert "link" in refused(out)
    (out / "link").unlink()
    (out / "old").write_bytes(b"my own words")
    assert "old (changed since)" in refused(out)
    (out / "old").write_bytes(b"1")
    check_out(out, overwrite=True)


def test_a_manifest_that_is_not_ours_makes_nothing_ours(tmp_path: Path) -> None:
    for number, text in enumerate(['{"kind": "webapp", "files": {}}', "[]", "{", '{"kind": "student", "files": []}', "{}"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "manifest.json").write_text(text)
        assert "manifest.json" in refused(folder)


def test_what_came_to_lie_in_the_folder_meanwhile_is_kept_and_so_is_the_work(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def replaced_meanwhile() -> None:
        with new_folder(out, overwrite=True) as folder:
            (folder / "new").write_text("2")
            out.mkdir()
            (out / "mine").write_text("1")

    with pytest.raises(UserError, match=r"out\.new-1"):
        replaced_meanwhile()
    assert (out / "mine").read_text() == "1"
    assert (tmp_path / "out.new-1" / "new").read_text() == "2"


def test_only_temporary_folders_of_dead_writers_are_swept(tmp_path: Path) -> None:
    for name in (".out.tmp-123", ".out.tmp-124", ".out.tmp-125", ".out.tmp-notes", ".other.tmp-123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    (tmp_path / ".out.tmp-123.writer").write_text(json.dumps({**writer_note(), "pid": 999999}))
    (tmp_path / ".out.tmp-124.writer").write_text(json.dumps({**writer_note(), "host": "another"}))
    with new_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.tmp-123", ".out.tmp-124", ".out.tmp-124.writer", ".out.tmp-125", ".out.tmp-notes", "out"]


@pytest.mark.parametrize("name", ["out", "out[v2]", "*", "o?t", "[!a]", "öut ä"])
def test_a_folder_moved_aside_by_a_killed_replacement_comes_back_whatever_its_name(tmp_path: Path, name: str) -> None:
    finished(tmp_path / f".{name}.tmp-old-123", {"result": b"kept"})
    (tmp_path / ".other.tmp-old-123").mkdir()
    with pytest.raises(UserError, match="not empty"), new_folder(tmp_path / name):
        pass
    assert (tmp_path / name / "result").read_bytes() == b"kept"
    assert (tmp_path / ".other.tmp-old-123").is_dir()
    finished(tmp_path / f".{name}.tmp-old-7", {"result": b"old"})  # killed after both renames: the new one stays
    with new_folder(tmp_path / name, overwrite=True) as folder:
        (folder / "new").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".other.tmp-old-123", name])


def test_a_used_output_is_refused_as_usage_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_out(tmp_path / "out", overwrite=False)
    (tmp_path / "out" / "a").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name in ("out", "file", "pipe"):
        refused(tmp_path / name, overwrite=False)
    refused(tmp_path / "out")


def test_names_that_mean_no_folder_of_their_own_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "deep").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "deep")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "here").symlink_to(tmp_path / "work")
    for name in ("", ".", "..", "/", "../../home", "../../loop", "../../here", "x/../..", "a\nb", "a\u202eb", "a\udcffb", "x" * 240,
                 "x" * 300, "/proc", "~", "~/x"):
        refused(Path(name))
    for name in ("x", "x/../y", "*", "[a]", "-x", "a b", "ä", "x" * 200, "../student"):
        check_out(Path(name), overwrite=True)


def test_an_output_inside_a_finished_folder_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "student", {"a": b"1"})
    assert "has finished" in refused(tmp_path / "student" / "deep" / "out")


def test_an_output_that_is_a_link_is_written_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").mkdir()
    (tmp_path / "link").symlink_to("disk/old")
    (tmp_path / "dangling").symlink_to("disk/new")
    for name in ("link", "dangling"):
        with new_folder(tmp_path / name) as folder:
            assert folder.parent == tmp_path / "disk"
            (folder / "a").write_text(name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name / "a").read_text() == name


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


def test_outputs_lie_apart_from_inputs_and_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "labels.csv").touch()
    for out, data in (("data", "data"), ("data/deep", "data"), ("data/new", "data"), (".", "data"), ("link", "data"), ("link/new", "data"),
                      ("data", "link"), ("data/deep", "link"), ("x/../data", "data"),
                      (str(tmp_path), "labels.csv"), ("data", "link/deep")):
        with pytest.raises(UserError, match="which this run reads") as caught:
            check_apart({"--out": out}, {"--data": data})
        assert caught.value.exit_code == USAGE
    for out, data in (("out", "data"), ("database", "data"), ("out", "labels.csv"), ("data-out", "link"),
                      ("out", "phantom"), ("out", None), ("new", "new"), (".", "resnet18")):
        check_apart({"--out": out}, {"--data": data})
    with pytest.raises(UserError, match="which this run writes, too"):
        check_apart({"--out": "out", "--bank": "out/bank"}, {})


NESTED = """
import sys
from pathlib import Path
from runtimes.files.outputs import new_folder
with new_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "a").write_text("first")
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_of_two_writers_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", NESTED, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    for name in ("out", "out/deep", "other/../out"):
        with pytest.raises(UserError, match=rf"process {first.pid} on ") as caught, new_folder(tmp_path / name, overwrite=True):
            pass
        assert caught.value.exit_code == USAGE
    first.communicate("\n")
    assert first.returncode == 0
    assert (out / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_lock_of_a_killed_writer_does_not_block_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", NESTED, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    first.kill()
    first.communicate()
    assert lock_file(out).is_file()
    with new_folder(out) as folder:
        (folder / "b").touch()
    assert f"process {first.pid}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what the killed one had begun is gone, too


@pytest.mark.parametrize(("change", "words"), [({"boot": "another"}, "that run has ended"),
                                                                           ({"host": "another"}, "cannot be seen from this")])
def test_a_lock_from_before_a_reboot_or_of_another_machine_does_not_block_and_is_told(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], words: str) -> None:
    lock_file(tmp_path / "out").write_text(json.dumps({**writer_note(), **change}))
    with claimed(tmp_path / "out"):
        pass
    assert words in capsys.readouterr().err
    assert not lock_file(tmp_path / "out").exists()


def test_what_is_in_the_way_of_a_lock_is_not_removed(tmp_path: Path) -> None:
    lock_file(tmp_path / "out").write_text("mine")
    lock_file(tmp_path / "link").symlink_to(tmp_path / "precious")
    lock_file(tmp_path / "folder").mkdir()
    for name in ("out", "link", "folder"):
        with pytest.raises(UserError, match="in the way of its lock"), claimed(tmp_path / name):
            pass
    assert lock_file(tmp_path / "out").read_text() == "mine"
    assert not (tmp_path / "precious").exists()


RIVAL = """
import sys, time
from pathlib import Path
from runtimes.errors import UserError
from runtimes.files.outputs import new_folder
print("ready", flush=True)
start = float(sys.stdin.readline())
for trial in range(int(sys.argv[2])):
    time.sleep(max(0.0, start + 0.2 * trial - time.time()))
    begin = time.time()
    try:
        with new_folder(Path(sys.argv[1]) / f"out-{trial}", overwrite=True) as folder:
            begin = time.time()
            time.sleep(0.05)
            end = time.time()
        print("wrote", begin, end)
    except UserError as error:
        print("refused", error.exit_code, begin)
"""


def test_of_two_writers_at_once_never_both_write(tmp_path: Path) -> None:
    trials = 20
    rivals = [subprocess.Popen([sys.executable, "-c", RIVAL, str(tmp_path), str(trials)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True) for _ in range(2)]
    for rival in rivals:
        assert rival.stdout is not None
        assert rival.stdout.readline() == "ready\n"
    start = f"{time.time() + 0.3!r}\n"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write(start)
        rival.stdin.flush()
    told = [[line.split() for line in rival.communicate()[0].splitlines()] for rival in rivals]
    assert all(len(lines) == trials for lines in told)
    for answers in zip(*told, strict=True):
        spans = sorted((float(answer[1]), float(answer[2])) for answer in answers if answer[0] == "wrote")
        assert len(spans) + sum(answer[:2] == ["refused", "2"] for answer in answers) == 2
        assert spans
        assert len(spans) == 1 or spans[0][1] <= spans[1][0]  # one after the other, where a busy machine held the second up
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"out-{trial}" for trial in range(trials))


# --- no sequence of commands removes what none of them wrote ---

FOLDERS = ("a", "b", "a/b", "a.partial", "a.partial/round-0", ".a.tmp-7", ".a.tmp-old-7")
FILES = (*(f"{folder}/{name}" for folder in FOLDERS for name in ("x", "settings.json")),
         ".a.rd-lock", ".a.tmp-7.writer", "a", "b", "a.partial", "b.partial")
OUTS = ("a", "a", "b", "a/b", "a/b/..", "./a", ".", "a.partial")


@dataclass(frozen=True)
class Settings:
    """What the run of any command of the workshop has in its settings."""

    out: Path
    data: str
    bank: Path | None = None
    overwrite: bool = False
    resume: bool = False


def command(out: str, data: str, bank: str | None, overwrite: bool, resume: bool, ending: str) -> None:
    """A command's road past every check, with a few bytes in place of a training; it ends well, fails or is killed half-way."""
    asked = Settings(Path(out), data, None if bank is None else Path(bank), overwrite, resume)
    with suppress(UserError, KeyboardInterrupt, OSError), opened_run(
            asked, {**asdict(asked), "out": out, "bank": bank}, "student", drawn=False, more={}) as run:
        if run is None:
            return
        start_run(run, {"images": "0"})
        (run.folder / "pixels.u8").write_bytes(b"x")
        if ending == "killed":
            raise KeyboardInterrupt
        with new_folder(asked.out, overwrite=run.overwrite) as folder:
            (folder / "model").write_bytes(b"weights")
            if ending == "fails":
                raise OSError
            write_manifest(folder, "student", {"settings": run.settings})


def exported(out: str, overwrite: bool) -> None:
    """The road of a command without a run of its own."""
    with suppress(UserError, OSError), claimed(Path(out)), new_folder(Path(out), overwrite=overwrite) as folder:
        (folder / "model").write_bytes(b"graph")
        write_manifest(folder, "artifact", {})


steps = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(FILES)),
    st.tuples(st.just("link"), st.sampled_from(FOLDERS), st.sampled_from([*FOLDERS, "nowhere"])),
    st.tuples(st.just("folder"), st.sampled_from(FOLDERS)),
    st.tuples(st.just("command"), st.sampled_from(OUTS), st.sampled_from(["phantom", "phantom", "phantom", "a", "b"]),
              st.sampled_from([None, None, None, "a", "b"]), st.booleans(), st.booleans(),
              st.sampled_from(["well", "well", "fails", "killed"])),
    st.tuples(st.just("export"), st.sampled_from(OUTS), st.booleans()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=2, max_size=10))
def test_no_sequence_of_commands_removes_a_file_that_none_of_them_wrote(sequence: list[tuple[object, ...]]) -> None:
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve() / "root"
        root.mkdir()
        os.chdir(root)
        mine: dict[Path, bytes | str] = {}
        try:
            for number, step in enumerate(sequence):
                kind, path = step[0], Path(str(step[1]))
                place = Path(os.path.realpath(path.parent)) / path.name
                if kind in ("file", "link", "folder"):
                    with suppress(OSError):
                        if os.path.lexists(place) or place == root:
                            continue
                        place.parent.mkdir(parents=True, exist_ok=True)
                        if kind == "file":
                            place.write_bytes(b"%d" % number)
                            mine[place] = b"%d" % number
                        elif kind == "link":
                            place.symlink_to(os.path.relpath(Path(str(step[2])).absolute(), place.parent))
                            mine[place] = os.readlink(place)
                        else:
                            place.mkdir()
                elif kind == "command":
                    command(*step[1:])  # type: ignore[arg-type]
                else:
                    exported(*step[1:])  # type: ignore[arg-type]
                back = root / "a"  # where a folder of that name, moved aside by a killed replacement, comes back to
                mine = {back / path.relative_to(aside) if path.is_relative_to(aside) and not os.path.lexists(aside) else path: content
                        for path, content in mine.items() for aside in [root / ".a.tmp-old-7"]}
                for path, content in mine.items():
                    assert os.readlink(path) == content if isinstance(content, str) else path.read_bytes() == content
        finally:
            os.chdir(here)


def test_the_files_of_a_run_are_told_from_others(tmp_path: Path) -> None:
    finished(tmp_path / "ours", {"a": b"1"})
    assert foreign_entries(tmp_path / "ours") == []
    (tmp_path / "empty").mkdir()
    assert foreign_entries(tmp_path / "empty") == []
