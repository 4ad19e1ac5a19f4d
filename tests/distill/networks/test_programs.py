"""S-3 for .pt2 files: what would be unpickled, evaluated or called while torch reads one is refused before, and never runs."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from distill.networks.programs import PLAIN_TENSORS, is_arithmetic, load_program
from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError

Change = Callable[[str, bytes], bytes]


class Evil:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


class Body(torch.nn.Module):
    """A network whose image size is open, too, so that its file holds expressions and guards."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, 2)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.first(pixels).mean((2, 3)) * self.scale


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program as torch.export.save writes it."""
    path = tmp_path_factory.mktemp("program") / "body.pt2"
    side = torch.export.Dim("side", min=8, max=512)
    dynamic = ({0: torch.export.Dim("batch", min=1), 2: side, 3: side},)
    torch.export.save(torch.export.export(Body().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=dynamic), path)
    return path


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def spoilt(program: Path, out: Path, change: Change, *more: str) -> Path:
    """A copy of a program with its parts changed and further parts added."""
    with zipfile.ZipFile(program) as whole, zipfile.ZipFile(out, "w") as file:
        for name in whole.namelist():
            file.writestr(name, change(name, whole.read(name)))
        for name in more:
            file.writestr(name, b"")
    return out


def in_model(change: Callable[[dict[str, Any]], None]) -> Change:
    def changed(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        change(model)
        return json.dumps(model).encode()

    return changed


def attacks(mark: Path) -> dict[str, tuple[Change, tuple[str, ...]]]:
    """Ways to have code run; each would create `mark`."""
    call = f"__import__('os').system('touch {mark}')"

    def weight(name: str, data: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(data)
            config["config"]["scale"]["use_pickle"] = True
            return json.dumps(config).encode()
        return pickled(Evil(mark)) if name.endswith("weight_2") else data

    def node(model: dict[str, Any]) -> None:
        model["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.os.system"

    return {
        "sample inputs": (lambda name, data: pickled(((Evil(mark),), {})) if name.endswith("sample_inputs/model.pt") else data, ()),
        "a weight": (weight, ()),
        "an expression": (lambda name, data: re.sub(rb'("expr_str": )"[^"]*"', rb'\1"' + call.encode() + b'"', data), ()),
        "a guard": (in_model(lambda model: model.update(guards_code=[call])), ()),
        "a call": (in_model(node), ()),
        "compiled code": (lambda name, data: data, ("body/data/aotinductor/model/model.so",)),
        "a way out": (lambda name, data: data, ("body/data/weights/../../x",)),
    }


def test_seven_evil_programs_are_refused_and_never_run(program: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for name, (change, more) in attacks(mark).items():
        path = spoilt(program, tmp_path / "evil.pt2", change, *more)
        with pytest.raises(UserError, match=r"evil\.pt2 (holds .* more than a network|is not a torch\.export program)") as caught:
            load_teacher(str(path), size=32)
        assert not mark.exists(), name
        assert "\n" not in str(caught.value)
    assert len(attacks(mark)) >= 5


def test_the_attacks_are_real(program: Path, tmp_path: Path) -> None:
    """What torch itself does with two of them; were it to refuse them one day, the look before could go."""
    for name in ("sample inputs", "an expression"):
        mark = tmp_path / name.replace(" ", "-")
        change, more = attacks(mark)[name]
        with suppress(Exception):  # whatever follows, the harm is done
            torch.export.load(spoilt(program, tmp_path / "evil.pt2", change, *more))
        assert mark.exists()


def test_an_untouched_copy_still_loads_and_the_environment_stays_as_it_was(program: Path, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    path = spoilt(program, tmp_path / "body.pt2", lambda name, data: data)
    for before in (None, "0"):
        monkeypatch.delenv(PLAIN_TENSORS, raising=False)
        if before is not None:
            monkeypatch.setenv(PLAIN_TENSORS, before)
        assert load_program(path).module()(torch.zeros(3, 3, 64, 64)).shape == (3, 8)
        assert os.environ.get(PLAIN_TENSORS) == before


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_real_networks_pass(tmp_path: Path, name: str) -> None:
    net = timm.create_model(name, num_classes=0, **({"img_size": 32} if name.startswith("vit") else {})).eval()
    exported = torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(exported, tmp_path / "net.pt2")
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_program(tmp_path / "net.pt2").module()(pixels), net(pixels))


@pytest.mark.parametrize(("text", "harmless"), [
    ("Symbol('s77', positive=True, integer=True)", True), ("Max(Integer(1), Add(FloorDiv(Symbol('s6'), Integer(2)), Integer(-1)))", True),
    ("L['pixels'].size()[3] == L['pixels'].size()[2]", True), ("s0*2 + 1 <= 9 and s0 >= 1", True), ("-oo", True),
    ("__import__('os')", False), ("Symbol('x').__class__", False), ("Integer('__import__')", False), ("Integer('a.b()')", False),
    ("lambda: 0", False), ("[x for x in y]", False), ("open('s1')", False), ("exec('s1')", False), ("L['x'].resize()", False),
    ("Symbol('s1')()", False), ("L['x'].size()[0]()", False), ("f'{s1}'", False), ("(s1 := 2)", False), ("9**9**9", False),
    ("s1; s2", False), ("", False), ("(" * 9999, False), ("preview('s1')", False), ("s1(2)", False), ("'a' 'b'", True)])
def test_only_arithmetic_is_evaluated(text: str, harmless: bool) -> None:
    assert is_arithmetic(text) is harmless
