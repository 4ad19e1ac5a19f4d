"""A device opens only what rd-export writes: no loop, no stranger, no bomb of memory or work; and it knows every shape beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Case
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.graph.hygiene import check_hygiene
from runtimes.errors import UserError
from runtimes.models import graph_cost
from runtimes.models.graph_cost import BROADCAST, RULES, SAME, check_cost
from runtimes.models.onnx_graph import read_graph
from runtimes.models.operators import LAYERS, OPERATORS, check_ir, check_onnx

Exported = Callable[[Case], Path]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph(*nodes: onnx.NodeProto, domain: str = "", **constants: Any) -> onnx.ModelProto:
    """A graph from `image` (n, 8, 8, 1) uint8 to `logits`; constants by name."""
    made = helper.make_graph(list(nodes), "g", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 1])],
                             [helper.make_tensor_value_info("logits", FLOAT, None)],
                             [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    return helper.make_model(made, opset_imports=[helper.make_opsetid(one, 18) for one in {"", domain}], ir_version=8)


def node(kind: str, *inputs: str, to: str = "logits", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [to], **attributes)


def branch() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["image"], ["q"])], "b", [], [helper.make_tensor_value_info("q", FLOAT, None)])


def doubled(count: int) -> onnx.ModelProto:
    names = ["x", *(f"x{place}" for place in range(count - 1)), "logits"]
    return graph(*(node("Concat", one, one, to=other, axis=0) for one, other in pairwise(names)),
                 x=np.ones(1, np.float32))


def with_function() -> onnx.ModelProto:
    model = graph(node("Identity", "image"))
    model.functions.add(name="f", domain="d").node.append(node("Identity", "a"))
    return model


def with_sparse() -> onnx.ModelProto:
    model = graph(node("Identity", "image"))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [40_000, 40_000]))
    return model


def with_lie() -> onnx.ModelProto:
    model = graph(node("Identity", "w"), w=np.ones(4, np.float32))
    model.graph.initializer[0].dims[:] = [1 << 40]
    return model


COLUMN, ROW = np.ones((60_000, 1), np.float32), np.ones((1, 60_000), np.float32)
ONE, LONG = np.ones(1, np.float32), np.asarray([1 << 40], np.int64)
BOMBS = {
    "loop": (graph(node("Loop", "", "t", "image", body=branch()), t=np.asarray(True)), "graph within the graph"),
    "scan": (graph(node("Scan", "image", body=branch(), num_scan_inputs=1)), "graph within the graph"),
    "if": (graph(node("If", "t", then_branch=branch(), else_branch=branch()), t=np.asarray(True)), "graph within the graph"),
    "a loop without a body": (graph(node("Loop", "", "", "image")), "ai.onnx::Loop"),
    "another domain": (graph(node("Evil", "image", domain="evil"), domain="evil"), "'evil'"),
    "a domain that is not announced": (graph(node("Gelu", "image", domain="com.microsoft")), "com.microsoft::Gelu"),
    "an operator of text": (graph(node("StringNormalizer", "image")), "StringNormalizer"),
    "training": (graph(node("Dropout", "image")), "Dropout"),
    "a function": (with_function(), "functions"),
    "a sparse constant": (with_sparse(), "sparse"),
    "a constant of text": (graph(node("Identity", "w"), w=np.asarray(["x"], dtype=object)), "texts"),
    "a shape that lies": (with_lie(), "needs 4,398,046,511,104 bytes"),
    "ConstantOfShape": (graph(node("ConstantOfShape", "long"), long=LONG), "memory"),
    "Expand": (graph(node("Expand", "v", "long"), v=ONE, long=LONG), "memory"),
    "Expand beyond all numbers": (graph(node("Expand", "v", "s"), v=ONE, s=np.full(4, 1 << 62)), "memory"),
    "Tile": (graph(node("Tile", "v", "long"), v=ONE, long=LONG), "memory"),
    "Range": (graph(node("Range", "a", "b", "c"), a=np.asarray(0), b=np.asarray(1 << 40), c=np.asarray(1)), "memory"),
    "Pad": (graph(node("Pad", "v", "p"), v=ONE, p=np.asarray([0, 1 << 40])), "memory"),
    "an outer product": (graph(node("MatMul", "c", "r"), c=COLUMN, r=ROW), "memory"),
    "an outer sum": (graph(node("Add", "c", "r"), c=COLUMN, r=ROW), "memory"),
    "Concat, again and again": (doubled(60), "memory"),
    "a convolution's padding": (graph(node("Conv", "v", "w", pads=[1 << 20] * 4), v=np.ones((1, 1, 1, 1), np.float32),
                                     w=np.ones((1, 1, 1, 1), np.float32)), "memory"),
    "Einsum": (graph(node("Einsum", "c", "c", equation="ab,cd->ac"), c=COLUMN), "memory"),
    "work without memory": (graph(helper.make_node("Cast", ["image"], ["f"], to=FLOAT), node("ReduceMax", "f", "axes", to="peak"),
                                  node("Mul", "w", "peak", to="m0"), *(node("MatMul", f"m{place}", "w", to=f"m{place + 1}")
                                                                       for place in range(160)), node("Identity", "m160"),
                                  axes=np.asarray([1, 2, 3]), w=np.zeros((3000, 3000), np.float16)), "multiply-adds"),
    "memory that the image decides": (graph(helper.make_node("Cast", ["image"], ["c"], to=INT64), node("Reshape", "c", "flat", to="f"),
                                             node("Expand", "v", "f"), flat=np.asarray([-1]), v=ONE), "depends on the image"),
    "a batch by a batch": (graph(node("Shape", "image", to="s", end=1), node("Mul", "s", "k", to="n"), node("Mul", "n", "s", to="m"),
                                 node("Mul", "m", "s", to="o"), node("Expand", "v", "o"), v=ONE, k=np.asarray([1 << 27])), "memory"),
    "division of whole numbers by the image": (graph(node("Div", "image", "image")), "may be zero"),
    "a value from nowhere": (graph(node("Identity", "nothing")), "before it is made"),
    "an input that is a constant": (graph(node("Identity", "image"), image=ONE), "both an input and a constant"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_one_sentence_and_at_once(name: str) -> None:
    model, told = BOMBS[name]
    data = model.SerializeToString()
    start = time.process_time()
    with pytest.raises(UserError, match=told) as caught:
        check_onnx(data)
    assert time.process_time() - start < 1.0
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_half_a_million_empty_nodes_and_fields_are_no_network() -> None:
    for piece, told in ((b"\x0a\x00", "operators"), (b"\x6a\x00", "fields")):
        body = piece * 510_000
        size, head = len(body), b""
        while size > 0x7F:
            head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
        start = time.process_time()
        with pytest.raises(UserError, match=told):
            check_onnx(b"\x3a" + head + bytes([size]) + body)
        assert time.process_time() - start < 5.0


def test_the_ordinary_graphs_beside_the_bombs_pass() -> None:
    check_onnx(graph(node("Expand", "v", "s"), v=ONE, s=np.asarray([4, 4])).SerializeToString())
    check_onnx(graph(node("Shape", "image", to="s", end=1), node("Concat", "s", "k", to="t", axis=0), node("Expand", "v", "t"),
                     v=ONE, k=np.asarray([6])).SerializeToString())
    check_onnx(graph(node("Tile", "image", "k"), k=np.asarray([1, 2, 2, 3])).SerializeToString())
    check_onnx(doubled(10).SerializeToString())
    check_onnx(graph(node("Identity", "image"), domain="ai.onnx").SerializeToString())


def test_every_operator_has_a_rule_for_its_shapes_and_none_has_two() -> None:
    assert SAME | BROADCAST | set(RULES) == OPERATORS
    assert len(SAME) + len(BROADCAST) + len(RULES) == len(OPERATORS)


@pytest.mark.parametrize("case", [Case(), Case("multilabel", 3, input_size="40x56"), Case(input="tensor"), Case(precision="fp16"),
                                  Case(precision="int8")], ids=str)
def test_what_the_exporter_writes_passes_and_its_shapes_are_those_that_onnx_infers(exported: Exported, case: Case) -> None:
    written = (exported(case) / "model.onnx").read_bytes()
    check_onnx(written)
    for images in (1, 3):
        found, model = shapes(written, images), onnx.load_from_string(written)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = images
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        compared = 0
        for value in (*inferred.value_info, *inferred.output):
            sizes = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            if all(size.HasField("dim_value") for size in value.type.tensor_type.shape.dim):
                assert found[value.name] == sizes, value.name
                compared += 1
        assert compared >= 0.9 * len(model.graph.node)


def data(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


EXAMPLES = [
    (node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1), {"x": data(1, 2, 8, 7)}),
    (node("MaxPool", "x", kernel_shape=[2, 2], strides=[3, 3], dilations=[2, 2]), {"x": data(1, 2, 9, 11)}),
    (node("Conv", "x", "w", group=2, strides=[2, 1], dilations=[1, 2], pads=[0, 1, 2, 3]), {"x": data(3, 4, 9, 9), "w": data(6, 2, 3, 2)}),
    (node("ConvTranspose", "x", "w", strides=[2, 3], output_padding=[1, 2], pads=[1, 0, 1, 0]),
     {"x": data(1, 3, 5, 4), "w": data(3, 2, 3, 3)}),
    (node("Gemm", "x", "w", transA=1, transB=1), {"x": data(4, 2), "w": data(5, 4)}),
    (node("MatMul", "x", "w"), {"x": data(7, 1, 2, 3), "w": data(5, 3, 4)}), (node("MatMul", "x", "w"), {"x": data(3), "w": data(5, 3, 4)}),
    (node("Einsum", "x", "w", equation="bij,bjk->bik"), {"x": data(2, 3, 4), "w": data(2, 4, 5)}),
    (node("Gather", "x", "i", axis=-2), {"x": data(3, 4, 5), "i": np.zeros((2, 6), np.int64)}),
    (node("Pad", "x", "p", "", "a"), {"x": data(3, 4, 5), "p": np.asarray([1, -1, 2, 3]), "a": np.asarray([-1, 0])}),
    (node("Reshape", "x", "s"), {"x": data(3, 4, 5), "s": np.asarray([0, -1, 2])}),
    (node("Slice", "x", "a", "b", "c", "d"), {"x": data(9, 8, 7), "a": np.asarray([-1, 1]), "b": np.asarray([-(1 << 62), 1 << 62]),
                                              "c": np.asarray([0, -1]), "d": np.asarray([-2, 3])}),
    (node("Split", "x", to="logits", axis=1, num_outputs=1), {"x": data(3, 4)}), (node("Transpose", "x"), {"x": data(3, 4, 5)}),
    (node("Squeeze", "x"), {"x": data(1, 4, 1, 5)}), (node("Unsqueeze", "x", "a"), {"x": data(4, 5), "a": np.asarray([0, -1])}),
    (node("ReduceMean", "x", "a", keepdims=0), {"x": data(3, 4, 5), "a": np.asarray([-1, 0])}),
    (node("ArgMax", "x", axis=1), {"x": data(3, 4)}),
    (helper.make_node("TopK", ["x", "k"], ["logits", "places"]), {"x": data(3, 4), "k": np.asarray([2])}),
    (helper.make_node("TopK", ["x", "k"], ["most", "logits"], axis=0), {"x": data(3, 4), "k": np.asarray([3])}),
    (node("Flatten", "x", axis=-1), {"x": data(3, 4, 5)}), (node("Expand", "x", "s"), {"x": data(3, 1), "s": np.asarray([2, 1, 6])}),
    (node("Tile", "x", "s"), {"x": data(3, 1), "s": np.asarray([2, 4])}),
    (node("Concat", "x", "y", axis=-1), {"x": data(3, 1), "y": data(3, 4)}),
    (node("Range", "a", "b", "c"), {"a": np.asarray(10), "b": np.asarray(-3), "c": np.asarray(-4)}),
    (node("Where", "c", "x", "y"), {"c": np.zeros((4, 1), bool), "x": data(1, 5), "y": data(2, 1, 1)}),
    (node("GlobalAveragePool", "x"), {"x": data(2, 3, 4, 5)})]


@pytest.mark.parametrize("place", range(len(EXAMPLES)))
def test_shapes_are_those_that_onnx_infers(place: int) -> None:
    one, constants = EXAMPLES[place]
    model = graph(one, **constants)
    model.graph.output[0].ClearField("type")
    (value,) = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
    assert shapes(model.SerializeToString(), 1)["logits"] == tuple(size.dim_value for size in value.type.tensor_type.shape.dim)


def shapes(written: bytes, images: int) -> dict[str, tuple[int, ...]]:
    """The shape of everything a graph computes, by our own rules."""
    found: dict[str, tuple[int, ...]] = {}
    model = read_graph(written)
    own = graph_cost._shaped

    def seen(one: Any, given_: Any) -> Any:
        outputs, effort = own(one, given_)
        found.update({name: shaped.shape for name, shaped in zip(one.outputs, outputs, strict=False)})
        return outputs, effort

    graph_cost._shaped = seen
    try:
        check_cost(model, images)
    finally:
        graph_cost._shaped = own
    return found


def test_the_exporter_refuses_an_operator_that_no_device_opens_and_names_it() -> None:
    model = graph(node("NonZero", "image"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", FLOAT, ["batch", 3]))
    with pytest.raises(UserError, match="NonZero"):
        check_hygiene(model.SerializeToString(), opset=18, input_names=["image"], output_names=["logits"])


@given(draw=st.data())
def test_damaged_graphs_are_read_or_refused_in_one_sentence(draw: st.DataObject) -> None:
    whole = bytearray(graph(node("Shape", "image", to="s"), node("Concat", "s", "k", to="t", axis=0), node("Expand", "v", "t"),
                            v=ONE, k=np.asarray([6])).SerializeToString())
    for _ in range(draw.draw(st.integers(1, 4))):
        whole[draw.draw(st.integers(0, len(whole) - 1))] = draw.draw(st.integers(0, 255))
    try:
        check_onnx(bytes(whole))
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


IR = ('<?xml version="1.0"?>\n<net name="rd" version="11"><layers><layer id="0" name="w" type="Const" version="opset1">'
      '<data element_type="f32" shape="2, 3" offset="0" size="24"/></layer></layers><edges/></net>')


@pytest.mark.parametrize(("old", "new", "told"), [
    ("", "", ""),
    ("<net", '<!DOCTYPE n [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]><net', "document type"),
    ("<net", '<!DOCTYPE n SYSTEM "/etc/passwd"><net', "document type"),
    ("<net", "<?run me?><net", "instruction"), ("<edges/>", "<edges><![CDATA[<layer/>]]></edges>", "raw text"),
    ('"Const"', '"TensorIterator"', "TensorIterator"), ('"Const"', '"Loop"', "Loop"), ('"Const"', '"If"', "If"),
    ('version="opset1"', 'version="extension"', "extension::Const"), ('type="Const"', 'kind="Const"', "none that rd-export writes"),
    ("<data ", "<body><layers><layer type='Const'/></layers></body><data ", "graph within layer"),
    ("<data ", "<layer type='Loop'/><data ", "a layer within"),
    ('size="24"', 'size="240"', "reads bytes 0 to 240 of 24"), ('shape="2, 3"', 'shape="2000000, 3000000"', "needs 24,000,000,000,000"),
    ('offset="0"', 'offset="-8"', "reads bytes"), ('offset="0" ', "", "does not say"), ("</net>", "", "not readable XML"),
    ("<edges/>", "<a>" * 60 + "</a>" * 60, "deep"), ("rd", "r\0d", "UTF-8"), ("<layer ", "<other ", "no layers")])
def test_an_ir_is_plain_xml_of_plain_layers(old: str, new: str, told: str) -> None:
    data = (IR.replace(old, new) if old else IR).replace("</layer>", "</other>" if told == "no layers" else "</layer>").encode()
    if not told:
        check_ir(data, 24)
        return
    with pytest.raises(UserError, match=told):
        check_ir(data, 24)


def test_an_ir_in_another_encoding_is_refused() -> None:
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(UserError):
            check_ir(IR.replace('"1.0"', f'"1.0" encoding="{encoding}"').encode(encoding), 24)


@pytest.mark.parametrize("case", [Case(target="openvino"), Case(target="openvino", precision="fp16")], ids=str)
def test_irs_of_the_exporter_pass(exported: Exported, case: Case) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed; pip install '.[openvino]'")
    folder = exported(case)
    check_ir((folder / "openvino_model.xml").read_bytes(), (folder / "openvino_model.bin").stat().st_size)
    assert {"Loop", "If", "TensorIterator", "NonZero"}.isdisjoint(LAYERS)
