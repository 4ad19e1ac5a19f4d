"""The one training loop: AdamW, warm-up and cosine, EMA, a state on disk after every epoch.

Owns: optimiser, schedule, precision, resuming bit for bit. Does not own: batches (batches.py), losses (methods).
All randomness of a step is drawn from seeds of that step, so the state holds no generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.methods.step import Batch, Branches, Weights
from distill.networks.layout import channels_last
from distill.training.batches import Batches
from distill.training.state import load_state, save_state
from runtimes.errors import UserError
from runtimes.files.schema import check, list_of, object_of

Losses = Callable[[Branches, Batch, Weights, Tensor | None], dict[str, Tensor]]  # the weighted parts of a loss by name


def _figure(value: Any, key: str) -> str:
    return "" if type(value) in (int, float) else f"{key} is {value!r}, expected a number"  # NaN, too: nothing is compared with it


HISTORY = object_of({"history": list_of(object_of({"score": _figure}, others=True))}, others=True)


def schedule(step: int, total: int, warmup: float) -> float:
    """Learning-rate factor: linear warm-up over a share of the steps, then a cosine to zero."""
    first = max(1, round(warmup * total))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, total - first)))


def parameter_groups(branches: Branches, lr: float, weight_decay: float, phi_lr: float,
                     phi_weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: the reprogramming module has its own rate and decay; biases and norms are not decayed."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    reprogramming = tuple(f"{name}." for name in branches.reprogramming)
    for name, parameter in branches.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(reprogramming), parameter.ndim > 1), []).append(parameter)
    return [{"params": members, "base_lr": lr * (phi_lr if is_phi else 1.0),
             "weight_decay": (phi_weight_decay if is_phi else weight_decay) * wide}
            for (is_phi, wide), members in groups.items()]


def fit(branches: Branches, batches: Batches, losses_of: Losses, weights: Weights, *, epochs: int, min_steps: int, lr: float,
        weight_decay: float, phi_lr: float, phi_weight_decay: float, warmup: float, decay: Literal["none", "linear"],
        ema: float, precision: Literal["fp32", "bf16"], device: str, class_weights: Tensor | None, seed: int, folder: Path,
        resume: bool, evaluate: Callable[[Branches], dict[str, float]], select: Literal["last", "best"],
        progress: Callable[[int, int, str], None] | None = None, before_step: Callable[[int, int], None] | None = None,
        resumed: Callable[[int], None] | None = None,
        teacher_share: Callable[[list[dict[str, Any]]], float] | None = None) -> list[dict[str, Any]]:
    """Train the branches in place and return a row an epoch (epoch, lr, losses, what `evaluate` answers).

    losses_of: the parts of the loss that are summed. teacher_share: what the teacher's parts weigh in an epoch, of the rows before it.
    evaluate must answer "score", higher is better, for select="best". A loss that is not finite stops with a UserError and
    the state of the last epoch stays. The state lies in `folder`.
    """
    steps = batches.steps_per_epoch(epochs, min_steps)
    total = steps * epochs
    branches.to(device)
    channels_last(branches)
    optimiser = torch.optim.AdamW(parameter_groups(branches, lr, weight_decay, phi_lr, phi_weight_decay), lr=lr, fused=True)
    average = torch.optim.swa_utils.AveragedModel(
        branches, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema), use_buffers=True) if ema else None
    history: list[dict[str, Any]] = []
    best: dict[str, Tensor] = {}
    done = 0
    state = load_state(folder) if resume else None
    if resume and resumed:
        resumed(state[0] if state else 0)
    if state:
        done, tensors, record = state
        check(record, HISTORY, str(folder), "start anew with --overwrite")
        history, best = record["history"], _under(tensors, "best.")
        _restore(branches, _under(tensors, "model."))
        _restore_optimiser(optimiser, _under(tensors, "optimiser."))
        if average is not None:
            average.load_state_dict(_under(tensors, "ema."), strict=False)
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(batches, done * steps) if done < epochs else None
        for epoch in range(done, epochs):
            branches.train()
            sums: dict[str, float] = {}
            share = teacher_share(history) if teacher_share else 1.0
            for step in range(epoch * steps, (epoch + 1) * steps):
                assert waiting is not None
                batch = _to(waiting.result(), device)
                if step + 1 < total:
                    waiting = ahead.submit(batches, step + 1)
                factor = schedule(step, total, warmup)
                for group in optimiser.param_groups:
                    group["lr"] = group["base_lr"] * factor
                torch.manual_seed(seed * 1_000_003 + step)  # dropout
                if before_step:
                    before_step(step, total)
                fading = share * (1 - step / total if decay == "linear" else 1.0)
                now = replace(weights, teacher=weights.teacher * fading, kd=weights.kd * fading, cka=weights.cka * share,
                              hint=weights.hint * share)
                with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"):
                    losses = losses_of(branches, batch, now, class_weights)
                    loss = torch.stack(list(losses.values())).sum()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                values = {name: value.detach() for name, value in losses.items()}
                if not torch.isfinite(loss.detach()):
                    terms = ", ".join(f"{name} {float(value):.3g}" for name, value in values.items())
                    raise UserError(f"the loss is not finite at step {step} ({terms}); lower --lr (now {lr:g})"
                                    f"{'' if precision == 'fp32' else ' or use --precision fp32'}, and start anew with --overwrite")
                optimiser.step()
                if average is not None:
                    average.update_parameters(branches)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
                if progress:
                    progress(step + 1, total, f"epoch {epoch + 1}/{epochs}  loss {float(loss.detach()):.3f}")
            judged: Any = average.module if average is not None else branches
            judged.eval()
            row = {"epoch": epoch + 1, "lr": optimiser.param_groups[0]["lr"], "train_loss": sum(sums.values()) / steps,
                   **{f"train_loss_{name}": value / steps for name, value in sums.items()}, **evaluate(judged)}
            history.append(row)
            if select == "best" and row["score"] >= max(entry["score"] for entry in history):
                best = {name: value.detach().clone() for name, value in judged.state_dict().items()}  # a copy, never a reference
            save_state(folder, epoch + 1, _gather(branches, optimiser, average, best), {"history": history})
    final = best if select == "best" else (average.module.state_dict() if average is not None else None)
    if final:
        _restore(branches, final)
    branches.eval()
    return history


def _to(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return batch
    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(move(item) for item in value)
        return None if value is None else value.to(device, non_blocking=True)

    return replace(batch, **{slot.name: move(getattr(batch, slot.name)) for slot in fields(batch)})


def _gather(branches: Branches, optimiser: torch.optim.Optimizer, average: nn.Module | None,
            best: dict[str, Tensor]) -> dict[str, Tensor]:
    frozen = {name for name, parameter in branches.named_parameters() if not parameter.requires_grad}  # a large teacher's own weights
    best = {name: value for name, value in best.items() if name not in frozen}
    tensors = {f"model.{name}": value for name, value in branches.state_dict().items() if name not in frozen}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{slot}": value for slot, value in slots.items()}
    if average is not None:
        tensors |= {f"ema.{name}": value for name, value in average.state_dict().items() if name.removeprefix("module.") not in frozen}
    return {name: value.cpu().clone() for name, value in (tensors | {f"best.{n}": v for n, v in best.items()}).items()}


def _restore(branches: Branches, tensors: dict[str, Tensor]) -> None:
    """Put trained weights back; frozen ones stand as the run built them."""
    frozen = {name for name, parameter in branches.named_parameters() if not parameter.requires_grad}
    mismatch = branches.load_state_dict(tensors, strict=False)
    if set(mismatch.missing_keys) - frozen or mismatch.unexpected_keys:
        raise UserError(f"the interrupted run's state does not fit this network ({len(mismatch.missing_keys)} missing, "
                        f"{len(mismatch.unexpected_keys)} unexpected tensors); start anew with --overwrite")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, slot = name.split(".", 1)
        own = parameters[int(index)]
        # A file has one layout; the fused kernel walks memory, so moments must lie as their parameter does (channels last).
        state.setdefault(int(index), {})[slot] = torch.empty_like(own).copy_(value) if value.shape == own.shape else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
