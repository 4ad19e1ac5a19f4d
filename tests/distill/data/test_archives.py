"""Archives of arrays: their layouts, volumes in them, labels that are no classes, and what a filled NaN is to training and device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.data.archives import list_npz
from distill.data.intake import volume_spec
from distill.data.loading import load_images
from distill.settings.data import DataOptions
from distill.settings.distill import DistillSettings
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec, read_image
from runtimes.images.volumes import VolumeSpec

PARTS = {"train": 12, "val": 6, "test": 6}


def archive(path: Path, shape: tuple[int, ...] = (14, 14), names: tuple[str, str] = ("{}_images", "{}_labels"), dtype: Any = np.uint8,
            **changes: Any) -> Path:
    arrays: dict[str, Any] = {}
    for seed, (part, count) in enumerate(PARTS.items()):
        arrays[names[0].format(part)] = np.random.default_rng(seed).integers(0, 250, (count, *shape)).astype(dtype)
        arrays[names[1].format(part)] = np.arange(count)[:, None] % 2
    np.savez(path, **(arrays | changes))
    return path


@pytest.mark.parametrize("names", [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_x", "{}_y")])
def test_the_names_that_others_give_their_arrays_are_known(tmp_path: Path, names: tuple[str, str]) -> None:
    usual, other = list_npz(archive(tmp_path / "a.npz"), None), list_npz(archive(tmp_path / "b.npz", names=names), None)
    np.testing.assert_array_equal(np.asarray(usual.images), np.asarray(other.images))
    assert (usual.keys, usual.labels.tolist(), usual.split.tolist()) == (other.keys, other.labels.tolist(), other.split.tolist())


def test_arrays_without_a_split_are_split(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 14, 14)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40) % 2)
    found = load_images(str(tmp_path / "a.npz"))
    assert found.facts["split_from"].startswith("made 70/10/20 by image")
    assert found.keys[:2] == ("0", "1")


@pytest.mark.parametrize("shape", [(10, 14, 16), (10, 14, 16, 1)])
def test_volumes_of_grey_levels_are_what_they_are_slice_by_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = load_images(str(archive(tmp_path / "adrenalmnist3d.npz", shape)))
    assert found.volume == VolumeSpec(10, scaling="window", window=(0.0, 255.0))
    np.testing.assert_array_equal(found.raw(0)[..., 0], np.random.default_rng(0).integers(0, 250, (12, *shape)).reshape(12, 10, 14, 16)[0])
    assert load_images(str(tmp_path / "adrenalmnist3d.npz"), volume=VolumeSpec(4)).volume == replace(found.volume, slices=4)
    with pytest.raises(UserError, match="first axis") as caught:
        load_images(str(tmp_path / "adrenalmnist3d.npz"), volume=VolumeSpec(axis="coronal"))
    assert caught.value.exit_code == USAGE


def test_volumes_of_intensities_are_scaled_as_a_device_scales_them(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", (6, 14, 14), dtype=np.float32)
    held = dict(np.load(path))
    held["train_images"][:, :2] = np.nan
    np.savez(path, **held)
    with pytest.raises(UserError, match="--volume-fill"):
        load_images(str(path))
    spec = VolumeSpec(scaling="window", window=(20.0, 200.0), fill=100.0)
    found = load_images(str(path), volume=spec)
    np.testing.assert_array_equal(found.raw(0), spec.levels(held["train_images"][0]))
    assert set(found.raw(0)[:2].ravel().tolist()) == {113}


@pytest.mark.parametrize(("changes", "told"), [
    ({"train_images": np.zeros((12, 3, 14, 14), np.uint8)}, "transpose it to"),
    ({"train_images": np.zeros((12, 14, 14, 4), np.uint8)}, "expected uint8 or uint16 images"),
    ({"train_images": np.zeros((12, 14, 14), np.float32)}, "whole numbers from 0 to 255"),
    ({"train_images": np.zeros((12, 1, 10, 14, 14), np.uint8)}, "expected uint8 or uint16 images"),
    ({"train_labels": np.linspace(0.1, 2.5, 12)}, "measured number"),
    ({"train_labels": np.full(12, np.nan)}, "measured number"),
    ({"train_labels": np.zeros((12, 0))}, "labels are"),
    ({"train_labels": np.asarray(["a", "b"] * 6)}, "expected numbers"),
    ({"train_labels": np.zeros(11)}, "12 images for 11 labels"),
])
def test_arrays_that_are_neither_images_nor_labels_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_images(str(archive(tmp_path / "a.npz", **changes)))


def test_one_hot_labels_are_one_label_where_that_is_asked_for(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", **{f"{part}_labels": np.eye(3, dtype=int)[np.arange(count) % 3] for part, count in PARTS.items()})
    several, single = list_npz(path, None), list_npz(path, "multiclass")
    assert (several.task, single.task, single.classes) == ("multilabel", "multiclass", ("0", "1", "2"))
    assert "--task multiclass" in several.facts["notes"][0]
    np.testing.assert_array_equal(single.labels, several.labels.argmax(axis=1))


def test_a_fill_stands_for_nan_alone_and_is_in_the_json_only_where_it_is() -> None:
    stack = np.random.default_rng(0).normal(0, 50, (5, 12, 12)).astype(np.float32)
    holes = np.random.default_rng(1).random(stack.shape) < 0.3
    filled = np.where(holes, np.float32(-80), stack)
    for plain in (VolumeSpec(5), VolumeSpec(5, scaling="window", window=(-100.0, 100.0))):
        spec = replace(plain, fill=-80.0)
        np.testing.assert_array_equal(spec.levels(np.where(holes, np.nan, stack)), plain.levels(filled))
        np.testing.assert_array_equal(spec.levels(stack), plain.levels(stack))
        assert "fill" not in plain.as_dict()
        assert VolumeSpec.from_dict(plain.as_dict()) == plain
        assert VolumeSpec.from_dict(spec.as_dict()) == spec
        image = ImageSpec(16, 16, volume=spec)
        assert ImageSpec.from_dict(image.as_dict()) == image
        np.testing.assert_array_equal(read_image(np.where(holes, np.nan, stack), spec), plain.levels(filled))
        with pytest.raises(UserError, match=r"NaN in .* --volume-fill"):
            plain.levels(np.where(holes, np.nan, stack))
        with pytest.raises(UserError, match=r"NaN or Inf; expected finite intensities$"):
            spec.levels(np.where(holes, np.inf, stack))
    with pytest.raises(UserError, match="single value"):
        VolumeSpec(5, fill=3.0).levels(np.full_like(stack, np.nan))


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 1e31])
def test_a_fill_must_be_an_intensity(fill: float) -> None:
    with pytest.raises(UserError, match="volume fill"):
        VolumeSpec(5, fill=fill)
    with pytest.raises(UserError, match="--volume-fill") as caught:
        DistillSettings(volume_fill=fill)
    assert caught.value.exit_code == USAGE
    assert volume_spec(DataOptions(volume_fill=-1024.0)).fill == -1024.0
