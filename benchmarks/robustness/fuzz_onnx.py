"""Damaged ONNX files at our own door, in a child process: no crash, no hang, no flood of memory, one kind of error (S-4).

Owns: opening and running each mutant through `open_session`, the table. Does not own: the mutants (mutants.py), the process
(child.py). The manifest names each mutant's bytes, as if somebody without a signature had written both.

    python -m benchmarks.robustness.fuzz_onnx --mutants 2000
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, command_line, facts, store
from benchmarks.robustness import small_artifact
from benchmarks.robustness.child import Child, Look, serve
from benchmarks.robustness.mutants import mutants

LONGEST_S = 10.0
MOST_MB = 2048
GUARD_BYTES = 6 << 30  # address space of the child: a mutant shall not take this machine's memory, and the report says what it took


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: opened and run, refused (by a UserError), another error, crash or hang."""

    kind: str
    change: str
    end: str
    told: str
    seconds: float
    peak_mb: float


def opener(folder: Path) -> Look:
    """What the child does for each mutant: open the artifact, run its golden images; the undamaged one first."""
    from runtimes.artifact.artifact import read_artifact
    from runtimes.session import open_session
    from runtimes.verify import read_golden

    images, _, _ = read_golden(read_artifact(folder))

    def look() -> tuple[str, str]:
        session = open_session(folder, threads=1)
        session.run(images)
        session.close()
        return "opened", ""

    look()
    return look


def child_of(artifact: Path) -> Child:
    """A child that opens an artifact's folder."""
    return Child("benchmarks.robustness.fuzz_onnx", artifact, LONGEST_S)


def fuzz(artifact: Path, count: int, seed: int) -> list[Outcome]:
    """Give `count` mutants of an artifact's ONNX to a child; the artifact's folder is spoilt by it."""
    whole, manifest = (artifact / "model.onnx").read_bytes(), json.loads((artifact / "manifest.json").read_text())
    child, outcomes = child_of(artifact), []
    for number, (kind, change, data) in enumerate(mutants(whole, count, seed)):
        _put(artifact, data, manifest)
        start = time.monotonic()
        answer = child.ask()
        outcomes.append(Outcome(kind, change, answer["end"], answer.get("told", ""), time.monotonic() - start, answer.get("peak_mb", 0.0)))
        if answer["end"] in ("crash", "hang"):
            print(f"{number}: {outcomes[-1]}", flush=True)
            _put(artifact, whole, manifest)
            child = child_of(artifact)
    child.close()
    return outcomes


def _put(artifact: Path, data: bytes, manifest: dict[str, Any]) -> None:
    import hashlib

    (artifact / "model.onnx").write_bytes(data)
    files = {**manifest["files"], "model.onnx": hashlib.sha256(data).hexdigest()}
    (artifact / "manifest.json").write_text(json.dumps({**manifest, "files": files}))


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a row for each kind of damage."""
    ends = ("refused", "opened", "another error", "crash", "hang")
    counts = Counter((one.kind, one.end) for one in outcomes)
    kinds = dict.fromkeys(one.kind for one in outcomes)
    rows = [[kind, *(counts[kind, end] for end in ends)] for kind in kinds]
    rows.append(["all", *(sum(one.end == end for one in outcomes) for end in ends)])
    head = f"| damage | {' | '.join(ends)} |\n|---|{'---|' * len(ends)}\n"
    return head + "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    """Make an artifact and its mutants; exit 1 where one is more than refused or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--artifact", type=Path, help="fuzz a copy of this ONNX artifact instead of a small phantom one")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz-onnx.json")
    given = parser.parse_args()
    if given.serve:
        serve(lambda: opener(given.serve), GUARD_BYTES, given.serve, "ARTIFACT")
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if given.artifact:
            artifact = Path(shutil.copytree(given.artifact, work / "artifact"))
        else:
            small_artifact.student(work)
            artifact = small_artifact.artifact(work, "artifact")
        size = (artifact / "model.onnx").stat().st_size
        outcomes = fuzz(artifact, given.mutants, given.seed)
    peak, slowest = max(one.peak_mb for one in outcomes), max(one.seconds for one in outcomes)
    bad = [one for one in outcomes if one.end not in ("refused", "opened")]
    for one in bad[:20]:
        print(one)
    print(f"{table(outcomes)}\n\nslowest {slowest:.2f} s, at most {peak:.0f} MB, model of {size:,} bytes")
    ends = Counter(one.end for one in outcomes)
    store(given.out, {"format": 1, "command": command_line(), "facts": facts(), "model_bytes": size,
                      "mutants": len(outcomes), "ends": ends, "slowest_s": slowest, "peak_mb": peak,
                      "by_kind": {kind: Counter(one.end for one in outcomes if one.kind == kind) for kind in {o.kind: 0 for o in outcomes}},
                      "not_as_wished": [asdict(one) for one in bad]})
    sys.exit(1 if bad or peak > MOST_MB else 0)


if __name__ == "__main__":
    main()
