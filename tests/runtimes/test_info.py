"""rd-info: what it says of every kind of folder, of damage, and of what is none of ours; without torch, and never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Case
from hypothesis import given
from hypothesis import strategies as st
from json_leaves import VALUES, places, replaced
from places import FIXTURES
from tiny import tiny_bank, tiny_images

from distill.run import opened_run, start_run
from distill.training.state import save_state
from runtimes.bench.command import bench
from runtimes.bench.config import BenchSettings
from runtimes.bench.soak import soak
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.files.outputs import KINDS, new_folder
from runtimes.info import READERS, folder_info
from runtimes.text import one_line

Exported = Callable[[Case], Path]
EARLIER = FIXTURES / "ffa3fd1"
MEASURED: dict[str, Any] = {"samples": 8, "seconds": 0.02, "warmups": 2, "rounds": 2, "roofline": False, "profile": False,
                            "batch": (1,), "threads": (1,), "paths": ("array",)}


def command(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """rd-info in a process that must not load the workshop, nor any runtime."""
    code = ("import sys\nsys.argv = ['rd-info', *sys.argv[1:]]\nfrom runtimes.info_cli import main\n"
            "try:\n    main()\nfinally:\n    assert not {'torch', 'timm', 'onnxruntime', 'onnx'} & set(sys.modules)")
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd)


def printed(folder: Path) -> dict[str, str]:
    """The lines of a folder by their labels."""
    lines = folder_info(folder).lines()
    assert 3 <= len(lines) <= 12
    assert all(line == one_line(line) for line in lines)
    return {line[:9].rstrip(): line[10:] for line in lines}


def reseal(folder: Path, **changes: Any) -> None:
    """Write a folder's manifest again, after its files or facts were changed."""
    manifest = read_json(folder / "manifest.json") | changes
    write_manifest(folder, manifest["kind"], {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})


def test_every_kind_of_folder_that_a_command_writes_has_a_reader() -> None:
    assert set(READERS) == KINDS


def test_a_student_says_what_it_is_what_it_came_from_and_how_good_it_is() -> None:
    lines = printed(EARLIER / "student")
    assert list(lines) == ["kind", "made", "command", "data", "teacher", "size", "val", "test", "bytes", "next"]
    assert lines["kind"] == "student: test_efficientnet, multilabel, 6 classes, 32x32, pruned"
    assert "with rd-distill 0.1.0, torch" in lines["made"]
    assert lines["command"].startswith("rd-distill --student test_efficientnet ")
    assert lines["data"] == "phantom (synthetic): 24 train / 8 val / 8 test"
    assert lines["teacher"].startswith("test_efficientnet, licence ")
    value = read_json(EARLIER / "student" / "metrics.json")["splits"]["test"]["student"]["auroc"]["value"]
    assert lines["test"].startswith(f"student AUROC {value:.3f} (")
    assert "teacher branch AUROC" in lines["test"]
    assert lines["bytes"].endswith("as the manifest says")
    assert lines["next"] == f"rd-export --target onnx --student-dir {EARLIER / 'student'}"


def test_an_adapted_teacher_names_its_adapters_and_what_it_is_for() -> None:
    lines = printed(EARLIER / "teacher")
    assert lines["kind"].startswith("adapted teacher: transformers/vit, ")
    assert "adapted by moe, 14 adapters kept" in lines["teacher"]
    assert lines["test"].startswith("teacher AUROC ")
    assert lines["next"] == f"rd-distill --teacher {EARLIER / 'teacher'}"


def test_a_teacher_of_one_task_shows_the_name_that_task_takes(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "teacher", tmp_path / "teacher"))
    write_json(folder / "tasks.json", {"format": 1, "newest": {"name": "breast", "tensors": {}}, "earlier": [], "original": None,
                                       "images": {"breast": 1}})
    reseal(folder)
    model = read_json(folder / "config.json")["rd"]["model"]
    line = printed(folder)["task"]
    assert line.startswith(f"breast: {model['task']}, {len(model['classes'])} classes, val AUROC ")
    assert line.endswith("; 1 image of patients kept")


def test_the_next_command_is_about_the_images_that_a_teacher_was_adapted_to(tmp_path: Path) -> None:
    here = tmp_path / "hand x-rays"
    here.mkdir()
    for data, words in (("phantom", ""), (str(here), f"--data '{here}' "), (str(tmp_path / "gone"), "--data IMAGES ")):
        folder = tmp_path / f"teacher-{words[:8].strip()}-{len(data)}"
        shutil.copytree(EARLIER / "teacher", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["data"]["data"] = data
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert printed(folder)["next"] == f"rd-distill {words}--teacher {shlex.quote(str(folder))}"


def test_a_folder_that_was_changed_is_not_what_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(EARLIER / "teacher", folder)
    (folder / "extra").write_text("x")
    assert printed(folder)["next"] == "make it anew, or put back what was there: as it is now it is refused"


def test_a_bank_counts_its_rows() -> None:
    lines = printed(EARLIER / "bank")
    assert lines["teacher"] == "test_efficientnet, 32x32 pixels"
    assert lines["holds"].startswith("40 images, 64 rows")
    assert f"--teacher bank:{EARLIER / 'bank'} " in lines["next"]


def test_an_artifact_says_parity_latency_and_nothing_of_where_it_was_made(exported: Exported) -> None:
    folder = exported(Case())
    lines = printed(folder)
    assert lines["kind"] == "artifact: model.onnx, onnx fp32, multiclass, 3 classes, 32x32 uint8"
    assert lines["parity"].startswith("passed: 0 flips in ")
    assert lines["latency"].endswith(")")
    assert "ms p50" in lines["latency"]
    assert lines["next"].startswith(f"rd-verify {folder} ")
    apart = [f"{label} {words}" for label, words in lines.items() if label != "next"]
    assert str(folder.parent) not in " ".join(apart)


def test_a_benchmark_and_a_soak_name_what_was_measured(exported: Exported, tmp_path: Path) -> None:
    artifact = exported(Case())
    bench(BenchSettings((artifact,), out=tmp_path / "bench", **MEASURED), "rd-bench artifact", lambda _: None)
    lines = printed(tmp_path / "bench")
    assert lines["kind"].startswith("report of rd-bench: 1 rows of 1 artifact(s)")
    assert lines["command"] == "rd-bench artifact"
    assert lines["fastest"].startswith("artifact ")
    assert lines["next"].startswith(f"rd-bench --compare {tmp_path / 'bench' / 'report.json'} ")
    soak(BenchSettings((artifact,), out=tmp_path / "soak", soak_minutes=2.0, threads=(1,), warmups=2), lambda _: None, minute_s=0.2)
    lines = printed(tmp_path / "soak")
    assert lines["kind"] == "soak of artifact, 2 minute(s)"
    assert lines["verdict"].startswith(("steady: ", "DRIFTS: "))


def test_an_interrupted_run_says_how_far_it_came_and_whether_it_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.settings.distill import DistillSettings
    from runtimes.commands.flags import parse, record

    monkeypatch.chdir(tmp_path)
    settings = parse(DistillSettings, ["--student", "resnet18", "--epochs", "7"], "rd-distill")
    partial = tmp_path / "student.partial"
    with (contextlib.suppress(InterruptedError),
          opened_run(settings, record(settings), "student", drawn=True, more={}) as run):
        assert run is not None
        start_run(run, {"images": "0" * 64})
        assert printed(partial)["kept"] == "no epoch yet"
        save_state(run.folder, 3, {"weight": torch.zeros(2)}, {"history": [{"loss": float("nan")}]})
        inside = json.loads(command(partial, "--json").stdout)
        assert (inside["kind"], inside["running"], inside["next"]) == ("run", True, "wait for it")
        raise InterruptedError
    lines = printed(partial)
    assert lines["kind"] == "interrupted run of rd-distill"
    assert "--student resnet18" in lines["begun"]
    assert lines["kept"] == "epoch 3 of 7"
    assert "--resume" in lines["next"]
    (partial / "state.json").write_bytes(b"\xff\n[")
    assert printed(partial)["kept"] == "no epoch yet"


def test_a_bank_that_was_killed_says_what_is_kept(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        tiny_bank(tmp_path / "bank", tiny_images(), progress=stop)
    lines = printed(tmp_path / "bank.partial")
    assert lines["kind"] == "unfinished feature bank"
    assert lines["kept"].endswith("for 32 images")


def test_half_a_result_is_known_by_the_note_of_its_writer(tmp_path: Path) -> None:
    with new_folder(tmp_path / "artifact") as half:
        assert printed(half)["kind"] == "half of artifact, being written"
    stranger = tmp_path / ".artifact.tmp-7"
    stranger.mkdir()
    with pytest.raises(UserError, match="none of our folders"):
        folder_info(stranger)


@pytest.mark.parametrize("name", ["student", "teacher", "bank"])
def test_changed_bytes_are_said_and_end_in_exit_code_one(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / name, tmp_path / name))
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (folder / "extra").touch()
    run = command(folder)
    assert (run.returncode, run.stderr) == (1, "")
    assert f"bytes     CHANGED: {path.name} has other bytes than the manifest says; extra is not named in the manifest" in run.stdout
    document = json.loads(command(folder, "--json").stdout)
    assert (document["intact"], len(document["problems"])) == (False, 2)
    apart = command(folder, "--no-compare")
    assert apart.returncode == 0
    assert "not compared with the manifest" in apart.stdout


def test_the_document_repeats_what_the_lines_say_and_needs_no_torch(exported: Exported) -> None:
    for folder, kind in ((EARLIER / "student", "student"), (EARLIER / "bank", "bank"), (exported(Case()), "artifact")):
        run = command(folder, "--json")
        assert (run.returncode, run.stderr) == (0, "")
        document = json.loads(run.stdout)
        assert (document["format"], document["kind"], document["intact"], document["problems"]) == (1, kind, True, [])
        assert document["next"]
    document = json.loads(command(EARLIER / "student", "--json").stdout)
    assert document["figures"]["test"]["auroc"]["student"]["value"] > 0
    assert document["parents"]["images"]


def test_a_device_without_the_workshop_and_without_a_runtime_reads_every_folder(exported: Exported) -> None:
    code = ("import sys\nfor name in ('torch', 'timm', 'onnx', 'onnxruntime', 'yaml', 'safetensors', 'distill', 'export'):\n"
            "    sys.modules[name] = None\nfrom pathlib import Path\nfrom runtimes.info import folder_info\n"
            "for folder in sys.argv[1:]:\n    print(folder_info(Path(folder)).kind)")
    folders = [str(EARLIER / name) for name in ("student", "teacher", "bank")] + [str(exported(Case()))]
    run = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["student", "teacher", "bank", "artifact"]


def broken(folder: Path, kind: str) -> Path:
    """A folder that is not one of ours, of a kind."""
    folder.mkdir()
    manifest = folder / "manifest.json"
    {"empty": lambda: None,
     "a stranger's files": lambda: (folder / "notes.txt").write_text("mine"),
     "a stranger's manifest": lambda: manifest.write_text('{"name": "app", "version": 2}'),
     "no JSON": lambda: manifest.write_text("{"),
     "another kind": lambda: write_json(manifest, {"kind": "\x1b[31mred", "format": 1, "files": {}}),
     "a later format": lambda: write_json(manifest, {"kind": "student", "format": 99, "files": {}}),
     "files as a list": lambda: write_json(manifest, {"kind": "student", "format": 1, "files": []}),
     "an artifact of nothing": lambda: write_json(manifest, {"kind": "artifact", "format": 1, "files": {}}),
     "a bank of nothing": lambda: write_json(manifest, {"kind": "bank", "format": 1, "files": {}}),
     "a pipe": lambda: os.mkfifo(manifest)}[kind]()
    return folder


@pytest.mark.parametrize("kind", ["empty", "a stranger's files", "a stranger's manifest", "no JSON", "another kind", "a later format",
                                  "files as a list", "an artifact of nothing", "a bank of nothing", "a pipe"])
def test_what_is_none_of_ours_is_one_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        folder_info(broken(tmp_path / "folder", kind))
    assert caught.value.exit_code == 1
    assert "folder" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_a_missing_folder_and_hostile_names_are_one_sentence_of_exit_code_one(tmp_path: Path) -> None:
    for name, word in ((EARLIER / "make.sh", "is a file"), (tmp_path / "gone", "is not there"),
                       (tmp_path / "a\x1b[31m\u202eb\nc", "\\x1b[31m\\u202eb\\nc is not there")):
        run = command(name)
        assert run.returncode == 1, name
        assert word in run.stderr
        assert len(run.stderr.splitlines()) == 1
        assert "\x1b" not in run.stderr
    strange = tmp_path / os.fsdecode(b"\xff name; $(rm)")
    shutil.copytree(EARLIER / "bank", strange)
    run = command(strange)
    assert (run.returncode, run.stderr) == (0, "")
    assert "'" in run.stdout.splitlines()[-1], "what is to be typed is quoted"
    assert json.loads(command(strange, "--json").stdout)["kind"] == "bank"
    assert command("--nonsense").returncode == 2


def test_what_a_manifest_says_is_printed_as_text(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "student", tmp_path / "student"))
    reseal(folder, command="rd-distill \x1b[2J\nfake     line", teacher="\u202ereversed")
    run = command(folder)
    assert run.returncode == 0
    assert "\x1b" not in run.stdout
    assert "\u202e" not in run.stdout
    assert "command   rd-distill \\x1b[2J\\nfake     line" in run.stdout


DOCUMENTS = {f"{kind}/{name}": read_json(EARLIER / kind / name) for kind, name in (
    ("student", "manifest.json"), ("student", "metrics.json"), ("student", "config.json"), ("bank", "manifest.json"))}
PLACES = [(document, place) for document, content in DOCUMENTS.items() for place in places(content)]


@given(st.sampled_from(PLACES), VALUES)
def test_any_value_in_any_place_is_lines_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, at: tuple[str, Any],
                                                         value: Any) -> None:
    name, path = at
    kind, file = name.split("/")
    folder = tmp_path_factory.getbasetemp() / f"info-{kind}"
    if not folder.is_dir():
        shutil.copytree(EARLIER / kind, folder)
    before = (folder / file).read_bytes()
    try:
        (folder / file).write_text(json.dumps(replaced(DOCUMENTS[name], path, value)), encoding="utf-8", errors="surrogatepass")
        found = folder_info(folder)
        assert all(line == one_line(line) for line in found.lines())
        json.dumps(found.as_dict())
    except UserError as error:
        assert error.exit_code == 1  # noqa: PT017 - either is right
    finally:
        (folder / file).write_bytes(before)


def test_a_bank_of_views_counts_images_and_views(tmp_path: Path) -> None:
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images, counts=np.where(images.split == "train", 3, 0))
    assert f"{len(images)} images, {bank.rows} rows" in printed(tmp_path / "bank")["holds"]
