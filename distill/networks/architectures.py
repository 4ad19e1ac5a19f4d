"""Which networks may be made, and with which arguments: registered names and plain values, nothing that opens a file or the network.

Owns: check_architecture, check_spec, the arguments a spec may give and their ranges. Does not own: making the network (nets.py), names
as a user types them (students.py), the configs of encoders (encoder_folder.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED
from distill.networks.encoder_folder import check_config
from distill.networks.encoders import PREFIX, SHUFFLENETS, TORCHVISION, TokenPooling
from distill.networks.json_values import is_count, is_number, shown
from distill.networks.own import NAME
from distill.networks.own import PREFIX as OWN
from distill.networks.slices import Pooling
from distill.networks.solid import WIDTHS, is_solid
from runtimes.errors import USAGE, UserError
from runtimes.images.volumes import MAX_SLICES
from runtimes.scores import Task

SIDES = (8, 4096)  # pixels; ImageSpec takes the same
MOST_CLASSES = 100_000
MOST_WIDTH = 65_536  # of a layer, of an adapter's factors together
MOST_BLOCKS = 256
LAYERS = ("SwiGLUPacked",)  # of timm.layers, which timm takes as classes, not by name
REGISTERED = re.compile(r"\w+(\.[\w-]+)?")  # a scheme such as hf-hub: or local-dir: has a colon, a path a slash


def _counts(most: int) -> Callable[[Any], bool]:
    return lambda value: (isinstance(value, list | tuple) and 0 < len(value) <= 16 and all(is_count(entry, 1, most) for entry in value))


# What shapes a network and cannot reach beyond it. timm takes many more, among them names of files and of places in the network.
ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "distillation": (lambda value: isinstance(value, bool), "true or false"),
    "layers": (_counts(MOST_BLOCKS), f"numbers from 1 to {MOST_BLOCKS}"),
    "channels": (_counts(MOST_WIDTH), f"numbers from 1 to {MOST_WIDTH}"),
    "drop_rate": (lambda value: is_number(value, 0, 0.99), "a number from 0 to 0.99"),
    "drop_path_rate": (lambda value: is_number(value, 0, 0.99), "a number from 0 to 0.99"),
    "init_values": (lambda value: is_number(value, 0, 1), "a number from 0 to 1"),
    "global_pool": (lambda value: value in ("avg", "token", "map"), "avg, token or map"),
    "reg_tokens": (lambda value: is_count(value, 0, 64), "a number from 0 to 64"),
    "patch_size": (lambda value: is_count(value, 1, 64), "a number from 1 to 64"),
    "embed_dim": (lambda value: is_count(value, 1, MOST_WIDTH), f"a number from 1 to {MOST_WIDTH}"),
    "depth": (lambda value: is_count(value, 1, MOST_BLOCKS), f"a number from 1 to {MOST_BLOCKS}"),
    "num_heads": (lambda value: is_count(value, 1, 1024), "a number from 1 to 1024"),
    "mlp_ratio": (lambda value: is_number(value, 0.1, 16), "a number from 0.1 to 16"),
    "no_embed_class": (lambda value: isinstance(value, bool), "true or false"),
    "act_layer": (lambda value: value in ("gelu", "silu"), "gelu or silu"),
    "mlp_layer": (lambda value: value in LAYERS, f"one of {', '.join(LAYERS)}"),
    "pooling": (lambda value: value in ("cls", "mean", "cls+mean"), "cls, mean or cls+mean"),  # ours, of its tokens; not timm's
}


def check_architecture(arch: Any, arguments: Mapping[str, Any]) -> None:
    """UserError unless `arch` is a registered network and every argument is on the list, of its type and in its range."""
    import timm

    if not isinstance(arch, str):
        raise UserError(f"the architecture is {shown(arch)}, expected the name of a network, such as resnet18")
    if arch.startswith(PREFIX):
        if not {"config", "features"} <= set(arguments) <= {"config", "features", "pooling", "pooler"} or not is_count(
                arguments["features"], 1, MOST_WIDTH):
            raise UserError(f"{arch} comes with {shown(sorted(arguments))}, expected its config and the width of its features")
        if arguments.get("pooling", "auto") not in get_args(TokenPooling) or not isinstance(arguments.get("pooler", True), bool):
            raise UserError(f"{arch} comes with pooling {shown(arguments.get('pooling'))} and pooler {shown(arguments.get('pooler'))}, "
                            f"expected one of {', '.join(get_args(TokenPooling))}, and true or false")
        check_config(arguments["config"], f"the config of {arch}", arch.removeprefix(PREFIX))
        return
    if arch.startswith(OWN):
        width = arguments.get("features")
        if not NAME.fullmatch(arch.removeprefix(OWN)) or set(arguments) != {"features"} or not is_count(width, 1, MOST_WIDTH):
            raise UserError(f"{shown(arch)} comes with {shown(dict(arguments))}, expected a plain name and the width of its features")
        return
    if is_solid(arch):
        if arch not in WIDTHS or not set(arguments) <= {"channels", "ras"} or arguments.get("channels", 1) not in (1, 3) or not isinstance(
                arguments.get("ras", False), bool):
            raise UserError(f"{shown(arch)} comes with {shown(dict(arguments))}, expected one of {', '.join(WIDTHS)} with 1 or 3 channels")
        return
    if arch.startswith(TORCHVISION):
        if arch not in SHUFFLENETS:
            raise UserError(f"of torchvision only {', '.join(SHUFFLENETS)} are students; found {shown(arch)}", USAGE)
    elif not REGISTERED.fullmatch(arch) or not timm.is_model(arch):
        raise UserError(f"timm cannot make {shown(arch)}: it is no registered network; only such names are taken, and no file, folder or "
                        "address in their place")
    for name, value in arguments.items():
        if name not in ARGUMENTS or arch.startswith(TORCHVISION):
            raise UserError(f"timm cannot make {arch} with {shown(name)}: a model spec may only give {', '.join(ARGUMENTS)}, "
                            "which open no file and no connection")
        fits, expected = ARGUMENTS[name]
        if not fits(value):
            raise UserError(f"timm cannot make {arch} with {name} {shown(value)}, expected {expected}")


def check_spec(content: Any) -> None:
    """UserError unless a model spec read from JSON has the types and ranges of one; its network is not made."""
    if not isinstance(content, Mapping):
        raise UserError(f"model spec is {shown(content)}, expected an object with arch, height, width, task and classes")
    missing = [name for name in ("arch", "height", "width", "task", "classes") if name not in content]
    if missing:
        raise UserError(f"model spec is not complete: it lacks {', '.join(missing)}")
    classes = content["classes"]
    checks: list[tuple[str, bool, str]] = [
        ("height", is_count(content["height"], *SIDES), f"a whole number from {SIDES[0]} to {SIDES[1]}"),
        ("width", is_count(content["width"], *SIDES), f"a whole number from {SIDES[0]} to {SIDES[1]}"),
        ("task", content["task"] in get_args(Task), f"one of {', '.join(get_args(Task))}"),
        ("classes", isinstance(classes, list | tuple) and 0 < len(classes) <= MOST_CLASSES
         and all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes), "a list of different names"),
        ("arguments", isinstance(content.get("arguments", {}), Mapping), "an object"),
        ("adapters", isinstance(content.get("adapters", {}), Mapping), "an object"),
        ("slices", is_count(content.get("slices", 0), 0, MAX_SLICES), f"a whole number from 0 to {MAX_SLICES}"),
        ("pooling", content.get("pooling", "mean") in get_args(Pooling), f"one of {', '.join(get_args(Pooling))}"),
        ("cuts", are_cuts(content.get("cuts", {})), "shapes of tensors and sizes of modules"),
    ]
    for name, right, expected in checks:
        if not right:
            raise UserError(f"model spec: {name} is {shown(content[name])}, expected {expected}")
    if len(classes) < 2 and content["task"] != "multilabel":
        raise UserError(f"model spec: classes is {shown(classes)}, expected at least two for {content['task']}")
    if isinstance(content["arch"], str) and is_solid(content["arch"]) and not content.get("slices"):
        raise UserError(f"model spec: {shown(content['arch'])} sees volumes, and slices is {shown(content.get('slices', 0))}; expected how "
                        "many there are")
    for layer, adapter in content.get("adapters", {}).items():
        check_adapter(layer, adapter)
    check_architecture(content["arch"], content.get("arguments", {}))
    if content["arch"].startswith(OWN) and (content.get("cuts") or content.get("adapters")):
        raise UserError(f"model spec: {content['arch']} comes with {'cuts' if content.get('cuts') else 'adapters'}, which no network has "
                        "that is kept as a program")


def check_adapter(layer: str, adapter: Any) -> None:
    """UserError unless the adapter of a layer, read from JSON, has the types and ranges of one."""
    known = {"experts": lambda value: is_count(value, 1, 4096), "rank": lambda value: is_count(value, 1, MOST_WIDTH),
             "scale": is_number, "gate": lambda value: value in ("none", "linear", "mlp"),
             "hidden": lambda value: is_count(value, 1, MOST_WIDTH), "top_k": lambda value: is_count(value, 0, 4096),
             "constant": lambda value: isinstance(value, bool), "members": lambda value: is_count(value, 1, 4096),
             "standardised": lambda value: isinstance(value, bool) and (layer == POOLED or not value)}
    if not isinstance(adapter, Mapping):
        raise UserError(f"model spec: the adapter of {shown(layer)} is {shown(adapter)}, expected an object")
    for name, value in adapter.items():
        if name not in known or not known[name](value):
            raise UserError(f"model spec: the adapter of {shown(layer)} has {shown(name)} {shown(value)}, which no adapter here has")
    whole = AdapterSpec(**adapter)
    if whole.experts * whole.rank > MOST_WIDTH:
        raise UserError(f"model spec: the adapter of {shown(layer)} has {whole.experts} experts of rank {whole.rank}, "
                        f"expected {MOST_WIDTH} ranks together at most")


def are_cuts(cuts: Any) -> bool:
    """Whether a value of a JSON file is what pruning left: {"shapes": {tensor: sizes}, "sizes": {module: {attribute: sizes}}}."""
    def sizes(value: Any) -> bool:
        return is_count(value, 0, 2**31) or (isinstance(value, list | tuple) and len(value) <= 8
                                             and all(is_count(entry, 0, 2**31) for entry in value))

    return (isinstance(cuts, Mapping) and set(cuts) <= {"shapes", "sizes"} and all(isinstance(part, Mapping) for part in cuts.values())
            and all(isinstance(shape, list | tuple) and sizes(shape) for shape in cuts.get("shapes", {}).values())
            and all(isinstance(module, Mapping) and all(map(sizes, module.values())) for module in cuts.get("sizes", {}).values()))
