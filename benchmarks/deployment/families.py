"""Pruning over timm's families: to half the operations, forward, export, ONNX Runtime against torch, and how much faster that is.

Owns: the list of families, the table. Does not own: pruning (distill/pruning/prune.py), timing (distill/pruning/timing.py). Random
weights: what is tried is whether a family can be pruned, not what accuracy is left.

    python -m benchmarks.deployment.families
    python -m benchmarks.deployment.families --only mobilenetv3_small_100 --size 96
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.record import RESULTS, facts, interleave, ratio, store, timed
from distill.networks.models import Model, ModelSpec, build_model
from distill.networks.students import build_student, timm_arguments, timm_name
from distill.pruning.budget import Budget, cost_of, shrink
from distill.pruning.prune import open_pruner
from distill.pruning.timing import Shipped, example, open_call
from runtimes.errors import UserError

FAMILIES = (
    "mobilenetv3_large_100", "mobilenetv3_small_100", "mobilenetv2_100", "mobilenetv4_conv_small", "tf_efficientnet_lite0",
    "efficientnet_b0", "tinynet_e", "lcnet_050", "mnasnet_small", "semnasnet_075", "hardcorenas_a", "ghostnet_050", "resnet18", "resnet26d",
    "regnetx_002", "regnety_002", "vgg11_bn", "dla34", "convnext_atto", "convnextv2_atto", "repvit_m0_9", "repvgg_a0", "mobileone_s0",
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224", "poolformer_s12", "fastvit_t8", "edgenext_xx_small", "shufflenetv2")
CALLS = 60


def one(name: str, size: int) -> dict[str, Any]:
    """Prune one family to half its MACs and try all that a student goes through."""
    arch, start = timm_name(name), time.monotonic()
    whole = build_student(ModelSpec(arch, size, size, "multiclass", ("a", "b", "c"), timm_arguments(arch)), None, 0)
    settle(whole, size)
    cost = cost_of(whole)
    half, after = shrink(whole, Budget(macs=cost.macs // 2), open_pruner)
    settle(half, size)  # statistics of the whole would saturate some, and saturated answers agree whatever is wrong
    again = build_model(ModelSpec.from_dict(half.spec.as_dict()))
    again.net.load_state_dict(half.net.state_dict(), strict=True)
    with torch.no_grad():
        levels = torch.from_numpy(example(half.spec))
        said, replayed = (Shipped(model).eval()(levels).numpy() for model in (half, again))
    calls = [open_call(model) for model in (whole, half)]
    difference = float(np.abs(calls[1]()[0] - said).max())
    times = interleave({name: partial(timed, call) for name, call in zip(("whole", "half"), calls, strict=True)}, CALLS)
    return {"family": arch, "params": cost.params, "macs": cost.macs, "params_share": after.params / cost.params,
            "macs_share": after.macs / cost.macs, "replayed_bit_equal": bool((said == replayed).all()), "ort_difference": difference,
            "faster": ratio(times["whole"], times["half"])["median"], "seconds": round(time.monotonic() - start, 1)}


def settle(model: Model, size: int) -> None:
    """Give normalisation the statistics of its own signals: with those of a fresh network every image gets the same answer."""
    model.train()
    with torch.no_grad():
        for seed in range(10):
            model(torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(seed)))
    model.eval()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a family."""
    head = ["| family | MACs left | parameters left | ONNX Runtime differs by | times faster |", "|---|---|---|---|---|"]
    return "\n".join(head + [
        f"| {row['family']} | refused: {row['refused']} ||||" if "refused" in row else
        f"| {row['family']} | {row['macs_share']:.0%} | {row['params_share']:.0%} | {row['ort_difference']:.0e} | {row['faster']:.2f} |"
        for row in rows])


def main() -> None:
    """Try the families and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--only", nargs="*", default=FAMILIES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in given.only:
        try:
            rows.append(one(name, given.size))
        except UserError as error:
            rows.append({"family": name, "refused": str(error).split("; ")[0]})
        print(rows[-1], flush=True)
    if tuple(given.only) == FAMILIES:
        store(RESULTS / "families.json", {"facts": facts(), "size": given.size, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
