"""The machine that a latency is true of: processor, memory, cores in use, clocks, power mode, GPU, libraries; and who else used it.

Owns: `machine_facts`, `same_machine`, Watch (load by others, throttling, temperature while something ran), `pulse`.
Does not own: timing (latency.py), verdicts (bench/rows.py). What a system does not tell is None or absent, never guessed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

# What a network's speed hangs on, by the names that Linux gives them on x86 and ARM.
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
         "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
LIBRARIES = ("rd-distill", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx")
CPUS = Path("/sys/devices/system/cpu")
# Two reports with one of these different are of two machines.
IDENTITY = ("cpu", "architecture", "cores", "flags", "memory_gib", "gpu", "power_mode", "jetson", "cpu_quota")


def allowed_cores() -> int:
    """How many cores this process may use: its CPU set, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_set() -> list[int]:
    """Numbers of the cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def machine_facts() -> dict[str, Any]:
    """What a timing depends on and a reader cannot see: processor, cores this process may use, versions."""
    return {"cpu": _cpu_model(), "cores_allowed": allowed_cores(), "cores": os.cpu_count(), "system": platform.system(),
            "architecture": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}


def full_facts() -> dict[str, Any]:
    """All of `machine_facts`, and instruction sets, memory, governor, clock, power mode, GPU and library versions."""
    cpuinfo = _cpuinfo()
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    facts = {**machine_facts(), "core_set": core_set(), "flags": [flag for flag in FLAGS if flag in flags], "memory_gib": _memory_gib(),
             "kernel": platform.release(), "virtual": "hypervisor" in flags, "governor": _text(CPUS / "cpu0/cpufreq/scaling_governor"),
             "clock_mhz": clock_mhz(), "clock_limit_mhz": _mhz(CPUS / "cpu0/cpufreq/scaling_max_freq"),
             "boost": _text(CPUS / "cpufreq/boost"), "cpu_quota": _quota(),
             "scheduler": _scheduler(), "nice": os.nice(0) if hasattr(os, "nice") else None, "jetson": _jetson(),
             "power_mode": _power_mode(),
             "gpu": _gpus(), "libraries": {}}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            facts["libraries"][name] = version(name)
    return facts


def same_machine(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Why two sets of facts are of two machines, or of one in two states; empty when they may stand in one column."""
    return [f"{key} {first.get(key)!r} and {second.get(key)!r}" for key in IDENTITY if first.get(key) != second.get(key)]


def clock_mhz() -> float | None:
    """The clock of the first allowed core, from cpufreq, or as cpuinfo claims it; None where nothing tells."""
    core = core_set()[0]
    governed = _mhz(CPUS / f"cpu{core}/cpufreq/scaling_cur_freq")
    claimed = _cpuinfo().get("cpu MHz")
    return governed if governed is not None else float(claimed) if claimed else None


def temperatures() -> dict[str, float]:
    """Degrees Celsius of every thermal zone that Linux or a Jetson names."""
    degrees = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = _text(zone / "temp")
        if value and value.lstrip("-").isdigit() and int(value) > 0:
            degrees[_text(zone / "type") or zone.name] = int(value) / 1000
    return degrees


def pulse() -> float:
    """Milliseconds of a fixed piece of work on one core, the fastest of five: how fast the machine itself is right now."""
    times = []
    for _ in range(5):
        start = time.perf_counter_ns()
        sum(range(60_000))
        times.append(time.perf_counter_ns() - start)
    return min(times) / 1e6


@dataclass
class Watch:
    """Who used the processors while this process worked: start, `share()` as often as needed."""

    busy: dict[str, tuple[int, int]] = field(default_factory=lambda: _busy())
    own: float = field(default_factory=time.process_time)
    throttles: int = field(default_factory=lambda: _throttles())

    def others(self) -> dict[str, float | int]:
        """CPU seconds since the start: the cores' `capacity`, `busy`, and our `own`; throttle events. Empty where Linux's /proc is not."""
        now = _busy()
        both = [name for name in now if name in self.busy]
        if not both:
            return {}
        tick = os.sysconf("SC_CLK_TCK")
        return {"capacity": sum(now[name][1] - self.busy[name][1] for name in both) / tick,
                "busy": sum(now[name][0] - self.busy[name][0] for name in both) / tick,
                "own": time.process_time() - self.own, "throttled": max(0, _throttles() - self.throttles)}


def _busy() -> dict[str, tuple[int, int]]:
    """Busy and all ticks of every core; time that a hypervisor took away counts as busy, for it is not ours."""
    cores = {}
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(number) for number in numbers[:8]]  # user nice system idle iowait irq softirq steal; guest is in user
            cores[name] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return cores


def _throttles() -> int:
    return sum(int(path.read_text()) for path in CPUS.glob("cpu*/thermal_throttle/core_throttle_count"))


def _cpuinfo() -> dict[str, str]:
    """The first core's lines of /proc/cpuinfo, with a board's own at the end."""
    entries: dict[str, str] = {}
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return entries


def _cpu_model() -> str:
    cpuinfo = _cpuinfo()
    return cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or platform.machine()  # x86; some ARM boards


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _quota() -> float | None:
    """Cores' worth of time that the control group allows; None without a limit."""
    mine = {names: path for line in (_text(Path("/proc/self/cgroup")) or "").splitlines() for _, names, path in [line.split(":", 2)]}
    for path in dict.fromkeys((mine.get("", "/"), "/")):  # version 2; inside a container its own group may be the root
        text = (_text(Path(f"/sys/fs/cgroup/{path}/cpu.max")) or "max").split()
        if text[0] != "max":
            return int(text[0]) / int(text[1])
    for path in dict.fromkeys((next((path for names, path in mine.items() if "cpu" in names.split(",")), "/"), "/")):
        quota, period = (_text(Path(f"/sys/fs/cgroup/cpu/{path}/cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota and period and int(quota) > 0:
            return int(quota) / int(period)
    return None


def _scheduler() -> str | None:
    """How Linux schedules this process: real-time priority makes a busy machine look quiet, so it has to be said."""
    names = {getattr(os, f"SCHED_{name}", None): name.lower() for name in ("OTHER", "FIFO", "RR", "BATCH", "IDLE")}
    return names.get(os.sched_getscheduler(0)) if hasattr(os, "sched_getscheduler") else None


def _jetson() -> str | None:
    model = _text(Path("/proc/device-tree/model"))
    return model.strip("\0") if model and "jetson" in model.lower() else None


def _power_mode() -> str | None:
    """Jetson's power mode, or what ACPI calls the platform's profile."""
    output = _asked("nvpmodel", "-q")
    lines = [line.partition(":")[2].strip() for line in (output or "").splitlines() if "Power Mode" in line]
    return lines[0] if lines else _text(Path("/sys/firmware/acpi/platform_profile"))


def _gpus() -> list[dict[str, str]]:
    """Name, driver, clock limit and power limit of every NVIDIA GPU that nvidia-smi knows."""
    output = _asked("nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader")
    return [dict(zip(("name", "driver", "clock_limit", "power_limit"), [part.strip() for part in line.split(",")], strict=False))
            for line in (output or "").splitlines() if line]


def gpu_state() -> list[dict[str, str]]:
    """Clock, power, temperature and reasons for throttling of every NVIDIA GPU, at this moment."""
    names = ("clocks.sm", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
    output = _asked("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader")
    return [dict(zip(names, [part.strip() for part in line.split(",")], strict=False)) for line in (output or "").splitlines() if line]


def _asked(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _mhz(path: Path) -> float | None:
    text = _text(path)
    return int(text) / 1000 if text and text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
