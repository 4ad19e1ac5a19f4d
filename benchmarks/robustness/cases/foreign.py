"""Inputs that tempt to a wrong answer, foreign code and settings: teachers, student configs, PEFT folders.

Owns: FOREIGN_CASES and how their folders are made. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.robustness.cases.case import TAUGHT, TINY, Case, Make, both, good, peft, text
from benchmarks.robustness.cases.folders import Evil, agreed, copied

FAST = TINY + " --teacher hf:vit --teacher-size 32 --bank-views 1 --bank-runtime torch"
PLAIN = TINY + " --method vanilla"
MERGED = TAUGHT + " --teacher-adapter peft"
EXPORT = "rd-export --student-dir student --out other"
ADAPT = "rd-adapt" + TAUGHT.removeprefix("rd-distill --student mobilenetv3_small_050 --size 64")
HEAD = "conv_head"
FOLDER_DATA = " --data data"


def vit(change: Callable[[Path], object] = lambda folder: None) -> Make:
    """A tiny ViT as transformers saves it, then changed; a Python file beside it would leave a file behind."""

    def make(folder: Path, finished: Path) -> None:
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
                                        patch_size=16)
        transformers.ViTModel(config).save_pretrained(folder / "vit")
        (folder / "vit" / "preprocessor_config.json").write_text(json.dumps({
            "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3}))
        (folder / "vit" / "evil.py").write_text("open('executed', 'w')\n")
        change(folder / "vit")

    return make


def keyed(file: str = "config.json", **values: Any) -> Callable[[Path], None]:
    """Keys of a JSON file replaced."""

    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return change


def pickled(folder: Path) -> None:
    """Weights as a pickle that would run code."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def elsewhere(folder: Path) -> None:
    """An index whose shard lies outside the folder."""
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../secret.safetensors"}}))


def spec(**values: Any) -> Make:
    """A finished student whose model spec says something else, with a manifest that agrees."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["rd"]["model"].update(values)
        agreed(folder, "config.json", json.dumps(config).encode())

    return copied("student", change)


def lora(**values: Any) -> Make:
    """A PEFT folder of one layer with further settings."""
    return both(peft(HEAD, 288), lambda folder, finished: keyed("adapter_config.json", **values)(folder / "peft"))


def added(name: str) -> Make:
    """A PEFT folder of one layer with a further tensor."""

    def make(folder: Path, finished: Path) -> None:
        import numpy as np
        from safetensors.numpy import load_file, save_file

        peft(HEAD, 288)(folder, finished)
        path = folder / "peft" / "adapter_model.safetensors"
        save_file(load_file(path) | {name: np.ones(3, np.float32)}, path)

    return make


def before_images(folder: Path) -> str:
    """The table of bad images is only written once images are scanned: with an image that is none, its absence shows what came first."""
    return "images were scanned first" if (folder / "student.bad-images.csv").exists() else ""


def unreadable(folder: Path, finished: Path) -> None:
    """Data with a picture that is none."""
    good(folder)
    (folder / "data" / "a" / "00.png").write_text("no picture")


FOREIGN_CASES: tuple[Case, ...] = (
    # encoders of transformers
    Case("foreign: code of an encoder", FAST, 1, "auto_map", vit(keyed(auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.C"}))),
    Case("foreign: code of an encoder of no known type", FAST, 1, "auto_map",
         vit(keyed(auto_map={"AutoModel": "evil.M"}, model_type="evil"))),
    Case("foreign: code for the images of an encoder", FAST, 1, "auto_map",
         vit(keyed("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.P"}))),
    Case("foreign: code of an encoder to adapt", ADAPT.replace("mobilenetv3_small_050 --teacher-weights random", "hf:vit"), 1, "auto_map",
         vit(keyed(auto_map={"AutoModel": "evil.Model"}))),
    Case("foreign: kernels of an encoder", FAST, 1, "_attn_implementation", vit(keyed(_attn_implementation="evil/kernels"))),
    Case("foreign: an encoder with a backbone of the hub", FAST, 1, "backbone",
         vit(keyed(backbone="resnet18", use_pretrained_backbone=True))),
    Case("foreign: an encoder whose type has a backbone of the hub", FAST, 1, "another network", vit(keyed(model_type="detr"))),
    Case("foreign: a wrapper of timm as an encoder", FAST, 1, "wrapper",
         vit(keyed(model_type="timm_wrapper", architecture="hf-hub:evil/m"))),
    Case("foreign: pickled weights of an encoder", FAST, 1, "plain weights", vit(pickled)),
    Case("foreign: weights of an encoder outside its folder", FAST, 1, "lie in the folder", vit(elsewhere)),
    Case("foreign: adapters where an encoder is named", FAST, 1, "--teacher-adapter",
         text("vit/adapter_config.json", json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"}))),
    Case("foreign: a billion layers", FAST, 1, "num_hidden_layers", vit(keyed(num_hidden_layers=10**9))),
    Case("foreign: an ordinary encoder beside them", FAST, 0, "done", vit()),
    # students and teachers of rd-distill
    Case("foreign: a student of the hub", EXPORT, 1, "hf-hub:evil/model", spec(arch="hf-hub:evil/model")),
    Case("foreign: a student of a folder", EXPORT, 1, "local-dir:", spec(arch="local-dir:/tmp")),
    Case("foreign: a student of a wrapper", EXPORT, 1, "wrapper",
         spec(arch="transformers/timm_wrapper", arguments={"config": {"architecture": "hf-hub:evil/model"}, "features": 48})),
    Case("foreign: a student with a checkpoint", EXPORT, 1, "checkpoint_path", spec(arguments={"checkpoint_path": "secret.pth"})),
    Case("foreign: a student that fetches weights", EXPORT, 1, "pretrained", spec(arguments={"pretrained": True})),
    Case("foreign: a teacher that fetches weights", TINY + " --teacher student --out other", 1, "pretrained_cfg",
         spec(arguments={"pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}})),
    Case("foreign: a student whose architecture is a number", EXPORT, 1, "architecture is 5", spec(arch=5)),
    Case("foreign: a student whose architecture is nothing", EXPORT, 1, "architecture is None", spec(arch=None)),
    Case("foreign: a student of a height of NaN", EXPORT, 1, "height", spec(height=float("nan"))),
    Case("foreign: weights from a student of a huge width", PLAIN + " --student-weights student --out other", 1, "width",
         spec(width=10**12)),
    Case("foreign: a network by an address, as a student", PLAIN.replace("mobilenetv3_small_050", "hf-hub:timm/resnet18.a1_in1k"), 2,
         "no network is called"),
    # PEFT folders
    Case("foreign: PEFT with a setting nobody knows", MERGED, 1, "lora_gamma", lora(lora_gamma=2)),
    Case("foreign: PEFT with DoRA", MERGED, 1, "use_dora", lora(use_dora=True)),
    Case("foreign: PEFT from another start", MERGED, 1, "init_lora_weights", lora(init_lora_weights="pissa")),
    Case("foreign: PEFT of a rank by pattern that its tensors have not", MERGED, 1, "rank 5", lora(rank_pattern={"conv_.*": 5})),
    Case("foreign: PEFT with a pattern that is none", MERGED, 1, "pattern", lora(alpha_pattern={"(": 5})),
    Case("foreign: PEFT with a stray bias", MERGED, 1, "conv_head.bias", added("base_model.model.conv_head.bias")),
    # names before images
    Case("foreign: misspelt teacher before images", TAUGHT.replace("--teacher mobilenetv3", "--teacher mobilnetv3") + FOLDER_DATA, 2,
         "did you mean", unreadable, before_images),
    Case("foreign: missing weights before images", PLAIN + FOLDER_DATA + " --student-weights gone.pth", 1, "gone.pth", unreadable,
         before_images),
    Case("foreign: missing adapter before images", MERGED + FOLDER_DATA, 1, "no PEFT folder", unreadable, before_images),
    Case("foreign: missing latency table before images", PLAIN + FOLDER_DATA + " --max-latency-ms 5 --latency-table gone.json", 1,
         "gone.json", unreadable, before_images),
    Case("foreign: misspelt second teacher before images", TAUGHT + FOLDER_DATA + " --second-teacher efficientnet-lite9", 2,
         "--second-teacher", unreadable, before_images),
    Case("foreign: misspelt teacher to adapt before images", ADAPT.replace("--teacher mobilenetv3", "--teacher mobilnetv3")
         + FOLDER_DATA, 2, "did you mean", unreadable, before_images),
)
