"""What the report shows of choices made on the way: the students that were looked at, the methods that were tried.

Owns: the rows of both tables, which students stand on the front, the picture's points. Does not own: drawing (plots.py), choosing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.report.plots import Plot, Point, front


def students_view(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The candidates of --student auto, those tried first by their score, and a picture of score against cost; None without."""
    rows = metrics.get("students")
    if not rows:
        return None
    timed = any(row["cost"] and row["cost"]["latency_ms"] is not None for row in rows)
    tried = sorted((row for row in rows if row["score"] is not None), key=lambda row: -row["score"])
    others = sorted((row for row in rows if row["score"] is None), key=lambda row: (not row["verdict"].startswith("fits"), row["arch"]))

    def cost(row: dict[str, Any]) -> float | None:
        own = row["cost"] or {}
        return own.get("latency_ms") if timed else own.get("macs", 0) / 1e6

    points = [Point(cost(row) or 0.0, row["score"], row["arch"].removeprefix("torchvision/"), row["verdict"] == "taken") for row in tried]
    untried = [value for row in others if row["verdict"].startswith("fits") and (value := cost(row)) is not None]
    picture: Plot | None = None
    if points:
        picture = front(points, untried, "milliseconds an image (p90, untrained)" if timed else "million MACs an image",
                        "AUROC, held-out training images" if all(0 <= point.y <= 1 for point in points) else "minus the loss, held out")
    return {"rows": [{"name": row["arch"], "params": row["cost"] and row["cost"]["params"] / 1e6,
                      "macs": row["cost"] and row["cost"]["macs"] / 1e6, "latency": row["cost"] and row["cost"]["latency_ms"],
                      "score": row["score"], "verdict": row["verdict"]} for row in (*tried, *others)],
            "tried": len(tried), "timed": timed, "plot": picture}


def experts_view(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """What experts of an adapted teacher gained over the probe they started from, on which images, and what was kept; None without."""
    adapters = metrics.get("adapters", {})
    verdict = adapters.get("experts")
    return {**verdict, "method": adapters["method"], "added": adapters["added"]} if verdict else None


def methods_view(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods that --method auto tried, best first: mean score on held-out training images, and by fold."""
    scores = metrics.get("choice", {}).get("scores", {})
    return sorted(({"name": name, "mean": float(np.mean(folds)), "folds": folds, "taken": name == metrics["choice"]["method"]}
                   for name, folds in scores.items()), key=lambda row: -row["mean"])
