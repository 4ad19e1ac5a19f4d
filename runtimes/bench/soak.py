"""Ten minutes without a pause: does a device stay as fast as it began, and how warm does it get.

Owns: `soak`, minute by minute percentiles, temperatures and power mode; the verdict on drift. Does not own: calling the artifact
(worker.py), facts of the machine (machine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes.artifact.artifact import read_artifact
from runtimes.backends.machine import clock_mhz, full_facts, gpu_state, temperatures
from runtimes.bench.checks import thread_counts
from runtimes.bench.command import check_outputs
from runtimes.bench.crew import Crew
from runtimes.bench.rows import QUIET, used_by_others
from runtimes.errors import BUDGET, DONE
from runtimes.files.folder import write_json, write_manifest
from runtimes.files.outputs import check_out, claimed, new_folder
from runtimes.measure.figures import FEWEST_SAMPLES, percentiles_ms

if TYPE_CHECKING:
    from runtimes.bench.config import BenchSettings

DRIFT = 0.10  # how much higher p99 of the last minute may be than that of the first
MINUTE_S = 60.0


def soak(settings: BenchSettings, tell: Callable[[str], None] = print, minute_s: float = MINUTE_S) -> int:
    """Call one artifact for --soak-minutes, one request in flight, and write soak.json; exit code 4 on a drift with --gate."""
    check_outputs(settings.out, settings.artifacts, table=settings.save_table, others={
        "--teacher": settings.teacher, "--images": settings.images, "--config": settings.config})
    with claimed(settings.out):
        folder = settings.artifacts[0]
        artifact = read_artifact(folder)
        threads = settings.threads[-1] if settings.threads else thread_counts((), settings.cores)[-1]
        thread_counts((threads,), settings.cores)
        check_out(settings.out, overwrite=settings.overwrite)
        facts = full_facts()
        minutes: list[dict[str, Any]] = []
        with Crew() as crew:
            member = crew.open(folder.absolute().name, artifact, threads=threads, device=settings.device,
                               cores=list(settings.cores) or None)
            member.ask("warm", path="array", batch=1, least=settings.warmups, seconds=2.0)
            left = (settings.soak_minutes or 1.0) * minute_s
            while left > 0.05 * minute_s:
                block = member.ask("block", path="array", batch=1, least=1, seconds=min(left, minute_s))
                left -= minute_s
                minutes.append({**percentiles_ms(block["samples_ns"]), "samples": len(block["samples_ns"]), "temperatures": temperatures(),
                                "gpu": gpu_state(), "clock_mhz": clock_mhz(), "power_mode": full_facts()["power_mode"],
                                **used_by_others([block], len(member.cores))})
                latest, tail = minutes[-1], _tail(minutes)
                warm = ", ".join(f"{name} {value:.0f} C" for name, value in latest["temperatures"].items()) or "temperature not told"
                tell(f"minute    {len(minutes)}: p50 {latest['p50_ms']:.3g}, {tail} {latest.get(tail + '_ms', 0):.3g} ms, {warm}")
            opened = member.opened["facts"]
        outcome = verdict(minutes)
        with new_folder(settings.out, overwrite=settings.overwrite) as out:
            write_json(out / "soak.json", {"format": 1, "artifact": member.name, "model_sha256": artifact.model_sha256, "machine": facts,
                                           "facts": opened, "minutes": minutes, **outcome})
            write_manifest(out, "soak", {"model_sha256": artifact.model_sha256})
        tell(f"{'steady' if outcome['steady'] else 'DRIFTS'}: {outcome['told']}; {settings.out}/soak.json")
        return BUDGET if settings.gate and not outcome["steady"] else DONE


def verdict(minutes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the last minute's tail is within 10 % of the first's, in words; a busy or throttled minute is named."""
    name = _tail(minutes)
    if len(minutes) < 2:
        return {"percentile": name, "drift": None, "steady": True, "quiet": True, "told": "one minute has no later one to be compared with"}
    first, last = (minutes[place].get(f"{name}_ms", minutes[place]["max_ms"]) for place in (0, -1))
    drift = last / first - 1
    busy = [place + 1 for place, minute in enumerate(minutes) if (minute["others_share"] or 0) > QUIET]
    hot = [place + 1 for place, minute in enumerate(minutes) if minute["throttled"]]
    summary = (f"{name} of the last minute {100 * drift:+.0f} % against the first ({first:.3g} -> {last:.3g} ms, allowed "
               f"+{100 * DRIFT:.0f} %)")
    summary += f"; throttled in minutes {hot}" if hot else ""
    summary += f"; others used the machine in minutes {busy}, so this proves nothing" if busy else ""
    return {"percentile": name, "drift": drift, "steady": bool(drift <= DRIFT and not hot), "quiet": not busy, "told": summary}


def _tail(minutes: Sequence[dict[str, Any]]) -> str:
    """The highest percentile up to p99 that every minute has samples for."""
    least = int(np.min([minute["samples"] for minute in minutes]))
    return max((f"p{percent:g}" for percent, fewest in FEWEST_SAMPLES.items() if least >= fewest and percent <= 99),
               key=lambda percentile: float(percentile[1:]))
