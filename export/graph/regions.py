"""Where the network begins and ends inside a finished graph: what comes before it, and what follows its logits, stays in fp32.

Owns: telling the nodes of a graph apart, and the temperature that its tail divides by. Does not own: what is done to the network
(fp16.py, int8.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

MULTIPLYING = ("Conv", "Gemm", "MatMul")


def outside(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the network (no weight of it has reached them) and behind its logits."""
    weights = {tensor.name for tensor in model.graph.initializer if of_network(tensor.name)}
    touched, before = set(weights), []
    behind, after = {"logits"}, []
    for node in model.graph.node:
        if touched.isdisjoint(node.input):
            before.append(node.name)
        else:
            touched.update(node.output)
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
            after.append(node.name)
    return before + [name for name in after if name not in before]


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes of the network that multiply, in order: what a lower precision is for."""
    apart = set(outside(model))
    return [node.name for node in model.graph.node if node.op_type in MULTIPLYING and node.name not in apart]


def is_temperature(name: str) -> bool:
    """Whether a tensor of a graph is what its tail divides by: networks have temperatures of their own, in their attention."""
    return name.split(".")[-1] == "temperature" and not of_network(name)


def of_network(name: str) -> bool:
    """Whether a weight is the network's own, by its name: none of what stands before or behind it."""
    return ".model." in f".{name}"


def relabelled(data: bytes, metadata: Mapping[str, str], temperatures: Sequence[float] = ()) -> bytes:
    """The graph with other metadata and, where given, other temperatures in its tail; ValueError where it has none of that shape."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])
    if temperatures:
        tensors = [tensor for tensor in model.graph.initializer if is_temperature(tensor.name)]
        if len(tensors) != 1:
            raise ValueError(f"the graph has {len(tensors)} temperatures, expected 1")
        new = np.asarray(temperatures, dtype=np.float32).reshape(tuple(tensors[0].dims))
        tensors[0].CopyFrom(numpy_helper.from_array(new, tensors[0].name))
    return bytes(model.SerializeToString(deterministic=True))


def tidied(model: onnx.ModelProto) -> bytes:
    """The bytes of a changed graph: nodes in order (converters append theirs), plain names again (Conv_0, Conv_1, ...), no notes."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel(model).topological_sort()
    indices: dict[str, int] = {}
    for node in model.graph.node:
        index = indices[node.op_type] = indices.get(node.op_type, -1) + 1
        node.name, node.doc_string = f"{node.op_type}_{index}", ""
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))
