"""What each method adds up, and where gradients go: one classifier for both branches, none into the taught target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch
from tiny import CLASSES, tiny_branches
from tiny import tiny_step as batch
from torch import Tensor

from distill.evaluation.losses import cka_loss, distillation_loss, hint_loss
from distill.methods.build import method_losses
from distill.methods.step import Branches, Weights
from distill.settings.method_table import METHODS


def gradients(branches: Branches, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*branches.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {name: one for name, one in zip(names, found, strict=True) if one is not None and one.any()}


PARTS = {"vanilla": {"task"}, "kd": {"task", "kd"}, "fitnet": {"task", "hint"}, "dkd": {"task", "kd"}, "dist": {"task", "kd"},
         "rkd": {"task", "hint"}, "crd": {"task", "hint"}, "spkd": {"task", "hint"},
         "rd": {"task", "teacher_task", "kd", "cka"},
         "drd": {"task", "teacher_task", "kd", "cka", "stage_task", "stage_kd", "stage_cka"}}


def test_the_parts_of_every_method_are_asked_for() -> None:
    assert set(PARTS) == set(METHODS) - {"at"}, "at needs stages of both, and is asked through the command: test_method_runs.py"


@pytest.mark.parametrize(("method", "names"), PARTS.items())
@pytest.mark.parametrize("task", sorted(CLASSES))
def test_a_method_has_its_parts_and_each_is_finite(method: str, names: set[str], task: str) -> None:
    if (method, task) == ("dkd", "multilabel"):
        pytest.skip("rd-distill refuses it: DKD needs one label an image")
    losses = method_losses(method, tiny_branches(method, task), batch(task), Weights())  # type: ignore[arg-type]
    assert set(losses) == names
    assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values())


def log_softmax64(logits: np.ndarray) -> np.ndarray:
    """Rows of log-probabilities in float64."""
    return np.asarray(logits - scipy.special.logsumexp(logits, axis=1, keepdims=True))


def cross_entropy64(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy, in float64."""
    return float(-log_softmax64(logits)[np.arange(len(labels)), labels].mean())


def kd64(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T^2 KL(teacher || student) of softened logits (Hinton et al. 2015), in float64."""
    given, own = log_softmax64(teacher / temperature), log_softmax64(student / temperature)
    return float(temperature**2 * (np.exp(given) * (given - own)).sum(axis=1).mean())


def cka64(first: np.ndarray, second: np.ndarray) -> float:
    """Debiased linear CKA by the unbiased HSIC (Song et al. 2012, eq. 5), in float64."""
    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        count = len(one)
        k, m = ((part @ part.T) * (1 - np.eye(count)) for part in (one, other))
        return float(np.trace(k @ m) + k.sum() * m.sum() / ((count - 1) * (count - 2)) - 2 * (k @ m).sum() / (count - 2))

    return hsic(first, second) / float(np.sqrt(hsic(first, first) * hsic(second, second)))


def test_rd_is_the_sum_of_its_published_formulas_in_float64() -> None:
    branches, given = tiny_branches("rd", dropout=0.0).eval(), batch()
    assert branches.phi is not None
    assert given.clean is not None
    assert given.viewed is not None
    parts = method_losses("rd", branches, given, Weights(teacher=0.3, kd=0.7, cka=2.0, temperature=3.0))
    exact, labels = branches.double(), given.labels.numpy()
    assert exact.phi is not None
    with torch.no_grad():
        features = exact.student.features(given.pixels.double())
        target, viewed = exact.phi(given.clean.double()), exact.phi(given.viewed.double())
        weight, bias = exact.student.head.weight.numpy(), exact.student.head.bias.numpy()
    ours, taught, seen = (part.numpy() @ weight.T + bias for part in (features, target, viewed))
    expected = {"task": cross_entropy64(ours, labels), "teacher_task": 0.3 * cross_entropy64(seen, labels),
                "kd": 0.7 * kd64(ours, taught, 3.0), "cka": 2.0 * (1 - cka64(target.numpy(), features.numpy()))}
    assert {name: float(value.detach()) for name, value in parts.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", ["rd", "drd"])
def test_cka_is_taken_against_the_teachers_own_features_when_asked_and_nothing_else_changes(method: str) -> None:
    branches, given = tiny_branches(method, dropout=0.0).eval(), batch()
    assert given.clean is not None
    usual, raw = (method_losses(method, branches, given, Weights(cka=2.0, raw=raw)) for raw in (False, True))  # type: ignore[arg-type]
    torch.testing.assert_close(raw.pop("cka"), 2.0 * cka_loss(given.clean, branches.student.features(given.pixels)))
    usual.pop("cka")
    assert all(torch.equal(raw[name], value) for name, value in usual.items())
    assert not any(name.startswith("phi") for name in gradients(branches, method_losses(method, branches, given, Weights(
        teacher=0, kd=0, raw=True))["cka"]))


@pytest.mark.parametrize("method", ["rd", "drd"])
def test_the_probes_logits_are_distilled_when_asked_and_nothing_else_changes(method: str) -> None:
    branches, given = tiny_branches(method, dropout=0.0).eval(), batch()
    assert given.probe_logits is not None
    usual, probed = (method_losses(method, branches, given, Weights(kd=0.5, probed=one)) for one in (False, True))  # type: ignore[arg-type]
    logits = branches.student(given.pixels)
    torch.testing.assert_close(probed.pop("kd"), 0.5 * distillation_loss(logits, given.probe_logits, "multiclass", 4.0))
    usual.pop("kd")
    assert all(torch.equal(probed[name], value) for name, value in usual.items())


def test_kd_and_fitnet_are_their_formulas() -> None:
    given = batch()
    assert given.probe_logits is not None
    assert given.clean is not None
    branches = tiny_branches("kd").eval()
    logits = branches.student(given.pixels)
    torch.testing.assert_close(method_losses("kd", branches, given, Weights(kd=0.5))["kd"],
                               0.5 * distillation_loss(logits, given.probe_logits, "multiclass", 4.0))
    branches = tiny_branches("fitnet").eval()
    hint = branches.get_submodule("hint")
    features = branches.student.features(given.pixels)
    torch.testing.assert_close(method_losses("fitnet", branches, given, Weights(hint=2.0))["hint"],
                               2.0 * hint_loss(*hint(features, given.clean)))


def test_one_classifier_serves_both_branches() -> None:
    branches = tiny_branches("rd")
    head = branches.student.head
    assert branches.student.head.weight.data_ptr() == branches.student.net.get_classifier().weight.data_ptr()  # type: ignore[operator]
    assert sum(one is head.weight for one in branches.parameters()) == 1
    assert not any(isinstance(one, torch.nn.Linear) and one.out_features == head.out_features
                   for one in branches.phi.modules())  # type: ignore[union-attr]
    losses = method_losses("rd", branches, batch(), Weights())
    teacher = gradients(branches, losses["teacher_task"])
    assert "student.net.classifier.weight" in teacher
    assert any(name.startswith("phi.") for name in teacher)
    assert all(name.startswith(("phi.", "student.net.classifier")) for name in teacher)  # never the student's body
    both = gradients(branches, losses["task"] + losses["teacher_task"])["student.net.classifier.weight"]
    alone = gradients(branches, losses["task"])["student.net.classifier.weight"]
    torch.testing.assert_close(both, alone + teacher["student.net.classifier.weight"])


@pytest.mark.parametrize("part", ["kd", "cka"])
def test_what_is_taught_sends_no_gradient_into_the_module_that_teaches(part: str) -> None:
    branches = tiny_branches("rd")
    found = gradients(branches, method_losses("rd", branches, batch(), Weights())[part])
    assert found
    assert not any(name.startswith("phi.") for name in found)


def test_teacher_features_need_and_get_no_gradient() -> None:
    given = batch()
    assert given.clean is not None
    assert given.viewed is not None
    assert not given.clean.requires_grad
    branches = tiny_branches("rd")
    torch.stack(list(method_losses("rd", branches, given, Weights()).values())).sum().backward()
    assert given.clean.grad is None
    assert given.viewed.grad is None


def test_the_same_classifier_ends_in_the_student_that_is_kept() -> None:
    branches = tiny_branches("rd")
    before = branches.student.head.weight.detach().clone()
    optimiser = torch.optim.SGD(branches.parameters(), lr=0.5)
    method_losses("rd", branches, batch(), Weights())["teacher_task"].backward()
    optimiser.step()
    assert not torch.equal(before, branches.student.net.get_classifier().weight)  # type: ignore[operator]


def test_hidden_labels_touch_only_the_task_losses() -> None:
    branches, given = tiny_branches("rd", dropout=0.0).eval(), batch()
    hidden = replace(given, labels=torch.full_like(given.labels, -1))
    open_, shut = (method_losses("rd", branches, one, Weights()) for one in (given, hidden))
    assert shut["task"] == shut["teacher_task"] == 0
    assert torch.equal(open_["kd"], shut["kd"])
    assert torch.equal(open_["cka"], shut["cka"])


def test_weights_of_zero_switch_a_part_off() -> None:
    losses = method_losses("rd", tiny_branches("rd"), batch(), Weights(teacher=0, kd=0, cka=0))
    assert losses["teacher_task"] == losses["kd"] == losses["cka"] == 0
    assert losses["task"] > 0


def test_a_teacher_branch_with_a_classifier_of_its_own_leaves_the_students_to_the_student() -> None:
    branches, given = tiny_branches("rd", dropout=0.0), batch()
    branches.classifier = torch.nn.Linear(branches.student.head.in_features, 3)
    losses = method_losses("rd", branches, given, Weights())
    own = gradients(branches, losses["teacher_task"])
    assert any(name.startswith("classifier.") for name in own)
    assert not any(name.startswith("student.") for name in own)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_each_label_of_mixed_images_counts_by_its_share(task: str) -> None:
    branches, plain = tiny_branches("vanilla", task).eval(), batch(task)
    others = plain.labels.flip(0)
    mixed = replace(plain, share=torch.tensor(0.3), other_labels=others)
    own, other, both = (float(method_losses("vanilla", branches, step, Weights())["task"].detach())  # type: ignore[arg-type]
                        for step in (plain, replace(plain, labels=others), mixed))
    assert both == pytest.approx(0.3 * own + 0.7 * other, rel=1e-5)
