"""ONNX files read without the onnx package: tensors of golden vectors, and the hunt for external data.

Owns: a strict reader of the protobuf wire format for the few messages needed here (ModelProto, GraphProto, NodeProto,
AttributeProto, TensorProto; onnx/onnx.proto). Does not own: writing ONNX files, running them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.files.reading import LIMITS, read_file

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 32  # subgraphs within subgraphs; real networks have one or two levels
MAX_RANK = 8
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"), 6: np.dtype("<i4"),
          7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}  # TensorProto.DataType

# Which fields of which message lead to tensors: {message: {field number: message}}.
PATHS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Walk one message: (field number, wire type, value); a value is an int for varints, else a view of the bytes.

    Raises UserError where the bytes are not a whole message.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise UserError("not a protobuf message: field number 0")
        if wire == VARINT:
            value, at = read_varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = read_varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise UserError(f"not a protobuf message: wire type {wire}")
        if size > end - at:
            raise UserError(f"truncated protobuf message: {size} bytes announced, {end - at} left")
        yield number, wire, data[at:at + size]
        at += size


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise UserError("truncated protobuf message: it ends inside a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise UserError("not a protobuf message: a number of more than ten bytes")


def _view(value: int | memoryview, what: str) -> memoryview:
    if isinstance(value, int):
        raise UserError(f"not an ONNX file: {what} is a number, expected bytes")
    return value


def _number(value: int | memoryview, what: str) -> int:
    if not isinstance(value, int):
        raise UserError(f"not an ONNX file: {what} is bytes, expected a number")
    return value


def read_tensor(path: Path) -> NDArray[Any]:
    """Read a TensorProto file (`input_0.pb`) that keeps its values in raw_data; UserError for anything else."""
    return named_tensor(read_file(path, LIMITS[".pb"]), path)


def named_tensor(data: bytes, path: Path) -> NDArray[Any]:
    """The tensor in the bytes of the TensorProto file at `path`; UserError for anything else."""
    try:
        return parse_tensor(memoryview(data))
    except UserError as error:
        raise UserError(f"{path}: {error}; export the artifact again") from None


def parse_tensor(data: memoryview) -> NDArray[Any]:
    """One TensorProto message as an array; strict: known dtype, raw_data of exactly the announced size, no external data."""
    shape: list[int] = []
    code, raw = 0, None
    for number, wire, value in fields(data):
        if number == 1 and wire == VARINT:
            shape.append(_number(value, "dims"))
        elif number == 1:
            view, at = _view(value, "dims"), 0
            while at < len(view):  # packed form
                size, at = read_varint(view, at)
                shape.append(size)
        elif number == 2:
            code = _number(value, "data_type")
        elif number == 9:
            raw = _view(value, "raw_data")
        elif number == 13 or (number == 14 and value != 0):
            raise UserError("the tensor keeps its values in another file")
        elif number in (4, 5, 6, 7, 10, 11):
            raise UserError("the tensor keeps its values outside raw_data")
    if code not in DTYPES:
        raise UserError(f"tensor of data type {code}, expected one of {sorted(DTYPES)}")
    if len(shape) > MAX_RANK or any(size >= 1 << 40 for size in shape):
        raise UserError(f"tensor of shape {shape[:MAX_RANK]} is not plausible")
    if raw is None:
        raise UserError("the tensor has no raw_data")
    dtype = DTYPES[code]
    if prod(shape) * dtype.itemsize != len(raw):
        raise UserError(f"tensor of shape {shape} needs {prod(shape) * dtype.itemsize} bytes, found {len(raw)}")
    if prod(shape) == 0 and max(shape, default=0) > 1 << 24:  # numpy refuses huge sizes even beside a zero
        raise UserError(f"tensor of shape {shape} is not plausible")
    if code == 9 and any(byte > 1 for byte in raw):
        raise UserError("a boolean tensor holds other bytes than 0 and 1")
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def external_tensors(model: memoryview) -> list[str]:
    """Names of all tensors of a ModelProto with any external data; UserError when the bytes are not a model with a graph."""
    names: list[str] = []
    graphs = _scan(model, "model", names, 0)
    if not graphs:
        raise UserError("no graph found")
    return names


def _scan(data: memoryview, message: str, names: list[str], depth: int) -> int:
    """Collect external tensors below one message; returns how many of its fields were followed."""
    if depth > 4 * MAX_DEPTH:
        raise UserError(f"graphs nested more than {MAX_DEPTH} deep")
    if message == "tensor":
        name, external = "", False
        for number, _, value in fields(data):
            if number == 8:
                name = bytes(_view(value, "a tensor's name")[:200]).decode("utf-8", "replace")
            elif number == 13 or (number == 14 and value != 0):  # external_data, data_location
                external = True
        if external:
            names.append(name)
        return 1
    followed = 0
    for number, _, value in fields(data):
        inner = PATHS[message].get(number)
        if inner is not None:
            _scan(_view(value, inner), inner, names, depth + 1)
            followed += 1
    return followed
