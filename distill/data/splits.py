"""Which image trains, which validates and which tests: given splits are kept and proven apart, missing ones are made.

Owns: groups (patients, lesions, copies), the proof that none is in two splits, stratified seeded division by group
(iterative stratification, Sechidis et al., ECML PKDD 2011). Does not own: reading splits from folders and tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
NAMED = 10


def check_groups(split: NDArray[np.object_], groups: Mapping[str, Sequence[str]]) -> None:
    """Refuse a patient or group that is in two splits, naming it, its column and the splits."""
    for column, values in groups.items():
        where: dict[str, set[str]] = defaultdict(set)
        for value, part in zip(values, split.tolist(), strict=True):
            if value and part:
                where[value].add(part)
        shared = [f"{value} in {' and '.join(sorted(parts))}" for value, parts in where.items() if len(parts) > 1]
        if shared:
            more = f" and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
            raise UserError(f"{len(shared)} of {len(where)} values of {column} are in more than one split: "
                            f"{column} {', '.join(shared[:NAMED])}{more}; keep each on one side, or give no split")


def merge_groups(columns: Sequence[Sequence[str]], count: int) -> NDArray[np.int64]:
    """A group number for each of `count` images, (N,): one number where any column shares a value ("" is none)."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in columns:
        first: dict[str, int] = {}
        for row, value in enumerate(column):
            if value:
                a, b = root(first.setdefault(value, row)), root(row)
                parent[max(a, b)] = min(a, b)
    return np.asarray([root(row) for row in range(count)], dtype=np.int64)


def divide(
    positives: NDArray[np.bool_], groups: NDArray[np.int64], fractions: Sequence[float], seed: int,
) -> NDArray[np.int64]:
    """Divide N images into parts near the given fractions, in whole groups, each label spread alike; each image's part.

    positives: (N, C). Rarest label first; its groups, largest first, go where most of that label is wanted. A part that
    has none of a label gets one while there are groups left for it. The same seed gives the same parts.
    """
    _, member = np.unique(groups, return_inverse=True)
    member = member.reshape(-1)
    every = np.pad(positives, ((0, 0), (0, 1)), constant_values=True)  # the last label: to be an image
    counts = np.zeros((int(member.max(initial=-1)) + 1, every.shape[1]), dtype=np.int64)
    np.add.at(counts, member, every.astype(np.int64))
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    want = [[float(total) * fraction for fraction in fractions] for total in counts.sum(axis=0)]
    tally = [[0] * len(fractions) for _ in want]
    place = np.full(len(counts), -1, dtype=np.int64)
    parts = range(len(fractions))
    waiting = set(range(every.shape[1]))
    while waiting:
        open_groups = (counts[place < 0] > 0).sum(axis=0)
        label = min(waiting, key=lambda index: (open_groups[index], index))
        waiting.remove(label)
        members = shuffled[(place[shuffled] < 0) & (counts[shuffled, label] > 0)]
        members = members[np.argsort(-counts[members, label], kind="stable")]
        for position, group in enumerate(members.tolist()):
            lacking = [part for part in parts if tally[label][part] == 0]
            allowed = lacking if len(members) - position <= len(lacking) else parts
            part = max(allowed, key=lambda index: (round(want[label][index], 9), round(want[-1][index], 9)))
            place[group] = part
            for touched in np.flatnonzero(counts[group]).tolist():
                want[touched][part] -= int(counts[group, touched])
                tally[touched][part] += 1
    return np.asarray(place[member])


def complete_splits(
    split: NDArray[np.object_], labels: NDArray[np.float32] | NDArray[np.int64], classes: Sequence[str],
    groups: NDArray[np.int64], seed: int, unit: str = "image",
) -> tuple[NDArray[np.object_], str]:
    """Fill in missing splits; return the split of each image and one sentence on how it was made.

    split: (N,) of train, val, test, or all "". An unlabelled image trains, unless its group went to val or test: then
    it is left out (""). UserError where a class has too few images or groups to be in every part.
    """
    present = set(split.tolist()) - {""}
    if present == {"train", "val", "test"}:
        return split, "given"
    if present and "train" not in present:
        raise UserError(f"the given splits are {', '.join(sorted(present))}, without train; name training images")
    missing = ("val", "test") if present <= {"train"} else tuple({"val", "test"} - present)
    several = labels.ndim == 2
    labelled = np.isfinite(labels).any(axis=1) if several else labels >= 0
    pool = np.flatnonzero(labelled & ((split == "train") | (split == "")))
    positives = labels[pool] == 1 if several else labels[pool, None] == np.arange(len(classes))
    splits = ("train", *missing)
    _check_room(positives, groups[pool], classes, len(splits), several, unit)
    total = sum(FRACTIONS[part] for part in splits)
    parts = divide(positives, groups[pool], [FRACTIONS[part] / total for part in splits], seed)
    whole = split.copy()
    whole[pool] = np.asarray(splits, dtype=object)[parts]
    home = dict(zip(groups[pool].tolist(), whole[pool].tolist(), strict=True))
    for row in np.flatnonzero(~labelled).tolist():
        whole[row] = "train" if home.get(int(groups[row]), "train") == "train" else ""
    empty = [part for part in splits if not (whole == part).any()]
    if empty:
        raise UserError(f"{len(pool)} labelled images in {len(np.unique(groups[pool]))} groups are too few to make "
                        f"{', '.join(empty)}; give more images, or a split column")
    shares = "/".join(f"{100 * FRACTIONS[part] / total:.0f}" for part in splits)
    how = f"by {unit}, stratified, seed {seed}"
    if not present or missing == ("val", "test"):
        return whole, f"made {shares} {how}"
    return whole, f"given, but {missing[0]} was taken out of train ({int((whole == missing[0]).sum())} images, {how})"


def _check_room(
    positives: NDArray[np.bool_], groups: NDArray[np.int64], classes: Sequence[str], parts: int, several: bool,
    unit: str,
) -> None:
    """Each class needs a group for each part; a rare finding of a multi-label set may be absent, and is noted later."""
    total = len(np.unique(groups))
    short = [] if several else [
        f"{name} has {len(np.unique(groups[positives[:, place]]))}" for place, name in enumerate(classes)
        if len(np.unique(groups[positives[:, place]])) < parts
    ]
    if short or total < parts:
        what = "; ".join(short) or f"there are {total} in all"
        raise UserError(f"too few to split by {unit}: {what}, expected at least {parts} {unit}s of each class, "
                        f"one for each of {parts} splits; give more images, merge classes, or give a split yourself")
