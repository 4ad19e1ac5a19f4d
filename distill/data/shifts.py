"""Whether splits differ in what is known beside the pictures: scanner, site, view, age, sex, size.

Owns: `find_shifts`, when a difference counts, its sentence. Does not own: the signs (signs.py), making splits (splits.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.signs import Sign

LEVEL = 0.01  # of all tests of a set together (Holm)
LEAST = 0.1  # Cramer's V, or the distance of two distributions: smaller differences are real in large sets, and harmless
FEWEST = 10  # patients of a split
EXPECTED = 5.0  # of a cell, as chi-square asks for


def find_shifts(signs: Sequence[Sign], split: NDArray[Any], groups: NDArray[np.int64], unit: str) -> list[dict[str, Any]]:
    """Signs in which validation or test images differ from training images: sign, split, test, p (Holm), size, sentence; surest first.

    groups (N,): images of one count once, with their first value, or their median. unit: what a group is, for the sentence.
    """
    found: list[dict[str, Any]] = []
    for part in ("val", "test"):
        for sign in signs:
            if sign.kind == "file":
                continue
            ours, theirs = (_once(sign, np.flatnonzero(split == name), groups) for name in ("train", part))
            if min(len(ours), len(theirs)) >= FEWEST and (result := (_amounts if sign.numeric else _codes)(sign, ours, theirs, part, unit)):
                found.append({"sign": sign.name, "split": part, **result})
    found.sort(key=lambda shift: shift["p"])
    highest, kept = 0.0, []
    for place, shift in enumerate(found):
        highest = max(highest, min(1.0, shift["p"] * (len(found) - place)))
        if highest <= LEVEL and shift["size"] >= LEAST:
            told = f"{shift['sign']} differs between train and {shift['split']} ({shift['test']}, p {_p(highest)}): {shift['sentence']}"
            kept.append({**shift, "p": highest, "size": round(shift["size"], 4), "sentence": told})
    return kept


def _once(sign: Sign, rows: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[Any]:
    """One value a group: the median of amounts that are known, the first of codes."""
    values, members = sign.values[rows], groups[rows]
    if not sign.numeric:
        return np.asarray(values[np.unique(members, return_index=True)[1]])
    known = np.isfinite(values)
    values, members = values[known], members[known]
    order = np.lexsort((values, members))
    values, members = values[order], members[order]
    _, starts, counts = np.unique(members, return_index=True, return_counts=True)
    return np.asarray((values[starts + (counts - 1) // 2] + values[starts + counts // 2]) / 2 if len(values) else values)


def _amounts(sign: Sign, ours: NDArray[Any], theirs: NDArray[Any], part: str, unit: str) -> dict[str, Any]:
    from scipy.stats import ks_2samp

    result: Any = ks_2samp(ours, theirs, method="asymp")
    return {"test": "Kolmogorov-Smirnov", "p": float(result.pvalue), "size": float(result.statistic),
            "sentence": f"median {np.median(ours):g} of {len(ours):,} {unit}s in train, {np.median(theirs):g} of {len(theirs):,} in {part}"}


def _codes(sign: Sign, ours: NDArray[Any], theirs: NDArray[Any], part: str, unit: str) -> dict[str, Any]:
    """Chi-square of two splits, rare words taken as one; empty where one word is left."""
    from scipy.stats import chi2_contingency

    table = np.stack([np.bincount(values, minlength=len(sign.words)) for values in (ours, theirs)]).astype(np.float64)
    share = table / table.sum(axis=1, keepdims=True)
    place = int((share[1] - share[0]).argmax())
    frequent = table.sum(axis=0) * table.sum(axis=1).min() / table.sum() >= EXPECTED
    table = np.concatenate([table[:, frequent], table[:, ~frequent].sum(axis=1, keepdims=True)], axis=1)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return {}
    result: Any = chi2_contingency(table, correction=False)
    return {"test": "chi-square", "p": float(result.pvalue), "size": float(np.sqrt(result.statistic / table.sum())),
            "sentence": f"{sign.words[place]} is {100 * share[0][place]:.0f} % of {len(ours):,} {unit}s in train, "
                        f"{100 * share[1][place]:.0f} % of {len(theirs):,} in {part}"}


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-12 else "below 1e-12"
