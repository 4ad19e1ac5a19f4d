"""The bank: what it holds is what the teacher says, whole or not at all, of this teacher and these images or not at all."""

from __future__ import annotations

import gc
import json
import mmap
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_leaves import VALUES as JSON_VALUES
from json_leaves import places, replaced
from tiny import VIEWS, tiny_bank, tiny_images, tiny_key, tiny_model, tiny_spec, tiny_teacher
from torch import Tensor

from distill.data.views import ViewSpec, bank_views, view_pixels
from distill.teacher import bank as module
from distill.teacher.audit import audit, check_key
from distill.teacher.bank import bank_key, bank_name, open_bank, shard_file
from distill.teacher.banking import build_bank
from distill.teacher.forward import torch_forward
from distill.teacher.teacher import Teacher
from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.files.outputs import claimed
from runtimes.images.spec import ImageSpec


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def live(images: Any, row: int, view: int, seed: int = 0, teacher: Teacher | None = None) -> np.ndarray:
    """The feature of one view by the bare teacher."""
    spec = tiny_spec()
    matrices = bank_views(VIEWS, seed, images.hashes[row], view)[view:view + 1]
    pixels = view_pixels([spec.stored(images.raw(row))], matrices, np.asarray([view == 0]), spec)
    return np.asarray((teacher or tiny_teacher()).features(pixels)[0])


def test_every_row_is_what_the_teacher_says_of_that_view_to_fp16(tmp_path: Path) -> None:
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images)
    places = bank.indices(images.hashes)
    assert bank.views(places).tolist() == [2] * 16 + [0] * 16
    assert (bank.rows, bank.width) == (16 * 3 + 16, 256)
    for row in range(len(images)):
        for view in range(int(bank.views(places[[row]])[0]) + 1):
            expected = live(images, row, view)
            found = bank.features(places[[row]], view)[0]
            assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected), (row, view)


def test_view_zero_is_the_clean_image_without_resampling(tmp_path: Path) -> None:
    images = tiny_images()
    seen: list[Tensor] = []

    def forward(pixels: Tensor) -> dict[str, Tensor]:
        seen.append(pixels)
        return {"pooled": pixels.mean((2, 3))}

    tiny_bank(tmp_path / "bank", images, forward=forward, counts=np.zeros(len(images)))
    spec = tiny_spec()
    expected = spec.normalised(np.stack([spec.stored(images.raw(row)) for row in range(len(images))]))
    torch.testing.assert_close(torch.cat(seen), torch.from_numpy(expected).expand(-1, 3, -1, -1), atol=1e-6, rtol=1e-6)


def test_a_mirrored_feature_is_the_feature_of_the_mirrored_image(tmp_path: Path) -> None:
    images, mirror = tiny_images(), ViewSpec((1.0, 1.0), 1.0, 1.0, 0.0)
    spec, teacher = tiny_spec(), tiny_teacher()
    key = bank_key(teacher.name, teacher.hash, spec, mirror, 0)
    bank = build_bank(tmp_path / "bank", key, images, np.ones(len(images), np.int64), spec, torch_forward(teacher, grid=2),
                             views=mirror, seed=0)
    places = bank.indices(images.hashes)
    flipped = np.stack([spec.stored(images.raw(row))[:, ::-1] for row in range(len(images))])
    pixels = torch.from_numpy(spec.normalised(flipped)).expand(-1, 3, -1, -1)
    np.testing.assert_allclose(bank.features(places, 1), teacher.features(pixels), atol=2e-4, rtol=2e-3)
    stage = "stage2"
    clean, turned = bank.features(places, 0, stage), bank.features(places, 1, stage)
    assert np.abs(turned - clean[..., ::-1]).max() > 1e-2 * np.abs(turned).max()  # no transform of the stored feature gives it


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 4))
def test_any_mix_of_view_counts_reads_back_row_by_row(tmp_path_factory: pytest.TempPathFactory, counts: list[int], shard: int) -> None:
    images = tiny_images(counts=(len(counts), 0, 0))
    order: list[float] = []

    def forward(pixels: Tensor) -> dict[str, Tensor]:
        rows = torch.arange(len(order), len(order) + len(pixels)).float()
        order.extend(rows.tolist())
        return {"pooled": torch.stack([rows, -rows], 1), "stage0": rows[:, None, None, None].expand(-1, 3, 2, 2)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IMAGES_PER_SHARD", shard)
        bank = tiny_bank(tmp_path_factory.mktemp("bank") / "bank", images, counts=counts, forward=forward)
    places = bank.indices(images.hashes)
    assert bank.views(places).tolist() == counts
    expected = [(row, view) for row, count in enumerate(counts) for view in range(count + 1)]
    rows, views = (np.asarray(one) for one in zip(*expected, strict=True))
    np.testing.assert_array_equal(bank.features(places[rows], views)[:, 0], np.arange(bank.rows))
    assert bank.features(places[rows], views, "stage0").shape == (bank.rows, 3, 2, 2)
    shuffled = np.random.default_rng(0).permutation(bank.rows)
    np.testing.assert_array_equal(bank.features(places[rows[shuffled]], views[shuffled])[:, 0], shuffled)
    assert len(bank.shards) == -(-len(counts) // shard)


def test_stages_are_banked_to_a_grid(tmp_path: Path) -> None:
    images = tiny_images(counts=(4, 2, 2))
    bank = tiny_bank(tmp_path / "bank", images, grid=2)
    assert {"pooled", "stage0"} <= set(bank.shards[0].arrays)
    found = bank.features(bank.indices(images.hashes), 0, "stage1")
    assert found.shape[2:] == (2, 2)
    pixels = torch.from_numpy(tiny_spec().normalised(np.stack(images.images))).expand(-1, 3, -1, -1)
    np.testing.assert_allclose(found, torch_forward(tiny_teacher(), grid=2)(pixels)["stage1"], rtol=2e-3, atol=2e-3)


def test_copies_of_a_picture_are_banked_once_with_the_most_views_any_needs(tmp_path: Path) -> None:
    from dataclasses import replace

    images = tiny_images(counts=(4, 2, 2))
    raws = list(images.images)
    raws[5] = raws[0]  # a leak, as published sets have them: a validation image equal to a training image
    images = replace(images, images=raws, hashes=(*images.hashes[:5], images.hashes[0], *images.hashes[6:]))
    bank = tiny_bank(tmp_path / "bank", images)
    assert bank.rows == 4 * 3 + 3
    assert bank.views(bank.indices(images.hashes)).tolist() == [2, 2, 2, 2, 0, 2, 0, 0]
    assert open_bank(tmp_path / "bank").views(bank.indices(images.hashes)).tolist() == [2, 2, 2, 2, 0, 2, 0, 0]


def broken_after(batches: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[[Tensor], dict[str, Tensor]]:
    done = 0
    forward = torch_forward(tiny_teacher())

    def run(pixels: Tensor) -> dict[str, Tensor]:
        nonlocal done
        done += 1
        if done > batches:
            raise error
        return forward(pixels)

    return run


@pytest.mark.parametrize("batches", [0, 1, 3, 5, 7])
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    monkeypatch.setattr(module, "IMAGES_PER_SHARD", 5)
    images = tiny_images()
    tiny_bank(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        tiny_bank(tmp_path / "bank", images, forward=broken_after(batches))
    assert not (tmp_path / "bank").exists()
    calls: list[int] = []
    forward = torch_forward(tiny_teacher())

    def counted(pixels: Tensor) -> dict[str, Tensor]:
        calls.append(len(pixels))
        return forward(pixels)

    ready = len(list((tmp_path / "bank.partial").glob("features-*")))
    tiny_bank(tmp_path / "bank", images, forward=counted)
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")
    shards = [min(5, len(images) - first) for first in range(0, len(images), 5)][ready:]
    assert sum(calls) == sum(3 if row < 16 else 1 for row in range(len(images) - sum(shards), len(images)))  # nothing twice
    assert not (tmp_path / "bank.partial").exists()


def test_a_torn_temporary_file_of_a_killed_build_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES_PER_SHARD", 5)
    images = tiny_images()
    tiny_bank(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        tiny_bank(tmp_path / "bank", images, forward=broken_after(3))
    (tmp_path / "bank.partial" / f".{shard_file(1)}.tmp").write_bytes(b"half")
    tiny_bank(tmp_path / "bank", images)
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")


def test_a_partial_build_of_another_plan_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES_PER_SHARD", 5)
    images = tiny_images()
    tiny_bank(tmp_path / "whole", images, seed=1)
    with pytest.raises(KeyboardInterrupt):
        tiny_bank(tmp_path / "bank", images, seed=0, forward=broken_after(4))
    tiny_bank(tmp_path / "bank", images, seed=1)
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_features_fp16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    images = tiny_images(counts=(4, 2, 2))
    with pytest.raises(UserError, match="not finite or too large for fp16"):
        tiny_bank(tmp_path / "bank", images, forward=lambda pixels: {"pooled": torch.full((len(pixels), 3), value)})
    assert not (tmp_path / "bank").exists()


def test_progress_counts_every_row_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    images = tiny_images()
    tiny_bank(tmp_path / "bank", images, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (64, 64)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_name_and_the_key_change_with_teacher_preprocessing_image_and_seed() -> None:
    images = tiny_images()
    counts = np.where(images.split == "train", 2, 0)
    other = load_teacher("test_resnet", size=32, weights="random")
    spec = tiny_spec()
    keys = {"same": tiny_key(), "teacher": tiny_key(teacher=other), "preprocessing": tiny_key(spec=ImageSpec(32, 32, 1, mean=(0, 0, 0))),
            "window": tiny_key(spec=ImageSpec(32, 32, 1, "uint16", (0.0, 900.0))), "seed": tiny_key(seed=1),
            "views": tiny_key(views=ViewSpec(flip=0.0)), "grid": tiny_key(grid=2)}
    names = {name: bank_name(key, images.hashes, counts) for name, key in keys.items()}
    names["image"] = bank_name(tiny_key(), (*images.hashes[:-1], "0" * 64), counts)
    names["counts"] = bank_name(tiny_key(), images.hashes, counts + 1)
    assert len(set(names.values())) == len(names)
    assert bank_name(tiny_key(spec=spec), images.hashes, counts) == names["same"]
    order = np.random.default_rng(0).permutation(len(images))  # the order of the images is no difference
    assert bank_name(tiny_key(), [images.hashes[row] for row in order], counts[order]) == names["same"]


def changed_teacher() -> Teacher:
    model = tiny_model(seed=9)
    return Teacher(tiny_teacher().name, model, tiny_spec(), "f" * 64)


@pytest.mark.parametrize(("key", "named"), [
    (lambda: tiny_key(teacher=changed_teacher()), "teacher_hash"), (lambda: tiny_key(spec=ImageSpec(64, 64, 1)), "preprocessing"),
    (lambda: tiny_key(seed=1), "seed"), (lambda: tiny_key(views=ViewSpec(flip=0.0)), "views"), (lambda: tiny_key(grid=2), "grid")])
def test_a_stale_bank_is_refused_and_the_difference_named(tmp_path: Path, key: Callable[[], dict[str, Any]], named: str) -> None:
    bank = tiny_bank(tmp_path / "bank", tiny_images(counts=(4, 2, 2)))
    check_key(bank, tiny_key())
    with pytest.raises(UserError, match=f"is stale: {named} is") as caught:
        check_key(bank, key())
    assert str(tmp_path / "bank") in str(caught.value)


def test_the_key_of_a_bank_survives_its_json(tmp_path: Path) -> None:
    bank = tiny_bank(tmp_path / "bank", tiny_images(counts=(4, 2, 2)))
    assert open_bank(tmp_path / "bank").key == bank.key == json.loads(json.dumps(tiny_key()))


def test_an_image_the_bank_does_not_hold_is_an_error(tmp_path: Path) -> None:
    images = tiny_images(counts=(4, 2, 2))
    bank = tiny_bank(tmp_path / "bank", images)
    with pytest.raises(UserError, match="lacks 1 of 9 images"):
        bank.indices((*images.hashes, "a" * 64))


def test_a_hundred_flipped_bits_are_all_refused(tmp_path: Path) -> None:
    images = tiny_images(counts=(6, 2, 2))
    tiny_bank(tmp_path / "bank", images)
    random = np.random.default_rng(0)
    files = [path for path in sorted((tmp_path / "bank").iterdir()) if path.name != "manifest.json"]
    for turn in range(100):
        path = files[turn % len(files)]
        data = bytearray(path.read_bytes())
        place = int(random.integers(len(data)))
        data[place] ^= 1 << int(random.integers(8))
        whole = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not what was written"):
            open_bank(tmp_path / "bank")
        path.write_bytes(whole)
    open_bank(tmp_path / "bank")


def test_flips_of_the_manifest_never_let_a_changed_bank_through(tmp_path: Path) -> None:
    tiny_bank(tmp_path / "bank", tiny_images(counts=(4, 2, 2)))
    manifest = tmp_path / "bank" / "manifest.json"
    shard = tmp_path / "bank" / shard_file(0)
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    whole = manifest.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(30):
        data = bytearray(whole)
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        manifest.write_bytes(data)
        with pytest.raises(UserError):
            open_bank(tmp_path / "bank")


def hand_made(folder: Path, entries: dict[str, Any], values: bytes, plan: dict[str, Any] | None = None) -> Path:
    """A bank of two images with one view each, its only shard with this header and these values."""
    folder.mkdir(exist_ok=True)
    told = json.dumps(entries).encode()
    (folder / shard_file(0)).write_bytes(len(told).to_bytes(8, "little") + told + values)
    (folder / "plan.json").write_text(json.dumps(PLANNED if plan is None else plan))
    write_manifest(folder, "bank", {})
    return folder


PLANNED: dict[str, Any] = {"key": {"teacher": "t", "views": {}, "seed": 0}, "hashes": ["a", "b"], "views": [0, 0]}
POOLED: dict[str, Any] = {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16]}
VALUES16 = np.arange(8, dtype="<f2").tobytes()


@pytest.mark.parametrize(("entries", "values", "word"), [
    ({"pooled": {**POOLED, "data_offsets": [-16, 0]}}, VALUES16, r"data_offsets\[0\] is -16"),
    ({"pooled": {**POOLED, "data_offsets": [8, 24]}}, VALUES16, r"data_offsets is \[8, 24\], expected \[0, 16\]"),
    ({"pooled": {**POOLED, "data_offsets": [16, 0]}}, VALUES16, "data_offsets"),
    ({"pooled": {**POOLED, "dtype": "F32"}}, VALUES16, "dtype"),
    ({"pooled": {**POOLED, "dtype": "BF16"}}, VALUES16, "dtype"), ({"pooled": {**POOLED, "shape": [4, 2]}}, VALUES16, "expected 2 rows"),
    ({"pooled": {**POOLED, "shape": [1, 8]}}, VALUES16, "expected 2 rows"), ({"pooled": {**POOLED, "shape": [2, 2, 2]}}, VALUES16, "shape"),
    ({"pooled": POOLED, "stage0": {**POOLED, "shape": [2, 1, 2, 2]}}, VALUES16, "stage0.data_offsets"),
    ({"x": POOLED}, VALUES16, "pooled is"),
    ({"pooled": POOLED, "extra": {**POOLED, "data_offsets": [16, 32]}}, VALUES16 * 2, "extra"),
    ({"pooled": POOLED}, VALUES16[:-2], "bytes of"),
    ({"pooled": POOLED}, VALUES16 + b"  ", "bytes of"), ({"pooled": POOLED}, VALUES16[:-2] + b"\x00\x7e", "NaN or Inf"),
    ({"pooled": POOLED}, b"\x00\xfc" + VALUES16[2:], "NaN or Inf"),
    ({"pooled": {**POOLED, "shape": [2, 2, 1], "data_offsets": [0, 8]}, "mask": {**POOLED, "shape": [2, 2], "data_offsets": [8, 16]}},
     VALUES16, "mask holds other values")])
def test_a_shard_that_cannot_be_is_refused_with_its_key(tmp_path: Path, entries: dict[str, Any], values: bytes, word: str) -> None:
    whole = open_bank(hand_made(tmp_path / "bank", {"pooled": POOLED}, VALUES16))
    assert whole.features(np.array([0, 1])).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(UserError, match=word):
        open_bank(hand_made(tmp_path / "bank", entries, values))


@pytest.mark.parametrize(("change", "word"), [({"views": [0]}, "1 numbers of views for 2"), ({"views": [0, -1]}, r"views\[1\] is -1"),
                                              ({"views": [0.0, 0]}, r"views\[0\]"), ({"views": [3, 0]}, "expected 5 rows"),
                                              ({"hashes": ["a", "a"]}, "each image once"), ({"key": {}}, "key.teacher is missing"),
                                              ({"hashes": []}, "hashes")])
def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        open_bank(hand_made(tmp_path / "bank", {"pooled": POOLED}, VALUES16, {**PLANNED, **change}))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_header_or_plan_gives_the_same_features_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    documents: list[Any] = [{"pooled": POOLED, "__metadata__": {"format": "np"}}, PLANNED]
    which = data.draw(st.sampled_from([0, 1]))
    path = data.draw(st.sampled_from(list(places(documents[which]))))
    documents[which] = replaced(documents[which], path, data.draw(JSON_VALUES))
    with suppress(UserError):
        bank = open_bank(hand_made(tmp_path / "bank", documents[0], VALUES16, documents[1]))
        assert bank.features(np.array([0, 1])).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_half_a_bank_is_no_bank(tmp_path: Path) -> None:
    images = tiny_images(counts=(4, 2, 2))
    tiny_bank(tmp_path / "bank", images)
    (tmp_path / "bank" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        open_bank(tmp_path / "bank")
    with pytest.raises(UserError, match="does not exist"):
        open_bank(tmp_path / "nothing")


def test_one_percent_recomputed_agrees_and_another_teacher_is_caught(tmp_path: Path) -> None:
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images)
    forward = torch_forward(tiny_teacher())
    for share in (0.01, 0.5, 0.99):
        assert audit(bank, images, tiny_spec(), forward, views=VIEWS, seed=0, share=share) >= 0.9999
    wrong = torch_forward(load_teacher("test_efficientnet_ln", size=32, weights="random"))
    with pytest.raises(UserError, match="does not match its teacher: smallest cosine"):
        audit(bank, images, tiny_spec(), wrong, views=VIEWS, seed=0, share=0.01)


def test_the_audit_sees_other_views_and_other_preprocessing(tmp_path: Path) -> None:
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images)
    forward = torch_forward(tiny_teacher())
    with pytest.raises(UserError, match="does not match its teacher"):
        audit(bank, images, tiny_spec(), forward, views=VIEWS, seed=1, share=0.99)
    with pytest.raises(UserError, match="does not match its teacher"):
        audit(bank, images, ImageSpec(32, 32, 1, window=(0.0, 120.0)), forward, views=VIEWS, seed=0, share=0.99)


def test_of_two_threads_one_builds_and_the_other_waits_and_finds(tmp_path: Path) -> None:
    images, built = tiny_images(counts=(4, 2, 2)), []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with claimed(tmp_path / "banks" / "one", wait=True):
                if not (tmp_path / "banks" / "one").is_dir():
                    time.sleep(0.05)
                    built.append(tiny_bank(tmp_path / "banks" / "one", images))
                assert open_bank(tmp_path / "banks" / "one").rows == 16
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(built) == 1


def test_the_lock_is_freed_when_its_holder_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "one"):
        raise KeyboardInterrupt
    with claimed(tmp_path / "one"):
        pass


def resident(bank: module.FeatureBank) -> int:
    """Kilobytes of the bank's files that this process holds in memory."""
    names, held, counting = {str(path) for path in bank.folder.iterdir()}, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and len(words) >= 5 and not words[0].endswith(":"):
            counting = words[-1] in names
        elif counting and words[0] == "Rss:":
            held += int(words[1])
    return held


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="needs Linux's /proc/self/smaps")
def test_released_pages_leave_memory_and_what_was_read_stays_right(tmp_path: Path) -> None:
    images = tiny_images(counts=(200, 2, 2))
    wide = torch.randn(3 * 200 + 4, 4000).half().float()
    seen = 0

    def forward(pixels: Tensor) -> dict[str, Tensor]:
        nonlocal seen
        seen += len(pixels)
        return {"pooled": wide[seen - len(pixels):seen]}

    bank = tiny_bank(tmp_path / "bank", images, forward=forward)
    places = bank.indices(images.hashes)
    before = bank.features(places)
    assert resident(bank) > 1000
    bank.release()
    assert resident(bank) < 100
    np.testing.assert_array_equal(bank.features(places), before)


def test_a_closed_bank_leaves_no_map_behind(tmp_path: Path) -> None:
    bank = tiny_bank(tmp_path / "bank", tiny_images(counts=(4, 2, 2)))
    assert isinstance(bank.shards[0].map, mmap.mmap)
    assert not bank.shards[0].arrays["pooled"].flags.writeable
    del bank
    gc.collect()
    assert str(tmp_path / "bank") not in Path("/proc/self/maps").read_text()


def test_the_plan_is_part_of_what_is_hashed(tmp_path: Path) -> None:
    tiny_bank(tmp_path / "bank", tiny_images(counts=(4, 2, 2)))
    plan = read_json(tmp_path / "bank" / "plan.json")
    plan["hashes"][0], plan["hashes"][1] = plan["hashes"][1], plan["hashes"][0]
    write_json(tmp_path / "bank" / "plan.json", plan)
    with pytest.raises(UserError, match=r"plan\.json has other bytes"):
        open_bank(tmp_path / "bank")
    shutil.rmtree(tmp_path / "bank")


def test_joined_banks_hold_both_teachers_features_of_the_same_view_side_by_side(tmp_path: Path) -> None:
    images = tiny_images(counts=(6, 3, 3))
    first, second = (tiny_bank(tmp_path / str(width), images,
                               forward=lambda pixels, width=width: {"pooled": pixels.mean((2, 3))[:, :1].expand(-1, width)})
                     for width in (5, 3))
    turned = replace(second, position={one: len(images) - 1 - place for one, place in second.position.items()})
    both = first.joined(turned)
    places = both.indices(images.hashes)
    found = both.features(places, both.views(places))
    assert both.width == found.shape[1] == 8
    np.testing.assert_array_equal(found[:, :5], first.features(places, both.views(places)))
    np.testing.assert_array_equal(found[:, 5:], second.features(turned.indices(images.hashes), both.views(places)))


def test_banks_of_other_views_or_images_are_not_joined(tmp_path: Path) -> None:
    images = tiny_images(counts=(6, 3, 3))
    first = tiny_bank(tmp_path / "first", images)
    with pytest.raises(UserError, match="--bank-seed"):
        first.joined(replace(first, key={**first.key, "seed": 99}))
    lacking = replace(first, position=dict(list(first.position.items())[:-1]))
    with pytest.raises(UserError, match="lacks 1 of 12 images"):
        first.joined(lacking).indices(images.hashes)
