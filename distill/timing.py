"""How fast a still untrained student is on a real runtime: exported as it would ship, and timed.

Owns: the graph that stands for the artifact, its p90 latency. Does not own: the artifact's own graph and figures (export, rd-bench).
Latency hardly depends on weights, so a student can be chosen before it is trained.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.deployed import reparameterised
from distill.models import Model
from distill.students import first_line
from runtimes.errors import MISSING, UserError
from runtimes.latency import measure
from runtimes.ort import OrtSession

Target = Literal["onnx", "openvino"]
WARMUP_S, SAMPLES, SECONDS = 0.3, 200, 1.5
MARGIN = 1.05  # a run measured again later differs by some percent: the figure a budget is held against is this much higher


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
    """The p90 of single calls in milliseconds, batch 1, on this machine, with a margin of 5 %; UserError when it does not export."""
    call = open_call(model, target, threads)
    start, warmups = time.monotonic(), 0
    while time.monotonic() - start < WARMUP_S or warmups < 10:
        call()
        warmups += 1
    each = WARMUP_S / warmups
    found = measure(call, warmups=0, samples=max(SAMPLES, min(5000, int(SECONDS / each))))
    return found.percentiles_ms()["p90_ms"] * MARGIN


def example(model: Model) -> NDArray[np.uint8]:
    """One raw image, or volume, of noise as the graph takes it."""
    spec = model.spec
    shape = (1, *((spec.slices,) if spec.slices else ()), spec.height, spec.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def open_call(model: Model, target: Target = "onnx", threads: int = 1) -> Callable[[], Any]:
    """A call without arguments that runs the exported student on one example and returns the runtime's answer."""
    levels = example(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        _export(model, path, levels)
        if target == "onnx":
            session = OrtSession(path, threads=threads)
            return lambda: session.run(levels)
        try:
            import openvino
        except ImportError:
            raise UserError("--latency-target openvino needs openvino; pip install 'rd-distill[openvino]'", MISSING) from None
        core: Any = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        return lambda: request.infer({"image": levels})


def _export(model: Model, path: Path, levels: NDArray[np.uint8]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's deprecations inside torch are not the user's
            program = torch.onnx.export(Shipped(model).eval(), (torch.from_numpy(levels),), dynamo=True,
                                        external_data=False, verbose=False, input_names=["image"])
        assert program is not None
        program.save(path)
    except Exception as error:  # the exporter raises many types for what it cannot trace
        raise UserError(f"{model.spec.arch} cannot be exported, so it cannot be timed ({type(error).__name__}: "
                        f"{first_line(error)[:120]}); give --max-macs in place of --max-latency-ms") from None
