"""The target openvino: the IR of the graph, or of NNCF's own int8 where that is the faster one.

Owns: its row, the choice between Q/DQ in the graph and NNCF. Does not own: converting and NNCF's settings (to_openvino.py), the search
within one way (lower.py), the session (runtimes/backends/ov.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from distill.progress import say
from export.facts import Student, metadata
from export.options import Build, EngineOptions, Execution, Quantisation
from export.precision.fp16 import in_half
from export.precision.int8 import Feeds
from export.precision.lower import Int8Result, Int8Task, find_int8
from export.precision.pace import pace
from export.targets.listings import fenced_listing
from export.targets.onnx import answers_of, by_ort, check_onnxruntime, in_the_graph
from export.targets.row import ExportedGraph, ExportTarget, Progress
from runtimes.artifact.artifact import Artifact
from runtimes.artifact.targets import Runtime
from runtimes.errors import PARITY, UserError


def _check(options: EngineOptions) -> None:
    from runtimes.backends.ov import load_runtime

    check_onnxruntime(options)
    load_runtime()


def by_openvino(model: Any, feeds: Feeds) -> NDArray[Any]:
    """Logits (N, C) of a graph, or of a model of OpenVINO's own, for single images, by OpenVINO."""
    from runtimes.backends.ov import OpenVinoSession

    return answers_of(OpenVinoSession(model, precision="int8", threads=1), feeds)


def _find_int8(data: bytes, student: Student, problem: Int8Task, options: Quantisation, threads: int, progress: Progress) -> ExportedGraph:
    """The graph's own Q/DQ or NNCF's quantisation, of those that pass the faster one; accuracy control when neither passes."""
    from export.targets.to_openvino import nncf_int8
    from runtimes.backends.ov import OpenVinoSession

    candidates: list[tuple[ExportedGraph, Any]] = []
    refusal: UserError | None = None
    try:
        graph = find_int8(data, problem, by_openvino, method=options.calibration, sensitivity=options.sensitivity, rank=by_ort,
                          progress=progress)
        candidates.append((in_the_graph(student, graph), graph.data))
    except UserError as error:
        refusal = error
    transformer = "LayerNormalization" in _operators(data)
    tried = {}
    for control in (False, True):
        if control and candidates:
            break  # accuracy control takes minutes: only where nothing else passed
        model = nncf_int8(data, problem.calibration, transformer=transformer, max_drop=options.limits.max_auc_drop,
                          validate=(lambda compiled: control_score(compiled, problem)) if control else None)
        verdict, calibration = problem.judge(by_openvino(model, problem.judged))
        tried["NNCF with accuracy control" if control else "NNCF"] = verdict.describe()
        if verdict.passed:
            name = list(tried)[-1]
            result = Int8Result(data, calibration, {"quantised_by": name, "verdict": verdict.describe()})
            candidates.append((replace(in_the_graph(student, result), model=model), model))
    if not candidates:
        assert refusal is not None
        raise UserError(f"{refusal}. {'; '.join(f'{name}: {words}' for name, words in tried.items())}", PARITY)
    if len(candidates) == 1:
        return candidates[0][0]
    first, second = (OpenVinoSession(model, precision="int8", threads=threads) for _, model in candidates)
    ratio = pace(second, first, tuple(problem.judged[0].values()))
    best = candidates[1][0] if ratio < 1 else candidates[0][0]
    return replace(best, record={**best.record, "nncf_over_graph_time": round(ratio, 3), "nncf": tried})


def _operators(data: bytes) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load_from_string(data).graph.node}


def control_score(compiled: Any, problem: Int8Task) -> float:
    """What accuracy control holds up: one plus the change of AUROC, since it divides by the score of the whole model."""
    from export.targets.to_openvino import logits_of

    verdict, _ = problem.judge(logits_of(compiled, problem.judged))
    return 1.0 + (verdict.auroc_change or 0.0)


def _temper(model: Any, temperatures: tuple[float, ...]) -> None:
    from export.targets.to_openvino import with_temperatures

    with_temperatures(model, temperatures)


def _write(folder: Path, graph: ExportedGraph, build: Build, _: EngineOptions) -> dict[str, Any]:
    from export.targets.to_openvino import IR, save_ir, to_ir

    facts = metadata(graph.student, build)
    if graph.model is not None:
        save_ir(graph.model, folder / IR, facts)
    else:
        to_ir(graph.data, folder / IR, facts)
    size = sum((folder / name).stat().st_size for name in (IR, IR.replace(".xml", ".bin")))
    say("export", f"{IR} and .bin {size / 1e6:.1f} MB, {build.precision}")
    return {}


def _layers(facts: Mapping[str, Any], model: Path, device: str) -> dict[str, int]:
    return dict(facts.get("layers") or {})


def _plain(data: bytes, execution: Execution, _: EngineOptions) -> Runtime:
    from runtimes.backends.ov import OpenVinoSession

    return OpenVinoSession(data, threads=execution.threads, device=execution.device)


def _floating(data: bytes, name: str, execution: Execution, _: EngineOptions) -> Runtime | None:
    from runtimes.backends.ov import OpenVinoSession, capabilities

    if name.upper() not in capabilities(execution.device):
        return None
    return OpenVinoSession(data if name == "bf16" else in_half(data), precision=name, threads=execution.threads, device=execution.device)


def _programs(artifact: Artifact) -> list[str]:
    return ["Python with openvino and numpy alone:", fenced_listing("openvino.py.txt", artifact),
            "C++ with OpenVINO (the wheel of `pip install openvino` has its `include` and `libs`):",
            fenced_listing("openvino.cpp.txt", artifact)]


OPENVINO = ExportTarget(_check, _find_int8, _write, _layers, _plain, _floating, _programs, _temper)
