"""A network that no library knows, and its .pt2 file.

Owns: Body, write_program. Does not own: what a teacher makes of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn


class Body(nn.Module):
    """Something no library knows: two convolutions."""

    def __init__(self, channels: int = 3, answer: str = "map") -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)
        self.answer = answer

    def forward(self, pixels: torch.Tensor) -> Any:
        maps = self.norm(self.first(pixels)).relu()
        return {"map": maps, "vector": maps.mean((2, 3)), "pair": (maps, maps)}[self.answer]


def write_program(path: Path, net: nn.Module, shape: tuple[int, ...] = (2, 3, 32, 32), dynamic: Any = None) -> Path:
    dynamic = dynamic if dynamic is not None else {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(net.eval(), (torch.zeros(shape),), dynamic_shapes=(dynamic,))
    torch.export.save(program, path)
    return path
