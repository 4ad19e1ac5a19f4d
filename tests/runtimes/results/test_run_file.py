"""A file answered and recorded: the scores of `run`, a trace without a word of whom, files that appear whole, rd-verify --image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Case, random_images
from PIL import Image, PngImagePlugin
from places import ROOT

pytest.importorskip("highdicom", reason="DICOM reports: pip install 'rd-distill[dicom-out]'")
import pydicom
from dicoms import NAMES, write_dicom, write_series

from runtimes.artifact.artifact import read_artifact
from runtimes.errors import DONE, FAILED, PARITY, USAGE, UserError
from runtimes.files.folder import read_json, sha256_file, write_json
from runtimes.results.dicom_sr import is_ours, read_report
from runtimes.results.trace import MOMENTS, read_trace
from runtimes.session import CheckedSession, open_session

Exported = Callable[[Case], Path]
CASES = [Case(), Case("binary"), Case("multilabel", 3), Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case(input="tensor")]
UIDS = {"StudyInstanceUID": "1.2.840.99.1", "SeriesInstanceUID": "1.2.840.99.1.1"}
WRITTEN = {"trace": "t.json", "dicom_sr": "sr.dcm"}


def png(path: Path, case: Case = CASES[0], size: tuple[int, int] = (32, 32)) -> Path:
    pixels = random_images(case, 1, (size,))[0]
    Image.fromarray(pixels[..., 0] if case.channels == 1 else pixels).save(path)
    return path


def dicom(path: Path, **tags: object) -> Path:
    return write_dicom(path, random_images(CASES[0], 1)[0][..., 0], **{**UIDS, **tags})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_file_is_answered_as_run_answers_it_and_its_trace_says_so(exported: Exported, tmp_path: Path, case: Case) -> None:
    session, path = open_session(exported(case), threads=1), png(tmp_path / "a.png", case, (40, 56))
    wanted, scores = session.run(path), session.run_file(str(path), trace=str(tmp_path / "t.json"))
    assert np.array_equal(scores.logits, wanted.logits)
    assert np.array_equal(scores.probabilities, wanted.probabilities)
    assert np.array_equal(session.run_file(path).logits, wanted.logits)  # nothing asked for, nothing written
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "t.json"]
    trace, facts, manifest = read_trace(tmp_path / "t.json"), session.facts(), read_json(exported(case) / "manifest.json")
    assert np.array_equal(np.asarray([finding["probability"] for finding in trace["findings"]], np.float32), wanted.probabilities[0])
    assert [finding["name"] for finding in trace["findings"] if finding["decided"]] == np.atleast_1d(wanted.labels[0]).tolist()
    assert [finding["threshold"] for finding in trace["findings"]] == (
        [0.3, 0.5, 0.6] if case.task == "multilabel" else [None] * len(wanted.classes))
    assert trace["model_sha256"] == manifest["files"]["model.onnx"]
    assert trace["temperatures"] == manifest["artifact"]["temperatures"]
    canonical = json.dumps(manifest["artifact"]["image"], sort_keys=True, separators=(",", ":")).encode()
    assert trace["image_spec_sha256"] == hashlib.sha256(canonical).hexdigest()
    assert {key: trace[key] for key in ("target", "precision", "runtime", "version", "provider", "threads")} == {
        key: facts[key] for key in ("target", "precision", "runtime", "version", "provider", "threads")}
    assert trace["inputs_sha256"] == [sha256_file(path)]
    assert set(trace["ms"]) == {*MOMENTS, "file_to_decision"}
    assert all(trace["ms"][name] >= 0 for name in MOMENTS)
    assert abs(sum(trace["ms"][name] for name in MOMENTS) - trace["ms"]["file_to_decision"]) < 1e-3


def test_the_times_of_a_trace_are_those_of_its_parts(exported: Exported, tmp_path: Path) -> None:
    from time import sleep

    class Slow:
        def run(self, batch: np.ndarray) -> tuple[np.ndarray, None, None]:
            sleep(0.08)
            return np.eye(3, dtype=np.float32)[:1], None, None

        def facts(self) -> dict[str, object]:
            return {"runtime": "slow", "version": "1", "provider": "none", "threads": 1}

    CheckedSession(read_artifact(exported(CASES[0])), Slow()).run_file(  # type: ignore[arg-type]
        png(tmp_path / "a.png"), trace=tmp_path / "t.json")
    ms = read_trace(tmp_path / "t.json")["ms"]
    assert ms["network"] >= 80
    assert ms["file_to_decision"] >= ms["network"] > ms["prepare"]


def test_a_volume_is_answered_as_run_answers_it(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    from stacked import SPEC, image_set, volume, write

    from export.commands import export
    from export.config import ExportSettings

    write(tmp_path / "student", SPEC)
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "artifact", samples=5)
    assert export(settings, "rd-export", lambda checkpoint: image_set()) == 0
    nibabel.save(nibabel.Nifti1Image(np.asarray(volume(7, (40, 56)), np.float32).transpose(2, 1, 0), np.eye(4)), tmp_path / "v.nii.gz")
    session = open_session(tmp_path / "artifact", threads=1)
    scores = session.run_file(tmp_path / "v.nii.gz", trace=tmp_path / "t.json")
    assert np.array_equal(scores.logits, session.run(tmp_path / "v.nii.gz").logits)
    assert read_trace(tmp_path / "t.json")["inputs_sha256"] == [sha256_file(tmp_path / "v.nii.gz")]
    with pytest.raises(UserError, match="whose image") as caught:
        session.run_file(tmp_path / "v.nii.gz", dicom_sr=tmp_path / "sr.dcm")
    assert caught.value.exit_code == USAGE
    scan = np.random.default_rng(0).integers(0, 800, (6, 40, 48)).astype(np.int16)
    studied: dict[str, Any] = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.9", "PatientID": "P", "PatientName": "A^B"}
    files = write_series(tmp_path / "ct", scan, step=(0.0, 0.35, 2.0), **studied)  # a gantry tilted by 10 degrees
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.3.4"}
    write_dicom(tmp_path / "ct" / "scout.dcm", scan[0], **scout, **studied)
    answered = session.run_file(tmp_path / "ct", trace=tmp_path / "ct.json", dicom_sr=tmp_path / "ct-sr.dcm")
    np.testing.assert_array_equal(answered.logits, session.run(tuple(files)).logits)
    assert any("10" in note or "9.9" in note for note in answered.notes)
    assert any("1 localiser" in note for note in answered.notes)
    trace = read_trace(tmp_path / "ct.json")
    assert trace["notes"] == list(answered.notes)
    assert sorted(trace["inputs_sha256"]) == sorted(map(sha256_file, files)), "the localiser was not answered"
    assert len(read_report(tmp_path / "ct-sr.dcm").images) == len(files)


def test_nothing_of_a_patient_is_in_a_trace_or_in_what_is_printed(exported: Exported, tmp_path: Path) -> None:
    """Names in 20 fields, a private tag, the file's name and its folder's, and the text of a PNG; the report holds what it must."""
    folder = tmp_path / "Zwiebel_Ottokar" / "ZW-4711-XYZ"
    image = dicom(folder / "Befund_Zwiebel_19430817.dcm", names=True, private=True)
    done = command(exported(CASES[0]), "--threads", 1, "--image", image, "--trace", tmp_path / "t.json", "--dicom-sr", tmp_path / "sr.dcm")
    pixels = Image.fromarray(random_images(CASES[0], 1)[0][..., 0])
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Zwiebel^Ottokar")
    pixels.save(folder / "Zwiebel.png", pnginfo=text)
    open_session(exported(CASES[0]), threads=1).run_file(folder / "Zwiebel.png", trace=tmp_path / "p.json")
    words = {part.lower() for value in NAMES.values() for part in (value, *value.replace("^", " ").split()) if len(part) > 3}
    words |= {"zwiebel", "ottokar", "befund", *(uid.lower() for uid in UIDS.values()), str(pydicom.dcmread(image).SOPInstanceUID)}
    hashes = {getattr(hashlib, name)(value.encode()).hexdigest() for value in NAMES.values() for name in ("md5", "sha1", "sha256")}
    for said in ((tmp_path / "t.json").read_text(), (tmp_path / "p.json").read_text(), done.stdout + done.stderr):
        assert sorted(word for word in words | hashes if word in said.lower()) == []
    report = (tmp_path / "sr.dcm").read_bytes()
    assert NAMES["PatientName"].encode() in report  # the search can find what is there
    assert b"Zwiebelwerk" not in report  # private
    assert b"Befund_Zwiebel_19430817" not in report  # a name of a file


def test_places_that_cannot_be_written_are_refused_before_any_work(exported: Exported, tmp_path: Path) -> None:
    class Never:
        def run(self, batch: np.ndarray) -> None:
            raise AssertionError("answered all the same")

    session, image = CheckedSession(read_artifact(exported(CASES[0])), Never()), dicom(tmp_path / "a.dcm")  # type: ignore[arg-type]
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, word in (("there", "there already"), ("link", "there already"), (".", "folder"), ("gone/x", "no folder"),
                       ("a.dcm", "--image"), ("there/x", "no folder")):
        for flag in WRITTEN:
            with pytest.raises(UserError, match=word) as caught:
                session.run_file(image, **{flag: tmp_path / name})  # type: ignore[arg-type]
            assert caught.value.exit_code == USAGE
            assert flag.replace("_", "-") in str(caught.value)
    with pytest.raises(UserError, match="--trace") as caught:
        session.run_file(image, trace=tmp_path / "x", dicom_sr=tmp_path / "x")
    assert caught.value.exit_code == USAGE
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(UserError, match="lies inside"):
        session.run_file(tmp_path, trace=tmp_path / "x")


def test_only_what_was_written_here_is_replaced(exported: Exported, tmp_path: Path) -> None:
    session, image = open_session(exported(CASES[0]), threads=1), dicom(tmp_path / "a.dcm")
    out = {flag: tmp_path / name for flag, name in WRITTEN.items()}
    session.run_file(image, **out)  # type: ignore[arg-type]
    before = {flag: path.read_bytes() for flag, path in out.items()}
    for flag in WRITTEN:
        with pytest.raises(UserError, match="--overwrite"):
            session.run_file(image, **{flag: out[flag]})  # type: ignore[arg-type]
    session.run_file(image, overwrite=True, **out)  # type: ignore[arg-type]
    assert before["dicom_sr"] != out["dicom_sr"].read_bytes()
    write_json(tmp_path / "other.json", {"kind": "artifact", "format": 1})
    shutil.copy(image, tmp_path / "other.dcm")
    for flag, name in (("trace", "other.json"), ("trace", "sr.dcm"), ("dicom_sr", "other.dcm"), ("dicom_sr", "t.json")):
        kept = (tmp_path / name).read_bytes()
        with pytest.raises(UserError, match="replaces only") as caught:
            session.run_file(image, overwrite=True, **{flag: tmp_path / name})  # type: ignore[arg-type]
        assert caught.value.exit_code == USAGE
        assert (tmp_path / name).read_bytes() == kept


def test_a_header_that_gives_no_report_leaves_no_trace_either(exported: Exported, tmp_path: Path) -> None:
    image = dicom(tmp_path / "a.dcm", without=("StudyInstanceUID",))
    with pytest.raises(UserError, match="StudyInstanceUID is missing"):
        open_session(exported(CASES[0]), threads=1).run_file(image, trace=tmp_path / "t.json", dicom_sr=tmp_path / "sr.dcm")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.dcm"]


def test_an_image_that_changes_meanwhile_is_an_error(exported: Exported, tmp_path: Path) -> None:
    class Meanwhile:
        def run(self, batch: np.ndarray) -> tuple[np.ndarray, None, None]:
            os.utime(tmp_path / "a.png", (1, 1))
            return np.eye(3, dtype=np.float32)[:1], None, None

    session = CheckedSession(read_artifact(exported(CASES[0])), Meanwhile())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="changed while"):
        session.run_file(png(tmp_path / "a.png"), trace=tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:400], lambda data: b"", lambda data: data.replace(b"MONOCHROME2", b"Zwiebelring")])
def test_an_image_that_cannot_be_read_leaves_nothing(exported: Exported, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    image = dicom(tmp_path / "a.dcm", names=True)
    image.write_bytes(damage(image.read_bytes()))
    with pytest.raises(UserError, match=r"a\.dcm") as caught:
        open_session(exported(CASES[0]), threads=1).run_file(image, trace=tmp_path / "t.json")
    assert "Zwiebel" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.dcm"]


def test_a_trace_is_read_strictly(exported: Exported, tmp_path: Path) -> None:
    open_session(exported(CASES[0]), threads=1).run_file(png(tmp_path / "a.png"), trace=tmp_path / "t.json")
    whole = read_json(tmp_path / "t.json")
    for key in whole:
        write_json(tmp_path / "bad.json", {name: value for name, value in whole.items() if name != key})
        with pytest.raises(UserError, match=key if key != "kind" else "no trace"):
            read_trace(tmp_path / "bad.json")
    write_json(tmp_path / "bad.json", {**whole, "patient": "somebody"})
    with pytest.raises(UserError, match="patient"):
        read_trace(tmp_path / "bad.json")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    typed = [sys.executable, "-m", "runtimes.cli", *map(str, arguments)]
    return subprocess.run(typed, capture_output=True, text=True, check=False, cwd=ROOT)


def test_rd_verify_answers_an_image_once_the_artifact_has_passed(exported: Exported, tmp_path: Path) -> None:
    case, image = CASES[2], tmp_path / "a.dcm"
    write_dicom(image, random_images(case, 1)[0], **UIDS)
    scores = open_session(exported(case), threads=1).run(image)
    done = command(exported(case), "--threads", 1, "--image", image, "--trace", tmp_path / "t.json", "--dicom-sr", tmp_path / "sr.dcm")
    assert (done.returncode, done.stderr) == (DONE, "")
    lines = [line.removeprefix("image").split() for line in done.stdout.split("golden scores\n")[1].splitlines()[:3]]
    assert [(line[0] == "yes", line[2]) for line in lines] == list(zip(scores.decisions[0].tolist(), scores.classes, strict=True))
    assert np.allclose([float(line[1]) for line in lines], scores.probabilities[0], atol=5e-5)
    assert "threshold 0.3" in done.stdout
    document = json.loads(command(exported(case), "--threads", 1, "--image", image, "--json").stdout)
    assert [finding["probability"] for finding in document["answer"]] == scores.probabilities[0].tolist()
    assert read_trace(tmp_path / "t.json")["findings"] == document["answer"]
    assert is_ours(tmp_path / "sr.dcm")
    assert [finding.probability for finding in read_report(tmp_path / "sr.dcm").findings] == scores.probabilities[0].tolist()
    assert command(exported(case), "--image", image, "--trace", tmp_path / "t.json").returncode == USAGE
    assert command(exported(case), "--threads", 1, "--image", image, "--trace", tmp_path / "t.json", "--overwrite").returncode == DONE


def test_rd_verify_s_exit_codes_for_images(exported: Exported, tmp_path: Path) -> None:
    image, folder = png(tmp_path / "a.png"), exported(CASES[0])
    for arguments, code, word in ((("--trace", tmp_path / "t.json"), USAGE, "--image"),
                                  (("--dicom-sr", tmp_path / "s.dcm"), USAGE, "--image"),
                                  (("--image", tmp_path / "gone.png"), FAILED, "gone.png"),
                                  (("--image", image, "--dicom-sr", tmp_path / "s.dcm"), USAGE, "whose image")):
        done = command(folder, *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)
        assert word in done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png"]


def test_an_artifact_that_fails_its_self_test_answers_nothing(exported: Exported, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    folder = Path(shutil.copytree(exported(CASES[0]), tmp_path / "artifact"))
    tensor_file = folder / "test_data_set_0" / "output_0.pb"
    tensor = onnx.TensorProto.FromString(tensor_file.read_bytes())
    tensor_file.write_bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), "logits").SerializeToString())
    manifest = read_json(folder / "manifest.json")
    manifest["files"]["test_data_set_0/output_0.pb"] = sha256_file(tensor_file)
    write_json(folder / "manifest.json", manifest)
    done = command(folder, "--image", png(tmp_path / "a.png"), "--trace", tmp_path / "t.json")
    assert done.returncode == PARITY
    assert "image  " not in done.stdout
    assert not (tmp_path / "t.json").exists()
