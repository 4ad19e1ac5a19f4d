"""An ONNX file as nodes, constants, inputs and outputs, read strictly and without the onnx package.

Owns: OnnxGraph, reading it; the refusal of whatever a plain graph does not need: subgraphs, functions, other files, sparse tensors,
texts, a field said twice, constants whose shape does not fit their bytes. Does not own: which operators may stand in it
(operators.py), how much memory and time they take (graph_cost.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.models.tensor_proto import BYTES, DTYPES, FIXED32, MAX_RANK, VARINT, fields, read_varint

MOST_FIELDS = 500_000  # of all messages together: a network has some thousand nodes of ten fields
MOST_NODES = 20_000
SMALL = 4096  # elements of a constant whose values are kept: more decide no shape
ITEM_BYTES = {**{code: dtype.itemsize for code, dtype in DTYPES.items()}, 12: 4, 13: 8, 16: 2}  # and uint32, uint64, bfloat16
INTEGERS = frozenset([2, 3, 4, 5, 6, 7, 9, 12, 13])  # a boolean counts as one
INT64 = 7
# What a graph without a field of this number does just as well without, or cannot be trusted with: {message: {number: name}}.
REFUSED = {
    "model": {20: "training information", 25: "functions", 26: "a configuration of several devices"},
    "graph": {15: "a sparse constant"},
    "node": {8: "an overload", 10: "a configuration of several devices"},
    "attribute": {6: "a graph within the graph", 9: "texts", 10: "a list of tensors", 11: "graphs within the graph", 14: "a type",
                  15: "types", 21: "a parameter of a function", 22: "a sparse tensor", 23: "sparse tensors"},
    "tensor": {3: "a segment of a tensor", 6: "texts", 13: "values in another file"},
}
REPEATED = {"model": (8, 14), "graph": (1, 5, 11, 12, 13, 14, 16), "node": (1, 2, 5, 9), "attribute": (7, 8),
            "tensor": (1, 4, 5, 7, 10, 11, 16), "opset": (), "value": (4,), "type": (), "tensor type": (), "shape": (1,), "dimension": ()}


@dataclass(frozen=True)
class Constant:
    """A tensor whose values stand in the file; `value` where there are few enough of them to decide shapes."""

    shape: tuple[int, ...]
    integer: bool
    value: NDArray[Any] | None


@dataclass(frozen=True)
class Node:
    """One operator; attributes are ints, floats, bytes, lists of numbers, or constants."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass
class OnnxGraph:
    """A whole file: opsets by domain, nodes in order, constants by name, inputs (name: whether integers, sizes; None: open), outputs."""

    opsets: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    inputs: dict[str, tuple[bool, tuple[int | None, ...]]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def read_graph(model: bytes) -> OnnxGraph:
    """The graph in an ONNX file's bytes; UserError where they are none, or hold what no graph of ours does."""
    return _Reader().graph(memoryview(model))


class _Reader:
    """Walks the messages of one file, and counts what it walks over: a file of a million empty fields is no network."""

    def __init__(self) -> None:
        self.left = MOST_FIELDS

    def walk(self, data: memoryview, message: str) -> Iterator[tuple[int, int, int | memoryview]]:
        """Fields of one message: what is refused by its number is, and what may stand once stands once."""
        seen: set[int] = set()
        for number, wire, value in fields(data):
            self.left -= 1
            if self.left < 0:
                raise UserError(f"more than {MOST_FIELDS:,} fields, which no network has")
            if number in REFUSED.get(message, {}):
                raise UserError(f"it holds {REFUSED[message][number]}, which rd-export never writes")
            if number not in REPEATED[message]:
                if number in seen:
                    raise UserError(f"field {number} of a {message} stands there twice")
                seen.add(number)
            yield number, wire, value

    def graph(self, model: memoryview) -> OnnxGraph:
        graph, whole = OnnxGraph(), None
        for number, wire, value in self.walk(model, "model"):
            if number == 8:
                domain, version = self.opset(_bytes(value, wire))
                if graph.opsets.setdefault(domain, version) != version:
                    raise UserError("it says twice which opset it needs")
            elif number == 7:
                whole = _bytes(value, wire)
        if whole is None:
            raise UserError("no graph found")
        for number, wire, value in self.walk(whole, "graph"):
            if number == 1:
                graph.nodes.append(self.node(_bytes(value, wire)))
                if len(graph.nodes) > MOST_NODES:
                    raise UserError(f"more than {MOST_NODES:,} operators, which no network of ours has")
            elif number == 5:
                name, constant = self.tensor(_bytes(value, wire))
                if name in graph.constants:
                    raise UserError(f"constant {name[:80]!r} stands there twice")
                graph.constants[name] = constant
            elif number == 11:
                name, described = self.value_info(_bytes(value, wire))
                if name in graph.inputs:
                    raise UserError(f"input {name[:80]!r} stands there twice")
                graph.inputs[name] = described
            elif number == 12:
                graph.outputs.append(self.value_info(_bytes(value, wire))[0])
        return graph

    def opset(self, data: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, value in self.walk(data, "opset"):
            if number == 1:
                domain = _text(value, wire)
            elif number == 2:
                version = _number(value, wire)
        return domain, version

    def node(self, data: memoryview) -> Node:
        inputs, outputs, texts, attributes = list[str](), list[str](), {3: "", 4: "", 7: ""}, dict[str, Any]()
        for number, wire, value in self.walk(data, "node"):
            if number == 1:
                inputs.append(_text(value, wire))
            elif number == 2:
                outputs.append(_text(value, wire))
            elif number in texts:
                texts[number] = _text(value, wire)
            elif number == 5:
                name, content = self.attribute(_bytes(value, wire))
                if name in attributes:
                    raise UserError(f"attribute {name[:80]!r} stands there twice")
                attributes[name] = content
        return Node(texts[4], texts[7], texts[3], tuple(inputs), tuple(outputs), attributes)

    def attribute(self, data: memoryview) -> tuple[str, Any]:
        name, content, ints, floats = "", None, list[int](), list[float]()
        for number, wire, value in self.walk(data, "attribute"):
            if number == 1:
                name = _text(value, wire)
            elif number == 2:
                content = struct.unpack("<f", value)[0] if wire == FIXED32 and not isinstance(value, int) else _number(value, wire)
            elif number == 3:
                content = _signed(_number(value, wire))
            elif number == 4:
                content = bytes(_bytes(value, wire)[:400])
            elif number == 5:
                content = self.tensor(_bytes(value, wire))[1]
            elif number == 7:
                floats += _floats(value, wire)
            elif number == 8:
                ints += self.varints(value, wire)
        return name, ints or floats or ([] if content is None else content)

    def tensor(self, data: memoryview) -> tuple[str, Constant]:
        name, shape, code, raw, typed_bytes, ints = "", list[int](), 0, None, 0, list[int]()
        for number, wire, value in self.walk(data, "tensor"):
            if number == 1:
                shape += self.varints(value, wire)
                if len(shape) > MAX_RANK:
                    raise UserError(f"a constant of more than {MAX_RANK} axes")
            elif number == 2:
                code = _number(value, wire)
            elif number == 8:
                name = _text(value, wire)
            elif number == 9:
                raw = _bytes(value, wire)
            elif number == 14 and value != 0:
                raise UserError(f"tensor {name[:80]!r} keeps its values in another file (external data)")
            elif number in (4, 5, 7, 10, 11):
                typed_bytes += len(value) if not isinstance(value, int) else 1
                if number in (5, 7) and typed_bytes <= 10 * SMALL:
                    ints += self.varints(value, wire)
        return name, constant(name, shape, code, raw, typed_bytes, ints)

    def value_info(self, data: memoryview) -> tuple[str, tuple[bool, tuple[int | None, ...]]]:
        """Name, whether its elements are whole numbers, and sizes of an input or output."""
        name, code, sizes = "", 0, list[int | None]()
        for number, wire, value in self.walk(data, "value"):
            if number == 1:
                name = _text(value, wire)
            elif number == 2:
                for kind, wire_, tensor in self.walk(_bytes(value, wire), "type"):
                    if kind != 1:
                        continue
                    for part, wire__, inner in self.walk(_bytes(tensor, wire_), "tensor type"):
                        if part == 1:
                            code = _number(inner, wire__)
                        elif part == 2:
                            sizes += [self.size(_bytes(dimension, w)) for n, w, dimension in self.walk(_bytes(inner, wire__), "shape")
                                      if n == 1]
        return name, (code in INTEGERS, tuple(sizes))

    def size(self, data: memoryview) -> int | None:
        sizes = [_signed(_number(value, wire)) for number, wire, value in self.walk(data, "dimension") if number == 1]
        return sizes[0] if sizes else None

    def varints(self, value: int | memoryview, wire: int) -> list[int]:
        """Whole numbers of a repeated field, packed or one by one."""
        if wire == VARINT:
            return [_signed(_number(value, wire))]
        view, at, numbers = _bytes(value, wire), 0, list[int]()
        while at < len(view):
            number, at = read_varint(view, at)
            numbers.append(_signed(number))
            self.left -= 1
            if self.left < 0:
                raise UserError(f"more than {MOST_FIELDS:,} fields, which no network has")
        return numbers


def constant(name: str, shape: list[int], code: int, raw: memoryview | None, typed_bytes: int, ints: list[int]) -> Constant:
    """A constant whose announced shape fits the bytes that are there; UserError where it does not."""
    if code not in ITEM_BYTES:
        raise UserError(f"constant {name[:80]!r} is of data type {code}, which rd-export never writes")
    if min(shape, default=0) < 0:
        raise UserError(f"constant {name[:80]!r} has shape {shape}")
    count, integer = prod(shape), code in INTEGERS
    if raw is not None and (typed_bytes or len(raw) != count * ITEM_BYTES[code]):
        raise UserError(f"constant {name[:80]!r} of shape {shape} needs {count * ITEM_BYTES[code]:,} bytes, found {len(raw):,}")
    if raw is None and typed_bytes < count:
        raise UserError(f"constant {name[:80]!r} of shape {shape} needs {count:,} values, found {typed_bytes:,} bytes of them")
    value: NDArray[Any] | None = None
    if count <= SMALL and raw is not None and code in DTYPES:
        with np.errstate(invalid="ignore"):  # a NaN that signals: it is looked at, not computed with
            value = np.frombuffer(raw, DTYPES[code]).reshape(shape).astype(np.int64 if integer else np.float64)
    elif len(ints) == count and integer and raw is None:
        value = np.asarray(ints, dtype=np.int64).reshape(shape)
    return Constant(tuple(shape), integer, value)


def _bytes(value: int | memoryview, wire: int) -> memoryview:
    if wire != BYTES or isinstance(value, int):
        raise UserError("not an ONNX file: a number where bytes are expected")
    return value


def _number(value: int | memoryview, wire: int) -> int:
    if wire != VARINT or not isinstance(value, int):
        raise UserError("not an ONNX file: bytes where a number is expected")
    return value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _text(value: int | memoryview, wire: int) -> str:
    try:
        return bytes(_bytes(value, wire)).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("a name in it is not UTF-8") from None


def _floats(value: int | memoryview, wire: int) -> list[float]:
    """Floats of a repeated field, packed or one by one."""
    if isinstance(value, int) or wire not in (BYTES, FIXED32) or len(value) % 4:
        raise UserError("not an ONNX file: a list of floats that is none")
    return [float(number) for number in np.frombuffer(value, "<f4")[:SMALL]]
