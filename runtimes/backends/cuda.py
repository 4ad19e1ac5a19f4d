"""One CUDA device behind a few verbs: pinned arrays, device memory, one stream, copies. Nothing else knows cuda-python.

Owns: every call of cuda.bindings.runtime, what it means when one fails, freeing what was taken. Does not own: engines (trt.py).
Not yet run on a GPU: where this was written there was none, so its tests put plain memory behind the same calls.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import MISSING, UserError


def load_cuda() -> Any:
    """Import cuda-python's binding of the CUDA runtime; UserError (exit 5) where it is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise UserError(f"cuda-python cannot be imported ({error}); pip install cuda-python, of the major version of CUDA that "
                        "nvidia-smi shows", MISSING) from None
    return runtime


def why_no_device(error: str, devices: int, driver: int, runtime: int) -> str | None:
    """Why there is no GPU to use, or None if there is one; driver and runtime are CUDA versions such as 12040, driver 0 if absent."""
    if driver == 0:
        return "no NVIDIA driver is installed (or not visible in this container); install it, nvidia-smi has to list the GPU"
    if driver // 1000 < runtime // 1000:
        return (f"the NVIDIA driver is for CUDA {_version(driver)}, cuda-python for {_version(runtime)}; "
                f"update the driver or pip install 'cuda-python=={driver // 1000}.*'")
    if devices == 0 or error != "cudaSuccess":
        return f"CUDA finds no GPU ({error}); nvidia-smi has to list it"
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class Cuda:
    """The first CUDA device of this process: memory, one stream, copies on it.

    Raises UserError (exit 5) where there is no device, and (exit 1) where a call fails later.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._runtime: Any = runtime if runtime is not None else load_cuda()
        error, devices = self._runtime.cudaGetDeviceCount()
        driver, version = self._runtime.cudaDriverGetVersion()[1], self._runtime.cudaRuntimeGetVersion()[1]
        reason = why_no_device(_name(error), devices or 0, driver or 0, version or 0)
        if reason is not None:
            raise UserError(f"TensorRT needs an NVIDIA GPU: {reason}", MISSING)
        self._call("cudaSetDevice", 0)
        kind = self._runtime.cudaDeviceAttr
        self.capability = (f"sm{self._call('cudaDeviceGetAttribute', kind.cudaDevAttrComputeCapabilityMajor, 0)}"
                           f"{self._call('cudaDeviceGetAttribute', kind.cudaDevAttrComputeCapabilityMinor, 0)}")
        name = self._call("cudaGetDeviceProperties", 0).name
        self.name = name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name)
        self._stream: Any = self._call("cudaStreamCreate")
        self._host: list[int] = []
        self._device: list[int] = []

    @property
    def stream(self) -> int:
        """Handle of the one stream that all copies and engines use."""
        return int(self._stream)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in page-locked host memory, so that copies need no detour; valid until `close`."""
        size = prod(shape) * dtype.itemsize
        address = int(self._call("cudaMallocHost", size))
        self._host.append(address)
        array: NDArray[Any] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return array.view(dtype).reshape(shape)

    def allocate(self, size: int) -> int:
        """Address of that many bytes of device memory; valid until `close`."""
        address = int(self._call("cudaMalloc", size))
        self._device.append(address)
        return address

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of a contiguous pinned array to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the device into a contiguous pinned array; it is there after `wait`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait until everything queued on the stream is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free all memory and the stream; a second call does nothing."""
        if self._stream is None:
            return
        stream, self._stream = self._stream, None
        for address in self._device:
            self._runtime.cudaFree(address)
        for address in self._host:
            self._runtime.cudaFreeHost(address)
        self._runtime.cudaStreamDestroy(stream)
        self._device, self._host = [], []

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, function)(*arguments)
        if int(error) != 0:
            raise UserError(f"CUDA: {function} failed with {_name(error)}; another program may hold the GPU's memory, "
                            "or an earlier call failed: close the session and open it again")
        return values[0] if values else None


def _name(error: Any) -> str:
    return str(getattr(error, "name", error))
