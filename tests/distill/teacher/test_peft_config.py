"""Every key of adapter_config.json: merged as peft merges it, neutral, or refused by its name.

A few folders of benchmarks/robustness/peft_grid.py.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from distill.teacher.peft_config import CONFIG, NEUTRAL, USED, read_lora, targeted
from distill.teacher.peft_folder import merge_peft
from runtimes.errors import UserError

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc"], "base_model_name_or_path": "some network"}


class Net(nn.Module):
    """Two linear layers and a convolution of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other, self.grouped = nn.Linear(4, 3), nn.Linear(4, 3, bias=False), nn.Conv2d(4, 4, 1, groups=2)


def folder(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text(json.dumps(PLAIN | changes))
    factors = {"base_model.model.fc.lora_A.weight": torch.ones(2, 4), "base_model.model.fc.lora_B.weight": torch.ones(3, 2)}
    save_file(factors | (tensors or {}), path / "adapter_model.safetensors")
    return path


def merged(path: Path) -> Net:
    torch.manual_seed(0)
    net = Net()
    merge_peft(net, path, "")
    return net


def refused(path: Path) -> str:
    torch.manual_seed(0)
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        merge_peft(net, path, "")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items()), "a refused folder changes nothing"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of peft
def test_folders_of_peft_are_merged_to_peft_s_own_weights_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from benchmarks.robustness import peft_grid as grid

    named: list[tuple[str, dict[str, Any]]] = [
        ("equal", {"target_modules": ["qkv", "fc1", "fc2", "conv", "stem", "head"], "rank_pattern": {"blocks.1.fc1": 2, "qkv": 3},
                   "alpha_pattern": {r".*\.1\..*": 16, "qkv$": 2}, "use_rslora": True, "init_lora_weights": "gaussian"}),
        ("equal", {"target_modules": r".*\.(fc1|fc2)", "exclude_modules": r".*blocks\.2\..*", "bias": "all"}),
        ("equal", {"layers_to_transform": 1, "layers_pattern": "blocks", "target_modules": ["fc1", "conv"], "lora_bias": True}),
        ("equal", {"edit": "all-linear by hand", "fan_in_fan_out": True, "modules_to_save": ["bn"]}),
        ("refused", {"init_lora_weights": "pissa"}),
        ("refused", {"edit": "layer added"}), ("refused", {"use_dora": True})]
    for number, (expected, changes) in enumerate(named):
        answer, reason = grid.outcome(grid.usual() | changes, tmp_path / f"named-{number}")
        assert answer == expected, f"{changes}: {answer}: {reason}"
    mixed = [grid.outcome(settings, tmp_path / f"mixed-{number}")[0] for number, settings in enumerate(grid.mixtures(4, seed=5))]
    assert "wrong" not in mixed


def test_every_key_of_the_installed_peft_is_read_or_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    keys = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert keys >= {"r", "rank_pattern", "use_dora"}
    for key in sorted(keys - USED - NEUTRAL):
        assert key in refused(folder(tmp_path / "peft", **{key: {"some": "thing"}}))
        for empty in (None, False, "", [], {}):
            merged(folder(tmp_path / "peft", **{key: empty}))


@pytest.mark.parametrize(("changes", "word"), [
    ({"peft_type": "LOHA"}, "peft_type"), ({"peft_type": None}, "peft_type"), ({"gamma": 2}, "gamma"), ({"r": 0}, "r 0"),
    ({"r": True}, "r True"), ({"r": "2"}, "r '2'"), ({"r": 3}, "shape"), ({"lora_alpha": None}, "lora_alpha"),
    ({"lora_alpha": float("nan")}, "lora_alpha"),
    ({"lora_alpha": 10**400}, "401 digits"), ({"use_rslora": "yes"}, "use_rslora"), ({"use_rslora": 1}, "use_rslora"),
    ({"target_modules": None}, "target_modules"), ({"target_modules": []}, "target_modules"), ({"target_modules": [1]}, "target_modules"),
    ({"target_modules": "("}, "pattern"), ({"target_modules": ["other"]}, "fc"),
    ({"exclude_modules": ["fc"]}, "fc"), ({"exclude_modules": 5}, "exclude_modules"), ({"rank_pattern": {"fc": 0}}, "rank_pattern"),
    ({"rank_pattern": [2]}, "rank_pattern"), ({"rank_pattern": {"(": 2}}, "pattern"), ({"alpha_pattern": {"fc": "2"}}, "alpha_pattern"),
    ({"bias": "some"}, "bias"), ({"bias": ["all"]}, "bias"), ({"bias": "all", "lora_bias": True}, "lora_bias"),
    ({"lora_bias": True}, "lora_bias"),
    ({"modules_to_save": "fc"}, "modules_to_save"), ({"modules_to_save": ["other"]}, "lacks other.weight"),
    ({"init_lora_weights": "loftq"}, "init_lora_weights"), ({"init_lora_weights": 1}, "init_lora_weights"),
    ({"init_lora_weights": ["pissa"]}, "init_lora_weights"), ({"layers_to_transform": -1}, "layers_to_transform"),
    ({"layers_to_transform": [0], "target_modules": "fc"}, "layers_to_transform"), ({"layers_pattern": ["h"]}, "layers_pattern"),
    ({"layers_to_transform": 1, "target_modules": [f"fc{n}" for n in range(30)]}, "layers_to_transform")])
def test_a_value_that_cannot_be_merged_is_named(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    assert word in refused(folder(tmp_path / "peft", **changes))


@pytest.mark.parametrize(("tensors", "word"), [
    ({"base_model.model.fc.lora_A.weight": torch.full((2, 4), float("nan"))}, "NaN"),
    ({"base_model.model.fc.lora_A.weight": torch.ones(2, 4, dtype=torch.int32)}, "floating"),
    ({"base_model.model.fc.lora_A.weight": torch.ones(4, 2)}, "shape"), ({"base_model.model.fc.lora_B.weight": torch.ones(2, 2)}, "shape"),
    ({"base_model.model.fc.lora_A.weight": torch.ones(2, 2, 2)}, "shape"),
    ({"base_model.model.fc.lora_magnitude_vector": torch.ones(3)}, "fc"),
    ({"base_model.model.fc.base_layer.bias": torch.ones(3)}, "base_layer.bias"),
    ({"base_model.model.other.weight": torch.ones(3, 4)}, "other"),
    ({"base_model.model.nowhere.lora_A.weight": torch.ones(2, 4)}, "nowhere"), ({"fc.lora_A.weight": torch.ones(2, 4)}, "fc.lora_A"),
    ({"stray": torch.ones(1)}, "stray")])
def test_every_tensor_is_used_or_the_folder_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], word: str) -> None:
    assert word in refused(folder(tmp_path / "peft", tensors))


def test_the_plain_folder_beside_them_is_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = Net()
    after = merged(folder(tmp_path / "peft"))
    torch.testing.assert_close(after.fc.weight, before.fc.weight + 2)
    assert torch.equal(after.other.weight, before.other.weight)


def test_kinds_of_convolution_that_timm_builds_on_torch_s_are_merged(tmp_path: Path) -> None:
    from timm.layers import Conv2dSame

    net = nn.Sequential()
    net.add_module("fc", Conv2dSame(4, 3, 3))
    expected = net.fc.weight.detach() + 2
    path = folder(tmp_path / "peft", {"base_model.model.fc.lora_A.weight": torch.ones(2, 4, 3, 3),
                                      "base_model.model.fc.lora_B.weight": torch.ones(3, 2, 1, 1)})
    assert merge_peft(net, path, "") == 1
    torch.testing.assert_close(net.fc.weight, expected)


def test_a_pattern_that_never_comes_to_an_end_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.teacher.peft_config.SECONDS", 1)
    net = nn.Sequential()
    net.add_module("a" * 40, nn.Linear(4, 3))
    start = time.monotonic()
    with pytest.raises(UserError, match="take more than"):
        targeted(read_lora(folder(tmp_path / "peft", target_modules="(a+)+b")), net)
    assert time.monotonic() - start < 30


def test_a_classifier_of_other_classes_takes_the_place_of_the_base_s(tmp_path: Path) -> None:
    class Headed(Net):
        def get_classifier(self) -> nn.Module:
            return self.other

    net = Headed()
    path = folder(tmp_path / "peft", {"base_model.model.other.weight": torch.full((7, 4), 2.0)}, modules_to_save=["other"])
    assert merge_peft(net, path, "") == 1
    assert torch.equal(net.other.weight, torch.full((7, 4), 2.0))
    assert "shape" in refused(path), "another layer keeps its shape"
    assert load_file(path / "adapter_model.safetensors")


VALUES = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
          | st.lists(st.text(max_size=4) | st.integers(), max_size=3) | st.dictionaries(st.text(max_size=4), st.integers(), max_size=2))


@given(content=st.dictionaries(st.sampled_from(sorted(USED | NEUTRAL)), VALUES))
def test_whatever_the_config_says_it_is_read_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text(json.dumps(PLAIN | content))
    try:
        config = read_lora(path)
    except UserError:
        return
    assert config.r >= 1
    assert config.targets
