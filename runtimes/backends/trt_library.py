"""TensorRT and TensorRT-RTX themselves: importing one, the versions and GPUs it is for, its logger kept silent, its first word of error.

Owns: every import of either library, so that nothing else asks which one it has. Does not own: engines (trt.py), CUDA (cuda.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from runtimes.errors import MISSING, UserError

INSTALL = {"tensorrt_rtx": "pip install 'rd-distill[tensorrt]'",
           "tensorrt": "on Jetson install JetPack's TensorRT, elsewhere pip install 'rd-distill[tensorrt-device]'"}
MAJORS = {"tensorrt_rtx": (1,), "tensorrt": (10, 11)}  # same Python API in all of them
RTX_GPUS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")  # what TensorRT-RTX 1.7 builds for ahead of time
LAYERS = "Layers:"  # how a verbose builder opens its list of the finished engine's layers


def load_library(name: str) -> Any:
    """Import tensorrt_rtx or tensorrt; UserError (exit 5) where it is missing or of another major version than the code is for."""
    try:
        if name == "tensorrt_rtx":
            import tensorrt_rtx as library
        else:
            import tensorrt as library
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}); {INSTALL[name]}", MISSING) from None
    version = str(library.__version__)
    if int(version.split(".")[0]) not in MAJORS[name]:
        raise UserError(f"{name} {version} is installed; expected {' or '.join(f'{major}.x' for major in MAJORS[name])}", MISSING)
    return library


def installed_libraries() -> list[str]:
    """Those of the two libraries that are installed, without importing them."""
    return [name for name in INSTALL if find_spec(name) is not None]


def quiet_logger(library: Any) -> Any:
    """A logger for TensorRT that prints nothing: `.problems` holds warnings and errors, `.layers` the list of a built engine's layers."""
    class Quiet(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.problems: list[tuple[bool, str]] = []  # (is an error, text)
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR, library.ILogger.WARNING):
                self.problems.append((severity != library.ILogger.WARNING, message))
            elif message.startswith(LAYERS):
                self.layers = message

    return Quiet()


def started(kind: Any, logger: Any) -> Any:
    """A builder or runtime of a library; UserError (exit 5) where it cannot start, which its binding says as a TypeError."""
    try:
        return kind(logger)
    except TypeError:
        raise UserError(f"TensorRT cannot start: {first_error(logger.problems)}", MISSING) from None


def first_error(problems: Iterable[tuple[bool, str]]) -> str:
    """The first line of the first error that a library logged, without the places in its own sources."""
    first = next((text for is_error, text in problems if is_error), "it gave no reason").strip().splitlines()[0]
    return re.sub(r"\s+In \w+ at \S+:\d+\b", "", re.sub(r"\[\w+\.cpp:\d+: (\w+)\]", r"[\1]", first))


def new_context(library: Any, engine: Any) -> Any:
    """What runs an engine, or None; TensorRT-RTX compiles the kernels of a shape before it answers, never while it does.

    By default it answers with general kernels and swaps in others when they are ready: the same image, other logits in mid-run.
    """
    strategies = getattr(library, "DynamicShapesKernelSpecializationStrategy", None)  # TensorRT-RTX only
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(runtime_config=config)
