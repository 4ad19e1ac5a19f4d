"""The same picture twice: exact copies by their pixels, near copies by a 240-bit picture hash, and who must stay on one side of a split.

Owns: what a leak, a copy and a contradiction is, the search for near copies, which clusters of them a split keeps together. Does not
own: opening images (scan.py), dividing groups (splits.py), what becomes of bad images (data.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.scan import BadImage, ImageRecord

NEAR_BITS = 8  # of 240: a JPEG or a resized copy of the same picture differs by less, two pictures of a kind by more
BITS = 240
BANDS = NEAR_BITS + 1  # two hashes within 8 bits are equal in one band of nine at least
LEAST_DETAIL = 16  # bits that say something of two pictures; below it they are nearly flat, and look alike by that alone
LONG_RUN = 64  # hashes of one band that are compared at once; more are searched one by one
MOST_OF_A_CLASS = 1 / 3  # a cluster of near copies that holds more of a class leaves too little for the other splits
KEPT_FIRST = {"test": 0, "val": 1, "train": 2}  # of two copies the one in the better guarded split stays


def find_copies(
    paths: Sequence[str], digests: Sequence[str], labels: NDArray[Any], split: NDArray[Any], classes: Sequence[str],
) -> list[BadImage]:
    """Find images of one picture: a leak between splits, a plain copy ("duplicate"), or two labels for one picture.

    Empty digests are left out. labels: int (N,), -1 unlabelled, or float (N, C) with nan; split: (N,), "" if not known.
    Of copies that agree all but one are named, of copies with two labels all: nobody knows which label is right.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows_of[digest].append(row)
    several = labels.ndim == 2
    problems: list[BadImage] = []
    for rows in rows_of.values():
        if len(rows) < 2:
            continue
        known = [row for row in rows if (np.isfinite(labels[row]).any() if several else labels[row] >= 0)]
        missing = np.isnan(labels).sum(axis=1) if several else np.zeros(len(labels))
        rows = sorted(rows, key=lambda row: (row not in known, KEPT_FIRST.get(str(split[row]), 3), missing[row], row))
        if len(known) > 1 and _disagree(labels[known]):
            for row in known:
                other = next((candidate for candidate in known if _disagree(labels[[row, candidate]])), known[0])
                difference = "" if several else f", there {classes[int(labels[other])]!r}, here {classes[int(labels[row])]!r}"
                problems.append(BadImage(paths[row], "contradicting labels", f"same picture as {paths[other]}{difference}", row))
            rows = [known[0], *(row for row in rows if row not in known)]
        for row in rows[1:]:
            here, there = str(split[row]), str(split[rows[0]])
            leak = here != there and bool(here and there)
            detail = f"same picture as {paths[rows[0]]}" + (f", which is in {there}, this in {here}" if leak else "")
            problems.append(BadImage(paths[row], "leak" if leak else "duplicate", detail, row))
    return sorted(problems, key=lambda problem: problem.row)


def _disagree(labels: NDArray[Any]) -> bool:
    if labels.ndim == 1:
        return bool((labels != labels[0]).any())
    return bool(((labels == 0).any(axis=0) & (labels == 1).any(axis=0)).any())


def near(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pairs of picture hashes, (4, N) against (4, N) or one, (4, 1), are nearly the same picture.

    They differ by 8 bits at most, and by an eighth at most of the bits that say something: where both are dark beside a small
    object, most bits agree whatever the object is.
    """
    count = left.shape[1]
    close = np.flatnonzero(np.bitwise_count(left[0] ^ right[0]) <= NEAR_BITS)  # most pairs differ enough in the first quarter
    left, right = left.take(close, axis=1), right if right.shape[1] == 1 else right.take(close, axis=1)
    bits = np.bitwise_count(left[0] ^ right[0])  # of at most 240: a byte holds the sum
    for word in range(1, len(left)):
        bits += np.bitwise_count(left[word] ^ right[word])
    few = np.flatnonzero(bits <= NEAR_BITS)
    left, right, bits = left.take(few, axis=1), right if right.shape[1] == 1 else right.take(few, axis=1), bits[few].astype(np.int64)
    either, both = (np.bitwise_count(part).sum(axis=0, dtype=np.int64) for part in (left | right, left & right))
    detail = np.minimum(both, BITS - either)
    hits = np.zeros(count, dtype=bool)
    hits[close[few]] = (NEAR_BITS * bits <= detail) & (detail >= LEAST_DETAIL)
    return hits


def find_near_copies(records: Sequence[ImageRecord | None]) -> list[tuple[int, int]]:
    """Pairs of rows with nearly the same picture: not every pair, but enough to link all rows that near pairs connect.

    Each row is linked to the first of its very hash. Different hashes within 8 bits agree in one band of nine, so only those that
    share a band are compared; within a long run of one band a row that is linked already is not compared again.
    """
    first: dict[bytes, int] = {}
    links: list[tuple[int, int]] = []
    for row, record in enumerate(records):
        if record is None or not record.fingerprint:
            continue
        origin = first.setdefault(record.fingerprint, row)
        if origin != row:
            links.append((origin, row))
    if not first:
        return []
    rows = np.fromiter(first.values(), dtype=np.int64)
    bits = np.unpackbits(np.frombuffer(b"".join(first), dtype=np.uint8).reshape(len(first), -1), axis=1)
    # The bits that tell most come first, so that a quarter of them tells most pairs apart; black borders, which never change, come last.
    bits = bits[:, np.argsort(np.abs(bits.mean(axis=0, dtype=np.float64) - 0.5), kind="stable")]
    packed = np.ascontiguousarray(np.packbits(np.pad(bits, ((0, 0), (0, 16))), axis=1))
    words = np.ascontiguousarray(packed.view(np.uint64).T)
    detailed = near(words, words)  # the flat ones are near to nothing, not even to their like
    flat = set(rows[~detailed].tolist())
    links = [link for link in links if link[0] not in flat]
    words, rows, bits = words[:, detailed], rows[detailed], bits[detailed]
    runs: list[NDArray[np.int64]] = []
    for number in range(BANDS):
        band = bits[:, number::BANDS].astype(np.int64)  # each has its share of the telling bits
        key = band @ (1 << np.arange(band.shape[1], dtype=np.int64))
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=key[order[:1]] - 1))
        lengths = np.diff(np.append(starts, len(order)))
        left = np.repeat(starts + lengths, lengths) - np.arange(len(order))  # how many of its run follow each row, and itself
        left[np.repeat(lengths > LONG_RUN, lengths)] = 0
        for step in range(1, int(left.max(initial=1))):
            a = np.flatnonzero(left > step)
            hits = a[near(words[:, order[a]], words[:, order[a + step]])]
            links += zip(rows[order[hits]].tolist(), rows[order[hits + step]].tolist(), strict=True)
        runs += [order[start:start + length] for start, length in zip(starts, lengths, strict=True) if length > LONG_RUN]
    if sum(len(run) ** 2 for run in runs) > len(rows) ** 2:
        runs = [np.arange(len(rows))]  # all with all, once, is less work than all these
    for run in runs:
        links += [(int(rows[run[a]]), int(rows[run[b]])) for a, b in _linked(words[:, run])]
    return sorted({(min(link), max(link)) for link in links})


def _linked(words: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Links that connect what near pairs connect, among hashes (4, N): from each row to those that nothing has reached yet."""
    links: list[tuple[int, int]] = []
    rows, waiting, others = np.arange(words.shape[1]), np.ones(words.shape[1], dtype=bool), words
    frontier: list[int] = []
    left = len(rows)
    while left:
        if frontier:
            row = frontier.pop()
            hits = np.flatnonzero(near(others, words[:, row, None]) & waiting)
            links += [(row, reached) for reached in rows[hits].tolist()]
        else:
            hits = np.flatnonzero(waiting)[:1]
        waiting[hits] = False
        frontier += rows[hits].tolist()
        left -= len(hits)
        if 2 * left < len(rows):  # drop what was reached, now and then: to copy all at every row would cost more than to compare
            rows, others, waiting = rows[waiting], np.ascontiguousarray(others[:, waiting]), waiting[waiting]
    return links


def join_near(
    groups: NDArray[np.int64], links: Sequence[tuple[int, int]], positives: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Groups (N,) joined where near copies link them, the rows that were joined, and those in clusters too large to be kept together.

    positives: (N, C), the images of each class; a cluster with more than a third of one would leave too few for the other splits,
    and stays divided as it was. groups: as of `merge_groups`, each named by its first row.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(groups)
    a, b = np.asarray(links, dtype=np.int64).reshape(-1, 2).T
    edges = np.concatenate([[np.arange(count), groups], [groups[a], groups[b]]], axis=1)
    total, cluster = connected_components(coo_matrix((np.ones(edges.shape[1], dtype=bool), edges), shape=(count, count)), directed=False)
    counts = np.zeros((total, positives.shape[1]), dtype=np.int64)
    np.add.at(counts, cluster, positives.astype(np.int64))
    large = (counts > MOST_OF_A_CLASS * positives.sum(axis=0)).any(axis=1)
    several = np.bincount(cluster[np.unique(groups)], minlength=total) > 1
    home = np.full(total, count, dtype=np.int64)
    np.minimum.at(home, cluster, groups)
    joined = np.where((large | ~several)[cluster], groups, home[cluster])
    if (_groups_of_each(joined, positives) < np.minimum(_groups_of_each(groups, positives), len(KEPT_FIRST))).any():
        joined, large = groups, several
    return joined, np.flatnonzero((several & ~large)[cluster]), np.flatnonzero((several & large)[cluster])


def _groups_of_each(groups: NDArray[np.int64], positives: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.asarray([len(np.unique(groups[column])) for column in positives.T], dtype=np.int64)
