"""A student folder: it loads to the same answers, timm reads it, and a changed byte or a foreign file is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from tiny import CLASSES, tiny_branches, tiny_model

from distill.networks.checkpoint import Calibration, load_checkpoint, save_checkpoint
from distill.networks.foreign_config import preprocessor_config
from distill.networks.models import Model, weights_hash
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.images.spec import ImageSpec

SPEC = ImageSpec(32, 32, 1, "uint16", (10.0, 4000.0), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def write(folder: Path, model: Model, calibration: Calibration | None = None, kind: str = "student") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, model, SPEC, calibration or Calibration((1.5,)), {"teacher": "MIT"})
    write_manifest(folder, kind, {"settings": {}, "licence": "MIT"})
    return folder


@pytest.mark.parametrize("task", sorted(CLASSES))
@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit"])
def test_what_is_saved_loads_to_the_same_model(tmp_path: Path, task: str, arch: str) -> None:
    model = tiny_model(task, arch).eval()
    calibration = Calibration(tuple(0.5 + i for i in range(3)), (0.1, 0.2, 0.3)) if task == "multilabel" else Calibration((1.7,))
    checkpoint = load_checkpoint(write(tmp_path / "student", model, calibration))
    pixels = torch.randn(3, 3, 32, 32)
    assert torch.equal(checkpoint.model(pixels), model(pixels))
    assert not checkpoint.model.training
    assert weights_hash(checkpoint.model) == weights_hash(model)
    assert (checkpoint.spec, checkpoint.image_spec, checkpoint.calibration) == (model.spec, SPEC, calibration)


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit", "mobilenetv3_small_050"])
def test_timm_reads_the_folder_to_the_same_scores(tmp_path: Path, arch: str) -> None:
    model = tiny_model("multiclass", arch).eval()
    folder = write(tmp_path / "student", model)
    pixels = torch.randn(2, 3, 32, 32)
    twin = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(twin(pixels), model(pixels))
    config = timm.data.resolve_data_config({}, model=twin)
    assert tuple(config["input_size"]) == (3, 32, 32)
    assert (tuple(config["mean"]), tuple(config["std"])) == (SPEC.mean, SPEC.std)
    assert config["crop_pct"] == 1.0


def test_no_tensor_of_teacher_or_module_is_in_the_file(tmp_path: Path) -> None:
    branches = tiny_branches("rd")
    folder = write(tmp_path / "student", branches.student)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(branches.student.net.state_dict())
    assert not any("phi" in name or "hint" in name or "teacher" in name for name in names)


def test_weights_in_channels_last_are_stored_as_they_are_meant(tmp_path: Path) -> None:
    model = tiny_model().eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = model(pixels)
    folder = write(tmp_path / "student", model.to(memory_format=torch.channels_last))
    torch.testing.assert_close(load_checkpoint(folder).model(pixels), expected)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path / "student", tiny_model())
    random = np.random.default_rng(0)
    files = sorted(one for one in folder.iterdir() if one.name != "manifest.json")
    for turn in range(30):
        path = files[turn % len(files)]
        whole = path.read_bytes()
        place, bit = int(random.integers(len(whole))), int(random.integers(8))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1:])
        with pytest.raises(UserError, match="is not what was written"):
            load_checkpoint(folder)
        path.write_bytes(whole)
    load_checkpoint(folder)


def test_added_missing_and_linked_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "student", tiny_model())
    (folder / "surplus.txt").write_text("x")
    with pytest.raises(UserError, match=r"surplus\.txt is not named"):
        load_checkpoint(folder)
    (folder / "surplus.txt").unlink()
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        load_checkpoint(folder)
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        load_checkpoint(folder)


def test_another_kind_of_folder_is_refused_with_its_kind(tmp_path: Path) -> None:
    folder = write(tmp_path / "bank", tiny_model(), kind="bank")
    with pytest.raises(UserError, match="of kind 'bank', expected student or teacher"):
        load_checkpoint(folder)
    with pytest.raises(UserError, match="of kind 'teacher', expected student"):
        load_checkpoint(write(tmp_path / "teacher", tiny_model(), kind="teacher"), "student")
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(("change", "message"), [
    (lambda config: config.pop("rd"), "lacks 'rd'"),
    (lambda config: config["rd"].pop("temperatures"), "lacks 'temperatures'"),
    (lambda config: config["rd"]["model"].pop("arch"), "model spec is not complete"),
    (lambda config: config["rd"]["image"].pop("mean"), r"image\.mean is missing"),
    (lambda config: config["rd"]["model"].update(arch="test_resnet"), r"model\.safetensors does not fit test_resnet"),
])
def test_a_config_that_does_not_fit_is_told_not_guessed(tmp_path: Path, change: object, message: str) -> None:
    folder = write(tmp_path / "student", tiny_model())
    config = read_json(folder / "config.json")
    change(config)  # type: ignore[operator]
    write_json(folder / "config.json", config)
    write_manifest(folder, "student", {})
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "student", tiny_model())
    (folder / "model.safetensors").write_bytes(b"\x80\x04N.")
    write_manifest(folder, "student", {})
    with pytest.raises(UserError, match="does not fit test_efficientnet"):
        load_checkpoint(folder)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", tiny_model()), write(tmp_path / "two", tiny_model())
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {path.name: path.read_bytes() for path in two.iterdir()}


def test_the_image_processor_says_what_the_spec_says(tmp_path: Path) -> None:
    found = json.loads((write(tmp_path / "student", tiny_model()) / "preprocessor_config.json").read_text())
    assert found == preprocessor_config(SPEC)
    assert (found["image_mean"], found["image_std"]) == (list(SPEC.mean), list(SPEC.std))
    assert found["size"] == {"height": 32, "width": 32}


def test_a_folder_of_an_earlier_version_loads_and_does_not_call_itself_calibrated(tmp_path: Path) -> None:
    for task, names in (("multiclass", ("every class",)), ("multilabel", CLASSES["multilabel"])):
        folder = write(tmp_path / task, tiny_model(task), Calibration((1.7,) * len(names)))
        config = read_json(folder / "config.json")
        assert load_checkpoint(folder).calibration.describe() == "calibrated"
        del config["rd"]["not_calibrated"], config["rd"]["few_images"]
        write_json(folder / "config.json", config)
        write_manifest(folder, "student", {})
        calibration = load_checkpoint(folder).calibration
        assert calibration.temperatures == (1.7,) * len(names)
        assert set(calibration.not_calibrated) == set(names)
        assert calibration.describe().startswith("not calibrated (fitted by an earlier version")
        config["rd"]["not_calibrated"] = ["x"]
        write_json(folder / "config.json", config)
        write_manifest(folder, "student", {})
        with pytest.raises(UserError, match="not_calibrated"):
            load_checkpoint(folder)
