"""The bytes that ship: one portable file, asked-for opset, open batch, metadata, no machine paths, the same bytes every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from conftest import CLASSES, Case, image_spec, tiny_model, write_student
from onnx import TensorProto, helper, numpy_helper

from distill.networks.checkpoint import Calibration
from distill.networks.deployed import reparameterised
from export.graph.hygiene import IR_OF_OPSET, check_hygiene, precision_share
from export.graph.network import DeployedGraph, TensorGraph, example_input
from export.graph.to_onnx import to_onnx
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec

Exported = Callable[[Case], Path]
CASES = [Case(), Case("multilabel", 3, input_size="40x56"), Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case(input="tensor"),
         Case(opset=20)]


def names(case: Case) -> tuple[list[str], list[str]]:
    return (["image"], ["logits", "probabilities"]) if case.input == "image" else (["pixel_values"], ["logits"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_file_is_one_portable_graph_with_an_open_batch(exported: Exported, case: Case) -> None:
    data = (exported(case) / "model.onnx").read_bytes()
    input_names, output_names = names(case)
    check_hygiene(data, opset=case.opset, input_names=input_names, output_names=output_names)
    model = onnx.load_from_string(data)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", case.opset)]
    assert model.ir_version == IR_OF_OPSET[case.opset]
    shape = model.graph.input[0].type.tensor_type
    height, width = map(int, (case.input_size or "32x32").split("x"))
    dims = [size.dim_param or size.dim_value for size in shape.shape.dim]
    if case.input == "image":
        assert dims == ["batch", height, width, case.channels]
        assert shape.elem_type == {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16}[case.dtype]
    else:
        assert dims == ["batch", 3, 32, 32]
    for output in model.graph.output:
        assert [size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim] == ["batch", len(CLASSES[case.task])]
    assert precision_share(data) == {"fp32": 1.0, "fp16": 0.0, "int8": 0.0}


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_the_metadata_alone_tells_how_to_use_the_file(exported: Exported, case: Case) -> None:
    model = onnx.load(exported(case) / "model.onnx")
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["rd.task"] == case.task
    assert tuple(json.loads(found["rd.classes"])) == CLASSES[case.task]
    assert ImageSpec.from_dict(json.loads(found["rd.image"])) == image_spec(case)
    assert json.loads(found["rd.calibration"])["temperatures"]
    assert {"rd.student", "rd.teacher", "rd.licences", "rd.format", "rd.input", "rd.graph_size", "names"} <= set(found)
    assert list(found) == sorted(found)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_path_or_trace_of_this_machine_is_in_the_file(exported: Exported, case: Case) -> None:
    data = (exported(case) / "model.onnx").read_bytes()
    for trace in (os.getcwd(), sys.prefix, "/tmp/", "site-packages", "stack_trace", "forward", ".py", "pkg.torch", os.uname().nodename):
        assert trace.encode() not in data, trace
    model = onnx.load_from_string(data)
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert all(node.name for node in model.graph.node)


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    write_student(tmp_path / "student", Case("ordinal", 1))
    code = ("import sys, hashlib\nimport numpy as np\nfrom pathlib import Path\nfrom distill.networks.checkpoint import load_checkpoint\n"
            "from export.facts import read_student\nfrom export.precision.fp16 import in_half\n"
            "from export.precision.int8 import quantised, ranges\n"
            "from export.graph.fp32 import fp32_graph\nfrom export.options import Build\n"
            "folder = Path(sys.argv[1])\n"
            "data = fp32_graph(read_student(folder, load_checkpoint(folder)), Build(size=(40, 48)))\n"
            "image = np.random.default_rng(0).integers(0, 255, (1, 40, 48, 1)).astype(np.uint8)\n"
            "int8 = quantised(data, ranges(data, [{'image': image}], 'minmax'))\n"
            "print(*(hashlib.sha256(one).hexdigest() for one in (data, in_half(data), int8)))")
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "student")], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}) for seed in ("1", "2")]
    hashes = [run.communicate()[0].splitlines()[-1].split() for run in runs]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 3, "fp32, fp16 and int8"


def test_an_unknown_opset_is_refused() -> None:
    with pytest.raises(UserError, match="opset 17"):
        to_onnx(TensorGraph(tiny_model(Case())), (torch.zeros(2, 3, 32, 32),), input_names=["x"], output_names=["y"], opset=17, metadata={})


def test_a_network_that_cannot_be_exported_is_one_user_error() -> None:
    class Odd(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels if pixels.sum() > 0 else -pixels

    with pytest.raises(UserError, match="cannot export Odd"):
        to_onnx(Odd(), (torch.zeros(2, 3),), input_names=["x"], output_names=["y"], opset=18, metadata={})


def change(edit: str, model: onnx.ModelProto) -> None:
    graph = model.graph
    if edit == "fixed batch":
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    elif edit == "open height":
        graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    elif edit == "foreign operator":
        graph.node[3].domain = "com.microsoft"
    elif edit == "second domain":
        model.opset_import.add(domain="com.microsoft", version=1)
    elif edit == "other opset":
        model.opset_import[0].version = 17
    elif edit == "newer IR":
        model.ir_version = 11
    elif edit == "training mode":
        graph.node.append(helper.make_node("BatchNormalization", ["a", "b", "c", "d", "e"], ["f"], training_mode=1))
    elif edit == "antialiased resize":
        graph.node.append(helper.make_node("Resize", ["a"], ["f"], antialias=1))
    elif edit == "renamed output":
        graph.output[0].name = "4245"
    elif edit == "external data":
        graph.initializer[0].data_location = TensorProto.EXTERNAL
    elif edit == "function":
        model.functions.add(name="f", domain="d")


@pytest.mark.parametrize("edit", ["fixed batch", "open height", "foreign operator", "second domain", "other opset", "newer IR",
                                  "training mode", "antialiased resize", "renamed output", "external data", "function"])
def test_a_graph_that_is_not_fit_to_ship_is_refused(exported: Exported, edit: str) -> None:
    model = onnx.load(exported(Case()) / "model.onnx")
    change(edit, model)
    with pytest.raises(UserError, match="not fit to ship"):
        check_hygiene(model.SerializeToString(), opset=18, input_names=["image"], output_names=["logits", "probabilities"])


def test_the_precision_share_counts_weights_by_the_type_they_are_computed_in() -> None:
    import numpy as np

    def tensor(name: str, dtype: str, count: int) -> TensorProto:
        return numpy_helper.from_array(np.zeros((count, 1), dtype), name)

    nodes = [helper.make_node("MatMul", ["x", "full"], ["a"]), helper.make_node("MatMul", ["x", "half"], ["b"]),
             helper.make_node("DequantizeLinear", ["eight", "s"], ["e"]), helper.make_node("Gemm", ["x", "e"], ["c"]),
             helper.make_node("Add", ["x", "ignored"], ["d"])]
    tensors = [tensor("full", "float32", 10), tensor("half", "float16", 20), tensor("eight", "int8", 10), tensor("s", "float32", 1),
               tensor("ignored", "float32", 99)]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    assert precision_share(helper.make_model(graph).SerializeToString()) == {"fp32": 0.25, "fp16": 0.5, "int8": 0.25}


def test_exporting_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    case = Case()
    graph = DeployedGraph(reparameterised(tiny_model(case)), image_spec(case), Calibration(), (32, 32))
    data = to_onnx(graph, example_input(image_spec(case), "image", (32, 32)), input_names=["image"],
                   output_names=["logits", "probabilities"], opset=18, metadata={"b": "2", "a": "1"})
    assert [(entry.key, entry.value) for entry in onnx.load_from_string(data).metadata_props] == [("a", "1"), ("b", "2")]
    assert capfd.readouterr().out == ""
