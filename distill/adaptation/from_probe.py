"""Experts behind the pool that start at the fitted probe and leave it only for a gain on images held out; on banked features.

Owns: members of an ensemble trained side by side, their looks at held-out images, folding them into one adapter or one head. Does not
own: the verdict (guard.py), the probe (probe.py), the adapter that they become (layer.py).
Members are trained where the probe decides, in the head's scores: each adds s B (g(z) * (A z)) to W z + b of standardised features z, B
starts at zero, so that step 0 is the probe. The head's pseudo-inverse lifts their mean to features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from distill.adaptation.guard import Verdict, cool
from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED
from distill.adapters.layer import Adapter, Router, balance_of, sparse_softmax
from distill.data.image_set import ImageSet
from distill.evaluation.gains import cooled_losses, gain_of, groups_of
from distill.evaluation.losses import prevalence_weights, task_loss
from distill.networks.models import Model, adapt_model, class_scores, count_parameters, feature_width
from distill.networks.slices import SlicePool
from distill.progress import track
from distill.selection.judging import judging_sets
from distill.teacher.bank import FeatureBank
from distill.teacher.probe import Probe, fit_linear, standardiser
from distill.teacher.teaching import PROBE_ROWS, TeacherSignals, whole_features
from distill.training.batches import stream
from runtimes.errors import UserError

# Chosen on held-out images: benchmarks/STUDIES.md, "Experts from the probe".
TURNS, STEPS, MOST_STEPS = 20, 400, 6400  # turns through the labelled images, but so many steps at least and at most
LOOKS, LOOK = 32, 25  # looks at held-out images on the way, and the fewest steps between two
MEMBERS = 5
DROPOUT = 0.5
MAP_RATE = 0.1  # of linear maps beside attention: it is what is to be learnt there, and they would outrun it
SMALLEST_DIRECTION = 1e-3  # of the head's largest: where the probe hardly looks, experts cannot be lifted to features
ROWS = 2000  # slices or images answered together


@dataclass(frozen=True)
class Course:
    """How members are trained: the adapter of each (none: linear maps), how many, and the loop's numbers."""

    spec: AdapterSpec | None
    members: int
    steps: int
    batch: int
    lr: float
    weight_decay: float
    focal_gamma: float
    balance: float
    seed: int
    device: str

    @property
    def look(self) -> int:
        """Steps between two looks at held-out images."""
        return max(LOOK, self.steps // LOOKS)


def most_steps(labelled: int, batch: int) -> int:
    """Steps that are looked at for so many labelled images: more of them bear a longer training."""
    return min(MOST_STEPS, max(STEPS, TURNS * labelled // batch))


def added_by(course: Course, model: Model) -> int:
    """Parameters that the experts of all members bring; linear maps bring none, they become the head."""
    width = feature_width(model)
    own = 0 if course.spec is None else count_parameters(Adapter(nn.Identity(), course.spec, width)) - course.spec.experts * (
        course.spec.gate != "none")  # the gates' standing logits are not trained here
    return own * course.members


def attends(model: Model) -> bool:
    """Whether a model pools slices by attention."""
    return bool(model.spec.bag) and model.spec.pooling == "attention"


class Members(nn.Module):
    """An ensemble beside one frozen probe: scores (M, n, O) of standardised features (M, n, D), or of slices (M, n, S, D) with a mask.

    spec: the experts of one member; None for a linear map each. pool: attention over slices, which all members share, so that they fold
    into one: it looks at the features that their mean makes, and all members must see the same rows. Without it slices weigh alike.
    """

    def __init__(self, probe: Probe, spec: AdapterSpec | None, members: int, pool: SlicePool | None = None) -> None:
        super().__init__()
        width, outputs = probe.weight.shape
        self.spec, self.members, self.pool = spec, members, pool
        lift, shown = lifted(probe.weight)
        self.weight, self.bias, self.lift, self.shown = (nn.Buffer(value.clone()) for value in (probe.weight, probe.bias, lift, shown))
        self.balance: Tensor | None = None
        if spec is None:
            self.map = nn.Parameter(torch.zeros(members, outputs, width))
            self.shift = nn.Parameter(torch.zeros(members, outputs))
            return
        self.down = nn.Parameter(_uniform(members, spec.experts * spec.rank, width))
        self.up = nn.Parameter(torch.zeros(members, outputs, spec.experts * spec.rank))
        routers = [Router(width, spec) for _ in range(members)] if spec.gate != "none" else []
        self.routers = nn.ParameterList([nn.Parameter(torch.stack(values)) for values in zip(
            *([value.detach() for value in router.map.parameters()] for router in routers), strict=True)])

    def change(self, features: Tensor) -> Tensor:
        """What each member adds to the scores, (M, rows, O), of features (M, rows, D); what the head cannot show is left out."""
        seen = F.dropout(features, DROPOUT, self.training)
        if self.spec is None:
            return seen @ self.map.transpose(1, 2) + self.shift[:, None]
        low = seen @ self.down.transpose(1, 2)
        if len(self.routers):
            logits = features @ self.routers[0].transpose(1, 2)
            if len(self.routers) > 1:
                logits = F.gelu(logits + self.routers[1][:, None]) @ self.routers[2].transpose(1, 2) + self.routers[3][:, None]
            gates = sparse_softmax(logits, self.spec.top_k)
            self.balance = balance_of(logits, gates, self.spec.top_k).sum() if self.spec.top_k else None
            low = (low.unflatten(-1, (self.spec.experts, self.spec.rank)) * gates.unsqueeze(-1)).flatten(-2)
        return low @ (self.spec.scale * self.shown @ self.up).transpose(1, 2)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of every member before class_scores."""
        change = self.change(features.flatten(1, -2)).unflatten(1, features.shape[1:-1])
        scores = features @ self.weight + self.bias + change
        if mask is None:
            return scores
        if self.pool is None:
            weights = mask / mask.sum(-1, keepdim=True)
        else:
            seen = features[0] if self.spec is None else features[0] + change.mean(0) @ self.lift.T
            weights = self.pool.weights(seen, mask[0])[None]
        return (weights.unsqueeze(-1) * scores).sum(-2)


def lifted(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of a head's weight W (D, O): L (D, O), from scores to the smallest features that show them, and W' L (O, O), what of them is shown.

    All of it but directions that W has not: of a softmax a shift of all scores, which changes nothing.
    """
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    kept = values > SMALLEST_DIRECTION * values.max()
    lift = left[:, kept] / values[kept] @ right[kept]
    return lift.float(), (right[kept].T @ right[kept]).float()


def _uniform(members: int, outputs: int, width: int) -> Tensor:
    """As PyTorch starts linear layers."""
    return torch.empty(members, outputs, width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width))


@dataclass(frozen=True)
class BankedFeatures:
    """Standardised features of images by row and view, with their mask where they are slices."""

    bank: FeatureBank
    rows: NDArray[np.int64]
    probe: Probe
    device: str

    def __call__(self, rows: NDArray[np.int64], views: NDArray[np.int64] | int = 0) -> tuple[Tensor, Tensor | None]:
        places = self.rows[rows]
        features = (torch.from_numpy(self.bank.features(places, views)) - self.probe.mean) / self.probe.sd
        mask = torch.from_numpy(self.bank.features(places, views, "mask")).to(self.device) if self.bank.masked else None
        return features.to(self.device), mask


def adapt_from_probe(course: Course, model: Model, images: ImageSet, signals: TeacherSignals, keep: Literal["better", "best", "last"], *,
                     split_seed: int) -> tuple[Model, Verdict, list[dict[str, Any]]]:
    """The model with its head at the probe, and behind its pool what was worth leaving the probe for; the verdict, a row a look."""
    members, verdict, history = choose_members(course, model, images, signals, keep, split_seed=split_seed)
    if members is None:
        return at_probe(model, signals.probe), verdict, history
    return cool(folded(model, signals.probe, members), verdict.temperature), verdict, history


def choose_members(course: Course, model: Model, images: ImageSet, signals: TeacherSignals, keep: Literal["better", "best", "last"], *,
                   split_seed: int, make: Callable[..., Members] = Members) -> tuple[Members | None, Verdict, list[dict[str, Any]]]:
    """Trained members, or None where the probe is kept; the verdict, a row a look.

    keep: better leaves the probe for a gain beyond its standard error alone, best for the best look whatever it gained, last for the last
    step unlooked at. make: what members are.
    """
    sets = [] if keep == "last" else judging_sets(images, split_seed)
    folds = len(sets) if len(sets) > 1 else 0
    with track("train") as update:
        total, done = course.steps * (len(sets) + (len(sets) != 1)), 0

        def trained(own: ImageSet, probe: Probe, steps: int, held: NDArray[np.int64] | None) -> tuple[Members, list[Tensor]]:
            nonlocal done
            found = train_and_look(replace(course, steps=steps), model, own, signals, probe, make, held,
                                   lambda step, loss: update(min(done + step, total), total, f"loss {loss:.3f}"))
            done += steps
            return found

        rows, curves = [], []
        for own in sets:
            held = own.rows("val")
            rows.append(held[own.labelled[held]])
            members, curve = trained(own, refitted(signals, own, course.seed) if folds else signals.probe, course.steps, rows[-1])
            curves.append(torch.stack(curve))
        verdict, history = judged(curves, rows, images, course, keep, folds=folds)
        if verdict.used and len(sets) != 1:
            members, _ = trained(images, signals.probe, int(verdict.trained.split()[0]), None)
    signals.bank.release()
    return members if verdict.used else None, verdict, history


def train_and_look(course: Course, model: Model, images: ImageSet, signals: TeacherSignals, probe: Probe, make: Callable[..., Members],
                   held: NDArray[np.int64] | None, progress: Callable[[int, float], None]) -> tuple[Members, list[Tensor]]:
    """Members at the look of least loss on held rows, the start left out, and each look's logits (n, C); without rows at the end."""
    features = BankedFeatures(signals.bank, signals.rows, probe, course.device)
    curve: list[Tensor] = []
    best, least = None, math.inf
    for step, members, loss in train_members(course, model, images, signals, probe, make):
        progress(step, loss)
        if held is not None:
            curve.append(class_scores(answers(members, features, held), images.task))
            reached = float(cooled_losses(curve[-1], images, held)[0].mean())
            if step and reached < least:
                best, least = copy.deepcopy(members), reached
    return best or members, curve


def judged(curves: list[Tensor], rows: list[NDArray[np.int64]], images: ImageSet, course: Course,
           keep: Literal["better", "best", "last"], *, folds: int) -> tuple[Verdict, list[dict[str, Any]]]:
    """The verdict on curves of logits (looks, n, C) of each fold, the first look at the start, and a row a look."""
    if not curves:
        return Verdict(keep == "last", 0.0, 0.0, 0, folds, f"{course.steps} steps"), []
    held = np.concatenate(rows)
    looks = [cooled_losses(scores, images, held) for scores in torch.cat(curves, dim=1)]
    place = min(range(1, len(looks)), key=lambda index: float(looks[index][0].mean()))
    (start, _), (end, temperature) = looks[0], looks[place]
    gain, error = gain_of(start, end, groups_of(images, held))
    history = [{"epoch": index, "step": min(index * course.look, course.steps), "lr": course.lr, "held_out_loss": float(losses.mean()),
                "temperature": heat} for index, (losses, heat) in enumerate(looks)]
    verdict = Verdict(keep == "best" or gain > error, gain, error, len(held), folds, f"{history[place]['step']} steps", temperature)
    return verdict, history


def train_members(course: Course, model: Model, images: ImageSet, signals: TeacherSignals, probe: Probe,
                  make: Callable[..., Members] = Members) -> Iterator[tuple[int, Members, float]]:
    """Train members on the labelled training images; (steps, members, loss) at the start, at every look and at the end."""
    train = images.rows("train")
    train = train[images.labelled[train]]
    labels = torch.from_numpy(images.labels)
    weights = prevalence_weights(labels[train]).to(course.device) if images.task == "multilabel" and course.focal_gamma else None
    with torch.random.fork_rng():
        torch.manual_seed(course.seed)
        pool = copy.deepcopy(model.slice_pool).requires_grad_() if attends(model) else None
        members = make(probe, course.spec, course.members, pool).to(course.device)
    features = BankedFeatures(signals.bank, signals.rows, probe, course.device)
    slower = {"map", "shift"} if members.pool is not None else set()
    optimiser = torch.optim.AdamW([{"params": [value], "weight_decay": 0.0 if is_bias(name) else course.weight_decay,
                                    "lr": course.lr * (MAP_RATE if name in slower else 1)}
                                   for name, value in members.named_parameters()], lr=course.lr, fused=True)
    members.eval()
    yield 0, members, 0.0
    for step in range(course.steps):
        members.train()
        streams = 1 if members.pool is not None else course.members
        batch = np.concatenate([train[stream(course.seed, 101 + number, len(train), step * course.batch, course.batch)]
                                for number in range(streams)])
        views = np.random.default_rng([course.seed, 103, step]).integers(0, signals.bank.views(signals.rows[batch]) + 1)
        with torch.random.fork_rng():
            torch.manual_seed(course.seed * 1_000_003 + step)  # dropout
            scores = members(*(None if part is None else _for_members(part, streams, course.members) for part in features(batch, views)))
        targets = labels[batch].to(course.device).unflatten(0, (streams, -1)).repeat(course.members // streams, *[1] * labels.ndim)
        targets = targets.flatten(0, 1)
        loss = task_loss(class_scores(scores.flatten(0, 1), images.task), targets, images.task, class_weights=weights,
                         focal_gamma=course.focal_gamma)
        whole = course.members * loss  # each member's gradient is that of its own mean
        if members.balance is not None:
            whole = whole + course.balance * members.balance
        optimiser.zero_grad(set_to_none=True)
        whole.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(loss.detach()):
            raise UserError(f"the loss is not finite at step {step}; lower --lr (now {course.lr:g})")
        optimiser.step()
        if (step + 1) % course.look == 0 or step + 1 == course.steps:
            members.eval()
            yield step + 1, members, float(loss.detach())


def _for_members(rows: Tensor, streams: int, members: int) -> Tensor:
    """Rows of one stream for each member, (M, n, ...), or of one for all."""
    rows = rows.unflatten(0, (streams, -1))
    return rows.expand(members, *rows.shape[1:])


def is_bias(name: str) -> bool:
    """Whether a parameter of members is a bias, which is not decayed."""
    return name == "shift" or name.endswith(".bias") or name in ("routers.1", "routers.3")


@torch.no_grad()
def answers(members: Members, features: BankedFeatures, rows: NDArray[np.int64]) -> Tensor:
    """Mean over members of the scores (n, O) of some clean images."""
    size = max(1, ROWS // (features.bank.masked or 1))
    parts = []
    for start in range(0, len(rows), size):
        inputs, mask = features(rows[start:start + size])
        many = (members.members, *(-1 for _ in inputs.shape))
        parts.append(members(inputs.expand(many), None if mask is None else mask.expand(many[:-1])).mean(0).cpu())
    return torch.cat(parts)


def refitted(signals: TeacherSignals, images: ImageSet, seed: int) -> Probe:
    """The probe of a fold: fitted on its training images alone, at the strength of the whole."""
    train = images.rows("train")
    train = train[images.labelled[train]]
    pairs = np.asarray([(row, view) for row in train for view in range(int(signals.bank.views(signals.rows[[row]])[0]) + 1)])
    if len(pairs) > PROBE_ROWS:
        pairs = pairs[np.random.default_rng([seed, 107]).choice(len(pairs), PROBE_ROWS, replace=False)]
    features = whole_features(signals.bank, signals.rows[pairs[:, 0]], pairs[:, 1])
    mean, sd = standardiser(features)
    own = signals.probe
    weight, bias = fit_linear((features - mean) / sd, torch.from_numpy(images.labels[pairs[:, 0]]), own.task, own.strength,
                              torch.zeros_like(own.weight), torch.zeros_like(own.bias))
    return Probe(mean, sd, weight, bias, own.task, own.strength)


@torch.no_grad()
def at_probe(model: Model, probe: Probe) -> Model:
    """The model with the probe as its head, in place; of volumes slices weigh alike until attention is trained."""
    weight, bias = probe.folded()
    model.head.weight.copy_(weight)
    model.head.bias.copy_(bias)
    return model


@torch.no_grad()
def folded(model: Model, probe: Probe, members: Members) -> Model:
    """The model, in place, with members behind its pool as one: their experts as one adapter of standardised features, maps in the head."""
    members = members.cpu()
    if members.spec is None:
        at_probe(model, replace(probe, weight=probe.weight + members.map.mean(0).T, bias=probe.bias + members.shift.mean(0)))
        if members.pool is not None and members.pool.look is not None:  # it looked at standardised features; the model's are as they are
            model.slice_pool.load_state_dict(members.pool.state_dict())
            look = model.slice_pool.look
            assert look is not None
            weight = look.weight.double() / probe.sd.double()
            look.bias.copy_((look.bias.double() - weight @ probe.mean.double()).float())
            look.weight.copy_(weight.float())
        return model
    spec = members.spec
    gated = spec.gate != "none"
    count = members.members if gated else 1
    whole = replace(spec, experts=members.members * spec.experts, standardised=True, members=count, hidden=count * spec.hidden)
    model = adapt_model(model, {POOLED: whole})
    adapter: Adapter = getattr(model.net, POOLED)
    adapter.mean.copy_(probe.mean)
    adapter.sd.copy_(probe.sd)
    scale = 1.0 if gated else 1 / members.members  # gates are divided by the number of members; where there are none, the factors
    adapter.down.weight.copy_(members.down.flatten(0, 1))  # type: ignore[union-attr,operator]
    adapter.up.weight.copy_((scale * members.lift @ members.up).transpose(0, 1).flatten(1))  # type: ignore[union-attr,operator]
    if adapter.router is not None:
        first, *rest = members.routers
        adapter.router.first.weight.copy_(first.flatten(0, 1))
        if rest:
            adapter.router.first.bias.copy_(rest[0].flatten())
            adapter.router.map[2].weight.copy_(torch.block_diag(*rest[1]))  # type: ignore[index]
            adapter.router.map[2].bias.copy_(rest[2].flatten())  # type: ignore[index]
    model.head.weight.copy_(probe.weight.T)
    model.head.bias.copy_(probe.bias)
    if members.pool is not None:
        model.slice_pool.load_state_dict(members.pool.state_dict())
    return model
