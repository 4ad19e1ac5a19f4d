"""The fp32 graph of a student in the precision asked for, by whichever way keeps its decisions and is fastest.

Owns: the images a search looks at, asking the runtime that will run the result, Q/DQ in the graph against NNCF. Does not own: the
search within one way (lower.py), converting (half.py, int8.py, to_openvino.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.progress import track
from export.answers import CHUNK, accepted, evenly, reference_logits
from export.facts import Student, metadata
from export.half import in_half
from export.hygiene import check_hygiene
from export.int8 import Feeds
from export.lower import Found, Problem, find_int8
from export.making import Made, names
from export.options import Build, Quantisation
from export.pace import pace
from export.regions import relabelled
from runtimes.artifact import Artifact
from runtimes.errors import PARITY, UserError
from runtimes.images import ImageSet
from runtimes.ort import OrtSession
from runtimes.scores import calibrated
from runtimes.session import Runtime

SEARCH_IMAGES = 512  # of the validation images: a search asks for each of them many times; parity then takes them all


def lowered(data: bytes, student: Student, artifact: Artifact, images: ImageSet, rows: Sequence[int], build: Build,
            options: Quantisation, threads: int) -> Made:
    """The fp32 graph in the precision asked for; artifact: what is to become of it, its files unwritten; rows: validation images."""
    if build.precision in ("fp32", "bf16"):
        return Made(data, student)
    if build.precision == "fp16":
        return _finished(Made(in_half(data), student), build)
    problem = posed(student, artifact, images, rows, options)
    with track("sensitivity") as update:
        if build.target != "openvino":
            return _finished(_with(student, find_int8(data, problem, by_ort, method=options.calibration,
                                                      sensitivity=options.sensitivity, progress=update,
                                                      form="symmetric" if build.target == "trt" else "unsigned")), build)
        return _finished(_openvino_int8(data, student, problem, options, threads, update), build)


def posed(student: Student, artifact: Artifact, images: ImageSet, rows: Sequence[int], options: Quantisation) -> Problem:
    """What a search for int8 needs: calibration images from the training split alone, validation images and PyTorch's answers."""
    checkpoint = student.checkpoint
    train = images.rows("train")
    if len(train) == 0:
        raise UserError("the data has no training images to take int8 ranges from; name data that has some with --data")
    ranged = [one.batch for one in accepted(images.images, artifact, evenly(train, options.images))]
    used, judged, answered = list[int](), list[tuple[NDArray[Any], ...]](), list[NDArray[Any]]()
    stream = accepted(images.images, artifact, evenly(rows, SEARCH_IMAGES))
    while part := list(islice(stream, CHUNK)):  # what PyTorch must see is large and used once
        used += [one.row for one in part]
        judged += [one.batch for one in part]
        answered.append(reference_logits(checkpoint.model, [one.inputs for one in part]))
    if not ranged or not judged:
        raise UserError("no image passes the input check, so int8 ranges cannot be found; look at the images or name others with --data")
    logits = np.concatenate(answered)
    feeds, judged_feeds = ([dict(zip(artifact.input_names, one, strict=True)) for one in batches] for batches in (ranged, judged))
    labels = images.labels[used]
    return Problem(feeds, judged_feeds, labels, calibrated(logits, artifact.task, checkpoint.calibration.temperatures),
                   artifact.task, options.limits, checkpoint.calibration, checkpoint.spec.classes)


def by_ort(data: bytes, feeds: Feeds) -> NDArray[Any]:
    """Logits (N, C) of a graph for single images, by ONNX Runtime."""
    return _answers(OrtSession(data, threads=1), feeds)


def by_openvino(model: Any, feeds: Feeds) -> NDArray[Any]:
    """Logits (N, C) of a graph, or of a model of OpenVINO's own, for single images, by OpenVINO."""
    from runtimes.ov import OpenVinoSession

    return _answers(OpenVinoSession(model, precision="int8", threads=1), feeds)


def _answers(runtime: Runtime, feeds: Feeds) -> NDArray[Any]:
    return np.concatenate([runtime.run(tuple(feed.values()))[0] for feed in feeds])


def _openvino_int8(data: bytes, student: Student, problem: Problem, options: Quantisation, threads: int, update: Any) -> Made:
    """The graph's own Q/DQ or NNCF's quantisation, of those that pass the faster one; accuracy control when neither passes."""
    from export.to_openvino import nncf_int8
    from runtimes.ov import OpenVinoSession

    candidates: list[tuple[Made, Any]] = []
    refusal: UserError | None = None
    try:
        graph = find_int8(data, problem, by_openvino, method=options.calibration, sensitivity=options.sensitivity, rank=by_ort,
                          progress=update)
        candidates.append((_with(student, graph), graph.data))
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
        tried["NNCF with accuracy control" if control else "NNCF"] = verdict.told()
        if verdict.passed:
            name = list(tried)[-1]
            made = Found(data, calibration, {"quantised_by": name, "verdict": verdict.told()})
            candidates.append((replace(_with(student, made), ir=model), model))
    if not candidates:
        assert refusal is not None
        raise UserError(f"{refusal}. {'; '.join(f'{name}: {told}' for name, told in tried.items())}", PARITY)
    if len(candidates) == 1:
        return candidates[0][0]
    first, second = (OpenVinoSession(one, precision="int8", threads=threads) for _, one in candidates)
    ratio = pace(second, first, tuple(problem.judged[0].values()))
    best = candidates[1][0] if ratio < 1 else candidates[0][0]
    return replace(best, record={**best.record, "nncf_over_graph_time": round(ratio, 3), "nncf": tried})


def _operators(data: bytes) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load_from_string(data).graph.node}


def control_score(compiled: Any, problem: Problem) -> float:
    """What accuracy control holds up: one plus the change of AUROC, since it divides by the score of the whole model."""
    from export.to_openvino import logits_of

    verdict, _ = problem.judge(logits_of(compiled, problem.judged))
    return 1.0 + (verdict.auroc_change or 0.0)


def _with(student: Student, found: Found) -> Made:
    return Made(found.data, student.calibrated(found.calibration), {"quantised_by": "Q/DQ in the graph", **found.record})


def _finished(made: Made, build: Build) -> Made:
    """The graph saying what it is now: its calibration in the tail and in the metadata."""
    checkpoint = made.student.checkpoint
    temperatures = checkpoint.calibration.temperatures if build.input == "image" else ()
    data = relabelled(made.data, metadata(made.student, build), temperatures)
    if made.ir is not None and temperatures:
        from export.to_openvino import with_temperatures

        with_temperatures(made.ir, temperatures)
    inputs, outputs = names(checkpoint, build.input)
    check_hygiene(data, opset=build.opset, input_names=inputs, output_names=outputs)
    return replace(made, data=data)
