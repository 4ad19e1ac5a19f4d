"""TensorRT engines: built for real ahead of time, which needs no GPU; on a device behind fakes of TensorRT 10 and 11; layers read back."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Case
from onnx import TensorProto, helper, numpy_helper

from export.graph.hygiene import precision_share
from export.targets import to_tensorrt
from export.targets.engine_layers import Layer, engine_share, layers_by_precision, layers_from_json, layers_from_log, weights_of_nodes
from export.targets.to_tensorrt import (
    RTX_EDGE,
    Engine,
    build_engine,
    build_on_device,
    builder_settings,
    check_inputs,
    parse_gpus,
    precision_facts,
    refusal,
    with_float_inputs,
)
from runtimes.backends.trt import check_engine
from runtimes.backends.trt_library import RTX_GPUS
from runtimes.errors import FAILED, MISSING, USAGE, UserError
from runtimes.files.folder import sha256_file

real = pytest.mark.skipif(find_spec("tensorrt_rtx") is None,
                          reason="tensorrt_rtx is not installed (extra tensorrt), so no engine can be built")

# The inspector's documented layouts: TensorRT 10 joins format and type and counts weights, 11 and RTX part them and list constants.
JSON_10 = {"Layers": [
    {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": [{"Name": "image", "Dimensions": [-1, 4, 4, 1],
     "Format/Datatype": "Row major linear UINT8 format"}], "Outputs": [], "Metadata": "[ONNX Layer: Cast_0]"},
    {"Name": "Conv_0 + Relu_0", "LayerType": "CaskConvolution", "Inputs": [{"Name": "x", "Dimensions": [-1, 8, 4, 4],
     "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}], "Outputs": [],
     "Weights": {"Type": "Int8", "Count": 600}, "Metadata": "[ONNX Layer: Conv_0]\x1e[ONNX Layer: Relu_0]"},
    {"Name": "Gemm_0", "LayerType": "MatrixMultiply", "Inputs": [{"Name": "y", "Dimensions": [-1, 8],
     "Format/Datatype": "N/A due to dynamic shapes"}], "Outputs": [], "Weights": {"Type": "Half", "Count": 200},
     "Metadata": "[ONNX Layer: Gemm_0]"}], "Bindings": ["image", "logits"]}
JSON_11 = {"Layers": [
    {"Name": "__myl_Cast", "LayerType": "kgen", "Inputs": [{"Name": "image", "Dimensions": [-1, 4, 4, 1], "Datatype": "UInt8",
     "Format": "(Linear) Row major linear format"}], "Constants": [{"Dimensions": [1, 3, 1, 1], "Datatype": "Float"}], "Outputs": [],
     "Metadata": "[ONNX Layer: Cast_0]\x1f[ONNX Layer: Conv_0]"},
    {"Name": "Conv_0_myl0_2", "LayerType": "correlation", "Inputs": [{"Name": "x", "Dimensions": [-1, 8, 4, 4], "Datatype": "Int8",
     "Format": "(NHWC) Channel major format"}], "Constants": [{"Dimensions": [8, 8, 3, 3], "Datatype": "Int8"},
     {"Dimensions": [1, 8, 1, 1], "Datatype": "Float"}], "Outputs": [], "Metadata": "[ONNX Layer: Conv_0]"},
    {"Name": "Gemm_0", "LayerType": "gemm", "Inputs": [{"Name": "y", "Datatype": "Half"}], "Constants": [{"Dimensions": [8, 25]}],
     "Outputs": [], "Metadata": "[ONNX Layer: Gemm_0]"}], "I/O Tensors": []}
LOG = ("Layers:\nName: __mye1, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: \n"
       "Name: Conv_0_myl0_2, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,8,4,4], Strides: [128,1,32,8], Datatype: Int8, "
       "Format: (NHWC) Channel major format }], Constants: [ { Name: c, Dimensions: [8,8,3,3], Strides: [72,1,24,8], Datatype: Int8, "
       "Format: (NHWC) Channel major format }, { Name: s, Dimensions: [1], Datatype: Float }], Outputs: [ { Name: y, Datatype: Float }], "
       "TacticName: __myelin, StreamId: 0, Metadata: [ONNX Layer: Conv_0]\x1f[ONNX Layer: Relu_0]\n"
       "Name: Gemm_0, LayerType: gemm, Inputs: [ { Name: y, Datatype: Half }], Constants: [ { Name: w, Dimensions: [8,25], "
       "Datatype: Half }], Outputs: [ { Name: z, Datatype: Half }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: Gemm_0]\n\n"
       "I/O Tensors:")
WEIGHTS = {"Conv_0": 600, "Gemm_0": 200}


@pytest.fixture(scope="module")
def graph(exported: Callable[[Case], Path]) -> bytes:
    """The tiny student as it ships, fp32."""
    return (exported(Case()) / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def engine(graph: bytes) -> Engine:
    """An engine of the tiny student for two GPUs."""
    return build_engine(graph, gpus=["8.9", "SM86"], max_batch=4)


def halved(graph: bytes) -> bytes:
    """The graph with fp16 weights and fp32 inputs and outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True).SerializeToString()


def quantised(graph: bytes, folder: Path, pairs: bool) -> bytes:
    """The graph with symmetric int8 Q/DQ; with pairs, weights stay fp32 before their own pair, else they are int8 initialisers."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.batches = iter([{"image": random.integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    (folder / "fp32.onnx").write_bytes(graph)
    quantize_static(folder / "fp32.onnx", folder / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                    extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                                   "AddQDQPairToWeight": pairs, "DedicatedQDQPair": True})
    return (folder / "int8.onnx").read_bytes()


def one_node(operator: str, kind: int = TensorProto.FLOAT, **attributes: Any) -> bytes:
    """A graph of one node over (batch, 4)."""
    x, y = helper.make_tensor_value_info("x", kind, ["b", 4]), helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4])
    node = helper.make_node(operator, ["x"], ["y"], name=f"{operator}_0", **attributes)
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


@real
def test_an_engine_is_built_for_gpus_that_this_machine_does_not_have(engine: Engine, exported: Callable[[Case], Path]) -> None:
    facts = engine.facts
    assert len(engine.data) > 100_000
    assert (facts["library"], facts["gpus"], facts["batches"]) == ("tensorrt_rtx", ["sm86", "sm89"], [1, 1, 4])
    assert facts["onnx_sha256"] == sha256_file(exported(Case()) / "model.onnx")
    assert facts["warnings"] == []
    assert engine.seconds > 0
    assert "seconds" not in json.dumps(facts)
    check_engine(facts, "tensorrt_rtx", facts["version"], "sm89")


@real
def test_the_engine_itself_says_in_which_precision_it_computes(engine: Engine, graph: bytes, tmp_path: Path) -> None:
    assert engine.facts["precision_source"] == "builder's log"
    assert engine.facts["precision_share"] == {"fp32": 1.0, "fp16": 0.0, "int8": 0.0}
    assert engine.facts["layers"]["fp32"] >= 13
    half = build_engine(halved(graph), gpus=["sm86"]).facts
    assert half["precision_share"] == {"fp32": 0.0, "fp16": 1.0, "int8": 0.0}


@real
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pairs", [True, False])
def test_int8_weights_build_before_their_pair_and_as_initialisers(graph: bytes, tmp_path: Path, pairs: bool) -> None:
    data = quantised(graph, tmp_path, pairs)
    facts = build_engine(data, gpus=["sm86"]).facts
    assert facts["precision_share"] == precision_share(data) == {"fp32": 0.0, "fp16": 0.0, "int8": 1.0}
    assert facts["layers"]["int8"] >= 13


@real
@pytest.mark.parametrize("kind", [TensorProto.UINT16, TensorProto.INT16])
def test_inputs_of_16_bits_become_float32_in_the_engine_alone(kind: int) -> None:
    data = one_node("Cast", kind, to=TensorProto.FLOAT)
    widened = onnx.load_from_string(with_float_inputs(data))
    assert [entry.type.tensor_type.elem_type for entry in widened.graph.input] == [TensorProto.FLOAT]
    assert build_engine(data, gpus=["sm86"]).facts["onnx_sha256"] == hashlib.sha256(data).hexdigest()
    whole = one_node("Cast", TensorProto.UINT8, to=TensorProto.FLOAT)
    assert with_float_inputs(whole) is whole


@real
def test_building_prints_nothing(graph: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    build_engine(graph, gpus=["sm86"])
    for refused in (b"", b"nonsense", one_node("Det"), one_node("Cast", TensorProto.UINT32, to=TensorProto.FLOAT)):
        with pytest.raises(UserError):
            build_engine(refused, gpus=["sm86"])
    assert capfd.readouterr() == ("", "")


@real
@pytest.mark.parametrize("operator", ["Det", "Bernoulli"])
def test_an_operator_that_tensorrt_does_not_take_is_named(operator: str) -> None:
    with pytest.raises(UserError, match=f"does not take this graph: {operator} {operator}_0: its converter refuses it") as caught:
        build_engine(one_node(operator), gpus=["sm86"])
    assert caught.value.exit_code == FAILED


@real
@pytest.mark.filterwarnings("ignore")
def test_an_asymmetric_zero_point_is_refused_with_its_node(graph: bytes, tmp_path: Path) -> None:
    model = onnx.load_from_string(quantised(graph, tmp_path, pairs=False))
    point = next(one for one in model.graph.initializer if one.name.endswith("zero_point") and one.data_type == TensorProto.INT8)
    point.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(point), 3), point.name))
    with pytest.raises(UserError, match=r"QuantizeLinear \S+_QuantizeLinear: .*Non-zero zero point"):
        build_engine(model.SerializeToString(), gpus=["sm86"])


@real
def test_turing_builds_fp16_and_says_so_of_fp32(graph: bytes) -> None:
    with pytest.raises(UserError, match=r"for sm75: .*FP32 GEMM is not supported.*--precision fp16, or leave sm75 out"):
        build_engine(graph, gpus=["sm75"])
    assert build_engine(halved(graph), gpus=["sm75"]).facts["gpus"] == ["sm75"]


@pytest.mark.parametrize(("names", "expected"), [
    (["sm86"], ("sm86",)), (["SM86", "8.6", "sm_86"], ("sm86",)), (["12.0", " sm75 ", "8.9"], ("sm75", "sm89", "sm120")),
    (RTX_EDGE, RTX_EDGE),
])
def test_gpus_are_read_in_the_ways_people_write_them(names: list[str], expected: tuple[str, ...]) -> None:
    assert parse_gpus(names) == expected


@pytest.mark.parametrize(("name", "told"), [
    ("sm87", "RTX engines are not for Jetson; run rd-export --target trt --on-device there"), ("8.7", "not for Jetson"),
    ("sm110", "not for Jetson"), ("sm90", "expected sm75, sm80, sm86, sm89, sm120, sm121; for any other GPU"),
    ("4090", "--gpu 4090 is not"),
    ("", "--gpu  is not"), ("rtx", "--gpu rtx is not"), ("8.61", "--gpu 8.61 is not"),
])
def test_a_gpu_that_rtx_does_not_build_for_is_refused_with_those_it_does(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        parse_gpus([name])
    assert caught.value.exit_code == USAGE


def test_no_gpu_at_all_is_refused() -> None:
    with pytest.raises(UserError, match=", ".join(RTX_GPUS)):
        parse_gpus([])


@pytest.mark.parametrize("batches", [(0, 1, 8), (2, 1, 8), (1, 9, 8)])
def test_batches_out_of_order_are_refused(batches: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="expected 1 <= smallest <= usual <= largest") as caught:
        build_engine(b"", min_batch=batches[0], opt_batch=batches[1], max_batch=batches[2])
    assert caught.value.exit_code == USAGE


def test_settings_follow_library_and_major_version() -> None:
    rtx, ten, eleven = (builder_settings(*one) for one in (("tensorrt_rtx", "1.7.1.116"), ("tensorrt", "10.3.0"), ("tensorrt", "11.4.1")))
    assert (rtx.network_flags, ten.network_flags, eleven.network_flags) == (("STRONGLY_TYPED",), ("STRONGLY_TYPED",), ())
    assert {one.cleared_flags for one in (rtx, ten, eleven)} == {("TF32",)}
    assert [one.names_gpus for one in (rtx, ten, eleven)] == [True, False, False]
    assert [one.times_kernels for one in (rtx, ten, eleven)] == [False, True, True]


@pytest.mark.parametrize(("library", "version"), [("tensorrt", "8.6.1"), ("tensorrt", "12.0"), ("tensorrt_rtx", "2.0")])
def test_another_major_version_is_refused(library: str, version: str) -> None:
    with pytest.raises(UserError, match=f"{library} {version} is not supported") as caught:
        builder_settings(library, version)
    assert caught.value.exit_code == MISSING


@pytest.mark.parametrize(("data", "told"), [
    (b"", "no inputs"), (b"nonsense", "no ONNX file"),
    (one_node("Cast", TensorProto.UINT32, to=TensorProto.FLOAT), "input x is uint32, which TensorRT does not take"),
])
def test_bytes_and_inputs_that_cannot_become_an_engine_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_inputs(data)


def test_a_parser_with_many_errors_is_told_in_three() -> None:
    def error(node: str, reason: str) -> Any:
        return SimpleNamespace(node_operator=lambda: "Conv" if node else "", node_name=lambda: node, desc=lambda: reason)

    errors = [error("a", "Assertion failed: x: too odd\nmore"), error("b", "false"), error("", "broken"), error("c", "?"), error("d", "?")]
    assert refusal(errors) == "Conv a: x: too odd; Conv b: its converter refuses it; broken; and 2 more"
    assert refusal([]) == ""


@pytest.mark.parametrize("layers", [layers_from_json(json.dumps(JSON_10)), layers_from_json(json.dumps(JSON_11)), layers_from_log(LOG)])
def test_layers_are_read_from_both_layouts_of_the_inspector_and_from_the_log(layers: list[Layer]) -> None:
    assert layers_by_precision(layers) == {"fp32": 0, "fp16": 1, "int8": 1, "other": 1}
    assert engine_share(layers, WEIGHTS) == {"fp32": 0.0, "fp16": 0.25, "int8": 0.75}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"Layers": ["Conv_0", "Gemm_0"]}', "Layer: other", "Layers:\nnothing known"])
def test_a_text_without_layers_is_no_layers(text: str) -> None:
    assert layers_from_json(text) == layers_from_log(text) == []


def test_a_layer_that_reads_one_fp32_tensor_computes_in_fp32_and_bfloat_is_neither() -> None:
    def layer(*types: str) -> Layer:
        return layers_from_json(json.dumps({"Layers": [{"Name": "x", "Inputs": [{"Datatype": one} for one in types]}]}))[0]

    assert [layer(*types).precision for types in (("Int8", "Float"), ("Half", "Int8"), ("BFloat16",), ("UInt8",), ())] == [
        "fp32", "fp16", "other", "other", "other"]


def test_a_share_that_the_engine_does_not_tell_is_none_and_the_graph_stands_in_by_name(graph: bytes) -> None:
    layers = layers_from_log(LOG)
    assert engine_share(layers, {**WEIGHTS, "Conv_9": 1}) is None
    assert engine_share(layers, {}) is None
    facts = precision_facts(graph, "", "")
    assert facts["precision_share"] is None
    assert "graph_share" in facts["precision_source"]
    assert facts["graph_share"] == precision_share(graph)


def test_weights_are_counted_by_the_node_that_uses_them(graph: bytes) -> None:
    weights = weights_of_nodes(graph)
    assert weights["Conv_0"] == 64 * 3 * 7 * 7
    assert weights["Gemm_0"] == 3 * 32
    assert len(weights) == 14


class Recorder:
    """TensorRT 10 or 11 as far as a build calls it, and what was asked."""

    ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self, version: str, plan: bytes | None = b"plan", told: str = "") -> None:
        self.__version__, self.plan, self.told = version, plan, told
        self.asked: list[Any] = []
        self.logger: Any = None

    def note(self, *what: Any) -> bool:
        self.asked.append(what)
        return True

    def Builder(self, logger: Any) -> Any:
        self.logger = logger
        profile = SimpleNamespace(set_shape=lambda name, *shapes: self.note("shape", name, *shapes))
        return SimpleNamespace(create_network=self.network, create_builder_config=self.config, build_serialized_network=self.build,
                               create_optimization_profile=lambda: profile)

    def network(self, flags: int) -> Any:
        self.note("network", flags)
        return SimpleNamespace(num_inputs=1, get_input=lambda index: SimpleNamespace(name="image", shape=(-1, 32, 32, 1)))

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return SimpleNamespace(parse=lambda data: True)

    def config(self) -> Any:
        cache = SimpleNamespace(serialize=lambda: b"timings")
        return SimpleNamespace(clear_flag=lambda flag: self.note("clear", flag), add_optimization_profile=lambda profile: 0,
                               set_memory_pool_limit=lambda pool, size: self.note(pool, size),
                               create_timing_cache=lambda data: self.note("cache", data) and cache,
                               set_timing_cache=lambda one, mismatch: self.note("mismatch", mismatch))

    def build(self, network: Any, config: Any) -> bytes | None:
        self.logger.log(2, "a warning")
        self.logger.log(2 if self.plan else 1, "no room\nat all")
        return self.plan

    def Runtime(self, logger: Any) -> Any:
        inspector = SimpleNamespace(get_engine_information=lambda form: self.told)
        return SimpleNamespace(deserialize_cuda_engine=lambda data: SimpleNamespace(create_engine_inspector=lambda: inspector))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorder], None]:
    """Puts a library on a device with one Orin."""
    def on(library: Recorder) -> None:
        monkeypatch.setattr(to_tensorrt, "load_library", lambda name: library)
        monkeypatch.setattr(to_tensorrt, "Cuda", lambda: SimpleNamespace(capability="sm87", close=lambda: library.note("closed")))

    return on


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 2), ("11.4.1", 0)])
def test_on_a_device_the_engine_is_built_for_its_own_gpu(graph: bytes, device: Any, version: str, flags: int) -> None:
    names = {name: "Half" for name in weights_of_nodes(graph)}
    told = {"Layers": [{"Name": name, "Inputs": [{"Datatype": kind}], "Metadata": f"[ONNX Layer: {name}]"} for name, kind in names.items()]}
    library = Recorder(version, told=json.dumps(told))
    device(library)
    built = build_on_device(graph, max_batch=4, workspace_mb=256)
    assert built.data == b"plan"
    assert (built.facts["library"], built.facts["version"], built.facts["gpus"]) == ("tensorrt", version, ["sm87"])
    assert built.facts["precision_source"] == "engine inspector"
    assert built.facts["precision_share"] == {"fp32": 0.0, "fp16": 1.0, "int8": 0.0}
    assert built.facts["warnings"] == ["a warning", "no room\nat all"]
    assert library.asked == [("network", flags), ("clear", "tf32"), ("workspace", 256 << 20),
                             ("shape", "image", *[(batch, 32, 32, 1) for batch in (1, 1, 4)]), ("closed",)]


def test_a_timing_cache_is_read_and_written_and_never_of_another_gpu(graph: bytes, device: Any, tmp_path: Path) -> None:
    for before in (b"", b"timings"):
        library = Recorder("10.3.0")
        device(library)
        build_on_device(graph, timing_cache=tmp_path / "timings")
        assert ("cache", before) in library.asked
        assert ("mismatch", False) in library.asked
        assert (tmp_path / "timings").read_bytes() == b"timings"


def test_a_build_that_fails_says_why_in_one_line_and_frees_the_device(graph: bytes, device: Any) -> None:
    library = Recorder("10.3.0", plan=None)
    device(library)
    with pytest.raises(UserError, match=r"tensorrt 10.3.0 cannot build this graph for sm87: no room$"):
        build_on_device(graph)
    assert library.asked[-1] == ("closed",)


@pytest.mark.parametrize(("name", "build"), [("tensorrt_rtx", build_engine), ("tensorrt", build_on_device)])
def test_a_library_that_is_missing_ends_with_exit_5_and_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str, build: Any) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} cannot be imported .*pip install") as caught:
        build(b"")
    assert caught.value.exit_code == MISSING
