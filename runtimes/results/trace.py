"""The trace of one answer: a JSON file that says what was answered, by what and how fast, and nothing of whom.

Owns: the format of a trace, `trace_of`, `read_trace`, `hashes_of`. Does not own: where it may be written (record.py). A trace holds no
path, no name of a file and no text of a header; a file is named by the SHA-256 of its bytes alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtimes.errors import UserError
from runtimes.files.folder import read_json, sha256_file
from runtimes.files.reading import DEVICE_JSON_BYTES
from runtimes.files.schema import check, list_of, maybe, number, object_of, one_of, text, truth, whole
from runtimes.results.findings import Finding, Origin
from runtimes.scores import TASKS

KIND, FORMAT = "trace", 1
MOMENTS = ("read", "prepare", "network")
MS = number(0, 1e9)
FINDING = object_of({"name": text(), "probability": number(0, 1.001), "decided": truth, "threshold": maybe(number(0, 1))})
TRACE = object_of({
    "kind": one_of(KIND), "format": whole(FORMAT, FORMAT), "task": one_of(*TASKS), "rule": text(),
    "findings": list_of(FINDING, 1),
    "model_sha256": text(64), "image_spec_sha256": text(64), "network": text(), "target": text(), "precision": text(), "runtime": text(),
    "version": text(), "provider": text(), "threads": whole(1, 1 << 20), "temperatures": list_of(number(0, 1e9), 1),
    "inputs_sha256": list_of(text(64), 1), "notes": list_of(text()),
    "ms": object_of({name: MS for name in (*MOMENTS, "file_to_decision")})})


def trace_of(findings: Sequence[Finding], origin: Origin, ms: Mapping[str, float], inputs_sha256: Sequence[str],
             notes: Sequence[str] = ()) -> dict[str, Any]:
    """A trace as JSON values; ms: what each of MOMENTS took, in milliseconds; notes: what a person should know of the scan."""
    return {"kind": KIND, "format": FORMAT, "task": origin.task, "rule": origin.rule, "findings": [asdict(finding) for finding in findings],
            **{key: value for key, value in asdict(origin).items() if key not in ("task", "temperatures")},
            "temperatures": list(origin.temperatures), "inputs_sha256": list(inputs_sha256), "notes": list(notes),
            "ms": {**{name: round(ms[name], 4) for name in MOMENTS}, "file_to_decision": round(sum(ms[name] for name in MOMENTS), 4)}}


def trace_bytes(trace: Mapping[str, Any]) -> bytes:
    """A trace as the bytes of its file."""
    return (json.dumps(trace, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_trace(path: Path) -> dict[str, Any]:
    """A trace that was written by this software; UserError for any other file."""
    content = read_json(path, DEVICE_JSON_BYTES)
    if content.get("kind") != KIND:
        raise UserError(f"{path} is no trace; expected a file that rd-verify --trace wrote")
    check(content, TRACE, str(path), "write it again")
    return content


def is_trace(path: Path) -> bool:
    """Whether a file is a trace that this software wrote."""
    try:
        read_trace(path)
    except UserError:
        return False
    return True


def hashes_of(sources: Sequence[Path]) -> list[str]:
    """SHA-256 of each file that was read, sorted by itself: no order of names shows."""
    return sorted(sha256_file(path) for path in sources)
