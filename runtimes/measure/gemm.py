"""What a machine can do at best: a matrix product in each precision, a copy at several sizes; measured, not looked up.

Owns: `peaks`, the few-line ONNX graphs it runs. Does not own: what a network needs (profile.py), the roofline (roofline.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.backends.ort import OrtSession
from runtimes.errors import UserError

SIDE = 1024  # of square matrices: large enough for a peak, small enough for a second
COPIES = tuple(2**power for power in (20, 22, 24, 26, 28))  # bytes
SECONDS = 0.4  # of each measurement
FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6  # TensorProto.DataType
Names = Sequence[str]


def peaks(threads: int) -> dict[str, Any]:
    """Operations a second (two per multiply-add) by precision, with the runtime that reached them, and bytes a second of copies by size."""
    products: dict[str, dict[str, Any]] = {}

    def best(precision: str, runtime: str, open_call: Callable[[], Callable[[], object]]) -> None:
        try:
            rate = 2 * SIDE**3 / fastest(open_call())
        except UserError:  # not installed, or not on this processor
            return
        if rate > products.get(precision, {"ops_per_s": 0})["ops_per_s"]:
            products[precision] = {"ops_per_s": rate, "by": runtime}

    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    whole, small = random.integers(0, 255, a.shape, dtype=np.uint8), random.integers(-63, 63, a.shape, dtype=np.int8)
    floats, integers, pairs = float_product(b), integer_product(small), quantised_product(small)
    best("fp32", "onnxruntime", lambda: _ort(floats, a, threads))
    best("int8", "onnxruntime", lambda: _ort(integers, whole, threads))
    best("fp32", "openvino", lambda: _openvino(floats, a, threads, "fp32"))
    best("bf16", "openvino", lambda: _openvino(floats, a, threads, "bf16"))
    best("int8", "openvino", lambda: _openvino(pairs, a, threads, "int8"))
    return {"threads": threads, "products": products, "copies": {str(size): copy_rate(size, threads) for size in COPIES}}


def fastest(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Seconds of the fastest call."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return min(times)


def copy_rate(size: int, threads: int) -> float:
    """Bytes read and written a second when `size` bytes are copied, by so many threads together; again and again, so caches count."""
    share = max(1, size // threads)
    pairs = [(np.ones(share, np.uint8), np.zeros(share, np.uint8)) for _ in range(threads)]
    turns = max(1, 2**24 // size)
    spent = [0.0] * threads
    gate = threading.Barrier(threads)

    def copy(place: int) -> None:
        source, target = pairs[place]

        def some() -> None:
            for _ in range(turns):
                np.copyto(target, source)

        gate.wait()
        spent[place] = fastest(some, SECONDS / 2)

    workers = [threading.Thread(target=copy, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(2 * share * turns / seconds for seconds in spent)


def _ort(model: bytes, a: NDArray[Any], threads: int) -> Callable[[], object]:
    session = OrtSession(model, threads=threads)
    return lambda: session.run(a)


def _openvino(model: bytes, a: NDArray[Any], threads: int, precision: str) -> Callable[[], object]:
    from runtimes.backends.ov import OpenVinoSession

    session = OpenVinoSession(model, precision=precision, threads=threads)
    if precision not in session.layers:  # no such units: it computes in another precision and says so
        raise UserError(f"no {precision} here")
    return lambda: session.run(a)


def float_product(b: NDArray[np.float32]) -> bytes:
    """An ONNX model that multiplies a float matrix with `b`."""
    return _model([_node("MatMul", ("a", "b"), ("c",))], {"b": b}, ("a", FLOAT), ("c", FLOAT))


def integer_product(b: NDArray[np.int8]) -> bytes:
    """An ONNX model that multiplies an unsigned byte matrix with signed `b` into 32 bits."""
    return _model([_node("MatMulInteger", ("a", "b"), ("c",))], {"b": b}, ("a", UINT8), ("c", INT32))


def quantised_product(b: NDArray[np.int8]) -> bytes:
    """An ONNX model of a float product between Q/DQ pairs, which runtimes compute in int8."""
    scale, zero = np.asarray(0.02, np.float32), np.asarray(128, np.uint8)
    nodes = [_node("QuantizeLinear", ("a", "s", "z"), ("qa",)), _node("DequantizeLinear", ("qa", "s", "z"), ("da",)),
             _node("DequantizeLinear", ("b", "s", "zb"), ("db",)), _node("MatMul", ("da", "db"), ("c",))]
    return _model(nodes, {"b": b, "s": scale, "z": zero, "zb": np.asarray(0, np.int8)}, ("a", FLOAT), ("c", FLOAT))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | bytes) -> bytes:
    """One protobuf field: a number, or bytes with their length."""
    return _varint(number << 3) + _varint(value) if isinstance(value, int) else _varint(number << 3 | 2) + _varint(len(value)) + value


def _node(kind: str, inputs: Names, outputs: Names) -> bytes:
    named = [(1, inputs), (2, outputs), (4, (kind,))]
    return b"".join(_field(number, name.encode()) for number, names in named for name in names)


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    kind = {"float32": FLOAT, "uint8": UINT8, "int8": INT8}[array.dtype.name]
    return b"".join([*(_field(1, size) for size in array.shape), _field(2, kind), _field(8, name.encode()), _field(9, array.tobytes())])


def _value(name: str, kind: int) -> bytes:
    shape = b"".join(_field(1, _field(1, size)) for size in (SIDE, SIDE))
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _model(nodes: Sequence[bytes], tensors: Mapping[str, NDArray[Any]], graph_input: tuple[str, int],
           graph_output: tuple[str, int]) -> bytes:
    graph = b"".join([*(_field(1, node) for node in nodes), _field(2, b"product"),
                      *(_field(5, _tensor(name, array)) for name, array in tensors.items()),
                      _field(11, _value(*graph_input)), _field(12, _value(*graph_output))])
    return _field(1, 8) + _field(8, _field(1, b"") + _field(2, 17)) + _field(7, graph)
