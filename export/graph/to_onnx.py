"""A torch graph to the bytes of one ONNX file: the same bytes for the same checkpoint, in any process on any machine path.

Owns: the call of torch.onnx.export, the canonical form (no stack traces, no paths, no time stamps), metadata.
Does not own: the network (network.py), what the file may hold (hygiene.py).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from torch import Tensor, nn

from export.graph.hygiene import IR_OF_OPSET, check_hygiene
from runtimes.errors import UserError

if TYPE_CHECKING:
    import onnx


def to_onnx(graph: nn.Module, example: tuple[Tensor, ...], *, input_names: Sequence[str], output_names: Sequence[str], opset: int,
            metadata: Mapping[str, str]) -> bytes:
    """Export a graph with a symbolic batch; example inputs have a batch of 2 (1 would be frozen into the graph).

    Raises UserError where the exporter fails or the result is not what was asked for (opset, names, operators).
    """
    import torch
    if opset not in IR_OF_OPSET:
        raise UserError(f"opset {opset} is not supported; expected one of {', '.join(map(str, IR_OF_OPSET))}")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecations inside the exporter; the result is checked below
        logger.setLevel(logging.ERROR)
        batch = torch.export.Dim("batch", min=1)
        try:
            program = torch.onnx.export(
                graph.eval(), example, None, dynamo=True, external_data=False, opset_version=opset, verbose=False,
                input_names=list(input_names), output_names=list(output_names),
                dynamic_shapes=tuple({0: batch} for _ in example))
        except Exception as error:  # the exporter's own types change from release to release
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(f"torch cannot export {type(graph).__name__}: {reason}; try another --student") from error
        finally:
            logger.setLevel(level)
    assert program is not None  # None comes only from the older exporter
    model = program.model_proto
    _canonical(model, metadata, IR_OF_OPSET[opset])
    data: bytes = model.SerializeToString(deterministic=True)
    check_hygiene(data, opset=opset, input_names=input_names, output_names=output_names)
    return data


def _canonical(model: onnx.ModelProto, metadata: Mapping[str, str], ir_version: int) -> None:
    """Leave only what a runtime needs; stack traces carry machine paths, value notes are derived again by every runtime."""
    model.ir_version = ir_version
    model.doc_string = ""
    del model.metadata_props[:]
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])
    graph = model.graph
    graph.name, graph.doc_string = "rd", ""
    del graph.value_info[:], graph.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for part in (*graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    indices: dict[str, int] = {}
    for node in graph.node:  # Conv_0, Conv_1, ...: readable in reports, and free of the exporter's counters
        index = indices[node.op_type] = indices.get(node.op_type, -1) + 1
        node.name = f"{node.op_type}_{index}"
