"""What studies of accuracy share: runs of our own commands, a row per finished run, going on where a study was stopped.

Owns: Run, a student's row, teachers that several studies share, rows on disk, figures of a folder, points. Does not own: running our
commands (benchmarks/commands.py), which runs make a study, their tables.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.commands import command, rd_distill
from benchmarks.record import BENCHMARKS, RESULTS, RUNS, SHARED, read_rows


@dataclass(frozen=True)
class Run:
    """One training: where its row belongs and the flags that make it."""

    setting: str
    method: str
    seed: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Identity of the row."""
        return f"{self.setting} / {self.method} / seed {self.seed}"

    @property
    def slug(self) -> str:
        """The name as a folder's."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)

    def row(self, work: Path) -> dict[str, Any]:
        """The start of the row: what was run, without paths of this machine."""
        flags = [flag.replace(str(SHARED), "$RD_SHARED/data").replace(str(work), "$WORK").replace(f"{BENCHMARKS}/", "")
                 for flag in self.flags]
        return {"run": self.name, "setting": self.setting, "method": self.method, "seed": self.seed, "flags": flags}


def adapted(flags: Iterable[str], seed: int, work: Path) -> tuple[Path, float]:
    """A teacher that rd-adapt makes with these flags, and its processor seconds; one that another study made is taken as it is."""
    own = [*flags, "--seed", str(seed), "--threads", "1"]
    folder = work / "teachers" / hashlib.sha256(" ".join(own).encode()).hexdigest()[:16]
    told = folder.with_suffix(".seconds")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers may want the same teacher: the second waits for the first
        if not told.is_file():
            told.write_text(f"{command('distill.adaptation.cli', [*own, '--overwrite', '--out', str(folder)], work)}\n")
    return folder, float(told.read_text())


def distilled(run: Run, work: Path, *more: str) -> dict[str, Any]:
    """Train the student of a run, read its figures, throw the folder away."""
    student = work / run.slug
    rd_distill([*run.flags, "--seed", str(run.seed), "--threads", "1", "--overwrite", "--out", str(student), *more], work)
    row = {**run.row(work), **figures(student)}
    shutil.rmtree(student)
    return row


def distilled_here(run: Run, work: Path, *more: str, first_stage: Any = None) -> dict[str, Any]:
    """The same as `distilled` in this process, without the start of a process and the files of a result: for studies of many short runs.

    first_stage: takes the place of the one that rd-distill has.
    """
    from distill.commands import story
    from distill.report.outcome import metrics_of, versions
    from distill.run import opened_run
    from distill.settings.distill import DistillSettings
    from distill.settings.training import RunOptions
    from distill.training.pretrain import pretrain
    from runtimes.commands.flags import parse, record

    os.chdir(work)
    flags = [*run.flags, "--seed", str(run.seed), "--threads", "1", "--overwrite", "--out", run.slug, *more]
    settings = parse(DistillSettings, flags, "rd-distill")
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), opened_run(settings.part(RunOptions), record(settings), "student", drawn=False,
                                                               more={}) as opened:
        assert opened is not None
        result, choices = story(settings, " ".join(flags), opened, first_stage=first_stage or pretrain)
    used = time.process_time() - start
    return {**run.row(work), **figures_of(metrics_of(result, choices), versions()), "cpu_seconds": round(used, 1),
            **{name: choices[name] for name in ("choice", "length", "pretrain", "weak_teacher") if name in choices}}


def figures(folder: Path) -> dict[str, Any]:
    """Size, versions and the figures of every split and branch of a student or teacher folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return figures_of(json.loads((folder / "metrics.json").read_text()), manifest["versions"])


def figures_of(metrics: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """The figures of the content of metrics.json."""
    splits = {split: {branch: {name: found["value"] for name, found in entry.items() if isinstance(found, dict) and "value" in found}
                      for branch, entry in content.items() if isinstance(entry, dict)} | {"cka": content.get("cka"), "n": content["n"]}
              for split, content in metrics["splits"].items()}
    return {"params": metrics["params"], "macs": metrics["macs"], "versions": versions, "splits": splits}


def carry_out(runs: Iterable[Run], rows: Path, workers: int, perform: Callable[[Run], dict[str, Any]], *, processes: bool = False) -> None:
    """Perform the runs that have no row yet, some at a time, and append the row of each as it ends.

    processes: each worker is a process of its own, and `perform` can be pickled.
    """
    if not SHARED.is_dir():
        sys.exit(f"real data not found in {SHARED}; set RD_SHARED to the folder that holds data/")
    rows.parent.mkdir(parents=True, exist_ok=True)
    finished = {row["run"] for row in read_rows(rows)}
    waiting = [run for run in runs if run.name not in finished]
    print(f"{len(finished)} rows finished, {len(waiting)} to run", flush=True)
    lock = threading.Lock()
    spawned = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=one_thread) if processes else None

    def one(run: Run) -> None:
        start = time.monotonic()
        row = {**(perform(run) if spawned is None else spawned.submit(perform, run).result()), "seconds": round(time.monotonic() - start)}
        with lock, rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        reached = row.get("splits", row.get("teacher", {}).get("splits", {}))["test"]["student"].get("auroc", float("nan"))
        print(f"{run.name}: test AUROC {reached:.3f}, {row['seconds']} s", flush=True)

    with spawned or contextlib.nullcontext(), ThreadPoolExecutor(workers, initializer=one_thread) as pool:
        list(pool.map(one, waiting))


def one_thread() -> None:
    """What a worker computes by itself runs on one thread: threads of several workers on the same cores wait for one another."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def points(found: list[float]) -> str:
    """Mean (standard deviation over seeds) in points."""
    if not found:
        return "-"
    sd = f" ({statistics.stdev(found) * 100:.1f})" if len(found) > 1 else ""
    return f"{statistics.mean(found) * 100:.1f}{sd}"


def conduct(text: str, name: str, runs: Callable[[int, Path], Iterable[Run]], perform: Callable[[Run, Path], dict[str, Any]],
            table: Callable[[list[dict[str, Any]], str], str],
            picture: Callable[[list[dict[str, Any]], str, Path], None] | None = None, *, processes: bool = False) -> None:
    """A study as a command: read its flags, carry out what has no row yet, print the table, draw the picture where it has one.

    processes: as in `carry_out`.
    """
    parser = study_parser(text)
    if picture is not None:
        parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    rows = given.rows or RESULTS / f"{name}.jsonl"
    if not given.table:
        work = given.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        carry_out(runs(given.seeds, work), rows, given.workers, partial(in_folder, perform, work), processes=processes)
    found = read_rows(rows)
    print(table(found, given.split))
    if picture is not None and given.picture:
        picture(found, given.split, given.picture)


def in_folder(perform: Callable[[Run, Path], dict[str, Any]], work: Path, run: Run) -> dict[str, Any]:
    """A run performed in the folder of its study."""
    return perform(run, work)


def study_parser(text: str) -> argparse.ArgumentParser:
    """The flags every study takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=RUNS / "accuracy")
    parser.add_argument("--rows", type=Path, help="file of finished rows; one below benchmarks/results by default")
    parser.add_argument("--table", action="store_true", help="print the table of finished rows and run nothing")
    parser.add_argument("--split", default="test", help="split of the table")
    return parser
