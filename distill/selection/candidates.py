"""--student auto: which networks are looked at, what each would cost, and which of them are tried.

Owns: FAMILIES, Candidate, screening by parameters, MACs and latency, the finalists. Does not own: what a network costs (budget.py,
timing.py), trying the finalists (choosing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from distill.networks.models import ModelSpec, build_model
from distill.networks.students import timm_arguments
from distill.pruning.budget import Budget, Cost, cost_of
from distill.pruning.timing import Target, elsewhere_ms, timed_apart
from runtimes.errors import BUDGET, UserError

# Families of small networks and their sizes, small to large: what runs in devices today, and what timm and torchvision can build, ONNX
# can hold and every method can teach.
FAMILIES: dict[str, tuple[str, ...]] = {
    "mobilenetv3-small": ("mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100"),
    "mobilenetv3-large": ("mobilenetv3_large_075", "mobilenetv3_large_100"),
    "mobilenetv4": ("mobilenetv4_conv_small_035", "mobilenetv4_conv_small_050", "mobilenetv4_conv_small"),
    "mobilenetv2": ("mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_100"),
    "efficientnet-lite": ("tf_efficientnet_lite0",),
    "efficientnet": ("efficientnet_b0",),
    "lcnet": ("lcnet_035", "lcnet_050", "lcnet_075", "lcnet_100"),
    "tinynet": ("tinynet_e", "tinynet_d", "tinynet_c"),
    "mnasnet": ("mnasnet_small", "semnasnet_075"),
    "ghostnet": ("ghostnet_050", "ghostnet_100"),
    "regnet": ("regnetx_002", "regnety_002"),
    "resnet": ("resnet10t", "resnet18"),
    "shufflenetv2": ("torchvision/shufflenet_v2_x0_5", "torchvision/shufflenet_v2_x1_0", "torchvision/shufflenet_v2_x1_5"),
    "mobileone": ("mobileone_s0",),
    "repvit": ("repvit_m0_9",),
    "repghostnet": ("repghostnet_050",),
    "convnext": ("convnext_atto",),
    "edgenext": ("edgenext_xx_small",),
    "fastvit": ("fastvit_t8",),
    "vit": ("vit_tiny_patch16_224",),
    "efficientvit": ("efficientvit_b0",),
    "starnet": ("starnet_s050",),
}


@dataclass(frozen=True)
class Candidate:
    """One network that was looked at: its cost, its score on held-out training images if it was tried, and what became of it."""

    arch: str
    family: str
    cost: Cost | None = None
    score: float | None = None
    verdict: str = ""

    def as_row(self) -> dict[str, Any]:
        """The JSON form, a row of the report's table."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Candidate:
        """Rebuild a candidate from its JSON form."""
        return cls(**{**row, "cost": row["cost"] and Cost(**row["cost"])})


def screen(spec: ModelSpec, budget: Budget, target: Target, threads: int, *, families: dict[str, tuple[str, ...]] | None = None,
           table: Mapping[str, Any] | None = None, progress: Callable[[int, int, str], None] | None = None) -> list[Candidate]:
    """Every network of the list with its cost; an empty verdict means it is within the budget.

    Parameters and MACs are counted first; what is within those limits is exported and timed where the budget names a latency, or
    looked up in the latency table of another device.
    UserError (exit 4) names the nearest miss when nothing fits.
    """
    named = [(arch, family) for family, sizes in (FAMILIES if families is None else families).items() for arch in sizes]
    candidates = [_count(arch, family, spec, budget) for arch, family in named]
    if budget.latency_ms is not None:
        inside = [index for index, candidate in enumerate(candidates) if not candidate.verdict]
        specs = [spec_of(candidates[index].arch, spec) for index in inside]
        latencies: list[float | str] = (timed_apart(specs, target, threads, progress) if table is None else
                                        [elsewhere_ms(build_model(model_spec), table, target, threads) for model_spec in specs])
        for index, answer in zip(inside, latencies, strict=True):
            candidate = candidates[index]
            assert candidate.cost is not None
            candidates[index] = (replace(candidate, verdict=answer) if isinstance(answer, str) else
                                 _judged(replace(candidate, cost=replace(candidate.cost, latency_ms=answer)), budget))
    if all(candidate.verdict for candidate in candidates):
        nearest = min((candidate for candidate in candidates if candidate.cost is not None and budget.over(candidate.cost)),
                      key=lambda candidate: max(budget.over(candidate.cost).values()), default=None)  # type: ignore[arg-type]
        raise UserError(f"none of {len(candidates)} students fits {budget}" + (
            "" if nearest is None else f"; the nearest is {nearest.arch} with {nearest.cost}") + "; allow more, lower --size, or name a "
            "--student, which is then pruned until it fits", BUDGET)
    return candidates


def spec_of(arch: str, spec: ModelSpec) -> ModelSpec:
    """The spec of a candidate for the same images and classes."""
    return replace(spec, arch=arch, arguments=timm_arguments(arch))


def largest(candidates: list[Candidate]) -> dict[str, Candidate]:
    """Of every family its largest network within the budget; the list names sizes from small to large."""
    return {candidate.family: candidate for candidate in candidates if not candidate.verdict}


def finalists(candidates: list[Candidate], most: int) -> list[str]:
    """Of every family its largest network within the budget; of more than `most` such, spread evenly from cheap to dear.

    Cheap is meant by latency where it was measured, by MACs else. The dearest is always among them.
    """
    ranked = sorted(largest(candidates).values(), key=lambda candidate: (
        (candidate.cost.latency_ms or candidate.cost.macs, candidate.arch) if candidate.cost else (0, "")))
    if len(ranked) <= most:
        return [candidate.arch for candidate in ranked]
    step = (len(ranked) - 1) / max(most - 1, 1)
    return [ranked[len(ranked) - 1 - round(place * step)].arch for place in reversed(range(most))]


def _count(arch: str, family: str, spec: ModelSpec, budget: Budget) -> Candidate:
    try:
        cost = cost_of(build_model(spec_of(arch, spec)))
    except UserError as error:
        return Candidate(arch, family, verdict=f"cannot be built: {error}")
    return _judged(Candidate(arch, family, cost), budget)


def _judged(candidate: Candidate, budget: Budget) -> Candidate:
    assert candidate.cost is not None
    over = budget.over(candidate.cost)
    return replace(candidate, verdict=", ".join(f"{name} {factor:.2f} times the budget" for name, factor in over.items()))
