"""A trained model as a folder: config.json, preprocessor_config.json, model.safetensors, readable by timm and Optimum.

Owns: Checkpoint, Calibration, writing and strict reading. Does not own: reports and metrics beside it, the manifest's facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.models import Model, ModelSpec, build_model, feature_width
from distill.nets import takes_image_size
from runtimes.claims import calibration_problem
from runtimes.errors import UserError
from runtimes.folder import check_files, read_json, read_manifest, write_atomic, write_json
from runtimes.images import ImageSpec
from runtimes.schema import anything, check, list_of, mapping_of, object_of, text

WEIGHTS = "model.safetensors"
CONFIG = object_of({}, {"rd": object_of(
    {}, {"model": mapping_of(anything), "image": mapping_of(anything), "temperatures": list_of(anything, 1),
         "thresholds": list_of(anything), "licences": mapping_of(text())}, others=True)}, others=True)


@dataclass(frozen=True)
class Calibration:
    """Temperatures (one, or one a label for multi-label) and, for multi-label, the decision threshold of each label."""

    temperatures: tuple[float, ...] = (1.0,)
    thresholds: tuple[float, ...] = ()


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


def preprocessor_config(spec: ImageSpec) -> dict[str, Any]:
    """The image processor in transformers' keys: resize to model size (bilinear), rescale, normalise."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True, "size": {"height": spec.height, "width": spec.width}, "resample": 2,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(spec.mean), "image_std": list(spec.std),
        "do_convert_rgb": True,
    }


def save_checkpoint(folder: Path, model: Model, image_spec: ImageSpec, calibration: Calibration,
                    licences: dict[str, str] | None = None) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors into an existing folder; the manifest comes later."""
    from safetensors.torch import save

    spec = model.spec
    config = {
        "model_type": "timm_wrapper",
        "architecture": spec.arch,
        "num_classes": spec.outputs,
        "num_features": feature_width(model),
        "label_names": list(spec.classes),
        "id2label": {str(index): name for index, name in enumerate(spec.classes)},
        "label2id": {name: index for index, name in enumerate(spec.classes)},
        "problem_type": "multi_label_classification" if spec.task == "multilabel" else "single_label_classification",
        "model_args": {**spec.arguments, **({"img_size": [spec.height, spec.width]} if _sized(spec) else {})},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, image_spec.height, image_spec.width],
            "fixed_input_size": _sized(spec),
            "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash",
            "mean": list(image_spec.mean), "std": list(image_spec.std),
            "num_classes": spec.outputs,
        },
        "rd": {
            "model": spec.as_dict(),
            "image": image_spec.as_dict(),
            "temperatures": list(calibration.temperatures),
            "thresholds": list(calibration.thresholds),
            "licences": licences or {},
        },
    }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", preprocessor_config(image_spec))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt"}))


def load_checkpoint(folder: Path, *kinds: str) -> Checkpoint:
    """Read a student or teacher folder strictly, on the CPU, in eval mode; every file must have the bytes the manifest names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(folder, *(kinds or ("student", "teacher")))
    check_files(folder, manifest)
    config = read_json(folder / "config.json")
    check(config, CONFIG, str(folder / "config.json"), "make the folder again")
    try:
        record = config["rd"]
        spec = ModelSpec.from_dict(record["model"])
        image_spec = ImageSpec.from_dict(record["image"])
        calibration = Calibration(tuple(record["temperatures"]), tuple(record["thresholds"]))
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} lacks {error}; expected a folder written by rd-distill") from None
    wrong = calibration_problem(spec.task, spec.classes, calibration.temperatures, calibration.thresholds)
    if wrong:
        raise UserError(f"{folder / 'config.json'}: {wrong}; make the folder again")
    model = build_model(spec)
    try:
        model.net.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} does not fit {spec.arch}: {str(error).splitlines()[0]}") from None
    return Checkpoint(model.eval(), image_spec, calibration, manifest)


def _sized(spec: ModelSpec) -> bool:
    return takes_image_size(spec.arch)
