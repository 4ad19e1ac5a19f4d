"""Batches are a pure function of seed and step: every image once a turn, hidden labels hidden, tied views tied."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VIEWS, tiny_bank, tiny_batches, tiny_images, tiny_spec

from distill.data import views
from distill.data.views import bank_views, normalise, unit_levels, warp
from distill.methods.step import Batch
from distill.teacher.live import LiveTeacher
from distill.training import batches as module
from distill.training.batches import stream


def same(one: Batch, two: Batch) -> bool:
    def alike(a: Any, b: Any) -> bool:
        if isinstance(a, tuple):
            return len(a) == len(b) and all(alike(left, right) for left, right in zip(a, b, strict=True))
        return (a is None and b is None) or (a is not None and b is not None and torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)))

    return all(alike(getattr(one, field.name), getattr(two, field.name)) for field in fields(Batch))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 200), st.integers(1, 90))
def test_a_stream_shows_each_item_once_a_turn_wherever_it_is_cut(seed: int, count: int, start: int, length: int) -> None:
    whole = stream(seed, 1, count, 0, start + length)
    np.testing.assert_array_equal(stream(seed, 1, count, start, length), whole[start:])
    for turn in range(len(whole) // count):
        assert sorted(whole[turn * count:(turn + 1) * count].tolist()) == list(range(count))


def test_turns_seeds_and_streams_differ_in_order() -> None:
    base = stream(0, 1, 50, 0, 100)
    assert not np.array_equal(base[:50], base[50:])
    assert not np.array_equal(base, stream(1, 1, 50, 0, 100))
    assert not np.array_equal(base, stream(0, 2, 50, 0, 100))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12))
def test_every_labelled_image_is_seen_once_an_epoch(tmp_path_factory: pytest.TempPathFactory, count: int, size: int) -> None:
    base = tiny_batches(_shared(tmp_path_factory), tiny_images(), batch=size)
    rows = np.arange(count, dtype=np.int64)
    batches = replace(base, rows=rows, labelled=rows)
    steps = batches.steps_per_epoch(1, 0)
    seen = np.concatenate([batches.pick(step)[0] for step in range(steps)])
    assert set(seen[:count].tolist()) == set(range(count))
    assert steps == -(-count // size)
    assert all(len(batches.pick(step)[0]) == size for step in range(steps))


def _shared(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "shared-pixels"


def test_a_short_run_turns_more_often() -> None:
    rows = np.arange(10)
    batches = module.Batches(None, torch.zeros(10), rows, rows, tiny_spec(), VIEWS, 0, 4, 2)  # type: ignore[arg-type]
    assert batches.steps_per_epoch(40, 300) == 8
    assert batches.steps_per_epoch(2, 0) == 3
    assert batches.steps_per_epoch(40, 0) == 3


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("views", ["fresh", "tied"])
@pytest.mark.parametrize("unlabelled", [0, 6])
def test_the_same_step_is_the_same_batch_in_any_order(tmp_path: Path, task: str, views: str, unlabelled: int) -> None:
    images = tiny_images(task, unlabelled=unlabelled)
    bank = tiny_bank(tmp_path / "bank", images)
    batches = tiny_batches(tmp_path / "run", images, bank=bank, probe=True, views=views)
    first = [batches(step) for step in range(5)]
    torch.manual_seed(99)
    np.random.default_rng(1).random(7)
    module._permutation.cache_clear()
    for step in (4, 0, 3, 1, 2):
        assert same(batches(step), first[step])
    assert not same(first[0], first[1])
    other = replace(batches, seed=1)
    assert not same(other(0), first[0])


def test_a_batch_holds_what_its_rows_say(tmp_path: Path) -> None:
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images)
    batches = tiny_batches(tmp_path / "run", images, bank=bank, probe=True)
    rows, shown = batches.pick(3)
    batch = batches(3)
    assert shown == len(rows) == 8
    assert batch.labels.tolist() == images.labels[rows].tolist()
    places = bank.indices([images.hashes[row] for row in rows])
    assert batch.clean is not None
    assert batch.viewed is not None
    assert batches.probe is not None
    assert batch.probe_logits is not None
    np.testing.assert_array_equal(batch.clean, bank.features(places))
    torch.testing.assert_close(batch.probe_logits, batches.probe.logits(batch.clean))
    for row in range(8):
        found = [view for view in range(3) if np.array_equal(bank.features(places[[row]], view)[0], batch.viewed[row])]
        assert len(found) == 1
    assert batch.pixels.shape == (8, 3, 32, 32)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(batch.pixels).all()


def test_all_views_are_drawn_in_time(tmp_path: Path) -> None:
    images = tiny_images(counts=(6, 2, 2))
    bank = tiny_bank(tmp_path / "bank", images)
    batches = tiny_batches(tmp_path / "run", images, bank=bank)
    drawn = set()
    for step in range(40):
        rows, _ = batches.pick(step)
        viewed = batches(step).viewed
        assert viewed is not None
        for row, feature in zip(rows, viewed.numpy(), strict=True):
            place = bank.indices([images.hashes[row]])
            drawn |= {(int(row), view) for view in range(3) if np.array_equal(bank.features(place, view)[0], feature)}
    assert drawn == {(row, view) for row in range(6) for view in range(3)}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_with_unlabelled_images_the_second_part_hides_its_labels(tmp_path: Path, task: str) -> None:
    images = tiny_images(task, unlabelled=6)
    batches = tiny_batches(tmp_path / "run", images, bank=tiny_bank(tmp_path / "bank", images), labelled_batch=4)
    assert batches.mixed
    seen: list[int] = []
    for step in range(4):
        rows, shown = batches.pick(step)
        batch = batches(step)
        assert (shown, len(rows)) == (4, 12)
        assert images.labelled[rows[:4]].all()
        known = torch.isfinite(batch.labels).all(1) if task == "multilabel" else batch.labels >= 0
        assert known.tolist() == [True] * 4 + [False] * 8
        seen += rows[4:].tolist()
    assert sorted(seen[:16]) == list(range(16))  # labelled ones too: the second part is the whole set, without its labels
    np.testing.assert_array_equal(batches.labels, images.labels)  # hiding changed a copy


def test_a_tied_view_is_the_very_view_the_teacher_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, spec = tiny_images(), tiny_spec()
    bank = tiny_bank(tmp_path / "bank", images)
    batches = tiny_batches(tmp_path / "run", images, bank=bank, views="tied")
    monkeypatch.setattr(views, "photometric", lambda unit, generator: unit)
    for step in range(3):
        rows, _ = batches.pick(step)
        batch = batches(step)
        assert batch.viewed is not None
        for place, row in enumerate(rows):
            at = bank.indices([images.hashes[row]])
            view = next(view for view in range(3) if np.array_equal(bank.features(at, view)[0], batch.viewed[place]))
            levels = unit_levels(spec.stored(images.raw(int(row)))[None])
            matrix = torch.from_numpy(bank_views(VIEWS, 0, images.hashes[row], view)[view:view + 1])
            expected = normalise(warp(levels, matrix), spec.mean, spec.std)[0]
            torch.testing.assert_close(batch.pixels[place], expected)


def test_without_a_bank_there_is_nothing_of_a_teacher(tmp_path: Path) -> None:
    batch = tiny_batches(tmp_path / "run", tiny_images())(0)
    assert batch.clean is batch.viewed is batch.probe_logits is None


def test_maps_of_the_teachers_stages_are_those_of_the_view_that_was_drawn(tmp_path: Path) -> None:
    images = tiny_images(counts=(12, 4, 4))
    bank = tiny_bank(tmp_path / "bank", images, grid=2)
    assert bank.stages
    whole = replace(tiny_batches(tmp_path, images, bank=bank), stages=tuple(bank.stages))
    found = whole(3)
    assert [tuple(one.shape[1:]) for one in found.maps] == [(channels, 2, 2) for channels in bank.stages.values()]
    assert same(found, whole(3))
    assert not same(found, whole(4))
    assert found.viewed is not None
    rows, _ = whole.pick(3)
    places = bank.indices([images.hashes[row] for row in rows])
    views = [next(view for view in range(3) if np.array_equal(bank.features(places[[at]], view)[0], found.viewed[at].numpy()))
             for at in range(len(rows))]
    for name, maps in zip(bank.stages, found.maps, strict=True):
        assert np.array_equal(bank.features(places, np.asarray(views), name), maps.numpy())


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_mixed_images_and_what_the_teacher_says_of_them_are_mixed_alike(tmp_path: Path, task: str) -> None:
    images = tiny_images(task, unlabelled=6)
    bank = tiny_bank(tmp_path / "bank", images)
    plain = tiny_batches(tmp_path / "run", images, bank=bank, probe=True)
    whole, mixed = plain(3), replace(plain, mixup=0.4)(3)
    assert mixed.share is not None
    assert mixed.other_labels is not None
    share = float(mixed.share)
    rows = torch.arange(len(whole.pixels))
    order = [next(int(other) for other in rows if torch.allclose(mixed.pixels[row], share * whole.pixels[row] + (1 - share)
                                                                 * whole.pixels[other], atol=1e-5)) for row in rows]
    assert sorted(order) == rows.tolist()
    for name in ("clean", "viewed", "probe_logits"):
        own = getattr(whole, name).double()
        torch.testing.assert_close(getattr(mixed, name).double(), share * own + (1 - share) * own[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.labels, whole.labels, equal_nan=True)
    torch.testing.assert_close(mixed.other_labels, whole.labels[order], equal_nan=True)
    assert same(replace(plain, mixup=0.4)(3), mixed)


def test_shares_of_mixed_images_are_those_of_the_beta_distribution(tmp_path: Path) -> None:
    from scipy import stats

    images = tiny_images()
    batches = replace(tiny_batches(tmp_path / "run", images), mixup=0.4)
    shares = [float(batches(step).share) for step in range(300)]  # type: ignore[arg-type]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.001


def test_a_live_teacher_is_asked_for_the_very_views_of_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images)
    batches = tiny_batches(tmp_path / "run", images, bank=bank, probe=True)
    monkeypatch.setattr(views, "photometric", lambda unit, generator: unit)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)[:, :batches.bank.width]  # type: ignore[union-attr]

    live = LiveTeacher(forward, batches.pixels, batches.spec, 3)
    batch = replace(batches, live=live)(5)
    assert batch.clean is not None
    torch.testing.assert_close(batch.clean, batch.pixels.flatten(1)[:, :batches.bank.width])  # type: ignore[union-attr]
    assert batch.viewed is batch.clean
    assert batches.probe is not None
    torch.testing.assert_close(batch.probe_logits, batches.probe.logits(batch.clean))
