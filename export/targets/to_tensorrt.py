"""The bytes of one finished ONNX file to a TensorRT engine: ahead of time for RTX GPUs, or on the device for its own.

Owns: the list of GPUs, the builder's settings per library and version, the words for what a parser or builder refuses, the facts
of an engine. Does not own: precision, which is in the graph; layers (engine_layers.py); running engines (runtimes/backends/trt.py).
Two builds of one graph differ in up to some thousand bytes (names the library makes up): an engine is known by its graph's hash.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.graph.hygiene import precision_share
from export.targets.engine_layers import engine_share, layers_by_precision, layers_from_json, layers_from_log, weights_of_nodes
from runtimes.backends.cuda import Cuda
from runtimes.backends.trt_library import MAJORS, RTX_GPUS, first_error, load_library, quiet_logger, started
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.folder import write_atomic

RTX_EDGE = ("sm86", "sm89", "sm120")  # RTX 30, 40 and 50, workstation and embedded cards of those generations
JETSON = ("sm53", "sm62", "sm72", "sm87", "sm101", "sm110")
MOST_WARNINGS = 10
INPUT_TYPES = ("FLOAT", "FLOAT16", "INT8", "INT32", "INT64", "UINT8")  # of ONNX, that TensorRT takes as an input
DEEP_TYPES = ("INT16", "UINT16")  # of ONNX, that it does not take: float32 holds each of their values


@dataclass(frozen=True)
class Engine:
    """A serialised engine, what is known of it (JSON), and how long it took to build (in no file: it differs every time)."""

    data: bytes
    facts: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class BuilderSettings:
    """How a library is asked for what all of them do: strong types, no TF32, GPUs named ahead of time, a cache of timings."""

    network_flags: tuple[str, ...]
    cleared_flags: tuple[str, ...]
    names_gpus: bool
    times_kernels: bool


def parse_gpus(names: Sequence[str]) -> tuple[str, ...]:
    """GPUs as `sm86`, sorted and each once, from names such as sm86, SM_86 or 8.6; UserError (exit 2) for any that RTX does not build."""
    if not names:
        raise UserError(f"no GPU named; expected one or more of {', '.join(RTX_GPUS)}", USAGE)
    architectures = set()
    for name in names:
        match = re.fullmatch(r"(?:sm_?)?(\d{2,3})|(\d{1,2})\.(\d)", name.strip().lower())
        gpu = f"sm{match[1] or match[2] + match[3]}" if match else name
        if gpu in JETSON:
            raise UserError(f"--gpu {name}: RTX engines are not for Jetson; run rd-export --target trt --on-device there", USAGE)
        if gpu not in RTX_GPUS:
            raise UserError(f"--gpu {name} is not one that RTX engines are built for; expected {', '.join(RTX_GPUS)}; for any other "
                            "GPU run rd-export --target trt --on-device on the machine that has it", USAGE)
        architectures.add(gpu)
    return tuple(sorted(architectures, key=lambda gpu: int(gpu[2:])))


def builder_settings(library: str, version: str) -> BuilderSettings:
    """What to ask of a library of a version; UserError (exit 5) for a major version that the code is not for."""
    major = int(version.split(".")[0])
    if major not in MAJORS.get(library, ()):
        raise UserError(f"{library} {version} is not supported; expected tensorrt_rtx 1, tensorrt 10 or 11", MISSING)
    rtx = library == "tensorrt_rtx"
    # TensorRT 10 types weakly unless told; 11 always types strongly and has deprecated the flag. Precision flags are gone in 11
    # and not needed in 10. TF32 is on by default and would make fp32 another precision.
    return BuilderSettings(("STRONGLY_TYPED",) if rtx or major == 10 else (), ("TF32",), names_gpus=rtx, times_kernels=not rtx)


def build_engine(onnx_bytes: bytes, *, min_batch: int = 1, opt_batch: int = 1, max_batch: int = 8, gpus: Sequence[str] = RTX_EDGE,
                 workspace_mb: int | None = None) -> Engine:
    """Build with TensorRT-RTX for named GPUs, of which this machine needs none.

    Raises UserError: exit 5 without tensorrt_rtx, 2 for an unknown GPU or batch, 1 for a graph that it does not take.
    """
    architectures = parse_gpus(gpus)
    _check_batches(min_batch, opt_batch, max_batch)
    return _build(load_library("tensorrt_rtx"), "tensorrt_rtx", onnx_bytes, (min_batch, opt_batch, max_batch), architectures,
                  workspace_mb, None)


def build_on_device(onnx_bytes: bytes, *, min_batch: int = 1, opt_batch: int = 1, max_batch: int = 8, workspace_mb: int | None = None,
                    timing_cache: Path | None = None) -> Engine:
    """Build with TensorRT 10 or 11 for the GPU of this machine, a Jetson or a data-centre card; the cache spares the next build time.

    Raises UserError: exit 5 without tensorrt, cuda-python, driver or GPU, 2 for a wrong batch, 1 for a graph that it does not take.
    """
    _check_batches(min_batch, opt_batch, max_batch)
    library, cuda = load_library("tensorrt"), Cuda()
    try:
        return _build(library, "tensorrt", onnx_bytes, (min_batch, opt_batch, max_batch), (cuda.capability,), workspace_mb, timing_cache)
    finally:
        cuda.close()


def _check_batches(smallest: int, usual: int, largest: int) -> None:
    if not 1 <= smallest <= usual <= largest:
        raise UserError(f"batches {smallest}, {usual}, {largest}; expected 1 <= smallest <= usual <= largest", USAGE)


def _build(library: Any, name: str, data: bytes, batches: tuple[int, int, int], gpus: tuple[str, ...], workspace_mb: int | None,
           timing_cache: Path | None) -> Engine:
    settings = builder_settings(name, str(library.__version__))
    start = time.perf_counter()
    check_inputs(data)
    parsed = with_float_inputs(data)
    logger = quiet_logger(library)
    builder = started(library.Builder, logger)
    flags = sum(1 << int(getattr(library.NetworkDefinitionCreationFlag, flag)) for flag in settings.network_flags)
    network = builder.create_network(flags)
    parser = library.OnnxParser(network, logger)
    if not parser.parse(parsed):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise UserError(f"{name} {library.__version__} does not take this graph: {refusal(errors) or first_error(logger.problems)}")
    config = _config(library, settings, builder, network, batches, gpus, workspace_mb)
    cache = None
    if settings.times_kernels and timing_cache is not None:
        cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, False):
            raise UserError(f"{timing_cache} is a timing cache of another GPU or version; name a new file")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = first_error(logger.problems)
        raise UserError(f"{name} {library.__version__} cannot build this graph for {', '.join(gpus)}: {reason}{advice(reason)}")
    if cache is not None and timing_cache is not None:
        write_atomic(timing_cache, bytes(cache.serialize()))
    engine = bytes(plan)
    seconds = time.perf_counter() - start
    inspection = _inspected(library, engine) if not settings.names_gpus else ""
    facts = {
        "library": name, "version": str(library.__version__), "gpus": list(gpus), "batches": list(batches),
        "onnx_sha256": hashlib.sha256(data).hexdigest(), "tf32": False, **precision_facts(data, inspection, logger.layers),
        "warnings": [text[:300] for is_error, text in logger.problems if not is_error][:MOST_WARNINGS],
    }
    return Engine(engine, facts, seconds)


def _config(library: Any, settings: BuilderSettings, builder: Any, network: Any, batches: tuple[int, int, int], gpus: tuple[str, ...],
            workspace_mb: int | None) -> Any:
    config = builder.create_builder_config()
    if settings.names_gpus:
        config.num_compute_capabilities = len(gpus)
        for index, gpu in enumerate(gpus):
            if not config.set_compute_capability(getattr(library.ComputeCapability, gpu.upper()), index):
                raise UserError(f"tensorrt_rtx {library.__version__} does not build for {gpu}; name another --gpu", USAGE)
    for flag in settings.cleared_flags:
        config.clear_flag(getattr(library.BuilderFlag, flag))
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # else an engine does not say in which precision it computes
    if workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        profile.set_shape(entry.name, *[(batch, *tuple(entry.shape)[1:]) for batch in batches])
    config.add_optimization_profile(profile)
    return config


def _inspected(library: Any, engine: bytes) -> str:
    """The inspector's JSON, which takes the GPU that the engine was built for; empty where it cannot be opened."""
    logger = quiet_logger(library)
    runtime = started(library.Runtime, logger)  # both have to outlive the engine
    opened = runtime.deserialize_cuda_engine(engine)
    return "" if opened is None else str(opened.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON))


def precision_facts(data: bytes, inspected: str, logged: str) -> dict[str, Any]:
    """Layers and share of weights by precision: as the inspector says, else as the builder logged, else of the graph, and which."""
    weights = weights_of_nodes(data)
    for source, layers in (("engine inspector", layers_from_json(inspected)), ("builder's log", layers_from_log(logged))):
        share = engine_share(layers, weights)
        if share is not None:
            return {"precision_share": share, "precision_source": source, "layers": layers_by_precision(layers)}
    return {"precision_share": None, "precision_source": "the engine's layers do not say where the weights of the graph went; "
            "graph_share is what the graph asks for", "graph_share": precision_share(data)}


def check_inputs(data: bytes) -> None:
    """Refuse bytes that are no ONNX graph, or one whose inputs have types or open sizes that TensorRT does not take."""
    import onnx

    try:
        graph = onnx.load_from_string(data).graph
    except Exception as error:  # protobuf's own types
        raise UserError(f"these bytes are no ONNX file ({type(error).__name__}); export it again") from None
    if not graph.input:
        raise UserError("the graph has no inputs; expected one finished ONNX file")
    for entry in graph.input:
        kind = onnx.TensorProto.DataType.Name(entry.type.tensor_type.elem_type)
        if kind not in (*INPUT_TYPES, *DEEP_TYPES):
            raise UserError(f"input {entry.name} is {kind.lower()}, which TensorRT does not take; export it again")


def with_float_inputs(data: bytes) -> bytes:
    """The graph with float32 in place of inputs of 16 bits, whose first node casts them to it: the session hands them over so."""
    import onnx

    model = onnx.load_from_string(data)
    deep = [entry for entry in model.graph.input if onnx.TensorProto.DataType.Name(entry.type.tensor_type.elem_type) in DEEP_TYPES]
    for entry in deep:
        entry.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model.SerializeToString() if deep else data


def refusal(errors: Sequence[Any]) -> str:
    """The parser's errors in one line: node, operator, reason; at most three."""
    lines = []
    for error in errors[:3]:
        reason = (error.desc().strip().splitlines() or [""])[0].removeprefix("Assertion failed: ")
        reason = "its converter refuses it" if reason in ("", "false") else reason
        lines.append(f"{error.node_operator()} {error.node_name()}: {reason}" if error.node_operator() else reason)
    return "; ".join(lines) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")


def advice(reason: str) -> str:
    """What to do about a builder's failure, where that is known."""
    if "Turing" in reason:
        return "; of the precisions only fp16 builds for Turing (sm75): add --precision fp16, or leave sm75 out"
    return ""
