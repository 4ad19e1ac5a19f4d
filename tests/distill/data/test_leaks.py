"""Labels that signs give away and splits that differ in them: seen where they are, and seldom where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import npz, picture, table
from PIL import Image

from distill.data.leaks import guess_labels, sentence
from distill.data.loading import load_images
from distill.data.shifts import find_shifts
from distill.data.signs import Sign

FALSE_ALARMS = 0.05


def drawn_signs(random: np.random.Generator, groups: np.ndarray) -> list[Sign]:
    """Signs that know nothing, of patients as of images."""
    people, images = int(groups.max()) + 1, len(groups)
    return [Sign("age", "known", random.normal(50, 15, people)[groups]),
            Sign("sex", "known", random.integers(0, 2, people)[groups], ("M", "F")),
            Sign("site", "known", random.integers(0, 6, people)[groups], tuple("abcdef")),
            Sign("height", "size", random.normal(500, 50, images)),
            Sign("form of the file name", "file", random.integers(0, 4, images), tuple("abcd")),
            Sign("size of the file", "file", random.normal(1e5, 2e4, images))]


def drawn_labels(random: np.random.Generator, groups: np.ndarray, classes: int) -> np.ndarray:
    people = int(groups.max()) + 1
    if classes == 14:
        return (random.random((people, 14)) < random.uniform(0.02, 0.3, 14)).astype(np.float32)[groups]
    return random.choice(classes, people, p=random.dirichlet(np.full(classes, 3.0)))[groups]


@pytest.mark.parametrize(("classes", "each"), [(2, 1), (4, 3), (14, 2)])
def test_random_labels_and_random_splits_raise_few_alarms(classes: int, each: int) -> None:
    draws, alarms, shifted = 20 if classes == 14 else 40, 0, 0
    for draw in range(draws):
        random = np.random.default_rng([draw, classes, each])
        groups = np.repeat(np.arange(200), each)
        signs, labels = drawn_signs(random, groups), drawn_labels(random, groups, classes)
        alarms += bool(guess_labels(signs, labels, tuple(map(str, range(classes))), groups).get("clear"))
        split = random.choice(["train", "val", "test"], 200, p=[0.7, 0.1, 0.2])[groups]
        shifted += bool(find_shifts(signs, split, groups, "patient"))
    assert alarms <= FALSE_ALARMS * draws
    assert shifted <= FALSE_ALARMS * draws


@pytest.mark.parametrize("name", ["age", "sex", "site", "height", "form of the file name", "size of the file"])
def test_the_sign_that_gives_labels_away_is_named(name: str) -> None:
    random = np.random.default_rng(3)
    groups = np.arange(400)
    signs = drawn_signs(random, groups)
    sign = next(sign for sign in signs if sign.name == name)
    truth = (sign.values > np.median(sign.values)) if sign.numeric else sign.values == 1
    noisy = random.random(400) < (0.02 if name == "size of the file" else 0.15)
    labels = np.where(noisy, random.integers(0, 2, 400), truth).astype(np.int64)
    guess = guess_labels(signs, labels, ("no", "yes"), groups)
    assert guess["clear"]
    assert [by for by, _ in guess["signs"]] == [name]
    assert name in sentence(guess)
    assert ("sees no names" in sentence(guess)) == (name == "form of the file name")


def test_one_finding_of_several_that_is_given_away_is_enough_and_missing_labels_are_left_out() -> None:
    random = np.random.default_rng(4)
    groups = np.repeat(np.arange(300), 2)
    signs, labels = drawn_signs(random, groups), drawn_labels(random, groups, 14)
    labels[:, 5] = signs[2].values == 2
    labels[random.random(labels.shape) < 0.3] = np.nan
    guess = guess_labels(signs, labels, tuple(f"f{place}" for place in range(14)), groups)
    assert guess["clear"]
    assert (guess["class"], guess["signs"][0][0]) == ("f5", "site")
    assert guess["class_auroc"] > 0.95


def test_patients_alone_do_not_give_labels_away() -> None:
    """Each patient has one site and one label: within a fold of images that would be learnt by heart."""
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(60), 20)
    site = Sign("site", "known", np.repeat(random.permutation(60), 20), tuple(map(str, range(60))))
    labels = np.repeat(random.integers(0, 2, 60), 20)
    assert not guess_labels([site], labels, ("no", "yes"), groups)["clear"]


@pytest.mark.parametrize("labels", [np.full(50, -1), np.zeros(50, np.int64), np.r_[np.ones(3, np.int64), np.zeros(47, np.int64)],
                                    np.full((50, 2), np.nan)], ids=["none", "one class", "three of a class", "no finding"])
def test_too_little_to_judge_is_no_guess(labels: np.ndarray) -> None:
    random = np.random.default_rng(0)
    assert guess_labels(drawn_signs(random, np.arange(50)), labels, ("no", "yes"), np.arange(50)) == {}
    assert guess_labels([], np.arange(50) % 2, ("no", "yes"), np.arange(50)) == {}


def test_splits_that_differ_are_told_with_counts_and_a_patient_counts_once() -> None:
    random = np.random.default_rng(6)
    split = np.repeat(["train", "val", "test"], [300, 60, 120])
    age = np.where(split == "test", random.normal(70, 8, 480), random.normal(45, 10, 480))
    scanner = np.where(split == "val", 1, (random.random(480) < 0.1).astype(int))
    signs = [Sign("age", "known", age), Sign("scanner", "known", scanner, ("GE 1", "Siemens 2")),
             Sign("sex", "known", random.integers(0, 2, 480), ("M", "F"))]
    shifts = find_shifts(signs, split, np.arange(480), "patient")
    assert {(shift["sign"], shift["split"]) for shift in shifts} == {("age", "test"), ("scanner", "val")}
    by_sign = {shift["sign"]: shift["sentence"] for shift in shifts}
    assert "Kolmogorov-Smirnov" in by_sign["age"]
    assert "of 300 patients in train" in by_sign["age"]
    assert "chi-square" in by_sign["scanner"]
    assert "Siemens 2 is " in by_sign["scanner"]
    assert "100 % of 60 in val" in by_sign["scanner"]
    few = np.repeat(np.arange(12), 40)  # the same images of twelve patients prove nothing
    assert find_shifts(signs, np.repeat(["train", "val", "test"], [200, 120, 160]), few, "patient") == []


@pytest.mark.parametrize("seed", range(5))
def test_chi_square_and_kolmogorov_smirnov_are_scipys_own(seed: int) -> None:
    from scipy.stats import chi2_contingency, ks_2samp

    random = np.random.default_rng(seed)
    split = np.repeat(["train", "test"], [200, 100])
    ours, theirs = (random.choice(3, 300, p=shares) for shares in ([0.6, 0.2, 0.2], [0.2, 0.2, 0.6]))
    code = Sign("site", "known", np.where(split == "test", theirs, ours), ("a", "b", "c"))
    amount = Sign("age", "known", np.where(split == "test", random.normal(2, 1, 300), random.normal(0, 1, 300)))
    wanted = {"site": chi2_contingency([np.bincount(code.values[split == part], minlength=3) for part in ("train", "test")],
                                       correction=False).pvalue,
              "age": ks_2samp(amount.values[:200], amount.values[200:], method="asymp").pvalue}
    shifts = {shift["sign"]: shift["p"] for shift in find_shifts([code, amount], split, np.arange(300), "image")}
    smaller, larger = sorted(wanted, key=lambda name: wanted[name])
    assert shifts[smaller] == pytest.approx(2 * wanted[smaller])
    assert shifts[larger] == pytest.approx(max(wanted[larger], 2 * wanted[smaller]))


def sized(root: Path, leak: bool) -> str:
    """Two classes, one of them wider where the label is to leak; a given split whose test images are all of one sex."""
    lines = ["image,label,split,sex,age"]
    for row in range(240):
        part = ("train", "train", "val", "test")[row % 4]
        picture(root / f"scan{row}.png", row, size=(12 + (6 if leak and row // 4 % 2 else 0), 10))
        lines.append(f"scan{row}.png,{'ab'[row // 4 % 2]},{part},{'F' if part == 'test' and leak else 'MF'[row // 8 % 2]},{40 + row % 30}")
    return table(root, lines)


def test_a_set_that_leaks_warns_before_training_and_one_that_does_not_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "leak").mkdir()
    images = load_images(sized(tmp_path / "leak", leak=True))
    guess, shifts = images.facts["guess"], images.facts["shifts"]
    assert guess["clear"]
    assert guess["signs"][0][0] == "width"
    assert [(shift["sign"], shift["split"]) for shift in shifts] == [("sex", "test")]
    assert set(images.facts["warnings"]) <= set(images.facts["notes"])
    assert len(images.facts["warnings"]) == 2
    (tmp_path / "fine").mkdir()
    images = load_images(sized(tmp_path / "fine", leak=False))
    assert not images.facts["guess"]["clear"]
    assert images.facts["warnings"] == []
    assert "guess" not in load_images(sized(tmp_path / "fine", leak=False), examine=False).facts


def test_names_of_classes_in_names_of_files_are_no_leak_and_other_forms_are(tmp_path: Path) -> None:
    for row in range(200):
        name = ("benign", "malignant")[row % 2]
        picture(tmp_path / "fine" / name / f"{name} ({row // 2}).png", row)
        picture(tmp_path / "other" / name / f"{('IM', 'person')[row % 2]}_{row // 2}.png", row)
    assert load_images(str(tmp_path / "fine")).facts["warnings"] == []
    images = load_images(str(tmp_path / "other"))
    assert images.facts["guess"]["signs"][0] == ["form of the file name", 1.0]
    assert "person" not in str(images.facts["warnings"])


@pytest.mark.parametrize("data", ["phantom", "phantom-volumes"])
def test_nothing_is_said_of_the_phantom(data: str) -> None:
    images = load_images(data, phantom_images=(40, 10, 10), phantom_size=32)
    assert not {"guess", "shifts", "warnings", "columns", "burned_text"} & set(images.facts)


def test_arrays_give_nothing_away(tmp_path: Path) -> None:
    images = load_images(npz(tmp_path / "set.npz", (60, 20, 20)))
    assert images.facts["guess"] == {}
    assert images.facts["warnings"] == []


def write_text(path: Path, seed: int, text: str) -> None:
    from PIL import ImageDraw, ImageFont

    noise = np.random.default_rng(seed).integers(20, 90, (24, 24)).astype(np.uint8)
    image = Image.fromarray(noise).resize((192, 192), Image.Resampling.BICUBIC)
    if text:
        font: Any = ImageFont.load_default(14)
        ImageDraw.Draw(image).text((20, 150), text, font=font, fill=240)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def test_burned_in_text_is_noted_with_an_example_and_none_where_there_is_none(tmp_path: Path) -> None:
    for row in range(40):
        write_text(tmp_path / "text" / "ab"[row % 2] / f"{row}.png", row, "SMITH JOHN 1943" if row % 4 == 1 else "")
        write_text(tmp_path / "none" / "ab"[row % 2] / f"{row}.png", row, "")
        picture(tmp_path / "small" / "ab"[row % 2] / f"{row}.png", row)
    images = load_images(str(tmp_path / "text"))
    assert images.facts["burned_text"] == {"looked_at": 40, "with_text": 10}
    assert any("10 of 40 images looked at seem to hold burned-in text, such as b/1.png" in note for note in images.facts["notes"])
    assert load_images(str(tmp_path / "none")).facts["burned_text"] == {"looked_at": 40, "with_text": 0}
    assert "burned_text" not in load_images(str(tmp_path / "small")).facts
