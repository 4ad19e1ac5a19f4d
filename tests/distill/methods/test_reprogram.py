"""The reprogramming module and the hint: a linear start, statistics that standardise, a target without gradient or dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from distill.methods.reprogram import Hint, Reprogram
from distill.teacher.probe import SMALLEST_SD, standardiser


def module(dropout: float = 0.5) -> Reprogram:
    torch.manual_seed(0)
    return Reprogram(torch.randn(20) * 3, torch.rand(20) + 0.5, 12, dropout=dropout)


def test_it_starts_as_a_linear_map_of_standardised_features() -> None:
    phi = module().eval()
    features = torch.randn(6, 20)
    inner = F.linear((features - phi.mean) / phi.sd, phi.project.weight, phi.project.bias)
    assert torch.equal(phi(features), F.linear(inner, phi.expand.weight, phi.expand.bias))
    assert phi(features).shape == (6, 12)


def test_after_a_step_the_residual_part_is_alive() -> None:
    phi = module(dropout=0.0)
    optimiser = torch.optim.SGD(phi.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        phi(torch.randn(8, 20)).pow(2).mean().backward()
        optimiser.step()
    assert phi.narrow.weight.any()
    assert phi.widen.weight.grad is not None
    assert phi.widen.weight.grad.any()


def test_the_target_has_no_gradient_no_dropout_and_leaves_the_mode_alone() -> None:
    phi, features = module(), torch.randn(6, 20)
    for training in (True, False):
        phi.train(training)
        target = phi.target(features)
        assert not target.requires_grad
        assert torch.equal(target, phi.target(features))
        assert all(one.training is training for one in phi.modules())
    assert torch.equal(phi.target(features), phi.eval()(features).detach())
    assert not torch.equal(phi.train()(features), phi(features))  # dropout draws


def test_the_target_restores_the_mode_when_it_fails() -> None:
    phi = module().train()
    with pytest.raises(RuntimeError):
        phi.target(torch.randn(2, 3))
    assert phi.training


def test_statistics_standardise_and_dead_features_are_not_blown_up() -> None:
    torch.manual_seed(0)
    features = torch.randn(50, 6) * torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0, 1e-4]) + 7
    mean, sd = standardiser(features)
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close(sd[:4], features.std(0)[:4])
    assert (sd[4:] == SMALLEST_SD * features.std(0).mean()).all()
    assert (((features - mean) / sd).abs().max() < 5).all()
    mean, sd = standardiser(torch.ones(3, 4))
    assert (sd > 0).all()


def test_statistics_are_buffers_of_the_module() -> None:
    phi = Reprogram(*standardiser(torch.zeros(5, 4)), 8)
    assert {"mean", "sd"} <= set(phi.state_dict())
    assert {"mean", "sd"}.isdisjoint(name for name, _ in phi.named_parameters())
    assert torch.isfinite(phi(torch.zeros(2, 4))).all()


def test_a_hint_projects_the_student_and_standardises_the_teacher() -> None:
    mean, sd = torch.randn(20), torch.rand(20) + 0.1
    hint = Hint(mean, sd, 7)
    student, teacher = torch.randn(5, 7), torch.randn(5, 20)
    projected, target = hint(student, teacher)
    assert torch.equal(projected, hint.project(student))
    torch.testing.assert_close(target * sd + mean, teacher)
    assert copy.deepcopy(hint)(student, teacher)[1].equal(target)
