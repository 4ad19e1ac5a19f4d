"""Experts behind the pool from the probe: the start, the fold of an ensemble, the guard on noise and where gates help, volumes."""

from __future__ import annotations

import copy
import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, tiny_model
from torch import Tensor

from distill.adaptation import from_probe
from distill.adaptation.from_probe import Course, Members, adapt_from_probe, at_probe, folded, lifted
from distill.adaptation.guard import Verdict
from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED
from distill.data.image_set import ImageSet
from distill.evaluation.gains import gain_of
from distill.networks.models import Model, ModelSpec, build_model, class_scores
from distill.networks.slices import mean_of_slices
from distill.selection import judging
from distill.selection.judging import judging_sets
from distill.teacher.bank import FeatureBank, Shard
from distill.teacher.probe import Probe, fit_probe
from distill.teacher.teaching import TeacherSignals
from runtimes.errors import UserError
from runtimes.images.volumes import VolumeSpec

MOLRE = AdapterSpec(6, 2, 1.0, "mlp", hidden=8)
SPECS: dict[str, AdapterSpec | None] = {
    "molre": MOLRE, "lora": AdapterSpec(1, 4, 2.0), "moe": AdapterSpec(8, 1, 4.0, "linear", top_k=2), "linear": None}
WIDTH, SLICES = 256, 5


def course(spec: AdapterSpec | None = MOLRE, **changes: Any) -> Course:
    return replace(Course(spec, 3, 50, 32, 1e-3, 1.0, 0.0, 1e-3, 0, "cpu"), **changes)


def image_set(labels: np.ndarray, counts: tuple[int, int, int], task: str, groups: Any = None, slices: int = 0) -> ImageSet:
    hashes = tuple(f"{row:064d}" for row in range(len(labels)))
    return ImageSet([np.zeros((1, 1, 1), np.uint8)] * len(labels), hashes, labels, CLASSES[task], task,  # type: ignore[arg-type]
                    np.repeat(["train", "val", "test"], counts), groups, hashes,
                    volume=VolumeSpec(slices=slices) if slices else None)


def signals_of(images: ImageSet, features: np.ndarray, mask: np.ndarray | None = None) -> TeacherSignals:
    """What a teacher with these features, clean and one view each, leaves behind."""
    count = len(images)
    arrays = {"pooled": np.repeat(features, 2, axis=0).astype(np.float16)}
    if mask is not None:
        arrays["mask"] = np.repeat(mask, 2, axis=0).astype(np.float16)
    bank = FeatureBank(Path("bank"), {}, {name: row for row, name in enumerate(images.hashes)}, np.arange(count + 1) * 2,
                       (Shard(arrays, mmap.mmap(-1, 4096)),), np.asarray([0]))
    stored = torch.from_numpy(arrays["pooled"][::2].astype(np.float32))
    whole = mean_of_slices(stored, None if mask is None else torch.from_numpy(mask.astype(np.float32)))
    labels = torch.from_numpy(images.labels)
    train, val = images.rows("train"), images.rows("val")
    probe = fit_probe(whole[train], labels[train], whole[val], labels[val], images.task, len(images.classes) - (images.task == "ordinal"))
    return TeacherSignals(bank, np.arange(count), probe, probe.mean, probe.sd, {})


def drawn(task: str, count: int = 120, seed: int = 0) -> tuple[ImageSet, np.ndarray]:
    """Images whose features tell a little of their labels."""
    random = np.random.default_rng(seed)
    classes = len(CLASSES[task])
    if task == "multilabel":
        labels: np.ndarray = (random.random((count, classes)) < 0.4).astype(np.float32)
        told = labels
    else:
        labels = random.integers(0, classes, count)
        told = np.eye(classes)[labels]
    features = random.normal(size=(count, WIDTH)) * 0.5 + 3 + told @ random.normal(size=(classes, WIDTH)) * 0.1
    return image_set(labels, (count - 40, 20, 20), task), features


def stirred(probe: Probe, spec: AdapterSpec | None, members: int = 3, pool: Any = None) -> Members:
    """Members far from their start, as if trained."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Members(probe, spec, members, pool).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def double(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def reference(members: Members, z: np.ndarray) -> np.ndarray:
    """Float64 mean over members of their scores (n, O), experts one by one; of a rank-deficient head what it can show."""
    weight, bias = double(members.weight), double(members.bias)
    shown = np.linalg.pinv(weight, rcond=1e-3) @ weight
    total = np.zeros((len(z), weight.shape[1]))
    for member in range(members.members):
        if members.spec is None:
            total += z @ double(members.map[member]).T + double(members.shift[member])
            continue
        spec, changes = members.spec, np.zeros((len(z), weight.shape[1]))
        gates = np.ones((len(z), spec.experts))
        if spec.gate != "none":
            logits = z @ double(members.routers[0][member]).T
            if spec.gate == "mlp":
                logits = torch.nn.functional.gelu(torch.from_numpy(logits + double(members.routers[1][member]))).numpy()
                logits = logits @ double(members.routers[2][member]).T + double(members.routers[3][member])
            if spec.top_k:
                logits = np.where(logits >= np.sort(logits, axis=1)[:, -spec.top_k, None], logits, -np.inf)
            gates = np.exp(logits - logits.max(1, keepdims=True))
            gates /= gates.sum(1, keepdims=True)
        for expert in range(spec.experts):
            own = slice(expert * spec.rank, (expert + 1) * spec.rank)
            changes += spec.scale * gates[:, [expert]] * (z @ double(members.down[member, own]).T @ double(members.up[member][:, own]).T)
        total += changes @ shown
    return z @ weight + bias + total / members.members


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("kind", SPECS)
def test_an_ensemble_folds_into_one_adapter_or_one_head_that_answers_as_the_mean_of_its_members_in_float64(task: str, kind: str) -> None:
    images, features = drawn(task)
    probe = signals_of(images, features).probe
    members = stirred(probe, SPECS[kind])
    model = folded(tiny_model(task), probe, members).eval()
    x = torch.from_numpy(features[-20:]).float()
    expected = reference(members, (double(x) - double(probe.mean)) / double(probe.sd))
    with torch.no_grad():
        scores = model.head(model.adapted(x))
    softmax = task in ("binary", "multiclass")
    if softmax:  # a shift of all scores is what such a head cannot show, and it changes nothing
        expected, scores = expected - expected.mean(1, keepdims=True), scores - scores.mean(1, keepdim=True)
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-4 * np.abs(expected).max())
    assert (POOLED in model.spec.adapters) == (kind != "linear")
    again = build_model(model.spec)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval().head(again.adapted(x)), model.head(model.adapted(x)))


@pytest.mark.parametrize("task", CLASSES)
@pytest.mark.parametrize("kind", SPECS)
def test_the_start_is_the_probe(task: str, kind: str) -> None:
    images, features = drawn(task)
    probe = signals_of(images, features).probe
    x = torch.from_numpy(features).float()
    with torch.no_grad():
        expected = probe.logits(x)
        torch.testing.assert_close(at_probe(tiny_model(task), probe).logits(x), expected, rtol=1e-4, atol=1e-4)
        members = Members(probe, SPECS[kind], 3).eval()
        scores = members(((x - probe.mean) / probe.sd).expand(3, -1, -1))
        torch.testing.assert_close(class_scores(scores.flatten(0, 1), images.task), expected.repeat(3, 1), rtol=1e-6, atol=1e-6)
        model = folded(tiny_model(task), probe, members)
        torch.testing.assert_close(model.logits(model.adapted(x)), expected, rtol=1e-4, atol=1e-4)


def test_the_lift_is_the_smallest_change_of_features_that_shows_a_change_of_scores() -> None:
    weight = torch.randn(30, 4)
    lift, shown = lifted(weight)
    torch.testing.assert_close(shown, torch.eye(4), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lift.numpy(), np.linalg.pinv(double(weight)).T, atol=1e-5)
    centred = weight - weight.mean(1, keepdim=True)
    assert torch.linalg.matrix_rank(lifted(centred)[1]) == 3
    assert lifted(torch.zeros(30, 4))[0].abs().max() == 0


def test_labels_that_are_noise_keep_the_probe() -> None:
    kept = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        images = image_set(random.integers(0, 2, 200), (150, 25, 25), "binary")
        model, verdict, _ = adapt_from_probe(course(seed=seed), tiny_model("binary"), images,
                                             signals_of(images, random.normal(size=(200, WIDTH))), "better", split_seed=seed)
        kept.append(not verdict.used)
        assert bool(model.spec.adapters) == verdict.used
        assert (verdict.images, verdict.folds) == (150, 3)
    assert sum(kept) >= 3, "a standard error leaves room for a chance"


def test_gates_are_used_where_the_label_is_the_product_of_two_features_and_a_probe_sees_nothing() -> None:
    random = np.random.default_rng(0)
    factors = random.normal(size=(1200, 2))
    labels = (factors[:, 0] * factors[:, 1] > 0).astype(np.int64)
    features = np.repeat(factors, WIDTH // 2, axis=1) + 0.3 * random.normal(size=(1200, WIDTH))
    images = image_set(labels, (600, 400, 200), "binary")
    signals = signals_of(images, features)
    model, verdict, history = adapt_from_probe(course(replace(MOLRE, rank=8), steps=200), tiny_model("binary"), images, signals, "better",
                                               split_seed=0)
    assert verdict.used
    assert (verdict.images, verdict.folds) == (400, 0), "validation has enough to judge by"
    assert verdict.gain > 3 * verdict.error
    assert history[0]["held_out_loss"] - min(row["held_out_loss"] for row in history) == pytest.approx(verdict.gain)
    test, x = images.rows("test"), torch.from_numpy(features).float()
    with torch.no_grad():
        answers = signals.probe.logits(x), model.logits(model.adapted(x))
        right = [float((scores.argmax(1).numpy() == labels)[test].mean()) for scores in answers]
    assert right[1] > right[0] + 0.1
    linear = adapt_from_probe(course(None, steps=200), tiny_model("binary"), images, signals, "better", split_seed=0)[1]
    assert linear.gain < verdict.gain / 3, "a linear map sees no product"


def test_the_same_seed_gives_the_same_bits_and_what_is_asked_is_kept() -> None:
    images, features = drawn("multiclass")
    signals = signals_of(images, features)

    def made(keep: Any, seed: int = 0) -> tuple[Model, Verdict]:
        return adapt_from_probe(course(seed=seed), tiny_model(), images, signals, keep, split_seed=0)[:2]

    (first, _), (again, _), (other, _) = made("best"), made("best"), made("best", 1)
    up = [getattr(model.net, POOLED).up.weight for model in (first, again, other)]
    assert torch.equal(up[0], up[1])
    assert not torch.equal(up[0], up[2])
    last, verdict = made("last")
    assert verdict.used
    assert verdict.images == 0
    assert last.spec.adapters[POOLED].members == 3


def test_folds_keep_groups_together_and_their_probes_see_no_held_out_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images, features = drawn("binary")
    images = replace(images, groups=np.asarray([f"patient {row // 4}" for row in range(len(images))], dtype=object))
    folds = judging_sets(images, 0)
    assert len(folds) == judging.FOLDS
    held = [set(fold.rows("val").tolist()) for fold in folds]
    assert set.union(*held) == set(images.rows("train").tolist())
    seen: list[set[int]] = []
    fit = from_probe.fit_linear

    def look(inputs: Tensor, *rest: Any) -> Any:
        seen.append({len(inputs)})
        return fit(inputs, *rest)

    monkeypatch.setattr(from_probe, "fit_linear", look)
    for fold in folds:
        train, val = (set(images.groups[fold.rows(split)]) for split in ("train", "val"))  # type: ignore[index]
        assert not train & val
    adapt_from_probe(course(steps=25), tiny_model("binary"), images, signals_of(images, features), "better", split_seed=0)
    assert [next(iter(rows)) for rows in seen] == [2 * len(fold.rows("train")) for fold in folds]


def test_too_few_images_to_divide_keep_the_probe() -> None:
    images, features = drawn("binary", 42)
    labels = images.labels.copy()
    labels[1:2], labels[0] = 1, 0
    labels[images.rows("val")[1:]] = -1  # one labelled validation image judges nothing either
    images = replace(images, labels=labels)
    _, verdict, history = adapt_from_probe(course(), tiny_model("binary"), images, signals_of(images, features), "better", split_seed=0)
    assert (verdict.used, verdict.images, history) == (False, 0, [])
    assert "too few labelled images" in verdict.line()


def test_the_error_of_a_gain_is_that_of_whole_groups() -> None:
    random = np.random.default_rng(0)
    start, end = random.normal(size=60), random.normal(size=60)
    mean, error = gain_of(start, end, np.arange(60))
    gains = start - end
    assert mean == pytest.approx(gains.mean())
    assert error == pytest.approx(gains.std(ddof=1) / 60**0.5)
    copies = gain_of(np.repeat(start, 5), np.repeat(end, 5), np.repeat(np.arange(60), 5))
    assert copies == pytest.approx((mean, error)), "five copies of an image are one image"
    assert gain_of(start, end, np.zeros(60))[1] == np.inf


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("kind", ["molre", "linear"])
def test_of_volumes_the_start_is_the_mean_probe_and_what_is_trained_is_what_the_model_answers(pooling: str, kind: str) -> None:
    random = np.random.default_rng(0)
    count = 60
    labels = random.integers(0, 2, count)
    mask = (np.arange(SLICES) < random.integers(2, SLICES + 1, count)[:, None]).astype(np.float32)
    features = random.normal(size=(count, SLICES, WIDTH)) + 0.3 * labels[:, None, None]
    images = image_set(labels, (40, 10, 10), "binary", slices=SLICES)
    signals = signals_of(images, features, mask)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", ("no", "yes"), slices=SLICES, pooling=pooling))  # type: ignore[arg-type]
    x, there = torch.from_numpy(features).half().float(), torch.from_numpy(mask)
    probe = signals.probe
    with torch.no_grad():
        start = at_probe(copy.deepcopy(model), probe)
        torch.testing.assert_close(start.logits(start.pool(start.adapted(x), there)), probe.logits(mean_of_slices(x, there)),
                                   rtol=1e-4, atol=1e-4)
        pool = copy.deepcopy(model.slice_pool) if pooling == "attention" else None
        members = stirred(probe, SPECS[kind], 3, pool)
        scores = members(((x - probe.mean) / probe.sd).expand(members.members, -1, -1, -1), there.expand(members.members, -1, -1)).mean(0)
        whole = folded(copy.deepcopy(model), probe, members)
        answered = whole.head(whole.pool(whole.adapted(x), there))
        torch.testing.assert_close(answered - answered.mean(1, keepdim=True), scores - scores.mean(1, keepdim=True), rtol=2e-3, atol=2e-3)
    made, verdict, _ = adapt_from_probe(course(SPECS[kind], steps=25), model, images, signals, "best", split_seed=0)
    assert verdict.used
    if kind == "molre":
        assert made.spec.adapters[POOLED].members == 3


def test_a_rate_that_diverges_is_an_error_in_words() -> None:
    images, features = drawn("multiclass")
    with pytest.raises(UserError, match=r"not finite.*--lr"):
        adapt_from_probe(course(lr=1e30), tiny_model(), images, signals_of(images, features), "better", split_seed=0)


