"""The training state on disk: tensors in safetensors, the rest in JSON, hashed, the last two kept.

Owns: saving and finding a whole state after a kill or a damaged file. Does not own: what the tensors mean (fit.py).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from runtimes.errors import UserError
from runtimes.files.folder import sha256_file, write_atomic
from runtimes.files.schema import anything, check, list_of, mapping_of, object_of, one_of, text, whole
from runtimes.files.strict_json import strict_json

INDEX = "state.json"
AGAIN = "start anew with --overwrite"
ENTRIES = list_of(object_of({"file": one_of("state-0.safetensors", "state-1.safetensors"), "sha256": text(64), "epoch": whole(0, 10**9),
                             "record": object_of({}, {"history": list_of(mapping_of(anything))}, others=True)}), 0, 2)


def save_state(folder: Path, epoch: int, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write the state after an epoch; a kill at any moment leaves this one or the one before it whole."""
    from safetensors.torch import save

    name = f"state-{epoch % 2}.safetensors"
    entries = [entry for entry in _entries(folder) if entry["file"] != name][:1]
    data = save({key: value.detach().contiguous() for key, value in tensors.items()})
    _write_index(folder, entries)  # the file about to be replaced is no longer spoken of
    write_atomic(folder / name, data)
    fresh = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "epoch": epoch, "record": record}
    _write_index(folder, [fresh, *entries])


def load_state(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole state as (epoch, tensors, record), or None; a damaged file falls back to the one before."""
    from safetensors.torch import load_file

    for orphan in folder.glob(".state*.tmp"):
        orphan.unlink(missing_ok=True)
    for entry in _entries(folder):
        path = folder / entry["file"]
        if path.is_file() and sha256_file(path) == entry["sha256"]:
            return entry["epoch"], load_file(path), entry["record"]
    return None


def _write_index(folder: Path, entries: list[dict[str, Any]]) -> None:
    text = json.dumps(entries)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomic(folder / INDEX, f"{digest}\n{text}\n".encode())


def _entries(folder: Path) -> list[dict[str, Any]]:
    try:
        digest, text = (folder / INDEX).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (FileNotFoundError, ValueError, UnicodeDecodeError):
        return []
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        return []
    try:
        entries: list[dict[str, Any]] = strict_json(text, finite=False)  # a figure of an epoch may be NaN
    except ValueError as error:
        raise UserError(f"{folder / INDEX} is not readable JSON ({error}); {AGAIN}") from None
    check(entries, ENTRIES, str(folder / INDEX), AGAIN)
    return entries
