"""Wrong inputs typed at the real commands: every one must end with its exit code, a message that helps, and no traceback.

Owns: running the cases in folders of their own, judging, the table. Does not own: the cases (cases/). Each command is a process of
its own, forked from one that has imported PyTorch already: its own imports would take longer than all that most of them do.

    python -m benchmarks.robustness.inputs
    python -m benchmarks.robustness.inputs --only "bank" --keep work
    python -m benchmarks.robustness.inputs --only "DICOM:" --out benchmarks/results/bad-dicom.md
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS, facts
from benchmarks.robustness.cases.case import TAUGHT, Case
from benchmarks.robustness.cases.catalogue import CASES

ENTRIES = {"rd-distill": ("distill.cli", "main"), "rd-adapt": ("distill.adaptation.cli", "main"), "rd-export": ("export.cli", "main"),
           "rd-bench": ("runtimes.bench.cli", "main"), "rd-verify": ("runtimes.cli", "verify_main"),
           "rd-info": ("runtimes.info_cli", "main")}
# Imported once, and none of ours, which each process imports as a command does.
HEAVY = ("torch", "timm", "torchvision", "sklearn.linear_model", "scipy.optimize", "onnx", "matplotlib.pyplot", "jinja2", "tyro",
         "rich.progress", "yaml", "PIL.Image", "safetensors.torch")
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200", "MPLBACKEND": "agg"}  # nothing fetched, long lines whole
LIMIT_S = 300.0


@dataclass(frozen=True)
class Answer:
    """What a command said and what is wrong with it ("" when nothing is)."""

    case: Case
    code: int
    message: str
    fault: str


def typed(line: str, folder: Path, hidden: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, as a process of its own; hidden: packages that it shall not find."""
    words = shlex.split(line)
    sys.stdout.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.setsid()
            _hide(hidden)
            os._exit(_command(words, folder, out.fileno(), err.fileno()))
        deadline, status = time.monotonic() + LIMIT_S, None
        while status is None:
            finished, code = os.waitpid(child, os.WNOHANG)
            if finished:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
            else:
                time.sleep(0.01)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
    return subprocess.CompletedProcess(words, status, *texts)


def _hide(packages: Sequence[str]) -> None:
    """Have packages as good as not installed, for pydicom, too, which has asked for its decoders when the files were made."""
    for name in [name for name in sys.modules if packages and name.partition(".")[0] in ("pydicom", "pylibjpeg", *packages)]:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]  # None: an import of it fails


def _command(words: list[str], folder: Path, out: int, err: int) -> int:
    """Be the command: its streams, its folder, its arguments; the exit code it would end with."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
                              for number in (1, 2))
    code: object = 0
    try:
        os.chdir(folder)
        sys.argv = words
        module, name = ENTRIES[words[0]]
        getattr(importlib.import_module(module), name)()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def judge(case: Case, folder: Path, finished: Path) -> Answer:
    """Make a case's files, type its command, judge code, message and what was left behind."""
    folder.mkdir()
    case.make(folder, finished)
    before = set(folder.glob(".*tmp*"))
    done = typed(case.typed, folder, case.hidden)
    told = done.stderr + done.stdout if done.returncode == 0 else done.stderr or done.stdout
    message = first_line(done.stderr or done.stdout)
    faults = []
    if done.returncode != case.code:
        faults.append(f"exit code {done.returncode}, expected {case.code}")
    if "Traceback" in done.stderr + done.stdout:
        faults.append("traceback: " + told.strip().splitlines()[-1][:300])
    if case.word.lower() not in told.lower():
        faults.append(f"the message does not say {case.word!r}")
    if told_secrets := [word for word in case.secrets if word in done.stderr + done.stdout]:
        faults.append(f"says {', '.join(told_secrets)}, which is in the file")
    if (folder / "executed").exists():
        faults.append("code from a file was executed")
    if set(folder.glob(".*tmp*")) - before:
        faults.append("left a temporary folder")
    if wrong := case.check(folder):
        faults.append(wrong)
    return Answer(case, done.returncode, message, "; ".join(faults))


def first_line(text: str) -> str:
    """The first line that says something, and the one after it where it only announces; frames around messages are taken off."""
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    lines = [line for line in lines if line and line != "Parsing error"]
    return " / ".join(lines[:2 if len(lines) > 1 and (not lines[0].startswith("error:") or lines[1].startswith(("data", "line"))) else 1])


def judged(cases: Sequence[Case], work: Path, finished: Path, workers: int) -> list[Answer]:
    """The answers to all cases, in order, each worker a process that forks a process a command."""
    children = []
    for number in range(workers):
        child = os.fork()
        if child == 0:
            with (work / f"answers-{number}.jsonl").open("w", encoding="utf-8") as file:
                for place in range(number, len(cases), workers):
                    try:
                        answer = judge(cases[place], work / f"{place:03d}", finished)
                    except Exception as error:
                        answer = Answer(cases[place], -1, "", f"could not be run: {type(error).__name__}: {error}")
                    file.write(json.dumps([place, answer.code, answer.message, answer.fault]) + "\n")
                    file.flush()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    rows = [json.loads(line) for number in range(workers) for line in (work / f"answers-{number}.jsonl").read_text().splitlines()]
    return [Answer(cases[place], code, message, fault) for place, code, message, fault in sorted(rows)]


def finish(folder: Path) -> None:
    """A small student with its bank, and its artifact: what cases copy and spoil."""
    for line in (f"{TAUGHT} --bank bank", "rd-export --student-dir student --out artifact"):
        done = typed(line, folder)
        if done.returncode:
            sys.exit(f"{line}\n{done.stderr}")


def table(answers: list[Answer]) -> str:
    """The Markdown table."""
    rows = "\n".join(f"| {one.case.name} | {one.code} | {shown(one.message)} |" + (f" **{one.fault}**" if one.fault else "")
                     for one in answers)
    return f"| input | exit code | message (first line) |\n|---|---|---|\n{rows}"


def shown(message: str, most: int = 220) -> str:
    """A message in one cell of a table."""
    plain = message.replace("|", "\\|")
    return plain if len(plain) <= most else plain[:most] + " ..."


def main() -> None:
    """Run all cases, print and store the table, exit 1 when any answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose name holds this word; the table is then stored only with --out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in and leave")
    parser.add_argument("--out", type=Path, help=f"of the table; of all cases {RESULTS.name}/bad-inputs.md where it is not given")
    given = parser.parse_args()
    cases = [case for case in CASES if not given.only or given.only in case.name]
    with tempfile.TemporaryDirectory() as name:
        work = (given.keep or Path(name)).resolve()
        finished = work / "finished"
        finished.mkdir(parents=True)
        os.environ.update(ENVIRONMENT)
        for module in HEAVY:
            importlib.import_module(module)
        finish(finished)
        answers = judged(cases, work, finished, given.workers)
        found = table(answers).replace(str(work), "...")
    wrong = [one for one in answers if one.fault]
    print(found)
    print(f"\n{len(answers)} wrong inputs, {len(wrong)} answered badly")
    for one in wrong:
        print(f"  {one.case.name}: {one.fault}\n    {one.case.typed}\n    {one.message[:300]}")
    out: Path | None = given.out or (None if given.only else RESULTS / "bad-inputs.md")
    if out is not None:
        about, only = facts(), f' --only "{given.only}"' if given.only else ""
        out.parent.mkdir(parents=True, exist_ok=True)
        head = (f"# Wrong inputs and what the commands answer\n\n{len(answers)} inputs, {len(wrong)} answered badly. "
                f"Made by `python -m benchmarks.robustness.inputs{only}` on {about['date']}, Python {about['python']}.")
        out.write_text(f"{head}\n\n{found}\n", encoding="utf-8")
        print(out)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
