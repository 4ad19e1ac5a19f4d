"""Archives of MedMNIST's form and its published sets: read as they are, refused in a sentence, fetched or asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import npz

from distill.data.loading import load_images
from distill.data.scan import BadImages
from runtimes.errors import MISSING, UserError


def test_an_npz_is_one_array_with_its_own_split(tmp_path: Path) -> None:
    images = load_images(npz(tmp_path / "own.npz"))
    assert isinstance(images.images, np.ndarray)
    assert images.images.shape == (34, 14, 14, 1)
    assert images.task == "binary"
    assert images.facts["counts"] == {"train": 20, "val": 6, "test": 8}
    assert images.keys[20] == "val/0"
    assert images.raw(0).shape == (14, 14, 1)


def test_the_task_of_an_npz_is_read_off(tmp_path: Path) -> None:
    many = load_images(
        npz(tmp_path / "own.npz", labels=lambda rng, count: rng.integers(0, 2, (count, 4)), shape=(14, 14, 3))
    )
    assert many.task == "multilabel"
    assert many.labels.shape == (34, 4)
    assert many.facts["channels"] == 3
    five = npz(tmp_path / "retinamnist_64.npz", (20, 10, 10), lambda rng, count: np.arange(count) % 5)
    assert load_images(five).task == "ordinal"
    assert load_images(five, task="multiclass").task == "multiclass"


def test_broken_npz_files_are_sentences(tmp_path: Path) -> None:
    whole = Path(npz(tmp_path / "whole.npz")).read_bytes()
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.npz"):
            load_images(str(tmp_path / f"{name}.npz"))
    np.savez(
        tmp_path / "object.npz",
        train_images=np.zeros((2, 4, 4), np.uint8),
        train_labels=np.asarray([{}, []], dtype=object),
    )
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "volume.npz", train_images=np.zeros((2, 9, 9, 4), np.uint8), train_labels=np.zeros((2, 1)))
    for name in ("object", "other", "volume"):
        with pytest.raises(UserError, match=f"{name}.npz"):
            load_images(str(tmp_path / f"{name}.npz"))


def test_copies_in_an_own_npz_are_refused_and_in_a_published_one_told(tmp_path: Path) -> None:
    arrays = dict(np.load(npz(tmp_path / "own.npz")))
    arrays["test_images"][1] = arrays["train_images"][1]
    for name in ("own", "breastmnist"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    with pytest.raises(BadImages, match="train/1: leak"):
        load_images(str(tmp_path / "own.npz"))
    images = load_images(str(tmp_path / "breastmnist.npz"))
    assert len(images) == 34
    assert any("1 leak" in note for note in images.facts["notes"])
    skipped = load_images(str(tmp_path / "own.npz"), skip_bad_images=True)
    assert len(skipped) == 33
    assert skipped.images[1].tobytes() == arrays["train_images"][2].tobytes()


def test_a_medmnist_name_is_taken_from_the_packages_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = pytest.importorskip("medmnist.info")
    monkeypatch.setattr(info, "DEFAULT_ROOT", str(tmp_path))
    npz(tmp_path / "breastmnist_64.npz")
    images = load_images("breastmnist_64")
    assert images.classes == ("malignant", "normal, benign")
    assert images.facts["form"] == "medmnist"


def test_a_failed_download_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medmnist = pytest.importorskip("medmnist")

    def offline(**settings: object) -> None:
        raise RuntimeError("no network\nmany lines")

    monkeypatch.setattr(medmnist.info, "DEFAULT_ROOT", str(tmp_path))
    monkeypatch.setattr(medmnist, "BreastMNIST", offline)
    with pytest.raises(UserError) as caught:
        load_images("breastmnist")
    assert str(tmp_path / "breastmnist.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_close_is_guessed_and_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("medmnist")
    with pytest.raises(UserError, match="Did you mean breastmnist"):
        load_images("brestmnist")
    with pytest.raises(UserError, match="does not exist"):
        load_images("no/such/folder")
    with pytest.raises(UserError, match="volumes"):
        load_images("organmnist3d_128")
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(UserError, match="pip install medmnist") as caught:
        load_images("breastmnist")
    assert caught.value.exit_code == MISSING
