"""The scan: every kind of bad image is found before training, in one report, and good ones are described rightly."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.scan import ImageRecord, complaint, mixed_depths, scan

CONTRADICTION = "contradicting labels"


def noise(seed: int, shape: tuple[int, ...] = (20, 24), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def look(path: Path) -> ImageRecord:
    seen, problems = scan([path], ["key"])
    assert not problems, problems
    assert seen[0] is not None
    return seen[0]


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_and_grey_in_colour_count_as_grey_and_colour_as_colour(tmp_path: Path) -> None:
    grey = Image.fromarray(noise(0))
    assert not look(save(tmp_path / "grey.png", grey)).colour
    assert not look(save(tmp_path / "rgb.png", grey.convert("RGB"))).colour
    assert not look(save(tmp_path / "rgba.png", grey.convert("RGBA"))).colour
    assert not look(save(tmp_path / "palette.png", grey.convert("P"))).colour
    assert look(save(tmp_path / "colour.png", Image.fromarray(noise(1, (20, 24, 3))))).colour


def test_sixteen_bits_are_seen_as_sixteen_bits(tmp_path: Path) -> None:
    assert look(save(tmp_path / "deep.png", Image.fromarray(noise(0, dtype=np.uint16)))).dtype == "uint16"
    assert look(save(tmp_path / "flat.png", Image.fromarray(noise(0)))).dtype == "uint8"


def test_sizes_are_upright_sizes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = look(save(tmp_path / "turned.jpg", Image.fromarray(noise(0, (20, 24))), exif=exif))
    assert (turned.height, turned.width) == (24, 20)


def test_the_hash_is_that_of_the_file_or_of_the_array(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(noise(0)))
    array = noise(1, (2, 20, 24, 1))
    seen, _ = scan([path, array[0]], ["a", "b"])
    assert [one.digest for one in seen if one] == [
        hashlib.sha256(path.read_bytes()).hexdigest(),
        hashlib.sha256(array[0].tobytes()).hexdigest(),
    ]


def test_every_bad_kind_is_found_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path / "good.png", Image.fromarray(noise(0, (60, 60))))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:1500])
    (tmp_path / "text.png").write_text("no image")
    save(tmp_path / "black.png", Image.new("L", (9, 9)))
    save(tmp_path / "large.png", Image.new("1", (9000, 8000)))
    names = ["good.png", "empty.png", "cut.png", "text.png", "black.png", "large.png", "absent.png"]
    ticks: list[tuple[int, int]] = []
    seen, problems = scan(
        [tmp_path / name for name in names], names, progress=lambda done, total: ticks.append((done, total))
    )
    assert {one.row: one.reason for one in problems} == {
        1: "empty",
        2: "damaged or truncated",
        3: "unreadable",
        4: "constant",
        5: "too large",
        6: "missing",
    }
    assert seen[0] is not None
    assert seen[2] is None
    assert ticks == [(done, 7) for done in range(1, 8)]
    report = complaint(problems, 7)
    assert "--skip-bad-images" in report
    assert all(str(tmp_path / name) in report for name in names[1:])


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_found_wherever_it_was_cut(tmp_path: Path, share: float) -> None:
    for name in ("a.png", "a.jpg"):
        path = save(tmp_path / name, Image.fromarray(noise(0, (64, 64))))
        data = path.read_bytes()
        path.write_bytes(data[: max(1, int(share * len(data)))])
        assert len(scan([path], [name])[1]) == 1


def test_a_colour_image_of_one_colour_is_constant(tmp_path: Path) -> None:
    path = save(tmp_path / "one.png", Image.new("RGB", (9, 9), (10, 20, 30)))
    assert scan([path], ["one"])[1][0].reason == "constant"


def test_the_report_shows_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    _, problems = scan([tmp_path / f"{index}.png" for index in range(25)], [str(index) for index in range(25)])
    report = complaint(problems, 30)
    assert "25 problems in 30 images: 25 missing" in report
    assert "and 5 more" in report
    assert report.count(".png: missing") == 20


def test_scanning_leaves_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{index}.png", Image.fromarray(noise(index))) for index in range(40)]
    before = list(warnings.filters)
    scan(paths, [path.name for path in paths])
    assert warnings.filters == before


def test_mixed_depths_are_told_with_examples() -> None:
    seen = [ImageRecord("a", 1, 1, False, "uint8"), ImageRecord("b", 1, 1, False, "uint16"), None]
    told = mixed_depths(["a.png", "b.png", "c.png"], seen)
    assert "a.png" in told
    assert "b.png" in told
    assert "c.png" not in told
    assert mixed_depths(["a.png"], seen[:1]) == ""
