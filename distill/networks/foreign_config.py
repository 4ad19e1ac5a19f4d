"""What a folder's config.json and preprocessor_config.json say to timm, transformers and Optimum, none of which knows our own record.

Owns: foreign_config, graph_config, preprocessor_config: architecture, labels, how images are prepared, in those libraries' keys. Does not
own: our own record `rd` beside them, which alone is read back (checkpoint.py). A network that timm lacks a part of names no architecture
of timm's: timm would ignore slices of a volume without a word, transformers draw missing weights at random with a warning.
"""

from __future__ import annotations

from math import floor, nextafter
from typing import Any

from distill.networks.models import ModelSpec
from distill.networks.nets import takes_image_size
from runtimes.images.spec import ImageSpec

WRAPPER = "timm_wrapper"  # of model_type: transformers' class around a timm network
RESAMPLING = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def foreign_config(spec: ModelSpec, image_spec: ImageSpec, features: int) -> dict[str, Any]:
    """The keys of a student's or teacher's config.json that other libraries read; features: width before the classifier."""
    sized = takes_image_size(spec.arch)
    known = {"model_type": WRAPPER, "architecture": spec.arch}
    # A slash or colon would make timm talk of the hub; what it cannot find it names, so that the name says what to do.
    lacking = {"architecture": f"{spec.arch.replace('/', ' ')} {spec.beyond_timm}, load it with distill.load_checkpoint"}
    return {
        **(lacking if spec.beyond_timm else known),
        "num_features": features,
        **_labels(spec),
        "model_args": {**spec.arguments, **({"img_size": [spec.height, spec.width]} if sized else {})},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, image_spec.height, image_spec.width],
            "fixed_input_size": sized,
            "interpolation": image_spec.interpolation, "crop_pct": _crop_share(image_spec),
            "crop_mode": {"squash": "squash", "crop": "center", "pad": "border"}[image_spec.fit],
            "mean": list(image_spec.mean), "std": list(image_spec.std),
            "num_classes": spec.outputs,
        },
        # Optimum's exporter has no rule for transformers' wrapper. It takes that of the type named here, and ViT's is that of any network
        # of one image: pixel_values in, logits out. The two sizes are those of its example.
        "export_model_type": "vit", "image_size": [image_spec.height, image_spec.width], "num_channels": 3,
    }


def graph_config(spec: ModelSpec) -> dict[str, Any]:
    """What differs beside an exported graph, which holds the whole network and answers with a score a class: Optimum runs any of them."""
    return {"model_type": WRAPPER, **_labels(spec, graph=True)}


def _labels(spec: ModelSpec, graph: bool = False) -> dict[str, Any]:
    """Names of outputs; an ordinal network answers the thresholds between classes, from which a graph makes scores of classes."""
    thresholds = spec.task == "ordinal" and not graph
    names = [f"above {name}" for name in spec.classes[:-1]] if thresholds else list(spec.classes)
    several = thresholds or spec.task == "multilabel"
    return {"num_classes": len(names), "label_names": names,
            "id2label": {str(index): name for index, name in enumerate(names)},
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": "multi_label_classification" if several else "single_label_classification"}


def _crop_share(spec: ImageSpec) -> float:
    """timm's crop_pct: images come to floor(size / crop_pct) pixels first, which must be the spec's edge."""
    if spec.edge is None:
        return 1.0
    share = spec.height / spec.edge
    return share if floor(spec.height / share) == spec.edge else nextafter(share, 0.0)


def preprocessor_config(spec: ImageSpec) -> dict[str, Any]:
    """The image processor in transformers' keys: resize to model size, rescale, normalise.

    None of theirs puts black around an image: for such a model resizing is off, so that images of another size are refused.
    """
    size: dict[str, Any] = {"height": spec.height, "width": spec.width}
    crop = {"do_center_crop": True, "crop_size": size} if spec.fit == "crop" else {}
    return {
        "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor", **crop,
        "do_resize": spec.fit != "pad", "size": {"shortest_edge": spec.edge or spec.height} if crop else size,
        "resample": RESAMPLING[spec.interpolation],
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(spec.mean), "image_std": list(spec.std),
        "do_convert_rgb": True,
    }
