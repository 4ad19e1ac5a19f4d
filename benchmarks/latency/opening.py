"""How long a model takes from its bytes to the first answer, and then an image: model.ort beside the model.onnx it was made from.

    python -m benchmarks.latency.opening            # five students with random weights at 96 px, one thread, turn by turn

Owns: the two times, their ratios. Opening is the device's own: the strict look at the bytes, the session, one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, facts, interleave, ratio, store, timed
from distill.networks.checkpoint import Calibration
from distill.networks.deployed import reparameterised
from distill.networks.models import ModelSpec, build_model
from export.graph.network import DeployedGraph, example_input
from export.graph.to_onnx import to_onnx
from export.targets.ort import to_ort
from runtimes.artifact.targets import TARGETS, Opening, Runtime, Target
from runtimes.images.spec import ImageSpec

STUDENTS = ("mobilenetv3_small_100", "mobilenetv3_large_100", "efficientnet_lite0", "resnet18", "mobilenetv4_conv_small")
SIDE, CALLS = 96, 20


def models(arch: str) -> dict[Target, bytes]:
    """A student with random weights, as ONNX and as .ort."""
    spec = ImageSpec(SIDE, SIDE, 1)
    model = build_model(ModelSpec(arch, SIDE, SIDE, "multiclass", ("a", "b", "c"))).eval()
    graph = DeployedGraph(reparameterised(model), spec, Calibration((1.0,)), (SIDE, SIDE))
    data = to_onnx(graph, example_input(spec, "image", (SIDE, SIDE)), input_names=["image"], output_names=["logits", "probabilities"],
                   opset=18, metadata={})
    return {"onnx": data, "ort": to_ort(data)}


def opened(target: Target, data: bytes) -> Runtime:
    """A model as a device opens it, checks included."""
    TARGETS[target].check((data,))
    return TARGETS[target].open((data,), Opening(target, "fp32", threads=1))


def measured(arch: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of both files, from bytes to the first answer and then a call."""
    files = models(arch)
    image = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE, 1)).astype(np.uint8)

    def first(target: Target) -> Callable[[], list[float]]:
        return lambda: timed(lambda: opened(target, files[target]).run(image))

    def session(target: Target) -> Callable[[], list[float]]:
        return lambda: timed(lambda: TARGETS[target].open((files[target],), Opening(target, "fp32", threads=1)))

    def call(runtime: Runtime) -> Callable[[], list[float]]:
        return lambda: [second for _ in range(CALLS) for second in timed(lambda: runtime.run(image))]

    runtimes = {target: opened(target, data) for target, data in files.items()}
    row: dict[str, Any] = {"student": arch, "bytes": {target: len(data) for target, data in files.items()}}
    for name, calls in (("first_answer", {target: first(target) for target in files}),
                        ("session_alone", {target: session(target) for target in files}),
                        ("call", {target: call(runtime) for target, runtime in runtimes.items()})):
        times = interleave({str(target): call for target, call in calls.items()}, rounds)
        row[name] = {**times, "ort_over_onnx": ratio(times["ort"], times["onnx"])}
    return row


def main() -> None:
    """Measure, print a line a student, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    rows = [measured(arch, given.rounds) for arch in given.students]
    print("student, then ms by the median: first answer ort, onnx, ratio; session alone ort, onnx, ratio; call ort, onnx, ratio")
    for row in rows:
        shown = "; ".join(f"{row[name]['ort']['median_ms']:.2f}, {row[name]['onnx']['median_ms']:.2f}, "
                          f"{row[name]['ort_over_onnx']['median']:.2f}" for name in ("first_answer", "session_alone", "call"))
        print(f"{row['student']}: {shown}")
    store(RESULTS / "opening.json", {"facts": facts(rounds=given.rounds), "rows": rows})


if __name__ == "__main__":
    main()
