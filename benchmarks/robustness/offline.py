"""No network: distil, export for every target, verify, in a network namespace without a route; system calls that would reach out counted.

Owns: the commands, the count. Does not own: keeping telemetry out (runtimes/backends/ort.py, runtimes/backends/ov.py,
export/targets/to_openvino.py). The variable CI is unset, since some libraries are silent only where it is set. Linux with strace and
unshare, as root or with user namespaces; anything else is said.

    python -m benchmarks.robustness.offline
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, facts, store

BIN = Path(sys.executable).parent
CALLS = "connect,sendto,sendmsg,sendmmsg"
OUTSIDE = re.compile(r"^\d+\s+(?:\d+:\d+:\d+ )?(\w+)\(.*?sa_family=(AF_INET6?)\b.*")
SMALL = ("--student", "mobilenetv3-small", "--size", "64", "--phantom-images", "160", "48", "16", "--phantom-size", "64",
         "--bank-views", "1", "--teacher-size", "96", "--epochs", "2", "--min-steps", "60", "--bootstrap", "20")
LOOSE = ("--max-flips", "100%", "--max-auc-drop", "0.9", "--keep-slower", "--keep-upcast", "--samples", "20")
QUIET = {"CI", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"}
TARGETS = ("onnx", "openvino", "trt")


def commands() -> list[list[str]]:
    """A whole run, precision by precision."""
    exports = [["rd-export", "--target", *TARGETS, "--precision", precision, "--out", f"artifacts-{precision}", *LOOSE]
               for precision in ("fp32", "int8")]
    checks = [["rd-verify", f"artifacts-{precision}/artifact-{target}-{precision}"] for precision in ("fp32", "int8")
              for target in TARGETS]
    return [["rd-distill", *SMALL], *exports, *checks]


def watched(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command without a network and list the calls of it and its children that name an internet address."""
    log = folder / "calls.txt"
    environment = {key: value for key, value in os.environ.items() if key not in QUIET}
    ended = subprocess.run(["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "strace", "-f", "-qq", "-e",
                            f"trace={CALLS}", "-o", str(log), str(BIN / command[0]), *command[1:]],
                           cwd=folder, env=environment, capture_output=True, text=True)
    found = [match for line in log.read_text().splitlines() if (match := OUTSIDE.match(line))] if log.is_file() else []
    said = (ended.stdout + ended.stderr).strip().splitlines()
    return {"command": " ".join(command), "exit_code": ended.returncode, "attempts": len(found),
            "calls": sorted({match[0][:160] for match in found}), "last_words": said[-1][:300] if said else ""}


def control(folder: Path) -> int:
    """Attempts counted of a program that does reach out: 0 would mean that this check cannot fail."""
    log = folder / "control.txt"
    code = "import socket; s = socket.socket(); s.settimeout(1); s.connect_ex(('192.0.2.1', 443))"
    subprocess.run(["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "strace", "-f", "-qq", "-e", f"trace={CALLS}",
                    "-o", str(log), sys.executable, "-c", code], capture_output=True, check=False)
    return sum(bool(OUTSIDE.match(line)) for line in log.read_text().splitlines())


def main() -> None:
    """Run everything and print a line a command; exit 1 where one failed or tried to reach out."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for tool in ("unshare", "strace"):
        if shutil.which(tool) is None:
            sys.exit(f"this needs {tool}, which is not installed here")
    with tempfile.TemporaryDirectory(prefix="rd-offline-") as name:
        folder = Path(name)
        if not control(folder):
            sys.exit("a program that opens a connection was not seen to; strace or unshare may not be allowed here")
        rows = []
        for command in commands():
            rows.append(watched(command, folder))
            print(f"exit {rows[-1]['exit_code']}, {rows[-1]['attempts']} attempts: {rows[-1]['command']}: {rows[-1]['last_words']}",
                  flush=True)
    # An engine needs its GPU: without one rd-verify says so and exits 5, which is right.
    bad = [row for row in rows if row["attempts"] or row["exit_code"] not in ((0, 5) if "artifact-trt" in row["command"] else (0,))]
    store(RESULTS / "offline.json", {"facts": facts(), "variables_unset": sorted(QUIET), "rows": rows})
    if bad:
        sys.exit(f"{len(bad)} of {len(rows)} commands failed or tried to reach out")


if __name__ == "__main__":
    main()
