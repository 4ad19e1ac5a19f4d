"""What a model file says of itself: its `rd.` facts, its inputs and outputs, its opset; read off its bytes, without any runtime.

Owns: GraphFacts, reading it from ONNX and from OpenVINO's IR. Does not own: the wire format (tensor_proto.py), whether the manifest
says the same (claims.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.parsers import expat

from runtimes.errors import UserError
from runtimes.models.tensor_proto import BYTES, DTYPES, VARINT, fields

# Fields of onnx/onnx.proto by number.
GRAPH, OPSET_IMPORT, METADATA, GRAPH_INPUT, GRAPH_OUTPUT = 7, 8, 14, 11, 12
IR_DTYPES = {"u8": "uint8", "u16": "uint16", "i16": "int16", "f32": "float32", "FP32": "float32"}


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph: its name, dtype ("" where unknown) and sizes, None where they are open or not told."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class GraphFacts:
    """`rd.` facts as texts by their names without `rd.`, `names`, inputs, outputs, and the opset (None: the form has none)."""

    facts: Mapping[str, str]
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    opset: int | None = None


def onnx_facts(model: memoryview) -> GraphFacts:
    """What an ONNX model says of itself; UserError where the bytes are no model, or say one thing twice."""
    graphs = list(_messages(model, GRAPH))
    if len(graphs) != 1:
        raise UserError(f"{len(graphs)} graphs found, expected one")
    facts: dict[str, str] = {}
    for entry in _messages(model, METADATA):
        key, value = _text(entry, 1), _text(entry, 2)
        if key.startswith("rd.") or key == "names":
            if key in facts:
                raise UserError(f"its metadata says {key} twice")
            facts[key] = value
    opsets = [_number(entry, 2) for entry in _messages(model, OPSET_IMPORT) if _text(entry, 1) in ("", "ai.onnx")]
    if len(opsets) > 1:
        raise UserError("it says twice which opset it needs")
    inputs, outputs = (tuple(_tensor(entry) for entry in _messages(graphs[0], number)) for number in (GRAPH_INPUT, GRAPH_OUTPUT))
    return GraphFacts({key.removeprefix("rd."): value for key, value in facts.items()}, inputs, outputs, opsets[0] if opsets else None)


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    for field, wire, value in fields(data):
        if field == number and wire == BYTES and not isinstance(value, int):
            yield value


def _text(data: memoryview, number: int) -> str:
    try:
        return "".join(bytes(value).decode("utf-8") for value in list(_messages(data, number))[-1:])
    except UnicodeDecodeError:
        raise UserError("a text in it is not UTF-8") from None


def _number(data: memoryview, number: int) -> int:
    return ([value for field, wire, value in fields(data) if field == number and wire == VARINT and isinstance(value, int)] or [0])[-1]


def _tensor(value_info: memoryview) -> GraphTensor:
    dtype, shape = "", list[int | None]()
    for kind in _messages(value_info, 2):
        for tensor in _messages(kind, 1):
            code = _number(tensor, 1)
            dtype = DTYPES[code].name if code in DTYPES else f"data type {code}"
            for sizes in _messages(tensor, 2):
                shape += [_number(size, 1) or None for size in _messages(sizes, 1)]
    return GraphTensor(_text(value_info, 1), dtype, tuple(shape))


def ir_facts(xml: bytes) -> GraphFacts:
    """What an IR's XML says of itself; UserError where it is no XML, declares a document type, or says one thing twice."""
    facts: dict[str, str] = {}
    tensors: dict[str, list[GraphTensor]] = {"Parameter": [], "Result": []}
    path: list[str] = []
    layer: dict[str, str] = {}
    sizes: list[int | None] = []

    def opened(tag: str, attributes: dict[str, str]) -> None:
        path.append(tag)
        if len(path) > 64:
            raise UserError("elements more than 64 deep")
        if path[:3] == ["net", "rt_info", "rd"] and len(path) == 4:
            if tag in facts:
                raise UserError(f"its rt_info says {tag} twice")
            facts[tag] = attributes.get("value", "")
        elif path == ["net", "layers", "layer"]:
            layer.clear()
            layer.update(attributes)
            sizes.clear()
        elif layer.get("type") == "Parameter" and path[-2:] == ["layer", "data"]:
            layer["dtype"] = attributes.get("element_type", "")
            sizes.extend(int(size) if size.strip().isdecimal() else None for size in attributes.get("shape", "").split(","))
        elif layer.get("type") == "Result" and path[-1] == "port":
            layer["dtype"] = attributes.get("precision", "")

    def text(words: str) -> None:
        if layer.get("type") == "Result" and path[-1] == "dim" and words.strip():
            sizes.append(int(words) if words.strip().isdecimal() else None)

    def closed(tag: str) -> None:
        if path == ["net", "layers", "layer"] and layer.get("type") in tensors:
            name = layer.get("output_names", "") if layer["type"] == "Result" else layer.get("name", "")
            tensors[layer["type"]].append(GraphTensor(name, IR_DTYPES.get(layer.get("dtype", ""), layer.get("dtype", "")), tuple(sizes)))
            layer.clear()
        path.pop()

    def refused(*_: object) -> None:
        raise UserError("it declares a document type, which no IR does")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, closed, text
    parser.StartDoctypeDeclHandler, parser.buffer_text = refused, True
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"it is not readable XML ({error})") from None
    return GraphFacts(facts, tuple(tensors["Parameter"]), tuple(tensors["Result"]))
