"""Parity must pass for a faithful artifact and fail for every way in which one can be unfaithful."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Case, image_set, random_images, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from benchmarks.robustness.faults import FAULTS, replace_tensors
from export.options import Limits
from export.parity.answers import graph_inputs, reference_logits
from export.parity.check import flip_bound, parity
from runtimes.artifact.artifact import Artifact, read_artifact
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_manifest
from runtimes.scores import calibrated, decide
from runtimes.session import CheckedSession, open_session

Exported = Callable[[Case], Path]
COLOUR = Case("multiclass", 3)
SHARE = {"fp32": 1.0, "fp16": 0.0, "int8": 0.0}


def prove(folder: Path, case: Case, **changes: object) -> dict:
    images = image_set(case)
    session = open_session(folder, threads=1)
    return parity(tiny_model(case), session, read_artifact(folder), **{  # type: ignore[arg-type]
        "images": images.images, "labels": images.labels, "max_batch": 8, "precision_share": SHARE, **changes})


def mutated(folder: Path, to: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of an artifact with another model, sealed again: only parity can tell."""
    shutil.copytree(folder, to)
    model = onnx.load(to / "model.onnx")
    edit(model)
    onnx.save(model, to / "model.onnx")
    manifest = read_json(to / "manifest.json")
    write_manifest(to, "artifact", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    return to


@pytest.mark.parametrize("case", [COLOUR, Case("binary"), Case("multilabel", 3, input_size="40x56"),
                                  Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case(input="tensor")], ids=str)
def test_a_faithful_artifact_passes(exported: Exported, case: Case) -> None:
    found = prove(exported(case), case)
    assert found["passed"] is True
    assert (found["images"], found["flips"]) == (24, 0)
    assert found["batches"] == [1, 2, 8]
    assert found["max_relative_logit_difference"] <= 1e-5
    assert found["auroc_difference"] == pytest.approx(0, abs=1e-9)
    assert found["images_resized_to_graph"] == (12 if case.input_size else 0)
    written = read_json(exported(case) / "parity.json")
    for key in ("format", "target", "precision", "images", "flips", "flip_bound", "passed", "precision_share"):
        assert written[key] == found[key]


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "antialias off"])
def test_an_unfaithful_artifact_fails(exported: Exported, tmp_path: Path, name: str) -> None:
    assert prove(mutated(exported(COLOUR), tmp_path / "a", FAULTS[name]), COLOUR)["passed"] is False


def test_a_resize_without_antialiasing_fails(exported: Exported, tmp_path: Path) -> None:
    case = Case("multilabel", 3, input_size="40x56")
    assert prove(mutated(exported(case), tmp_path / "a", FAULTS["antialias off"]), case)["passed"] is False


def test_a_transposed_resize_fails(exported: Exported, tmp_path: Path) -> None:
    case = Case("multilabel", 3, input_size="40x56")

    def mirror(model: onnx.ModelProto) -> None:
        replace_tensors(model, lambda name: name == "rows", lambda values: values[::-1].copy())

    assert prove(mutated(exported(case), tmp_path / "a", mirror), case)["passed"] is False


def test_a_batch_that_is_answered_in_another_order_fails(exported: Exported) -> None:
    artifact = read_artifact(exported(COLOUR))
    honest = open_session(exported(COLOUR), threads=1).runtime  # type: ignore[attr-defined]

    class Shuffled:
        def run(self, batch: np.ndarray):
            return tuple(None if part is None else part[::-1].copy() for part in honest.run(batch))

    images = image_set(COLOUR)
    found = parity(tiny_model(COLOUR), CheckedSession(artifact, Shuffled()), artifact, images.images, images.labels,  # type: ignore[arg-type]
                   max_batch=8, precision_share=SHARE)
    assert found["passed"] is False
    assert found["flips"] > 0


@pytest.mark.parametrize(("precision", "off", "passed"), [("bf16", 0.04, True), ("bf16", 0.06, False), ("fp16", 0.04, False)])
def test_bf16_is_held_to_the_largest_logit_and_fp16_to_each_one(exported: Exported, precision: str, off: float, passed: bool) -> None:
    model, images = tiny_model(COLOUR), image_set(COLOUR)
    with torch.no_grad():
        for tensor in model.head.parameters():
            tensor.mul_(50)
    artifact = replace(read_artifact(exported(COLOUR)), precision=precision, tolerance=5e-2 if precision == "bf16" else 3e-2)
    honest = open_session(exported(COLOUR), threads=1).runtime  # type: ignore[attr-defined]
    sizes = np.abs(reference_logits(model, [graph_inputs(one, artifact) for one in images.images]))  # type: ignore[arg-type]

    class Off:
        def run(self, batch: np.ndarray):
            logits = honest.run(batch)[0] * np.float32(50)
            logits[np.abs(logits) <= sizes.min() * 1.01] += np.float32(off * sizes.max())
            return logits, calibrated(logits, "multiclass", artifact.temperatures), None

    found = parity(model, CheckedSession(artifact, Off()), artifact, images.images, images.labels, max_batch=8,  # type: ignore[arg-type]
                   precision_share=SHARE, limits=Limits(max_flips=1.0, max_auc_drop=1.0))
    assert found["passed"] is passed, found["reasons"]
    assert sizes.max() > 2, "else the two rules would be one"
    assert found["max_logit_difference"] == pytest.approx(off * sizes.max(), rel=1e-3)


def test_scores_that_are_not_finite_fail(exported: Exported, tmp_path: Path) -> None:
    def poison(model: onnx.ModelProto) -> None:
        replace_tensors(model, lambda name: name.endswith("fc.bias"), lambda values: values * np.nan)

    with pytest.raises(UserError, match="NaN or Inf"):
        prove(mutated(exported(COLOUR), tmp_path / "a", poison), COLOUR)


def test_files_and_arrays_prove_the_same(exported: Exported, tmp_path: Path) -> None:
    images = image_set(COLOUR)
    paths = []
    for index, image in enumerate(images.images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")  # type: ignore[arg-type]
        paths.append(tmp_path / f"{index}.png")
    by_file, by_array = prove(exported(COLOUR), COLOUR, images=paths), prove(exported(COLOUR), COLOUR)
    assert by_file == by_array
    assert "0.png" not in str(by_file), "a file name may name a patient"


def test_images_the_device_refuses_are_counted_not_hidden(exported: Exported) -> None:
    images = image_set(COLOUR)
    flat = [np.zeros((32, 32, 3), np.uint8), *images.images]
    found = prove(exported(COLOUR), COLOUR, images=flat, labels=np.concatenate([[0], images.labels]))
    assert (found["refused_images"], found["images"], found["passed"]) == (1, 24, True)
    with pytest.raises(UserError, match="single value"):
        prove(exported(COLOUR), COLOUR, images=flat[:1], labels=images.labels[:1])
    with pytest.raises(UserError, match="no validation images"):
        prove(exported(COLOUR), COLOUR, images=[], labels=images.labels[:0])


def test_the_worst_images_come_first_with_both_answers_and_no_name(exported: Exported, tmp_path: Path) -> None:
    found = prove(mutated(exported(COLOUR), tmp_path / "a", FAULTS["swapped channels"]), COLOUR)
    changes = [one["probability_difference"] for one in found["worst"]]
    assert (len(changes), changes[0]) == (20, found["max_probability_difference"])
    assert changes == sorted(changes, reverse=True)
    images = image_set(COLOUR)
    spec, first = read_artifact(exported(COLOUR)).image_spec, found["worst"][0]
    raw = spec.resized(images.images[first["image"]])
    wanted = tiny_model(COLOUR)(torch.from_numpy(spec.normalised(raw[None])))
    assert np.abs(calibrated(wanted.detach().numpy(), "multiclass", (1.5,))[0] - first["pytorch"]["probabilities"]).max() < 1e-6
    assert first["label"] == [images.classes[images.labels[first["image"]]]]
    assert first["pytorch"]["decision"] == [images.classes[int(wanted.argmax())]]


def test_memory_does_not_grow_with_the_number_of_images(exported: Exported) -> None:
    class Drawn(Sequence):
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index):
            if index >= self.count:
                raise IndexError
            return random_images(COLOUR, 1, seed=index)[0]

    folder = exported(COLOUR)  # made before anything is counted: an export takes 10 MB
    prove(folder, COLOUR, images=Drawn(2), labels=np.full(2, -1))  # what is imported and kept once

    def peak(count: int) -> int:
        tracemalloc.start()
        proof = prove(folder, COLOUR, images=Drawn(count), labels=np.full(count, -1))
        assert proof["images"] == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(600) < peak(100) + 1e6  # 500 images as the network sees them: 6 MB


def test_the_interval_of_auroc_is_paired_seeded_and_holds_the_difference(exported: Exported, tmp_path: Path) -> None:
    folder = mutated(exported(COLOUR), tmp_path / "a", FAULTS["10 % noise on weights"])
    found, again = prove(folder, COLOUR), prove(folder, COLOUR)
    assert found == again
    assert found["auroc_difference_low"] <= found["auroc_difference"] <= found["auroc_difference_high"]
    same = prove(exported(COLOUR), COLOUR)
    assert same["auroc_difference_low"] == same["auroc_difference_high"] == 0
    patients = prove(folder, COLOUR, groups=np.arange(24) // 4)
    assert patients["auroc_difference"] == found["auroc_difference"]
    assert patients["auroc_difference_low"] != found["auroc_difference_low"]
    unlabelled = prove(folder, COLOUR, labels=np.full(24, -1))
    assert unlabelled["auroc_difference"] is unlabelled["auroc_difference_low"] is None


def test_grey_images_of_a_colour_set_take_part(exported: Exported) -> None:
    grey = [image[..., :1] for image in image_set(COLOUR).images]  # type: ignore[call-overload]
    assert prove(exported(COLOUR), COLOUR, images=grey)["passed"] is True


def test_the_rounding_of_training_is_reported_beside_the_graph_s_own_difference(exported: Exported) -> None:
    plain = prove(exported(COLOUR), COLOUR)["rounding"]
    assert plain == {"flips": 0, "max_logit_difference": 0.0, "max_probability_difference": 0.0}
    case = Case("multilabel", 3, input_size="40x56")
    baked = prove(exported(case), case)["rounding"]
    assert 0 < baked["max_logit_difference"] < 0.5


@given(st.integers(0, 60), st.integers(1, 300))
def test_the_flip_bound_is_clopper_and_pearson_s(flips: int, images: int) -> None:
    flips = min(flips, images)
    # the upper end of a two-sided 90 % interval is the one-sided 95 % limit
    wanted = binomtest(flips, images).proportion_ci(0.9, "exact").high
    assert flip_bound(flips, images) == pytest.approx(wanted, abs=1e-9)


def test_the_reference_is_the_model_on_the_spec_s_pixels(exported: Exported) -> None:
    case = Case("ordinal", 1, "uint16", (100.0, 3000.0))
    artifact: Artifact = read_artifact(exported(case))
    raw = random_images(case, 3, ((32, 32), (50, 40)))
    logits = reference_logits(tiny_model(case), [graph_inputs(image, artifact) for image in raw])
    spec = artifact.image_spec
    with torch.no_grad():
        wanted = tiny_model(case)(torch.from_numpy(spec.normalised(np.stack([spec.levels(spec.resized(image)) for image in raw]))))
        assert np.abs(logits - wanted.numpy()).max() < 1e-5
        by_torch = torch.softmax(wanted / 1.5, dim=1).numpy()
    assert np.abs(calibrated(logits, "ordinal", (1.5,)) - by_torch).max() < 1e-6
    assert np.array_equal(decide(by_torch, "ordinal"), logits.argmax(axis=1))
