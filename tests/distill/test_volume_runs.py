"""Volumes from --data to the folders of rd-adapt and rd-distill: NIfTI in every form, phantoms, where attention landed, the report."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from distill.adaptation.adapt import adapt
from distill.commands import distill
from distill.data.intake import images_for
from distill.data.loading import MOST_SLICES, load_images
from distill.data.scan import BadImages
from distill.evaluation.volume_views import holding, landing, strips
from distill.networks.checkpoint import load_checkpoint
from distill.phantom.images import draw, draw_labels
from distill.phantom.volumes import DEPTHS, EXTENTS, LOCAL, PhantomVolumes
from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json, read_manifest
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec

pytestmark = pytest.mark.usefixtures("in_empty_folder")

TINY: dict[str, Any] = {
    "teacher": "test_efficientnet", "teacher_size": 32, "teacher_weights": "random", "data": "phantom-volumes",
    "phantom_images": (12, 10, 10), "phantom_size": 32, "slices": 6, "epochs": 1, "min_steps": 3, "batch": 4, "bootstrap": 5,
    "device": "cpu", "bank_runtime": "torch", "bank_views": 1}


def write_volumes(folder: Path, count: int = 24, depth: int = 5) -> Path:
    """NIfTI files of various depths, class b brighter in one slice, and their CSV."""
    random = np.random.default_rng(0)
    rows = [("image", "label", "split")]
    for row in range(count):
        label, split = "ab"[row % 2], ("train", "train", "val", "test")[row // 2 % 4]
        voxels = random.normal(200, 60, (20, 24, depth + row % 4)).astype(np.float32)
        voxels[5:12, 5:12, 2] += 900 * (row % 2)
        path = folder / "images" / f"{row:02d}.nii.gz"
        path.parent.mkdir(exist_ok=True, parents=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
        rows.append((path.name, label, split))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def test_a_csv_or_a_folder_of_nifti_files_becomes_volumes_of_the_thickest_ones_slices(tmp_path: Path) -> None:
    found = load_images(str(write_volumes(tmp_path)), volume=VolumeSpec(axis="axial"))
    assert (found.volume, found.facts["depths"]) == (VolumeSpec(8), [5, 6, 8])
    assert found.raw(0).shape == (5, 24, 20, 1)
    assert (found.classes, found.task, found.facts["dtype"]) == (("a", "b"), "binary", "uint8")
    for row in range(24):
        place = tmp_path / "folders" / ("train", "val", "test")[min(row // 8, 2)] / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / f"{row:02d}.nii.gz").rename(place / f"{row:02d}.nii.gz")
    again = load_images(str(tmp_path / "folders"), volume=VolumeSpec(4, "coronal"))
    assert (len(again), again.volume, again.raw(0).shape[0]) == (24, VolumeSpec(4, "coronal"), 24)


def test_many_slices_are_thinned_out_and_said_in_the_facts(tmp_path: Path) -> None:
    found = load_images(str(write_volumes(tmp_path, 16, 40)))
    assert found.volume is not None
    assert (found.volume.slices, found.facts["volume"]["slices"]) == (MOST_SLICES, MOST_SLICES)


def test_bad_volumes_are_reported_as_bad_images_are(tmp_path: Path) -> None:
    table = write_volumes(tmp_path)
    (tmp_path / "images" / "03.nii.gz").write_bytes((tmp_path / "images" / "03.nii.gz").read_bytes()[:300])
    (tmp_path / "images" / "04.nii.gz").unlink()
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 9), 5, np.int16), np.eye(4)), tmp_path / "images" / "05.nii.gz")
    (tmp_path / "images" / "06.nii.gz").write_bytes((tmp_path / "images" / "08.nii.gz").read_bytes())
    with pytest.raises(BadImages) as caught:
        load_images(str(table))
    reasons = {Path(one.path).name: one.reason for one in caught.value.problems}
    assert reasons.pop("03.nii.gz") == "damaged or truncated"
    assert reasons.pop("04.nii.gz") == "missing"
    assert reasons.pop("05.nii.gz") == "constant"
    assert set(reasons.values()) <= {"duplicate", "leak"}
    assert len(load_images(str(table), skip_bad_images=True)) == 20


def test_volumes_and_images_do_not_mix(tmp_path: Path) -> None:
    from PIL import Image

    table = write_volumes(tmp_path)
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "images" / "flat.png")
    table.write_text(table.read_text() + "flat.png,a,train\n")
    with pytest.raises(UserError, match="volumes and images are mixed"):
        load_images(str(table))


def test_a_phantom_volume_is_drawn_from_its_seed_alone_and_shows_its_findings_where_it_says() -> None:
    drawn = PhantomVolumes(40, 3, 48)
    for index in range(40):
        held = drawn.slice_labels(index)
        assert DEPTHS[0] <= len(held) <= DEPTHS[1]
        assert held.shape[1] == len(LOCAL)
        np.testing.assert_array_equal(held.max(0), drawn.labels(index))
        for column in held.T:
            places = np.flatnonzero(column)
            assert not len(places) or (EXTENTS[0] <= len(places) <= EXTENTS[1] and np.ptp(places) == len(places) - 1)
            assert not column[0], "the first slice holds none"
            assert not column[-1], "nor does the last"
    prevalence = PhantomVolumes(2000).all_labels().mean(0)
    assert np.abs(prevalence - 0.3).max() < 0.05
    np.testing.assert_array_equal(drawn[7], PhantomVolumes(40, 3, 48)[-33])
    assert drawn[7].shape == (len(drawn.slice_labels(7)), 48, 48, 1)
    assert not np.array_equal(drawn[7], PhantomVolumes(40, 4, 48)[7][:len(drawn[7])])


def test_a_finding_changes_the_slices_that_hold_it_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = PhantomVolumes(30, 0, 64)
    index = next(one for one in range(30) if drawn.labels(one)[LOCAL.index("mass")] == 1)
    held, shown = drawn.slice_labels(index), drawn[index]
    healthy = held.copy()
    healthy[:, LOCAL.index("mass")] = 0
    monkeypatch.setattr(PhantomVolumes, "slice_labels", lambda self, index: healthy)
    changed = (shown != drawn[index]).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, held[:, LOCAL.index("mass")] > 0)


def test_the_heads_middle_slice_is_the_phantoms_own_image() -> None:
    labels = draw_labels(1, 5)
    np.testing.assert_array_equal(draw(labels, 1, 5, 64), draw(labels, 1, 5, 64, 0.0, 0))
    assert not np.array_equal(draw(labels, 1, 5, 64), draw(labels, 1, 5, 64, 0.0, 1)), "another scan has other noise"
    sizes = [(draw(labels, 1, 5, 64, height) > 20).sum() for height in (0.0, 0.4, 0.7)]
    assert sizes[0] > sizes[1] > sizes[2], "the head narrows to its top"


def test_landing_is_the_weight_on_slices_with_a_finding_over_the_volumes_that_have_some() -> None:
    images = load_images("phantom-volumes", phantom_images=(4, 4, 30), phantom_size=32, volume=VolumeSpec(8))
    rows = images.rows("test")
    held = [holding(images, int(row)) for row in rows]
    known = [one for one in held if one is not None and one.any()]
    assert len(known) > 10
    perfect, uniform = np.zeros((len(rows), 8), np.float32), np.zeros((len(rows), 8), np.float32)
    for place, one in enumerate(held):
        assert one is not None
        uniform[place, :len(one)] = 1 / len(one)
        perfect[place, :len(one)] = one / one.sum() if one.any() else 1 / len(one)
    found = landing(images, rows, perfect)
    assert found is not None
    assert (found["n"], found["on_findings"], found["heaviest_right"]) == (len(known), pytest.approx(1), 1)
    assert landing(images, rows, uniform)["on_findings"] == pytest.approx(found["if_uniform"])  # type: ignore[index]
    spec = ImageSpec(32, 32, volume=images.volume)
    for strip in strips(images, spec, rows, perfect):
        assert strip["label"] != "none"
        assert max(slot["height"] for slot in strip["slices"]) == 1
        assert all(slot["holds"] == (slot["weight"] > 0) for slot in strip["slices"])


@pytest.mark.parametrize("changes", [
    {"method": "linear"}, {"method": "molre"}, {"method": "molre", "slice_pooling": "mean"}, {"method": "spectral"},
    {"method": "lora", "rank": 2}], ids=lambda one: " ".join(one.values()) if isinstance(one, dict) and "rank" not in one else "lora")
def test_every_method_adapts_a_teacher_to_volumes_and_a_student_is_distilled_from_it(changes: dict[str, Any]) -> None:
    assert adapt(AdaptSettings(**(TINY | changes), keep_experts="last"), "rd-adapt --test") == 0
    spec = load_checkpoint(Path("teacher")).spec
    assert (spec.slices, spec.pooling) == (6, changes.get("slice_pooling", "attention"))
    landed = read_json(Path("teacher/metrics.json"))["splits"]["test"]["attention"]
    assert 0 <= landed["on_findings"] <= 1
    assert "Where it looked" in Path("teacher/report.html").read_text()
    shared = {name: value for name, value in TINY.items() if not name.startswith("teacher")}
    settings = DistillSettings(student="test_efficientnet", teacher="teacher", size=32, **(shared | {"min_steps": 2}))
    assert distill(settings, "rd-distill --test") == 0
    student = load_checkpoint(Path("student"), "student")
    assert (student.spec.slices, student.image_spec.slices) == (6, 6)
    assert "teacher" in read_json(Path("student/metrics.json"))["splits"]["test"], "the teacher branch is scored too"
    again = images_for(read_manifest(Path("student"), "student"))
    assert (again.volume, again.hashes[0][:4]) == (student.image_spec.volume, again.hashes[0][:4])


@pytest.mark.parametrize("method", ["kd", "fitnet", "vanilla"])
def test_the_other_methods_take_volumes_too(method: str) -> None:
    settings = DistillSettings(student="test_efficientnet", size=32, method=method, **(TINY | {"min_steps": 2}))  # type: ignore[arg-type]
    assert distill(settings, "rd-distill --test") == 0
    assert load_checkpoint(Path("student"), "student").spec.slices == 6


def test_nifti_volumes_go_all_the_way_to_a_student(tmp_path: Path) -> None:
    table = str(write_volumes(tmp_path / "scans"))
    own = {name: value for name, value in TINY.items() if not name.startswith(("phantom", "slices"))}
    settings = DistillSettings(student="test_efficientnet", size=32, axis="axial", volume_window=(0.0, 1200.0), **(own | {"data": table}))
    assert distill(settings, "rd-distill --test") == 0
    held = load_checkpoint(Path("student"), "student").image_spec.volume
    assert held == VolumeSpec(8, "axial", "window", (0.0, 1200.0))
    assert images_for(read_manifest(Path("student"), "student"), folder=Path("student")).volume == held


def test_a_run_on_volumes_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.training import fit as loop

    flags = TINY | {"method": "lora", "rank": 2, "epochs": 3, "keep_experts": "last"}
    assert adapt(AdaptSettings(**flags, out=Path("whole")), "rd-adapt") == 0
    saved = loop.save_state

    def dies(folder: Path, epoch: int, *rest: Any) -> None:
        saved(folder, epoch, *rest)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", dies)
        with pytest.raises(KeyboardInterrupt):
            adapt(AdaptSettings(**flags, out=Path("broken")), "rd-adapt")
    assert adapt(AdaptSettings(**flags, out=Path("broken"), resume=True), "rd-adapt") == 0
    digests = [read_manifest(Path(name), "teacher")["weights_hash"] for name in ("whole", "broken")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("changes", [{"slices": 0}, {"slices": 1000}, {"volume_window": (5.0, 5.0)}])
def test_settings_of_volumes_that_make_no_sense_are_usage_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        DistillSettings(**changes)
    assert caught.value.exit_code == USAGE


@pytest.mark.parametrize("changes", [{"place": "blocks"}, {"merge": "mean"}, {"peft": True}, {"merge_aware": 0.3}])
def test_a_linear_head_takes_no_flag_of_adapters(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="leave --place") as caught:
        AdaptSettings(method="linear", **changes)
    assert caught.value.exit_code == USAGE
