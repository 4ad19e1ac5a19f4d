"""Ways in which an exported graph can be wrong and still run: what parity is there to catch.

Owns: FAULTS, edits of an ONNX graph by its structure, whatever the network; the tests use them too. Does not own: making a graph
(export/), judging one (export/parity/check.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, load_from_string, numpy_helper

Array = NDArray[Any]
Edit = Callable[[ModelProto], None]


def edited(data: bytes, edit: Edit) -> bytes:
    """A graph's bytes after an edit."""
    model = load_from_string(data)
    edit(model)
    return bytes(model.SerializeToString(deterministic=True))


def replace_tensors(model: ModelProto, chosen: Callable[[str], bool], change: Callable[[Array], Array]) -> None:
    """Change the constants whose name is chosen; AssertionError when there is none."""
    found = 0
    for tensor in model.graph.initializer:
        if chosen(tensor.name):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), tensor.name))
            found += 1
    assert found, "the graph has no such constant"


def swap_channels(model: ModelProto) -> None:
    """Red for blue: the first convolution takes its channels in the other order."""
    stem = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    replace_tensors(model, lambda name: name == stem, lambda values: values[:, ::-1].copy())


def wrong_mean(model: ModelProto) -> None:
    """0.5 in place of ImageNet's mean."""
    replace_tensors(model, lambda name: name == "mean", lambda values: np.full_like(values, 0.5 * 255))


def no_antialias(model: ModelProto) -> None:
    """The resize in the graph looks at two pixels a side, as a resize without antialiasing does."""
    replace_tensors(model, lambda name: name == "rows", lambda values: two_taps(*values.shape))
    replace_tensors(model, lambda name: name == "columns", lambda values: two_taps(*values.shape[::-1]).T)


def two_taps(target: int, source: int) -> Array:
    """Rows of a bilinear resize without antialiasing, (target, source)."""
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.asarray(np.clip(1 - np.abs(np.arange(source)[None] - centres[:, None]), 0, None))


def nudged_bias(amount: float) -> Edit:
    """An edit that adds an amount to the first class's logit."""
    def edit(model: ModelProto) -> None:
        bias = classifier(model)[-1]
        replace_tensors(model, lambda name: name == bias, lambda values: values + np.eye(1, values.size)[0].reshape(values.shape) * amount)

    return edit


def temperature_of_one(model: ModelProto) -> None:
    """Probabilities that nobody calibrated."""
    replace_tensors(model, lambda name: name == "temperature", np.ones_like)


def class_order(model: ModelProto) -> None:
    """Classes last to first."""
    weight, bias = classifier(model)
    axis = 0 if any(node.op_type == "Gemm" and weight in node.input and _transposed(node) for node in model.graph.node) else 1
    replace_tensors(model, lambda name: name == weight, lambda values: np.flip(values, axis).copy())
    replace_tensors(model, lambda name: name == bias, lambda values: values[::-1].copy())


def noisy_weights(model: ModelProto) -> None:
    """10 % noise on every weight (P-12): the same graph, just as fast."""
    random = np.random.default_rng(0)
    weights = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    weights -= {"rows", "columns"}  # what resizes is no weight
    replace_tensors(model, lambda name: name in weights, lambda values: values * (1 + 0.1 * random.normal(size=values.shape)))


def classifier(model: ModelProto) -> tuple[str, str]:
    """Names of weight and bias of the layer that answers `logits`."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    node, bias = makers["logits"], ""
    while node.op_type != "Gemm":
        held = [name for name in node.input if name in constants]
        if node.op_type == "MatMul":
            return held[0], bias
        bias = held[0] if node.op_type == "Add" else bias
        node = makers[next(name for name in node.input if name in makers)]
    return node.input[1], node.input[2]


def _transposed(node: NodeProto) -> bool:
    return any(one.name == "transB" and one.i for one in node.attribute)


FAULTS: dict[str, Edit] = {
    "swapped channels": swap_channels, "wrong mean": wrong_mean, "antialias off": no_antialias,
    "bias of one class + 0.001": nudged_bias(0.001), "bias of one class + 0.1": nudged_bias(0.1),
    "temperature of 1": temperature_of_one, "wrong class order": class_order, "10 % noise on weights": noisy_weights,
}
