"""DICOM reports on files of other people: each written, read back equal, its patient's name kept, and shown to somebody else's validator.

Owns: which files, the counts. Does not own: the reports (runtimes.results.dicom_sr), the files (robustness/dicom.py). The validator is
dciodvfy of dicom3tools, where it is on the path; an error that it finds in the image, too, is the image's own.

    python -m benchmarks.robustness.reports
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, command_line, facts, spread, store
from benchmarks.robustness.dicom import collections
from runtimes.errors import UserError
from runtimes.images.decode import decode
from runtimes.results.dicom_sr import codes_of, read_report, report_bytes
from runtimes.results.findings import Finding, Origin

FINDINGS = (Finding("lesion", 0.25, False, 0.3), Finding("fracture", 0.75, True, 0.5))
ORIGIN = Origin("ab" * 32, "cd" * 32, "resnet18", "onnx", "fp32", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "multilabel", (1.0,))
VALIDATOR = shutil.which("dciodvfy")


def errors_of(path: Path) -> set[str]:
    """What the validator calls an error."""
    if VALIDATOR is None:
        return set()
    done = subprocess.run([VALIDATOR, str(path)], capture_output=True, check=False)
    return {line for line in (done.stdout + done.stderr).decode("utf-8", "replace").splitlines() if line.startswith("Error")}


def same_patient(image: Path, report: Path) -> bool:
    """Whether image and report name one patient, each in its own character set."""
    import pydicom

    names = []
    for path in (image, report):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        header.decode()
        names.append((str(header.get("PatientName") or ""), str(header.get("PatientID") or "")))
    return names[0] == names[1]


def judged(image: Path, out: Path) -> tuple[str, float]:
    """What became of the report on one image, and the seconds it took."""
    started = time.perf_counter()
    try:
        data = report_bytes(out, [image], FINDINGS, ORIGIN)
    except UserError as error:
        return f"refused: {str(error).removeprefix(f'{image}: ')}", 0.0
    except Exception as error:
        return f"CRASH: {type(error).__name__}", 0.0
    seconds = time.perf_counter() - started
    out.write_bytes(data)
    if read_report(out).findings != FINDINGS or not same_patient(image, out):
        return "WRONG: does not read back", seconds
    if own := errors_of(out) - errors_of(image):
        return f"INVALID: {sorted(own)[0]}", seconds
    return "written", seconds


def main() -> None:
    """Count and store; exit 1 where a report is wrong, invalid or ends otherwise."""
    ends: dict[str, Counter[str]] = {}
    seconds: list[float] = []
    codes: set[tuple[str, str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.dcm"
        for origin, paths in collections().items():
            ends[origin] = Counter()
            for path in paths:
                try:
                    decode(path)
                except UserError:
                    continue
                end, spent = judged(path, out)
                ends[origin][end] += 1
                if end == "written":
                    seconds.append(spent)
                    codes.update(codes_of(out))
    content: dict[str, Any] = {"format": 1, "command": command_line(), "facts": facts(), "validator": "dciodvfy" if VALIDATOR else None,
                               "ends": ends, "report_of_two_classes": spread(seconds), "codes": sorted(codes)}
    for origin, counts in ends.items():
        print(f"{origin}: {dict(counts)}")
    store(RESULTS / "reports-dicom.json", content)
    sys.exit(any(end.split(":")[0].isupper() for counts in ends.values() for end in counts))


if __name__ == "__main__":
    main()
