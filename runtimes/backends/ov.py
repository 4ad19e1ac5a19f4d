"""OpenVINO behind two lines: compile a model for one device, run an array. Nothing else knows this vendor.

Owns: keeping its telemetry out, the precision hint (always explicit: by itself it computes in bf16 where the processor can),
threads, what precision each layer runs in. Does not own: checking inputs, decisions.
"""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtimes.backends.machine import allowed_cores
from runtimes.backends.threads import check_threads
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.models.graph_cost import MOST_ELEMENTS, MOST_WORK

DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
# What the float part of a graph may be computed in; the integer part of an int8 graph says so itself.
HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
KINDS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
COUNTED = frozenset(["Convolution", "FullyConnected", "MatMul"])  # layers that multiply, under the names of its runtime graph


def load_runtime() -> Any:
    """Import openvino without its telemetry; UserError (exit 5) where it is not installed."""
    # The package reports its own import; with this module barred it falls back to a stub that sends nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"this needs openvino, which cannot be imported ({error}); pip install 'rd-distill[openvino]'", MISSING) from None
    return openvino


def capabilities(device: str = "cpu") -> frozenset[str]:
    """What a device computes in by its own account, such as FP32, BF16, INT8; empty where it is not there."""
    core = load_runtime().Core()
    plugin = DEVICES.get(device, "")
    devices = [full_name for full_name in core.available_devices if full_name.split(".")[0] == plugin]
    return frozenset(core.get_property(devices[0], "OPTIMIZATION_CAPABILITIES")) if devices else frozenset()


class OpenVinoSession:
    """One model on one device: arrays in; logits, probabilities and slice attention out, None for what a graph does not answer.

    model: the bytes of an IR, xml and weights; a file of our own, an .onnx file's bytes, or a model of openvino's own. name: what
    messages call it. hint: latency for one request at a time. cache: a folder for compiled models, which shortens the next start.
    counters: keep the time of every node.
    """

    def __init__(self, model: Any, *, precision: str = "fp32", threads: int | None = None, device: str = "cpu",
                 hint: Literal["latency", "throughput"] = "latency", cache: Path | None = None, counters: bool = False,
                 name: str = "") -> None:
        if device not in DEVICES:
            raise UserError(f"device {device!r} is not known to OpenVINO; expected {', '.join(DEVICES)}", USAGE)
        check_threads(threads, "threads")
        runtime = load_runtime()
        core = runtime.Core()
        plugin, available = DEVICES[device], list(core.available_devices)
        if not any(full_name.split(".")[0] == plugin for full_name in available):
            raise UserError(f"device {device} needs OpenVINO's {plugin}, this machine has {', '.join(available)}; "
                            "install its driver or use another device", MISSING)
        self.threads, self.provider, self.version = threads or allowed_cores(), plugin, str(runtime.__version__).split("-")[0]
        self.hint = HINTS[precision]
        if precision == "fp16" and "FP16" not in core.get_property(plugin, "OPTIMIZATION_CAPABILITIES"):
            self.hint = "f32"  # asked for f16, a processor without it computes in bf16, which is less exact, and says so nowhere
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.hint, "PERFORMANCE_HINT": hint.upper()}
        if plugin == "CPU":
            settings["INFERENCE_NUM_THREADS"] = self.threads
        if counters:
            settings["PERF_COUNT"] = True
        if cache is not None:
            _check_cache(cache)
            settings["CACHE_DIR"] = str(cache)
        try:
            self._compiled: Any = core.compile_model(_read(core, model), plugin, settings)
        except RuntimeError as error:
            what = name or (str(model) if isinstance(model, Path) else "the graph")
            raise UserError(f"{what}: OpenVINO {self.version} cannot compile it for {plugin}: {_reason(error)}") from None
        self._request: Any = self._compiled.create_infer_request()
        self._tensor: Any = runtime.Tensor
        self._bound: dict[int, NDArray[Any]] = {}
        self.layers = _layers(self._compiled.get_runtime_model())

    def run(self, batch: NDArray[Any] | tuple[NDArray[Any], ...]) -> tuple[NDArray[np.float32], Any, Any]:
        """Run a batch as the graph takes it; logits and probabilities, (N, C) each, and attention (N, S) of volumes."""
        if self._request is None:
            raise UserError("the session is closed; open it again")
        try:
            if isinstance(batch, tuple):
                for index, feed in enumerate(batch):
                    self._feed(index, feed)
            else:
                self._feed(0, batch)
            results = self._request.infer()
        except RuntimeError as error:  # a graph that compiles may still be one that cannot run
            raise UserError(f"OpenVINO {self.version} cannot run this graph: {_reason(error)}; export the artifact again") from None
        outputs = [*results.values(), None, None]
        return outputs[0], outputs[1], outputs[2]

    def _feed(self, index: int, feed: NDArray[Any]) -> None:
        """Copy into memory that stays bound while shape and dtype do: handing over another array at every call takes longer."""
        memory = self._bound.get(index)
        if memory is not None and memory.shape == feed.shape and memory.dtype is feed.dtype:
            memory[...] = feed
            return
        tensor = self._tensor(np.ascontiguousarray(feed))
        self._request.set_input_tensor(index, tensor)
        self._bound[index] = tensor.data

    def facts(self) -> dict[str, Any]:
        """What really runs: library, version, device, threads, the precision of its layers that multiply."""
        return {"runtime": "openvino", "version": self.version, "provider": self.provider, "threads": self.threads,
                "precision_hint": self.hint, "layers": dict(self.layers)}

    def close(self) -> None:
        """Free the model's memory."""
        self._request, self._compiled, self._bound = None, None, {}


def _check_cache(folder: Path) -> None:
    """Refuse (exit 2) a cache that others may write to: a compiled model in it answers, and nothing checks its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid not in (os.getuid(), 0) or status.st_mode & stat.S_IWOTH):
        raise UserError(f"cache {folder} can be written by others, and a model that they left there would answer unchecked; "
                        "name a folder of your own, or take their right to write", USAGE)


def _read(core: Any, model: Any) -> Any:
    """A model of openvino's own from whatever a session takes."""
    if isinstance(model, tuple):
        read = core.read_model(*model)
        for images in (1, 16):
            _check_cost(read, images)
        return read
    return core.read_model(model=model) if isinstance(model, bytes) else core.read_model(str(model)) if isinstance(model, Path) else model


def _check_cost(model: Any, images: int) -> None:
    """UserError where a graph takes memory or work without bound, by OpenVINO's own account of its shapes before it is compiled."""
    graph = model.clone()
    graph.reshape({port: [images, *list(port.get_partial_shape())[1:]] for port in graph.inputs})
    elements, work = 0, 0
    for layer in graph.get_ordered_ops():
        name = str(layer.get_friendly_name())[:80]
        for port in layer.outputs():
            if port.get_partial_shape().is_dynamic:
                raise UserError(f"layer {name} has a size that depends on the image, so its memory cannot be bounded")
            count = prod(port.get_shape())
            elements += count
            if count > MOST_ELEMENTS * images:
                raise UserError(f"layer {name} makes {count:,} numbers of {images} images, which no network of ours does")
        work += _macs(layer)
    if work + elements > MOST_WORK * images:
        raise UserError(f"it takes {work + elements:,} multiply-adds for {images} images, which no network of ours does")


def _layers(graph: Any) -> dict[str, int]:
    """How many layers that multiply run in each precision, from the runtime's own graph after compilation."""
    counts: Counter[str] = Counter()
    for layer in graph.get_ordered_ops():
        info = layer.get_rt_info()
        if "layerType" in info and str(info["layerType"].astype(str)) in COUNTED:
            kind = str(info["runtimePrecision"].astype(str))
            counts[KINDS.get(kind, kind)] += 1
    return dict(sorted(counts.items()))


def counted_macs(model: tuple[bytes, ...], shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of an IR for inputs of these shapes."""
    graph = _read(load_runtime().Core(), model)
    graph.reshape(dict(enumerate([list(shape) for shape in shapes])))
    total = 0
    for layer in graph.get_ordered_ops():
        total += _macs(layer)
    return total


def _macs(layer: Any) -> int:
    """Multiply-adds of one layer whose shapes are known."""
    kind = layer.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):  # weights are (out, in, ...), grouped ones (groups, out, in, ...)
        return prod(layer.output(0).get_shape()) * prod(list(layer.input(1).get_shape())[1 + (kind == "GroupConvolution"):])
    if kind == "MatMul":
        inner = -2 if layer.get_attributes()["transpose_a"] else -1
        return int(prod(layer.output(0).get_shape()) * list(layer.input(0).get_shape())[inner])
    return 0


def profiled(model: tuple[bytes, ...], batch: tuple[NDArray[Any], ...], *, precision: str, threads: int, device: str,
             runs: int) -> tuple[dict[str, int], list[tuple[str, str, float]]]:
    """Layers that multiply by precision, and (name, kind, microseconds) of every node in `runs` calls, by the runtime's own counters."""
    session = OpenVinoSession(model, precision=precision, threads=threads, device=device, counters=True)
    times = []
    for turn in range(runs + 5):
        session.run(batch)
        if turn >= 5:
            times += [(node.node_name, f"{node.node_type} ({node.exec_type})", node.real_time.total_seconds() * 1e6)
                      for node in session._request.get_profiling_info() if str(node.status).endswith("EXECUTED")]
    layers = dict(session.layers)
    session.close()
    return layers, times


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return (lines or [type(error).__name__])[-1][:300]
