"""Students and teachers that see volumes at once, and windows of values, from --data to an artifact that answers on a device."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from dicoms import write_dicom
from drawn import class_folders
from runs import TINY, refused, run

from distill.adaptation.adapt import adapt
from distill.data.intake import images_for
from distill.dry_run import dry_run
from distill.networks import solid
from distill.networks.checkpoint import load_checkpoint
from distill.networks.inflated_resnet import InflatedResNet
from distill.networks.models import weights_hash
from distill.networks.tasks import load_task
from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from distill.teacher.bank import open_bank
from distill.teacher.teachers import load_teacher
from export.commands import export
from export.config import ExportSettings
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json, read_manifest
from runtimes.images.windows import window_named
from runtimes.session import as_batch, open_session
from runtimes.verify import verify

pytest.importorskip("monai", reason="MONAI is not installed: pip install 'rd-distill[monai]'")
pytestmark = pytest.mark.usefixtures("in_empty_folder")

VOLUMES: dict[str, Any] = {"data": "phantom-volumes", "phantom_images": (12, 10, 10), "student": "monai:resnet10-8", "size": 32,
                           "slices": 16, "epochs": 1, "min_steps": 2, "batch": 4}

def exported(folder: str = "student", **changes: Any) -> Path:
    out = Path(f"artifact-{folder}")
    assert export(ExportSettings(student_dir=Path(folder), out=out, golden_images=8, samples=5, **changes), "rd-export --test") == 0
    return out


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Merlin's network with a block a stage and few channels, and a file of its weights."""
    monkeypatch.setattr(solid, "InflatedResNet", lambda: InflatedResNet((1, 1, 1, 1), 8))
    monkeypatch.setattr(solid, "WIDTHS", {**solid.WIDTHS, "inflated/resnet152": 256})
    torch.manual_seed(0)
    torch.save(InflatedResNet((1, 1, 1, 1), 8).state_dict(), tmp_path / "merlin.pt")
    return tmp_path / "merlin.pt"


def test_a_3d_student_is_trained_exported_and_answers_as_pytorch_does() -> None:
    assert run(**VOLUMES, method="vanilla") == 0
    checkpoint = load_checkpoint(Path("student"), "student")
    assert (checkpoint.spec.solid, checkpoint.image_spec.slices, checkpoint.image_spec.masked) == (True, 16, False)
    artifact = exported()
    assert read_json(artifact / "parity.json")["flips"] == 0
    assert verify(artifact)[0] == 0
    session, images = open_session(artifact), images_for(read_manifest(Path("student"), "student"), folder=Path("student"))
    assert session.artifact.input_names == ("image",)
    volume = images.raw(0)
    batch = as_batch(volume, session.artifact)
    assert isinstance(batch, np.ndarray)
    assert batch.shape == (1, 16, 32, 32, 1)
    np.testing.assert_array_equal(batch[0], checkpoint.image_spec.stored(volume))  # what training keeps
    one, two = session.run(volume), session.run([volume, images.raw(1)])
    np.testing.assert_allclose(one.logits[0], two.logits[0], atol=1e-5)
    np.testing.assert_allclose(session.run(batch).logits, one.logits)
    assert one.attention is None
    for wrong, words in ((batch[:, :8], "expected uint8 \\(volumes, 16"), (batch.astype(np.float32), "slices of float32"),
                         ((batch, np.ones((1, 16), np.uint8)), "expected \\(slices, height, width\\)")):
        with pytest.raises(UserError, match=words):
            session.run(wrong)
    readme = (artifact / "README.md").read_text()
    assert "(batch, 16, 32, 32, 1)" in readme
    assert "`mask`" not in readme


@pytest.mark.parametrize("student", ["monai:resnet10-8", "test_efficientnet"])
def test_a_teacher_of_whole_volumes_is_banked_once_and_teaches_either_kind_of_student(student: str, shallow: Path) -> None:
    changes = VOLUMES | {"teacher": "merlin", "teacher_weights": str(shallow), "teacher_size": 32, "student": student, "bank": Path("bank")}
    assert run(**changes, method="rd") == 0
    bank = open_bank(Path("bank"))
    assert (bank.masked, bank.width) == (None, 256)
    assert bool(bank.key["views"].get("solid")) == student.startswith("monai")
    branches = read_json(Path("student/metrics.json"))["splits"]["test"]
    assert {"student", "teacher", "probe"} <= set(branches)
    banked = {"teacher": "bank:bank", "teacher_weights": None, "teacher_size": None, "bank": None}
    assert run(**{**changes, **banked}, method="kd", overwrite=True) == 0


def test_a_dry_run_shows_a_teacher_of_whole_volumes_one_volume_and_counts_a_row_each(
        shallow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = DistillSettings(**(TINY | VOLUMES | {"teacher": "merlin", "teacher_weights": str(shallow), "teacher_size": 32}))
    assert dry_run(settings) == 0
    assert "bank      44 rows" in capsys.readouterr().out  # 12 training volumes as they are and in one view, 20 others
    with pytest.raises(UserError, match="sees whole volumes"):
        dry_run(DistillSettings(**(TINY | {"teacher": "merlin", "teacher_weights": str(shallow), "teacher_size": 32})))


def test_slices_of_a_2d_teacher_teach_a_student_of_whole_volumes() -> None:
    assert run(**VOLUMES, method="rd", bank=Path("bank")) == 0
    assert open_bank(Path("bank")).masked == 16
    assert "teacher" in read_json(Path("student/metrics.json"))["splits"]["test"]


def test_an_adapted_teacher_of_volumes_keeps_its_features_and_teaches(shallow: Path) -> None:
    own = {name: value for name, value in (TINY | VOLUMES).items() if name not in ("student", "size")}
    settings = AdaptSettings(**(own | {"teacher": "merlin", "teacher_weights": str(shallow), "teacher_size": 32, "method": "molre"}))
    assert adapt(settings, "rd-adapt --test") == 0
    spec = load_checkpoint(Path("teacher")).spec
    assert (spec.arch, spec.slices, dict(spec.arguments)) == ("inflated/resnet152", 32, {"channels": 1, "ras": True})
    assert load_teacher("teacher").image_spec.slices == 32
    assert run(**VOLUMES, teacher="teacher", teacher_weights=None, teacher_size=None, method="rd") == 0


def test_the_original_of_a_teacher_of_volumes_is_found_again_for_a_second_task(shallow: Path) -> None:
    own: dict[str, Any] = {"method": "molre", "data": "phantom-volumes", "phantom_images": (12, 10, 10), "epochs": 1, "min_steps": 2,
                           "batch": 4, "bank_views": 1, "bootstrap": 5, "device": "cpu", "bank_runtime": "torch"}
    first: dict[str, Any] = {"teacher": "merlin", "teacher_weights": str(shallow), "teacher_size": 32}
    for flags in ({**first, "out": Path("one"), "task_name": "head"}, {"teacher": "one", "split_seed": 1, "out": Path("two")},
                  {**first, "split_seed": 1, "out": Path("fresh")}):
        assert adapt(AdaptSettings(**(own | flags)), "rd-adapt --test") == 0
    one, two, fresh, again = (weights_hash(checkpoint.model.net) for checkpoint in (
        *(load_checkpoint(Path(name)) for name in ("one", "two", "fresh")), load_task(Path("two"), "head")))
    assert two == fresh
    assert one == again


@pytest.mark.parametrize(("changes", "words"), [
    ({"data": "phantom"}, "the data are single images"), ({"student": "monai:resnet"}, "expected monai: and one of"),
    ({"student": "monai:densenet121", "size": 16}, "choose another --size or --slices"),
    ({"windows": ("brain",)}, "is drawn in grey levels"),
    ({"windows": ("brian",)}, "did you mean brain"), ({"windows": ("brain",) * 4}, "4 windows; expected 3"),
    ({"windows": ("brain",), "volume_window": (0.0, 80.0)}, "give one of them")])
def test_what_does_not_fit_volumes_is_refused_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        run(**(VOLUMES | {"method": "vanilla"} | changes))
    assert caught.value.exit_code in (1, USAGE)


def test_a_teacher_of_volumes_is_not_shown_images(shallow: Path) -> None:
    assert "sees whole volumes" in refused(USAGE, teacher="merlin", teacher_weights=str(shallow), teacher_size=32, data="phantom")


def hounsfield_set(folder: Path, volumes: bool) -> Path:
    """A table of CT: DICOM images or NIfTI volumes in Hounsfield units, class b with a bright spot of blood."""
    random, rows = np.random.default_rng(0), [("image", "label", "split")]
    for row in range(24):
        label, split = "ab"[row % 2], ("train", "train", "val", "test")[row // 2 % 4]
        values = random.normal(30, 12, (20, 40, 48) if volumes else (40, 48))
        values[..., :3, :] = -1000
        values[..., 12:24, 12:24] += 40 * (row % 2)
        name = f"{row:02d}.nii.gz" if volumes else f"{row:02d}.dcm"
        if volumes:
            nibabel.save(nibabel.Nifti1Image(values.round().astype(np.int16).transpose(2, 1, 0), np.eye(4)), folder / name)
        else:
            write_dicom(folder / name, (values.round() + 1024).astype(np.uint16), RescaleSlope="1", RescaleIntercept="-1024",
                        PatientID=f"P{row}")
        rows.append((name, label, split))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


@pytest.mark.parametrize(("volumes", "student"), [(False, "test_efficientnet"), (True, "test_efficientnet"), (True, "monai:resnet10-8")])
def test_windows_are_in_the_graph_and_a_file_gives_training_and_device_the_same_bits(tmp_path: Path, volumes: bool, student: str) -> None:
    table = hounsfield_set(tmp_path, volumes)
    sizes = {"slices": 16} if volumes else {}
    assert run(data=str(table), windows=("brain", "subdural", "bone"), student=student, method="vanilla", epochs=1, **sizes) == 0
    checkpoint = load_checkpoint(Path("student"), "student")
    spec = checkpoint.image_spec
    assert (spec.dtype, spec.channels, spec.levels_channels) == ("int16", 1, 3)
    assert spec.windows == tuple(map(window_named, ("brain", "subdural", "bone")))
    artifact, images = exported(), images_for(read_manifest(Path("student"), "student"), folder=Path("student"))
    session = open_session(artifact)
    assert verify(artifact)[0] == 0
    file = images.images[0]
    batch = as_batch(file, session.artifact)
    fed = batch[0] if isinstance(batch, tuple) else batch
    assert fed.dtype == np.int16
    np.testing.assert_array_equal(np.rint(spec.levels(fed[0])), spec.stored(images.raw(0)))
    model = checkpoint.model.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(spec.normalised(spec.levels(fed)))
        mask = (torch.from_numpy(batch[1]).float(),) if isinstance(batch, tuple) else ()
        np.testing.assert_allclose(session.run(file).logits, model(pixels, *mask).numpy(), atol=1e-4)
    with pytest.raises(UserError, match="slices of its own size" if volumes else "inside its graph"):
        exported(input="tensor", overwrite=True)
    if not volumes:
        with pytest.raises(UserError, match="dtype uint8, expected int16: values such as HU"):
            session.run(np.zeros((32, 32), np.uint8) + np.arange(32, dtype=np.uint8))


@pytest.mark.parametrize("student", ["test_efficientnet", "monai:resnet10-8"])
def test_openvino_runs_windows_in_int8_and_keeps_the_windows_themselves_in_float(tmp_path: Path, student: str) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed; pip install '.[openvino]'")
    pytest.importorskip("nncf", reason="nncf is not installed; pip install '.[openvino]'")
    volumes = student.startswith("monai")
    sizes = {"slices": 16} if volumes else {}
    run(data=str(hounsfield_set(tmp_path, volumes)), windows=("brain", "bone"), student=student, method="vanilla", epochs=1, **sizes)
    artifact = exported(target=("openvino",), precision="int8", keep_slower=True, max_flips="100%", max_auc_drop=0.99, sensitivity=False)
    assert verify(artifact)[0] == 0
    rounded = [node for node in openvino.Core().read_model(artifact / "openvino_model.xml").get_ordered_ops()
               if node.get_type_name() == "FakeQuantize"]
    assert rounded
    assert all(node.input_value(0).get_node().input_value(0).get_node().get_type_name() != "Parameter" for node in rounded)


def test_settings_of_windows_are_kept_in_the_manifest_and_windows_of_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pictures hold grey levels"):
        run(data=str(class_folders(tmp_path / "set", {"a": 12, "b": 12})), windows=("brain",), method="vanilla")
    assert DistillSettings(windows=("W80L40",)).windows == ("W80L40",)
