"""Our own folders in the hands of timm and transformers: the same logits, labels and pixels, or a refusal that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from tiny import CLASSES, tiny_model

from benchmarks.robustness.teachers import picture
from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED
from distill.networks.architectures import check_architecture
from distill.networks.checkpoint import Calibration, load_checkpoint, save_checkpoint
from distill.networks.models import Model, ModelSpec, build_model
from distill.pruning.budget import record_cuts
from distill.pruning.prune import open_pruner
from distill.teacher.timm_folder import described
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_manifest
from runtimes.images.spec import ImageSpec

pytestmark = pytest.mark.usefixtures("nothing_reached")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
PLAIN = ImageSpec(32, 32, 1, mean=MEAN, std=STD)
PREPARATIONS = {
    "squash": PLAIN, "crop": ImageSpec(32, 32, 3, mean=MEAN, std=STD, fit="crop"),
    "crop of more": ImageSpec(32, 32, 3, mean=MEAN, std=STD, fit="crop", edge=38),
    "squash, then crop": ImageSpec(32, 32, 3, mean=MEAN, std=STD, edge=36), "oblong": ImageSpec(32, 48, 3, mean=MEAN, std=STD),
    "bicubic": ImageSpec(32, 32, 3, mean=MEAN, std=STD, interpolation="bicubic"),
    "pad": ImageSpec(32, 32, 3, mean=MEAN, std=STD, fit="pad")}


def written(folder: Path, model: Model, image_spec: ImageSpec = PLAIN) -> Path:
    folder.mkdir()
    several = model.spec.task == "multilabel"
    calibration = Calibration((1.0,) * len(model.spec.classes), (0.5,) * len(model.spec.classes)) if several else Calibration()
    save_checkpoint(folder, model, image_spec, calibration)
    write_manifest(folder, "student", {"settings": {}})
    return folder


def as_transformers(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'rd-distill[teachers]'")
    model, report = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    return model.eval()


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_transformers_and_timm_give_the_scores_of_the_head_under_names_that_fit_them(tmp_path: Path, task: str) -> None:
    model = tiny_model(task).eval()
    folder = written(tmp_path / "student", model)
    pixels = torch.randn(3, 3, 32, 32)
    own = model.head(model.features(pixels))
    theirs = as_transformers(folder)
    torch.testing.assert_close(theirs(pixel_values=pixels).logits, own)
    torch.testing.assert_close(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(pixels), own)
    names = ["above 0", "above 1", "above 2"] if task == "ordinal" else list(CLASSES[task])
    assert [theirs.config.id2label[place] for place in range(own.shape[1])] == names
    assert theirs.config.problem_type.startswith("multi" if task in ("ordinal", "multilabel") else "single")


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "mobilenetv3_small_050"])
def test_transformers_gives_the_logits_of_other_families(tmp_path: Path, arch: str) -> None:
    model = tiny_model("multiclass", arch).eval()
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(as_transformers(written(tmp_path / "student", model))(pixel_values=pixels).logits, model(pixels))


@pytest.mark.parametrize("name", PREPARATIONS)
def test_their_preparation_of_an_image_is_ours(tmp_path: Path, name: str) -> None:
    """Within a few grey levels, since Pillow rounds between the two directions of a resize; around padded images timm puts its mean."""
    spec = PREPARATIONS[name]
    model = build_model(ModelSpec("test_efficientnet", spec.height, spec.width, "binary", CLASSES["binary"]))
    folder = written(tmp_path / "student", model, spec)
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'rd-distill[teachers]'")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    transform = create_transform(**resolve_data_config({}, model=timm.create_model(f"local-dir:{folder}", pretrained=True)))
    scale = 255 * np.asarray(STD)[:, None, None]
    for shape in ((90, 120), (180, 90)):  # whose margins are even: of an odd one torchvision takes the larger half off first
        raw = np.maximum(np.asarray(picture(*shape, seed=1)), 20)
        raw = raw[..., :1].repeat(3, axis=2) if spec.channels == 1 else raw
        levels = spec.stored(raw)
        image = levels.max(axis=2) > 0  # all but what is put around a padded one
        assert image.all() == (name != "pad")
        for theirs in (processor(Image.fromarray(raw), return_tensors="pt")["pixel_values"][0], transform(Image.fromarray(raw))):
            differences = np.abs(theirs.numpy() - spec.normalised(levels)) * scale
            assert differences[:, image].max() < 2.5


def foreign() -> dict[str, Model]:
    """Networks that timm lacks a part of."""
    adapter = AdapterSpec(2, 4, gate="linear")
    specs = {"routed behind the pool": {"adapters": {POOLED: adapter}}, "routed inside": {"adapters": {"blocks.0.mlp.fc1": adapter}},
             "a mean over slices": {"slices": 4, "pooling": "mean"}}
    models = {name: build_model(ModelSpec("test_vit", 32, 32, "multiclass", ("a", "b", "c"), **more)) for name, more in specs.items()}
    models["of torchvision"] = build_model(ModelSpec("torchvision/shufflenet_v2_x0_5", 32, 32, "multiclass", ("a", "b", "c")))
    pruned = tiny_model("multiclass", "mobilenetv3_small_050")
    pruner = open_pruner(pruned)
    for _ in range(4):
        pruner.step()
    return models | {"pruned": record_cuts(pruned)}


@pytest.mark.filterwarnings("default")  # torch-pruning's own
def test_a_network_that_timm_lacks_a_part_of_is_never_loaded_without_it(tmp_path: Path) -> None:
    """timm took a student of volumes for one of images, and transformers drew the weights of adapted layers at random."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'rd-distill[teachers]'")
    for name, model in foreign().items():
        folder = written(tmp_path / name, model)
        with pytest.raises(RuntimeError, match=r"load it with distill\.load_checkpoint"):
            timm.create_model(f"local-dir:{folder}", pretrained=True)
        with pytest.raises((ImportError, ValueError), match=r"load it with distill\.load_checkpoint"):
            transformers.AutoModelForImageClassification.from_pretrained(folder)
        if not model.spec.slices:
            pixels = torch.randn(2, 3, 32, 32)
            assert torch.equal(load_checkpoint(folder).model(pixels), model.eval()(pixels))
        with pytest.raises(UserError, match="no registered network"):
            check_architecture(read_json(folder / "config.json")["architecture"], {})


def test_a_folder_that_lost_its_manifest_is_still_the_teacher_that_its_config_says(tmp_path: Path) -> None:
    spec = PREPARATIONS["crop of more"]
    model = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", CLASSES["binary"]))
    folder = written(tmp_path / "student", model, spec)
    (folder / "manifest.json").unlink()
    description = described(folder)
    assert description.arch == "test_efficientnet"
    assert (description.image_spec.fit, description.image_spec.edge, description.image_spec.mean) == ("crop", 38, MEAN)
