"""rd-bench: artifacts -> report, every cell in blocks that take turns, A B A B, each artifact in a process of its own.

Owns: the order of the work, what is refused, what is printed. Does not own: flags (config.py), the processes (crew.py,
worker.py), figures and gates (rows.py), files (report.py).
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.artifact.artifact import Artifact, read_artifact
from runtimes.backends.machine import core_set, full_facts, gpu_state, temperatures
from runtimes.bench.checks import check_alike, names_of, thread_counts
from runtimes.bench.crew import Crew, Member, input_files
from runtimes.bench.page import as_html
from runtimes.bench.report import FORMAT, line_of, write_report
from runtimes.bench.rows import Cell, int8_verdicts, offline, row_of, used_by_others
from runtimes.errors import DONE, USAGE, UserError
from runtimes.files.folder import write_manifest
from runtimes.files.outputs import check_apart, check_out, check_place, claimed, new_folder
from runtimes.measure.device_table import check_table, save_table
from runtimes.measure.figures import percentiles_ms
from runtimes.measure.roofline import bound, set_up_notice

if TYPE_CHECKING:
    from runtimes.bench.config import BenchSettings


@dataclass(frozen=True)
class Timing:
    """How long a cell is timed: calls before it at least, calls and seconds at least, in how many blocks that take turns."""

    warmups: int
    samples: int
    seconds: float
    rounds: int


def bench(settings: BenchSettings, command: str = "rd-bench", tell: Callable[[str], None] = print,
          rivals: Callable[[Crew, list[int]], list[Member]] = lambda _, __: []) -> int:
    """Measure artifacts and write the report folder; UserError for what cannot be measured, before anything is.

    rivals: further processes, one for each thread count, that a study measures in the same turns.
    """
    check_outputs(settings.out, settings.artifacts, table=settings.save_table, others={
        "--teacher": settings.teacher, "--images": settings.images, "--config": settings.config})
    with claimed(settings.out):
        folders = [*settings.artifacts, *([settings.teacher] if settings.teacher else [])]
        artifacts = dict(zip(names_of(folders), [read_artifact(folder) for folder in folders], strict=True))
        teacher = list(artifacts)[-1] if settings.teacher else None
        check_alike(artifacts, mixed=settings.mixed)
        threads = thread_counts(settings.threads, settings.cores)
        check_out(settings.out, overwrite=settings.overwrite)
        if settings.save_table is not None:
            check_table(settings.save_table, batches=settings.batch, paths=settings.paths)
        timing = Timing(settings.warmups, settings.samples, settings.seconds, settings.rounds)
        before = state()
        tell(f"machine   {before['facts']['cpu']}, {len(core_set())} of {before['facts']['cores']} cores, load {before['load_average']}")
        with tempfile.TemporaryDirectory(prefix="rd-bench-") as scratch, Crew() as crew:
            images = {name: input_files(artifact, settings.images, new_scratch(Path(scratch), place))
                      for place, (name, artifact) in enumerate(artifacts.items())} if "file" in settings.paths else {}
            members = hire(crew, artifacts, threads, files=images, device=settings.device, spin=settings.spin, cores=settings.cores,
                           pin=settings.pin)
            members += rivals(crew, threads)
            cells = plan(members, settings.paths, settings.batch)
            tell(f"plan      {len(cells)} cells of {timing.seconds:g} s and {timing.samples} calls at least, in {timing.rounds} rounds")
            measure_cells(cells, timing, tell)
            more = [streamed(member, count, min(settings.batch), timing.seconds) for member in members if member.spin is not False
                    for count in settings.streams]
            memory = {id(member): member.ask("memory") for member in members}
            rows = []
            for member, cell in cells:
                row = row_of(cell, member.opened, member.artifact, spin=member.spin, pinned=settings.pin, deadline_ms=settings.deadline_ms)
                rows.append({**row, **memory[id(member)], "teacher": member.name == teacher})
            looked = dict[str, Any]()
            if settings.roofline or settings.profile or settings.save_table is not None:
                looked = look_inside(crew, members, rows, tell, device=settings.device, roofline=settings.roofline,
                                     profile=settings.profile)
        report = {"format": FORMAT, "command": without_paths(command), "settings": settings.plain(), "machine": before["facts"],
                  "before": before, "after": state(), "rows": rows, "streams": more, "offline": offline([*rows, *more]),
                  "int8": int8_verdicts(rows, {name: student_of(artifact) for name, artifact in artifacts.items()}), **looked}
        for row in rows:
            tell(line_of(row))
        with new_folder(settings.out, overwrite=settings.overwrite) as folder:
            samples = {row_id(row): samples_of(cell) for row, (_, cell) in zip(rows, cells, strict=True)}
            write_report(folder, report, samples, as_html(report, samples))
            write_manifest(folder, "bench", {"command": report["command"], "settings": report["settings"]})
        if settings.save_table is not None:
            count = save_table(settings.save_table, report, artifacts)
            tell(f"table     {settings.save_table}: {count} rows, for rd-distill --latency-table")
        bad = sum(not row["valid"] for row in rows)
        tell(f"{settings.out}/  report.html, report.md, report.csv, report.json, samples.json"
             + (f"; {bad} of {len(rows)} rows are not valid, and say why" if bad else ""))
        return DONE


def check_outputs(out: Path, artifacts: Sequence[Path], *, table: Path | None, others: Mapping[str, Path | None]) -> None:
    """Refuse (exit 2) outputs, the report's folder and the table, that do not lie apart from what is measured or read beside it."""
    check_place(out)
    check_apart({"--out": out, "--save-table": table},
                {**{f"artifact {place + 1}": path for place, path in enumerate(artifacts)}, **others})


def new_scratch(root: Path, place: int) -> Path:
    """An empty folder of its own for each artifact."""
    folder = root / str(place)
    folder.mkdir()
    return folder


def hire(crew: Crew, artifacts: Mapping[str, Artifact], threads: Sequence[int], *, files: Mapping[str, list[Path]], device: str,
         spin: Sequence[str], cores: Sequence[int], pin: bool) -> list[Member]:
    """A process for every artifact, thread count and way of waiting; one thread does not wait for others."""
    members = []
    for name, artifact in artifacts.items():
        for count in threads:
            ways = [way == "on" for way in spin] if artifact.row.spins and count > 1 else [None]
            for way in ways:
                affinity = (list(cores) or core_set())[:count] if pin else list(cores) or None
                members.append(crew.open(name, artifact, threads=count, device=device, spin=way, cores=affinity, files=files.get(name, [])))
    return members


def plan(members: Sequence[Member], paths: Sequence[str], batches: Sequence[int]) -> list[tuple[Member, Cell]]:
    """Every cell, in the order of a round: the same batch and path of all artifacts stand together."""
    cells = [(member, Cell(member.name, path, batch, member.threads)) for path in paths for batch in batches
             for member in members if path == "array" or member.opened["files"]]
    if not cells:
        raise UserError("nothing to measure: golden inputs of these artifacts are no files; name some with --images, or leave --paths "
                        "file out", USAGE)
    return cells


def measure_cells(cells: Sequence[tuple[Member, Cell]], timing: Timing, tell: Callable[[str], None]) -> None:
    """Warm up every cell, then go round: one block of each, again and again."""
    for member, cell in cells:
        cell.warm = member.ask("warm", path=cell.path, batch=cell.batch, least=timing.warmups, seconds=max(1.0, timing.seconds))
    start = time.monotonic()
    for turn in range(timing.rounds):
        for member, cell in cells:
            cell.blocks.append(member.ask("block", path=cell.path, batch=cell.batch, least=-(-timing.samples // timing.rounds),
                                          seconds=timing.seconds / timing.rounds))
        elapsed = time.monotonic() - start
        tell(f"round     {turn + 1} of {timing.rounds}  {elapsed / (turn + 1) * (timing.rounds - turn - 1):.0f} s left")


def streamed(member: Member, count: int, batch: int, seconds: float) -> dict[str, Any]:
    """Images a second of several sessions side by side."""
    block = member.ask("streams", streams=count, batch=batch, seconds=seconds)
    shown = percentiles_ms(block["samples_ns"])
    return {"artifact": member.name, "threads": member.threads, "streams": count, "batch": batch, "path": "array",
            "images_per_s": batch * len(block["samples_ns"]) / block["elapsed_ns"] * 1e9, "mean_ms": shown["mean_ms"],
            "p50_ms": shown["p50_ms"], "calls": len(block["samples_ns"]), "in_flight": len(block["samples_ns"]) / block["elapsed_ns"]
            * shown["mean_ms"] * 1e6, **used_by_others([block], len(member.cores))}


def look_inside(crew: Crew, members: Sequence[Member], rows: Sequence[dict[str, Any]], tell: Callable[[str], None], *, device: str,
                roofline: bool, profile: bool) -> dict[str, Any]:
    """MACs, and where they are asked for roofline and slowest operators: into the rows, and for the report."""
    single = [member for member in members if member.spin is not False]
    tell("inside    operators and peaks of this machine")
    details = {id(member): member.ask("inside", threads=member.threads, device=device, operators=profile)
               for member in single}
    counts = sorted({member.threads for member in single}) if roofline else []
    limits = {count: crew.peaks(single[0].artifact, count) for count in counts}
    for row in rows:
        member = next(member for member in single if (member.name, member.threads) == (row["artifact"], row["threads"]))
        known = details[id(member)]
        row.update(macs=known.get("macs"), layers=known.get("layers") or row["layers"])
        if row["path"] == "array" and row["threads"] in limits:
            line = bound(known, limits[row["threads"]], model_bytes=row["model_bytes"], batch=row["batch"], p50_ms=row["p50_ms"])
            row["roofline"] = line
            row["notices"] += [notice] if line and (notice := set_up_notice(row["student"], line)) else []
    first = min(member.threads for member in single)
    return {"peaks": list(limits.values()), "profiles": [
        {"artifact": member.name, "threads": member.threads,
         **{key: details[id(member)].get(key) for key in ("operators", "kinds", "reason")}}
        for member in single if member.threads == first] if profile else []}


def state() -> dict[str, Any]:
    """The machine at this moment."""
    return {"facts": full_facts(), "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
            "temperatures": temperatures(), "gpu": gpu_state(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def student_of(artifact: Artifact) -> str:
    """The hash of the student behind an artifact."""
    return str(artifact.manifest["artifact"].get("weights_sha256") or artifact.manifest.get("parents", {}).get("student", ""))


def row_id(row: dict[str, Any]) -> str:
    """A name for a row that says what it measures."""
    spin = "" if row["spin"] is None else " spinning" if row["spin"] else " not spinning"
    return f"{row['artifact']}, {row['path']}, batch {row['batch']}, {row['threads']} threads{spin}"


def samples_of(cell: Cell) -> dict[str, Any]:
    """Raw nanoseconds of a cell, warm-ups apart."""
    return {"warmup_ns": cell.warm["warmup_ns"], "blocks_ns": [block["samples_ns"] for block in cell.blocks]}


def without_paths(command: str) -> str:
    """A command as it was typed, but for where its folders lie on this machine."""
    def last(part: str) -> str:
        flag, equal, value = part.rpartition("=") if part.startswith("--") else ("", "", part)
        return flag + equal + Path(value.replace("\\", "/")).name

    return shlex.join(map(last, shlex.split(command)))
