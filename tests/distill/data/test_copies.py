"""Copies: exact ones by their pixels, near ones as a search over all pairs would find them, and clusters that a split can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distill.data.copies import find_copies, find_near_copies, join_near
from distill.data.scan import ImageRecord, fingerprint, scan
from distill.data.splits import merge_groups

CONTRADICTION = "contradicting labels"


def noise(seed: int, shape: tuple[int, ...] = (20, 24)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_two_files_of_one_picture_are_one_and_another_depth_or_size_is_not(tmp_path: Path) -> None:
    grey = Image.fromarray(noise(0))
    turned = Image.Exif()
    turned[0x0112] = 6
    same = [
        save(tmp_path / "a.png", grey),
        save(tmp_path / "b.png", grey, compress_level=1),
        save(tmp_path / "c.bmp", grey),
        save(tmp_path / "d.tif", grey.convert("RGB"), compression="tiff_lzw"),
        save(tmp_path / "e.png", grey.convert("RGBA")),
        save(tmp_path / "f.png", grey.transpose(Image.Transpose.ROTATE_90), exif=turned),
    ]
    other = [
        save(tmp_path / "g.png", Image.fromarray(noise(0).astype(np.uint16))),
        save(tmp_path / "h.png", Image.fromarray(noise(0).reshape(24, 20))),
        save(tmp_path / "i.png", grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    ]
    seen, _ = scan([*same, *other], [path.name for path in (*same, *other)])
    pixels = [one.pixels for one in seen if one]
    assert len(set(pixels[:6])) == 1
    assert len(set(pixels)) == 4
    assert len({one.digest for one in seen if one}) == 9


def reasons(digests: list[str], labels: list[int], split: list[str]) -> dict[int, str]:
    names = [f"i{index}" for index in range(len(digests))]
    found = find_copies(names, digests, np.asarray(labels), np.asarray(split, dtype=object), ["a", "b"])
    return {one.row: one.reason for one in found}


def test_an_exact_copy_in_another_split_is_a_leak_and_the_tested_one_stays() -> None:
    assert reasons(["x", "y", "x"], [0, 1, 0], ["train", "train", "test"]) == {0: "leak"}


def test_a_copy_in_the_same_split_is_a_duplicate_and_the_first_stays() -> None:
    assert reasons(["x", "x", "x", "y"], [0, 0, 0, 0], ["train"] * 4) == {1: "duplicate", 2: "duplicate"}
    assert reasons(["x", "x"], [0, 0], ["", ""]) == {1: "duplicate"}


def test_one_image_with_two_labels_is_wrong_wherever_it_stands() -> None:
    assert reasons(["x", "x", "y"], [0, 1, 1], ["test", "test", "val"]) == {0: CONTRADICTION, 1: CONTRADICTION}


def test_an_unlabelled_copy_gives_way_to_the_labelled_one() -> None:
    assert reasons(["x", "x"], [-1, 1], ["train", "train"]) == {0: "duplicate"}
    assert reasons(["x", "x"], [-1, 1], ["train", "test"]) == {0: "leak"}
    assert reasons(["x", "x", "x"], [-1, 1, 0], ["train"] * 3) == {0: "duplicate", 1: CONTRADICTION, 2: CONTRADICTION}


def test_unreadable_images_are_no_copies_of_each_other() -> None:
    assert reasons(["", ""], [0, 1], ["train", "test"]) == {}


def test_a_missing_finding_does_not_contradict_a_known_one() -> None:
    split = np.asarray(["train", "train"], dtype=object)
    labels = np.asarray([[1, np.nan], [1, 0]], dtype=np.float32)
    assert [one.reason for one in find_copies(["a", "b"], ["x", "x"], labels, split, ["p", "q"])] == ["duplicate"]
    labels[0, 0] = 0
    assert [one.reason for one in find_copies(["a", "b"], ["x", "x"], labels, split, ["p", "q"])] == [CONTRADICTION] * 2


def smooth(seed: int, size: int) -> Image.Image:
    return Image.fromarray(noise(seed, (6, 6))).resize((size, size), Image.Resampling.BICUBIC)


def test_a_recompressed_and_resized_copy_is_listed_and_another_picture_is_not(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "a.png", smooth(0, 128)),
        save(tmp_path / "b.png", smooth(1, 128)),
        save(tmp_path / "a.jpg", smooth(0, 128).resize((96, 96)), quality=80),
        save(tmp_path / "c.png", smooth(2, 128)),
    ]
    seen, _ = scan(paths, [path.name for path in paths])
    assert find_near_copies(seen) == [(0, 2)]


def test_a_fingerprint_does_not_depend_on_size() -> None:
    small, large = (
        np.unpackbits(np.frombuffer(fingerprint(np.asarray(smooth(3, size))[..., None]), np.uint8))
        for size in (64, 1100)
    )
    assert (small != large).sum() <= 8




def near_groups(hashes: np.ndarray) -> list[int]:
    """The first row that near pairs lead to from each row, by comparing all with all."""
    differ = (hashes[:, None] != hashes[None]).sum(axis=-1)
    both = (hashes[:, None] & hashes[None]).sum(axis=-1)
    neither = (~hashes[:, None] & ~hashes[None]).sum(axis=-1)
    detail = np.minimum(both, neither)
    reach = (differ <= 8) & (8 * differ <= detail) & (detail >= 16) | np.eye(len(hashes), dtype=bool)
    while (further := reach @ reach).sum() > reach.sum():
        reach = further
    return reach.argmax(axis=1).tolist()


def linked_groups(count: int, links: list[tuple[int, int]]) -> list[int]:
    reach = np.eye(count, dtype=bool)
    for a, b in links:
        reach[a, b] = reach[b, a] = True
    while (further := reach @ reach).sum() > reach.sum():
        reach = further
    return reach.argmax(axis=1).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 160), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.02, 0.03, 0.5]),
       st.sampled_from([0.0, 0.03, 0.07, 0.5, 0.95]))
def test_the_search_links_what_a_comparison_of_all_links(seed: int, count: int, pictures: int, noisy: float, bright: float) -> None:
    rng = np.random.default_rng(seed)
    hashes = (rng.random((pictures, 240)) < bright)[rng.integers(0, pictures, count)] ^ (rng.random((count, 240)) < noisy)
    links = find_near_copies([ImageRecord(str(row), 9, 9, False, "uint8", np.packbits(one).tobytes()) for row, one in enumerate(hashes)])
    assert linked_groups(count, links) == near_groups(hashes)


def test_clusters_are_joined_with_patients_unless_a_class_would_have_too_few_groups_left() -> None:
    positives = np.repeat(np.eye(2, dtype=bool), 12, axis=0)
    patients = merge_groups([[f"p{row // 2}" for row in range(24)]], 24)
    groups, joined, loose = join_near(patients, [(1, 3)], positives)
    assert groups.tolist()[:6] == [0, 0, 0, 0, 4, 4]
    assert (joined.tolist(), loose.tolist()) == ([0, 1, 2, 3], [])
    video = [(row, row + 1) for row in range(11)]
    groups, joined, loose = join_near(patients, [*video, (20, 23)], positives)
    assert groups.tolist() == [*patients.tolist()[:20], 20, 20, 20, 20]
    assert (joined.tolist(), loose.tolist()) == ([20, 21, 22, 23], list(range(12)))


def test_few_patients_stay_as_many_as_splits_need() -> None:
    positives = np.ones((30, 1), dtype=bool)
    patients = merge_groups([["a"] * 20 + ["b"] * 5 + ["c"] * 5], 30)
    groups, joined, loose = join_near(patients, [(20, 25)], positives)
    assert groups.tolist() == patients.tolist()
    assert (joined.tolist(), loose.tolist()) == ([], list(range(20, 30)))
