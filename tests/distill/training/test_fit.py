"""The training loop: a resumed run ends bit for bit as an unbroken one, and nothing of the teacher moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import tiny_bank, tiny_batches, tiny_branches, tiny_images, tiny_teacher

from distill.methods.build import method_losses
from distill.methods.step import Batch, Branches, Weights
from distill.networks.checkpoint import Calibration, save_checkpoint
from distill.networks.models import weights_hash
from distill.teacher.forward import torch_forward
from distill.teacher.teachers import load_teacher
from distill.training.batches import Batches
from distill.training.fit import fit, parameter_groups, schedule
from distill.training.state import load_state
from runtimes.errors import UserError
from runtimes.files.folder import sha256_file
from runtimes.images.spec import ImageSpec

SETTINGS: dict[str, Any] = {
    "epochs": 3, "min_steps": 0, "lr": 2e-3, "weight_decay": 0.02, "phi_lr": 0.1, "phi_weight_decay": 0.05, "warmup": 0.1,
    "decay": "linear", "ema": 0.0, "precision": "fp32", "device": "cpu", "class_weights": None, "seed": 0, "resume": False,
    "select": "last"}


def measured(branches: Branches) -> dict[str, float]:
    """A figure that depends on every weight and runs the student in eval mode."""
    assert not branches.training
    torch.manual_seed(11)
    with torch.no_grad():
        return {"score": -branches.student(torch.randn(4, 3, 32, 32)).pow(2).mean().item()}


def run(folder: Path, branches: Branches, batches: Batches, method: str = "rd", evaluate: Callable[[Branches], dict[str, float]] = measured,
        **changes: Any) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    return fit(branches, batches, partial(method_losses, method), Weights(), folder=folder, evaluate=evaluate, **(SETTINGS | changes))  # type: ignore[arg-type]


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    images = tiny_images()
    return tiny_batches(tmp_path / "pixels", images, bank=tiny_bank(tmp_path / "bank", images), probe=True)


class Killed(BaseException):
    """Stands for a kill between two steps of the run."""


def killed_after(epochs: int) -> Callable[[Branches], dict[str, float]]:
    """An evaluate that dies in the epoch after `epochs` whole ones."""
    done = 0

    def evaluate(branches: Branches) -> dict[str, float]:
        nonlocal done
        done += 1
        if done > epochs:
            raise Killed
        return measured(branches)

    return evaluate


@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_killed_after_any_epoch_ends_bit_for_bit_as_an_unbroken_one(
        tmp_path: Path, batches: Batches, ema: float, select: str) -> None:
    whole = tiny_branches("rd")
    history = run(tmp_path / "whole", whole, batches, ema=ema, select=select, epochs=4)
    for epochs in range(4):
        folder = tmp_path / f"killed{epochs}"
        with pytest.raises(Killed):
            run(folder, tiny_branches("rd"), batches, ema=ema, select=select, epochs=4, evaluate=killed_after(epochs))
        torch.manual_seed(77)  # another process starts with another state of every generator
        again = tiny_branches("rd", seed=5)  # and its weights come from the state alone
        assert run(folder, again, batches, ema=ema, select=select, epochs=4, resume=True) == history or epochs == 0
        if epochs:
            assert weights_hash(again) == weights_hash(whole), epochs
    finished = tiny_branches("rd", seed=6)
    assert run(tmp_path / "whole", finished, batches, ema=ema, select=select, epochs=4, resume=True) == history
    assert weights_hash(finished) == weights_hash(whole)


@pytest.mark.parametrize("method", ["vanilla", "kd", "fitnet"])
def test_every_method_resumes_bit_for_bit(tmp_path: Path, batches: Batches, method: str) -> None:
    whole, again = tiny_branches(method), tiny_branches(method, seed=5)
    run(tmp_path / "whole", whole, batches, method)
    with pytest.raises(Killed):
        run(tmp_path / "killed", tiny_branches(method), batches, method, evaluate=killed_after(2))
    run(tmp_path / "killed", again, batches, method, resume=True)
    assert weights_hash(again) == weights_hash(whole)


def test_a_teacher_that_weighs_nothing_is_one_whose_weights_are_zero(tmp_path: Path, batches: Batches) -> None:
    silent, without = tiny_branches("rd"), tiny_branches("rd")
    run(tmp_path / "silent", silent, batches, teacher_share=lambda history: 0.0)
    (tmp_path / "without").mkdir()
    fit(without, batches, partial(method_losses, "rd"), Weights(teacher=0, kd=0, cka=0, hint=0), folder=tmp_path / "without",
        evaluate=measured, **SETTINGS)  # type: ignore[arg-type]
    assert weights_hash(silent.student) == weights_hash(without.student)


def test_what_the_teacher_weighs_follows_from_the_epochs_before_and_resumes_bit_for_bit(tmp_path: Path, batches: Batches) -> None:
    seen: list[int] = []

    def share(history: list[dict[str, Any]]) -> float:
        seen.append(len(history))
        return 0.5 ** len(history)

    whole, again, constant = tiny_branches("rd"), tiny_branches("rd", seed=5), tiny_branches("rd")
    run(tmp_path / "whole", whole, batches, teacher_share=share)
    assert seen == [0, 1, 2]
    with pytest.raises(Killed):
        run(tmp_path / "killed", tiny_branches("rd"), batches, teacher_share=share, evaluate=killed_after(2))
    run(tmp_path / "killed", again, batches, teacher_share=share, resume=True)
    run(tmp_path / "constant", constant, batches)
    assert weights_hash(again) == weights_hash(whole) != weights_hash(constant)


def test_a_kill_within_the_first_epoch_starts_anew_to_the_same_end(tmp_path: Path, batches: Batches) -> None:
    whole, again = tiny_branches("rd"), tiny_branches("rd")
    run(tmp_path / "whole", whole, batches)
    with pytest.raises(Killed):
        run(tmp_path / "killed", tiny_branches("rd"), batches, evaluate=killed_after(0))
    run(tmp_path / "killed", again, batches, resume=True)
    assert weights_hash(again) == weights_hash(whole)


def test_a_damaged_newest_state_costs_one_epoch_and_nothing_else(tmp_path: Path, batches: Batches) -> None:
    whole, again = tiny_branches("rd"), tiny_branches("rd", seed=5)
    run(tmp_path / "whole", whole, batches)
    with pytest.raises(Killed):
        run(tmp_path / "killed", tiny_branches("rd"), batches, evaluate=killed_after(2))
    newest = tmp_path / "killed" / "state-0.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    run(tmp_path / "killed", again, batches, resume=True)
    assert weights_hash(again) == weights_hash(whole)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, batches: Batches) -> None:
    hashes, histories = [], []
    for index, seed in enumerate((0, 0, 1)):
        branches = tiny_branches("rd")
        torch.manual_seed(index)  # what ran before must not matter
        histories.append(run(tmp_path / f"run{index}", branches, replace(batches, seed=seed), seed=seed, epochs=2))
        hashes.append(weights_hash(branches))
    assert hashes[0] == hashes[1] != hashes[2]
    assert histories[0] == histories[1] != histories[2]


def test_dropout_is_drawn_from_the_seed_of_the_step_alone(tmp_path: Path, batches: Batches) -> None:
    one, other = tiny_branches("rd"), tiny_branches("rd")
    run(tmp_path / "one", one, batches, epochs=1)
    run(tmp_path / "other", other, batches, epochs=1, seed=1)  # the same batches, another dropout
    assert weights_hash(one) != weights_hash(other)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_best_epoch_is_kept_as_it_was_not_as_it_became(tmp_path: Path, batches: Batches, ema: float) -> None:
    scores, seen = iter([0.2, 0.9, 0.5, 0.1]), []

    def evaluate(branches: Branches) -> dict[str, float]:
        seen.append(copy.deepcopy(branches.state_dict()))
        return {"score": next(scores)}

    branches = tiny_branches("rd")
    run(tmp_path / "run", branches, batches, epochs=4, ema=ema, select="best", evaluate=evaluate)
    kept = branches.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in seen[1].items())
    assert not all(torch.equal(kept[name], value) for name, value in seen[3].items())
    found = load_state(tmp_path / "run")
    assert found is not None
    assert all(torch.equal(found[1][f"best.{name}"], value) for name, value in seen[1].items())


def test_of_equal_scores_the_later_epoch_is_best(tmp_path: Path, batches: Batches) -> None:
    last, best = tiny_branches("rd"), tiny_branches("rd")
    run(tmp_path / "last", last, batches, evaluate=lambda _: {"score": 1.0})
    run(tmp_path / "best", best, batches, evaluate=lambda _: {"score": 1.0}, select="best")
    assert weights_hash(last) == weights_hash(best)


def test_the_average_is_what_ends_up_in_the_student(tmp_path: Path, batches: Batches) -> None:
    plain, smooth = tiny_branches("rd"), tiny_branches("rd")
    run(tmp_path / "plain", plain, batches)
    run(tmp_path / "smooth", smooth, batches, ema=0.9)
    found = load_state(tmp_path / "smooth")
    assert found is not None
    for name, value in smooth.state_dict().items():
        assert torch.equal(value, found[1][f"ema.module.{name}"])
    for name, value in plain.state_dict().items():  # averaging does not touch the training itself
        assert torch.equal(value, found[1][f"model.{name}"])
    assert weights_hash(plain) != weights_hash(smooth)
    assert not smooth.training


@pytest.mark.parametrize("method", ["rd", "kd", "fitnet"])
def test_the_teacher_is_byte_for_byte_what_it_was(tmp_path: Path, method: str) -> None:
    teacher = load_teacher("test_efficientnet", size=32, weights="random")
    before = weights_hash(teacher.net)
    statistics = {name: value.clone() for name, value in teacher.net.named_buffers()}
    images = tiny_images()
    bank = tiny_bank(tmp_path / "bank", images, forward=torch_forward(teacher), teacher=teacher)
    shard = sha256_file(next(bank.folder.glob("features-*")))
    branches = tiny_branches(method)
    run(tmp_path / "run", branches, tiny_batches(tmp_path / "pixels", images, bank=bank, probe=True), method)
    assert weights_hash(teacher.net) == before == teacher.hash
    assert all(torch.equal(value, statistics[name]) for name, value in teacher.net.named_buffers())
    assert statistics
    assert all(one.grad is None and not one.requires_grad for one in teacher.net.parameters())
    assert sha256_file(next(bank.folder.glob("features-*"))) == shard
    save_checkpoint(tmp_path, branches.student, ImageSpec(32, 32), Calibration())
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(branches.student.net.state_dict())
    own = {tuple(value.flatten()[:8].tolist()) for value in teacher.net.state_dict().values() if value.ndim == 4}
    assert not own & {tuple(value.flatten()[:8].tolist()) for value in saved.values() if value.ndim == 4}


def test_training_lowers_the_loss_and_tells_of_each_part(tmp_path: Path, batches: Batches) -> None:
    history = run(tmp_path / "run", tiny_branches("rd"), batches, epochs=8, decay="none")
    assert [row["epoch"] for row in history] == list(range(1, 9))
    for row in history:
        named = [value for name, value in row.items() if name.startswith("train_loss_")]
        assert {name.removeprefix("train_loss_") for name in row if name.startswith("train_loss_")} == {"task", "teacher_task", "kd", "cka"}
        assert row["train_loss"] == pytest.approx(sum(named))
    assert history[-1]["train_loss_task"] < 0.9 * history[0]["train_loss_task"]
    assert history[-1]["train_loss_teacher_task"] < history[0]["train_loss_teacher_task"]


def test_a_loss_that_is_not_finite_stops_and_the_last_epoch_stays(tmp_path: Path, batches: Batches) -> None:
    class Spoilt(Batches):
        def __call__(self, step: int) -> Batch:
            batch = super().__call__(step)
            return replace(batch, pixels=batch.pixels * math.nan) if step == 5 else batch

    spoilt = Spoilt(**{name: getattr(batches, name) for name in batches.__dataclass_fields__})
    whole = tiny_branches("rd")
    with pytest.raises(UserError, match=r"the loss is not finite at step 5 .*lower --lr.*start anew with --overwrite"):
        run(tmp_path / "run", tiny_branches("rd"), spoilt)
    found = load_state(tmp_path / "run")
    assert found is not None
    assert found[0] == 2
    assert all(torch.isfinite(value).all() for value in found[1].values())
    again = tiny_branches("rd", seed=3)
    run(tmp_path / "run", again, batches, resume=True)
    run(tmp_path / "whole", whole, batches)
    assert weights_hash(again) == weights_hash(whole)


def test_unlabelled_images_are_trained_on_without_their_labels(tmp_path: Path) -> None:
    images = tiny_images(unlabelled=8)
    bank = tiny_bank(tmp_path / "bank", images)
    hashes = []
    for name, hidden in (("one", 0), ("other", 2)):  # what stands where no label is must not matter
        base = tiny_batches(tmp_path / "pixels", images, bank=bank)
        labels = base.labels.clone()
        labels[8:16] = torch.where(labels[8:16] < 0, hidden, labels[8:16]) if name == "other" else labels[8:16]
        branches = tiny_branches("rd")
        run(tmp_path / name, branches, replace(base, labels=labels), epochs=2)
        hashes.append(weights_hash(branches))
    assert hashes[0] == hashes[1]
    labelled = tiny_branches("rd")
    run(tmp_path / "labelled", labelled, replace(tiny_batches(tmp_path / "pixels", images, bank=bank), rows=np.arange(8)), epochs=2)
    assert weights_hash(labelled) != hashes[0]


def test_bf16_trains_to_finite_fp32_weights(tmp_path: Path, batches: Batches) -> None:
    branches = tiny_branches("rd")
    run(tmp_path / "run", branches, batches, precision="bf16", epochs=1)
    assert all(one.dtype == torch.float32 and torch.isfinite(one).all() for one in branches.parameters())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.floats(0, 0.9))
def test_the_schedule_warms_up_then_falls_to_near_zero(total: int, warmup: float) -> None:
    factors = [schedule(step, total, warmup) for step in range(total)]
    first = max(1, round(warmup * total))
    assert all(0 < factor <= 1 for factor in factors)
    assert max(factors) == pytest.approx(1.0)
    assert factors[:first] == sorted(factors[:first])
    assert factors[first:] == sorted(factors[first:], reverse=True)
    assert schedule(total, total, warmup) == pytest.approx(0.0, abs=1e-9) or first == total
    assert schedule(0, total, warmup) == pytest.approx(1 / first)


def test_biases_and_norms_do_not_decay_and_the_module_has_its_own_rate() -> None:
    branches = tiny_branches("rd")
    groups = parameter_groups(branches, 1.0, 0.02, 0.1, 0.05)
    everything = [one for group in groups for one in group["params"]]
    assert len(everything) == len({id(one) for one in everything}) == len(list(branches.parameters()))
    names = {id(one): name for name, one in branches.named_parameters()}
    for group in groups:
        for one in group["params"]:
            phi = names[id(one)].startswith("phi.")
            assert group["base_lr"] == (0.1 if phi else 1.0)
            assert group["weight_decay"] == (0 if one.ndim <= 1 else 0.05 if phi else 0.02)


def test_progress_reaches_its_total(tmp_path: Path, batches: Batches) -> None:
    told: list[tuple[int, int, str]] = []
    run(tmp_path / "run", tiny_branches("rd"), batches, epochs=2, progress=lambda *one: told.append(one))
    assert [one[0] for one in told] == [1, 2, 3, 4]
    assert told[-1][1] == 4
    assert told[-1][2].startswith("epoch 2/2  loss ")


def test_the_shared_teacher_of_these_tests_was_never_changed() -> None:
    assert weights_hash(tiny_teacher().net) == tiny_teacher().hash
