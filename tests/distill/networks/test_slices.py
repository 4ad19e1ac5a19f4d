"""Pooling of slices and all that volumes add to a model, a bank, a batch: against formulas, one slice at a time, and with any padding."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VIEWS, tiny_teacher

from distill.data.image_set import ImageSet
from distill.data.pixels import build_pixels
from distill.data.views import fresh_pixels, normalise, unit_levels
from distill.methods.build import method_losses
from distill.methods.reprogram import Reprogram
from distill.methods.step import Branches, Weights
from distill.networks.models import Model, ModelSpec, build_model, count_macs
from distill.networks.slices import SlicePool, mean_of_slices
from distill.teacher.audit import audit
from distill.teacher.bank import FeatureBank, bank_key
from distill.teacher.banking import build_bank
from distill.teacher.forward import torch_forward
from distill.training.answers import predict
from distill.training.batches import Batches
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec

SLICES = 5
SPEC = ImageSpec(32, 32, volume=VolumeSpec(SLICES, scaling="window", window=(0.0, 255.0)))


def volumes(count: int = 16, seed: int = 0) -> ImageSet:
    """Volumes of 2 to 7 slices, class 1 brighter in one of them."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    stacks = [random.integers(20, 120, (int(random.integers(2, 8)), 32, 32, 1)).astype(np.uint8) for _ in range(count)]
    for stack, label in zip(stacks, labels, strict=True):
        stack[1, 8:20, 8:20] += np.uint8(100 * label)
    return ImageSet(stacks, tuple(f"volume{row}" for row in range(count)), labels.astype(np.int64), ("no", "yes"), "binary",
                    np.repeat(["train", "val", "test"], (count // 2, count // 4, count - count // 2 - count // 4)), None,
                    tuple(hashlib.sha256(one.tobytes()).hexdigest() for one in stacks), False, {"data": "memory"}, SPEC.volume)


def model(pooling: str = "attention", seed: int = 0) -> Model:
    torch.manual_seed(seed)
    made = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", ("no", "yes"), slices=SLICES, pooling=pooling))  # type: ignore[arg-type]
    if made.slice_pool.weigh is not None:
        torch.nn.init.normal_(made.slice_pool.weigh.weight)
    return made.eval()


def bank(folder: Path, images: ImageSet) -> FeatureBank:
    teacher = tiny_teacher()
    counts = np.where(images.split == "train", 2, 0).astype(np.int64)
    return build_bank(folder, bank_key(teacher.name, teacher.hash, SPEC, VIEWS, 0), images, counts, SPEC, torch_forward(teacher),
                      views=VIEWS, seed=0, batch=3)


def test_attention_is_the_formula_over_the_slices_that_are_there() -> None:
    torch.manual_seed(0)
    pool, slices = SlicePool(12, "attention").double(), torch.randn(4, 6, 12, dtype=torch.float64)
    assert pool.look is not None
    assert pool.weigh is not None
    torch.nn.init.normal_(pool.weigh.weight)
    for row, count in enumerate((1, 3, 5, 6)):
        mask = (torch.arange(6) < count).double()
        scores = torch.stack([pool.weigh.weight[0] @ torch.tanh(pool.look.weight @ one + pool.look.bias) for one in slices[row, :count]])
        shares = torch.exp(scores) / torch.exp(scores).sum()
        torch.testing.assert_close(pool.weights(slices[row:row + 1], mask[None])[0, :count].double(), shares, atol=1e-6, rtol=1e-5)
        expected = (shares[:, None] * slices[row, :count]).sum(0)
        torch.testing.assert_close(pool(slices[row:row + 1], mask[None])[0], expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), pooling=st.sampled_from(["attention", "mean"]),
       junk=st.floats(-1e4, 1e4))
def test_what_stands_in_missing_slices_does_not_matter(counts: list[int], pooling: str, junk: float) -> None:
    torch.manual_seed(0)
    pool = SlicePool(8, pooling)  # type: ignore[arg-type]
    slices = torch.randn(len(counts), 6, 8)
    mask = (torch.arange(6) < torch.tensor(counts)[:, None]).float()
    other = torch.where(mask[..., None] > 0, slices, torch.full_like(slices, junk))
    torch.testing.assert_close(pool(slices, mask), pool(other, mask))
    weights = pool.weights(other, mask)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(counts)))
    assert not weights[mask == 0].any()


def test_attention_starts_as_the_mean() -> None:
    slices, mask = torch.randn(3, 6, 8), torch.tensor([[1.0] * 6, [1.0] * 2 + [0.0] * 4, [1.0] + [0.0] * 5])
    torch.testing.assert_close(SlicePool(8, "attention")(slices, mask), mean_of_slices(slices, mask))
    torch.testing.assert_close(mean_of_slices(slices, mask)[1], slices[1, :2].mean(0))


def test_a_volume_answers_the_same_alone_in_a_batch_and_slice_by_slice() -> None:
    net = model()
    pixels, mask = torch.randn(3, SLICES, 3, 32, 32), (torch.arange(SLICES) < torch.tensor([[5], [2], [1]])).float()
    with torch.no_grad():
        together = net(pixels, mask)
        for row, count in enumerate((5, 2, 1)):
            torch.testing.assert_close(net(pixels[row:row + 1], mask[row:row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
            found = net.trunk(pixels[row, :count])
            expected = net.logits(net.slice_pool(found[None], torch.ones(1, count)))[0]
            torch.testing.assert_close(together[row], expected, atol=1e-5, rtol=1e-5)


def test_missing_slices_stay_out_of_the_statistics_of_normalisation() -> None:
    pixels, mask = torch.randn(3, SLICES, 3, 32, 32), (torch.arange(SLICES) < torch.tensor([[5], [2], [1]])).float()
    states = []
    for junk in (0.0, 50.0):
        net = model().train()
        net(torch.where(mask[..., None, None, None] > 0, pixels, torch.full_like(pixels, junk)), mask)
        states.append({name: value for name, value in net.state_dict().items() if "running" in name})
    assert states[0]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name])


def test_the_work_of_a_volume_is_that_of_its_slices_and_their_pooling() -> None:
    plain = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", ("no", "yes")))
    more = count_macs(model("mean"), 32, 32) / count_macs(plain, 32, 32)
    assert SLICES * 0.99 < more < SLICES * 1.01


def test_the_bank_holds_every_slice_as_the_teacher_answers_it_alone(tmp_path: Path) -> None:
    images = volumes()
    held, teacher = bank(tmp_path / "bank", images), tiny_teacher()
    places = held.indices(images.hashes)
    found, mask = held.features(places), held.features(places, name="mask")
    for row in range(len(images)):
        raw = images.raw(row)
        assert mask[row].sum() == SPEC.slices_of(raw)
        for slot, place in enumerate(SPEC.volume.places(len(raw)).tolist()):  # type: ignore[union-attr]
            level = replace(SPEC, volume=None).stored(raw[place])
            expected = teacher.features(normalise(unit_levels(level[None]), SPEC.mean, SPEC.std))[0].numpy()
            np.testing.assert_allclose(found[row, slot], expected, atol=2e-2, rtol=2e-3)
        assert not found[row, int(mask[row].sum()):].any()
    assert audit(held, images, SPEC, torch_forward(teacher), views=VIEWS, seed=0, share=1.0) > 0.999
    assert held.masked == SLICES


def test_all_slices_of_a_volume_move_alike_and_share_contrast_and_brightness() -> None:
    level = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 1), dtype=np.uint8)
    repeated = np.repeat(level, SLICES, axis=1)
    matrices = np.asarray([[[0.8, 0.1, 0.1], [-0.1, 0.9, 0.0]], [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], np.float32)
    found = fresh_pixels(repeated, matrices, np.random.default_rng(3), SPEC)
    assert found.shape == (2, SLICES, 3, 32, 32)
    apart = (found - found[:, :1]).abs().mean()
    assert apart < 0.2 * found.std(), "what differs between equal slices is noise alone"


def batches(folder: Path, images: ImageSet, held: FeatureBank, banked_only: bool = False) -> Batches:
    rows = images.rows("train")
    return Batches(build_pixels(folder, images, SPEC), torch.from_numpy(images.labels), rows, rows, SPEC, VIEWS, 0, 4, 0, "fresh", held,
                   held.indices(images.hashes), images.hashes, banked_only=banked_only)


@pytest.mark.parametrize("banked_only", [False, True])
def test_a_batch_of_volumes_carries_pixels_features_and_mask(tmp_path: Path, banked_only: bool) -> None:
    images = volumes()
    made = batches(tmp_path, images, bank(tmp_path / "bank", images), banked_only)
    batch, (rows, _) = made(0), made.pick(0)
    assert batch.mask is not None
    assert batch.clean is not None
    assert batch.mask.sum(1).tolist() == [SPEC.slices_of(images.raw(int(row))) for row in rows]
    assert batch.clean.shape[:2] == (4, SLICES)
    assert batch.pixels.shape == ((4, 0) if banked_only else (4, SLICES, 3, 32, 32))
    again = made(0)
    assert all(torch.equal(getattr(batch, name), getattr(again, name)) for name in ("pixels", "clean", "viewed", "mask"))


def test_both_branches_share_the_pooling_and_only_the_students_own_loss_bends_its_target(tmp_path: Path) -> None:
    images = volumes()
    held = bank(tmp_path / "bank", images)
    student = model().train()
    branches = Branches(student, Reprogram(torch.zeros(held.width), torch.ones(held.width), student.head.in_features, dropout=0.0))
    losses = method_losses("rd", branches, batches(tmp_path, images, held)(0), Weights())
    pool = student.slice_pool.look
    assert pool is not None
    for name in ("task", "teacher_task", "cka"):
        gradient, = torch.autograd.grad(losses[name], pool.weight, retain_graph=True)
        assert gradient.abs().sum() > 0, name
    through_phi = torch.autograd.grad(losses["cka"], branches.phi.project.weight, retain_graph=True, allow_unused=True)  # type: ignore[union-attr]
    assert through_phi == (None,)


def test_predictions_of_volumes_come_with_the_attention_behind_them(tmp_path: Path) -> None:
    images = volumes()
    held = bank(tmp_path / "bank", images)
    branches = Branches(model()).eval()
    rows = images.rows("test")
    store = build_pixels(tmp_path, images, SPEC)
    made = predict(branches, store, SPEC, rows, device="cpu", bank=held, bank_rows=held.indices(images.hashes), probe=None, batch=7)
    pixels, mask = store.inputs(rows, SPEC)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made.student), branches.student(pixels, mask), atol=1e-5, rtol=1e-5)
    assert made.attention is not None
    np.testing.assert_allclose(made.attention.sum(1), 1, atol=1e-6)
    assert not made.attention[mask.numpy() == 0].any()
