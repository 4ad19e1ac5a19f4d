"""Folders of transformers: whatever they ask for beyond an encoder and its safetensors is refused before transformers sees it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.networks.encoder_folder import check_encoder, staged
from distill.teacher.teachers import check_teacher, load_teacher
from runtimes.errors import UserError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
EVIL = "import pathlib\npathlib.Path('executed').write_text('x')\n"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT as save_pretrained writes it."""
    folder: Path = tmp_path_factory.mktemp("encoder") / "vit"
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                                 image_size=32, patch_size=16)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6]}))
    return folder


def changed(file: str = "config.json", **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return change


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_in_parts(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin" for place, name in enumerate(tensors)}
    for file in set(names.values()):
        torch.save({name: value for name, value in tensors.items() if names[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def evil_pickle(folder: Path) -> None:
    torch.save({**load_file(folder / "model.safetensors"), "more": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}))

    return change


def adapters(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"}))


def code(folder: Path) -> None:
    changed(auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})(folder)
    (folder / "evil.py").write_text(EVIL)


def unknown_type(folder: Path) -> None:
    code(folder)
    changed(model_type="evil")(folder)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "code of its own": (code, "auto_map"), "code for an unknown model type": (unknown_type, "auto_map"),
    "code of another repository": (changed(auto_map={"AutoModel": "evil/x--m.M"}), "auto_map"),
    "code for the images": (changed("preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"}), "auto_map"),
    "code inside a part": (changed(vision_config={"auto_map": {"AutoModel": "evil/x--m.M"}}), "auto_map"),
    "an unknown model type": (changed(model_type="evil"), "does not know"), "no model type": (changed(model_type=None), "does not know"),
    "a model type that is a list": (changed(model_type=["vit"]), "does not know"),
    "a timm wrapper": (changed(model_type="timm_wrapper", architecture="hf-hub:evil/model"), "wrapper"),
    "a timm backbone": (changed(model_type="dpt", backbone="resnet18", use_pretrained_backbone=True), "backbone"),
    "a backbone's config": (changed(backbone_config={"model_type": "timm_backbone"}), "timm_backbone"),
    "kernels": (changed(_attn_implementation="evil/kernels"), "_attn_implementation"),
    "kernels by another key": (changed(attn_implementation="evil/kernels@main"), "attn_implementation"),
    "weights of another file": (changed(transformers_weights="../secret.safetensors"), "transformers_weights"),
    "quantised": (changed(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    "a billion layers": (changed(num_hidden_layers=10**9), "num_hidden_layers"),
    "a size of NaN": (changed(hidden_size=float("nan")), "finite"),
    "layers in words": (changed(num_hidden_layers="two"), "cannot be loaded"),
    "an image of nothing": (changed(image_size=None), "cannot be loaded"),
    "an image of words": (changed(image_size="large"), ""), "an image of no size": (changed(image_size=0), ""),
    "a mean of words": (changed("preprocessor_config.json", image_mean=["a", "b", "c"]), ""),
    "one mean": (changed("preprocessor_config.json", image_mean=[0.5]), "image_mean"),
    "a pickle with code": (evil_pickle, "cannot be read as plain weights"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.saf"),
    "a shard elsewhere": (sharded("../secret.safetensors"), "lie in the folder"), "a shard below": (sharded("sub/x.safetensors"), "lie in"),
    "broken weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "cannot be loaded"),
    "adapters beside": (adapters, "--teacher-adapter"),
    "a config that is a list": (lambda folder: (folder / "config.json").write_text("[1]"), "config.json"),
    "a broken config": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "has no config.json"),  # type: ignore[dict-item]
    "a model of text": (changed(model_type="bert"), ""),
    "a backbone that nobody mentions": (changed(model_type="detr"), "another network"),
    "another that nobody mentions": (changed(model_type="vitmatte"), ""),
}
ONLY_WHEN_LOADED = {"layers in words", "an image of nothing", "an image of words", "an image of no size", "a mean of words", "one mean",
                    "broken weights", "a pickle with code", "a model of text",
                    "a backbone that nobody mentions", "another that nobody mentions"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_one_sentence_and_runs_and_reaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Path,
                                                                       nothing_reached: None, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    change, word = HOSTILE[name]
    shutil.copytree(encoder, tmp_path / "vit")
    change(tmp_path / "vit")
    with pytest.raises(UserError) as caught:
        load_teacher("hf:vit")
    if name not in ONLY_WHEN_LOADED:  # seen without a weight being read, before any image is
        with pytest.raises(UserError):
            check_teacher("hf:vit")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "rd-encoder-" not in str(caught.value), "the copy is nobody's business"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("change", [lambda folder: None, sharded("model-00001-of-00001.safetensors"), pickled, pickled_in_parts,
                                    changed(auto_map=None, quantization_config=None, use_pretrained_backbone=False, backbone=None),
                                    changed(image_size=[32, 32]), changed(_attn_implementation="eager", dtype="float32"),
                                    lambda folder: (folder / "evil.py").write_text(EVIL),
                                    lambda folder: (folder / "pytorch_model.bin").write_bytes(b"beside")])
def test_an_ordinary_folder_is_loaded_as_transformers_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Path,
                                                               nothing_reached: None, change: Callable[[Path], object]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(encoder, tmp_path / "vit")
    change(tmp_path / "vit")
    check_teacher("hf:vit")
    teacher = load_teacher("hf:vit")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = transformers.ViTModel.from_pretrained(encoder).eval()(pixel_values=pixels).pooler_output
    torch.testing.assert_close(teacher.features(pixels), expected)
    assert (teacher.image_spec.height, teacher.image_spec.mean) == (32, (0.1, 0.2, 0.3))
    assert not (tmp_path / "executed").exists()


def test_transformers_sees_only_what_is_on_the_list(tmp_path: Path, encoder: Path) -> None:
    shutil.copytree(encoder, tmp_path / "vit")
    for name in ("evil.py", "generation_config.json", "pytorch_model.bin", ".metadata", "model_args.bin"):
        (tmp_path / "vit" / name).write_bytes(b"x")
    with staged(tmp_path / "vit", "vit") as clean:
        assert sorted(path.name for path in clean.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert not clean.exists()
    assert sorted(check_encoder(tmp_path / "vit", "vit")) == ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.mark.parametrize("name", ["hf:./nowhere", "hf:../x/y", "hf:/nowhere/at/all", "hf:", "hf:a/b/c", "hf:~/model", "hf:https://x.org/m"])
def test_what_is_no_folder_and_no_id_is_not_looked_for_in_the_network(nothing_reached: None, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded \(no such folder\)"):
        check_teacher(name)
