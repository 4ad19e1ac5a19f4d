"""Wrong inputs typed at the real commands: every one must end with its exit code, a message that helps, and no traceback.

Owns: running the cases in folders of their own, judging, the table. Does not own: the cases (bad_list.py).

    python benchmarks/bad_inputs.py
    python benchmarks/bad_inputs.py --only "bank" --keep
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bad_cases import TAUGHT, Case
from bad_list import CASES
from record import RESULTS, facts

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}  # nothing is fetched, long lines stay whole


@dataclass(frozen=True)
class Answer:
    """What a command said and what is wrong with it ("" when nothing is)."""

    case: Case
    code: int
    message: str
    fault: str


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder."""
    words = shlex.split(line)
    return subprocess.run([str(BIN / words[0]), *words[1:]], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def judge(case: Case, folder: Path, finished: Path) -> Answer:
    """Make a case's files, type its command, judge code, message and what was left behind."""
    folder.mkdir()
    case.make(folder, finished)
    done = typed(case.typed, folder)
    told = done.stderr + done.stdout if done.returncode == 0 else done.stderr or done.stdout
    message = first_line(done.stderr or done.stdout)
    faults = []
    if done.returncode != case.code:
        faults.append(f"exit code {done.returncode}, expected {case.code}")
    if "Traceback" in done.stderr + done.stdout:
        faults.append("traceback: " + told.strip().splitlines()[-1][:300])
    if case.word.lower() not in told.lower():
        faults.append(f"the message does not say {case.word!r}")
    if (folder / "executed").exists():
        faults.append("code from a file was executed")
    if any(folder.glob(".*tmp*")):
        faults.append("left a temporary folder")
    if wrong := case.check(folder):
        faults.append(wrong)
    return Answer(case, done.returncode, message, "; ".join(faults))


def first_line(text: str) -> str:
    """The first line that says something, and the one after it where it only announces; frames around messages are taken off."""
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    lines = [line for line in lines if line and line != "Parsing error"]
    return " / ".join(lines[:2 if len(lines) > 1 and (not lines[0].startswith("error:") or lines[1].startswith(("data", "line"))) else 1])


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
    parser.add_argument("--only", help="cases whose name holds this word; the table is then not stored")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in and leave")
    parser.add_argument("--out", type=Path, default=RESULTS / "bad-inputs.md")
    given = parser.parse_args()
    cases = [case for case in CASES if not given.only or given.only in case.name]
    with tempfile.TemporaryDirectory() as name:
        work = (given.keep or Path(name)).resolve()
        finished = work / "finished"
        finished.mkdir(parents=True)
        finish(finished)
        with ThreadPoolExecutor(given.workers) as pool:
            answers = list(pool.map(lambda pair: judge(pair[1], work / f"{pair[0]:03d}", finished), enumerate(cases)))
        found = table(answers).replace(str(work), "...")
    wrong = [one for one in answers if one.fault]
    print(found)
    print(f"\n{len(answers)} wrong inputs, {len(wrong)} answered badly")
    for one in wrong:
        print(f"  {one.case.name}: {one.fault}\n    {one.case.typed}\n    {one.message[:300]}")
    if not given.only:
        about = facts()
        given.out.parent.mkdir(parents=True, exist_ok=True)
        head = (f"# Wrong inputs and what the commands answer\n\n{len(answers)} inputs, {len(wrong)} answered badly. "
                f"Made by `python benchmarks/bad_inputs.py` on {about['date']}, Python {about['python']}.")
        given.out.write_text(f"{head}\n\n{found}\n", encoding="utf-8")
        print(given.out)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
