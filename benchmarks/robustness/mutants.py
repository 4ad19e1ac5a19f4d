"""Damaged ONNX files: bytes changed, files cut, and length fields that lie.

Owns: where the length fields and the weights of a file lie, making mutants by a seed. Does not own: what is done with them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

# Which fields of which message are messages themselves (onnx.proto); beyond these, fields are taken as plain bytes.
INSIDE = {"model": {7: "graph", 8: "opset", 14: "property"}, "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"},
          "node": {5: "attribute"}, "attribute": {5: "tensor", 6: "graph"}, "value": {2: "type"}, "type": {1: "tensor type"},
          "tensor type": {2: "shape"}, "shape": {1: "dimension"}}
HUGE = (0, 1, 127, 128, 2**20, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Length:
    """A length field: where its varint lies, how many bytes it takes, what it says."""

    at: int
    width: int
    value: int


@dataclass
class Layout:
    """Length fields of a file, and the stretches that hold raw weights."""

    lengths: list[Length] = field(default_factory=list)
    weights: list[range] = field(default_factory=list)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def encoded(value: int) -> bytes:
    """A number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def layout(data: bytes, message: str = "model", start: int = 0, end: int | None = None, found: Layout | None = None) -> Layout:
    """Walk a whole, undamaged file."""
    found = Layout() if found is None else found
    at, end = start, len(data) if end is None else end
    while at < end:
        key, at = varint(data, at)
        if key & 7 == 0:
            _, at = varint(data, at)
        elif key & 7 == 2:
            size, begin = varint(data, at)
            found.lengths.append(Length(at, begin - at, size))
            inner = INSIDE.get(message, {}).get(key >> 3)
            if inner:
                layout(data, inner, begin, begin + size, found)
            elif message == "tensor" and key >> 3 == 9:
                found.weights.append(range(begin, begin + size))
            at = begin + size
        else:
            at += 8 if key & 7 == 1 else 4
    return found


def mutants(data: bytes, count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """`count` damaged files, in turn of four kinds: (kind, what was done, bytes)."""
    draw, known = random.Random(seed), layout(data)
    heavy = set().union(*known.weights)
    light = [at for at in range(len(data)) if at not in heavy]
    for number in range(count):
        kind = ("a byte anywhere", "a byte outside the weights", "cut short", "a length that lies")[number % 4]
        out = bytearray(data)
        if kind == "cut short":
            at = draw.choice(light) if draw.random() < 0.5 else draw.randrange(len(data))
            told, out = f"to {at} of {len(data)} bytes", out[:at]
        elif kind == "a length that lies":
            one = draw.choice(known.lengths)
            value = draw.choice((one.value + 1, max(0, one.value - 1), draw.randrange(1 << 16), draw.choice(HUGE)))
            told, out[one.at:one.at + one.width] = f"at {one.at}: {one.value} becomes {value}", encoded(value)
        else:
            at = draw.randrange(len(data)) if kind == "a byte anywhere" else draw.choice(light)
            mask = draw.randrange(1, 256)
            told, out[at] = f"at {at}: xor {mask:#04x}", out[at] ^ mask
        yield kind, told, bytes(out)
