"""Folders of other people's timm networks: their own preparation and forward pass give the features that ours gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from drawn import smooth_picture
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config

from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError

ARCH = "test_vit"  # 160 px, two blocks
PREPARATION: dict[str, Any] = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.4, 0.5], "interpolation": "bicubic",
                               "crop_pct": 0.9, "license": "cc-by-nc-4.0", "first_conv": "patch_embed.proj", "classifier": "head"}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(ARCH, num_classes=0)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval()


def timm_form(folder: Path, **more: Any) -> torch.nn.Module:
    """As timm's push_to_hf_hub writes it, UNI for one."""
    net = network()
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    config = {"architecture": ARCH, "num_classes": 0, "pretrained_cfg": PREPARATION | more.pop("preparation", {}),
              "model_args": {"img_size": 160, "num_classes": 0, "dynamic_img_size": True, **more}}
    (folder / "config.json").write_text(json.dumps(config))
    return net


def wrapper_form(folder: Path) -> torch.nn.Module:
    """As transformers' TimmWrapper writes it."""
    net = timm_form(folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "timm_wrapper"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    save_file({f"timm_model.{name}": value for name, value in load_file(weights).items()}, weights)
    return net


def open_clip_form(folder: Path) -> torch.nn.Module:
    """As open_clip writes it, BiomedCLIP for one."""
    net = network()
    folder.mkdir()
    torch.save({**{f"visual.trunk.{name}": value for name, value in net.state_dict().items()},
                "visual.head.proj.weight": torch.zeros(8, 64),
                "text.transformer.embeddings.word_embeddings.weight": torch.zeros(4, 4), "logit_scale": torch.zeros(())},
               folder / "open_clip_pytorch_model.bin")
    content = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": ARCH, "image_size": 160}, "text_cfg": {}},
               "preprocess_cfg": {"mean": PREPARATION["mean"], "std": PREPARATION["std"], "interpolation": "bicubic",
                                  "resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return net


FORMS = {"timm's own, as UNI": (timm_form, 0.9), "transformers' wrapper": (wrapper_form, 0.9),
         "open_clip's, as BiomedCLIP": (open_clip_form, 1.0)}


@pytest.mark.parametrize("form", FORMS)
def test_features_are_those_of_the_authors_own_preparation_and_forward_pass(tmp_path: Path, form: str) -> None:
    write, share = FORMS[form]
    net = write(tmp_path / "folder")
    teacher = load_teacher(str(tmp_path / "folder"))
    assert load_teacher(str(tmp_path / "folder")).hash == teacher.hash
    transform = create_transform(**resolve_data_config(PREPARATION | {"crop_pct": share}))
    ours, theirs = [], []
    for seed in range(6):
        for shape in ((300, 300), (400, 230)):
            raw = smooth_picture(*shape, seed)
            spec = teacher.image_spec
            ours.append(teacher.features(torch.from_numpy(spec.normalised(spec.stored(raw)))[None]))
            with torch.no_grad():
                theirs.append(net(transform(Image.fromarray(raw))[None]))
    mine, own = torch.cat(ours), torch.cat(theirs)
    cosines = [torch.nn.functional.cosine_similarity(a, b).min() for a, b in ((mine, own), (mine - own.mean(0), own - own.mean(0)))]
    assert cosines[0] >= 0.999
    assert cosines[1] >= 0.99
    assert teacher.licence == ("unknown" if form.startswith("open_clip") else "cc-by-nc-4.0")


@pytest.mark.parametrize(("change", "words"), [
    ({"preparation": {"interpolation": "sharp"}}, "interpolation"), ({"preparation": {"mean": [0.5]}}, "expected three numbers"),
    ({"preparation": {"crop_pct": 3}}, "crop_pct"), ({"preparation": {"input_size": [3, 160, 128]}}, "input_size"),
    ({"in_chans": 1}, "channels"), ({"mlp_layer": "SwiGLU"}, "mlp_layer"), ({"in_chans": 4}, "channels"),
    ({"pretrained_cfg_overlay": {"file": "x"}}, "pretrained_cfg_overlay")])
def test_a_folder_that_says_too_little_or_too_much_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    timm_form(tmp_path / "folder", **change)
    with pytest.raises(UserError, match=words):
        load_teacher(str(tmp_path / "folder"))


def test_a_folder_without_its_weights_is_refused(tmp_path: Path) -> None:
    timm_form(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="copy the whole folder"):
        load_teacher(str(tmp_path / "folder"))
