"""Checkpoints as training programs write them reach a timm network with every tensor in its place, or are refused by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError

ARCH = "vit_tiny_patch16_224"
SIDE = 32


def network(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(ARCH, img_size=SIDE, num_classes=0, depth=2, **arguments)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval()


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of two blocks, so that a test takes a moment."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **more: create(name, **{"depth": 2, **more}))


State = dict[str, Tensor]
WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    "averaged weights before the last ones": lambda state: {"state_dict": {name: value + 1 for name, value in state.items()},
                                                            "state_dict_ema": state},
    "DINO's teacher": lambda state: {"student": {f"module.backbone.{name}": value + 1 for name, value in state.items()},
                                     "teacher": {**{f"module.backbone.{name}": value for name, value in state.items()},
                                                 "module.head.last_layer.weight": torch.zeros(3, 3)}},
    "Lightning": lambda state: {"state_dict": {f"net.model.{name}": value for name, value in state.items()}, "hyper_parameters": {}},
    "options beside": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, name="x")},
    "open_clip": lambda state: {**{f"visual.trunk.{name}": value for name, value in state.items()},
                                "visual.head.proj.weight": torch.zeros(8, 192), "text.ln_final.weight": torch.zeros(4),
                                "logit_scale": torch.zeros(())},
    "MAE with its decoder": lambda state: {"model": {**state, "mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 5, 8),
                                                     "decoder_blocks.0.norm1.weight": torch.zeros(8)}},
    "a classifier": lambda state: {**state, "head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)},
    "half precision": lambda state: {name: value.half().float().half() for name, value in state.items()},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_features_of_a_wrapped_checkpoint_are_those_of_its_network(tmp_path: Path, form: str) -> None:
    net = network()
    if form == "half precision":
        net = net.half().float()
    torch.save(WRAPPED[form](net.state_dict()), tmp_path / "weights.pth")
    teacher = load_teacher(ARCH, size=SIDE, weights=str(tmp_path / "weights.pth"))
    pixels = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(pixels), net(pixels))
    assert load_teacher(ARCH, size=SIDE, weights=str(tmp_path / "weights.pth")).hash == teacher.hash


@pytest.mark.parametrize("arguments", [{"init_values": 1e-5}, {"global_pool": "avg"}, {"reg_tokens": 4}])
def test_a_network_is_made_with_what_its_weights_ask_for(tmp_path: Path, arguments: dict[str, Any]) -> None:
    net = network(**arguments)
    torch.save({"model": net.state_dict()}, tmp_path / "weights.pth")
    teacher = load_teacher(ARCH, size=SIDE, weights=str(tmp_path / "weights.pth"))
    assert teacher.arguments == arguments
    pixels = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(pixels), net(pixels))


def test_positions_of_another_grid_are_resampled_as_timm_does(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    teacher = load_teacher(ARCH, size=64, weights=str(tmp_path / "weights.pth"))
    own = network()
    own.set_input_size((64, 64))  # type: ignore[operator]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(pixels), own(pixels))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda state: {name: value for name, value in state.items() if "blocks.1" not in name}, "tensors are missing"),
    (lambda state: {**state, "adapter.weight": torch.zeros(3)}, r"1 have no place \(adapter.weight\)"),
    (lambda state: {**state, "blocks.0.mlp.fc1.bias": torch.zeros(3)}, "another shape"),
    (lambda state: {"model": {"epoch": 3}}, "holds no state dict"),
    (lambda state: [state], "holds no state dict")])
def test_what_does_not_fit_is_named(tmp_path: Path, spoil: Callable[[State], Any], words: str) -> None:
    torch.save(spoil(network().state_dict()), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=words):
        load_teacher(ARCH, size=SIDE, weights=str(tmp_path / "weights.pth"))
