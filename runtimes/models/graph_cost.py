"""How much memory and work an ONNX graph takes for a number of images, known from its shapes before any runtime opens it.

Owns: the shape rule of every operator that may stand in a graph of ours, limits of elements and of work. Does not own: reading the
file (onnx_graph.py), which operators may stand in it (operators.py). A few hundred bytes of Expand, Pad, Tile or MatMul can ask for
terabytes or for weeks: what cannot be bounded is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.models.onnx_graph import INTEGERS, SMALL, Node, OnnxGraph

# For one image. The largest activations of real students, of whole volumes, stay below a tenth of these.
MOST_ELEMENTS = 1 << 30  # alive at once
MOST_CONSTANT_ELEMENTS = 1 << 28  # made from constants alone, beside those that stand in the file: a runtime computes and keeps them
MOST_WORK = 4 * 10**12  # multiply-adds, and elements written


@dataclass(frozen=True)
class Shaped:
    """What is known of a tensor before it is computed: sizes, whether of whole numbers, its values where they are small and fixed.

    fixed: made from constants alone.
    """

    shape: tuple[int, ...]
    integer: bool = False
    value: NDArray[Any] | None = None
    fixed: bool = False

    @property
    def count(self) -> int:
        """How many elements it has."""
        return prod(self.shape)


Values = Callable[..., Any]


class Unknown(Exception):
    """A size that depends on the image, or on something that an operator of ours never does."""


def check_cost(graph: OnnxGraph, images: int = 1) -> int:
    """The work of a graph for so many images; UserError where memory or work pass their limits, or cannot be known."""
    tensors = {name: Shaped(constant.shape, constant.integer, constant.value, True) for name, constant in graph.constants.items()}
    for name, (integer, sizes) in graph.inputs.items():
        if name in tensors:
            raise UserError(f"{name[:80]!r} is both an input and a constant")
        if not sizes or None in sizes[1:] or min(size or 1 for size in sizes) < 1:
            raise UserError(f"input {name[:80]!r} has another open size than its batch")
        tensors[name] = Shaped(tuple(images if size is None else size for size in sizes), integer)
    tensors[""] = Shaped(())
    readers: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    alive, constant_count, work = sum(tensors[name].count for name in graph.inputs), 0, 0
    for node in graph.nodes:
        where = f"{node.operator} {node.name[:80]}".strip()
        inputs = [_tensor(tensors, name, where) for name in node.inputs]
        try:
            outputs, effort = _shaped(node, inputs)
        except Unknown as error:
            raise UserError(f"{where}: {error}, so its memory cannot be bounded") from None
        except (IndexError, ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError, AttributeError) as error:
            raise UserError(f"{where} does not fit its inputs ({type(error).__name__}: {str(error)[:120]})") from None
        fixed = all(tensor.fixed for tensor in inputs)
        for name, tensor in zip(node.outputs, outputs, strict=False):
            if name and name in tensors:
                raise UserError(f"{name[:80]!r} is made twice")
            if min(tensor.shape, default=0) < 0:
                raise UserError(f"{where} makes a tensor of shape {list(tensor.shape)}")
            tensors[name] = replace(tensor, fixed=fixed)
            constant_count += tensor.count if fixed else 0
            alive += tensor.count
            effort += tensor.count
        work += effort
        if alive > MOST_ELEMENTS * images or constant_count > MOST_CONSTANT_ELEMENTS:
            needed = MOST_ELEMENTS * images if alive > MOST_ELEMENTS * images else constant_count
            raise UserError(f"{where} needs more than {needed:,} elements of memory for {images} image{'' if images == 1 else 's'}, "
                            "which no network of ours does")
        if work > MOST_WORK * images:
            raise UserError(f"up to {where} it takes more than {MOST_WORK:,} multiply-adds an image, which no network of ours does")
        for name in node.inputs:
            readers[name] -= 1
            if not readers[name] and name and name not in graph.constants and name not in graph.outputs:
                alive -= tensors[name].count
    for name in graph.outputs:
        _tensor(tensors, name, "the graph's outputs")
    return work


def _tensor(tensors: dict[str, Shaped], name: str, where: str) -> Shaped:
    if name not in tensors:
        raise UserError(f"{where}: {name[:80]!r} is read before it is made")
    return tensors[name]


def _shaped(node: Node, inputs: Sequence[Shaped]) -> tuple[list[Shaped], int]:
    """Outputs of a node, and its multiply-adds."""
    kind = node.operator
    if kind in SAME:
        if node.attributes.get("training_mode", 0):
            raise Unknown("it is in training mode")
        first = inputs[0]
        integer = _cast_to_integer(node, inputs) if kind in ("Cast", "CastLike", "QuantizeLinear") else (
            first.integer and kind != "DequantizeLinear")
        extra = [Shaped((*first.shape[:-1], 1))] * (len(node.outputs) - 1)
        return [Shaped(first.shape, integer, _value(kind, inputs, integer)), *extra], 0
    if kind in BROADCAST:
        return [_broadcast(node, inputs)], 0
    result = RULES[kind](node, list(inputs))
    return result if isinstance(result, tuple) else (result, 0)


SAME = frozenset([
    "Abs", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Cos", "CumSum", "DequantizeLinear", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu",
    "Log", "LogSoftmax", "LpNormalization", "Mish", "Neg", "Not", "QuantizeLinear", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign",
    "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh", "Trilu"])
BROADCAST = frozenset(["Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "PRelu", "Pow",
                       "Sub", "Sum", "Where"])
COMPARISONS = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
# Values that decide shapes: whole numbers, of few elements.
COMPUTED: dict[str, Values] = {
    "Abs": np.abs, "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": lambda *many: np.max(np.broadcast_arrays(*many), axis=0),
    "Min": lambda *many: np.min(np.broadcast_arrays(*many), axis=0), "Neg": np.negative, "Equal": np.equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal, "Not": np.logical_not, "Identity": np.copy,
    "Floor": np.floor, "Ceil": np.ceil, "Where": np.where, "Sqrt": np.sqrt, "Cast": np.copy, "Sum": lambda *many: sum(many)}


def _cast_to_integer(node: Node, inputs: Sequence[Shaped]) -> bool:
    if node.operator == "Cast":
        return node.attributes["to"] in INTEGERS
    return inputs[1].integer if node.operator == "CastLike" else True


def _value(kind: str, inputs: Sequence[Shaped], integer: bool) -> NDArray[Any] | None:
    """The values an operator makes of known ones, where they are few."""
    if kind not in COMPUTED or any(tensor.value is None for tensor in inputs):
        return None
    with np.errstate(all="ignore"):
        value = np.asarray(COMPUTED[kind](*(tensor.value for tensor in inputs)))
        if integer and not np.isfinite(value).all():
            return None
        return value.astype(np.int64 if integer else np.float64) if value.size <= SMALL else None


def _broadcast(node: Node, inputs: Sequence[Shaped]) -> Shaped:
    kind = node.operator
    shape = np.broadcast_shapes(*(tensor.shape for tensor in inputs))
    integer = kind in COMPARISONS or inputs[0 if kind == "Pow" else -1].integer
    if kind == "Div" and integer:  # a whole number over zero ends the whole process
        below = inputs[1].value
        if below is None or (below <= 0).any():
            raise UserError(f"Div {node.name[:80]} divides whole numbers by what may be zero, which can end the whole process")
        value = None if inputs[0].value is None else np.trunc(np.asarray(inputs[0].value / below)).astype(np.int64)
        return Shaped(shape, True, value)
    if kind == "Div" and inputs[0].value is not None and inputs[1].value is not None:
        with np.errstate(all="ignore"):
            return Shaped(shape, False, np.asarray(inputs[0].value / inputs[1].value))
    return Shaped(shape, integer, _value(kind, inputs, integer))


def _known(tensor: Shaped, what: str) -> list[int]:
    """Whole numbers that decide a shape."""
    if tensor.value is None:
        raise Unknown(f"its {what} depends on the image")
    return [int(value) for value in tensor.value.reshape(-1)]


def _optional(node: Node, inputs: list[Shaped], place: int, attribute: str) -> list[int] | None:
    """Whole numbers from an input or, in older opsets, an attribute; None where neither is there."""
    if len(node.inputs) > place and node.inputs[place]:
        return _known(inputs[place], attribute)
    value = node.attributes.get(attribute)
    return None if value is None else [int(number) for number in value] if isinstance(value, list) else [int(value)]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


def _reduce(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data = inputs[0]
    if node.operator == "ArgMax":
        axes: list[int] | None = [node.attributes.get("axis", 0)]
    else:
        axes = _optional(node, inputs, 1, "axes")
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return [replace(data, fixed=False)]
        axes = list(range(len(data.shape)))
    gone = {_axis(axis, len(data.shape)) for axis in axes}
    keep = node.attributes.get("keepdims", 1)
    shape = tuple(1 if place in gone else size for place, size in enumerate(data.shape) if keep or place not in gone)
    functions: dict[str, Values] = {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}
    value = None
    if data.value is not None and data.value.size and node.operator in functions:
        value = np.asarray(functions[node.operator](data.value, axis=tuple(gone), keepdims=bool(keep)))
    return [Shaped(shape, data.integer or node.operator == "ArgMax", value)]


def _window(node: Node, inputs: list[Shaped]) -> tuple[list[Shaped], int]:
    """Convolutions and pools: sizes behind a sliding window."""
    kind, (batch, channels, *sizes), attributes = node.operator, inputs[0].shape, node.attributes
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return [Shaped((batch, channels, *[1] * len(sizes)))], 0
    weights = inputs[1].shape if kind in ("Conv", "ConvTranspose") else ()
    kernel = list(weights[2:]) if weights else [int(size) for size in attributes["kernel_shape"]]
    rank, groups = len(sizes), int(attributes.get("group", 1))
    strides, dilations = ([int(step) for step in attributes.get(name, [1] * rank)] for name in ("strides", "dilations"))
    pads = [int(pad) for pad in attributes.get("pads", [0] * 2 * rank)]
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Unknown("its padding is left to the runtime")
    if {len(kernel), len(strides), len(dilations), len(pads) // 2} != {rank} or min(*kernel, *strides, *dilations, groups) < 1 or min(
            pads, default=0) < 0:
        raise ValueError(f"kernel {kernel}, strides {strides}, dilations {dilations}, pads {pads}")
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if kind == "ConvTranspose":
        more = [int(pad) for pad in attributes.get("output_padding", [0] * rank)]
        if "output_shape" in attributes or min(more, default=0) < 0:
            raise Unknown("it names its own output")
        after = [(size - 1) * stride + extent + extra - pads[place] - pads[place + rank]
                 for place, (size, stride, extent, extra) in enumerate(zip(sizes, strides, reach, more, strict=True))]
        return [Shaped((batch, weights[1] * groups, *after))], batch * prod(sizes) * prod(weights)
    up = int(attributes.get("ceil_mode", 0))
    padded = [size + pads[place] + pads[place + rank] for place, size in enumerate(sizes)]
    after = [(size - extent + (stride - 1 if up else 0)) // stride + 1 for size, extent, stride in zip(padded, reach, strides, strict=True)]
    # rounded up, a last window may not begin in the padding behind the image
    begins = [(size - 1) * stride for size, stride in zip(after, strides, strict=True)]
    after = [size - (up and begin >= sizes[place] + pads[place]) for place, (size, begin) in enumerate(zip(after, begins, strict=True))]
    if kind == "Conv":
        if weights[1] * groups != channels:
            raise ValueError(f"weights {list(weights)} in {groups} groups for {channels} channels")
        return [Shaped((batch, weights[0], *after))], batch * prod(after) * prod(weights)
    pooled = Shaped((batch, channels, *after), inputs[0].integer)
    return [pooled, replace(pooled, integer=True)][:max(1, len(node.outputs))], batch * channels * prod(after) * prod(kernel)


def _product(node: Node, inputs: list[Shaped]) -> tuple[list[Shaped], int]:
    """Gemm and MatMul."""
    first, second = inputs[0].shape, inputs[1].shape
    if node.operator == "Gemm":
        rows, inner = first[::-1] if node.attributes.get("transA", 0) else first
        inner_, columns = second[::-1] if node.attributes.get("transB", 0) else second
        shape: tuple[int, ...] = (rows, columns)
    else:
        left, right = first if len(first) > 1 else (1, *first), second if len(second) > 1 else (*second, 1)
        inner, inner_ = left[-1], right[-2]
        shape = (*np.broadcast_shapes(left[:-2], right[:-2]), *((left[-2],) if len(first) > 1 else ()),
                 *((right[-1],) if len(second) > 1 else ()))
    if inner != inner_:
        raise ValueError(f"{list(first)} x {list(second)}")
    return [Shaped(shape, inputs[0].integer)], prod(shape) * inner


def _einsum(node: Node, inputs: list[Shaped]) -> tuple[list[Shaped], int]:
    equation = node.attributes["equation"].decode("ascii").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(inputs):
        raise Unknown("its equation is not spelt out")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, inputs, strict=True):
        for letter, size in zip(term, tensor.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(equation)
    return [Shaped(tuple(sizes[letter] for letter in right))], prod(sizes.values())


def _reshape(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, shape = inputs[0], _known(inputs[1], "shape")
    if not node.attributes.get("allowzero", 0):
        shape = [data.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    if shape.count(-1) == 1:
        rest = prod(size for size in shape if size != -1)
        shape = [data.count // rest if size == -1 else size for size in shape]
    if prod(shape) != data.count or min(shape, default=1) < 0:
        raise ValueError(f"{list(data.shape)} as {shape}")
    return [Shaped(tuple(shape), data.integer, None if data.value is None else data.value.reshape(shape))]


def _shape(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    rank = len(inputs[0].shape)
    start, end = (int(node.attributes.get(name, usual)) for name, usual in (("start", 0), ("end", rank)))
    value = np.asarray(inputs[0].shape[slice(start, end)], dtype=np.int64)
    return [Shaped(value.shape, True, value)]


def _constant(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    (attribute,) = node.attributes.values()
    if hasattr(attribute, "shape"):
        return [Shaped(attribute.shape, attribute.integer, attribute.value)]
    value = np.asarray(attribute)
    if value.dtype.kind not in "if" or value.ndim > 1:
        raise Unknown("it holds neither a tensor nor numbers")
    return [Shaped(value.shape, value.dtype.kind == "i", value)]


def _constant_of_shape(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    shape, fill = tuple(_known(inputs[0], "shape")), node.attributes.get("value")
    filled = None
    if fill is not None and fill.value is not None and fill.value.size == 1 and min(shape, default=1) >= 0 and prod(shape) <= SMALL:
        filled = np.full(shape, fill.value.reshape(-1)[0])
    return [Shaped(shape, fill is not None and fill.integer, filled)]


def _expand(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, target = inputs[0], _known(inputs[1], "shape")
    if min(target, default=1) < 0:
        raise ValueError(f"shape {target}")
    shape = (np.broadcast_shapes(data.shape, tuple(min(size, 1 << 62) for size in target)) if max(target, default=0) < 1 << 31 else
             (1 << 62,))
    small = data.value is not None and prod(shape) <= SMALL
    return [Shaped(shape, data.integer, np.broadcast_to(data.value, shape) if small and data.value is not None else None)]


def _tile(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    repeats = _known(inputs[1], "repeats")
    return [Shaped(tuple(size * count for size, count in zip(inputs[0].shape, repeats, strict=True)), inputs[0].integer)]


def _range(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    start, limit, step = (float(tensor.value.reshape(-1)[0]) if tensor.value is not None else _raise("its end depends on the image")
                          for tensor in inputs)
    count = max(0, -int(-(limit - start) // step))
    integer = inputs[0].integer
    value = np.asarray([start + step * place for place in range(count)]) if count <= SMALL else None
    return [Shaped((count,), integer, value.astype(np.int64) if integer and value is not None else value)]


def _raise(reason: str) -> Any:
    raise Unknown(reason)


def _pad(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, pads = inputs[0], _optional(node, inputs, 1, "pads") or []
    rank = len(data.shape)
    axes = [_axis(axis, rank) for axis in _known(inputs[3], "axes")] if len(node.inputs) > 3 and node.inputs[3] else list(range(rank))
    sizes = list(data.shape)
    if len(pads) != 2 * len(axes):
        raise ValueError(f"{len(pads)} pads for {len(axes)} axes")
    for place, axis in enumerate(axes):
        sizes[axis] += pads[place] + pads[place + len(axes)]
    return [Shaped(tuple(sizes), data.integer)]


def _slice(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, rank = inputs[0], len(inputs[0].shape)
    starts, ends = _known(inputs[1], "starts"), _known(inputs[2], "ends")
    axes = _optional(node, inputs, 3, "axes") or list(range(len(starts)))
    steps = _optional(node, inputs, 4, "steps") or [1] * len(starts)
    cut = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # a negative step with an end before the first element is written as a very negative number
        cut[_axis(axis, rank)] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    shape = tuple(len(range(*span.indices(size))) for span, size in zip(cut, data.shape, strict=True))
    return [Shaped(shape, data.integer, None if data.value is None else data.value[tuple(cut)])]


def _split(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, count = inputs[0], len(node.outputs)
    axis = _axis(int(node.attributes.get("axis", 0)), len(data.shape))
    sizes = _optional(node, inputs, 1, "split")
    if sizes is None:
        step = -(-data.shape[axis] // count)
        sizes = [max(0, min(step, data.shape[axis] - place * step)) for place in range(count)]
    if sum(sizes) != data.shape[axis] or len(sizes) != count or min(sizes) < 0:
        raise ValueError(f"{data.shape[axis]} into {sizes}")
    starts = np.cumsum([0, *sizes])
    return [Shaped((*data.shape[:axis], size, *data.shape[axis + 1:]), data.integer, None if data.value is None else np.take(
        data.value, range(int(start), int(start) + size), axis)) for start, size in zip(starts, sizes, strict=False)]


def _top_k(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data = inputs[0]
    axis = _axis(int(node.attributes.get("axis", -1)), len(data.shape))
    (count,) = _known(inputs[1], "k")
    if not 0 < count <= data.shape[axis]:
        raise ValueError(f"the {count} largest of {data.shape[axis]}")
    shape = (*data.shape[:axis], count, *data.shape[axis + 1:])
    return [Shaped(shape, data.integer), Shaped(shape, True)]


def _concat(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    first = inputs[0].shape
    axis = _axis(int(node.attributes["axis"]), len(first))
    if any(len(tensor.shape) != len(first)
           or any(a != b for place, (a, b) in enumerate(zip(tensor.shape, first, strict=True)) if place != axis) for tensor in inputs):
        raise ValueError(f"{[list(tensor.shape) for tensor in inputs[:4]]} along {axis}")
    shape = (*first[:axis], sum(tensor.shape[axis] for tensor in inputs), *first[axis + 1:])
    values = [tensor.value for tensor in inputs if tensor.value is not None]
    whole = len(values) == len(inputs) and prod(shape) <= SMALL
    return [Shaped(shape, inputs[0].integer, np.concatenate(values, axis) if whole else None)]


def _gather(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, places = inputs
    axis = _axis(int(node.attributes.get("axis", 0)), len(data.shape))
    shape = (*data.shape[:axis], *places.shape, *data.shape[axis + 1:])
    small = data.value is not None and places.value is not None and prod(shape) <= SMALL
    return [Shaped(shape, data.integer, np.take(data.value, places.value, axis) if small else None)]  # type: ignore[arg-type]


def _squeeze(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, rank = inputs[0], len(inputs[0].shape)
    axes = _optional(node, inputs, 1, "axes")
    gone = {place for place, size in enumerate(data.shape) if size == 1} if axes is None else {_axis(axis, rank) for axis in axes}
    if any(data.shape[place] != 1 for place in gone):
        raise ValueError(f"{list(data.shape)} without {sorted(gone)}")
    shape = tuple(size for place, size in enumerate(data.shape) if place not in gone)
    return [Shaped(shape, data.integer, None if data.value is None else data.value.reshape(shape))]


def _unsqueeze(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data, axes = inputs[0], _optional(node, inputs, 1, "axes") or []
    rank = len(data.shape) + len(axes)
    new, sizes = {_axis(axis, rank) for axis in axes}, iter(data.shape)
    shape = tuple(1 if place in new else next(sizes) for place in range(rank))
    return [Shaped(shape, data.integer, None if data.value is None else data.value.reshape(shape))]


def _transpose(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    data = inputs[0]
    order = [int(axis) for axis in node.attributes.get("perm", range(len(data.shape))[::-1])]
    if sorted(order) != list(range(len(data.shape))):
        raise ValueError(f"order {order}")
    return [Shaped(tuple(data.shape[place] for place in order), data.integer, None if data.value is None else data.value.transpose(order))]


def _flatten(node: Node, inputs: list[Shaped]) -> list[Shaped]:
    shape, axis = inputs[0].shape, int(node.attributes.get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return [Shaped((prod(shape[:axis]), prod(shape[axis:])), inputs[0].integer)]


RULES: dict[str, Callable[[Node, list[Shaped]], Any]] = {
    **dict.fromkeys(("ArgMax", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), _reduce),
    **dict.fromkeys(("AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _window),
    "Gemm": _product, "MatMul": _product, "Einsum": _einsum, "Reshape": _reshape, "Shape": _shape, "Constant": _constant,
    "ConstantOfShape": _constant_of_shape, "Expand": _expand, "Tile": _tile, "Range": _range, "Pad": _pad, "Slice": _slice,
    "Split": _split, "TopK": _top_k, "Concat": _concat, "Gather": _gather, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Transpose": _transpose, "Flatten": _flatten}
