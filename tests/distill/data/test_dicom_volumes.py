"""DICOM series in sets: grouped in folders and named in tables, keyed by folder, what is no slice left out; training and device agree."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import NAMES, write_dicom, write_frames, write_series

from distill.data.dicom_series import look_at_slices
from distill.data.intake import read_images, volume_spec
from distill.data.loading import load_images
from distill.data.scan import BadImages, hash_files
from distill.settings.data import DataOptions
from runtimes.errors import USAGE, UserError
from runtimes.images.scans import read_scan
from runtimes.images.volumes import VolumeSpec

CLASSES = ("bleed", "none")


def stored(seed: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 900, (count, 12, 10)).astype(np.int16)


def study(root: Path, patients: int = 8, **tags: Any) -> Path:
    """Two classes of patients with a series each, in a folder of its own."""
    for place, name in enumerate(CLASSES):
        for patient in range(patients):
            seed = place * patients + patient
            write_series(root / name / f"p{patient}", stored(seed), series=f"1.2.{seed + 1}",
                         **{"PatientID": f"ZW-{seed}", "step": (0, 0, 2.0), **tags})
    return root


def notes(images: Any) -> str:
    return "\n".join(images.facts["notes"])


def test_files_that_share_a_series_are_one_volume_keyed_by_their_folder(tmp_path: Path) -> None:
    images = load_images(str(study(tmp_path)), series=True)
    assert sorted(images.keys) == sorted(f"{name}/p{patient}" for name in CLASSES for patient in range(8))
    assert images.volume is not None
    assert images.volume.slices == 6
    row = images.keys.index("none/p3")
    assert images.images[row] == tuple(sorted((tmp_path / "none" / "p3").iterdir()))
    np.testing.assert_array_equal(images.raw(row), VolumeSpec().read(tmp_path / "none" / "p3"))
    assert images.hashes[row] == hash_files(list(reversed(images.images[row])))
    assert "patients are those of patient folder" in notes(images)


def test_several_series_of_a_folder_bear_the_name_of_their_first_file(tmp_path: Path) -> None:
    for place, name in enumerate(CLASSES):
        for patient in range(8):
            seed = place * 8 + patient
            write_series(tmp_path / name, stored(seed), series=f"1.2.{seed + 1}", name=f"p{patient}-" + "{:03d}", PatientID=f"Z{seed}")
    images = load_images(str(tmp_path), series=True)
    assert sorted(images.keys) == sorted(f"{name}/p{patient}-000" for name in CLASSES for patient in range(8))
    assert all(len(item) == 6 for item in images.images)
    assert "images that share the PatientID of their DICOM header stay in one split: 16 in all" in notes(images)


def test_splits_and_many_frames_and_what_is_left_out(tmp_path: Path) -> None:
    seed = 0
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for name in CLASSES:
            for patient in range(count):
                seed += 1
                folder = tmp_path / part / name / f"p{patient}"
                if patient == 1:
                    write_frames(folder / "many.dcm", stored(seed))
                    write_dicom(folder / "dose", stored(5)[0], Modality="SR")
                    write_dicom(folder / "mask.dcm", stored(5)[0], Modality="SEG")
                else:
                    write_series(folder, stored(seed), series=f"1.2.{seed}")
                    write_dicom(folder / "scout.dcm", stored(5)[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    images = load_images(str(tmp_path), series=True)
    assert dict(images.facts["counts"]) == {"train": 8, "val": 4, "test": 4}
    assert "train/bleed/p1/many.dcm" in images.keys
    assert "train/bleed/p0" in images.keys
    assert ("22 DICOM files that are no slices are left out: 10 localisers, 6 of Modality SEG, 6 of Modality SR; such as "
            "test/bleed/p0/scout.dcm") in notes(images)


def test_a_series_in_two_classes_is_refused(tmp_path: Path) -> None:
    study(tmp_path)
    write_series(tmp_path / "none" / "p9", stored(77), series="1.2.1", step=(0, 0, 2.0), origin=(0, 0, 50))
    with pytest.raises(UserError, match=r"6 files belong to a DICOM series of another class.*none/p9/0000\.dcm and bleed/p0/0000\.dcm"):
        load_images(str(tmp_path), series=True)


def test_a_bad_series_is_one_bad_image_with_its_key(tmp_path: Path) -> None:
    study(tmp_path)
    (tmp_path / "none" / "p2" / "0003.dcm").unlink()
    write_series(tmp_path / "bleed" / "p9", stored(5)[:1], series="1.9", PatientID="q")
    with pytest.raises(BadImages) as caught:
        load_images(str(tmp_path), series=True)
    problems = {problem.path: problem.detail for problem in caught.value.problems}
    assert set(problems) == {"none/p2", "bleed/p9"}
    assert "1 slice of 6 is missing, between 4 and 8 mm" in problems["none/p2"]
    assert "1 slice at one position" in problems["bleed/p9"]
    assert load_images(str(tmp_path), series=True, skip_bad_images=True).facts["skipped"] == {"unreadable": 2}


def test_what_reading_says_of_volumes_is_noted_once_with_a_count(tmp_path: Path) -> None:
    study(tmp_path, orientation=(1, 0, 0, 0, 0.9659258, -0.258819))
    told = notes(load_images(str(tmp_path), series=True))
    assert "16 volumes, such as bleed/p0: slices are shifted against their normal by 15.0 degrees" in told


def test_series_that_are_read_as_images_are_named_once(tmp_path: Path) -> None:
    images = load_images(str(study(tmp_path)))
    assert len(images) == 96
    assert notes(images).count("--dicom series") == 1
    assert "16 DICOM series of 5 slices or more are read as single images; --dicom series takes each as a volume" in notes(images)
    for path in tmp_path.rglob("*.dcm"):
        if int(path.stem) > 3:
            path.unlink()
    assert "--dicom series" not in notes(load_images(str(tmp_path)))


def test_a_cell_that_names_a_folder_is_a_series_and_a_file_of_many_frames_a_volume(tmp_path: Path) -> None:
    study(tmp_path / "scans", 4)
    rows = [(f"scans/{name}/p{patient}", name) for name in CLASSES for patient in range(4)]
    for place in range(8):
        write_frames(tmp_path / f"many{place}.dcm", stored(50 + place), PatientID=f"M{place}")
        rows.append((f"many{place}.dcm", CLASSES[place % 2]))
    table = tmp_path / "set.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "label"), *rows])
    images = load_images(str(table))
    assert set(images.keys) == {cell for cell, _ in rows}
    assert images.volume is not None
    row = images.keys.index("scans/none/p1")
    np.testing.assert_array_equal(images.raw(row), VolumeSpec().read(tmp_path / "scans/none/p1"))
    row = images.keys.index("many3.dcm")
    np.testing.assert_array_equal(images.raw(row), VolumeSpec().read(tmp_path / "many3.dcm"))
    (tmp_path / "empty").mkdir()
    with table.open("a", newline="") as stream:
        csv.writer(stream).writerow(("empty", "none"))
    with pytest.raises(UserError, match=r"line 18: .*empty.* is a folder without a DICOM file"):
        load_images(str(table))


def test_unlabelled_series_are_volumes_too(tmp_path: Path) -> None:
    study(tmp_path / "data")
    for place in range(3):
        write_series(tmp_path / "more" / f"u{place}", stored(90 + place), series=f"1.5.{place + 1}", PatientID=f"U{place}")
    images = load_images(str(tmp_path / "data"), unlabelled=tmp_path / "more", series=True)
    assert {key for key in images.keys if key.startswith("unlabelled")} == {f"unlabelled/u{place}" for place in range(3)}
    assert images.facts["unlabelled"] == 3


@pytest.mark.parametrize("changes", [{"volume_spacing": (0.0, 1.0, 1.0)}, {"volume_size": (0, 1, 1)}, {"volume_size": (1, 1, 9999)}])
def test_a_spacing_or_size_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be between") as caught:
        DataOptions(**changes)
    assert caught.value.exit_code == USAGE


def test_settings_reach_the_spec_and_series_are_about_files(tmp_path: Path) -> None:
    options = DataOptions(str(study(tmp_path)), dicom="series", volume_spacing=(2.0, 2.0, 2.0), volume_size=(6, 7, 5),
                          volume_window=(0.0, 80.0))
    assert volume_spec(options) == VolumeSpec(scaling="window", window=(0.0, 80.0), spacing_mm=(2.0, 2.0, 2.0), size=(6, 7, 5))
    images = read_images(options, None)
    assert images.raw(0).shape == (5, 7, 6, 1)
    assert images.facts["volume"]["size"] == [6, 7, 5]
    with pytest.raises(UserError, match="--dicom series is about DICOM files in folders"):
        read_images(replace(options, data="phantom"), None)


def test_a_series_is_known_by_a_hash_that_is_another_in_every_listing(tmp_path: Path) -> None:
    paths = write_series(tmp_path, stored(0), names=True, series="1.2.840.4711")
    looks = [look_at_slices(paths, key) for key in (b"1" * 32, b"1" * 32, b"2" * 32)]
    assert looks[0] == looks[1] != looks[2]
    assert len({look.series for look in looks[0] if look is not None}) == 1
    assert not [text for text in (*NAMES.values(), "4711") if text in repr(looks)]
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    (tmp_path / "a.png").write_bytes(b"no DICOM")
    broken, other = look_at_slices([tmp_path / "a.dcm", tmp_path / "a.png"], b"1" * 32)
    assert broken is not None
    assert (broken.series, other) == ("", None)


def test_training_and_a_device_get_the_same_bits(tmp_path: Path) -> None:
    from stacked import SPEC, write

    from export.commands import export
    from export.config import ExportSettings
    from runtimes.artifact.artifact import read_artifact
    from runtimes.session import open_session
    from runtimes.stacks import as_stacks

    images = load_images(str(study(tmp_path / "data")), series=True, volume=VolumeSpec(4, spacing_mm=(0.8, 0.9, 2.0), size=(16, 16, 6)))
    spec = replace(SPEC, volume=images.volume)
    write(tmp_path / "student", spec)
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "artifact", samples=3)
    assert export(settings, "rd-export", lambda checkpoint: images) == 0
    artifact = read_artifact(tmp_path / "artifact")
    session = open_session(tmp_path / "artifact", threads=1)
    for row in (0, 9):
        files, folder = images.images[row], tmp_path / "data" / images.keys[row]
        trained = spec.resized(images.raw(row))
        answers = []
        for given in (folder, str(folder), files, tuple(map(str, reversed(files))), [folder], [files], read_scan(folder)):
            slices, mask = as_stacks(given, artifact)
            np.testing.assert_array_equal(slices[0], trained)
            assert mask.all()
            answers.append(session.run(given).logits)
        assert all(np.array_equal(answer, answers[0]) for answer in answers)
    write_frames(tmp_path / "many.dcm", np.stack([stored(0)[place] for place in range(6)]))
    np.testing.assert_array_equal(as_stacks(tmp_path / "many.dcm", artifact)[0], as_stacks(tmp_path / "data/bleed/p0", artifact)[0])
    with pytest.raises(UserError, match="1 slice at one position"):
        session.run(list(images.images[0]))
    with pytest.raises(UserError, match="an array says nothing of its spacing"):
        session.run(stored(0).astype(np.float32))
