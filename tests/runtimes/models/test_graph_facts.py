"""What a model file says of itself is read as its own library reads it; damaged files are user errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from conftest import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtimes.errors import UserError
from runtimes.models.graph_facts import GraphTensor, ir_facts, onnx_facts

Exported = Callable[[Case], Path]


@pytest.mark.parametrize("case", [Case(), Case("multilabel", 3, input_size="40x56"), Case(input="tensor")], ids=str)
def test_an_onnx_file_says_what_onnx_reads(exported: Exported, case: Case) -> None:
    path = exported(case) / "model.onnx"
    told, model = onnx_facts(memoryview(path.read_bytes())), onnx.load(path)
    assert {f"rd.{key}" if key != "names" else key: value for key, value in told.facts.items()} == {
        one.key: one.value for one in model.metadata_props}
    assert told.opset == model.opset_import[0].version
    assert [one.name for one in told.inputs] == [one.name for one in model.graph.input]
    assert [one.shape[1:] for one in told.outputs] == [(3,)] * len(model.graph.output)
    assert told.inputs[0].shape[0] is None


def test_an_ir_says_what_its_onnx_says(exported: Exported) -> None:
    told = ir_facts((exported(Case(target="openvino")) / "openvino_model.xml").read_bytes())
    first = onnx_facts(memoryview((exported(Case()) / "model.onnx").read_bytes()))
    assert dict(told.facts) == dict(first.facts)
    assert told.inputs == first.inputs == (GraphTensor("image", "uint8", (None, 32, 32, 1)),)
    assert told.outputs == first.outputs


def test_a_fact_that_stands_twice_is_refused(exported: Exported) -> None:
    model = onnx.load(exported(Case()) / "model.onnx")
    model.metadata_props.add(key="rd.task", value="binary")
    with pytest.raises(UserError, match=r"rd\.task twice"):
        onnx_facts(memoryview(model.SerializeToString()))
    xml = (exported(Case(target="openvino")) / "openvino_model.xml").read_bytes()
    with pytest.raises(UserError, match="task twice"):
        ir_facts(xml.replace(b"<rd>", b'<rd><task value="binary" />', 1))


@pytest.mark.parametrize("xml", [b"", b"<net", b"<!DOCTYPE a [<!ENTITY b 'c'>]><net/>", b"<a>" * 100, b"\xff\xfe\x00"])
def test_what_is_no_ir_is_refused(xml: bytes) -> None:
    with pytest.raises(UserError):
        ir_facts(xml)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_models_say_something_or_are_refused(exported: Exported, data: st.DataObject) -> None:
    whole = (exported(Case()) / "model.onnx").read_bytes()
    model = bytearray(whole[-4000:] if data.draw(st.booleans()) else whole[:4000])
    for _ in range(data.draw(st.integers(1, 5))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UserError):
        onnx_facts(memoryview(bytes(model)))
