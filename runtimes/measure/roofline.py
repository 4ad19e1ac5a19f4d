"""The least time a network could take on a machine, and the share of that limit it reaches. Pure.

Owns: `bound`. The limit is the longer of two: its operations at the pace of a matrix product in the precision it runs in, or its
weights, input and output once through memory at the pace of a copy of that size. Does not own: measuring either (gemm.py, profile.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESNET_SHARE = 0.7  # a ResNet in fp32 below that means a wrong set-up, not a slow machine


def bound(profile: Mapping[str, Any], peak: Mapping[str, Any], *, model_bytes: int, batch: int, p50_ms: float) -> dict[str, Any] | None:
    """MACs, bytes, the two times in milliseconds and the share of the longer one in p50; None where either side is not known.

    profile: what profile.inside says of one image. Layers of several precisions each count at their own pace; one without a measured pace
    counts at that of fp32, which is slower.
    """
    layers, products = profile.get("layers") or {}, peak["products"]
    if not profile.get("macs") or "fp32" not in products:
        return None
    total = sum(layers.values())
    shares = {kind: count / total for kind, count in layers.items()} if total else {"fp32": 1.0}
    macs, moved = profile["macs"] * batch, model_bytes + profile["io_bytes"] * batch
    compute = sum(2e3 * macs * share / products.get(kind, products["fp32"])["ops_per_s"] for kind, share in shares.items())
    sizes = sorted((int(size), rate) for size, rate in peak["copies"].items())
    rate = next((rate for size, rate in sizes if size >= moved), sizes[-1][1])
    memory = 1e3 * moved / rate
    precision = max(shares, key=lambda kind: shares[kind])
    return {"macs": macs, "bytes": moved, "precision": precision, "peak_ops_per_s": products.get(precision, products["fp32"])["ops_per_s"],
            "bytes_per_s": rate, "compute_ms": compute, "memory_ms": memory, "bound_ms": max(compute, memory),
            "share": max(compute, memory) / p50_ms}


def set_up_notice(student: str, line: Mapping[str, Any]) -> str:
    """A sentence when a ResNet in fp32 is far from the limit; empty otherwise."""
    if student.startswith("resnet") and line["precision"] == "fp32" and line["share"] < RESNET_SHARE:
        return (f"a ResNet in fp32 at {100 * line['share']:.0f} % of this machine's limit, where {100 * RESNET_SHARE:.0f} % is usual: "
                "look for a busy machine or a wrong set-up")
    return ""
