"""Peak memory of real runs: the BUSI run, and one epoch over N phantom images with the bank on disk, for growing N.

Owns: running commands as children, sampling what they hold, the table. Does not own: the runs. A child's RSS counts pages of
mapped files, which the system takes back when it needs them; RssAnon is what the run itself holds and must find room for.

    python -m benchmarks.speed.memory busi
    python -m benchmarks.speed.memory phantom --counts 10000 100000
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, SHARED, command_line, facts, store

BIN = Path(sys.executable).parent
EVERY_S = 0.05
MIB = 2**20


def busi(threads: int) -> dict[str, Any]:
    """The whole BUSI run as a user types it: bank, probe, 40 epochs, report."""
    data = SHARED / "busi_256px"
    if not data.is_dir():
        sys.exit(f"real data not found in {data}; set RD_SHARED to the folder that holds data/")
    flags = ["--data", str(data), "--student", "mobilenetv3_small_050", "--size", "96", "--skip-bad-images", "--method", "rd"]
    return watched([*flags, "--threads", str(threads)], "busi")


def phantom(count: int, threads: int) -> dict[str, Any]:
    """One epoch over `count` drawn images at 64 px, 500 to validate and to test, teacher of random weights."""
    flags = ["--data", "phantom", "--phantom-images", str(count), "500", "500", "--phantom-size", "64", "--size", "64",
             "--student", "mobilenetv3_small_050", "--teacher", "mobilenetv3_small_050", "--teacher-weights", "random",
             "--teacher-size", "64", "--bank-views", "0", "--epochs", "1", "--min-steps", "1", "--bootstrap", "50"]
    return watched([*flags, "--threads", str(threads)], f"phantom-{count}")


def watched(flags: list[str], name: str) -> dict[str, Any]:
    """Run rd-distill in a folder of its own and watch it: peaks in MiB, and the peak of each phase it announces."""
    work = Path(tempfile.mkdtemp(prefix=f"memory-{name}-"))
    log = work / "log.txt"
    start = time.monotonic()
    with log.open("w") as file:
        child = subprocess.Popen([str(BIN / "rd-distill"), *flags, "--out", str(work / "student"), "--bank", str(work / "bank")],
                                 cwd=work, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        phases: dict[str, dict[str, float]] = {}
        anonymous = 0
        code = None
        while code is None:
            held = status(child.pid)
            if held:
                anonymous = max(anonymous, held["RssAnon"])
                entry = phases.setdefault(phase(log), {"anonymous_mib": 0.0, "rss_mib": 0.0})
                entry["anonymous_mib"] = max(entry["anonymous_mib"], held["RssAnon"] / MIB)
                entry["rss_mib"] = max(entry["rss_mib"], held["VmRSS"] / MIB)
            time.sleep(EVERY_S)
            ended, state, usage = os.wait4(child.pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(state) if ended else None
    child.returncode = code
    if code:
        sys.exit(f"rd-distill {' '.join(flags)} ended with {code}:\n{log.read_text()[-2000:]}")
    disk = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    shutil.rmtree(work)
    row = {"run": name, "seconds": round(time.monotonic() - start), "peak_rss_mib": usage.ru_maxrss * 1024 / MIB,
           "peak_anonymous_mib": anonymous / MIB, "disk_mib": disk / MIB, "phases": phases}
    print(f"{name}: {row['seconds']} s, peak RSS {row['peak_rss_mib']:,.0f} MiB, of it its own {row['peak_anonymous_mib']:,.0f} MiB",
          flush=True)
    for label, entry in phases.items():
        print(f"  after {label!r}: own {entry['anonymous_mib']:,.0f} MiB, RSS {entry['rss_mib']:,.0f} MiB", flush=True)
    return row


def status(pid: int) -> dict[str, int]:
    """RssAnon and VmRSS of a process in bytes; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return found if len(found) == 2 else {}


def phase(log: Path) -> str:
    """The last thing the run announced."""
    labels = [line.split(" ")[0] for line in log.read_text(errors="replace").splitlines() if line and not line.startswith(" ")]
    return labels[-1] if labels else "start"


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("busi", "phantom"))
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000], help="numbers of training images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = [busi(given.threads)] if given.what == "busi" else [phantom(count, given.threads) for count in given.counts]
    content: dict[str, Any] = {"format": 1, "command": command_line(), "facts": facts(), "rows": rows}
    if len(rows) > 1:
        extra = given.counts[-1] - given.counts[0]
        grown = {kind: (rows[-1][f"peak_{kind}_mib"] - rows[0][f"peak_{kind}_mib"]) * MIB / extra for kind in ("anonymous", "rss")}
        content["bytes_an_image"] = grown
        print(f"growth: {grown['anonymous']:,.0f} bytes an image of its own, {grown['rss']:,.0f} of RSS; "
              f"pixels and features of one on disk: {(rows[-1]['disk_mib'] - rows[0]['disk_mib']) * MIB / extra:,.0f} bytes")
    store(given.out or RESULTS / f"memory-{given.what}.json", content)


if __name__ == "__main__":
    main()
