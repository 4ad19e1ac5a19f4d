"""TensorRT sessions: choices as pure functions, and the session over plain memory behind CUDA's calls, where copies wait until asked for.

No GPU takes part: `rd-verify ARTIFACT` on a device is the check of the rest.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtimes.backends.cuda import Cuda, load_cuda, why_no_device
from runtimes.backends.trt import TrtSession, check_engine, library_of, pieces, rebuild_command, tensors_of
from runtimes.backends.trt_library import RTX_GPUS, first_error, load_library, new_context, quiet_logger
from runtimes.errors import MISSING, UserError

FACTS = {"library": "tensorrt_rtx", "version": "1.7.1", "gpus": ["sm86", "sm89"], "batches": [1, 1, 4]}


class Code(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100


class PlainCuda:
    """The calls of cuda.bindings.runtime over memory of this process; what is queued happens when the stream is waited for."""

    cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")

    def __init__(self, devices: int = 1, driver: int = 13000, room: int = 1 << 20) -> None:
        self.devices, self.driver, self.room = devices, driver, room
        self.memory: dict[int, Any] = {}
        self.queue: list[Callable[[], object]] = []
        self.calls: list[str] = []

    def cudaGetDeviceCount(self):
        return (Code.cudaSuccess, self.devices) if self.devices else (Code.cudaErrorNoDevice, None)

    def cudaDriverGetVersion(self):
        return Code.cudaSuccess, self.driver

    def cudaRuntimeGetVersion(self):
        return Code.cudaSuccess, 13050

    def cudaSetDevice(self, device: int):
        return (Code.cudaSuccess,)

    def cudaDeviceGetAttribute(self, attribute: int, device: int):
        return Code.cudaSuccess, attribute

    def cudaGetDeviceProperties(self, device: int):
        return Code.cudaSuccess, SimpleNamespace(name=b"Plain GPU\0\0")

    def cudaStreamCreate(self):
        return Code.cudaSuccess, 77

    def cudaMalloc(self, size: int):
        if size > self.room:
            return Code.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        self.calls.append(f"take {size}")
        return Code.cudaSuccess, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int):
        del self.memory[address]
        return (Code.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int):
        self.calls.append(f"{kind} {size}")
        self.queue.append(lambda: ctypes.memmove(to, source, size))
        return (Code.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int):
        self.calls.append("wait")
        while self.queue:
            self.queue.pop(0)()
        return (Code.cudaSuccess,)

    def cudaStreamDestroy(self, stream: int):
        self.calls.append("end")
        return (Code.cudaSuccess,)


class PlainEngine:
    """An engine whose logits are sums of the image and of its square; `attention` and `mask` where it is one of volumes."""

    def __init__(self, cuda: PlainCuda, volumes: bool = False, classes: int = 2) -> None:
        self.cuda, self.volumes, self.classes = cuda, volumes, classes
        image = {"image": (-1, 3, 4, 4, 1), "mask": (-1, 3)} if volumes else {"image": (-1, 4, 4, 1)}
        answers = {"probabilities": (-1, classes), "logits": (-1, classes), **({"attention": (-1, 3)} if volumes else {})}
        self.shapes, self.inputs = {**image, **answers}, list(image)
        self.num_io_tensors = len(self.shapes)
        self.addresses: dict[str, int] = {}
        self.given: dict[str, tuple[int, ...]] = {}

    def get_tensor_name(self, index: int):
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str):
        return self.shapes[name]

    def get_tensor_mode(self, name: str):
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name: str):
        return np.uint8 if name in self.inputs else np.float32

    def get_tensor_profile_shape(self, name: str, profile: int):
        return [(batch, *self.shapes[name][1:]) for batch in (1, 1, 4)]

    def create_execution_context(self):
        return self

    def set_tensor_address(self, name: str, address: int):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]):
        self.cuda.calls.append(f"shape {name} {shape[0]}")
        self.given[name] = shape
        return shape[0] <= 4

    def execute_async_v3(self, stream: int):
        self.cuda.calls.append(f"execute on {stream}")
        self.cuda.queue.append(self.work)
        return True

    def view(self, name: str, shape: tuple[int, ...], dtype: Any):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses[name])).view(dtype).reshape(shape)

    def work(self):
        image = self.view("image", self.given["image"], np.uint8).astype(np.float32)
        count = len(image)
        total = image.reshape(count, -1).sum(axis=1, keepdims=True)
        self.view("logits", (count, self.classes), np.float32)[...] = np.concatenate([total, -total], axis=1)
        self.view("probabilities", (count, self.classes), np.float32)[...] = 0.5
        if self.volumes:
            self.view("attention", (count, 3), np.float32)[...] = self.view("mask", self.given["mask"], np.uint8) / 4


def plain_library(engine: Any, version: str = "1.7.1", complaint: str = "") -> Any:
    """The names of tensorrt_rtx that a session uses, with one engine in it."""
    class Logger:
        INTERNAL_ERROR, ERROR, WARNING, VERBOSE = 0, 1, 2, 4

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes):
            if complaint:
                self.logger.log(Logger.ERROR, complaint)
                return None
            return engine

    return SimpleNamespace(__version__=version, ILogger=Logger, Runtime=Runtime, TensorIOMode=SimpleNamespace(INPUT="in"),
                           nptype=lambda dtype: dtype)


@pytest.fixture
def opened():
    """Opens a session over plain memory: (session, its CUDA, its engine)."""
    def open_one(facts: dict[str, Any] = FACTS, **changes: Any):
        cuda = PlainCuda()
        engine = PlainEngine(cuda, **changes)
        return TrtSession(b"engine", facts, library=plain_library(engine), cuda=Cuda(cuda)), cuda, engine

    return open_one


def test_an_image_goes_in_and_its_answers_come_out_in_the_order_of_all_sessions(opened) -> None:
    session, cuda, _ = opened()
    image = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
    cuda.calls.clear()
    logits, probabilities, attention = session.run(image)
    assert logits.tolist() == [[120.0, -120.0], [376.0, -376.0]]
    assert probabilities.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert attention is None
    assert cuda.calls == ["up 32", "shape image 2", "execute on 77", "down 16", "down 16", "wait"]


def test_buffers_are_taken_once_for_the_largest_batch(opened) -> None:
    session, cuda, _ = opened()
    assert cuda.calls == ["take 64"] * 2 + ["take 32"] * 4
    cuda.calls.clear()
    for count in (1, 4, 3):
        session.run(np.zeros((count, 4, 4, 1), np.uint8))
    assert not [call for call in cuda.calls if call.startswith("take")]


def test_a_larger_batch_goes_in_pieces_and_comes_back_whole(opened) -> None:
    session, cuda, _ = opened()
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    logits, _, _ = session.run(images)
    assert np.array_equal(logits[:, 0], images.reshape(10, -1).sum(axis=1, dtype=np.float32))
    assert [call for call in cuda.calls if call.startswith("shape")] == ["shape image 4", "shape image 4", "shape image 2"]


def test_answers_stay_what_they_were_when_the_buffers_are_used_again(opened) -> None:
    session, _, _ = opened()
    first, _, _ = session.run(np.ones((2, 4, 4, 1), np.uint8))
    session.run(np.full((2, 4, 4, 1), 9, np.uint8))
    session.close()
    assert first.tolist() == [[16.0, -16.0]] * 2


def test_volumes_bring_a_mask_and_take_attention_home(opened) -> None:
    session, _, _ = opened(volumes=True)
    mask = np.asarray([[1, 1, 0], [1, 0, 0]], np.uint8)
    _, _, attention = session.run((np.ones((2, 3, 4, 4, 1), np.uint8), mask))
    assert attention.tolist() == [[0.25, 0.25, 0.0], [0.25, 0.0, 0.0]]


def test_an_array_of_any_layout_arrives_as_it_is(opened) -> None:
    session, _, _ = opened()
    wide = np.arange(128, dtype=np.uint8).reshape(4, 4, 8, 1)
    logits, _, _ = session.run(wide[:, :, ::2])
    assert np.array_equal(logits[:, 0], wide[:, :, ::2].reshape(4, -1).sum(axis=1, dtype=np.float32))


@pytest.mark.parametrize(("batch", "told"), [
    (np.zeros((2, 4, 4, 1), np.float32), "image is float32"),
    (np.zeros((2, 5, 4, 1), np.uint8), r"takes uint8 \(images, 4, 4, 1\)"),
    (np.zeros((0, 4, 4, 1), np.uint8), "batch of 0 images"),
])
def test_an_array_that_does_not_fit_is_refused_before_any_copy(opened, batch: Any, told: str) -> None:
    session, cuda, _ = opened()
    with pytest.raises(UserError, match=told):
        session.run(batch)
    assert not cuda.queue


def test_closing_frees_everything_and_a_closed_session_says_so(opened) -> None:
    session, cuda, _ = opened()
    session.close()
    session.close()
    assert cuda.memory == {}
    assert cuda.calls.count("end") == 1
    with pytest.raises(UserError, match="closed"):
        session.run(np.zeros((1, 4, 4, 1), np.uint8))


def test_facts_say_what_runs_and_on_which_gpu(opened) -> None:
    assert opened()[0].facts() == {"runtime": "tensorrt_rtx", "version": "1.7.1", "provider": "Plain GPU", "gpu": "sm89",
                                   "batches": [1, 4], "threads": 1}


def test_an_engine_for_another_gpu_is_refused_and_nothing_stays_taken(opened) -> None:
    cuda = PlainCuda()
    with pytest.raises(UserError, match="--gpu sm89") as caught:
        TrtSession(b"engine", {**FACTS, "gpus": ["sm120"]}, library=plain_library(None), cuda=Cuda(cuda))
    assert caught.value.exit_code == MISSING
    assert cuda.calls == ["end"]


def test_an_engine_that_does_not_open_says_why_in_one_line(opened) -> None:
    library = plain_library(None, complaint="Magic tag does not match\nmore")
    with pytest.raises(UserError, match=r"cannot open it: Magic tag does not match$"):
        TrtSession(b"engine", FACTS, library=library, cuda=Cuda(PlainCuda()))


def test_a_failing_call_of_cuda_is_named() -> None:
    with pytest.raises(UserError, match="cudaMallocHost failed with cudaErrorMemoryAllocation"):
        Cuda(PlainCuda(room=10)).pinned((11,), np.dtype(np.uint8))


@pytest.mark.parametrize(("library", "version", "gpu", "told"), [
    ("tensorrt_rtx", "1.8.0", "sm89", r"built by tensorrt_rtx 1.7.1, .* rd-export --target trt --gpu sm89 where tensorrt_rtx 1.8.0"),
    ("tensorrt", "10.3.0", "sm87", "rd-export --target trt --on-device on this device"),
    ("tensorrt_rtx", "1.7.1", "sm120", "built for sm86, sm89, this device is sm120; run rd-export --target trt --gpu sm120"),
    ("tensorrt_rtx", "1.7.1", "sm90", "rd-export --target trt --on-device on this device"),
])
def test_another_gpu_library_or_version_is_refused_with_the_command_that_rebuilds(library: str, version: str, gpu: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        check_engine(FACTS, library, version, gpu)
    assert caught.value.exit_code == MISSING


def test_the_right_engine_passes_and_the_command_keeps_the_precision() -> None:
    check_engine(FACTS, "tensorrt_rtx", "1.7.1", "sm86")
    assert rebuild_command({"precision": "int8"}, "sm86", "tensorrt_rtx") == "rd-export --target trt --precision int8 --gpu sm86"


@pytest.mark.parametrize(("count", "smallest", "expected"), [(1, 1, [(0, 1)]), (8, 1, [(0, 8)]), (17, 1, [(0, 8), (8, 16), (16, 17)]),
                                                             (18, 2, [(0, 8), (8, 16), (16, 18)])])
def test_batches_are_cut_to_what_the_profile_takes(count: int, smallest: int, expected: list[tuple[int, int]]) -> None:
    assert [(piece.start, piece.stop) for piece in pieces(count, smallest, 8)] == expected


@pytest.mark.parametrize(("count", "smallest"), [(0, 1), (1, 2), (9, 2)])
def test_a_batch_below_the_smallest_is_refused(count: int, smallest: int) -> None:
    with pytest.raises(UserError, match=f"batch of {count} images; this engine takes {smallest} to 8"):
        list(pieces(count, smallest, 8))


@pytest.mark.parametrize(("state", "told"), [
    (("cudaErrorInsufficientDriver", 0, 0, 13050), "no NVIDIA driver"),
    (("cudaErrorInsufficientDriver", 0, 12040, 13050), r"driver is for CUDA 12.4, cuda-python for 13.5; .*cuda-python==12\.\*"),
    (("cudaErrorNoDevice", 0, 13000, 13050), r"finds no GPU \(cudaErrorNoDevice\)"),
])
def test_what_is_missing_is_said(state: tuple[str, int, int, int], told: str) -> None:
    assert re.search(told, why_no_device(*state) or "")


def test_a_machine_with_a_gpu_lacks_nothing() -> None:
    assert why_no_device("cudaSuccess", 1, 13000, 13050) is None


@pytest.mark.parametrize("state", [{"devices": 0, "driver": 0}, {"devices": 0}, {"driver": 12040}])
def test_opening_without_a_gpu_ends_with_exit_5(state: dict[str, int]) -> None:
    with pytest.raises(UserError, match="TensorRT needs an NVIDIA GPU") as caught:
        Cuda(PlainCuda(**state))
    assert caught.value.exit_code == MISSING


@pytest.mark.parametrize(("installed", "facts", "told"), [
    ([], FACTS, "needs tensorrt_rtx 1.7.1, which is not installed; pip install"),
    (["tensorrt_rtx"], {"library": "tensorrt", "version": "10.3"}, "needs tensorrt 10.3, which is not installed; on Jetson"),
    (["tensorrt_rtx"], {"library": "other"}, "built by 'other'"),
])
def test_only_the_library_that_built_an_engine_opens_it(installed: list[str], facts: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        library_of(facts, installed)
    assert caught.value.exit_code == MISSING
    assert library_of(FACTS, ["tensorrt_rtx", "tensorrt"]) == "tensorrt_rtx"


def test_an_engine_with_an_open_size_beside_the_batch_is_refused() -> None:
    engine = PlainEngine(PlainCuda())
    engine.shapes["image"] = (-1, -1, 4, 1)
    with pytest.raises(UserError, match="expected fixed sizes after the batch"):
        tensors_of(engine, plain_library(engine))


def test_rtx_compiles_before_it_answers_and_tensorrt_is_asked_nothing() -> None:
    engine = SimpleNamespace(create_runtime_config=SimpleNamespace, create_execution_context=lambda runtime_config=None: runtime_config)
    rtx = SimpleNamespace(DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"))
    assert new_context(rtx, engine).dynamic_shapes_kernel_specialization_strategy == "eager"
    assert new_context(SimpleNamespace(), engine) is None


def test_a_library_of_another_major_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(UserError, match=r"tensorrt 8.6.1 is installed; expected 10.x or 11.x"):
        load_library("tensorrt")


@pytest.mark.parametrize(("module", "load"), [("tensorrt_rtx", lambda: load_library("tensorrt_rtx")), ("cuda.bindings", load_cuda)])
def test_a_library_that_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch, module: str, load: Any) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"cannot be imported .*pip install") as caught:
        load()
    assert caught.value.exit_code == MISSING


def test_the_first_error_loses_the_places_in_the_library() -> None:
    text = "Builder: Error 1: Myelin ([pass.cpp:337: check_op] Cannot compile 'Gemm_0'. In compileGraph at /_src/a/b.cpp:2012)\nmore"
    assert first_error([(False, "a warning"), (True, text)]) == "Builder: Error 1: Myelin ([check_op] Cannot compile 'Gemm_0'.)"
    assert first_error([]) == "it gave no reason"


def test_the_real_libraries_have_the_names_that_are_used_here() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed (extra tensorrt)")
    for name in (name for name in dir(PlainCuda) if name.startswith("cuda")):
        assert hasattr(runtime, name), name
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra tensorrt)")
    known = {name.lower() for name in library.ComputeCapability.__members__} - {"none", "current"}
    assert known == set(RTX_GPUS)
    assert library.nptype(library.uint8) == np.uint8
    assert hasattr(library.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert hasattr(library.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    for name in ("set_tensor_address", "set_input_shape", "execute_async_v3"):
        assert hasattr(library.IExecutionContext, name)
    for name in ("num_io_tensors", *(f"get_tensor_{what}" for what in ("name", "mode", "dtype", "shape", "profile_shape"))):
        assert hasattr(library.ICudaEngine, name)


def test_the_real_libraries_end_with_one_sentence_where_there_is_no_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed (extra tensorrt)")
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra tensorrt)")
    if runtime.cudaGetDeviceCount()[1]:
        pytest.skip("this machine has a GPU; rd-verify checks more than this test would")
    facts = {"library": "tensorrt_rtx", "version": library.__version__, "gpus": ["sm89"]}
    with pytest.raises(UserError, match="TensorRT needs an NVIDIA GPU") as caught:
        TrtSession(b"no engine", facts)
    assert caught.value.exit_code == MISSING
    with pytest.raises(UserError, match=r"model.engine: tensorrt_rtx \S+ cannot open it: \S"):
        TrtSession(b"no engine", facts, library=library, name="a/model.engine", cuda=Cuda(PlainCuda()))
    assert capfd.readouterr() == ("", "")


def test_the_logger_of_the_real_library_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra tensorrt)")
    logger = quiet_logger(library)
    assert library.OnnxParser(library.Builder(logger).create_network(0), logger).parse(b"nonsense") is False
    assert "ONNX" in first_error(logger.problems)
    assert capfd.readouterr() == ("", "")
