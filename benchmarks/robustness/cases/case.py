"""The wrong inputs themselves: what lies in the folder, the command typed there, the exit code and the word that must appear.

Owns: Case, the images, tables and archives they need. Does not own: spoilt students, banks and artifacts (folders.py), the list
(catalogue.py), running them (robustness/inputs.py, which is the command: `python -m benchmarks.robustness.inputs`).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Make = Callable[[Path, Path], None]  # (folder of the case, folder of finished things: student, bank, artifact)
Check = Callable[[Path], str]  # the folder of the case, after its command: what is wrong in it, "" when nothing is
VANILLA = "rd-distill --data data --student mobilenetv3_small_050 --method vanilla --epochs 1 --min-steps 1"
TINY = ("rd-distill --student mobilenetv3_small_050 --size 64 --phantom-images 48 16 16 --phantom-size 64 --epochs 1 --min-steps 1 "
        "--bootstrap 10 --threads 1")
TAUGHT = TINY + " --teacher mobilenetv3_small_050 --teacher-weights random --teacher-size 64 --bank-views 1 --bank-runtime torch"


@dataclass(frozen=True)
class Case:
    """One input that tempts to a wrong answer: a name, how its files are made, what is typed, what must come and what must be left.

    hidden: packages that are as good as not installed; secrets: words of its files that no answer may hold.
    """

    name: str
    typed: str
    code: int
    word: str
    make: Make = lambda folder, finished: None
    check: Check = lambda folder: ""
    hidden: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


def picture(path: Path, seed: int = 0, depth: str = "uint8", size: int = 40) -> None:
    """Save one noisy grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 255 if depth == "uint8" else 4000, (size, size)).astype(depth)
    Image.fromarray(levels).save(path)


def good(folder: Path, classes: tuple[str, ...] = ("a", "b"), count: int = 12) -> None:
    """A folder of class folders that could be trained on."""
    for place, name in enumerate(classes):
        for index in range(count):
            picture(folder / "data" / name / f"{index:02d}.png", 1000 * place + index)


def spoilt(change: Callable[[Path], None], name: str = "a/03.png") -> Make:
    """A good folder with one file changed."""

    def make(folder: Path, finished: Path) -> None:
        good(folder)
        (folder / "data" / name).unlink(missing_ok=True)
        change(folder / "data" / name)

    return make


def truncated(path: Path) -> None:
    """A PNG cut in the middle."""
    picture(path)
    path.write_bytes(path.read_bytes()[:600])


def bomb(path: Path) -> None:
    """A PNG of 12 kB that would be 10240 x 10240 pixels."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header, body = struct.pack(">IIBBBBB", 10240, 10240, 1, 0, 0, 0, 0), zlib.compress(bytes(1281 * 10240), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def grey(path: Path) -> None:
    """A picture of one grey level."""
    Image.new("L", (40, 40), 9).save(path)


def words(path: Path) -> None:
    """Text where a picture should be."""
    path.write_text("not a picture")


def frames(path: Path) -> None:
    """Two frames in one file."""
    pages = [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40)).astype(np.uint8)) for seed in (1, 2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def named(path: Path, kind: str) -> None:
    """A picture of another format under a wrong name."""
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (40, 40)).astype(np.uint8)).save(path, format=kind)


def table(header: str, *rows: str, change: Callable[[list[str]], list[str]] = list, encoding: str = "utf-8") -> Make:
    """A CSV of 24 pictures, labels a and b; `rows` replace the last ones, `change` edits all lines."""

    def make(folder: Path, finished: Path) -> None:
        columns = header.split(",")
        lines = []
        for index in range(24):
            picture(folder / "data" / f"{index:02d}.png", index)
            known = {"image": f"{index:02d}.png", "label": "ab"[index % 2], "patient": f"p{index}", "cyst": str(index % 2),
                     "mass": str(index // 2 % 2), "grade": str(index % 3), "split": ("train", "train", "val", "test")[index // 2 % 4]}
            lines.append(",".join(known.get(name, known["image"]) for name in columns))
        lines[len(lines) - len(rows):] = rows
        (folder / "data" / "labels.csv").write_bytes("\n".join(change([header, *lines])).encode(encoding))

    return make


def npz(name: str = "data", /, **changes: object) -> Make:
    """A MedMNIST file with some arrays changed."""

    def make(folder: Path, finished: Path) -> None:
        generator = np.random.default_rng(0)
        arrays: dict[str, object] = {}
        for part, count in (("train", 16), ("val", 8), ("test", 8)):
            arrays[f"{part}_images"] = generator.integers(0, 255, (count, 28, 28)).astype(np.uint8)
            arrays[f"{part}_labels"] = np.arange(count)[:, None] % 2
        arrays |= changes
        np.savez(folder / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]

    return make


def volume(path: Path, shape: tuple[int, ...] = (16, 16, 6), fill: float | None = None, seed: int = 99) -> None:
    """Save one NIfTI volume, noisy or of a single value."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels if fill is None else np.full(shape, fill, np.float32), np.eye(4)), path)


def nifti(change: Callable[[Path], object]) -> Make:
    """A good folder of volumes with one file changed."""

    def make(folder: Path, finished: Path) -> None:
        for index in range(24):
            volume(folder / "data" / "ab"[index % 2] / f"{index // 2:02d}.nii.gz", seed=index)
        change(folder / "data" / "a" / "03.nii.gz")

    return make


def peft(layer: str, width: int, base: str | None = None) -> Make:
    """A PEFT folder with one adapter of a layer that takes `width` inputs, trained on weights of hash `base`."""

    def make(folder: Path, finished: Path) -> None:
        from safetensors.numpy import save_file

        (folder / "peft").mkdir()
        (folder / "peft" / "adapter_config.json").write_text(json.dumps({
            "peft_type": "LORA", "base_model_name_or_path": "some network", "r": 2, "lora_alpha": 2, "target_modules": [layer]}))
        down, up = (np.ones(shape, np.float32) for shape in ((2, width, 1, 1), (1024, 2, 1, 1)))
        names = f"base_model.model.{layer}.lora_"
        save_file({f"{names}A.weight": down, f"{names}B.weight": up}, folder / "peft" / "adapter_model.safetensors",
                  metadata=None if base is None else {"rd_base_hash": base})

    return make


def text(name: str, content: str | bytes) -> Make:
    """One file with this content."""

    def make(folder: Path, finished: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def graded(lines: list[str]) -> list[str]:
    """Lines of a table whose grades are its labels."""
    return [lines[0].replace("grade", "label"), *lines[1:]]


def without_labels(lines: list[str]) -> list[str]:
    """Lines of a table with no label left."""
    return [lines[0], *(f"{index:02d}.png,nan" for index in range(len(lines) - 1))]


def both(*makes: Make) -> Make:
    """One after the other."""

    def make(folder: Path, finished: Path) -> None:
        for one in makes:
            one(folder, finished)

    return make
