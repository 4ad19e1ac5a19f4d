"""How a teacher is run over the bank's pixels: PyTorch eager, or the same network through ONNX Runtime on a CPU.

Owns: the two ways and the choice between them. Does not own: the bank, which audits either against PyTorch.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks.weight_files import first_line
from distill.teacher.banking import Forward
from distill.teacher.onnx_graph import OnnxNet
from distill.teacher.teacher import Teacher, pooled
from runtimes.backends.ort import load_runtime
from runtimes.errors import UserError

MOST_STAGES = 6


def choose_forward(teacher: Teacher, runtime: Literal["auto", "torch", "onnx"], *, device: str, grid: int,
                   threads: int | None) -> tuple[Forward, str]:
    """The way to run a teacher, and its name; `auto` takes ONNX Runtime for pooled features on a CPU when it can export."""
    if any(isinstance(module, OnnxNet) for module in teacher.net.modules()):
        return torch_forward(teacher, "cpu", grid), "ONNX Runtime"  # a graph of its own; it shows no stages, which is said there
    if runtime == "torch" or (runtime == "auto" and (device != "cpu" or grid > 0)):
        return torch_forward(teacher, device, grid), "PyTorch"
    if grid:
        raise UserError("--bank-runtime onnx banks pooled features alone; use --bank-runtime torch with --bank-grid", 2)
    try:
        return onnx_forward(teacher, threads), "ONNX Runtime"
    except Exception as error:  # the exporter raises many types for what it cannot trace
        if runtime == "onnx":
            raise UserError(f"teacher {teacher.name} cannot be exported ({type(error).__name__}: {first_line(error)[:120]});"
                            " use --bank-runtime torch") from None
        return torch_forward(teacher, device, grid), "PyTorch (the teacher does not export to ONNX)"


def torch_forward(teacher: Teacher, device: str = "cpu", grid: int = 0) -> Forward:
    """Pooled features, and with a grid also every stage's map pooled to grid x grid, through PyTorch."""
    net = teacher.net.to(device)
    if grid:
        body: Any = getattr(net, "net", None) or getattr(getattr(net, "model", None), "net", None)
        if body is None or not hasattr(body, "forward_intermediates"):
            raise UserError(f"teacher {teacher.name} shows no stages; leave --bank-grid out", 2)

    def run(pixels: Tensor) -> dict[str, Tensor]:
        pixels = pixels.to(device, memory_format=torch.channels_last) if pixels.ndim == 4 else pixels.to(device)
        with torch.no_grad():
            features = {"pooled": pooled(net(pixels), teacher.name).float()}
            if grid:
                maps = evenly(body.forward_intermediates(pixels, intermediates_only=True, output_fmt="NCHW"))
                features |= {f"stage{index}": F.adaptive_avg_pool2d(stage, grid).float() for index, stage in enumerate(maps)}
        return features

    return run


def evenly(maps: Sequence[Tensor]) -> list[Tensor]:
    """All stages of a network that has few; four of the many blocks of a ViT, evenly spread, the last among them."""
    count = len(maps)
    return list(maps) if count <= MOST_STAGES else [maps[round((index + 1) * count / 4) - 1] for index in range(4)]


class _Pooled(nn.Module):
    """A teacher with its pooling, as one graph."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.net = teacher.net
        self.teacher_name = teacher.name

    def forward(self, pixels: Tensor) -> Tensor:
        return pooled(self.net(pixels), self.teacher_name)


def onnx_forward(teacher: Teacher, threads: int | None = None) -> Forward:
    """Pooled features through ONNX Runtime on the CPU, fp32: a graph made for this run and thrown away."""
    onnxruntime = load_runtime()
    spec = teacher.image_spec
    example = torch.zeros(2, *((spec.slices,) if spec.slices else ()), 3, spec.height, spec.width)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's deprecations inside torch are not the user's
        path = Path(folder) / "teacher.onnx"
        program = torch.onnx.export(_Pooled(teacher).eval(), (example,), dynamo=True, external_data=False, verbose=False,
                                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), input_names=["pixels"])
        assert program is not None
        program.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> dict[str, Tensor]:
        return {"pooled": torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])}

    return run
