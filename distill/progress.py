"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere.

Owns: `track` and `say`. Does not own: what is being counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtimes.text import one_line

PLAIN_SECONDS = 10.0


def say(label: str, text: str) -> None:
    """One aligned line of the log; no name in it moves the cursor or breaks the line."""
    print(f"{label:<9} {one_line(text)}", flush=True)


@contextmanager
def track(label: str) -> Iterator[Callable[..., None]]:
    """Yield update(done, total, text=""): draws a bar on a terminal, prints a line every ten seconds elsewhere."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn(f"{label:<9}"), TextColumn("{task.fields[text]}", markup=False), BarColumn(),
                   TextColumn("{task.percentage:>3.0f} %"),
                   TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns) as bars:
            task = bars.add_task(label, total=None, text="")

            def draw(done: int, total: int, text: str = "") -> None:
                bars.update(task, completed=done, total=total, text=one_line(text))

            yield draw
        return
    start = last = time.monotonic()

    def line(done: int, total: int, text: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS and done < total:
            last = now
            left = (now - start) * (total - done) / max(done, 1)
            say(label, f"{done:,} of {total:,}  {text}  {left:.0f} s left".replace("    ", "  "))

    yield line
