"""The processes of a benchmark, one an artifact and thread count: started, asked in turn, ended.

Owns: Member, Crew, the files behind the path from file to decision. Does not own: what a process does (worker.py), whose turn
it is (command.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from PIL import Image

from runtimes.artifact.artifact import Artifact
from runtimes.backends.machine import core_set
from runtimes.errors import FAILED, UserError
from runtimes.files.strict_json import strict_json
from runtimes.images.decode import SUFFIXES
from runtimes.images.dicom_series import series_files
from runtimes.verify import read_golden

WORKER = ("-m", "runtimes.bench.worker")


@dataclass
class Member:
    """One process with one artifact in it."""

    name: str
    artifact: Artifact
    threads: int
    spin: bool | None
    cores: list[int]
    process: subprocess.Popen[str]
    log: TextIO
    opened: dict[str, Any] = field(default_factory=dict)

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; UserError as the process says it, or because it died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.log.seek(0)
            words = self.log.read().strip().splitlines()
            raise UserError(f"{self.name}: the process that measures it ended with {self.process.wait()}"
                            + (f": {words[-1][:300]}" if words else ""))
        answer: dict[str, Any] = strict_json(line)
        if "error" in answer:
            raise UserError(f"{self.name}: {answer['error']}", int(answer.get("exit_code", FAILED)))
        return answer


class Crew:
    """All processes of one run; leaving the block ends them."""

    def __init__(self) -> None:
        self.members: list[Member] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for member in self.members:
            member.process.kill()
            member.process.communicate()
            member.log.close()

    def start(self, worker: Sequence[str] = WORKER) -> tuple[subprocess.Popen[str], TextIO]:
        """A fresh process, and where its complaints go; worker: what Python runs in it."""
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  closed with the crew
        return subprocess.Popen([sys.executable, *worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True), log

    def open(self, name: str, artifact: Artifact, *, threads: int, device: str = "cpu", spin: bool | None = None,
             cores: list[int] | None = None, files: list[Path] | None = None, worker: Sequence[str] = WORKER) -> Member:
        """Start a process and open an artifact in it; cores: those it is held to."""
        process, log = self.start(worker)
        member = Member(name, artifact, threads, spin, cores or core_set(), process, log)
        self.members.append(member)
        member.opened = member.ask("open", artifact=str(artifact.folder.absolute()), threads=threads, device=device, spin=spin,
                                   cores=cores, files=[str(path.absolute()) for path in files or ()])
        return member

    def peaks(self, artifact: Artifact, threads: int) -> dict[str, Any]:
        """What this machine can do at best with so many threads, measured in a process of its own."""
        process, log = self.start()
        member = Member("the machine's peaks", artifact, threads, None, core_set(), process, log)
        self.members.append(member)
        return member.ask("peaks", threads=threads)


def input_files(artifact: Artifact, images: Path | None, folder: Path) -> list[Path]:
    """Files for the path from file to decision: those of `images`, or the golden images written to `folder` as PNG.

    Empty for volumes, values such as HU and `pixel_values` without `images`: their golden inputs are no pictures.
    """
    if images is not None:
        kinds = (".nii", ".gz") if artifact.image_spec.volume is not None else SUFFIXES
        files = sorted(path for path in images.rglob("*") if path.suffix.lower() in kinds) if images.is_dir() else []
        if not files and artifact.image_spec.volume is not None and images.is_dir():  # a folder of DICOM is a series
            files = sorted({path.parent for path in series_files(images)})
        if not files:
            raise UserError(f"--images {images} holds no file that ends in {', '.join(kinds)}"
                            f"{' and no DICOM' if artifact.image_spec.volume is not None else ''}; name a folder of images")
        return files[:64]
    if artifact.image_spec.volume is not None or artifact.image_spec.physical or artifact.input_kind == "tensor":
        return []
    golden, _, _ = read_golden(artifact)
    paths = []
    for place, image in enumerate(golden):
        paths.append(folder / f"{place}.png")
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(np.ascontiguousarray(pixels)).save(paths[-1])
    return paths
