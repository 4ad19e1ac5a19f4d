"""What a user would otherwise run, as processes that rd-bench's crew can ask: PyTorch eager and compiled, a bare loop over a raw runtime.

Owns: TorchSession, the raw call of a runtime and its loop. Does not own: turns and figures (runtimes/bench/command.py), the network as it
is deployed (export/graph/network.py). Run by the studies of command.py as `python -m benchmarks.latency.rivals eager|compile STUDENT` or
`python -m benchmarks.latency.rivals bare`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.artifact.artifact import read_artifact
from runtimes.backends.machine import Watch, pulse
from runtimes.bench.worker import REWARM, Bench, serve
from runtimes.session import as_batch, open_session


class TorchSession:
    """A student in PyTorch with the artifact's own preprocessing and calibration around it: the same arrays in, the same scores out."""

    def __init__(self, student: Path, artifact: str, threads: int, compiled: bool) -> None:
        import torch

        from distill.networks.checkpoint import load_checkpoint
        from distill.networks.deployed import reparameterised
        from export.graph.network import DeployedGraph

        torch.set_num_threads(threads)
        self.torch, self.artifact, self.threads, self.compiled = torch, read_artifact(artifact), threads, compiled
        checkpoint = load_checkpoint(student, "student", "teacher")
        network = DeployedGraph(reparameterised(checkpoint.model), checkpoint.image_spec, checkpoint.calibration, self.artifact.graph_size)
        self.network: Any = torch.compile(network.eval()) if compiled else network.eval()

    def run(self, images: Any) -> Any:
        """Logits and probabilities of a batch."""
        with self.torch.inference_mode():
            logits, probabilities = self.network(self.torch.from_numpy(np.asarray(as_batch(images, self.artifact))))
        return logits.numpy(), probabilities.numpy()

    def facts(self) -> dict[str, Any]:
        """What runs."""
        return {"runtime": "torch.compile" if self.compiled else "torch eager", "version": self.torch.__version__, "provider": "cpu",
                "threads": self.threads, "layers": {}}

    def close(self) -> None:
        """Nothing to free."""


def raw_call(session: Any, image: Any) -> Any:
    """The runtime's own call on what the session would hand to it."""
    batch, runtime = as_batch(image, session.artifact), session.runtime
    if session.artifact.target == "openvino":
        runtime.run(batch)  # which binds it
        return lambda: runtime._request.infer()
    return lambda: runtime._session.run(runtime._outputs, {runtime._inputs[0]: batch})


class BareLoop:
    """The raw call of a runtime in a loop of its own: no check, no decision, none of rd-bench's timing."""

    def __init__(self, **request: Any) -> None:
        self.bench = Bench(**request)
        self.call = raw_call(self.bench.session, self.bench.batches(1)[0])
        self.opened, self.settle, self.memory = self.bench.opened, self.bench.settle, self.bench.memory

    def warm(self, path: str, batch: int, least: int, seconds: float) -> dict[str, Any]:
        """A second of calls."""
        start = time.perf_counter()
        while time.perf_counter() - start < 1:
            self.call()
        self.settle()
        return {"warmup_ns": [0] * least, "steady": True}

    def block(self, path: str, batch: int, least: int, seconds: float) -> dict[str, Any]:
        """One block of timed calls."""
        speed = pulse()
        samples: list[int] = []
        for _ in range(REWARM):
            self.call()
        watch, start = Watch(), time.perf_counter_ns()
        while len(samples) < least or time.perf_counter_ns() - start < seconds * 1e9:
            before = time.perf_counter_ns()
            self.call()
            samples.append(time.perf_counter_ns() - before)
        elapsed, used = time.perf_counter_ns() - start, watch.others()
        self.settle()
        return {"rewarm_ns": [], "samples_ns": samples, "elapsed_ns": elapsed, "used": used, "pulse_ms": speed}


if __name__ == "__main__":
    kind, *more = sys.argv[1:]
    if kind == "bare":
        serve(BareLoop)  # type: ignore[arg-type]
    else:
        def opened(artifact: str, *, threads: int, **_: Any) -> Any:
            """A student in PyTorch in the artifact's place."""
            return TorchSession(Path(more[0]), artifact, threads, kind == "compile")

        serve(lambda **request: Bench(**request, open_with=opened if kind in ("eager", "compile") else open_session))
