"""TensorRT engines behind two lines: open one on this GPU, run an array.

Owns: which library an engine needs, the refusal of an engine built for another GPU or version with the command that rebuilds it,
buffers of the profile's largest batch. Does not own: the libraries (trt_library.py), CUDA (cuda.py), building (the export package).
Running needs an NVIDIA GPU, and this has not been run on one yet: `rd-verify ARTIFACT` checks it on a device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.backends.cuda import Cuda
from runtimes.backends.trt_library import (
    INSTALL,
    RTX_GPUS,
    first_error,
    installed_libraries,
    load_library,
    new_context,
    quiet_logger,
    started,
)
from runtimes.errors import MISSING, UserError

DEEP = (np.dtype(np.int16), np.dtype(np.uint16))


def library_of(facts: Mapping[str, Any], installed: Collection[str]) -> str:
    """Which library opens an engine: the one that built it, and no other; UserError (exit 5) where it is not installed."""
    name = str(facts.get("library"))
    if name not in INSTALL:
        raise UserError(f"the engine was built by {name!r}; expected {' or '.join(INSTALL)}; export the artifact again", MISSING)
    if name not in installed:
        raise UserError(f"this engine needs {name} {facts.get('version')}, which is not installed; {INSTALL[name]}", MISSING)
    return name


def rebuild_command(facts: Mapping[str, Any], capability: str, library: str) -> str:
    """The command that makes an engine for a GPU such as `sm89` with a library."""
    precision = f" --precision {facts['precision']}" if facts.get("precision") else ""
    where = f"--gpu {capability}" if library == "tensorrt_rtx" and capability in RTX_GPUS else "--on-device"
    return f"rd-export --target trt{precision} {where}"


def check_engine(facts: Mapping[str, Any], library: str, version: str, compute_capability: str) -> None:
    """Refuse (exit 5) an engine of another library, version or GPU than this device has, naming the command that rebuilds it."""
    command = rebuild_command(facts, compute_capability, library)
    again = command + (f" where {library} {version} is installed" if "--gpu" in command else " on this device")
    built = (str(facts.get("library")), str(facts.get("version")))
    if built != (library, version):
        raise UserError(f"the engine was built by {' '.join(built)}, this device has {library} {version}; "
                        f"engines fit one version only: run {again}, or install {' '.join(built)} here", MISSING)
    if compute_capability not in facts.get("gpus", ()):
        raise UserError(f"the engine was built for {', '.join(facts.get('gpus', ())) or 'no GPU'}, this device is "
                        f"{compute_capability}; run {again}", MISSING)


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine: shape without the batch."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def tensors_of(engine: Any, library: Any) -> list[Tensor]:
    """Inputs and outputs of an engine in its own order; UserError where one has another open size than its batch."""
    tensors = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(int(side) for side in engine.get_tensor_shape(name))[1:]
        if min(shape, default=1) < 1:
            raise UserError(f"the engine's {name} has shape (batch, {', '.join(map(str, shape))}); expected fixed sizes after the batch")
        tensors.append(Tensor(name, engine.get_tensor_mode(name) == library.TensorIOMode.INPUT,
                              np.dtype(library.nptype(engine.get_tensor_dtype(name))), shape))
    return tensors


def pieces(count: int, smallest: int, largest: int) -> Iterator[slice]:
    """Cut a batch into pieces that the engine's profile takes; UserError where none or a rest below the smallest is left."""
    rest = count % largest
    if count < 1 or 0 < rest < smallest:
        raise UserError(f"a batch of {count} images; this engine takes {smallest} to {largest} at a time")
    for start in range(0, count, largest):
        yield slice(start, min(start + largest, count))


class TrtSession:
    """One engine on one GPU: arrays in; logits, probabilities and slice attention out, None for what the engine does not answer.

    engine: the bytes of the file; name: what messages call it. Raises UserError (exit 5) where library, driver or GPU are missing or
    others than the engine was built for.
    """

    def __init__(self, engine: bytes, facts: Mapping[str, Any], *, library: Any = None, cuda: Cuda | None = None,
                 name: str = "the engine") -> None:
        library_name = str(facts.get("library")) if library is not None else library_of(facts, installed_libraries())
        library = library if library is not None else load_library(library_name)
        self._cuda = cuda if cuda is not None else Cuda()
        self._open = True
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        try:
            self.library, self.version = library_name, str(library.__version__)
            check_engine(facts, library_name, self.version, self._cuda.capability)
            self._logger = quiet_logger(library)
            self._runtime = started(library.Runtime, self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            self._context = new_context(library, self._engine) if self._engine is not None else None
            if self._context is None:
                raise UserError(f"{name}: {library_name} {self.version} cannot open it: {first_error(self._logger.problems)}")
            self._prepare(tensors_of(self._engine, library))
        except BaseException:
            self.close()
            raise

    def _prepare(self, tensors: list[Tensor]) -> None:
        """Allocate every buffer once, for the profile's largest batch, and bind it."""
        self._inputs = [tensor for tensor in tensors if tensor.is_input]
        self._outputs = [tensor for tensor in tensors if not tensor.is_input]
        profile = self._engine.get_tensor_profile_shape(self._inputs[0].name, 0)
        self.smallest, self.largest = int(profile[0][0]), int(profile[2][0])
        for tensor in tensors:
            self._host[tensor.name] = host = self._cuda.pinned((self.largest, *tensor.shape), tensor.dtype)
            self._device[tensor.name] = self._cuda.allocate(host.nbytes)
            if not self._context.set_tensor_address(tensor.name, self._device[tensor.name]):
                raise UserError(f"{self.library} does not take a buffer for {tensor.name}; export the artifact again")

    def run(self, batch: NDArray[Any] | tuple[NDArray[Any], ...]) -> tuple[NDArray[np.float32], Any, Any]:
        """Run a batch as the graph takes it; logits and probabilities, (N, C) each, and attention (N, S) of volumes."""
        if not self._open:
            raise UserError("the session is closed; open it again")
        feeds = batch if isinstance(batch, tuple) else (batch,)
        for tensor, feed in zip(self._inputs, feeds, strict=True):
            deep = feed.dtype in DEEP and tensor.dtype == np.float32  # TensorRT takes no 16 bits: float32 holds each of their values
            if (feed.dtype != tensor.dtype and not deep) or feed.shape[1:] != tensor.shape or len(feed) != len(feeds[0]):
                raise UserError(f"{tensor.name} is {feed.dtype} {feed.shape}; the engine takes {tensor.dtype} "
                                f"(images, {', '.join(map(str, tensor.shape))})")
        results = {tensor.name: np.empty((len(feeds[0]), *tensor.shape), tensor.dtype) for tensor in self._outputs}
        for part in pieces(len(feeds[0]), self.smallest, self.largest):
            self._run_piece([feed[part] for feed in feeds], {name: result[part] for name, result in results.items()})
        return results["logits"], results.get("probabilities"), results.get("attention")

    def _run_piece(self, feeds: list[NDArray[Any]], results: dict[str, NDArray[Any]]) -> None:
        count = len(feeds[0])
        for tensor, feed in zip(self._inputs, feeds, strict=True):
            host = self._host[tensor.name][:count]
            host[...] = feed
            self._cuda.upload(self._device[tensor.name], host)
            if not self._context.set_input_shape(tensor.name, feed.shape):
                raise UserError(f"{self.library} refuses shape {feed.shape} for {tensor.name}")
        if not self._context.execute_async_v3(self._cuda.stream):
            raise UserError(f"{self.library} {self.version} failed: {first_error(self._logger.problems[::-1])}")
        for name in results:
            self._cuda.download(self._host[name][:count], self._device[name])
        self._cuda.wait()
        for name, result in results.items():
            result[...] = self._host[name][:count]

    def facts(self) -> dict[str, Any]:
        """What really runs: library, version, GPU."""
        return {"runtime": self.library, "version": self.version, "provider": self._cuda.name, "gpu": self._cuda.capability,
                "batches": [self.smallest, self.largest], "threads": 1}

    def close(self) -> None:
        """Free the engine, then its buffers; a second call does nothing."""
        if self._open:
            self._open = False
            self._host = {}  # arrays in memory that goes away below
            self._context = self._engine = self._runtime = None
            self._cuda.close()
