"""An .ort file read before it is opened: the facts of the ONNX it came from, and one sentence for whatever rd-export never writes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx.defs
import pytest
from conftest import Case, image_spec, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from distill.networks.checkpoint import Calibration
from export.graph.network import DeployedGraph, example_input
from export.graph.to_onnx import to_onnx
from export.targets.ort import to_ort
from runtimes.backends.ort import OrtSession
from runtimes.errors import UserError
from runtimes.models.flatbuffer import Buffer, Table
from runtimes.models.graph_facts import onnx_facts
from runtimes.models.operators import OPERATORS, check_ort
from runtimes.models.ort_format import IDENTIFIER, SINCE, read_ort


@cache
def files() -> tuple[bytes, bytes]:
    """A tiny student as ONNX and as .ort."""
    spec = image_spec(Case())
    data = to_onnx(DeployedGraph(tiny_model(Case()), spec, Calibration((1.5,)), (32, 32)), example_input(spec, "image", (32, 32)),
                   input_names=["image"], output_names=["logits", "probabilities"], opset=18, metadata={"rd.task": "multiclass"})
    return data, to_ort(data)


def table(parent: Table, field: int) -> Table:
    found = parent.table(field)
    assert found is not None
    return found


def graph_of(data: bytes) -> Table:
    return table(table(Buffer(data).root(IDENTIFIER), 1), 7)


def node_of(data: bytes, operator: str) -> Table:
    return next(node for node in graph_of(data).tables(2) if node.text(5) == operator)


def put(data: bytes, place: int, form: str, *values: int) -> bytes:
    return data[:place] + struct.pack(form, *values) + data[place + struct.calcsize(form):]


def text_at(parent: Table, field: int, data: bytes, words: bytes) -> bytes:
    """The file with a text of a table overwritten by one of the same length."""
    start = parent.buffer.follow(parent.place + parent.offsets[field]) + 4
    assert len(parent.text(field)) == len(words)
    return data[:start] + words + data[start + len(words):]


def first_item(parent: Table, field: int) -> int:
    return parent.buffer.follow(parent.place + parent.offsets[field]) + 4


def field_at(parent: Table, field: int) -> int:
    assert parent.offsets[field]
    return parent.place + parent.offsets[field]


def test_an_ort_file_says_of_itself_what_its_onnx_does() -> None:
    data, converted = files()
    graph, facts = read_ort(converted)
    assert facts == onnx_facts(memoryview(data))
    assert {node.operator for node in graph.nodes} <= OPERATORS
    check_ort(converted)
    image = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 1)).astype(np.uint8)
    np.testing.assert_allclose(OrtSession(converted, threads=1).run(image)[0], OrtSession(data, threads=1).run(image)[0], atol=1e-5)


def test_operators_mean_what_our_opsets_mean_by_them() -> None:
    known = [(schema.name, schema.since_version) for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
    expected = {operator: {max(since) for opset in (18, 19, 20) if (since := [
        version for name, version in known if name == operator and version <= opset])} for operator in OPERATORS}
    assert {operator: set(versions) for operator, versions in SINCE.items()} == expected


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another kind of file": (lambda data: data[:4] + b"ORTN" + data[8:], "no file of kind ORTM"),
    "an ONNX file": (lambda data: files()[0], "no file of kind ORTM"),
    "nothing": (lambda data: b"", "no file of kind ORTM"),
    "half a file": (lambda data: data[:len(data) // 2], "cut short|longer than the file|another file|needs"),
    "another version": (lambda data: text_at(Buffer(data).root(IDENTIFIER), 0, data, b"9"), "version '9'"),
    "a root far away": (lambda data: put(data, 0, "<I", 0xFFFFFFF0), "outside itself"),
    "another operator": (lambda data: text_at(node_of(data, "Relu"), 5, data, b"Loop"), "Loop .* is none that rd-export writes"),
    "an operator's older self": (lambda data: put(data, field_at(node_of(data, "Add"), 3), "<i", 6), "is that of opset 6, expected 14"),
    "a count of inputs": (lambda data: put(data, first_item(node_of(data, "Add"), 11), "<i", 7), "counts 8 inputs, and names 2"),
    "a number beyond": (lambda data: put(data, field_at(node_of(data, "Add"), 4), "<I", 1 << 30), "which is taken or beyond"),
    "room for a billion operators": (lambda data: put(data, field_at(graph_of(data), 3), "<I", 1 << 30), "more than 20,000 operators"),
    "an edge that the names do not mean": (lambda data: put(data, first_item(
        next(edge for edge in graph_of(data).tables(4) if edge.vector(1, 12)), 1), "<I", 3_000), "are not those that the names"),
    "a shape beyond its bytes": (lambda data: put(data, first_item(graph_of(data).tables(0)[0], 2), "<q", 1 << 40), "bytes, found"),
    "a negative shape": (lambda data: put(data, first_item(graph_of(data).tables(0)[0], 2), "<q", -4), "has shape"),
    "a vector without end": (lambda data: put(data, first_item(graph_of(data), 2) - 4, "<I", 0x3FFFFFFF), "longer than the file|parts"),
    "a vtable that ends nowhere": (lambda data: put(data, graph_of(data).place, "<i", -(1 << 30)), "outside itself"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_rd_export_never_writes_is_refused_in_a_sentence(name: str) -> None:
    edit, words = HOSTILE[name]
    data = edit(files()[1])
    with pytest.raises(UserError, match=words):
        check_ort(data)


def test_constants_that_share_their_bytes_cannot_fill_the_memory() -> None:
    data = files()[1]
    tensors = graph_of(data).tables(0)
    largest = max(tensors, key=lambda tensor: len(tensor.vector(4, 1)))
    spread = data
    for tensor in tensors:  # every constant becomes the largest one, by another offset to the same place
        if len(tensor.numbers(2, "<q")) == len(largest.numbers(2, "<q")):
            for field in (2, 4):
                place = field_at(tensor, field)
                target = largest.buffer.follow(field_at(largest, field))
                spread = put(spread, place, "<I", target - place) if target > place else spread
    with pytest.raises(UserError, match="more than the file holds"):
        check_ort(spread)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 2**32 - 1)), min_size=1, max_size=3), st.integers(0, 50))
def test_no_changed_byte_ends_in_anything_but_a_sentence(edits: list[tuple[int, int]], cut: int) -> None:
    data: Any = bytearray(files()[1])
    for place, value in edits:
        at = place % (len(data) - 4)
        data[at:at + 4] = value.to_bytes(4, "little")
    try:
        check_ort(bytes(data[:len(data) - cut]))
    except UserError:
        return
