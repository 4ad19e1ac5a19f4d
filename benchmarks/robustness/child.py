"""A process that meets damaged files in the place of this one: it answers in time, or is killed; its memory is bounded.

Owns: Child, and `serve`, the other side of it. Does not own: what is damaged, and what is done with it (fuzz_onnx.py, dicom.py).
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from runtimes.bench.worker import memory
from runtimes.errors import UserError

Look = Callable[[], tuple[str, str]]  # how it ended, and what was said


class Child:
    """A module run with `--serve PATH` that answers within `longest_s`, or is killed."""

    def __init__(self, module: str, path: Path, longest_s: float, *before: str) -> None:
        self.longest_s = longest_s
        self.process = subprocess.Popen([sys.executable, "-m", module, *before, "--serve", str(path.resolve())], cwd=ROOT,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self.answer(60.0).get("end") != "ready":
            raise RuntimeError(f"the child of {module} did not start, or not with an undamaged file")

    def ask(self) -> dict[str, Any]:
        """Have it look at the path as it is now."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"next\n")
        self.process.stdin.flush()
        return self.answer(self.longest_s)

    def answer(self, seconds: float) -> dict[str, Any]:
        """Its next line; or how it died, or that it was too slow and was killed."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        if line:
            return dict(json.loads(line))
        self.process.kill()
        code = self.process.wait()
        return {"end": "crash", "told": signal.Signals(-code).name if code < 0 else f"exit {code}"} if ready else {"end": "hang"}

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def serve(prepare: Callable[[], Look], guard_bytes: int, hidden: Path, name: str) -> None:
    """The child: prepare, then for each line look once; answer with a line of JSON in which `hidden` is called `name`."""
    resource.setrlimit(resource.RLIMIT_AS, (guard_bytes, guard_bytes))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to where answers go
    look = prepare()
    print(json.dumps({"end": "ready"}), file=answers, flush=True)
    for _ in sys.stdin:
        try:
            end, told = look()
        except UserError as error:
            end, told = "refused", str(error)
        except BaseException as error:
            end, told = "another error", f"{type(error).__name__}: {error}"
        peak = memory("VmHWM")  # what getrusage says carries the peak of the process that started this one
        print(json.dumps({"end": end, "told": told.replace(str(hidden), name)[:300], "peak_mb": peak}), file=answers, flush=True)
