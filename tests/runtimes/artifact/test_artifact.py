"""Artifacts are read strictly: changed files, external data in every disguise, damaged protobuf, incomplete manifests."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtimes.artifact.artifact import read_artifact
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.models.operators import check_onnx
from runtimes.models.tensor_proto import external_tensors, parse_tensor
from runtimes.session import open_session

Exported = Callable[[Case], Path]


@pytest.fixture
def artifact(exported: Exported, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))


def sealed(folder: Path) -> None:
    """Write the manifest again, as an attacker who can write files would."""
    manifest = read_json(folder / "manifest.json")
    write_manifest(folder, "artifact", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})


def externalised(model: onnx.ModelProto, location: str, *, subgraph: bool = False) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    if subgraph:  # hidden in a Constant inside the branch of an If
        hidden = helper.make_node("Constant", [], ["c"], value=tensor)
        branch = helper.make_graph([hidden], "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)])
        model.graph.node.append(helper.make_node("If", ["cond"], ["unused"], then_branch=branch, else_branch=branch))
        tensor = model.graph.node[-1].attribute[0].g.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=location)
    return model


def test_an_artifact_says_what_it_is(exported: Exported) -> None:
    artifact = read_artifact(exported(Case("multilabel", 3, input_size="40x56")))
    assert (artifact.task, artifact.classes, artifact.target, artifact.precision) == ("multilabel", ("x", "y", "z"), "onnx", "fp32")
    assert artifact.graph_size == (40, 56)
    assert artifact.baked
    assert artifact.temperatures == (0.8, 1.0, 1.7)
    assert artifact.thresholds == (0.3, 0.5, 0.6)
    assert artifact.image_spec.channels == 3
    assert (artifact.golden / "input_0.pb").is_file()
    assert not read_artifact(exported(Case())).baked


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "parity.json", "test_data_set_0/output_0.pb"])
def test_a_changed_or_missing_file_is_refused(artifact: Path, name: str) -> None:
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / name).write_bytes(data)
    with pytest.raises(UserError, match="other bytes"):
        read_artifact(artifact)
    (artifact / name).unlink()
    with pytest.raises(UserError, match="missing"):
        read_artifact(artifact)


def test_an_added_file_is_refused(artifact: Path) -> None:
    (artifact / "model.onnx.data").touch()
    with pytest.raises(UserError, match="not named"):
        open_session(artifact)


@pytest.mark.parametrize("disguise", ["inside", "dotdot", "nested", "absolute", "symlink", "symlinked parent", "hard link"])
@pytest.mark.parametrize("check", [True, False])
def test_external_data_in_any_disguise_is_refused(artifact: Path, tmp_path: Path, disguise: str, check: bool) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(os.urandom(4096))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(weights, tmp_path / "elsewhere")
    location = {"dotdot": "../weights.bin", "nested": "a/../../weights.bin", "absolute": str(weights),
                "symlinked parent": "parent/weights.bin"}.get(disguise, "model.onnx.data")
    target = artifact / "model.onnx.data"
    if disguise == "inside":
        shutil.copy(weights, target)
    elif disguise == "symlink":
        target.symlink_to(weights)
    elif disguise == "hard link":
        os.link(weights, target)
    elif disguise == "symlinked parent":
        (artifact / "parent").symlink_to(tmp_path / "elsewhere")
    model = externalised(onnx.load(artifact / "model.onnx"), location)
    (artifact / "model.onnx").write_bytes(model.SerializeToString())
    sealed(artifact)
    with pytest.raises(UserError):
        open_session(artifact, check=check)
    with pytest.raises(UserError, match="values in another file"):
        check_onnx((artifact / "model.onnx").read_bytes())


def test_external_data_is_found_in_subgraphs_functions_and_attributes(exported: Exported) -> None:
    path = exported(Case()) / "model.onnx"
    assert external_tensors(memoryview(path.read_bytes())) == []
    hidden = externalised(onnx.load(path), "x", subgraph=True)
    assert external_tensors(memoryview(hidden.SerializeToString()))
    plain = onnx.load(path)
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    function = plain.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    assert external_tensors(memoryview(plain.SerializeToString())) == ["w"]
    plain = onnx.load(path)
    plain.graph.sparse_initializer.add().values.CopyFrom(tensor)
    assert external_tensors(memoryview(plain.SerializeToString())) == ["w"]
    plain = onnx.load(path)
    plain.training_info.add().initialization.initializer.append(tensor)
    assert external_tensors(memoryview(plain.SerializeToString())) == ["w"]


def test_a_second_graph_field_cannot_hide_external_data(exported: Exported) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    extra = onnx.ModelProto()  # parsers merge repeated singular fields, so a scan of the first alone would miss this one
    extra.graph.initializer.append(TensorProto(name="late", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL))
    assert external_tensors(memoryview(data + extra.SerializeToString())) == ["late"]


@pytest.mark.parametrize("target", ["onnx", "openvino", "trt"])
def test_a_model_under_another_name_does_not_get_past_the_hunt_for_external_data(artifact: Path, target: str) -> None:
    (artifact / "model.onnx").rename(artifact / "model.dat")
    manifest = read_json(artifact / "manifest.json")
    manifest["artifact"] |= {"model": "model.dat", "target": target}
    write_json(artifact / "manifest.json", manifest)
    sealed(artifact)
    with pytest.raises(UserError, match=r"model 'model\.dat' is no \.(onnx|xml|engine) file"):
        open_session(artifact)


def test_a_link_to_a_model_is_refused(artifact: Path) -> None:
    (artifact / "model.onnx").rename(artifact.parent / "model.onnx")
    (artifact / "model.onnx").symlink_to(artifact.parent / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx is a link"):
        open_session(artifact)


@pytest.mark.parametrize("change", [{"task": "detection"}, {"classes": None}, {"graph_size": [3]}, {"temperatures": []}, {"image": {}},
                                    {"target": "tflite"}, {"temperatures": [0.0]}, {"thresholds": [0.5]}, {"model": "other.onnx"},
                                    {"tolerance": "high"}])
def test_an_incomplete_manifest_is_refused(artifact: Path, change: dict[str, object]) -> None:
    manifest = read_json(artifact / "manifest.json")
    manifest["artifact"].update(change)
    write_json(artifact / "manifest.json", manifest)
    with pytest.raises(UserError):
        read_artifact(artifact)
    del manifest["artifact"]
    write_json(artifact / "manifest.json", manifest)
    with pytest.raises(UserError, match="not complete"):
        read_artifact(artifact)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (2, 3, 4)])
def test_tensors_are_read_as_onnx_reads_them(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    found = parse_tensor(memoryview(numpy_helper.from_array(array, "x").SerializeToString()))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(found, array)


def test_packed_and_unpacked_dims_mean_the_same() -> None:
    raw = np.arange(6, dtype=np.float32).tobytes()
    head = b"\x10\x01\x4a" + bytes([len(raw)]) + raw  # data_type 1, raw_data
    packed, unpacked = parse_tensor(memoryview(b"\x0a\x02\x02\x03" + head)), parse_tensor(memoryview(b"\x08\x02\x08\x03" + head))
    assert packed.shape == unpacked.shape == (2, 3)


@pytest.mark.parametrize("tensor", [
    TensorProto(data_type=1, dims=[2], float_data=[1.0, 2.0]), TensorProto(data_type=1, dims=[3], raw_data=b"1234"),
    TensorProto(data_type=8, dims=[1], string_data=[b"x"]), TensorProto(data_type=99, dims=[1], raw_data=b"1234"),
    TensorProto(data_type=1, dims=[1] * 9, raw_data=b"1234"), TensorProto(data_type=1, dims=[-1], raw_data=b""),
    TensorProto(data_type=1, dims=[1]), TensorProto(data_type=9, dims=[1], raw_data=b"\x02"),
    TensorProto(data_type=1, dims=[1], data_location=1), TensorProto(data_type=2, dims=[1 << 39, 0], raw_data=b"")])
def test_tensors_of_other_forms_are_refused(tensor: TensorProto) -> None:
    with pytest.raises(UserError):
        parse_tensor(memoryview(tensor.SerializeToString()))


GOOD = numpy_helper.from_array(np.arange(24, dtype=np.float32).reshape(2, 3, 4), "golden").SerializeToString()


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.builds(
    lambda cut, at, byte: (GOOD[:at] + bytes([byte]) + GOOD[at + 1:])[:cut], st.integers(0, len(GOOD)), st.integers(0, len(GOOD) - 1),
    st.integers(0, 255))))
def test_damaged_tensors_are_arrays_or_user_errors(data: bytes) -> None:
    for read in (parse_tensor, external_tensors):
        with suppress(UserError):
            read(memoryview(data))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_models_are_scanned_or_refused(exported: Exported, data: st.DataObject) -> None:
    model = bytearray((exported(Case()) / "model.onnx").read_bytes())
    del model[20_000:]
    for _ in range(data.draw(st.integers(1, 5))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UserError):
        external_tensors(memoryview(model))


def test_graphs_nested_without_end_are_refused() -> None:
    data = b""
    for _ in range(200):  # graph > node > attribute > graph ...
        for number in (6, 5, 1):
            data = bytes([number << 3 | 2]) + _varint(len(data)) + data
    with pytest.raises(UserError, match="nested"):
        external_tensors(memoryview(bytes([7 << 3 | 2]) + _varint(len(data)) + data))


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return out + struct.pack("B", value)
