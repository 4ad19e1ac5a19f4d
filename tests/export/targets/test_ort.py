"""The target ort: the same decisions from ONNX Runtime's own format, proven, replayed and refused like any other artifact."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Case, image_set, write_student

from export.commands import export
from export.config import ExportSettings
from runtimes.artifact.artifact import read_artifact
from runtimes.bench.worker import Bench
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST, changed_files, read_json, read_manifest, write_manifest
from runtimes.session import open_session
from runtimes.verify import verify

Exported = Callable[[Case], Path]
ORT = Case(target="ort")
FULL = """
import resource, signal, sys
from pathlib import Path
from export.targets.ort import to_ort
from runtimes.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
try:
    to_ort(Path(sys.argv[1]).read_bytes())
except UserError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(error)
"""


@pytest.mark.parametrize("case", [ORT, Case("multilabel", dtype="uint16", window=(0.0, 4000.0), input_size="40x56", target="ort"),
                                  Case(channels=3, input="tensor", opset=20, target="ort")], ids=str)
def test_an_ort_artifact_is_whole_proven_and_replays(exported: Exported, case: Case) -> None:
    folder = exported(case)
    manifest = read_manifest(folder, "artifact")
    assert changed_files(folder, manifest) == []
    assert "model.ort" in manifest["files"]
    assert "model.onnx" not in manifest["files"]
    assert manifest["conversion"]["optimisation"] == "basic"
    code, report = verify(folder, threads=1)
    assert (code, report["target"], report["runtime"]) == (0, "ort", "onnxruntime")
    proof = read_json(folder / "parity.json")
    assert proof["passed"]
    assert proof["executed_share"] == {"fp32": 1.0}
    assert "model.ort" in (folder / "README.md").read_text()
    bill = read_json(folder / "bom.cdx.json")
    assert [part["name"] for part in bill["metadata"]["component"]["components"]] == ["model.ort"]


def test_it_gives_the_probabilities_of_the_onnx(exported: Exported) -> None:
    images = image_set(Case(), 8, sizes=((32, 32),)).images
    first, second = (open_session(exported(case), threads=1).run(list(images)) for case in (ORT, Case()))
    assert abs(first.probabilities - second.probabilities).max() < 1e-5
    assert (first.decisions == second.decisions).all()


def test_the_bench_times_it_and_looks_inside(exported: Exported) -> None:
    bench = Bench(str(exported(ORT)), 1, "cpu", None, [])
    assert bench.opened()["facts"]["target"] == "ort"
    assert bench.block("array", 1, 3, 0.0)["samples_ns"]
    inside = bench.inside(1, "cpu", True)
    assert inside["macs"] > 0
    assert inside["layers"].keys() == {"fp32"}
    bench.session.close()


def copied(exported: Exported, place: Path) -> tuple[Path, dict[str, object]]:
    for file in exported(ORT).rglob("*"):
        if file.is_file():
            target = place / file.relative_to(exported(ORT))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return place, read_json(place / MANIFEST)


def test_tampered_bytes_are_refused_before_they_are_opened(exported: Exported, tmp_path: Path) -> None:
    folder, manifest = copied(exported, tmp_path / "a")
    data = bytearray((folder / "model.ort").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.ort").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"model\.ort"):
        verify(folder)
    manifest["files"]["model.ort"] = hashlib.sha256(b"nothing").hexdigest()  # type: ignore[index]
    (folder / "model.ort").write_bytes(b"nothing")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no file of kind ORTM; expected a model as rd-export writes it"):
        verify(folder)


@pytest.mark.parametrize(("key", "value"), [("temperatures", [9.0]), ("classes", ["c", "b", "a"]), ("graph_size", [64, 64]), ("opset", 20)])
def test_a_manifest_that_contradicts_the_file_is_refused(exported: Exported, tmp_path: Path, key: str, value: object) -> None:
    folder, manifest = copied(exported, tmp_path / "a")
    facts = {name: part for name, part in manifest.items() if name not in ("kind", "format", "files")}
    facts["artifact"] = {**manifest["artifact"], key: value}  # type: ignore[dict-item]
    write_manifest(folder, "artifact", facts)
    with pytest.raises(UserError, match=r"the manifest (says|means)"):
        read_artifact(folder)


def test_an_onnx_under_its_name_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder, manifest = copied(exported, tmp_path / "a")
    (folder / "model.ort").write_bytes((exported(Case()) / "model.onnx").read_bytes())
    write_manifest(folder, "artifact", {name: part for name, part in manifest.items() if name not in ("kind", "format", "files")})
    with pytest.raises(UserError, match="no file of kind ORTM"):
        open_session(folder)


def test_it_is_for_processors_and_in_fp32_alone(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which is for cpu") as caught:
        open_session(exported(ORT), device="cuda")
    assert caught.value.exit_code == USAGE
    for precision in ("fp16", "int8"):
        with pytest.raises(UserError, match=f"--precision {precision} is not one of --target ort, which takes fp32") as caught:
            ExportSettings(target=("ort",), precision=precision)  # type: ignore[arg-type]
        assert caught.value.exit_code == USAGE


def test_it_is_made_beside_other_targets(tmp_path: Path) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, golden_images=8, target=("onnx", "ort"))
    assert export(settings, "", lambda checkpoint: image_set(Case())) == 0
    origin = read_manifest(tmp_path / "out" / "artifact-onnx-fp32", "artifact")["files"]["model.onnx"]
    assert read_manifest(tmp_path / "out" / "artifact-ort-fp32", "artifact")["conversion"]["onnx_sha256"] == origin


def test_a_disk_without_room_for_the_conversion_is_said_in_words(exported: Exported) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(exported(Case()) / "model.onnx")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "onnxruntime could not write its file" in done.stdout
