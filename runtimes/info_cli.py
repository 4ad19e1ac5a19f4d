"""The command line of rd-info.

Owns: its flags, what it prints. Does not own: what a folder is (info.py).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from runtimes.commands.flags import parse
from runtimes.errors import DONE, FAILED, finish

EXAMPLES = (("rd-info student", "what it is, how good it is, what to type next"),
            ("rd-info artifact-onnx-fp32 --json", "the same for a program"),
            ("rd-info student.partial", "how far an interrupted run came"))


@dataclass(frozen=True)
class InfoSettings:
    """What a folder of ours is: kind, when and how it was made, from what, its figures, whether it is whole, the next command."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("student")
    """Folder written by rd-distill, rd-adapt, rd-export or rd-bench, finished or not."""
    config: Path | None = None
    """YAML file of settings; flags win."""
    compare: bool = True
    """Compare the bytes of every file with the manifest, which takes a while in a bank of many gigabytes."""
    json: bool = False
    """Print one JSON document instead of lines."""


def main() -> None:
    """Entry point of rd-info: exit code 0, or 1 for a folder of somebody else's, and for one whose bytes are not its manifest's."""
    sys.exit(finish(lambda: _info(parse(InfoSettings, sys.argv[1:], "rd-info", writes=False, examples=EXAMPLES))))


def _info(settings: InfoSettings) -> int:
    from runtimes.info import folder_info

    info = folder_info(settings.folder, compare=settings.compare)
    print(json.dumps(info.as_dict(), indent=2) if settings.json else "\n".join(info.lines()))
    return FAILED if info.problems else DONE


if __name__ == "__main__":
    main()
