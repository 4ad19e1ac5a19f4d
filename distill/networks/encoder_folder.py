"""A folder of a transformers encoder, looked through before transformers sees it; what is not on the list it never sees.

Owns: check_config, check_encoder, and `staged`, a clean copy that holds configs and safetensors alone. Does not own: loading the
encoder (teachers.py), its form (encoders.py). A folder may ask for Python code, for kernels or backbones of the hub, for other files.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.networks.json_values import is_count, shown
from distill.networks.weight_files import read_state
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json

CONFIG, PROCESSOR, WEIGHTS, INDEX = "config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSORS = (PROCESSOR, "processor_config.json")  # where transformers looks for how images are prepared
ADAPTER = "adapter_config.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"  # read as plain tensors, where nothing better is there
HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
SHARD = re.compile(r"[\w.-]+\.(safetensors|bin)")
# Keys by which a config makes transformers run code, fetch something or read other files, and why.
REACHING = {
    **dict.fromkeys(("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"), "would run Python code"),
    **dict.fromkeys(("_attn_implementation", "attn_implementation", "_attn_implementation_internal", "_experts_implementation",
                     "experts_implementation", "_experts_implementation_internal", "use_kernels", "kernel_config"),
                    "would fetch compiled code"),
    **dict.fromkeys(("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs", "architecture", "model_args",
                     "pretrained_cfg"), "would fetch another network"),
    **dict.fromkeys(("transformers_weights", "gguf_file", "quantization_config", "distributed_config"), "would read other files"),
}
PLAIN = (None, False, "", "eager", "sdpa")  # and an empty list or object: values of these keys that reach for nothing
FOREIGN_TYPES = ("timm_wrapper", "timm_backbone")  # of model_type: timm's networks by any name, fetched where they are not known
MOST_BLOCKS = 512
MOST_COUNT = 2**31


def check_config(config: Any, source: str, model_type: str | None = None) -> None:
    """UserError where an encoder's config asks for code, the network or other files, or holds what is no size.

    model_type: that of the architecture, where the config itself need not say one.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise UserError(f"{source} needs transformers; pip install 'rd-distill[teachers]'") from None
    if not isinstance(config, dict):
        raise UserError(f"{source} is {shown(config)}, expected an object")
    kind = config.get("model_type", model_type) if model_type is None else model_type
    if kind in FOREIGN_TYPES:
        raise UserError(f"{source} has model_type {kind!r}, a network of timm in a wrapper; name a folder of rd-distill or rd-adapt, or "
                        "the timm network itself, without hf:")
    _check_part(config, source)
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise UserError(f"{source} has model_type {shown(kind)}, which the installed transformers does not know by itself; code that comes "
                        "with a model is never run")


def _check_part(part: Any, source: str, depth: int = 0) -> None:
    """The same for every object inside a config: backbones and vision towers have configs of their own."""
    if depth > 16:
        raise UserError(f"{source} is nested more than 16 deep, which no config is")
    if isinstance(part, list):
        for entry in part:
            _check_part(entry, source, depth + 1)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in REACHING and not (value in PLAIN or value in ([], {})):
                raise UserError(f"{source} gives {name} {shown(value, 40)}, which {REACHING[name]}; a model that needs it is never loaded: "
                                "take the key out if the model works without it, or export it with torch.export.save to a .pt2 file")
            if name == "model_type" and value in FOREIGN_TYPES:
                raise UserError(f"{source} has a part of model_type {value!r}, which would fetch another network")
            _check_number(str(name), value, source)
            _check_part(value, source, depth + 1)


def _check_number(name: str, value: Any, source: str) -> None:
    blocks = re.search(r"layers?$|depths?$|blocks?$|heads?$|stages?$", name) is not None and not name.startswith(("id2", "out_"))
    most = MOST_BLOCKS if blocks else MOST_COUNT
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, float) and not -1e30 <= entry <= 1e30:
            raise UserError(f"{source} gives {name} {entry}, expected a finite number")
        if isinstance(entry, int) and not isinstance(entry, bool) and not is_count(entry, -MOST_COUNT, most):
            raise UserError(f"{source} gives {name} {shown(entry, 20)}, expected {most} at most")


def check_encoder(folder: Path, source: str, *, weights: bool = True) -> list[str]:
    """Names of the files in an encoder's folder that transformers may see; UserError where it asks for more. Loads no weights."""
    if (folder / ADAPTER).is_file():
        raise UserError(f"{source} holds adapters ({ADAPTER}); " + (
            "name its base as --teacher hf:BASE and this folder as --teacher-adapter" if not (folder / CONFIG).is_file() else
            "move them into a folder of their own and name that as --teacher-adapter"))
    if not (folder / CONFIG).is_file():
        raise UserError(f"{source} cannot be loaded: it has no {CONFIG}; expected a folder written by transformers' save_pretrained")
    check_config(read_json(folder / CONFIG), f"{source}/{CONFIG}")
    configs = [name for name in PROCESSORS if (folder / name).is_file()]
    for name in configs:
        _check_part(read_json(folder / name), f"{source}/{name}")
    return [CONFIG, *configs, *(_weights(folder, source) if weights else [])]


def _weights(folder: Path, source: str) -> list[str]:
    """Names of the files of weights: safetensors, else the files that older versions of transformers wrote."""
    for whole, index in ((WEIGHTS, INDEX), (PICKLED, PICKLED_INDEX)):
        if (folder / whole).is_file():
            return [whole]
        if (folder / index).is_file():
            return [index, *_shards(folder, source, index)]
    raise UserError(f"{source} cannot be loaded: it has no {WEIGHTS} and no {PICKLED}; copy the whole folder")


def _shards(folder: Path, source: str, index: str) -> list[str]:
    names = read_json(folder / index).get("weight_map")
    shards = sorted(set(names.values()), key=str) if isinstance(names, dict) and all(map(_is_text, names.values())) else []
    if not shards:
        raise UserError(f"{source}/{index} names no weights; copy the whole folder")
    for name in shards:
        if not SHARD.fullmatch(name) or not (folder / name).is_file():
            raise UserError(f"{source}/{index} names the file {shown(name)}, expected .safetensors or .bin files that lie in the folder")
    return shards


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _plain_name(shard: str) -> str:
    return f"{shard.removesuffix('.bin')}.safetensors"


@contextmanager
def staged(folder: Path, source: str) -> Iterator[Path]:
    """A temporary folder with the configs of an encoder as they were checked, and links to its safetensors.

    Files of other kinds are read as plain tensors and written there as safetensors: transformers never sees them.
    """
    from safetensors.torch import save_file

    files = check_encoder(folder, source)
    with tempfile.TemporaryDirectory(prefix="rd-encoder-") as name:
        clean = Path(name)
        for file in files:
            if file in (CONFIG, *PROCESSORS):
                content = {name: value for name, value in read_json(folder / file).items() if name != "auto_map"}  # null, as was checked
                write_json(clean / file, content)
            elif file == PICKLED_INDEX:
                names = {name: _plain_name(shard) for name, shard in read_json(folder / file)["weight_map"].items()}
                write_json(clean / INDEX, {"metadata": {}, "weight_map": names})
            elif file.endswith(".bin"):
                save_file({name: value.contiguous().clone() for name, value in read_state(folder / file).items()},
                          clean / (WEIGHTS if file == PICKLED else _plain_name(file)), {"format": "pt"})
            else:
                (clean / file).symlink_to((folder / file).resolve())
        for file in (CONFIG, *PROCESSORS):  # the copies are what is loaded, so they are what must be harmless
            if (clean / file).is_file():
                _check_part(read_json(clean / file), f"{source}/{file}")
        yield clean


def local_folder(source: str, *, weights: bool) -> Path:
    """The folder behind `hf:SOURCE`: itself, or what the hub has under that ID, its configs and, if asked for, its safetensors.

    Naming an ID is asking for the network; with HF_HUB_OFFLINE=1 only what was fetched before is there.
    """
    if source and Path(source).is_dir():
        return Path(source)
    reason = "no such folder"
    if HUB_ID.fullmatch(source):
        from huggingface_hub import snapshot_download

        patterns = [CONFIG, *PROCESSORS, ADAPTER, INDEX, *(["model.safetensors", "model-*.safetensors"] if weights else [])]
        try:
            folder = Path(snapshot_download(source, allow_patterns=patterns))
            if weights and not any(folder.glob("*.safetensors")):
                folder = Path(snapshot_download(source, allow_patterns=[*patterns, PICKLED, PICKLED_INDEX, "pytorch_model-*.bin"]))
            return folder
        except Exception as error:  # hub and network errors of several libraries; the way out is the same
            reason = f"no such folder, and from the hub {type(error).__name__}"
    raise UserError(f"{source} cannot be loaded ({reason}); put the model's folder on this machine and name it: --teacher hf:FOLDER")
