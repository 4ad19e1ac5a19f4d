"""Inputs that tempt to a wrong answer, CSV files, archives and volumes that are misread.

Owns: TABLE_CASES. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.robustness.cases.case import VANILLA, Case, Check, Make, npz, picture, volume

RUN = VANILLA.replace("--data data", "--data data/labels.csv") + " --size 64 --bootstrap 5 --threads 1 --out student"
ARCHIVE = RUN.replace("data/labels.csv", "data.npz")
SCANS = RUN.replace("data/labels.csv", "data") + " --slices 5"
ADAPT = "rd-adapt --data data/labels.csv --method linear --teacher mobilenetv3_small_050 --teacher-weights random --epochs 1 --min-steps 1"
COUNT = 48


def cells(header: str, row: Callable[[int], str], above: str = "", end: str = "\n", encoding: str = "utf-8", names: str = "{:02d}.png",
          rows: int = COUNT) -> Make:
    """A table of noisy pictures named 00.png and so on, its lines made from their numbers."""

    def make(folder: Path, finished: Path) -> None:
        for index in range(rows):
            picture(folder / "data" / names.format(index), index)
        lines = [header, *(row(index) for index in range(rows))]
        (folder / "data" / "labels.csv").write_bytes((above + end.join(lines) + end).encode(encoding))

    return make


def labelled(*labels: str, header: str = "image,label", **form: str) -> Make:
    """A table whose labels are these, in turn."""
    return cells(header, lambda index: f"{index:02d}.png,{labels[index % len(labels)]}", **form)  # type: ignore[arg-type]


def ab(index: int) -> str:
    """Two classes, in pairs."""
    return "ab"[index // 4 % 2]


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with (folder / name).open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def learnt(*classes: str) -> Check:
    """The classes of the student are these."""

    def check(folder: Path) -> str:
        held = json.loads((folder / "student" / "metrics.json").read_text())["classes"]
        return "" if held == list(classes) else f"classes {held}, expected {list(classes)}"

    return check


def together(column: str) -> Check:
    """No value of a column is in two splits of the student."""

    def check(folder: Path) -> str:
        value = {row["image"]: row[column] for row in rows_of(folder, "data/labels.csv")}
        parts: dict[str, set[str]] = defaultdict(set)
        for row in rows_of(folder, "student/split.csv"):
            parts[value[row["key"]]].add(row["split"])
        apart = [name for name, held in parts.items() if len(held) > 1]
        return f"{column} {apart[0]} is in {' and '.join(sorted(parts[apart[0]]))}" if apart else ""

    return check


def kept(column: str, words: dict[str, str]) -> Check:
    """The splits of the student are those of a column."""

    def check(folder: Path) -> str:
        given = {row["image"]: words[row[column]] for row in rows_of(folder, "data/labels.csv")}
        moved = [row["key"] for row in rows_of(folder, "student/split.csv") if row["split"] != given[row["key"]]]
        return f"{len(moved)} images are not in the split given for them" if moved else ""

    return check


def untaught(folder: Path) -> str:
    """No image whose cell is not a label validates or tests."""
    bare = {row["image"] for row in rows_of(folder, "data/labels.csv") if row["label"] not in ("0", "1")}
    judged = [row["key"] for row in rows_of(folder, "student/split.csv") if row["key"] in bare and row["split"] != "train"]
    return f"{len(judged)} images of unknown label are judged by" if judged else ""


def holed(folder: Path, finished: Path) -> None:
    """Volumes whose background is NaN."""
    import nibabel

    for index in range(24):
        path = folder / "data" / "ab"[index % 2] / f"{index:02d}.nii.gz"
        volume(path, seed=index)
        voxels = np.asanyarray(nibabel.load(path).dataobj).copy()  # type: ignore[attr-defined]
        voxels[:4] = np.nan
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)


def filled(folder: Path) -> str:
    """The student's volumes stand with the fill they were trained with."""
    return "" if '"fill": -50.0' in (folder / "student" / "config.json").read_text() else "config.json does not hold the fill"


def cubes(count: int, **shape: int) -> np.ndarray:
    """Noise of whole grey levels, (count, depth, side, side)."""
    return np.random.default_rng(count).integers(0, 255, (count, shape.get("depth", 12), 28, 28)).astype(np.uint8)


VOLUMES = {"train_images": cubes(16), "val_images": cubes(8), "test_images": cubes(9)[:8]}
SPLIT = {"Training": "train", "VALID": "val", "hold-out": "test"}

TABLE_CASES: tuple[Case, ...] = (
    # who and what images share
    Case("tables: lesion_id repeats", RUN, 0, "images that share lesion_id",
         cells("image,label,lesion_id", lambda i: f"{i:02d}.png,{ab(i)},L{i // 4}"), together("lesion_id")),
    Case("tables: an accession number repeats", RUN, 0, "images that share Accession Number",
         cells("image,label,Accession Number", lambda i: f"{i:02d}.png,{ab(i)},{i // 4}"), together("Accession Number")),
    Case("tables: mrn in two given splits", RUN, 1, "values of mrn",
         cells("image,label,mrn,split", lambda i: f"{i:02d}.png,{ab(i)},{i // 4},{('train', 'val', 'test')[i % 3]}")),
    Case("tables: a lesion in two given splits", RUN, 1, "take the column out",
         cells("image,label,lesion_id,split", lambda i: f"{i:02d}.png,{ab(i)},{i // 4},{('train', 'val', 'test')[i % 3]}")),
    Case("tables: studies like sites are named, not grouped", RUN, 0, "look like a site",
         cells("image,label,study_id", lambda i: f"{i:02d}.png,{ab(i)},S{i % 3}"), learnt("a", "b")),
    Case("tables: columns not used are named", RUN, 0, "columns not used: hue, score",
         cells("image,label,hue,score", lambda i: f"{i:02d}.png,{ab(i)},h{i % 3},{i}")),
    # given splits
    Case("tables: the split in a column set, words of any case", RUN, 0, "the split is that of column set",
         cells("image,label,set", lambda i: f"{i:02d}.png,{ab(i)},{tuple(SPLIT)[i // 8 % 3]}"), kept("set", SPLIT)),
    Case("tables: two columns of splits that differ", RUN, 1, "differ; rename",
         cells("image,label,set,partition", lambda i: f"{i:02d}.png,{ab(i)},{('train', 'test')[i % 2]},{('test', 'train')[i % 2]}")),
    Case("tables: folds are no split, and named", RUN, 0, "fold (",
         cells("image,label,fold", lambda i: f"{i:02d}.png,{ab(i)},{i % 5}")),
    # labels
    Case("tables: two findings in one cell", RUN, 0, "No Finding is an image without any",
         labelled("Mass|Edema", "Mass", "Edema", "No Finding"), learnt("Edema", "Mass")),
    Case("tables: two findings in one cell where one class is asked", RUN + " --task multiclass", 2, "leave --task out",
         labelled("Mass|Edema", "Mass", "Edema")),
    Case("tables: a comma inside a class's name", RUN, 0, "2 classes",
         labelled('"tumour, ductal"', '"tumour, lobular"'), learnt("tumour, ductal", "tumour, lobular")),
    Case("tables: -1 as CheXpert writes it", RUN, 0, "cells of -1 are taken as unknown", labelled("1", "0", "-1"), untaught),
    Case("tables: -1 as positive", RUN + " --uncertain positive", 0, "taken as positive", labelled("1", "0", "-1"), learnt("0", "1")),
    Case("tables: --uncertain of a word it does not know", RUN + " --uncertain maybe", 2, "uncertain", labelled("1", "0", "-1")),
    Case("tables: --uncertain with folders", RUN.replace("data/labels.csv", "data.npz") + " --uncertain positive", 2, "--uncertain", npz()),
    Case("tables: rd-adapt, --uncertain of a word it does not know", ADAPT + " --uncertain maybe", 2, "uncertain", labelled("1", "0")),
    Case("tables: findings of 1 and -1 alone", RUN, 2, "--uncertain negative",
         cells("image,cyst,mass", lambda i: f"{i:02d}.png,{1 - i % 2 * 2},{1 - i // 2 % 2 * 2}")),
    Case("tables: NA among labels", RUN, 0, "taken as no label", labelled("a", "b", "a", "b", "NA"), learnt("a", "b")),
    Case("tables: #N/A of a spreadsheet", RUN, 0, "taken as no label", labelled("a", "b", "a", "b", "#N/A"), learnt("a", "b")),
    Case("tables: a class called none", RUN, 0, "none (16)", labelled("mild", "none", "severe"), learnt("mild", "none", "severe")),
    Case("tables: a letter without width", RUN, 0, "read as they look", labelled("a", "b", "a\u200b", "b"), learnt("a", "b")),
    Case("tables: full-width letters", RUN, 1, "look alike", labelled("cyst", "mass", "\uff43yst")),
    Case("tables: a Cyrillic letter", RUN, 1, "look alike", labelled("cyst", "mass", "\u0441yst")),
    Case("tables: a dot at the end", RUN, 1, "look alike", labelled("cyst", "mass", "cyst.")),
    Case("tables: True and False beside 0 and 1", RUN, 0, "words are read as 0 and 1 in nodule",
         cells("image,cyst,nodule", lambda i: f"{i:02d}.png,{i % 2},{i % 4 > 1}"), learnt("cyst", "nodule")),
    Case("tables: one-hot columns as classes", RUN + " --task multiclass", 0, "3 classes",
         cells("image,NV,MEL,BCC", lambda i: f"{i:02d}.png,{','.join(str(float(place == i % 3)) for place in range(3))}"),
         learnt("BCC", "MEL", "NV")),
    Case("tables: columns that are not one-hot as classes", RUN + " --task multiclass", 2, "of them 1 in line 3",
         cells("image,NV,MEL,BCC", lambda i: f"{i:02d}.png,1,{i % 2},0")),
    Case("tables: BI-RADS 4A among numbers", RUN, 0, "classes are words", labelled("2", "3", "5", "4A"), learnt("2", "3", "4A", "5")),
    Case("tables: ages as labels", RUN, 1, "measured", cells("image,label", lambda i: f"{i:02d}.png,{20 + i * 1.37:.2f}")),
    Case("tables: names of images as labels", RUN, 1, "rather than classes", cells("image,label", lambda i: f"{i:02d}.png,{i:02d}")),
    Case("tables: one label for all", RUN, 1, "every label", labelled("a")),
    Case("tables: a label of 4,000 letters", RUN, 1, "4,000 letters", labelled("a", "b", "c" * 4000)),
    # forms
    Case("tables: sep= above the header", RUN, 0, "2 classes",
         cells("image;label", lambda i: f"{i:02d}.png;{ab(i)}", above="sep=;\r\n", end="\r\n"), learnt("a", "b")),
    Case("tables: comments above the header", RUN, 0, "2 classes",
         cells("image,label", lambda i: f"{i:02d}.png,{ab(i)}", above="# by a, b\n# in 2020\n"), learnt("a", "b")),
    Case("tables: UTF-16", RUN, 0, "2 classes",
         cells("image,label", lambda i: f"{i:02d}.png,{ab(i)}", encoding="utf-16"), learnt("a", "b")),
    Case("tables: Latin-1", RUN, 1, "iconv", labelled("a", "b", "\u00e9", encoding="latin-1")),
    Case("tables: a NUL in a cell", RUN, 1, "NUL", labelled("a", "b\0")),
    Case("tables: an image cell of 4,000 letters", RUN, 1, "too long",
         cells("image,label", lambda i: f"{'x' * 4000 if i == 5 else f'{i:02d}.png'},{ab(i)}")),
    Case("tables: a quote never closed", RUN, 1, "line 4: a quote",
         cells("image,label", lambda i: f"{i:02d}.png," + '"' * (i == 2) + ab(i))),
    Case("tables: no header", RUN, 1, "write a header", cells("00.png,a", lambda i: f"{i:02d}.png,{ab(i)}")),
    Case("tables: an Excel workbook called .csv", RUN, 1, "Excel", cells("PK\x03\x04", lambda i: "")),
    # files
    Case("tables: Windows drives", RUN, 0, "completed to the one file", cells("image,label", lambda i: f"C:\\scans\\{i:02d}.png,{ab(i)}")),
    Case("tables: names of two drives for one file", RUN, 1, "is taken for",
         cells("image,label", lambda i: f"{'CD'[i % 2]}:\\{i // 2:02d}.png,{ab(i)}")),
    Case("tables: names without a suffix", RUN, 0, "completed to the one file",
         cells("image_id,label", lambda i: f"ISIC_{i:02d},{ab(i)}", names="images/ISIC_{:02d}.png"), learnt("a", "b")),
    Case("tables: an address on the network", RUN, 1, "is an address",
         cells("image,label", lambda i: f"{'https://x.org/' * (i == 3)}{i:02d}.png,{ab(i)}")),
    # archives and volumes
    Case("tables: an archive of volumes", ARCHIVE + " --slices 5", 0, "volumes of 5", npz(**VOLUMES)),
    Case("tables: an archive of volumes cut along another axis", ARCHIVE + " --axis coronal", 2, "first axis", npz(**VOLUMES)),
    Case("tables: an archive with channels before rows", ARCHIVE, 1, "transpose",
         npz(**{f"{part}_images": cubes(count, depth=3) for part, count in (("train", 16), ("val", 8), ("test", 8))})),
    Case("tables: an archive of measured labels", ARCHIVE, 1, "measured", npz(train_labels=np.linspace(0.1, 1.5, 16))),
    Case("tables: an archive that has labels only for tests", ARCHIVE, 1, "no training image", npz(test_labels=np.arange(8)[:, None] % 3)),
    Case("tables: NaN around a scan", SCANS, 1, "--volume-fill", holed),
    Case("tables: NaN around a scan, filled", SCANS + " --volume-fill -50", 0, "volumes of 5", holed, filled),
    Case("tables: a fill that is no number", SCANS + " --volume-fill nan", 2, "--volume-fill", holed),
)
