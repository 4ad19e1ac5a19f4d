"""What a student may cost: parameters, multiply-accumulates, latency; and cutting one down until it fits.

Owns: Budget, reading its numbers, the search for the largest student within it. Does not own: what is cut (prune.py), how latency is
taken (timing.py).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from distill.networks.cuts import read_cuts
from distill.networks.models import Model, build_model, count_macs, count_parameters
from distill.pruning.prune import WORKING, Pruner
from runtimes.errors import BUDGET, USAGE, UserError
from runtimes.files.schema import maybe, number, object_of, whole

FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
COST = object_of({"params": whole(0, 10**13), "macs": whole(0, 10**16)}, {"latency_ms": maybe(number(0, 1e9))})  # as a run keeps it
NO_FASTER = 0.99  # a cut that leaves more than this share of the latency has not lowered it


@dataclass(frozen=True)
class Cost:
    """What a student costs: parameters, MACs of an input, and milliseconds an input where they were measured."""

    params: int
    macs: int
    latency_ms: float | None = None

    def __str__(self) -> str:
        timed = "" if self.latency_ms is None else f", {self.latency_ms:.3g} ms"
        return f"{self.params / 1e6:.3g} M parameters, {self.macs / 1e6:.3g} M MACs{timed}"


@dataclass(frozen=True)
class Budget:
    """The most a student may cost; None is no limit."""

    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None

    def __bool__(self) -> bool:
        return (self.params, self.macs, self.latency_ms) != (None, None, None)

    def over(self, cost: Cost) -> dict[str, float]:
        """By what factor a cost is over each limit that it breaks."""
        pairs = {"parameters": (cost.params, self.params), "MACs": (cost.macs, self.macs), "latency": (cost.latency_ms, self.latency_ms)}
        return {name: value / most for name, (value, most) in pairs.items()
                if value is not None and most is not None and value > most}

    def __str__(self) -> str:
        limits = [f"{self.params / 1e6:.3g} M parameters" if self.params is not None else "",
                  f"{self.macs / 1e6:.3g} M MACs" if self.macs is not None else "",
                  f"{self.latency_ms:.3g} ms" if self.latency_ms is not None else ""]
        return ", ".join(limit for limit in limits if limit)


def read_count(text: str, flag: str) -> int:
    """A number such as 500000, 0.5M, 30M or 1.2G; anything else is a usage error."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(?:e(\d+))?([KMGB]?)", text.strip().replace(",", "").replace("_", ""), re.IGNORECASE)
    count = round(Decimal(match[1]) * 10 ** min(int(match[2] or 0), 30) * FACTORS[match[3].upper()]) if match else 0
    if count < 1:
        raise UserError(f"{flag} {text} is no number above 0; write it as 500000, 0.5M or 1.2G", USAGE)
    return count


def cost_of(model: Model, measure: Callable[[Model], float] | None = None) -> Cost:
    """What a model costs for one input of its size."""
    macs = count_macs(model, model.spec.height, model.spec.width)
    return Cost(count_parameters(model), macs, None if measure is None else measure(model))


def shrink(model: Model, budget: Budget, open_pruner: Callable[[Model], Pruner], *, measure: Callable[[Model], float] | None = None,
           tell: Callable[[str], None] = lambda _: None) -> tuple[Model, Cost]:
    """The largest cut of a model within a budget, with its cost; the model itself when it fits.

    Parameters and MACs are brought down first, then latency (milliseconds, by `measure`) in steps that aim at the limit; a cut
    that does not lower the latency is taken back and said. UserError (exit 4) names the nearest miss when nothing fits.
    """
    timed = measure if budget.latency_ms is not None else None
    result, cost = model, cost_of(model, timed)
    if not budget.over(cost):
        return model, cost
    cut = copy.deepcopy(model)
    pruner = open_pruner(cut)
    latest = cost
    while budget.over(cost):
        over = budget.over(cost)
        # Latency falls more slowly than the operations it is made of: aim there, not beyond.
        aim = cost.macs if "latency" not in over else min(latest.macs, cost.macs) / min(max(over["latency"], 1.05), 1.7) ** 0.75
        more = True
        while more and (budget.over(rough := _cost_of_cut(cut)) or rough.macs > aim or rough.macs >= latest.macs):
            more = pruner.step()
        if not more and rough.macs >= latest.macs:
            raise UserError(f"{model.spec.arch} does not fit {budget}: the smallest cut has {cost}; allow more, lower --size, or choose "
                            "a smaller --student", BUDGET)
        latest = cost_of(cut, timed)
        if timed is not None and latest.latency_ms is not None and "latency" not in budget.over(latest):
            # Of many measurements the one that fits may be the lucky one: it has to fit twice.
            latest = replace(latest, latency_ms=max(latest.latency_ms, timed(cut)))
        if timed is not None and cost.latency_ms is not None and latest.latency_ms is not None and "latency" in over and (
                latest.latency_ms > NO_FASTER * cost.latency_ms):
            tell(f"a cut to {latest} is no faster than {cost.latency_ms:.3g} ms: taken back")
            continue
        result, cost = copy.deepcopy(cut), latest
        tell(f"cut to {cost}")
    return record_cuts(result), cost


def _cost_of_cut(cut: Model) -> Cost:
    """What is left of a model costs; the whole ran, so one that does not run any more was cut in a way its layers do not follow."""
    try:
        return cost_of(cut)
    except UserError:
        raise UserError(f"{cut.spec.arch} cannot be pruned: what is left of it does not run; {WORKING}") from None


def record_cuts(model: Model) -> Model:
    """The same model with all that was cut of its architecture in its spec."""
    whole = build_model(replace(model.spec, cuts={}))
    model.spec = replace(model.spec, cuts=read_cuts(whole.net, model.net))
    return model
