"""Whether labels can be guessed without a picture: a linear probe on the signs of training images alone, cross-validated by patient.

Owns: `guess_labels`, when a guess is clear, the sentence on it. Does not own: the signs (signs.py), the same picture in two splits
(copies.py), patients in two splits (splits.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.signs import Sign

FOLDS = 5
BINS = 10  # of an amount
WORDS = 15  # of a code that are told apart; all others are one
LEAST = 5  # images of a bin
FEWEST = 10  # patients with and without a finding: fewer prove nothing
MOST_IMAGES = 5000  # more make it slower, not surer
RIDGE = 5.0
CLEAR = 3.0  # standard errors above
CHANCE = 0.53  # what is no more than chance: a little over a half, for a probe of many signs
PACKED = "size of the file"  # of a compressed picture it follows what the picture shows: counted only where it nearly decides
NEARLY = 0.9
SHOWN = 3


def guess_labels(signs: Sequence[Sign], labels: NDArray[Any], classes: Sequence[str], groups: NDArray[np.int64], *,
                 seed: int = 0) -> dict[str, Any]:
    """How well signs alone tell the labels of training images: auroc (mean over classes), se, whether that is clear, by which signs.

    labels: as in ImageSet; groups (N,): images of one are in one fold. Empty where there is no sign, or too little to judge.
    """
    rows = np.flatnonzero(np.isfinite(labels).any(axis=1) if labels.ndim == 2 else labels >= 0)
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng([seed, 17]).choice(rows, MOST_IMAGES, replace=False))
    own = labels[rows]
    truth = own if own.ndim == 2 else (own[:, None] == np.arange(len(classes))).astype(np.float32)
    truth = truth[:, 1:] if own.ndim == 1 and len(classes) == 2 else truth
    names = list(classes) if own.ndim == 2 or len(classes) > 2 else [classes[1]]
    members = groups[rows]
    if not len(rows):
        return {}
    enough = [place for place in range(truth.shape[1]) if all(
        len(np.unique(members[truth[:, place] == side])) >= FEWEST for side in (0, 1))]
    blocks = {sign.name: block for sign in signs if (block := _columns(sign, rows)).shape[1] > 1}
    if not enough or not blocks:
        return {}
    truth, names = truth[:, enough], [names[place] for place in enough]
    _, group = np.unique(members, return_inverse=True)
    fold = np.random.default_rng([seed, 19]).permutation(int(group.max()) + 1)[group] % FOLDS
    errors = np.asarray([_error(len(np.unique(members[truth[:, place] == 1])), len(np.unique(members[truth[:, place] == 0])))
                         for place in range(len(names))])
    packed = blocks.pop(PACKED, None)
    singly = {} if packed is None else {PACKED: _guess(packed, truth, fold)}
    together = _guess(np.concatenate(list(blocks.values()), axis=1), truth, fold) if blocks else np.full(len(names), np.nan)
    clear = _clear(together, errors, CHANCE)
    packed_tells = PACKED in singly and _clear(singly[PACKED], errors, NEARLY)
    best = np.argsort(-np.nan_to_num(together, nan=0.0), kind="stable")[:SHOWN]  # the classes that are told best say by what
    alone = {name: _guess(block, truth[:, best], fold) for name, block in blocks.items()} if clear else {}
    by = [(name, float(np.nanmax(values))) for name, values in alone.items() if _clear(values, errors[best], CHANCE)]
    by += [(PACKED, float(np.nanmax(singly[PACKED])))] if packed_tells else []
    by = sorted(by, key=lambda pair: -pair[1])[:SHOWN]
    clear = clear or packed_tells
    mean = together if np.isfinite(together).any() and not (packed_tells and not alone) else singly.get(PACKED, together)
    if not np.isfinite(mean).any():
        return {}
    return {"auroc": round(float(np.nanmean(mean)), 4), "se": round(float(np.sqrt(np.mean(errors**2))), 4), "clear": bool(clear),
            "signs": [[name, round(value, 4)] for name, value in by], "class": names[int(np.nanargmax(mean))],
            "class_auroc": round(float(np.nanmax(mean)), 4), "images": len(rows)}


def sentence(guess: dict[str, Any]) -> str:
    """What to say of a clear guess."""
    by = ", ".join(f"{name} ({value:.2f})" for name, value in guess["signs"]) or "all of them together"
    unseen = all(name.startswith(("form of", "number in", "depth of the folder")) for name, _ in guess["signs"]) and guess["signs"]
    best = f"; best class {guess['class_auroc']:.2f}" if guess["class_auroc"] > guess["auroc"] else ""
    why = ("A network sees no names, but may see what goes with them" if unseen else
           "A network may learn such a sign in the place of the finding")
    return (f"labels of training images can be guessed without a picture: AUROC {guess['auroc']:.2f} (standard error "
            f"{guess['se']:.2f}{best}), by {by}. {why}: see whether classes come from different sources")


def _columns(sign: Sign, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """A sign as one column a bin or word, 0 and 1."""
    values = sign.values[rows]
    if sign.numeric:
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.zeros(0)
        codes = np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), len(edges) + 1)
    else:
        codes = np.minimum(values, WORDS)
    codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
    rare = np.bincount(codes) < LEAST
    codes = np.where(rare[codes], len(rare), codes)
    codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
    return np.asarray(np.eye(int(codes.max()) + 1, dtype=np.float32)[codes])


def _guess(columns: NDArray[np.float32], truth: NDArray[Any], fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """AUROC of each class (C,), the mean over folds that were held out; NaN where no fold has both sides."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import roc_auc_score

    known, scores = np.isfinite(truth), [list[float]() for _ in range(truth.shape[1])]
    for part in range(FOLDS):
        inside, outside = fold != part, fold == part
        if not (inside.any() and outside.any()):
            continue
        counts = known[inside].sum(axis=0)
        share = np.where(known[inside], truth[inside], 0).sum(axis=0) / np.maximum(counts, 1)
        model = Ridge(alpha=RIDGE, solver="cholesky").fit(columns[inside], np.where(known[inside], truth[inside], share))  # all at once
        guesses = model.predict(columns[outside]).reshape(-1, truth.shape[1])
        for place in range(truth.shape[1]):
            held = known[outside, place]
            own = truth[outside, place][held]
            if 0 < own.sum() < len(own):
                scores[place].append(float(roc_auc_score(own, guesses[held, place])))
    return np.asarray([np.mean(values) if values else np.nan for values in scores])


def _error(positives: int, negatives: int) -> float:
    """Standard error of an AUROC of one half (Hanley and McNeil, 1982)."""
    return float(np.sqrt((0.25 + (positives + negatives - 2) * (1 / 3 - 0.25)) / (positives * negatives)))


def _clear(values: NDArray[np.float64], errors: NDArray[np.float64], above: float) -> bool:
    """Whether the mean over classes, or one class for itself, is above a figure by more than chance gives."""
    if not np.isfinite(values).any():
        return False
    if above > CHANCE:
        return bool(np.nanmean(values) > above)
    each = CLEAR + 0.5 * np.log10(len(values))  # of many classes one is high by chance
    return bool(np.nanmean(values) - CLEAR * np.sqrt(np.mean(errors**2)) > above or np.nanmax(values - each * errors) > above)
