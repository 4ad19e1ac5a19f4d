"""ONNX Runtime behind two lines: open a model on one provider, run an array. Nothing else knows this vendor.

Owns: switching its telemetry off, the provider really used, threads. Does not own: checking inputs, decisions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.backends.machine import allowed_cores
from runtimes.backends.threads import check_threads
from runtimes.errors import MISSING, USAGE, UserError

# Official builds from 1.29 on send usage events; only the environment, set before the import, stops all of them.
# Two spellings are in circulation (the library's privacy page and its pull request 29843).
TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def load_runtime() -> Any:
    """Import onnxruntime with its telemetry off; UserError (exit 5) where it is not installed."""
    os.environ.update(TELEMETRY_OFF)
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnxruntime cannot be imported ({error}); pip install onnxruntime", MISSING) from None
    return onnxruntime


class OrtSession:
    """One model on one provider: arrays in; logits, probabilities and slice attention out, None for what a graph does not answer.

    model: the bytes of an .onnx file, or a file of our own; name: what messages call it. spin: whether threads wait for the next call
    by burning their core; None leaves that to the library. profile: start of the name of the file that its own profiler writes at
    `profiled`.
    """

    def __init__(self, model: Path | bytes, *, threads: int | None = None, device: str = "cpu", optimise: bool = True,
                 spin: bool | None = None, profile: Path | None = None, name: str = "") -> None:
        if device not in PROVIDERS:
            raise UserError(f"device {device!r} is not known; expected {' or '.join(PROVIDERS)}", USAGE)
        check_threads(threads, "threads")
        runtime = load_runtime()
        provider, available = PROVIDERS[device], runtime.get_available_providers()
        if provider not in available:
            raise UserError(f"device {device} needs {provider}, this onnxruntime has {', '.join(available)}; "
                            f"install a build that has it or use another device", MISSING)
        self.threads = threads or allowed_cores()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if spin is not None:
            options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if not optimise:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = runtime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=[provider])
        except Exception as error:  # its exception types are many and private
            what = name or ("the graph" if isinstance(model, bytes) else str(model))
            raise UserError(f"{what}: onnxruntime {runtime.__version__} cannot open it: {_first_line(error)}") from None
        used = session.get_providers()
        if used[0] != provider:
            raise UserError(f"asked for {provider}, onnxruntime uses {', '.join(used)} (available: {', '.join(available)}); "
                            "its drivers are missing or too old", MISSING)
        self.provider = provider
        self.spin = spin
        self.version = str(runtime.__version__)
        self._session: Any = session
        session.disable_fallback()  # to another provider, at the first call that fails
        session._model_bytes = None  # it keeps them for that fallback: a second copy of every weight
        self._inputs = [argument.name for argument in session.get_inputs()]
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, batch: NDArray[Any] | tuple[NDArray[Any], ...]) -> tuple[NDArray[np.float32], Any, Any]:
        """Run a batch as the graph takes it; logits and probabilities, (N, C) each, and attention (N, S) of volumes."""
        if self._session is None:
            raise UserError("the session is closed; open it again")
        feeds = dict(zip(self._inputs, batch, strict=True)) if isinstance(batch, tuple) else {self._inputs[0]: batch}
        try:
            outputs = [*self._session.run(self._outputs, feeds), None, None]
        except Exception as error:  # a graph that opens may still be one that cannot run
            raise UserError(f"onnxruntime {self.version} cannot run this graph: {_first_line(error)}; export the artifact again") from None
        return outputs[0], outputs[1], outputs[2]

    def facts(self) -> dict[str, Any]:
        """What really runs: library, version, provider, threads."""
        return {"runtime": "onnxruntime", "version": self.version, "provider": self.provider, "threads": self.threads,
                **({} if self.spin is None else {"spin": self.spin})}

    def profiled(self) -> Path:
        """End the profile that the session was opened with; the file it lies in."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the model's memory."""
        self._session = None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
