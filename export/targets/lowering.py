"""The fp32 graph of a student in the precision asked for, by whichever way keeps its decisions and is fastest.

Owns: the images a search looks at, the graph saying what it has become. Does not own: the ways that a target has to int8 (targets/),
the search within one way (lower.py), converting (fp16.py, int8.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from distill.progress import track
from export.facts import Student, metadata
from export.graph.fp32 import names
from export.graph.hygiene import check_hygiene
from export.graph.regions import relabelled
from export.options import Build, Quantisation
from export.parity.answers import CHUNK, accepted, evenly, reference_logits
from export.precision.fp16 import in_half
from export.precision.lower import Int8Task
from export.targets.row import ExportedGraph
from export.targets.table import TARGETS
from runtimes.artifact.artifact import Artifact
from runtimes.errors import UserError
from runtimes.scores import calibrated

SEARCH_IMAGES = 512  # of the validation images: a search asks for each of them many times; parity then takes them all


def lowered(data: bytes, student: Student, artifact: Artifact, images: ImageSet, rows: Sequence[int], build: Build,
            options: Quantisation, threads: int) -> ExportedGraph:
    """The fp32 graph in the precision asked for; artifact: what is to become of it, its files unwritten; rows: validation images."""
    if build.precision in ("fp32", "bf16"):
        return ExportedGraph(data, student)
    if build.precision == "fp16":
        return _finished(ExportedGraph(in_half(data), student), build)
    problem = posed(student, artifact, images, rows, options)
    with track("sensitivity") as update:
        return _finished(TARGETS[build.target].find_int8(data, student, problem, options, threads, update), build)


def posed(student: Student, artifact: Artifact, images: ImageSet, rows: Sequence[int], options: Quantisation) -> Int8Task:
    """What a search for int8 needs: calibration images from the training split alone, validation images and PyTorch's answers."""
    checkpoint = student.checkpoint
    train = images.rows("train")
    if len(train) == 0:
        raise UserError("the data has no training images to take int8 ranges from; name data that has some with --data")
    ranged = [image.batch for image in accepted(images.images, artifact, evenly(train, options.images))]
    used, judged, answered = list[int](), list[tuple[NDArray[Any], ...]](), list[NDArray[Any]]()
    stream = accepted(images.images, artifact, evenly(rows, SEARCH_IMAGES))
    while part := list(islice(stream, CHUNK)):  # what PyTorch must see is large and used once
        used += [image.row for image in part]
        judged += [image.batch for image in part]
        answered.append(reference_logits(checkpoint.model, [image.inputs for image in part]))
    if not ranged or not judged:
        raise UserError("no image passes the input check, so int8 ranges cannot be found; look at the images or name others with --data")
    logits = np.concatenate(answered)
    feeds, judged_feeds = ([dict(zip(artifact.input_names, batch, strict=True)) for batch in batches] for batches in (ranged, judged))
    labels = images.labels[used]
    return Int8Task(feeds, judged_feeds, labels, calibrated(logits, artifact.task, checkpoint.calibration.temperatures),
                   artifact.task, options.limits, checkpoint.calibration, checkpoint.spec.classes)


def _finished(graph: ExportedGraph, build: Build) -> ExportedGraph:
    """The graph saying what it is now: its calibration in the tail and in the metadata."""
    checkpoint, temper = graph.student.checkpoint, TARGETS[build.target].temper
    temperatures = checkpoint.calibration.temperatures if build.input == "image" else ()
    data = relabelled(graph.data, metadata(graph.student, build), temperatures)
    if graph.model is not None and temperatures and temper is not None:
        temper(graph.model, temperatures)
    inputs, outputs = names(checkpoint, build.input)
    check_hygiene(data, opset=build.opset, input_names=inputs, output_names=outputs)
    return replace(graph, data=data)
