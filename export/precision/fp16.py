"""A finished fp32 graph in fp16: weights and arithmetic of the network in half precision, everything around it as it was.

Owns: which nodes stay in fp32, taking back the casts that cancel. Does not own: converting a node (onnxruntime's converter), where the
network begins and ends (regions.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.graph.regions import outside, tidied

if TYPE_CHECKING:
    import onnx

# Sums of squares over a whole row of features overflow in half precision (TensorRT issues 2781 and 4493).
IN_FLOAT = ("LayerNormalization", "InstanceNormalization", "GroupNormalization")


def in_half(data: bytes) -> bytes:
    """The graph of an fp32 ONNX file with its network in fp16; inputs, outputs, preprocessing and softmax stay in fp32."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = onnx.load_from_string(data)
    changed = convert_float_to_float16(model, keep_io_types=True, node_block_list=outside(model),
                                       op_block_list=[*DEFAULT_OP_BLOCK_LIST, *IN_FLOAT])
    _without_detours(changed)
    return tidied(changed)


def _without_detours(model: onnx.ModelProto) -> None:
    """Take out casts to fp16 and back between nodes that both stay in fp32: they round, and change nothing else."""
    import onnx

    graph, half, full = model.graph, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    to_half = {name: node.input[0] for name, node in casts.items() if node.attribute[0].i == half}
    detours = [node for node in casts.values() if node.attribute[0].i == full and node.input[0] in to_half]
    outputs = {output.name for output in graph.output}
    for node in sorted(detours, key=lambda node: node.output[0] in outputs):  # names of outputs stay, so they come last
        straight, detour = to_half[node.input[0]], node.output[0]
        graph.node.remove(node)
        old, new = (straight, detour) if detour in outputs else (detour, straight)
        for other in graph.node:
            for names in (other.input, other.output):
                names[:] = [new if name == old else name for name in names]
    _without_unread(model)


def _without_unread(model: onnx.ModelProto) -> None:
    """Drop casts whose output nobody reads, until none is left."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        dead = [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read]
        if not dead:
            return
        for node in dead:
            graph.node.remove(node)
