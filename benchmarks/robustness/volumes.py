"""Series and volumes that are wrong in some way, and what is answered; memory and time of large ones, each in a process of its own.

Owns: the drawn series, the table, the measurements. Does not own: the process (child.py), the readers (runtimes.images.scans), listing
(distill.data.folders). Nothing but drawn files is read.

    python -m benchmarks.robustness.volumes
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import RESULTS, facts
from benchmarks.robustness.child import Child, Look, serve
from runtimes.errors import UserError
from runtimes.images.scans import read_scan
from runtimes.images.volumes import VolumeSpec

CT, MR, ENHANCED, SECONDARY = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "2.1", "7"))
FILM, MASK = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
LONGEST_S = 300.0
GUARD_BYTES = 6 << 30  # address space of a child, threads and libraries included
LARGE, FILES, SERIES = (400, 512, 512), 10_000, 100
MOST_MB, MOST_S = 1500.0, 60.0
FILLERS = 80  # elements beside those that count: a scanner writes a hundred or more
STORED = np.random.default_rng(0).integers(-1000, 3000, (6, 12, 10)).astype(np.int16)


def item(**tags: Any) -> Any:
    """A dataset of these tags."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def draw(path: Path, stored: NDArray[Any], syntax: str = EXPLICIT, fillers: int = 0, **tags: Any) -> Path:
    """A grey file of these stored values, (rows, columns) or (frames, rows, columns); a tag that is None is left out."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, generate_uid

    bits = 8 * stored.dtype.itemsize
    content = {"SOPClassUID": CT, "SOPInstanceUID": generate_uid(), "Modality": "CT", "SeriesInstanceUID": "1.2.3",
               "Rows": stored.shape[-2], "Columns": stored.shape[-1], "SamplesPerPixel": 1,
               "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits,
               "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(stored.dtype.kind == "i"), "RescaleSlope": 1,
               "RescaleIntercept": 0, **({"NumberOfFrames": len(stored)} if stored.ndim == 3 else {}), **tags}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = item(**{keyword: value for keyword, value in content.items() if value is not None})
        block = dataset.private_block(0x0041, "A SCANNER", create=True)
        for place in range(fillers):
            block.add_new(place, "LO", f"element {place} of a scanner's own")
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.file_meta.MediaStorageSOPClassUID = UID(content["SOPClassUID"])
        dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
        if content.get("pixels", True):
            dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<")).tobytes()
            dataset["PixelData"].VR = "OW"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, each: dict[int, dict[str, Any]] | None = None, stored: NDArray[Any] = STORED, step: Sequence[float] = (0, 0, 2.0),
           **tags: Any) -> Path:
    """A folder of one slice a file; `each` changes single ones."""
    for place, plane in enumerate(stored):
        changes = {"ImagePositionPatient": [place * side for side in step], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                   "PixelSpacing": [1, 1], **tags, **(each or {}).get(place, {})}
        draw(folder / f"{place:04d}.dcm", changes.pop("stored", plane), **changes)
    return folder


def frames(path: Path, stored: NDArray[Any] = STORED, heights: Sequence[float] | None = None, **tags: Any) -> Path:
    """One file of the enhanced kind."""
    shared = item(PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                  PixelMeasuresSequence=[item(PixelSpacing=[1, 1])],
                  PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0)])
    heights = [2.0 * place for place in range(len(stored))] if heights is None else heights
    each = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, height])]) for height in heights]
    return draw(path, stored, **{"SOPClassUID": ENHANCED, "SharedFunctionalGroupsSequence": [shared],
                                 "PerFrameFunctionalGroupsSequence": each, **tags})


def nifti(path: Path, voxels: NDArray[Any], affine: NDArray[Any] | None) -> Path:
    """A NIfTI file."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def cut(path: Path, count: int) -> Path:
    """The file without its last bytes."""
    path.write_bytes(path.read_bytes()[:-count])
    return path


def and_also(folder: Path, *paths: Path) -> Path:
    """The folder, once further files lie in it."""
    assert paths
    return folder


def cases() -> dict[str, Callable[[Path], Path]]:
    """Each wrong or odd input by name, drawn into an empty folder."""
    voxels = STORED.astype(np.float32)
    holes = voxels.copy()
    holes[2, 3, 4] = np.nan
    nothing: dict[str, Any] = {"ImagePositionPatient": None}
    normal = [1, 0, 0, 0, 0.9659258, -0.258819]
    named = [0, 0, 4.0]
    return {
        "files in reverse order of their names": lambda at: series(at, step=(0, 0, -2.0)),
        "no ImagePositionPatient": lambda at: series(at, **nothing),
        "no ImagePositionPatient in one slice": lambda at: series(at, {2: nothing}),
        "no ImageOrientationPatient": lambda at: series(at, ImageOrientationPatient=None),
        "no PixelSpacing": lambda at: series(at, PixelSpacing=None),
        "PixelSpacing 0": lambda at: series(at, PixelSpacing=[0, 0]),
        "two numbers for a position": lambda at: series(at, {1: {"ImagePositionPatient": [0, 0]}}),
        "a position that is no number": lambda at: _spoilt(series(at, {1: {"ImagePositionPatient": [0, 0, 7.125]}}) / "0001.dcm", b"7.125",
                                                           b"7.1x5"),
        "a position of another VR": lambda at: _spoilt(series(at) / "0001.dcm", b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00US"),
        "directions at no right angle": lambda at: series(at, ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
        "two series in one folder": lambda at: series(at, {1: {"SeriesInstanceUID": "1.9"}, 4: {"SeriesInstanceUID": "1.9"}}),
        "two frames of reference": lambda at: series(at, {1: {"FrameOfReferenceUID": "1.9"}}),
        "CT and MR": lambda at: series(at, {1: {"SOPClassUID": MR}}),
        "slices of two sizes": lambda at: series(at, {1: {"stored": STORED[1, :8]}}),
        "slices in two orientations": lambda at: series(at, {1: {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}}),
        "pixels of two sizes": lambda at: series(at, {1: {"PixelSpacing": [2, 2]}}),
        "one slice": lambda at: series(at, stored=STORED[:1]),
        "all slices at one place": lambda at: series(at, step=(0, 0, 0)),
        "one slice missing": lambda at: _without(series(at), "0002.dcm"),
        "two slices missing in a row": lambda at: _without(series(at), "0002.dcm", "0003.dcm"),
        "uneven steps": lambda at: series(at, {5: {"ImagePositionPatient": [0, 0, 11.4]}}),
        "steps rounded to 0.1 mm": lambda at: series(at, {place: {"ImagePositionPatient": [0, 0, height]}
                                                          for place, height in enumerate((0, 3.3, 6.5, 9.8, 13.0, 16.3))}),
        "a slice beside the others": lambda at: series(at, {2: {"ImagePositionPatient": [5, 0, 4]}}),
        "the same slice twice": lambda at: and_also(series(at), draw(at / "again.dcm", STORED[2], ImagePositionPatient=named,
                                                                     ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1])),
        "two phases in one series": lambda at: and_also(series(at), *(draw(
            at / f"late{place}.dcm", STORED[place] + 1, ImagePositionPatient=[0, 0, 2.0 * place],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1]) for place in range(6))),
        "a gantry tilted by 15 degrees": lambda at: series(at, ImageOrientationPatient=normal),
        "GantryDetectorTilt that positions do not show": lambda at: series(at, GantryDetectorTilt=15),
        "a localiser and two screenshots among slices": lambda at: and_also(
            series(at), draw(at / "a.dcm", STORED[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            *(draw(at / f"s{place}.dcm", STORED[0], SOPClassUID=SECONDARY) for place in range(2))),
        "SEG, SR and PR among slices": lambda at: and_also(
            series(at), draw(at / "seg", STORED[0], SOPClassUID=MASK), draw(at / "sr", STORED[0], Modality="SR"),
            draw(at / "pr", STORED[0], Modality="PR")),
        "localisers alone": lambda at: series(at, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "a segmentation given as a volume": lambda at: draw(at / "seg.dcm", STORED, SOPClassUID=MASK),
        "no pixel data in one slice": lambda at: series(at, {1: {"pixels": False}}),
        "a slice cut off in its pixels": lambda at: _and(series(at), cut(at / "0003.dcm", 50)),
        "a slice cut off in its header": lambda at: _and(series(at), cut(at / "0003.dcm", 400)),
        "an empty file among slices": lambda at: _and(series(at), _empty(at / "0009.dcm")),
        "text named .dcm among slices": lambda at: _and(series(at), _text(at / "note.dcm")),
        "an empty folder": lambda at: at,
        "a folder of pictures": lambda at: _and(at, _text(at / "a.png")),
        "big endian": lambda at: series(at, syntax=BIG_ENDIAN),
        "slope and intercept of each slice": lambda at: series(at, {place: {"RescaleSlope": 1 + place / 2} for place in range(6)}),
        "a slope without an intercept": lambda at: series(at, {1: {"RescaleIntercept": None}}),
        "padding": lambda at: series(at, {0: {"stored": np.full((12, 10), -2000, np.int16)}}, PixelPaddingValue=-2000),
        "MONOCHROME1 of a CT": lambda at: series(at, PhotometricInterpretation="MONOCHROME1"),
        "MONOCHROME1 of another modality": lambda at: series(at, PhotometricInterpretation="MONOCHROME1", Modality="OT"),
        "a file of many frames": lambda at: frames(at / "many.dcm"),
        "many frames, out of order": lambda at: frames(at / "many.dcm", STORED[[3, 0, 5, 1, 4, 2]], [6.0, 0.0, 10.0, 2.0, 8.0, 4.0]),
        "many frames, one missing": lambda at: frames(at / "many.dcm", heights=[0, 2, 4, 8, 10, 12]),
        "many frames, two a position": lambda at: frames(at / "many.dcm", heights=[0, 0, 2, 2, 4, 4]),
        "many frames without geometry": lambda at: draw(at / "many.dcm", STORED),
        "an ultrasound film": lambda at: draw(at / "film.dcm", STORED, SOPClassUID=FILM, Modality="US"),
        "fewer frames described than held": lambda at: frames(at / "many.dcm", heights=[0, 2, 4]),
        "many frames, cut off": lambda at: cut(frames(at / "many.dcm"), 200),
        "one file of one frame": lambda at: series(at) / "0000.dcm",
        "NaN in a NIfTI file": lambda at: nifti(at / "nan.nii", holes, np.eye(4)),
        "a NIfTI file of four dimensions": lambda at: nifti(at / "4d.nii", np.ones((4, 5, 6, 2), np.int16), np.eye(4)),
        "a NIfTI file of two dimensions": lambda at: nifti(at / "2d.nii", np.ones((4, 5), np.int16), np.eye(4)),
        "a NIfTI file without an affine": lambda at: nifti(at / "none.nii", STORED, None),
        "a NIfTI file with a slanted affine": lambda at: nifti(at / "slanted.nii", STORED, np.eye(4) + 0.2 * np.eye(4, k=1) * [0, 0, 1, 0]),
        "a NIfTI file cut off": lambda at: cut(nifti(at / "cut.nii.gz", STORED, np.eye(4)), 300),
        "a NIfTI file of one value": lambda at: nifti(at / "flat.nii", np.full((5, 6, 7), 3, np.int16), np.eye(4)),
        "a file that is not there": lambda at: at / "nothing.nii",
    }


def _spoilt(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path.parent


def _without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def _and(folder: Path, _: Path) -> Path:
    return folder


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _text(path: Path) -> Path:
    path.write_text("not an image")
    return path


@dataclass(frozen=True)
class Row:
    """One input and its answer."""

    name: str
    end: str
    answer: str


def look(name: str, make: Callable[[Path], Path]) -> Row:
    """Draw an input, read it and bring it to grey levels."""
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder))
        try:
            scan = read_scan(path)
            VolumeSpec().of_scan(scan, path)
        except UserError as error:
            text = str(error).replace(f"{folder}/", "").replace(folder, "FOLDER")
            return Row(name, "refused" if "\n" not in text else "answered badly", text)
        except BaseException as error:
            return Row(name, "answered badly", type(error).__name__)
        size = " x ".join(map(str, scan.values.shape))
        spacing = " x ".join(f"{side:.4g}" for side in scan.spacing_mm)
        return Row(name, "read", "; ".join([f"{size} {scan.values.dtype}, {spacing} mm", *scan.notes]))


def reader(path: Path, kind: str) -> Look:
    """What a child does once: read a volume, window it and cut it, at its own spacing or another; or list a folder of series."""
    if kind == "list":
        from distill.data.folders import list_folder

        def listing() -> tuple[str, str]:
            start = time.monotonic()
            found = list_folder(path, None, series=True)
            return "read", f"{time.monotonic() - start:.1f} {len(found.images)}"

        return listing

    def reading() -> tuple[str, str]:
        start = time.monotonic()
        scan = read_scan(path)
        middle = time.monotonic()
        spec = VolumeSpec(64, scaling="percentile" if kind == "percentile" else "window", window=(0.5, 99.5) if kind == "percentile" else (
            0.0, 80.0), **({"spacing_mm": (1.0, 1.0, 1.0), "size": (224, 224, 160)} if kind == "spacing" else {}))  # type: ignore[arg-type]
        stack = spec.of_scan(scan)
        return "read", f"{middle - start:.1f} {time.monotonic() - middle:.1f} {' x '.join(map(str, stack.shape[:3]))}"

    return reading


def measured(path: Path, kind: str) -> tuple[list[str], float]:
    """The words of a fresh child about one look, and its peak of resident memory in MB."""
    child = Child("benchmarks.robustness.volumes", path, LONGEST_S, "--kind", kind)
    answer = child.ask()
    child.close()
    if answer["end"] != "read":
        raise RuntimeError(f"{kind} of {path.name}: {answer}")
    return str(answer["told"]).split(maxsplit=2), float(answer["peak_mb"])


def large(folder: Path, lines: list[str]) -> bool:
    """Rows on memory and time; whether all stay within their bounds."""
    random = np.random.default_rng(1)
    base = random.integers(-1024, 3071, LARGE[1:]).astype(np.int16)
    stored = np.stack([np.roll(base, 3 * place) for place in range(LARGE[0])])
    series(folder / "large", stored=stored, step=(0, 0, 0.5), PixelSpacing=[0.45, 0.45], fillers=FILLERS)
    frames(folder / "many.dcm", stored, [0.5 * place for place in range(LARGE[0])])
    nifti(folder / "large.nii", stored.transpose(2, 1, 0), np.diag([0.45, 0.45, 0.5, 1.0]))
    del stored
    size = " x ".join(map(str, reversed(LARGE)))
    lines += ["", f"## Memory: {size} int16", "", "Each in a process of its own: its peak of resident memory, Python and libraries "
              "included; drawn files, uncompressed, in the system's cache. "
              "Read; then grey levels of the whole volume, cut into axial slices.", "",
              "| input | asked for | read s | grey levels s | peak MB |", "|---|---|---|---|---|"]
    within = True
    asked = {"window": "a window", "percentile": "percentiles", "spacing": "1 mm, 224 x 224 x 160, a window"}
    for name, what in (("large", f"a series of {LARGE[0]} files"), ("many.dcm", "one file of many frames"), ("large.nii", "NIfTI")):
        for kind, words in asked.items():
            told, peak = measured(folder / name, kind)
            within &= peak < MOST_MB
            lines.append(f"| {what} | {words} | {told[0]} | {told[1]} | {peak:.0f} |")
    return within


def many(folder: Path, lines: list[str]) -> bool:
    """Rows on listing a folder of many files; whether it stays within its bounds."""
    lines += ["", "## Listing: class folders of single-slice files, grouped to series", "",
              f"Files of 64 x 64 pixels and about {FILLERS + 25} elements, {FILES // SERIES} a series.", "",
              "| files | series | s | peak MB |", "|---|---|---|---|"]
    within = True
    plane = STORED[0].repeat(6, 0).repeat(7, 1)[:64, :64].copy()
    for count in (FILES // 10, FILES):
        root = folder / f"set{count}"
        for place in range(count):
            number = place // (FILES // SERIES)
            draw(root / f"class{number % 2}" / f"scan{number}" / f"{place:05d}", plane, fillers=FILLERS,
                 SeriesInstanceUID=f"1.2.{number + 1}", PatientID=f"{number}", ImagePositionPatient=[0, 0, float(place)],
                 ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1])
        told, peak = measured(root, "list")
        within &= float(told[0]) < MOST_S and peak < MOST_MB
        lines.append(f"| {count:,} | {told[1]} | {told[0]} | {peak:.0f} |")
    return within


def main() -> None:
    """Write the page; exit 1 where an input is answered badly, or memory or time are above their bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table-only", action="store_true", help="print the table of inputs, and write nothing")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        serve(lambda: reader(given.serve, given.kind), GUARD_BYTES, given.serve, "FILE")
        return
    rows = [look(name, make) for name, make in cases().items()]
    bad = [row for row in rows if row.end == "answered badly"]
    table = ["| input | end | what it is, with the notes; or why not |", "|---|---|---|",
             *(f"| {row.name} | {row.end} | {row.answer.replace('|', '/')} |" for row in rows)]
    if given.table_only:
        print("\n".join(table))
        sys.exit(1 if bad else 0)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        within = large(Path(folder), lines)
    with tempfile.TemporaryDirectory() as folder:
        within &= many(Path(folder), lines)
    said = facts()
    head = ["# Series and volumes: wrong ones, and large ones", "",
            f"{len(rows)} inputs, drawn: {sum(row.end == 'read' for row in rows)} read, {sum(row.end == 'refused' for row in rows)} "
            f"refused in one sentence, {len(bad)} answered badly. Made by `python -m benchmarks.robustness.volumes` on {said['date']}.", "",
            f"Bounds: {MOST_MB:.0f} MB for a volume, {MOST_S:.0f} s and {MOST_MB:.0f} MB for a folder: {'kept' if within else 'NOT kept'}."]
    text = "\n".join([*head, *lines, "", "## Inputs", "", *table]) + "\n"
    (RESULTS / "volumes.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(0 if within and not bad else 1)


if __name__ == "__main__":
    main()
