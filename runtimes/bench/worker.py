"""The process that holds one artifact while it is measured: requests and answers are lines of JSON on its two pipes.

Owns: opening, the first call, warm-up, blocks of timed calls, streams side by side, its own memory. Nothing but this artifact lives
here, so load time, memory and thread pools are its own. Does not own: whose turn it is (crew.py), what the figures mean.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.artifact.artifact import needed_files, read_artifact
from runtimes.backends.machine import Watch, core_set, pulse
from runtimes.errors import FAILED, UserError
from runtimes.files.strict_json import strict_json
from runtimes.measure.gemm import peaks
from runtimes.measure.latency import timed_block, warm_up
from runtimes.measure.profile import inside
from runtimes.session import Images, Session, open_session
from runtimes.verify import read_golden

SETTLE_S = 3.0  # the longest wait for threads that spin after a call
REWARM = 5  # calls at the head of a block that only bring caches back


class Bench:
    """One opened artifact and the inputs it is called with; open_with: what opens it, for studies of other runtimes."""

    def __init__(self, artifact: str, threads: int, device: str, spin: bool | None, files: list[str],
                 open_with: Callable[..., Session] = open_session) -> None:
        self.artifact = read_artifact(artifact)
        self.files = files
        self.before = memory("VmRSS")
        start = time.perf_counter_ns()
        self.open: Callable[[], Session] = lambda: open_with(artifact, threads=threads, device=device, check=False, spin=spin)
        self.session = self.open()
        self.load_ns = time.perf_counter_ns() - start
        golden, _, _ = read_golden(self.artifact)
        self.golden = golden if isinstance(golden, tuple) else (golden,)

    def opened(self) -> dict[str, Any]:
        """What became of opening: times, memory, what really runs, and the first call's time."""
        call = self.call("array", 1)
        start = time.perf_counter_ns()
        call()
        first = time.perf_counter_ns() - start
        names = needed_files(self.artifact.model)
        return {"load_ns": self.load_ns, "first_ns": first, "facts": self.session.facts(), "cores": core_set(),
                "model_bytes": sum((self.artifact.folder / name).stat().st_size for name in names),
                "rss_before_mib": self.before, "golden": [list(array.shape) for array in self.golden], "files": len(self.files)}

    def call(self, path: str, batch: int) -> Callable[[], object]:
        """A call without arguments: a batch of golden inputs, or files, another at every turn."""
        turns: Iterator[Images] = cycle(self.file_batches(batch) if path == "file" else self.batches(batch))
        run = self.session.run
        return lambda: run(next(turns))

    def batches(self, batch: int) -> list[Any]:
        """Eight batches of golden inputs, each beginning with another image."""
        count = len(self.golden[0])
        batches = [tuple(np.ascontiguousarray(array[(np.arange(batch) + turn) % count]) for array in self.golden)
                   for turn in range(min(8, count))]
        return [arrays if len(arrays) > 1 else arrays[0] for arrays in batches]

    def file_batches(self, batch: int) -> list[Any]:
        """Eight batches of files, each beginning with another."""
        count = len(self.files)
        return [[self.files[(place + turn) % count] for place in range(batch)] for turn in range(min(8, count))]

    def warm(self, path: str, batch: int, least: int, seconds: float) -> dict[str, Any]:
        """Warm up until steady."""
        times, quiet = warm_up(self.call(path, batch), least=least, seconds=seconds)
        self.settle()
        return {"warmup_ns": times, "steady": quiet}

    def block(self, path: str, batch: int, least: int, seconds: float) -> dict[str, Any]:
        """One block of timed calls, one request in flight, and who else used the machine meanwhile."""
        call = self.call(path, batch)
        speed = pulse()
        again, _ = timed_block(call, least=REWARM, seconds=0.0)
        watch = Watch()
        samples, elapsed = timed_block(call, least=least, seconds=seconds)
        used = watch.others()
        self.settle()
        return {"rewarm_ns": again, "samples_ns": samples, "elapsed_ns": elapsed, "used": used, "pulse_ms": speed}

    def streams(self, streams: int, batch: int, seconds: float) -> dict[str, Any]:
        """Several sessions answering side by side for some seconds: images, time, the latency of each call."""
        others = [self.open() for _ in range(streams - 1)]
        times: list[list[int]] = [[] for _ in range(streams)]
        gate = threading.Barrier(streams + 1)

        def stream(place: int, session: Session) -> None:
            turns = cycle(self.batches(batch))
            for _ in range(REWARM):
                session.run(next(turns))
            gate.wait()
            times[place], _ = timed_block(lambda: session.run(next(turns)), least=1, seconds=seconds)

        threads = [threading.Thread(target=stream, args=(place, session)) for place, session in enumerate([self.session, *others])]
        for thread in threads:
            thread.start()
        gate.wait()
        watch, start = Watch(), time.perf_counter_ns()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter_ns() - start
        used = watch.others()
        for session in others:
            session.close()
        self.settle()
        return {"samples_ns": [sample for each in times for sample in each], "elapsed_ns": elapsed, "used": used}

    def inside(self, threads: int, device: str, operators: bool) -> dict[str, Any]:
        """Multiply-adds, precision of the layers, where the time goes."""
        return inside(self.artifact, self.golden, threads=threads, device=device, operators=operators)

    def memory(self) -> dict[str, Any]:
        """The most memory this process has held, in MiB."""
        return {"peak_rss_mib": memory("VmHWM")}

    def settle(self) -> None:
        """Wait until threads that spin after a call have gone to sleep: the next turn is another process's."""
        deadline = time.perf_counter() + SETTLE_S
        while time.perf_counter() < deadline:
            before = time.process_time()
            time.sleep(0.02)
            if time.process_time() - before < 0.002:
                return


def memory(key: str) -> float | None:
    """MiB of this process by Linux's name for it; elsewhere the peak stands for all."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    # kilobytes, but bytes on a Mac
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10) if key == "VmHWM" else None


def serve(make: Callable[..., Bench] = Bench) -> None:
    """Answer requests until the pipe closes; the first one opens the artifact, by `make`."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    bench: Bench | None = None
    for line in sys.stdin:
        request = strict_json(line)
        what, answer = request.pop("do"), {}
        try:
            if what == "peaks":
                answer = peaks(**request)
            elif what == "open":
                cores = request.pop("cores")
                if cores and hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(0, cores)
                bench = make(**request)
                answer = bench.opened()
            else:
                answer = getattr(bench, what)(**request)
        except UserError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        except Exception as error:  # whatever a runtime throws has to reach the one who asked
            answer = {"error": f"{type(error).__name__}: {error}", "exit_code": FAILED}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
