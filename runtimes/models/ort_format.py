"""An .ort file, ONNX Runtime's own format, as the same graph and facts that an ONNX file is read as: strictly, before it is opened.

Owns: the schema (onnxruntime/core/flatbuffers/schema/ort.fbs, version 6) as far as a plain graph needs it; the refusal of subgraphs,
sparse and external values, saved optimisations, edges that contradict the names. ONNX Runtime takes versions of operators, edges and
indices from such a file unasked, where it derives them of an ONNX file: so they are checked here. Does not own: bounds of bytes
(flatbuffer.py), which operators may stand in a graph and what they may cost (operators.py).
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from struct import iter_unpack
from typing import Any

from runtimes.errors import UserError
from runtimes.models.flatbuffer import Buffer, Table
from runtimes.models.graph_facts import GraphFacts, GraphTensor
from runtimes.models.onnx_graph import INTEGERS, MOST_NODES, Constant, Node, OnnxGraph, constant
from runtimes.models.tensor_proto import DTYPES, MAX_RANK

IDENTIFIER, VERSION = b"ORTM", "6"
PROVIDERS = ("", "CPUExecutionProvider")
FLOAT, INT, STRING, TENSOR, FLOATS, INTS = 1, 2, 3, 4, 6, 7  # kinds of attributes
MOST_INDEX = 10 * MOST_NODES  # of nodes: optimising leaves gaps
MOST_ARGUMENTS = 256  # inputs of one operator
# Since which opset each operator means what our opsets 18 to 20 mean by it: an older one may take other inputs.
SINCE = {operator: versions for versions, names in {
    (1,): "GlobalAveragePool GlobalMaxPool LpNormalization Not Softplus Softsign",
    (6,): "Elu HardSigmoid InstanceNormalization Selu",
    (7,): "Cos Sin",
    (9, 20): "ConstantOfShape",
    (11,): "Conv ConvTranspose Range TopK",
    (11, 19): "AveragePool",
    (12,): "Einsum MaxPool",
    (13,): "Abs ArgMax Ceil Clip Concat Erf Exp Expand Flatten Floor Gather Gemm Greater Less Log LogSoftmax MatMul Max Min Neg "
          "Reciprocal ReduceSum Sigmoid Sign Slice Softmax Sqrt Squeeze Sum Tanh Tile Transpose Unsqueeze",
    (13, 19): "Cast Constant DequantizeLinear Equal QuantizeLinear",
    (14,): "Add CumSum Div HardSwish Mul Relu Sub Trilu",
    (14, 19): "Reshape",
    (15,): "BatchNormalization Pow",
    (15, 19): "CastLike Shape",
    (16,): "GreaterOrEqual LeakyRelu LessOrEqual PRelu Where",
    (16, 19): "Identity",
    (17,): "LayerNormalization",
    (18,): "GroupNormalization Mish ReduceL2 ReduceMean ReduceProd Split",
    (18, 19): "Pad",
    (18, 20): "ReduceMax ReduceMin",
    (20,): "Gelu",
}.items() for operator in names.split()}


def read_ort(model: bytes) -> tuple[OnnxGraph, GraphFacts]:
    """The graph in an .ort file's bytes, and what it says of itself; UserError where they are none, or hold what no graph of ours does."""
    root = Buffer(model).root(IDENTIFIER).only("file", (0, 1, 3))
    if root.text(0) != VERSION:
        raise UserError(f"it is of version {root.text(0)[:20]!r} of the format, expected {VERSION}")
    whole = _table(root, 1, "model").only("model", range(10))
    opset = _opset(whole)
    body = _table(whole, 7, "graph").only("graph", range(8))
    if body.vector(7, 4):
        raise UserError("it holds a sparse constant, which rd-export never writes")
    constants = _constants(body)
    values = _values(body)
    nodes = _nodes(body, opset)
    _check_kernels(root)
    _check_edges(body, nodes)
    inputs, outputs = body.texts(5), body.texts(6)
    for name in (*inputs, *outputs, *(name for node in nodes.values() for name in (*node.inputs, *node.outputs) if name)):
        if name not in values:
            raise UserError(f"it says nothing of the type of {name[:80]!r}")
    for name, tensor in constants.items():
        if name in values and values[name][1] != tensor.shape:
            raise UserError(f"constant {name[:80]!r} has shape {list(tensor.shape)}, and is said to have {list(values[name][1])}")
    if len(set(inputs)) < len(inputs):
        raise UserError("an input stands there twice")
    graph = OnnxGraph({"": opset}, _ordered(nodes), constants,
                      {name: (values[name][0] in INTEGERS, values[name][1]) for name in inputs}, outputs)
    graph_inputs, graph_outputs = (tuple(GraphTensor(name, _dtype(values[name][0]), values[name][1]) for name in names)
                                   for names in (inputs, outputs))
    return graph, GraphFacts(_facts(whole), graph_inputs, graph_outputs, opset)


def _table(parent: Table, field: int, name: str) -> Table:
    table = parent.table(field)
    if table is None:
        raise UserError(f"no {name} found")
    return table


def _dtype(code: int) -> str:
    return DTYPES[code].name if code in DTYPES else f"data type {code}"


def _opset(model: Table) -> int:
    entries = [(entry.text(0), entry.number(1, "<q")) for entry in model.tables(1)]
    opsets = [version for domain, version in entries if domain in ("", "ai.onnx")]  # it lists all that the library knows
    if len(opsets) != 1:
        raise UserError(f"it says {len(opsets)} times which opset it needs, expected once")
    return opsets[0]


def _facts(model: Table) -> dict[str, str]:
    facts: dict[str, str] = {}
    for entry in model.tables(9):
        key, value = entry.text(0), entry.text(1)
        if key.startswith("rd.") or key == "names":
            if key in facts:
                raise UserError(f"its metadata says {key} twice")
            facts[key] = value
    return {key.removeprefix("rd."): value for key, value in facts.items()}


def _constants(graph: Table) -> dict[str, Constant]:
    constants: dict[str, Constant] = {}
    room = len(graph.buffer.data)
    for tensor in graph.tables(0):
        name, value, size = _constant(tensor)
        if name in constants:
            raise UserError(f"constant {name[:80]!r} stands there twice")
        room -= size  # many constants may point at the same bytes, and each of them is copied
        if room < 0:
            raise UserError("its constants are more than the file holds")
        constants[name] = value
    return constants


def _constant(tensor: Table) -> tuple[str, Constant, int]:
    tensor.only("tensor", (0, 1, 2, 3, 4, 6))
    name, shape, raw = tensor.text(0), tensor.numbers(2, "<q"), tensor.vector(4, 1)
    if tensor.number(6, "<q", -1) != -1:
        raise UserError(f"tensor {name[:80]!r} keeps its values in another file (external data)")
    if len(shape) > MAX_RANK:
        raise UserError(f"a constant of more than {MAX_RANK} axes")
    return name, constant(name, shape, tensor.number(3), raw, 0, []), len(raw)


def _values(graph: Table) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    """Data type and sizes of every value, by name; None where a size is open."""
    values: dict[str, tuple[int, tuple[int | None, ...]]] = {}
    for entry in graph.tables(1):
        name, kind = entry.only("value", range(3)).text(0), entry.table(2)
        if name in values:
            raise UserError(f"value {name[:80]!r} stands there twice")
        if kind is None:  # an input that an operator leaves out
            values[name] = (0, ())
            continue
        if kind.only("type", range(3)).number(1, "<B") != 1:
            raise UserError(f"value {name[:80]!r} is no tensor")
        tensor = _table(kind, 2, "tensor type").only("tensor type", range(2))
        shape = tensor.table(1)
        sizes = [_size(size) for size in shape.only("shape", (0,)).tables(0)] if shape is not None else []
        if len(sizes) > MAX_RANK:
            raise UserError(f"a value of more than {MAX_RANK} axes")
        values[name] = (tensor.number(0), tuple(sizes))
    return values


def _size(dimension: Table) -> int | None:
    value = dimension.only("dimension", range(2)).table(0)
    return value.number(1, "<q") if value is not None and value.only("size", range(3)).number(0, "<b") == 1 else None


def _nodes(graph: Table, opset: int) -> dict[int, Node]:
    entries, most = graph.tables(2), graph.number(3, "<I")
    if len(entries) > MOST_NODES or most > MOST_INDEX:
        raise UserError(f"more than {MOST_NODES:,} operators, which no network of ours has")
    nodes: dict[int, Node] = {}
    for entry in entries:
        entry.only("node", range(13))
        index, kind, since = entry.number(4, "<I"), entry.text(5), entry.number(3)
        node = Node(kind, entry.text(2), entry.text(0), tuple(entry.texts(8)), tuple(entry.texts(9)), _attributes(entry))
        where = f"{kind[:80]} {node.name[:80]}".strip()
        if index in nodes or index >= most:
            raise UserError(f"{where} has number {index}, which is taken or beyond {most}")
        if entry.number(6) or entry.texts(12):
            raise UserError(f"it holds a graph within {where}, which rd-export never writes")
        if entry.text(7) not in PROVIDERS:
            raise UserError(f"{where} is for {entry.text(7)[:80]!r}, which rd-export never asks for")
        if kind in SINCE and (since not in SINCE[kind] or since > opset):
            raise UserError(f"{where} is that of opset {since}, expected {' or '.join(map(str, SINCE[kind]))}")
        counts = entry.numbers(11, "<i")
        if len(counts) > MOST_ARGUMENTS or min(counts, default=0) < 0 or sum(counts) != len(node.inputs):
            raise UserError(f"{where} counts {sum(counts)} inputs, and names {len(node.inputs)}")
        nodes[index] = node
    return nodes


def _attributes(node: Table) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for entry in node.tables(10):
        name, kind = entry.only("attribute", (0, 1, 2, 3, 4, 5, 6, 8, 9)).text(0), entry.number(2)
        if name in attributes:
            raise UserError(f"attribute {name[:80]!r} stands there twice")
        if kind == FLOAT:
            attributes[name] = entry.real(3)
        elif kind == INT:
            attributes[name] = entry.number(4, "<q")
        elif kind == STRING:
            attributes[name] = entry.text(5).encode()[:400]
        elif kind == TENSOR:
            attributes[name] = _constant(_table(entry, 6, "tensor"))[1]
        elif kind == FLOATS:
            attributes[name] = [value for (value,) in iter_unpack("<f", entry.vector(8, 4))]
        elif kind == INTS:
            attributes[name] = entry.numbers(9, "<q")
        else:
            raise UserError(f"attribute {name[:80]!r} is of kind {kind}, which rd-export never writes")
    return attributes


def _check_edges(graph: Table, nodes: dict[int, Node]) -> None:
    """UserError where the edges are not exactly those that follow from names: a runtime goes by the edges, we by the names."""
    makers: dict[str, tuple[int, int]] = {}
    for index, node in nodes.items():
        for place, name in enumerate(node.outputs):
            if name and makers.setdefault(name, (index, place)) != (index, place):
                raise UserError(f"{name[:80]!r} is made twice")
    into: dict[int, set[tuple[int, int, int]]] = {index: set() for index in nodes}
    out: dict[int, set[tuple[int, int, int]]] = {index: set() for index in nodes}
    for index, node in nodes.items():
        for place, name in enumerate(node.inputs):
            if name in makers:
                maker, made_at = makers[name]
                into[index].add((maker, made_at, place))
                out[maker].add((index, made_at, place))
    seen: set[int] = set()
    for entry in graph.tables(4):
        index = entry.only("edge", range(3)).number(0, "<I")
        edges = [{(other, source, target) for other, source, target in iter_unpack("<Iii", entry.vector(field, 12))} for field in (1, 2)]
        graph.buffer.spend(sum(map(len, edges)))
        if index in seen or index not in nodes or edges != [into[index], out[index]]:
            raise UserError(f"its edges at operator {index} are not those that the names of values mean")
        seen.add(index)
    if any(into[index] or out[index] for index in set(nodes) - seen):
        raise UserError("an operator's edges are missing")


def _check_kernels(root: Table) -> None:
    """UserError where the list of which argument decides an operator's kernel points beyond any argument."""
    resolver = root.table(3)
    for operator in resolver.only("kernel list", (0,)).tables(0) if resolver is not None else []:
        for entry in operator.only("kernel entry", range(2)).tables(1):
            for argument in entry.only("kernel arguments", range(2)).tables(1):
                if argument.only("argument", range(2)).number(1, "<I") > MOST_ARGUMENTS or argument.number(0, "<b") not in (0, 1):
                    raise UserError(f"the kernel of {operator.text(0)[:80]!r} hangs on an argument that is not there")


def _ordered(nodes: dict[int, Node]) -> list[Node]:
    """Nodes in an order in which each reads what is there: an .ort file keeps them by number."""
    makers = {name: index for index, node in nodes.items() for name in node.outputs if name}
    sorter = TopologicalSorter({index: {makers[name] for name in node.inputs if name in makers} for index, node in nodes.items()})
    try:
        return [nodes[index] for index in sorter.static_order()]
    except CycleError:
        raise UserError("an operator in it reads what it makes itself") from None
