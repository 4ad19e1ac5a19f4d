"""Checkpoints with more in them than tensors: read without their classes, and nothing of theirs ever runs."""

from __future__ import annotations

import argparse
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from distill.networks.weight_files import read_state
from runtimes.errors import UserError


class Loud:
    """Somebody's class whose every way to be made leaves a mark."""

    mark: Path

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __reduce__(self) -> Any:
        return (shout, (str(self.mark),))


def shout(mark: str) -> str:
    Path(mark).touch()
    return mark


class OwnNetwork(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("test_resnet", num_classes=3)
        self.register_buffer("table", torch.ones(2), persistent=False)
        self.options = {"lr": np.float64(0.1), "seen": np.arange(3)}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A module that exists while a file is written and no longer when it is read."""
    module = types.ModuleType("lab_of_somebody")
    for thing in (Loud, OwnNetwork, shout):
        monkeypatch.setattr(thing, "__module__", "lab_of_somebody")
        setattr(module, thing.__name__, thing)
    Loud.mark = tmp_path / "ran"
    sys.modules["lab_of_somebody"] = module
    yield module
    sys.modules.pop("lab_of_somebody", None)


FORMS = {
    "a network saved whole": lambda net, odd: net,
    "a network beside options": lambda net, odd: {"model": net, "options": odd, "epoch": np.int64(3)},
    "a state dict beside options": lambda net, odd: {"state_dict": net.state_dict(), "options": odd, "all": argparse.Namespace(a=odd)},
    "an ordered dict beside paths": lambda net, odd: OrderedDict(model=net.state_dict(), where=Path("a"), odd=[odd, {1: odd}])}


@pytest.mark.parametrize("form", FORMS)
def test_the_tensors_are_those_of_the_network_and_nothing_beside_them_runs(tmp_path: Path, elsewhere: Any, form: str) -> None:
    net = OwnNetwork()
    torch.save(FORMS[form](net, Loud()), tmp_path / "file.pth")
    sys.modules.pop("lab_of_somebody")
    state = read_state(tmp_path / "file.pth")
    assert not Loud.mark.exists()
    assert "lab_of_somebody" not in sys.modules
    assert list(state) == list(net.state_dict())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(state[name], value)


def test_a_file_that_holds_no_network_is_refused(tmp_path: Path, elsewhere: Any) -> None:
    torch.save({"options": Loud(), "values": [1, 2]}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="holds no state dict of tensors"):
        read_state(tmp_path / "file.pth")
    assert not Loud.mark.exists()


def test_a_network_inside_itself_ends_in_a_sentence(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    net._modules["again"] = net
    torch.save(net, tmp_path / "file.pth")
    state = read_state(tmp_path / "file.pth")
    assert state["0.weight"].shape == (2, 2)
