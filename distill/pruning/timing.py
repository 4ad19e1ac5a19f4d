"""How fast a still untrained student is on a real runtime: exported as it would ship, and timed.

Owns: the graph that stands for the artifact, its p90 latency. Does not own: the artifact's own graph and figures (export, rd-bench).
Latency hardly depends on weights, so a student can be chosen before it is trained.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.networks.deployed import reparameterised
from distill.networks.models import Model, ModelSpec, build_model, count_macs, count_parameters
from distill.networks.weight_files import first_line
from runtimes.backends.machine import allowed_cores
from runtimes.backends.ort import OrtSession
from runtimes.errors import UserError
from runtimes.files.strict_json import strict_json
from runtimes.measure.device_table import predicted_ms
from runtimes.measure.latency import measure

Target = Literal["onnx", "openvino"]
WARMUP_S, SAMPLES, SECONDS = 0.3, 200, 1.5
MARGIN = 1.1  # a run measured again later differs by some percent: the figure a budget is held against is this much higher


class Shipped(nn.Module):
    """A student as its artifact holds it: raw grey levels (B, h, w, 3) or (B, S, h, w, 3) in, probabilities out."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = reparameterised(model)
        self.register_buffer("mean", torch.full((3, 1, 1), 127.5))
        self.register_buffer("std", torch.full((3, 1, 1), 64.0))

    def forward(self, image: Tensor) -> Tensor:
        pixels = (image.float().movedim(-1, -3) - self.mean) / self.std
        return self.model(pixels).softmax(1)  # type: ignore[no-any-return]


def latency_ms(model: Model, target: Target = "onnx", threads: int = 1) -> float:
    """The p90 of single calls in milliseconds, batch 1, on this machine, with a margin of 10 %; UserError when it does not export."""
    return p90_ms(open_call(model, target, threads))


def elsewhere_ms(model: Model, table: Mapping[str, Any], target: Target = "onnx", threads: int = 1) -> float:
    """The p90 of single calls in milliseconds on the device of a latency table, by rd-bench; nothing is timed here."""
    macs = count_macs(model, model.spec.height, model.spec.width)
    return predicted_ms(table, student=model.spec.arch, params=count_parameters(model), macs=macs,
                        size=(model.spec.height, model.spec.width), target=target, threads=threads)[0]


def p90_ms(call: Callable[[], Any], least: int = SAMPLES, seconds: float = SECONDS) -> float:
    """The p90 of a call in milliseconds after a warm-up, over so many samples or seconds, whichever is more; with the margin."""
    start, warmups = time.monotonic(), 0
    while time.monotonic() - start < WARMUP_S or warmups < 10:
        call()
        warmups += 1
    each = WARMUP_S / warmups
    timing = measure(call, warmups=0, samples=max(least, min(5000, int(seconds / each))))
    return timing.percentiles_ms()["p90_ms"] * MARGIN


def timed_apart(specs: list[ModelSpec], target: Target = "onnx", threads: int = 1,
                progress: Callable[[int, int, str], None] | None = None) -> list[float | str]:
    """The latency of many students, or why one has none: exported by several processes, then timed here one after another.

    To compare students: a third of the samples of latency_ms.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = min(len(specs), 4, allowed_cores())
        running = []
        for part in range(parts):
            (folder / f"{part}.json").write_text(json.dumps([[index, specs[index].as_dict()] for index in range(part, len(specs), parts)]))
            running.append(subprocess.Popen([sys.executable, "-m", "distill.pruning.timing", str(folder / f"{part}.json")],
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        while any(process.poll() is None for process in running):
            time.sleep(0.2)
            if progress:
                progress(len([*folder.glob("*.onnx"), *folder.glob("*.txt")]), 2 * len(specs), "export")
        answers: list[float | str] = []
        for index, spec in enumerate(specs):
            if (folder / f"{index}.onnx").is_file():
                call = open_file(folder / f"{index}.onnx", example(spec), target, threads)
                answers.append(p90_ms(call, SAMPLES // 3, SECONDS / 3))
            else:
                reason = folder / f"{index}.txt"
                answers.append(reason.read_text() if reason.is_file() else "cannot be exported: the exporter's process died")
            if progress:
                progress(len(specs) + index + 1, 2 * len(specs), "time")
    return answers


def example(spec: ModelSpec) -> NDArray[np.uint8]:
    """One raw image, or volume, of noise as the graph takes it."""
    shape = (1, *((spec.slices,) if spec.slices else ()), spec.height, spec.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def open_call(model: Model, target: Target = "onnx", threads: int = 1) -> Callable[[], Any]:
    """A call without arguments that runs the exported student on one example and returns the runtime's answer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        export_untrained(model, path)
        return open_file(path, example(model.spec), target, threads)


def open_file(path: Path, levels: NDArray[np.uint8], target: Target = "onnx", threads: int = 1) -> Callable[[], Any]:
    """A call without arguments that runs an exported student on one example."""
    if target == "onnx":
        session = OrtSession(path, threads=threads)
        return lambda: session.run(levels)
    from runtimes.backends.ov import OpenVinoSession

    compiled = OpenVinoSession(path, threads=threads)
    return lambda: compiled.run(levels)


def export_untrained(model: Model, path: Path) -> None:
    """Write a student's graph as it would ship; UserError when it cannot be exported."""
    levels = torch.from_numpy(example(model.spec))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's deprecations inside torch are not the user's
            program = torch.onnx.export(Shipped(model).eval(), (levels,), dynamo=True, external_data=False, verbose=False,
                                        input_names=["image"])
        assert program is not None
        program.save(path)
    except Exception as error:  # the exporter raises many types for what it cannot trace
        raise UserError(f"{model.spec.arch} cannot be exported, so it cannot be timed ({type(error).__name__}: "
                        f"{first_line(error)[:120]}); give --max-macs in place of --max-latency-ms") from None


def _export_all(listed: Path) -> None:
    """Export the students of a list beside it: what a process of timed_apart does."""
    torch.set_num_threads(1)
    gc.disable()  # a quarter of an export's time, looking for garbage among graphs that are all in use
    for number, (index, content) in enumerate(strict_json(listed.read_text())):
        if number % 8 == 7:
            gc.collect()
        path = listed.parent / f"{index}.onnx"
        try:
            export_untrained(build_model(ModelSpec.from_dict(content)), path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        except UserError as error:
            path.with_suffix(".txt").write_text(str(error))


if __name__ == "__main__":
    _export_all(Path(sys.argv[1]))
