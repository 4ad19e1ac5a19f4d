"""How often nothing is taken for something: random labels, random columns and random splits through the tests that precede a training.

Owns: the drawn sets, the table. Does not own: the tests (distill/data/leaks.py, shifts.py).

    python -m benchmarks.robustness.false_alarms [--draws 150]
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np

from benchmarks.record import facts
from distill.data.leaks import guess_labels
from distill.data.shifts import find_shifts
from distill.data.signs import Sign

SIZES, CLASSES = (120, 600, 3000), (2, 4, 14)
LARGE = 10_000  # images that the time is said of


def drawn(random: np.random.Generator, count: int, each: int, classes: int, *, alike: bool) -> tuple[np.ndarray, list[Sign], np.ndarray]:
    """Patients of images (N,), signs, labels, none of which knows of another. alike: images of a patient share signs and labels."""
    people = -(-count // each)
    patients = np.repeat(np.arange(people), each)[:count]
    size = people if alike else count

    def of_images(values: Any) -> Any:
        return values[patients] if alike else values

    signs = [Sign("age", "known", of_images(random.normal(50, 15, size))),
             Sign("sex", "known", of_images(random.integers(0, 2, size)), ("M", "F")),
             Sign("site", "known", of_images(random.integers(0, 6, size)), tuple("abcdef")),
             Sign("scanner", "known", of_images(random.integers(0, 12, size)), tuple("abcdefghijkl")),
             Sign("width", "size", of_images(random.choice([512.0, 600.0, 700.0, 1024.0], size))),
             Sign("height", "size", of_images(random.normal(500, 50, size))),
             Sign("form of the file name", "file", of_images(random.integers(0, 4, size)), tuple("abcd")),
             Sign("number in the file name", "file", random.permutation(count).astype(float)),
             Sign("size of the file", "file", random.normal(1e5, 2e4, count))]
    if classes > 4:
        labels = of_images(random.random((size, classes)) < random.uniform(0.02, 0.3, classes)).astype(np.float32)
        labels[random.random(labels.shape) < 0.1] = np.nan
    else:
        labels = of_images(random.choice(classes, size, p=random.dirichlet(np.full(classes, 3.0))))
    return patients, signs, labels


def main() -> None:
    """Print the table and the time of a large set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=150)
    draws = parser.parse_args().draws
    print(f"{facts()['date']}\n| images | of a patient | classes | sets | labels given away | splits that differ |")
    print("|---|---|---|---|---|---|")
    totals = np.zeros(3, dtype=np.int64)
    for count, (each, alike), classes in itertools.product(SIZES, ((1, True), (4, True), (4, False)), CLASSES):
        own = np.zeros(3, dtype=np.int64)
        for draw in range(draws):
            random = np.random.default_rng([draw, count, each, classes, alike])
            patients, signs, labels = drawn(random, count, each, classes, alike=alike)
            split = random.choice(["train", "val", "test"], int(patients.max()) + 1, p=[0.7, 0.1, 0.2])[patients]
            clear = guess_labels(signs, labels, tuple(map(str, range(classes))), patients).get("clear", False)
            own += (1, int(clear), int(bool(find_shifts(signs, split, patients, "patient"))))
        totals += own
        print(f"| {count:,} | {each}{', alike' if alike and each > 1 else ''} | {classes} | {' | '.join(map(str, own))} |", flush=True)
    shares = (f"{count} ({100 * count / totals[0]:.1f} %)" for count in totals[1:])
    print(f"| all | | | {totals[0]:,} | {' | '.join(shares)} |")
    for classes in (2, 14):
        patients, signs, labels = drawn(np.random.default_rng(0), LARGE, 3, classes, alike=True)
        start = time.perf_counter()
        guess_labels(signs, labels, tuple(map(str, range(classes))), patients)
        find_shifts(signs, np.where(patients % 5 == 0, "test", "train"), patients, "patient")
        print(f"{LARGE:,} images, {classes} classes: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
