"""Only registered networks and listed arguments: a config that names files, addresses or nonsense is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model

from distill.networks.architectures import ARGUMENTS, check_architecture
from distill.networks.checkpoint import Calibration, load_checkpoint, save_checkpoint
from distill.networks.models import ModelSpec, build_model
from distill.networks.students import SHORT_NAMES, timm_arguments, timm_name
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.images.spec import ImageSpec

VIT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
Change = Callable[[dict[str, Any]], object]


def spoilt(folder: Path, change: Change) -> Path:
    """A student folder whose config is changed, with a manifest that agrees."""
    folder.mkdir()
    save_checkpoint(folder, tiny_model(), ImageSpec(32, 32), Calibration())
    config = read_json(folder / "config.json")
    change(config["rd"])
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder, "student", {})
    return folder


def arch(value: Any, **arguments: Any) -> Change:
    return lambda rd: rd["model"].update(arch=value, arguments=arguments)


HOSTILE: dict[str, Change] = {
    "a network of the hub": arch("hf-hub:evil/model"), "the same, older": arch("hf_hub:evil/model"),
    "a folder": arch("local-dir:/tmp/evil"), "a scheme in a tag": arch("resnet18.hf-hub:evil/model"),
    "a path": arch("../resnet18"), "an address": arch("https://example.org/model"), "nonsense": arch("nonsense"), "nothing": arch(""),
    "a tag that is not there": arch("resnet18.evil"), "another library": arch("torchvision/vgg11"),
    "a file": arch("test_efficientnet", checkpoint_path="/etc/passwd"), "weights": arch("test_efficientnet", pretrained=True),
    "a url": arch("test_efficientnet", pretrained_cfg={"url": "http://127.0.0.1:9/x.pth"}),
    "a url laid over": arch("test_efficientnet", pretrained_cfg_overlay={"hf_hub_id": "evil/model"}),
    "a cache": arch("test_efficientnet", cache_dir="/tmp"), "features": arch("test_efficientnet", features_only=True),
    "a pool": arch("test_efficientnet", global_pool="max"), "a device": arch("test_efficientnet", device="cuda"),
    "our own argument": arch("test_efficientnet", arch="resnet18"), "an argument of another network": arch("test_efficientnet", layers=[1]),
    "NaN": arch("test_efficientnet", drop_rate=float("nan")), "a million layers": arch("resnet18", layers=[10**6] * 4),
    "layers in words": arch("resnet18", layers="1111"),
    "code": arch("transformers/vit", config=VIT | {"auto_map": {"AutoModel": "evil/x--m.M"}}, features=24),
    "a wrapper of timm": arch("transformers/timm_wrapper", config={"architecture": "hf-hub:evil/model"}, features=24),
    "a backbone of timm": arch("transformers/timm_backbone", config={"backbone": "resnet18", "use_pretrained_backbone": True}, features=24),
    "a backbone inside": arch("transformers/dpt", config={"backbone_config": {"model_type": "timm_backbone"}}, features=24),
    "kernels": arch("transformers/vit", config=VIT | {"_attn_implementation": "evil/kernels"}, features=24),
    "an unknown model type": arch("transformers/evil", config=VIT, features=24),
    "a billion blocks": arch("transformers/vit", config=VIT | {"num_hidden_layers": 10**9}, features=24),
    "features of another width": arch("transformers/vit", config=VIT, features="24"), "no config": arch("transformers/vit"),
    "a number": arch(5), "null": arch(None), "a list": arch(["resnet18"]), "an object": arch({}), "true": arch(True),
    "a huge height": lambda rd: rd["model"].update(height=10**9), "a height of NaN": lambda rd: rd["model"].update(height=float("nan")),
    "a broken height": lambda rd: rd["model"].update(height=32.5), "a height in words": lambda rd: rd["model"].update(height="32"),
    "a negative width": lambda rd: rd["model"].update(width=-1), "width true": lambda rd: rd["model"].update(width=True),
    "another size of images": lambda rd: rd["image"].update(height=64), "arguments a list": lambda rd: rd["model"].update(arguments=[1]),
    "classes a word": lambda rd: rd["model"].update(classes="abc"), "classes numbers": lambda rd: rd["model"].update(classes=[1, 2]),
    "one class": lambda rd: rd["model"].update(classes=["a"]), "a class twice": lambda rd: rd["model"].update(classes=["a", "a"]),
    "no class": lambda rd: rd["model"].update(classes=[]), "another task": lambda rd: rd["model"].update(task="detection"),
    "slices without end": lambda rd: rd["model"].update(slices=10**9), "another pooling": lambda rd: rd["model"].update(pooling="max"),
    "an unknown key": lambda rd: rd["model"].update(more=1), "a model that is a list": lambda rd: rd.update(model=[]),
    "cuts a list": lambda rd: rd["model"].update(cuts=[1]),
    "cuts of hooks": lambda rd: rd["model"].update(cuts={"sizes": {"conv_stem": {"_forward_hooks": 3}}}),
    "cuts of kinds": lambda rd: rd["model"].update(cuts={"sizes": {"conv_stem": {"kernel_size": 3}}}),
    "adapters a list": lambda rd: rd["model"].update(adapters=[]),
    "an adapter of NaN": lambda rd: rd["model"].update(adapters={"conv_head": {"scale": float("nan")}}),
    "an adapter without end": lambda rd: rd["model"].update(adapters={"conv_head": {"rank": 10**9}}),
    "an adapter of another gate": lambda rd: rd["model"].update(adapters={"conv_head": {"gate": "evil"}}),
    "a mean of NaN": lambda rd: rd["image"].update(mean=[float("nan")] * 3), "a std in words": lambda rd: rd["image"].update(std="xyz"),
    "an image height in words": lambda rd: rd["image"].update(height="32"), "an image that is a list": lambda rd: rd.update(image=[]),
    "a temperature of NaN": lambda rd: rd.update(temperatures=[float("nan")]), "no temperature": lambda rd: rd.update(temperatures=[]),
    "a temperature of 0": lambda rd: rd.update(temperatures=[0]), "thresholds in words": lambda rd: rd.update(thresholds="x"),
    "too many thresholds": lambda rd: rd.update(thresholds=[0.5, 0.5]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_one_sentence_with_the_path_and_reaches_nothing(tmp_path: Path, nothing_reached: None, name: str) -> None:
    folder = spoilt(tmp_path / "student", HOSTILE[name])
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("change", [
    lambda rd: None, lambda rd: rd["model"].pop("arguments"), lambda rd: rd["model"].pop("cuts", None),
    lambda rd: rd.update(temperatures=[2]),
    lambda rd: rd["model"].update(arguments={"drop_rate": 0.2, "drop_path_rate": 0}),
    lambda rd: rd["model"].update(arch="test_efficientnet.r160_in1k")])
def test_an_ordinary_config_loads_as_before(tmp_path: Path, nothing_reached: None, change: Change) -> None:
    assert load_checkpoint(spoilt(tmp_path / "student", change)).spec.classes == ("a", "b", "c")


def test_every_name_that_a_user_may_type_is_a_network_that_may_be_made(nothing_reached: None) -> None:
    for name in [*SHORT_NAMES, *timm.list_models(), *timm.list_pretrained()[::7]]:
        check_architecture(timm_name(name), timm_arguments(timm_name(name)))


def test_the_arguments_of_the_list_are_given_to_the_network() -> None:
    values: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "drop_rate": 0.5, "drop_path_rate": 0.1}
    net: Any = build_model(ModelSpec("resnet18", 32, 32, "binary", ("a", "b"), values)).net
    assert (net.drop_rate, len(net.layer1), net.layer4[0].conv1.out_channels) == (0.5, 1, 8)
    of_transformers: dict[str, Any] = {"init_values": 0.5, "global_pool": "avg", "reg_tokens": 3, "pooling": "cls+mean"}
    vit: Any = build_model(ModelSpec("test_vit", 160, 160, "binary", ("a", "b"), of_transformers)).net
    assert (vit.global_pool, vit.num_prefix_tokens, vit.blocks[0].ls1.gamma[0].item()) == ("avg", 4, 0.5)
    assert vit.head.in_features == 2 * vit.num_features
    shapes: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3, "mlp_ratio": 2.0, "no_embed_class": True,
                              "mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
    shaped: Any = build_model(ModelSpec("test_vit", 160, 160, "binary", ("a", "b"), shapes)).net
    block = shaped.blocks[0]
    assert (len(shaped.blocks), block.attn.num_heads, block.mlp.fc1.weight.shape) == (1, 3, (96, 48))
    assert (shaped.patch_embed.proj.kernel_size, shaped.pos_embed.shape[1]) == ((8, 8), 400)
    assert (type(block.mlp).__name__, type(block.mlp.act).__name__) == ("GluMlp", "SiLU")
    assert {*values, *of_transformers, *shapes, "distillation"} == set(ARGUMENTS)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("resnet18"),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=5)


@given(key=st.sampled_from(["arch", "height", "width", "task", "classes", "arguments", "adapters", "slices", "pooling", "cuts", "x"]),
       value=JSON)
def test_whatever_stands_at_a_key_is_a_spec_or_a_user_error(key: str, value: Any) -> None:
    content = tiny_model().spec.as_dict() | {key: value}
    try:
        spec = ModelSpec.from_dict(content)
    except UserError:
        return
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    assert (spec.arch, spec.task) == (content["arch"], content["task"])


def test_a_spec_that_is_no_object_is_a_user_error() -> None:
    for content in (None, [], "resnet18", 5):
        with pytest.raises(UserError, match="model spec"):
            ModelSpec.from_dict(content)  # type: ignore[arg-type]


def test_a_config_of_other_kinds_is_told(tmp_path: Path) -> None:
    folder = spoilt(tmp_path / "student", lambda rd: None)
    for content in ({"rd": []}, {"rd": "x"}, {}):
        write_json(folder / "config.json", content)
        write_manifest(folder, "student", {})
        with pytest.raises(UserError, match="lacks 'rd'"):
            load_checkpoint(folder)
