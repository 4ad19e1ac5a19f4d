"""Sets of DICOM files: found in folders and tables, split by the patients of their headers, and nothing of a header leaves."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import NAMES, write_dicom
from drawn import picture

from distill.data.dicom_headers import look_at_header
from distill.data.loading import load_images
from distill.data.scan import BadImages
from runtimes.errors import UserError
from runtimes.images.decode import decode


def scan_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (16, 18)).astype(np.uint16)


def study(root: Path, patients: int = 6, each: int = 3, suffix: str = ".dcm", **tags: Any) -> Path:
    """Two classes, patients of several images in both."""
    for place, name in enumerate(("benign", "malignant")):
        for patient in range(patients):
            for index in range(each):
                seed = (place * patients + patient) * each + index
                content = {"PatientID": f"ZW-{name}-{patient}", **tags}
                write_dicom(root / name / f"{patient}-{index}{suffix}", scan_of(seed), **content)
    return root


def notes(images: Any) -> str:
    return "\n".join(images.facts["notes"])


@pytest.mark.parametrize("suffix", [".dcm", ".IMA", "", ".4711"])
def test_images_that_share_a_patient_id_stay_on_one_side(tmp_path: Path, suffix: str) -> None:
    images = load_images(str(study(tmp_path, suffix=suffix)))
    assert len(images) == 36
    assert images.facts["split_from"].startswith("made 70/10/20 by patient")
    assert images.facts["dtype"] == "uint16"
    homes: dict[str, set[str]] = {}
    for key, part in zip(images.keys, images.split, strict=True):
        homes.setdefault(key.rpartition("-")[0], set()).add(part)
    assert all(len(parts) == 1 for parts in homes.values())
    assert "images that share the PatientID of their DICOM header stay in one split: 12 in all" in notes(images)
    assert images.groups is not None
    assert set(images.groups.tolist()) == {f"that of {name}-0{suffix}" for name in homes}
    assert np.array_equal(images.raw(0), decode(tmp_path / images.keys[0]))


def test_the_split_is_the_same_in_every_run(tmp_path: Path) -> None:
    study(tmp_path)
    assert load_images(str(tmp_path)).split.tolist() == load_images(str(tmp_path)).split.tolist()


def test_an_index_of_a_disk_is_left_out_and_named(tmp_path: Path) -> None:
    write_dicom(study(tmp_path) / "benign" / "DICOMDIR", scan_of(99))
    (tmp_path / "benign" / "VERSION").write_text("1")
    with pytest.raises(BadImages, match="VERSION: unknown suffix"):
        load_images(str(tmp_path))
    (tmp_path / "benign" / "VERSION").unlink()
    assert "1 indexes of DICOM files are left out: benign/DICOMDIR" in notes(load_images(str(tmp_path)))


@pytest.mark.parametrize(("tags", "key"), [
    ({"PatientID": ""}, "StudyInstanceUID"), ({"PatientID": "", "StudyInstanceUID": ""}, "SeriesInstanceUID"),
    ({"PatientID": "ANON"}, "StudyInstanceUID")])
def test_the_next_key_counts_where_one_is_empty_or_the_same_everywhere(tmp_path: Path, tags: dict[str, str], key: str) -> None:
    for place, name in enumerate("ab"):
        for row in range(12):
            uid = f"1.2.3.{place}.{row // 2 + 1}"
            write_dicom(tmp_path / name / f"{row}.dcm", scan_of(100 * place + row),
                        **{"StudyInstanceUID": uid, "SeriesInstanceUID": uid, **tags})
    images = load_images(str(tmp_path))
    assert f"images that share the {key} of their DICOM header stay in one split: 12 in all" in notes(images)
    assert ("PatientID of the DICOM headers is not taken as a patient: one value has 100 %" in notes(images)) == (tags["PatientID"] != "")
    parts = dict(zip(images.keys, images.split, strict=True))
    assert all(parts[f"{name}/{row}.dcm"] == parts[f"{name}/{row + 1}.dcm"] for name in "ab" for row in range(0, 12, 2))


def test_without_any_identity_images_are_divided_one_by_one_and_it_is_noted(tmp_path: Path) -> None:
    images = load_images(str(study(tmp_path, PatientID="")))
    assert "tells patients apart" in notes(images)
    assert images.facts["split_from"].startswith("made 70/10/20 by image")


def test_a_given_split_that_divides_a_patient_is_refused_by_the_name_of_a_file(tmp_path: Path) -> None:
    for part, offset in (("train", 0), ("val", 50), ("test", 100)):
        for place, name in enumerate("ab"):
            for row in range(3):
                write_dicom(tmp_path / part / name / f"{row}.dcm", scan_of(offset + 10 * place + row), PatientID=f"ZW{part}{name}{row}")
    write_dicom(tmp_path / "test" / "a" / "x.dcm", scan_of(1000), PatientID="ZWtraina0")
    with pytest.raises(UserError, match=r"DICOM PatientID that of test/a/x.dcm in test and train|that of train/a/0.dcm") as caught:
        load_images(str(tmp_path))
    assert "ZW" not in str(caught.value)
    images = load_images(str(tmp_path), keep_together="none")
    assert "images of one DICOM PatientID may be in several splits" in notes(images)


def test_patients_of_a_table_and_of_folders_stay(tmp_path: Path) -> None:
    for row in range(24):
        write_dicom(tmp_path / "scans" / f"{row}", scan_of(row), PatientID=f"ZW{row}")
    lines = ["image,label,patient", *(f"scans/{row},{'ab'[row % 2]},p{row % 12}" for row in range(24))]
    (tmp_path / "set.csv").write_text("\n".join(lines), encoding="utf-8")
    images = load_images(str(tmp_path / "set.csv"))
    assert "patients are those of patient; the identities in the DICOM headers are not used" in notes(images)
    assert images.groups is not None
    assert set(images.groups.tolist()) == {f"p{number}" for number in range(12)}
    (tmp_path / "set.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines), encoding="utf-8")
    assert "images that share the PatientID" in notes(load_images(str(tmp_path / "set.csv")))
    for place, name in enumerate("ab"):
        for row in range(12):
            write_dicom(tmp_path / "tree" / name / f"patient{row}" / "1.dcm", scan_of(500 + 20 * place + row), PatientID="ZW1")
    assert "patients are those of patient folder" in notes(load_images(str(tmp_path / "tree")))


def test_unlabelled_files_of_a_patient_who_tests_are_left_out(tmp_path: Path) -> None:
    study(tmp_path / "data")
    for place, name in enumerate(("benign", "malignant")):
        for patient in range(6):
            write_dicom(tmp_path / "more" / f"{name}{patient}", scan_of(700 + 10 * place + patient), PatientID=f"ZW-{name}-{patient}")
    images = load_images(str(tmp_path / "data"), unlabelled=tmp_path / "more")
    assert images.facts["unlabelled"] + images.facts["left_out"] == 12
    assert images.facts["left_out"] > 0


def test_raw_mammograms_and_those_for_presentation_are_not_mixed(tmp_path: Path) -> None:
    study(tmp_path, PresentationIntentType="FOR PROCESSING")
    assert "36 DICOM images are raw (FOR PROCESSING), such as benign/0-0.dcm" in notes(load_images(str(tmp_path)))
    write_dicom(tmp_path / "benign" / "z.dcm", scan_of(999), PatientID="ZZ", PresentationIntentType="FOR PRESENTATION")
    with pytest.raises(UserError, match=r"36 are FOR PROCESSING, such as benign/0-0\.dcm, and 1 FOR PRESENTATION, such as benign/z\.dcm"):
        load_images(str(tmp_path))


def test_what_a_person_should_know_is_noted_and_what_is_no_image_is_a_bad_image(tmp_path: Path) -> None:
    study(tmp_path)
    write_dicom(tmp_path / "benign" / "s.dcm", scan_of(800), PatientID="A", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    write_dicom(tmp_path / "benign" / "l.dcm", scan_of(801), PatientID="B", ImageType=["DERIVED", "PRIMARY", "LOCALIZER"])
    told = notes(load_images(str(tmp_path)))
    assert "1 DICOM images are secondary captures, such as benign/s.dcm" in told
    assert "1 DICOM images are localisers, such as benign/l.dcm" in told
    write_dicom(tmp_path / "benign" / "m.dcm", scan_of(802), NumberOfFrames=20)
    write_dicom(tmp_path / "benign" / "r.dcm", scan_of(803), Modality="SR")
    with pytest.raises(BadImages) as caught:
        load_images(str(tmp_path))
    assert {Path(problem.path).name: problem.reason for problem in caught.value.problems} == {"m.dcm": "unreadable", "r.dcm": "unreadable"}


def test_eight_bit_pictures_among_dicom_are_named(tmp_path: Path) -> None:
    picture(study(tmp_path) / "benign" / "p.png", 5)
    with pytest.raises(UserError, match="8-bit and 16-bit images are mixed"):
        load_images(str(tmp_path))


def test_an_identity_is_kept_as_a_hash_whose_key_is_another_in_every_scan(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", scan_of(0), names=True)
    kept = [look_at_header(path, key) for key in (b"1" * 32, b"1" * 32, b"2" * 32)]
    assert kept[0] == kept[1] != kept[2]
    assert "ZW" not in repr(kept)
    assert kept[0] is not None
    assert re.fullmatch("[0-9a-f]{64}", kept[0].identities[0])
    assert look_at_header(picture(tmp_path / "b.png", 0), b"1" * 32) is None


def test_nothing_of_a_header_is_in_anything_a_run_writes_or_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hashlib import md5, sha1, sha256

    from runs import run

    monkeypatch.chdir(tmp_path)
    for place, name in enumerate("ab"):
        for row in range(14):
            base = np.full((32, 32), 500 + 2000 * place, np.uint16)
            noise = np.random.default_rng(100 * place + row).integers(0, 900, base.shape).astype(np.uint16)
            identity = f"{NAMES['PatientID']}-{place}-{row // 2}"
            write_dicom(tmp_path / "set" / name / f"{row}", base + noise, names=True, private=True,
                        PatientID=identity, StudyInstanceUID=f"1.2.826.0.1.55.{place}.{row // 2 + 1}")
    (tmp_path / "set" / "a" / "bad").write_bytes((tmp_path / "set" / "a" / "0").read_bytes()[:900])
    capfd.readouterr()
    assert run(data="set", out=Path("student"), skip_bad_images=True, epochs=1, bootstrap=2) == 0
    said = "".join(capfd.readouterr())
    results = [path for path in sorted(tmp_path.rglob("*")) if (tmp_path / "set") not in path.parents]
    written = b"".join(path.read_bytes() for path in results if path.is_file() and not path.name.endswith(".names.csv")) + said.encode()
    assert b"images that share the PatientID" in written
    identities = [f"{NAMES['PatientID']}-{place}-{row}" for place in range(2) for row in range(7)]
    hashed = [kind(text.encode()).hexdigest() for kind in (md5, sha1, sha256) for text in [*identities, *NAMES.values()]]
    for secret in [*NAMES.values(), *identities, "1.2.826.0.1.55", "wiebel", *hashed]:
        assert secret.encode() not in written, secret
        assert secret.encode("utf-16-le") not in written, secret
    with (tmp_path / "student" / "split.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (tmp_path / "student.names.csv").open(encoding="utf-8", newline="") as stream:
        files = {row["key"]: row["path"] for row in csv.DictReader(stream)}
    parts = {files[row["key"]]: row["split"] for row in rows}
    assert len(parts) == 28
    assert all(parts[f"set/{name}/{row}"] == parts[f"set/{name}/{row + 1}"] for name in "ab" for row in range(0, 14, 2))
