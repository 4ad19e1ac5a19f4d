"""The phantom: the same image in every process, from its index alone, with labels that the pixels bear out.

Findings are checked in pairs: `draw` gives the same head, scanner and noise with and without a finding, so whatever
differs is the finding. Whether a network can learn them is the business of the benchmarks, not of these tests.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from distill.phantom.images import FINDINGS, PhantomImages, draw

PAIRS = range(40)


def only(*names: str) -> np.ndarray:
    return np.array([name in names for name in FINDINGS], np.float32)


def pair(name: str, index: int, *others: str, size_px: int = 96) -> tuple[np.ndarray, np.ndarray]:
    without, with_it = (draw(only(*o), 5, index, size_px)[:, :, 0].astype(int) for o in (others, (name, *others)))
    return without, with_it


def ventricle_pixels(image: np.ndarray) -> tuple[int, float]:
    """Count and mean column of the dark pixels in the middle of the brain, after a 3 x 3 mean against noise."""
    smooth = sum(np.roll(image, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    middle = smooth[26:70, 30:66]
    dark = middle < np.median(middle) - 22
    return int(dark.sum()), float(np.nonzero(dark)[1].mean()) if dark.any() else 0.0


def test_another_process_with_another_hash_seed_draws_the_same_images():
    script = (
        "import hashlib; from distill.phantom.images import PhantomImages; p = PhantomImages(30, seed=2, size_px=64)\n"
        "print(hashlib.sha256(b''.join(p[i].tobytes() for i in range(30)) + p.all_labels().tobytes()).hexdigest())"
    )
    images = PhantomImages(30, seed=2, size_px=64)
    here = hashlib.sha256(b"".join(images[i].tobytes() for i in range(30)) + images.all_labels().tobytes()).hexdigest()
    for hash_seed in ("1", "4321"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        there = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert there.stdout.strip() == here


def test_an_image_depends_on_its_index_and_not_on_how_many_there_are():
    few, many = PhantomImages(10), PhantomImages(1000)
    for index in (9, 0, 4):  # nor on the order in which they are asked for
        assert np.array_equal(few[index], many[index])
        assert np.array_equal(few.labels(index), many.labels(index))
        assert few.key(index) == many.key(index)


def test_index_seed_and_size_each_change_the_image_and_the_key():
    base = PhantomImages(5)
    others = [(base, 1), (PhantomImages(5, seed=1), 0), (PhantomImages(5, size_px=128), 0)]
    assert len({base.key(0), *(images.key(i) for images, i in others)}) == 4
    assert len({base[0].tobytes(), *(images[i].tobytes() for images, i in others)}) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 2**64), st.integers(32, 160))
def test_any_index_seed_and_size_gives_a_head_in_uint8_against_air(index: int, seed: int, size_px: int):
    image = PhantomImages(index + 1, seed, size_px)[index]
    assert image.dtype == np.uint8
    assert image.shape == (size_px, size_px, 1)
    assert image.flags.c_contiguous
    corner, centre = size_px // 12, slice(2 * size_px // 5, 3 * size_px // 5)
    assert image[:corner, :corner].mean() < 60
    assert 50 < np.median(image[centre, centre]) < 160
    assert image.max() > 160  # bone, blurred and thin in the smallest


@pytest.mark.parametrize("size_px", [64, 224])
def test_a_head_is_the_same_head_at_every_size(size_px: int):
    for index in range(6):
        small, large = (PhantomImages(6, size_px=s)[index][:, :, 0].astype(float) for s in (32, size_px))
        rows = np.arange(size_px) * 32 // size_px
        shrunk = np.array([[large[np.ix_(rows == i, rows == j)].mean() for j in range(32)] for i in range(32)])
        assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.9


def test_labels_are_those_of_the_list_and_cost_no_drawing():
    images = PhantomImages(50, seed=3)
    every = images.all_labels()
    assert every.dtype == np.float32
    assert every.shape == (50, len(FINDINGS))
    assert set(np.unique(every)) == {0.0, 1.0}
    assert all(np.array_equal(images.labels(i), every[i]) for i in range(50))
    assert PhantomImages(0).all_labels().shape == (0, len(FINDINGS))


def test_prevalences_and_company_of_findings_stay_within_bounds():
    labels = PhantomImages(4000).all_labels()
    assert np.all((labels.mean(0) > 0.15) & (labels.mean(0) < 0.30))
    assert 0.24 < (labels.sum(1) == 0).mean() < 0.34
    together = np.corrcoef(labels.T)
    at = FINDINGS.index
    for a, b in (("bleed", "shift"), ("mass", "shift"), ("bleed", "fracture")):
        assert 0.1 < together[at(a), at(b)] < 0.5
    for pattern in np.eye(len(FINDINGS)):  # each also comes alone
        assert (labels == pattern).all(1).sum() > 30


def test_a_bleed_raises_density_and_an_infarct_lowers_it():
    for name, sign in (("bleed", 1), ("infarct", -1)):
        changes = [sign * (b - a) for a, b in (pair(name, i) for i in PAIRS)]
        strength = np.array([np.sort(change.ravel())[-30:].mean() for change in changes])
        against = np.array([-np.sort(change.ravel())[:30].mean() for change in changes])
        assert np.all(strength > 8), name
        assert np.mean(strength > against) > 0.9, name
        assert np.mean([change.sum() > 0 for change in changes]) > 0.9, name


def test_a_mass_is_a_dark_halo_around_a_denser_body():
    changes = [b - a for a, b in (pair("mass", i) for i in PAIRS)]
    assert all((np.abs(change) > 10).sum() >= 15 for change in changes)
    assert np.mean([change.min() < -12 for change in changes]) > 0.9
    assert np.mean([change.max() > 12 for change in changes]) > 0.6


def test_a_fracture_takes_bone_away():
    for index in PAIRS:
        without, with_it = pair("fracture", index)
        bone = without > 200
        change = (with_it - without)[bone]
        assert np.sort(change)[:5].mean() < -10
        assert change.sum() < 0
        assert (change < -8).mean() < 0.25  # of the ring: a line, not another skull


def test_a_shift_moves_the_ventricles_sideways_and_away_from_a_bleed():
    moved, heavier = [], []
    for index in PAIRS:
        (_, before), (_, after) = (ventricle_pixels(image) for image in pair("shift", index))
        moved.append(after - before)
        plain, bled = pair("bleed", index)
        heavier.append(float(((bled - plain).clip(0) * np.linspace(-1, 1, 96)).sum()))
    assert np.median(np.abs(moved)) > 1.0
    assert np.mean(np.sign(moved) == -np.sign(heavier)) > 0.8


def test_hydrocephalus_enlarges_the_ventricles():
    grown = [ventricle_pixels(b)[0] - ventricle_pixels(a)[0] for a, b in (pair("hydrocephalus", i) for i in PAIRS)]
    assert np.median(grown) > 20
    assert np.mean(np.array(grown) > 0) > 0.75  # not all: against atrophy, which is the look-alike, it may even shrink


def test_a_sequence_ends_where_it_says_and_slices_like_one():
    images = PhantomImages(4, size_px=64)
    assert len(images) == len(list(images)) == 4
    assert np.array_equal(images[-1], images[3])
    assert [np.array_equal(a, images[i]) for a, i in zip(images[1:3], (1, 2), strict=True)] == [True, True]
    for index in (4, -5):
        with pytest.raises(IndexError, match=r"there are 4"):
            images[index]


@pytest.mark.parametrize("settings_", [{"n": -1}, {"n": 1, "seed": -1}, {"n": 1, "size_px": 16}])
def test_impossible_settings_are_refused_with_what_was_found(settings_: dict[str, int]):
    with pytest.raises(ValueError, match="expected n >= 0"):
        PhantomImages(**settings_)
