"""The network as it is deployed: raw pixels in, logits and calibrated probabilities out.

Owns: DeployedGraph (image input), VolumeGraph (slices and mask), SolidGraph (volumes seen at once), TensorGraph (`pixel_values` input).
Does not own: writing ONNX (to_onnx.py). The order of operations is chosen for three runtimes: cast before transpose
(TensorRT), mean/std before the resize matrices (OpenVINO).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.networks.checkpoint import Calibration
from distill.networks.models import Model
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec

TORCH_DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "int16": torch.int16}


class DeployedGraph(nn.Module):
    """`image` (B, H, W, C) of raw grey levels to `logits` and `probabilities` (B, classes), float32.

    graph_size is (H, W); where it is not the model size, the antialiased resize is part of the graph as two constant matrices.
    """

    def __init__(self, model: Model, spec: ImageSpec, calibration: Calibration, graph_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.task = model.spec.task
        self.span, self.windows, self.physical = spec.window, spec.channel_windows, spec.physical
        self.windowed = spec.window != (0.0, 255.0) or spec.dtype != "uint8"
        # (level / 255 - mean) / std in two operations; a grey image is broadcast to three channels here.
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", (255.0 * torch.tensor(spec.mean, dtype=torch.float64)).float().view(1, 3, 1, 1))
        self.register_buffer("factor", (1.0 / (255.0 * torch.tensor(spec.std, dtype=torch.float64))).float().view(1, 3, 1, 1))
        if spec.interpolation != "bilinear":
            raise UserError(f"students are resized by bilinear filtering, found {spec.interpolation}; make the student again")
        self.resizes = not spec.keeps(*graph_size)
        self.pads = self.resizes and spec.fit == "pad"
        self.rows: Tensor
        self.columns: Tensor
        self.black: Tensor
        if self.resizes:
            rows, columns = (torch.from_numpy(matrix.copy()) for matrix in spec.matrices(*graph_size))
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns.T.contiguous())
            if self.pads:  # what the matrices leave zero is black, and here mean and std are applied before them
                outside = 1.0 - (rows.sum(1, keepdim=True) @ columns.sum(1, keepdim=True).T).round()
                self.register_buffer("black", outside * (-self.mean * self.factor))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(calibration.temperatures, dtype=torch.float32).view(1, -1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raw levels (B, H, W, C) to logits and probabilities (B, classes)."""
        logits = self.model(self.pixels(image))
        return logits, self.probabilities(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities (B, classes)."""
        scaled = logits / self.temperature
        return torch.sigmoid(scaled) if self.task == "multilabel" else torch.softmax(scaled, dim=1)

    def pixels(self, image: Tensor) -> Tensor:
        """Raw levels (B, H, W, C) to what the network sees, (B, 3, h, w)."""
        pixels = (self.shown(image) - self.mean) * self.factor
        if not self.resizes or self.physical:
            return pixels
        resized = self.rows @ (pixels @ self.columns)
        return resized + self.black if self.pads else resized

    def shown(self, image: Tensor) -> Tensor:
        """Raw levels (B, H, W, C) to grey levels from 0 to 255, (B, 1 or 3, H, W); physical values also resized."""
        levels = image.to(torch.float32).permute(0, 3, 1, 2)
        if self.physical and self.resizes:  # physical values are resized first: windows bend them
            low, high = self.span
            levels = self.rows @ ((torch.clamp(levels, low, high) - low) @ self.columns) + low
        if self.windowed:
            shown = [torch.clamp((levels - low) * (255.0 / (high - low)), 0.0, 255.0) for low, high in self.windows]
            levels = torch.cat(shown, dim=1) if len(shown) > 1 else shown[0]
        return levels


class VolumeGraph(nn.Module):
    """`image` (B, S, h, w, C) of slices and `mask` (B, S), uint8, to `logits`, `probabilities` and `attention` (B, S), float32.

    Missing slices have any pixels and mask 0: they weigh nothing.
    """

    def __init__(self, model: Model, spec: ImageSpec, calibration: Calibration) -> None:
        super().__init__()
        self.slices = spec.slices
        self.image = DeployedGraph(model, spec, calibration, (spec.height, spec.width))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slices and mask to logits, probabilities, and what each slice weighed."""
        model = self.image.model
        pixels = self.image.pixels(image.to(torch.float32).flatten(0, 1))
        features = model.adapted(model.trunk(pixels).unflatten(0, (-1, self.slices)))
        attention = model.slice_pool.weights(features, mask.to(torch.float32))
        logits = model.logits((attention.unsqueeze(-1) * features).sum(dim=1))
        return logits, self.image.probabilities(logits), attention


class SolidGraph(nn.Module):
    """`image` (B, S, h, w, C), a volume that the network sees at once, to `logits` and `probabilities` (B, classes), float32."""

    def __init__(self, model: Model, spec: ImageSpec, calibration: Calibration) -> None:
        super().__init__()
        self.slices = spec.slices
        self.image = DeployedGraph(model, spec, calibration, (spec.height, spec.width))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The volume to logits and probabilities."""
        levels = self.image.shown(image.to(torch.float32).flatten(0, 1)).unflatten(0, (-1, self.slices))
        # Here and not before they are slices again: OpenVINO takes a scale a channel for one of int8, and moves it wrongly past a reshape.
        logits = self.image.model((levels - self.image.mean) * self.image.factor)
        return logits, self.image.probabilities(logits)


class TensorGraph(nn.Module):
    """`pixel_values` (B, 3, h, w), normalised float32, to `logits` (B, classes): the plain graph that Optimum loads."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels to logits."""
        logits: Tensor = self.model(pixel_values)
        return logits


def example_input(spec: ImageSpec, input_kind: str, graph_size: tuple[int, int]) -> tuple[Tensor, ...]:
    """A batch of 2 for tracing: an example batch of 1 would freeze the batch."""
    if input_kind == "tensor":
        return (torch.zeros(2, 3, spec.height, spec.width),)
    stack = (spec.slices,) if spec.slices else ()
    image = torch.zeros(2, *stack, *graph_size, spec.channels, dtype=TORCH_DTYPES[spec.dtype])
    return (image, torch.ones(2, spec.slices, dtype=torch.uint8)) if spec.masked else (image,)
