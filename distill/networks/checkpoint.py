"""A trained model as a folder: config.json, preprocessor_config.json, model.safetensors, readable by timm, transformers and Optimum.

Owns: Checkpoint, Calibration, writing and strict reading. Does not own: what config.json says to other libraries (foreign_config.py),
reports and metrics beside it, the manifest's facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.networks.architectures import SIDES
from distill.networks.foreign_config import foreign_config, preprocessor_config
from distill.networks.json_values import is_count, is_number, shown
from distill.networks.models import Model, ModelSpec, build_model, feature_width
from distill.networks.own import PREFIX as OWN
from distill.networks.own import PROGRAM, OwnNet, load_body, save_body
from runtimes.artifact.claims import calibration_problem
from runtimes.errors import UserError
from runtimes.files.folder import check_files, read_json, read_manifest, write_atomic, write_json
from runtimes.images.spec import ImageSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"
EVERY_CLASS = "every class"  # what one temperature for all classes is kept under
UNTESTED = "fitted by an earlier version, which did not test it on other images"


@dataclass(frozen=True)
class Calibration:
    """Temperatures (one, or one a label for multi-label) and, for multi-label, the decision threshold of each label.

    not_calibrated: why a temperature is not shown to help, by class (multi-label) or under EVERY_CLASS; empty where each is.
    few_images: on how few images a threshold rests, by class.
    """

    temperatures: tuple[float, ...] = (1.0,)
    thresholds: tuple[float, ...] = ()
    not_calibrated: dict[str, str] = field(default_factory=dict)
    few_images: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Whether probabilities are calibrated, in words, and why where they are not."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.not_calibrated.items():
            reasons.setdefault(reason, []).append(name)
        if not reasons:
            return "calibrated"
        if len(reasons) == 1 and len(self.not_calibrated) == len(self.temperatures):
            return f"not calibrated ({next(iter(reasons))})"
        parts = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        count = len(self.temperatures) - len(self.not_calibrated)
        return (f"calibrated for {count} of {len(self.temperatures)} findings, not for {parts}" if count else f"not calibrated: {parts}")


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything a device must know about it; `manifest` is the folder's own record."""

    model: Model
    image_spec: ImageSpec
    calibration: Calibration
    manifest: dict[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """The model's spec: architecture, task, classes."""
        return self.model.spec


def save_checkpoint(folder: Path, model: Model, image_spec: ImageSpec, calibration: Calibration,
                    licences: dict[str, str] | None = None) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors into an existing folder; the manifest comes later.

    A network of the user's own is written as a program beside them, in place of its code.
    """
    spec = model.spec
    write_json(folder / CONFIG, config_of(model, image_spec, calibration, licences))
    write_json(folder / "preprocessor_config.json", preprocessor_config(image_spec))
    if spec.arch.startswith(OWN):
        assert isinstance(model.net, OwnNet)
        save_body(folder / PROGRAM, model.net.body, spec.height, spec.width)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    if spec.arch.startswith(OWN):
        state = {name: tensor.clone() for name, tensor in state.items()}  # layers of one's own may share weights, which the file cannot
    write_atomic(folder / WEIGHTS, weights_bytes(state))


def config_of(model: Model, image_spec: ImageSpec, calibration: Calibration, licences: dict[str, str] | None = None) -> dict[str, Any]:
    """The content of a model's config.json."""
    return {
        **foreign_config(model.spec, image_spec, feature_width(model)),
        "rd": {
            "model": model.spec.as_dict(),
            "image": image_spec.as_dict(),
            "temperatures": list(calibration.temperatures),
            "thresholds": list(calibration.thresholds),
            "not_calibrated": calibration.not_calibrated,
            "few_images": calibration.few_images,
            "licences": licences or {},
        },
    }


def weights_bytes(state: dict[str, Tensor]) -> bytes:
    """The bytes of model.safetensors: the same for the same tensors."""
    from safetensors.torch import save

    return save(state, metadata={"format": "pt"})


def load_checkpoint(folder: Path, *kinds: str) -> Checkpoint:
    """Read a student or teacher folder strictly, on the CPU, in eval mode; every file must have the bytes the manifest names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(folder, *(kinds or ("student", "teacher")))
    check_files(folder, manifest)
    spec, image_spec, calibration = read_config(folder)
    model = _own_model(spec, folder) if spec.arch.startswith(OWN) else build_model(spec)
    try:
        model.net.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} does not fit {spec.arch}: {str(error).splitlines()[0]}") from None
    return Checkpoint(model.eval(), image_spec, calibration, manifest)


def _own_model(spec: ModelSpec, folder: Path) -> Model:
    """A network of the user's own from its program, its head still random."""
    if not (folder / PROGRAM).is_file():
        raise UserError(f"{folder} lacks {PROGRAM}, which holds the network {spec.arch}; copy the folder again")
    features = int(spec.arguments["features"])
    return Model(spec, OwnNet(load_body(folder / PROGRAM, features, spec.height, spec.width), features, spec.outputs))


def read_config(folder: Path) -> tuple[ModelSpec, ImageSpec, Calibration]:
    """What config.json says of a model, every value checked; its weights are not looked at."""
    return parse_config(read_json(folder / CONFIG), folder / CONFIG)


def parse_config(content: dict[str, Any], path: Path) -> tuple[ModelSpec, ImageSpec, Calibration]:
    """What the content of a config.json says of a model, every value checked; path: where it stands, for errors."""
    record = content.get("rd")
    missing = (["rd"] if not isinstance(record, dict) else
               [name for name in ("model", "image", "temperatures", "thresholds") if name not in record])
    if not isinstance(record, dict) or missing:
        raise UserError(f"{path} lacks {', '.join(map(repr, missing))}; expected a folder written by rd-distill")
    try:
        spec = ModelSpec.from_dict(record["model"])
        image_spec = ImageSpec.from_dict(record["image"])
    except UserError as error:
        raise UserError(f"{path}: {error}", error.exit_code) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: the image spec cannot be read ({error}); expected a folder written by rd-distill") from None
    strange = next((number for number in _numbers(image_spec.as_dict()) if not is_number(number)), None)
    if strange is not None or not (is_count(image_spec.height, *SIDES) and is_count(image_spec.width, *SIDES)):
        raise UserError(f"{path}: the image spec holds {shown(image_spec.as_dict() if strange is None else strange)}, expected finite "
                        "numbers and whole sizes")
    if (spec.height, spec.width, spec.slices) != (image_spec.height, image_spec.width, image_spec.slices):
        raise UserError(f"{path}: the network takes {spec.height}x{spec.width} pixels and {spec.slices} slices, the images have "
                        f"{image_spec.height}x{image_spec.width} and {image_spec.slices}; expected the same")
    for name in ("temperatures", "thresholds"):
        if not isinstance(record[name], list):
            raise UserError(f"{path}: {name} is {shown(record[name])}, expected a list of numbers")
    scales, cuts = record["temperatures"], record["thresholds"]
    if problem := calibration_problem(spec.task, spec.classes, scales, cuts):
        raise UserError(f"{path}: {problem}; make the folder again")
    names = spec.classes if spec.task == "multilabel" else (EVERY_CLASS,)
    reasons = _sentences(record, "not_calibrated", dict.fromkeys(names, UNTESTED))
    return spec, image_spec, Calibration(tuple(scales), tuple(cuts), reasons, _sentences(record, "few_images", {}))


def _numbers(value: Any) -> Iterator[Any]:
    """Every leaf of an image spec that should be a number."""
    if isinstance(value, dict):
        for entry in value.values():
            yield from _numbers(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _numbers(entry)
    elif value is not True and not isinstance(value, str):  # true: `solid`, which the schema knows
        yield value


def _sentences(record: dict[str, Any], key: str, absent: dict[str, str]) -> dict[str, str]:
    """What a record says of classes under a key, or what its absence means."""
    sentences = record.get(key, absent)
    if not isinstance(sentences, dict) or not all(isinstance(sentence, str) for sentence in sentences.values()):
        raise UserError(f"config.json: rd.{key} is {str(sentences)[:80]!r}, expected a sentence by class as rd-distill writes it")
    return sentences
