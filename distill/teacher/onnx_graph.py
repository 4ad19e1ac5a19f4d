"""An ONNX graph as a teacher: the part of it that leads to its features, run by ONNX Runtime behind a module's forward.

Owns: OnnxNet and load_graph: which tensor holds the features, what images the graph takes. Does not own: the graphs that rd-export writes
(runtimes/models), pooling (teachers.py). Graphs with operators of others' libraries or with weights in other files are refused.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.networks.json_values import shown
from distill.networks.weight_files import first_line
from runtimes.backends.ort import load_runtime
from runtimes.errors import USAGE, UserError
from runtimes.files.reading import MIB

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "org.pytorch.aten")  # what a plain ONNX Runtime knows
DTYPES = {1: np.float32, 10: np.float16, 2: np.uint8}  # of TensorProto, as images come
SCORES = re.compile(r"logit|prob|score|softmax|sigmoid|class(es|ifier)?$", re.IGNORECASE)
MOST_BYTES = 2048 * MIB  # protobuf holds no more
SHOWN = 4  # names of tensors that an error lists


@dataclass(frozen=True)
class GraphInput:
    """What a graph takes: the side of its images or None for any, their channels, whether channels come last, its batch or None for any."""

    name: str
    height: int | None
    width: int | None
    channels: int | None
    last: bool
    batch: int | None
    dtype: Any


class OnnxNet(nn.Module):
    """A graph as a network: normalised pixels (B, C, h, w) to the tensor that holds its features."""

    def __init__(self, model: bytes, given: GraphInput, source: str) -> None:
        super().__init__()
        self.given, self.source = given, source
        options = load_runtime().SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session: Any = load_runtime().InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception types are many and private
            raise UserError(f"{source} cannot be opened by ONNX Runtime ({first_line(error)[:160]}); export it again") from None

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to features, in batches of the size that the graph takes."""
        values = pixels.detach().cpu().contiguous().numpy()
        if self.given.last:
            values = np.ascontiguousarray(np.moveaxis(values, 1, -1))
        if self.given.dtype is np.uint8:
            values = np.rint(np.clip(values, 0, 255))
        values = values.astype(self.given.dtype)
        size = self.given.batch or max(len(values), 1)
        parts = []
        for start in range(0, len(values), size):
            rows = values[start:start + size]
            filled = np.concatenate((rows, np.repeat(rows[-1:], size - len(rows), axis=0))) if len(rows) < size else rows
            parts.append(np.asarray(self.session.run(None, {self.given.name: filled})[0])[:len(rows)])
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))


@dataclass(frozen=True)
class FeatureGraph:
    """A graph cut to its features: the network, the tensor's name, the number of its weights, a hash of file and name.

    linear: whether they are the answer of a linear layer, as class scores are.
    """

    net: OnnxNet
    features: str
    linear: bool
    parameters: int
    hash: str


def load_graph(path: Path, features: str | None = None) -> FeatureGraph:
    """The part of an ONNX file that leads to `features`, by default its only output; UserError where it must be named, or is not there."""
    import onnx
    from onnx.utils import Extractor

    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} holds {path.stat().st_size / MIB:,.0f} MiB, expected {MOST_BYTES // MIB:,} at most")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        _check_model(model, path)
        model = onnx.shape_inference.infer_shapes(model)
        name = _features_of(model, features, path)
        given = _input_of(model, path)
        part = Extractor(model).extract_model([given.name], [name])
        bare = part.SerializeToString()
    except UserError:
        raise
    except Exception as error:  # protobuf, onnx and its checker raise many types
        raise UserError(f"{path} cannot be read as an ONNX graph ({type(error).__name__}: {first_line(error)[:120]}); export it again, or "
                        "save the network with torch.export.save to a .pt2 file") from None
    count = sum(int(np.prod(tensor.dims)) for tensor in part.graph.initializer if tensor.data_type in (1, 10, 11, 16))
    digest = hashlib.sha256(hashlib.sha256(data).digest() + name.encode()).hexdigest()
    return FeatureGraph(OnnxNet(bare, given, str(path)), name, _is_linear(part, name), count, digest)


def _is_linear(model: Any, name: str) -> bool:
    made = {output: node for node in model.graph.node for output in node.output}
    node = made[name]
    inputs = [made[source].op_type for source in node.input if source in made]
    return node.op_type in ("Gemm", "MatMul") or (node.op_type == "Add" and "MatMul" in inputs)


def _check_model(model: Any, path: Path) -> None:
    strange = sorted({entry.domain for entry in model.opset_import} - set(DOMAINS))
    if strange:
        raise UserError(f"{path} needs operators of {shown(strange[0])}, which a plain ONNX Runtime lacks; export it without them")
    if any(tensor.data_location == 1 for tensor in model.graph.initializer):
        raise UserError(f"{path} keeps weights in other files; save it as one file (onnx.save_model without save_as_external_data), or "
                        "save the network with torch.export.save to a .pt2 file")


def _features_of(model: Any, asked: str | None, path: Path) -> str:
    """The name of the tensor that holds features."""
    graph = model.graph
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
    outputs = [value.name for value in graph.output]
    made = {name: node for node in graph.node for name in node.output}
    if asked is not None:
        if asked not in made:
            near = difflib.get_close_matches(asked, list(made), n=3, cutoff=0.4) or outputs[:SHOWN]
            raise UserError(f"--teacher-features {asked}: {path} has no such tensor; near it are {', '.join(near)}", USAGE)
        return asked
    plain = [name for name in outputs if name in made and not SCORES.search(name) and len(shapes.get(name, ())) in (0, 2, 3, 4)]
    if len(plain) == 1 and len(outputs) == 1:
        return plain[0]
    inner = [name for name in reversed(list(made)) if len(shapes.get(name, ())) in (2, 3, 4) and name not in outputs][:SHOWN]
    listed = ", ".join(f"{name} ({', '.join(map(str, shapes.get(name, ())))})" for name in [*plain, *inner][:SHOWN + 1])
    raise UserError(f"{path} answers {', '.join(outputs[:SHOWN])}; say which of its tensors holds the features with --teacher-features "
                    f"NAME, such as {listed}", USAGE)


def _input_of(model: Any, path: Path) -> GraphInput:
    weights = {tensor.name for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in weights]
    shape = _shape(images[0]) if len(images) == 1 else ()
    dtype = images[0].type.tensor_type.elem_type if len(images) == 1 else 0
    if len(shape) != 4 or dtype not in DTYPES:
        raise UserError(f"{path} takes {', '.join(f'{value.name} {_shape(value)}' for value in images) or 'nothing'}, expected one input "
                        "of images, (batch, 3, h, w) or (batch, h, w, 3), of floats or bytes")
    last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    channels, (height, width) = (shape[3], shape[1:3]) if last else (shape[1], shape[2:])
    if isinstance(channels, int) and channels not in (1, 3):
        raise UserError(f"{path} takes images of {channels} channels, expected 1 or 3")
    sides = [side if isinstance(side, int) else None for side in (height, width)]
    return GraphInput(images[0].name, sides[0], sides[1], channels if isinstance(channels, int) else None, last,
                      shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None, DTYPES[dtype])


def _shape(value: Any) -> tuple[int | str, ...]:
    """A tensor's sizes, names for those that are open."""
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
