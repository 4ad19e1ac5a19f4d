"""One head CT from its DICOM files to a decision, as single slices and as a volume: where the time goes, and whether a device sees the
bits that training saw. The networks have random weights: what a file costs does not depend on them.

    python -m benchmarks.latency.scan                       # RD_SHARED: cq500_ct0_dicom, 96 slices of 512 x 512
    python -m benchmarks.latency.scan --pictures FOLDER     # three windows of some slices, and of the volume as a network sees it

Owns: the stages and their times, the comparison, the pictures. Does not own: reading (runtimes/images), graphs (export/graph).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import RESULTS, SHARED, facts, interleave, store, timed
from distill.data.image_set import ImageSet
from distill.networks.checkpoint import Calibration
from distill.networks.deployed import reparameterised
from distill.networks.models import ModelSpec, build_model
from export.graph.network import DeployedGraph, SolidGraph, VolumeGraph, example_input
from export.graph.to_onnx import to_onnx
from runtimes.backends.ort import OrtSession
from runtimes.images.decode import MAX_PIXELS, decode
from runtimes.images.dicom_header import read_header
from runtimes.images.dicom_series import series_files
from runtimes.images.scans import read_scan
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec
from runtimes.images.windows import window_named

NAMES = ("brain", "subdural", "bone")
WINDOWS = tuple(map(window_named, NAMES))
SPAN = (min(low for low, _ in WINDOWS), max(high for _, high in WINDOWS))
SLICE = ImageSpec(96, 96, 1, "int16", SPAN, windows=WINDOWS)
BAG = ImageSpec(96, 96, 1, "int16", SPAN, windows=WINDOWS, volume=VolumeSpec(32, scaling="values"))
SOLID = ImageSpec(64, 64, 1, "int16", SPAN, windows=WINDOWS, volume=VolumeSpec(32, scaling="values", solid=True))
ARCHS = {"slice": "mobilenetv3_small_050", "slices with attention": "mobilenetv3_small_050", "3D network": "monai/resnet10-8"}
Stages = dict[str, Callable[[], Any]]


def session(spec: ImageSpec, arch: str) -> OrtSession:
    """A network with random weights as it ships, one thread."""
    arguments = {"channels": 3} if arch.startswith("monai/") else {}
    model = build_model(ModelSpec(arch, spec.height, spec.width, "binary", ("a", "b"), arguments, slices=spec.slices)).eval()
    plain, calibration = reparameterised(model), Calibration((1.0,))
    graph = (DeployedGraph(plain, spec, calibration, (spec.height, spec.width)) if spec.volume is None else
             (VolumeGraph if spec.masked else SolidGraph)(plain, spec, calibration))
    inputs, outputs = ["image"] + ["mask"] * spec.masked, ["logits", "probabilities"] + ["attention"] * spec.masked
    data = to_onnx(graph, example_input(spec, "image", (spec.height, spec.width)), input_names=inputs, output_names=outputs, opset=18,
                   metadata={})
    return OrtSession(data, threads=1)


def of_slice(file: Path) -> Stages:
    """From one file to a decision; each stage takes what the one before it left."""
    runtime, raw = session(SLICE, ARCHS["slice"]), decode(file, values=True)
    fed = SLICE.resized(raw)[None]
    return {"header": lambda: read_header(file, MAX_PIXELS), "header, decode, values": lambda: decode(file, values=True),
            "resize": lambda: SLICE.resized(raw), "windows and network": lambda: runtime.run(fed)}


def of_volume(files: tuple[Path, ...], spec: ImageSpec, arch: str) -> Stages:
    """From a series to a decision."""
    assert spec.volume is not None
    volume, scan, runtime = spec.volume, read_scan(files), session(spec, arch)
    stack = volume.of_scan(scan)
    fed: Any = spec.resized(stack)[None]
    fed = (fed, np.ones((1, spec.slices), np.uint8)) if spec.masked else fed
    return {"headers": lambda: [read_header(file, MAX_PIXELS) for file in files], "headers, decode, order": lambda: read_scan(files),
            "axes and values": lambda: volume.of_scan(scan), "resize": lambda: spec.resized(stack),
            "windows and network": lambda: runtime.run(fed)}


def measured(stages: Stages, rounds: int) -> dict[str, Any]:
    """Median and spread of every stage in ms, all stages in turn; the whole is what remains when headers are not counted twice."""
    parts = interleave({name: partial(timed, call) for name, call in stages.items()}, rounds)
    header, *rest = parts
    whole = sum(parts[name]["median_ms"] for name in rest)
    return {"stages": parts, "file_to_decision_ms": whole, "share": {name: parts[name]["median_ms"] / whole for name in rest},
            "note": f"'{rest[0]}' holds '{header}'"}


def same_bits(files: tuple[Path, ...]) -> dict[str, int]:
    """For how many files, and volumes, the levels that training keeps are those of the device's own input, rounded once."""
    images = ImageSet([*files], tuple(map(str, files)), np.zeros(len(files), np.int64), ("a", "b"), "binary",
                      np.asarray(["train"] * len(files)), values=True)
    slices = sum(np.array_equal(SLICE.stored(images.raw(row)), np.rint(SLICE.levels(SLICE.resized(SLICE.read(file)))))
                 for row, file in enumerate(files))
    counts = {"slices": slices, "of slices": len(files)}
    for name, spec in (("bag of slices", BAG), ("3D", SOLID)):
        kept = spec.stored(spec.read(files))
        fed = spec.resized(spec.read(files[0].parent))  # a device is given the folder
        counts[name] = int(np.array_equal(kept, np.rint(spec.levels(fed))))
    return counts


def pictures(files: tuple[Path, ...], folder: Path) -> None:
    """Contact sheets: three windows in rows, slices in columns; the volume as the 3D network sees it, and its other two axes."""
    folder.mkdir(parents=True, exist_ok=True)
    scan = read_scan(files)
    for axis in ("axial", "coronal", "sagittal"):
        spec = ImageSpec(256, 256, 1, "int16", SPAN, windows=WINDOWS, volume=VolumeSpec(6, axis, scaling="values"))  # type: ignore[arg-type]
        assert spec.volume is not None
        stored = spec.stored(spec.volume.of_scan(scan))
        save(stored, folder / f"{axis}.png")
    assert SOLID.volume is not None
    save(SOLID.stored(SOLID.volume.of_scan(scan))[::6], folder / "solid.png")


def save(stored: NDArray[np.uint8], path: Path) -> None:
    """Slices (S, h, w, 3) as one picture: a row a window."""
    Image.fromarray(np.concatenate([np.concatenate(list(stored[..., channel]), axis=1) for channel in range(3)])).save(path)


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    folder = SHARED / "cq500_ct0_dicom"
    if not folder.is_dir():
        raise SystemExit(f"real data not found in {SHARED}; set RD_SHARED to the folder that holds data/")
    files = series_files(folder)
    if given.pictures:
        pictures(files, given.pictures)
    paths = {"slice": of_slice(files[len(files) // 2]), "slices with attention": of_volume(files, BAG, ARCHS["slices with attention"]),
             "3D network": of_volume(files, SOLID, ARCHS["3D network"])}
    rows = {name: measured(stages, given.rounds if name == "slice" else max(3, given.rounds // 3)) for name, stages in paths.items()}
    report = {"files": len(files), "windows": list(NAMES), "same_bits": same_bits(files), "networks": ARCHS, "paths": rows,
              "facts": facts()}
    store(RESULTS / "scan.json", report)
    for name, row in rows.items():
        shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in row["share"].items())
        print(f"{name}: {row['file_to_decision_ms']:.1f} ms; {shares}")
    print(f"training and device see the same bits: {report['same_bits']}")


if __name__ == "__main__":
    main()
