"""Rows of letters in the pixels of a picture: burned-in text, which may name a patient whatever the header says.

Owns: `letters_in_a_row`, what counts as a letter and a row, the limit. Does not own: which pictures are looked at (scan.py).
It reads nothing, and knows no text from a ruler: what it finds and misses is measured in benchmarks/robustness/burned_text.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_SIDE = 128  # pixels; below it letters run together
LARGEST_SIDE = 1024  # larger pictures are halved first: letters on them are larger, too
TEXT = 4  # letters in a row that count as text
STROKE = 9  # pixels; what is thinner than this is looked at
CONTRASTS = (0.2, 0.3, 0.45, 0.65)  # of the range of levels, between a stroke and what is behind it
HEIGHTS = (5, 40)
WIDEST = 4.0  # of a height: letters that touch are one piece
FILLED = (0.15, 0.9)  # share of a letter's box that is ink
PITCH = 0.75  # of a height that a letter takes
LEAST_PIECES = 3
MOST_PIECES = 6000  # of a picture: more is texture


def letters_in_a_row(raw: NDArray[Any], enough: int = TEXT) -> int:
    """The longest row of letter-like pieces of a raw image (H, W, C), bright or dark, counted up to `enough`; -1 for one too small."""
    from scipy.ndimage import grey_opening

    if min(raw.shape[:2]) < SMALLEST_SIDE:
        return -1
    plane = raw.max(axis=2).astype(np.float32)
    while min(plane.shape) > LARGEST_SIDE:
        plane = plane[:plane.shape[0] // 2 * 2, :plane.shape[1] // 2 * 2].reshape(plane.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    low, high = float(np.percentile(plane, 1)), float(plane.max())
    longest = 0
    for levels in (plane, high - plane) if high > low else ():
        strokes = levels - grey_opening(levels, size=(STROKE, STROKE))
        for share in CONTRASTS:
            longest = max(longest, _longest(strokes > share * (high - low)))
            if longest >= enough:
                return longest
    return longest


def _longest(mask: NDArray[np.bool_]) -> int:
    """Letters of the longest row of pieces of one height that stand on one line, close together."""
    from scipy.ndimage import find_objects, label

    pieces, count = label(mask, structure=np.ones((3, 3)))
    if not LEAST_PIECES <= count <= MOST_PIECES:
        return 0
    boxes = np.asarray([(part[1].start, part[1].stop, part[0].start, part[0].stop) for part in find_objects(pieces)], dtype=np.float64)
    tall, wide = boxes[:, 3] - boxes[:, 2], boxes[:, 1] - boxes[:, 0]
    filled = np.bincount(pieces.ravel())[1:] / (tall * wide)
    like = (tall >= HEIGHTS[0]) & (tall <= HEIGHTS[1]) & (wide <= WIDEST * tall) & (filled >= FILLED[0]) & (filled <= FILLED[1])
    boxes, tall, wide = boxes[like], tall[like], wide[like]
    order = np.lexsort((boxes[:, 2], boxes[:, 1], boxes[:, 0]))
    boxes, tall = boxes[order], tall[order]
    letters = np.maximum(1, np.round(wide[order] / (PITCH * tall)))
    run, parts = letters.copy(), np.ones(len(letters))
    for place in range(1, len(letters)):
        least = np.minimum(tall[place], tall[:place])
        gap, slack = boxes[place, 0] - boxes[:place, 1], np.maximum(1, 0.12 * least)
        near = (gap > -0.3 * least) & (gap < 1.1 * least)
        near &= (np.abs(boxes[place, 2] - boxes[:place, 2]) <= slack) & (np.abs(boxes[place, 3] - boxes[:place, 3]) <= slack)
        if near.any():
            before = np.flatnonzero(near)[run[:place][near].argmax()]
            run[place], parts[place] = run[before] + letters[place], parts[before] + 1
    return int(run[parts >= LEAST_PIECES].max(initial=0))
