"""Splits: groups stay together, classes are spread alike, a seed gives one split, a planted leak is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.splits import check_groups, complete_splits, divide, merge_groups
from runtimes.errors import UserError


def blank(count: int) -> np.ndarray:
    return np.full(count, "", dtype=object)


def test_images_that_share_a_value_in_any_column_are_one_group() -> None:
    groups = merge_groups([["a", "a", "b", "", ""], ["", "x", "x", "y", ""]], 5)
    assert groups[0] == groups[1] == groups[2]
    assert len({int(groups[2]), int(groups[3]), int(groups[4])}) == 3


def test_a_patient_in_two_splits_is_named_with_both_splits() -> None:
    split = np.asarray(["train", "train", "val", "test"], dtype=object)
    with pytest.raises(UserError, match="patient P7 in test and train"):
        check_groups(split, {"patient": ["P7", "P1", "P2", "P7"]})
    check_groups(split, {"patient": ["P7", "P7", "P2", ""]})


def test_one_planted_patient_among_a_thousand_is_found() -> None:
    split = np.repeat(np.asarray(["train", "val", "test"], dtype=object), [700, 100, 200])
    patients = [f"p{index}" for index in range(1000)]
    check_groups(split, {"patient": patients})
    patients[950] = "p3"
    with pytest.raises(UserError, match=r"1 of 999 values of patient .* p3 in test and train"):
        check_groups(split, {"patient": patients})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(30, 120), st.integers(2, 4), st.integers(1, 4))
def test_whole_groups_are_divided_and_every_class_reaches_every_split(
    seed: int, count: int, classes: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, count // most, count))
    of_group = rng.integers(0, classes, count)
    labels = of_group[groups]
    names = [f"c{index}" for index in range(classes)]
    enough = all(len(set(groups[labels == index].tolist())) >= 3 for index in range(classes))
    if not enough:
        with pytest.raises(UserError, match="too few to split"):
            complete_splits(blank(count), labels, names, groups, seed)
        return
    split, how = complete_splits(blank(count), labels, names, groups, seed)
    assert how.startswith("made 70/10/20")
    for group in set(groups.tolist()):
        assert len(set(split[groups == group].tolist())) == 1
    for index in range(classes):
        assert set(split[labels == index].tolist()) == {"train", "val", "test"}


def test_single_images_are_divided_70_10_20_in_every_class() -> None:
    labels = np.repeat([0, 1, 2], [437, 210, 133])
    split, _ = complete_splits(blank(780), labels, ["a", "b", "c"], np.arange(780), 3)
    for index, total in enumerate([437, 210, 133]):
        for part, fraction in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            assert abs(int(((labels == index) & (split == part)).sum()) - fraction * total) <= 1.0


def test_rare_findings_of_a_multi_label_set_are_spread() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 5)) < [0.3, 0.1, 0.05, 0.02, 0.2]).astype(np.float32)
    split, _ = complete_splits(blank(600), labels, list("abcde"), np.arange(600) // 2, 1, "patient")
    for column in range(5):
        positives = labels[:, column] == 1
        for part, fraction in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
            expected = fraction * positives.sum()
            assert abs(int((positives & (split == part)).sum()) - expected) <= max(3.0, 0.35 * expected)
    assert abs((split == "train").mean() - 0.7) < 0.03


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    labels = np.arange(200) % 2
    one, _ = complete_splits(blank(200), labels, ["a", "b"], np.arange(200), 5)
    again, _ = complete_splits(blank(200), labels, ["a", "b"], np.arange(200), 5)
    other, _ = complete_splits(blank(200), labels, ["a", "b"], np.arange(200), 6)
    assert (one == again).all()
    assert (one != other).any()


def test_given_splits_are_kept() -> None:
    split = np.asarray(["train", "val", "test", "train"], dtype=object)
    kept, how = complete_splits(split, np.asarray([0, 0, 1, 1]), ["a", "b"], np.arange(4), 0)
    assert (kept == split).all()
    assert how == "given"


def test_a_missing_val_is_taken_out_of_train_and_test_is_left_alone() -> None:
    given_split = np.repeat(np.asarray(["train", "test"], dtype=object), [80, 20])
    split, how = complete_splits(given_split, np.arange(100) % 2, ["a", "b"], np.arange(100), 0)
    assert (split[80:] == "test").all()
    assert (split[:80] == "val").sum() == 10
    assert "val was taken out of train" in how


def test_a_missing_test_is_taken_out_of_train_and_val_is_left_alone() -> None:
    given_split = np.repeat(np.asarray(["train", "val"], dtype=object), [90, 10])
    split, how = complete_splits(given_split, np.arange(100) % 2, ["a", "b"], np.arange(100), 0)
    assert (split[90:] == "val").all()
    assert (split[:90] == "test").sum() == 20
    assert "test was taken out of train" in how


def test_splits_without_train_are_refused() -> None:
    with pytest.raises(UserError, match="without train"):
        complete_splits(np.asarray(["val", "test"], dtype=object), np.asarray([0, 1]), ["a", "b"], np.arange(2), 0)


def test_a_class_with_two_images_cannot_be_split_and_is_named() -> None:
    labels = np.asarray([0] * 20 + [1] * 2)
    with pytest.raises(UserError, match="rare has 2"):
        complete_splits(blank(22), labels, ["common", "rare"], np.arange(22), 0)


def test_three_images_of_a_class_go_one_to_each_split() -> None:
    labels = np.asarray([0] * 20 + [1] * 3)
    split, _ = complete_splits(blank(23), labels, ["common", "rare"], np.arange(23), 0)
    assert set(split[20:].tolist()) == {"train", "val", "test"}


def test_unlabelled_images_train_unless_their_patient_is_tested() -> None:
    labels = np.asarray([0, 1] * 30 + [-1] * 60)
    groups = np.concatenate([np.arange(60), np.arange(60)])
    split, _ = complete_splits(blank(120), labels, ["a", "b"], groups, 0, "patient")
    for row in range(60):
        assert split[60 + row] == ("train" if split[row] == "train" else "")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_parts_keep_their_fractions_whatever_the_labels(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    positives = rng.random((200, 3)) < 0.2
    part = divide(positives, np.arange(200), [1 / parts] * parts, seed)
    assert np.abs(np.bincount(part, minlength=parts) - 200 / parts).max() <= 5
