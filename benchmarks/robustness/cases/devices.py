"""Inputs that tempt to a wrong answer, what a device or a table must not believe: artifacts, graphs, banks, latency tables, YAML.

Owns: DEVICE_CASES: files that are none, graphs that never end or ask for terabytes, each beside an ordinary neighbour that must pass.
Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.cases.case import Case, Make
from benchmarks.robustness.cases.folders import agreed, copied

VERIFY = "rd-verify artifact"
BENCH = "rd-bench artifact --batch 1 --threads 1 --paths array --seconds 0.1 --samples 20 --no-roofline --no-profile"


def odd(name: str, put: Callable[[Path], object]) -> Make:
    """An artifact with something else where one of its files was."""
    def change(folder: Path) -> None:
        (folder / name).unlink()
        put(folder / name)

    return copied("artifact", change)


def sparse(path: Path) -> None:
    """Six gigabytes of nothing."""
    path.touch()
    os.truncate(path, 6 << 30)


def listening(path: Path) -> None:
    """A socket."""
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def named(name: str, digest: Any) -> Make:
    """An artifact whose manifest names a further file."""
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = digest
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return copied("artifact", change)


def graph(nodes: Callable[[Any], list[Any]], domain: str = "", **constants: Any) -> Make:
    """An artifact of another graph, made of few nodes, with a manifest that agrees."""
    def change(folder: Path) -> None:
        import onnx
        from onnx import helper, numpy_helper

        whole = onnx.load(folder / "model.onnx")
        made = helper.make_graph(nodes(helper), "g", whole.graph.input, whole.graph.output,
                                 [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
        model = helper.make_model(made, opset_imports=[helper.make_opsetid(one, 18) for one in {"", domain}], ir_version=8)
        model.metadata_props.extend(whole.metadata_props)
        agreed(folder, "model.onnx", model.SerializeToString())

    return copied("artifact", change)


def loop(helper: Any) -> list[Any]:
    """A loop that never ends."""
    from onnx import TensorProto

    def told(name: str, kind: int, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])], "b",
        [told("i", TensorProto.INT64), told("go", TensorProto.BOOL), told("v", TensorProto.FLOAT, 1)],
        [told("on", TensorProto.BOOL), told("w", TensorProto.FLOAT, 1)])
    return [helper.make_node("Loop", ["", "true", "one"], ["logits"], body=body)]


def node(kind: str, *inputs: str, **attributes: Any) -> Callable[[Any], list[Any]]:
    """One operator that makes the logits."""
    return lambda helper: [helper.make_node(kind, list(inputs), ["logits"], **attributes)]


def doubling(helper: Any) -> list[Any]:
    """A tensor joined to itself, sixty times."""
    names = ["one", *(f"x{place}" for place in range(59)), "logits"]
    return [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)]


def ordinary(helper: Any) -> list[Any]:
    """The bomb's ordinary neighbour: a row of logits for every image, by Expand; other scores than the golden ones."""
    return [helper.make_node("Shape", ["image"], ["s"], end=1), helper.make_node("Concat", ["s", "six"], ["t"], axis=0),
            helper.make_node("Expand", ["one", "t"], ["logits"]), helper.make_node("Sigmoid", ["logits"], ["probabilities"])]


def ir(old: str, new: str) -> Make:
    """The artifact's graph as an IR whose XML is then changed; the manifest agrees."""
    def change(folder: Path) -> None:
        import onnx

        from export.targets.to_openvino import to_ir
        from runtimes.files.folder import read_json, write_manifest

        told = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
        to_ir((folder / "model.onnx").read_bytes(), folder / "openvino_model.xml", told)
        (folder / "model.onnx").unlink()
        text = (folder / "openvino_model.xml").read_text()
        assert old in text, old
        (folder / "openvino_model.xml").write_text(text.replace(old, new, 1))
        held = {key: value for key, value in read_json(folder / "manifest.json").items() if key not in ("kind", "format", "files")}
        held["artifact"] |= {"target": "openvino", "model": "openvino_model.xml"}
        judged, timed = (read_json(folder / name) for name in ("parity.json", "latency.json"))
        (folder / "parity.json").write_text(json.dumps(judged | {"target": "openvino"}))
        (folder / "latency.json").write_text(json.dumps(timed | {"facts": timed["facts"] | {"target": "openvino"}}))
        write_manifest(folder, "artifact", held)

    return copied("artifact", change)


def student_pipe(folder: Path) -> None:
    """A pipe where a student keeps its settings."""
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


ONE, LONG, COLUMN, ROW = np.ones(1, np.float32), np.asarray([1 << 40]), np.ones((60_000, 1), np.float32), np.ones((1, 60_000), np.float32)

DEVICE_CASES: tuple[Case, ...] = (
    # files that are none
    Case("device: a pipe as the model", VERIFY, 1, "a pipe", odd("model.onnx", os.mkfifo)),
    Case("device: a pipe as a page that nobody opens", VERIFY, 1, "a pipe", odd("README.md", os.mkfifo)),
    Case("device: a pipe as the manifest", VERIFY, 1, "manifest.json", odd("manifest.json", os.mkfifo)),
    Case("device: a socket as a golden vector", VERIFY, 1, "a socket", odd("test_data_set_0/input_0.pb", listening)),
    Case("device: a link to an endless device as the model", VERIFY, 1, "a link",
         odd("model.onnx", lambda path: path.symlink_to("/dev/zero"))),
    Case("device: a link to an endless device as the manifest", VERIFY, 1, "manifest.json",
         odd("manifest.json", lambda path: path.symlink_to("/dev/zero"))),
    Case("device: a link to itself as the model", VERIFY, 1, "a link", odd("model.onnx", lambda path: path.symlink_to("model.onnx"))),
    Case("device: a link to itself as the manifest", VERIFY, 1, "manifest.json",
         odd("manifest.json", lambda path: path.symlink_to("manifest.json"))),
    Case("device: a folder as the model", VERIFY, 1, "a folder", odd("model.onnx", Path.mkdir)),
    Case("device: six sparse gigabytes as the manifest", VERIFY, 1, "6,442,450,944 bytes", odd("manifest.json", sparse)),
    Case("device: six sparse gigabytes as the model", VERIFY, 1, "6,442,450,944 bytes", odd("model.onnx", sparse)),
    Case("device: six sparse gigabytes as a golden vector", VERIFY, 1, "6,442,450,944 bytes", odd("test_data_set_0/output_0.pb", sparse)),
    Case("device: a manifest nested 200,000 deep", VERIFY, 1, "not readable JSON",
         copied("artifact", lambda folder: (folder / "manifest.json").write_text('{"a":' * 200_000 + "1" + "}" * 200_000))),
    Case("device: a manifest that names files above itself", VERIFY, 1, "outside", named("../artifact/model.onnx", "0")),
    Case("device: a manifest that names a file of 4,000 letters", VERIFY, 1, "x" * 100, named("x" * 4000, "0")),
    Case("device: a manifest that names a file with a NUL", VERIFY, 1, "no name of a file", named("a\0b", "0")),
    Case("device: a manifest that names a lone surrogate", VERIFY, 1, "half a character", named("\ud800", "0")),
    Case("device: a manifest whose hashes are numbers", VERIFY, 1, "expected a text", named("model.onnx", 5)),
    Case("device: bench of a pipe", BENCH, 1, "a pipe", odd("model.onnx", os.mkfifo)),
    Case("device: a student whose settings are a pipe", "rd-export --student-dir student", 1, "a pipe", copied("student", student_pipe)),
    # graphs
    Case("device: a loop that never ends", VERIFY, 1, "graph within the graph", graph(loop, true=np.asarray(True), one=ONE)),
    Case("device: bench of a loop that never ends", BENCH, 1, "graph within the graph", graph(loop, true=np.asarray(True), one=ONE)),
    Case("device: an operator of somebody's own", VERIFY, 1, "evil", graph(
        lambda helper: [helper.make_node("Evil", ["image"], ["logits"], domain="evil")], domain="evil")),
    Case("device: an operator of ONNX Runtime's own", VERIFY, 1, "com.microsoft", graph(
        lambda helper: [helper.make_node("Gelu", ["image"], ["logits"], domain="com.microsoft")], domain="com.microsoft")),
    Case("device: an operator that rd-export never writes", VERIFY, 1, "NonZero", graph(node("NonZero", "image"))),
    Case("device: terabytes by ConstantOfShape", VERIFY, 1, "memory", graph(node("ConstantOfShape", "long"), long=LONG)),
    Case("device: terabytes by Expand", VERIFY, 1, "memory", graph(node("Expand", "one", "long"), one=ONE, long=LONG)),
    Case("device: terabytes by Tile", VERIFY, 1, "memory", graph(node("Tile", "one", "long"), one=ONE, long=LONG)),
    Case("device: terabytes by Pad", VERIFY, 1, "memory", graph(node("Pad", "one", "pads"), one=ONE, pads=np.asarray([0, 1 << 40]))),
    Case("device: terabytes by a product", VERIFY, 1, "memory", graph(node("MatMul", "column", "row"), column=COLUMN, row=ROW)),
    Case("device: terabytes by a sum", VERIFY, 1, "memory", graph(node("Add", "column", "row"), column=COLUMN, row=ROW)),
    Case("device: terabytes by doubling", VERIFY, 1, "memory", graph(doubling, one=ONE)),
    Case("device: whole numbers divided by the image", VERIFY, 1, "may be zero", graph(node("Div", "image", "image"))),
    Case("device: an ordinary Expand is opened, and judged by its scores", VERIFY, 3, "golden",
         graph(ordinary, one=np.ones((1, 1), np.float32), six=np.asarray([6]))),
    # OpenVINO's IR
    Case("device: the artifact as an IR", VERIFY, 0, "good", ir("<net", "<net")),
    Case("device: an IR with an entity", VERIFY, 1, "document type", ir("<net", '<!DOCTYPE n [<!ENTITY a "b">]><net')),
    Case("device: an IR with a loop", VERIFY, 1, "TensorIterator", ir('type="Convolution"', 'type="TensorIterator"')),
    Case("device: an IR with an extension", VERIFY, 1, "extension", ir('version="opset1"', 'version="extension"')),
    Case("device: an IR that reads beyond its weights", VERIFY, 1, "reads bytes", ir('offset="0"', 'offset="99999999999"')),
    Case("device: an unchanged artifact", VERIFY, 0, "good", copied("artifact")),
)
