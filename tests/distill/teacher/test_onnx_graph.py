"""ONNX graphs as teachers: the features of the network that they were made of, in every layout, or one sentence that says what to name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from distill.adaptation.adaptable import check_adaptable
from distill.teacher.forward import choose_forward
from distill.teacher.teacher import TeacherInput
from distill.teacher.teachers import check_teacher, load_teacher
from runtimes.errors import USAGE, UserError

HALF = TeacherInput(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Network(nn.Module):
    """Tokens of 2 x 2 patches behind a class token, and class scores."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(channels, 6, 16, 16)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat((patches.mean(1, keepdim=True), patches), dim=1))
        return self.head(tokens[:, 0]), tokens


def exported(path: Path, net: nn.Module, *, batch: int | None = None, channels: int = 3) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(net.eval(), (torch.zeros(batch or 2, channels, 32, 32),), dynamo=True, verbose=False,
                                    input_names=["pixels"], output_names=["logits", "tokens"], external_data=False,
                                    dynamic_shapes=None if batch else ({0: torch.export.Dim("batch", min=1)},))
    assert program is not None
    program.save(path)
    return path


def layered(path: Path, *, dtype: int = TensorProto.FLOAT, shape: Any = ("n", 3, 8, 8), out: str = "features", more: Any = None) -> Path:
    """A graph of one convolution, written by hand."""
    last = shape[3] in (1, 3)
    channels = shape[3] if last else shape[1]
    weight = np.random.default_rng(0).standard_normal((4, channels, 3, 3)).astype(np.float32)
    nodes, name = [], "image"
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT))
        name = "floats"
    if last:
        nodes.append(helper.make_node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    nodes.append(helper.make_node("Conv", [name, "weight"], [out], domain=more or ""))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("image", dtype, shape)],
                              [helper.make_tensor_value_info(out, TensorProto.FLOAT, ("n", 4, 6, 6))],
                              [onnx.numpy_helper.from_array(weight, "weight")])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(more, 1)] if more else [])]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def convolved(path: Path, images: np.ndarray[Any, Any]) -> torch.Tensor:
    weight = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    return nn.functional.conv2d(torch.from_numpy(images.astype(np.float32)), torch.from_numpy(weight.copy())).mean((2, 3))


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_named_tensor_is_what_the_network_answers_whatever_batch_it_takes(tmp_path: Path, batch: int | None) -> None:
    net = Network()
    path = exported(tmp_path / "a.onnx", net, batch=batch)
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        tokens = net(pixels)[1]
    wanted = {"auto": tokens.mean(1), "cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1),
              "cls+mean": torch.cat((tokens[:, 0], tokens[:, 1:].mean(1)), dim=1)}
    for pool, features in wanted.items():
        stated = TeacherInput(mean=HALF.mean, std=HALF.std, features="tokens", pool=pool)  # type: ignore[arg-type]
        teacher = load_teacher(str(path), stated=stated)
        torch.testing.assert_close(teacher.features(pixels), features, rtol=1e-5, atol=1e-5)
        assert load_teacher(str(path), stated=stated).hash == teacher.hash
    assert teacher.parameters == sum(weight.numel() for name, weight in net.named_parameters() if not name.startswith("head"))
    forward, runtime = choose_forward(teacher, "auto", device="cpu", grid=0, threads=None)
    assert runtime == "ONNX Runtime"
    assert torch.equal(forward(pixels)["pooled"], teacher.features(pixels))


def test_a_graph_with_scores_asks_for_the_tensor_that_holds_features(tmp_path: Path) -> None:
    path = exported(tmp_path / "a.onnx", Network())
    with pytest.raises(UserError, match=r"answers logits, tokens; .* --teacher-features NAME, such as tokens") as caught:
        load_teacher(str(path), stated=HALF)
    assert caught.value.exit_code == USAGE
    with pytest.raises(UserError, match=r"has no such tensor; near it are .*tokens"):
        load_teacher(str(path), stated=TeacherInput(mean=HALF.mean, std=HALF.std, features="token"))


def test_the_answer_of_a_linear_layer_that_nobody_named_is_doubted_aloud(tmp_path: Path) -> None:
    class Scores(Network):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(pixels)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Scores().eval(), (torch.zeros(2, 3, 32, 32),), dynamo=True, verbose=False, output_names=["out"],
                                    external_data=False)
    assert program is not None
    program.save(tmp_path / "a.onnx")
    assert "if these are class scores" in load_teacher(str(tmp_path / "a.onnx"), stated=HALF).describe()
    named = load_teacher(str(tmp_path / "a.onnx"), stated=TeacherInput(mean=HALF.mean, std=HALF.std, features="out"))
    assert "class scores" not in named.describe()


def test_statistics_must_be_stated_and_channels_fit(tmp_path: Path) -> None:
    path = layered(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="--teacher-mean and --teacher-std"):
        load_teacher(str(path))
    with pytest.raises(UserError, match="takes 8x8; leave it out"):
        load_teacher(str(path), stated=TeacherInput(16, HALF.mean, HALF.std))
    with pytest.raises(UserError, match="--teacher-channels 1"):
        load_teacher(str(path), stated=TeacherInput(mean=HALF.mean, std=HALF.std, channels=1))


@pytest.mark.parametrize("shape", [("n", 3, 8, 8), ("n", 8, 8, 3), ("n", 1, 8, 8), ("n", "c", 8, 8)])
def test_channels_are_where_the_graph_has_them(tmp_path: Path, shape: Any) -> None:
    path = layered(tmp_path / "a.onnx", shape=tuple(3 if side == "c" else side for side in shape))
    if "c" in shape:
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"
        onnx.save_model(model, path)
    pixels = torch.randn(2, 3, 8, 8)
    seen = pixels.mean(1, keepdim=True) if shape[1] == 1 else pixels
    torch.testing.assert_close(load_teacher(str(path), stated=HALF).features(pixels), convolved(path, seen.numpy()), rtol=1e-5, atol=1e-5)


def test_a_graph_that_takes_bytes_gets_them(tmp_path: Path) -> None:
    path = layered(tmp_path / "a.onnx", dtype=TensorProto.UINT8, shape=("n", 8, 8, 3))
    teacher = load_teacher(str(path))
    raw = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    pixels = torch.from_numpy(teacher.image_spec.normalised(raw))
    torch.testing.assert_close(teacher.features(pixels), convolved(path, np.moveaxis(raw, -1, 1)), rtol=1e-5, atol=1e-3)


def outside(path: Path) -> Path:
    onnx.save_model(onnx.load(layered(path)), path, save_as_external_data=True, size_threshold=0)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"\\x00\\x01 no graph")
    return path


@pytest.mark.parametrize(("make", "words"), [
    (outside, "weights in other files"), (empty, "cannot be read as an ONNX graph"),
    (lambda path: layered(path, more="evil.kernels"), "operators of 'evil.kernels'"),
    (lambda path: layered(path, shape=("n", 5, 8, 8)), "5 channels"),
    (lambda path: layered(path, dtype=TensorProto.INT64), "expected one input of images"),
    (lambda path: layered(path, out="probabilities"), "--teacher-features NAME"),
    (lambda path: path, "not found")])
def test_what_is_no_teacher_is_answered_in_a_sentence(tmp_path: Path, make: Any, words: str) -> None:
    path = make(tmp_path / "a.onnx")
    with pytest.raises(UserError, match=words) as caught:
        load_teacher(str(path), stated=HALF)
    assert "\n" not in str(caught.value)


def test_a_graph_shows_no_layers_and_no_stages(tmp_path: Path) -> None:
    path = layered(tmp_path / "a.onnx")
    check_teacher(str(path))
    with pytest.raises(UserError, match="shows no layers"):
        check_adaptable(str(path))
    with pytest.raises(UserError, match="shows no stages"):
        choose_forward(load_teacher(str(path), stated=HALF), "auto", device="cpu", grid=4, threads=None)
