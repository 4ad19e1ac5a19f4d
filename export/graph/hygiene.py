"""What a finished ONNX graph must and must not hold, checked on the bytes that ship.

Owns: the checks of inputs, outputs, opset and IR, and the share of weights in each precision. Does not own: the list of operators and
all else that a device refuses (runtimes/models/operators.py), making the graph (to_onnx.py), numbers (parity.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from runtimes.errors import UserError
from runtimes.models.operators import OPERATORS, check_onnx
from runtimes.models.tensor_proto import external_tensors

if TYPE_CHECKING:
    import onnx

# Lowest IR that carries an opset (onnx/docs/Versioning.md): an older device can still open the file.
IR_OF_OPSET = {18: 8, 19: 9, 20: 9}


def check_hygiene(data: bytes, *, opset: int, input_names: Sequence[str], output_names: Sequence[str]) -> None:
    """Refuse a graph that is not one self-contained file of portable operators with a symbolic batch and the names asked for."""
    import onnx

    model = onnx.load_from_string(data)
    problems = []
    if external := external_tensors(memoryview(data)):
        problems.append(f"{len(external)} tensors lie in another file")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": opset}:
        problems.append(f"opsets {opsets}, asked for {opset} of the standard domain alone")
    if model.ir_version != IR_OF_OPSET[opset]:
        problems.append(f"IR {model.ir_version}, expected {IR_OF_OPSET[opset]}")
    if len(model.functions):
        problems.append(f"{len(model.functions)} local functions")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            problems.append(f"operator {node.domain or 'ai.onnx'}::{node.op_type} is not portable")
        if any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute):
            problems.append(f"{node.op_type} {node.name} is in training mode")
    problems += _interface_problems(model, input_names, output_names)
    if problems:
        raise UserError(f"the exported graph is not fit to ship: {'; '.join(problems[:5])}; try another --opset, "
                        "or a student whose operators are plainer")
    try:
        check_onnx(data)  # as the device does before it opens the file
    except UserError as error:
        raise UserError(f"the exported graph is not fit to ship: {error}; try another --student") from None
    onnx.checker.check_model(model, full_check=True)


def _interface_problems(model: onnx.ModelProto, input_names: Sequence[str], output_names: Sequence[str]) -> list[str]:
    problems = []
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialised]
    if [value.name for value in inputs] != list(input_names):
        problems.append(f"inputs {[value.name for value in inputs]}, expected {list(input_names)}")
    if [value.name for value in model.graph.output] != list(output_names):
        problems.append(f"outputs {[value.name for value in model.graph.output]}, expected {list(output_names)}")
    for value in (*inputs, *model.graph.output):
        batch, *rest = value.type.tensor_type.shape.dim
        if batch.dim_param != "batch":
            problems.append(f"the batch of {value.name} is fixed to {batch.dim_value}")
        if any(size.dim_param or size.dim_value < 1 for size in rest):
            problems.append(f"{value.name} has another open size than its batch")
    return problems


def precision_share(data: bytes, *, layers: bool = False) -> dict[str, float]:
    """Share of the weights of Conv, Gemm and MatMul that the graph computes with in fp32, fp16 and int8; or of those layers."""
    import onnx

    graph = onnx.load_from_string(data).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    quantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    made_by = {node.output[0]: node for node in graph.node if node.output}
    kinds = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.INT8: "int8",
             onnx.TensorProto.UINT8: "int8"}
    counts = dict.fromkeys(("fp32", "fp16", "int8"), 0)
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        for name in node.input[:2]:
            is_int8 = name in quantised
            stored = quantised.get(name, name)
            maker = made_by.get(stored)
            if is_int8 and maker is not None and maker.op_type == "QuantizeLinear":  # weight kept in fp32 before its Q/DQ pair
                stored = maker.input[0]
            if stored in tensors:
                kind = "int8" if is_int8 else kinds.get(tensors[stored].data_type, "fp32")
                counts[kind] += 1 if layers else prod(tensors[stored].dims)
    total = sum(counts.values())
    return {kind: round(count / total, 6) if total else 0.0 for kind, count in counts.items()}
