"""Golden inputs: what an artifact is asked again on its device. Drawn patterns, which show no patient, or images of the data.

Owns: drawing patterns (seeded, numpy alone), the search for those whose decisions no round-off tips, choosing among images. Does not own:
their answers and files (evidence.py), replaying them (runtimes/verify.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.parity.answers import Array, Image, Inputs, accepted, evenly, graph_inputs
from runtimes.agreement import border_distance
from runtimes.artifact.artifact import Artifact
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec, resize_matrix
from runtimes.scores import calibrated, decide
from runtimes.session import Session, as_batch

SEED = 24
ROUND = 64  # patterns drawn at a time
LEAST, MOST = 256, 512  # patterns to choose from; of volumes fewer, for one costs as much as its slices
MARGIN = 4.0  # times the tolerance that a decision must be away from its border: round-off may move either of two logits by one
KINDS = 4
LAID_OVER = 0.4  # strength of a pattern laid over another
Recipe = tuple[int, ...]  # numbers of the patterns that are laid over each other
Example = tuple[tuple[Array, ...], Inputs]  # a batch of one as the graph takes it, and what PyTorch must see


@dataclass(frozen=True)
class Golden:
    """N golden inputs: the batch as the graph takes it, what PyTorch must see of each, and a few words on them."""

    batch: tuple[Array, ...]
    inputs: list[Inputs]
    about: str


def golden_images(images: Sequence[Image], artifact: Artifact, rows: Sequence[int], count: int) -> Golden:
    """Up to `count` images of these rows, evenly spaced; UserError where the device would refuse all of them."""
    examples: list[Example] = [(image.batch, image.inputs) for image in accepted(images, artifact, evenly(rows, count))]
    if not examples:
        raise UserError("none of the images chosen as golden vectors passes the input check; raise --golden-images")
    return _golden(examples, f"{len(examples)} validation images: treat the artifact as you treat the data")


def golden_patterns(session: Session, artifact: Artifact, count: int, *, max_batch: int = 8,
                    progress: Callable[[int, int], None] | None = None) -> Golden:
    """`count` drawn patterns, far from their borders, that take all decisions that the search reaches; the same at every export.

    From the second round on half of the patterns are laid over those that came nearest to a decision not reached yet.
    """
    least, most = (max(ROUND, number // max(1, artifact.image_spec.slices)) for number in (LEAST, MOST))
    recipes, answers, reached = list[Recipe](), list[Array](), -1
    for drawn in range(0, most, ROUND):
        tried: list[Recipe] = [(number,) for number in range(drawn, drawn + ROUND)]
        if recipes and (parents := _nearest(np.stack(answers), artifact)):
            tried = [(*recipes[parents[place % len(parents)]], *own) if place % 2 else own for place, own in enumerate(tried)]
        for start in range(0, ROUND, max_batch):
            for recipe, logits in _answered(session, artifact, tried[start:start + max_batch]):
                recipes.append(recipe)
                answers.append(logits)
            if progress is not None:
                progress(drawn + start, most)
        if not recipes:
            continue
        decisions, clear = _decisions(np.stack(answers), artifact), _clear(np.stack(answers), artifact)
        before, reached = reached, int(decisions[clear].any(axis=0).sum())
        if drawn + ROUND >= least and clear.sum() >= count and reached in (before, decisions.shape[1]):
            break
    if not recipes:
        raise UserError("the model answers none of the drawn patterns with finite numbers; add --golden images")
    chosen = _chosen(decisions, clear, np.stack(answers), count)
    about = (f"{len(chosen)} drawn patterns, no patient's image; {int(decisions[chosen].any(axis=0).sum())} of {decisions.shape[1]} "
             f"decisions, {int(clear[chosen].sum())} of {len(chosen)} far from the border")
    return _golden([example(recipes[place], artifact) for place in chosen], about)


def _golden(examples: Sequence[Example], about: str) -> Golden:
    return Golden(tuple(np.concatenate(parts) for parts in zip(*(batch for batch, _ in examples), strict=True)),
                  [inputs for _, inputs in examples], about)


def _answered(session: Session, artifact: Artifact, recipes: Sequence[Recipe]) -> Iterator[tuple[Recipe, Array]]:
    """The artifact's logits for patterns; those that it refuses, or answers with no finite numbers, are left out."""
    drawn = [example(recipe, artifact)[0] for recipe in recipes]
    try:
        feed = tuple(np.concatenate(parts) for parts in zip(*drawn, strict=True))
        yield from zip(recipes, session.run(feed if len(feed) > 1 else feed[0]).logits, strict=True)
    except UserError:
        if len(recipes) > 1:
            for recipe in recipes:
                yield from _answered(session, artifact, [recipe])


def _decisions(logits: Array, artifact: Artifact) -> NDArray[np.bool_]:
    """Which decisions each answer takes, (N, decisions): a class each, or for multi-label yes and no of every label."""
    decisions = decide(calibrated(logits, artifact.task, artifact.temperatures), artifact.task, artifact.thresholds)
    if decisions.ndim == 2:
        return np.concatenate([decisions, ~decisions], axis=1)
    return np.asarray(decisions[:, None] == np.arange(logits.shape[1]))


def _margin(logits: Array, artifact: Artifact) -> NDArray[np.float64]:
    """How far the nearest decision of each answer is from tipping, (N,)."""
    distance = border_distance(logits, artifact.task, artifact.temperatures, artifact.thresholds)
    return distance if distance.ndim == 1 else np.asarray(distance.min(axis=1))


def _clear(logits: Array, artifact: Artifact) -> NDArray[np.bool_]:
    return np.asarray(_margin(logits, artifact) >= MARGIN * artifact.tolerance)


def _nearest(logits: Array, artifact: Artifact) -> list[int]:
    """For each decision that no answer takes far from its border, the answer that comes nearest to it."""
    missing = ~_decisions(logits, artifact)[_clear(logits, artifact)].any(axis=0)
    if artifact.task == "multilabel":
        towards = np.concatenate([logits, -logits], axis=1)
    else:
        second, first = np.sort(logits, axis=1)[:, -2:].T
        towards = logits - np.where(logits == first[:, None], second[:, None], first[:, None])
    return [int(towards[:, place].argmax()) for place in np.flatnonzero(missing)]


def _chosen(decisions: NDArray[np.bool_], clear: NDArray[np.bool_], logits: Array, count: int) -> list[int]:
    """Answers far from borders first; among these each time one of decisions still missing, and the one least like those chosen.

    Unlike answers come from unlike activations: so chosen, they show more changed weights than answers drawn at random.
    """
    relative = logits / np.maximum(1.0, np.abs(logits).max(axis=1, keepdims=True))  # as differences are judged
    apart, missing, chosen = np.linalg.norm(relative - relative.mean(axis=0), axis=1), np.ones(decisions.shape[1], dtype=bool), list[int]()
    for _ in range(min(count, len(decisions))):
        left = np.setdiff1d(np.arange(len(decisions)), chosen)
        best = int(left[np.lexsort((-apart[left], -(decisions & missing).sum(axis=1)[left], ~clear[left]))[0]])
        distance = np.linalg.norm(relative - relative[best], axis=1)
        apart = np.minimum(apart, distance) if chosen else distance
        missing &= ~decisions[best]
        chosen.append(best)
    return chosen


def example(recipe: Recipe, artifact: Artifact) -> Example:
    """A drawn pattern at the size that the graph takes."""
    spec, (height, width) = artifact.image_spec, artifact.graph_size
    if spec.volume is None:
        raw = draw(recipe, 0, height, width, spec)
        batch = as_batch(raw, artifact)
        return (batch if isinstance(batch, tuple) else (batch,)), graph_inputs(raw, artifact)
    there = spec.slices if not spec.masked else 1 + int(np.random.default_rng([SEED, recipe[-1], 1]).integers(spec.slices))
    slices = np.zeros((spec.slices, height, width, spec.channels), spec.dtype)
    for place in range(there):
        slices[place] = draw(recipe, place, height, width, spec)
    if not spec.masked:
        return (slices[None],), (spec.normalised(spec.levels(slices)),)
    mask = (np.arange(spec.slices) < there).astype(np.uint8)
    return (slices[None], mask[None]), (spec.normalised(spec.levels(slices)), mask.astype(np.float32))


def draw(recipe: Recipe, place: int, height: int, width: int, spec: ImageSpec) -> Array:
    """Raw grey levels (height, width, channels) of patterns laid over each other; place: which slice of a volume.

    They fill the window and reach a little beyond it, where the dtype has room, so that clipping shows.
    """
    level = pattern(recipe[0], place, height, width, spec.channels)
    for number in recipe[1:]:
        level += LAID_OVER * (pattern(number, place, height, width, spec.channels) - 0.5)
    low, high = spec.window
    limits = np.iinfo(spec.dtype)
    return np.rint(np.clip(low + (high - low) * np.clip(level, -0.1, 1.1), limits.min, limits.max)).astype(spec.dtype)


def pattern(number: int, place: int, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """One pattern (height, width, channels), black 0 to white 1, never flat: a head, clouds, waves or blocks, tinted, with grain."""
    random = np.random.default_rng([SEED, number, place, 0])
    shape = (_head, _clouds, _waves, _blocks)[number % KINDS](random, height, width)
    contrast = random.uniform(0.3, 1.0)
    level = (contrast * shape + random.uniform(0.0, 1.0 - contrast))[..., None] * random.uniform(0.5, 1.0, channels)
    if channels > 1:
        level = level + random.uniform(0.0, 0.5) * np.stack([_clouds(random, height, width) - 0.5 for _ in range(channels)], axis=-1)
    return np.asarray(level + 10 ** random.uniform(-2.0, -0.7) * random.standard_normal((height, width, channels)))


def _head(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """A bright ring on black, grey inside, with a few lighter and darker spots."""
    rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")

    def inside(middle: NDArray[np.float64], radii: NDArray[np.float64], turn: float) -> NDArray[np.bool_]:
        y, x = rows - middle[0], columns - middle[1]
        along, across = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
        return np.asarray((along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1)

    middle, radii, turn = random.uniform(-0.1, 0.1, 2), random.uniform(0.6, 0.95, 2), random.uniform(-0.4, 0.4)
    level = np.where(inside(middle, radii, turn), random.uniform(0.7, 1.0), 0.0)
    brain = inside(middle, radii * random.uniform(0.8, 0.95), turn)
    level = np.where(brain, random.uniform(0.3, 0.6), level)
    for _ in range(random.integers(1, 6)):
        spot = inside(random.uniform(-0.5, 0.5, 2), random.uniform(0.05, 0.3, 2), random.uniform(0, np.pi))
        level = np.where(brain & spot, level + random.uniform(-0.3, 0.4), level)
    return level


def _clouds(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Smooth noise at several scales."""
    level, strength = np.zeros((height, width)), random.uniform(0.4, 0.8)
    for octave in range(4):
        grid = random.random((2 + 2**octave, 2 + 2**octave))
        level += strength**octave * (resize_matrix(len(grid), height) @ grid @ resize_matrix(len(grid), width).T)
    return np.asarray((level - level.min()) / max(np.ptp(level), 1e-9))


def _waves(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Stripes of three directions, from one across the image to one every three pixels."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    level = np.zeros((height, width))
    for _ in range(3):
        length, turn = np.exp(random.uniform(np.log(3), np.log(max(height, width, 4)))), random.uniform(0, np.pi)
        level += np.sin(2 * np.pi * (np.cos(turn) * rows + np.sin(turn) * columns) / length + random.uniform(0, 2 * np.pi))
    return np.asarray(0.5 + level / 6)


def _blocks(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Squares of one random side, each of its own grey."""
    side = int(np.exp(random.uniform(np.log(2), np.log(max(3, min(height, width) / 2)))))
    grid = random.random((height // side + 1, width // side + 1))
    return np.asarray(grid.repeat(side, axis=0).repeat(side, axis=1)[:height, :width])
