"""What an installation costs: bytes on disk and seconds, in a fresh environment for each line of the README's table.

Owns: the lines, what is counted. Does not own: which packages a line installs (pyproject.toml). pip, setuptools and links of the
environment itself are not counted; seconds are those of pip on this line and machine.

    python -m benchmarks.speed.install [--lines device train volume]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, facts, store

LINES = {"device": "", "train": "[train,teachers]", "openvino": "[openvino]", "tensorrt": "[tensorrt]", "volume": "[volume]",
         "sign": "[sign]"}
CUDA = ("nvidia", "triton")  # folders that a build of PyTorch without CUDA does not have


def bytes_of(folder: Path, *, within: tuple[str, ...] = ()) -> int:
    """Bytes of all files below a folder's children, or of those children alone whose name begins with a word."""
    parts = [child for child in folder.iterdir() if not within or child.name.startswith(within)]
    files = (file for part in parts for file in ([part] if part.is_file() else part.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def installed(extra: str) -> dict[str, Any]:
    """Install this project with an extra into a fresh environment: megabytes (10^6) and seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        packages = next((folder / "lib").glob("python*/site-packages"))
        empty = bytes_of(packages)
        start = time.perf_counter()
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"{ROOT}{extra}"], check=True)
        seconds = time.perf_counter() - start
        return {"megabytes": round((bytes_of(packages) - empty) / 1e6, 1), "seconds": round(seconds, 1),
                "cuda_megabytes": round(bytes_of(packages, within=CUDA) / 1e6, 1)}


def main() -> None:
    """Install, count, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", nargs="+", choices=tuple(LINES), default=list(LINES))
    arguments = parser.parse_args()
    rows = {}
    for line in arguments.lines:
        rows[line] = installed(LINES[line])
        print(f"pip install '.{LINES[line]}': {rows[line]['megabytes']:,.0f} MB, of which CUDA {rows[line]['cuda_megabytes']:,.0f}, "
              f"{rows[line]['seconds']:.0f} s", flush=True)
    store(RESULTS / "install.json", facts(rows=rows))


if __name__ == "__main__":
    main()
