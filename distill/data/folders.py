"""Images in folders: which files are images, which folder names a split, which a class and which a patient.

Owns: the walk over linked and nested folders, masks and system folders left out, split, class and patient folders told apart or refused.
Does not own: Listing and the task (sources.py), opening images (scan.py), splitting (splits.py).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.dicom_series import series_rows
from distill.data.scan import BadImage
from distill.data.sources import SUFFIXES, Listing, class_order, read_task
from runtimes.errors import UserError
from runtimes.images.dicom_header import has_magic

SYSTEM_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "#snapshot", "@tmp", "@__thumb",
                "$recycle.bin", "recycler", "system volume information", "lost+found", "found.000", "network trash folder",
                "temporary items", "icon\r",
                "__pycache__"}
SIDECARS = (".json", ".xml", ".txt", ".csv", ".tsv", ".md", ".yaml", ".yml", ".html", ".log", ".pdf", ".xls", ".xlsx",
            ".doc", ".docx", ".rtf")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val",
               "development": "val", "tune": "val", "tuning": "val", "test": "test", "testing": "test", "holdout": "test"}
FILLERS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder", "samples", "cases"}
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "scans", "pictures"}
WRAPPERS = {*IMAGE_FOLDERS, "data", "dataset", "png", "jpg", "jpeg", "raw", "all", "classes"}
DICOM_INDEX = "DICOMDIR"  # lists the files of a disk; what it lists is beside it
MASK_FOLDERS = {"mask", "masks", "label", "labels", "seg", "segs", "segmentation", "segmentations", "annotation", "annotations",
                "ground_truth", "groundtruth", "gt", "contour", "contours"}
MASK_NAME = re.compile(r"(.+?)[ _.-]+(?:masks?|seg|segmentation|labels?|gt|contour|annotation)(?:[ _.-]*\d+)?", re.IGNORECASE)
PATIENT = re.compile(r"(?:patient|pat|pt|subject|subj|sub|case|person|participant|mrn)s?[ _-]*(?:id)?[ _-]*[a-z]{0,3}\d+[a-z]?",
                     re.IGNORECASE)
IDENTIFIER = re.compile(r"(?=.*\d)(?!\d+x$).+", re.IGNORECASE)  # a name with a digit, but no magnification
VISIT = re.compile(r"(?:study|series|visit|session|exam|scan|slices?|time|day|week|month|year)[ _-]*\d*", re.IGNORECASE)
DIAGNOSES = {"benign", "malignant", "normal", "abnormal", "positive", "negative", "pos", "neg", "healthy", "diseased", "disease", "control",
             "tumor", "tumour", "notumor", "cancer", "pneumonia", "covid", "nofinding", "finding", "yes", "no", "0", "1"}
MANY = 10  # folders that are too many to be mere kinds of one class, or classes that all hold folders of the same names
FEWEST = 3  # folders of patients a class needs, one for each split
MOST_VISITS = 100  # of one folder, through links
SHOWN = 5


@dataclass(frozen=True)
class FolderFile:
    """A file below the root: the names of the folders above it, as far as they still matter, and where it lies."""

    folders: tuple[str, ...]
    path: Path


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: images, other files that may be lost images, all folders by name, notes on what was left out."""

    images: list[FolderFile]
    others: list[FolderFile]
    folders: set[tuple[str, ...]]
    notes: list[str]

    def below(self, level: int) -> Tree:
        """The same without the folders of one level; what does not lie below that level is gone."""
        def cut(names: tuple[str, ...]) -> tuple[str, ...]:
            return (*names[:level], *names[level + 1:])

        images, others = ([replace(file, folders=cut(file.folders)) for file in kind if len(file.folders) > level]
                          for kind in (self.images, self.others))
        return replace(self, images=images, others=others, folders={cut(names) for names in self.folders if len(names) > level} - {()})

    def names(self, level: int) -> set[str]:
        """Names of the folders of a level that hold images."""
        return {file.folders[level] for file in self.images if len(file.folders) > level}


def hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left by an operating system or a network drive."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def image_files(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Files below a folder in sorted order: images, others that may be lost images, and notes on what was left out."""
    tree = read_tree(folder)
    return [file.path for file in tree.images], [file.path for file in tree.others], tree.notes


def read_tree(root: Path) -> Tree:
    """All that lies below a folder, through links to folders too; masks, and files known to be no images, are left out and named."""
    files, folders = _walk(root)
    masks = _masks(files, folders)
    rest = [file for file in files if file.path not in masks]
    images = [file for file in rest if _is_image(file.path)]  # asked once a file: it may have to be opened
    known = {file.path for file in images}
    beside = [file for file in rest if file.path not in known]
    sidecars = {file.path for file in beside if file.path.suffix.lower() in SIDECARS}
    indexes = {file.path for file in beside if file.path.name.upper() == DICOM_INDEX}
    notes = []
    for what, left in (("masks and annotations of images", masks), ("files that are no images", sidecars),
                       ("indexes of DICOM files", indexes)):
        if left:
            named = ", ".join(path.relative_to(root).as_posix() for path in sorted(left)[:SHOWN])
            notes.append(f"{len(left):,} {what} are left out: {named}{' ...' if len(left) > SHOWN else ''}")
    return Tree(images, [file for file in beside if file.path not in sidecars | indexes], folders, notes)


def _is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or by the mark of DICOM where it has none: archives number files, or name them by UID."""
    if path.name.lower().endswith(SUFFIXES):
        return True
    suffix = path.suffix[1:]
    return (not suffix or suffix.isdigit()) and path.name.upper() != DICOM_INDEX and path.is_file() and has_magic(path)


def _walk(root: Path) -> tuple[list[FolderFile], set[tuple[str, ...]]]:
    """Files and folders below a folder; the files of each first, then what lies in its folders. A link that has no end is refused."""
    files: list[FolderFile] = []
    folders: set[tuple[str, ...]] = set()
    visits: Counter[str] = Counter()
    waiting: list[tuple[Path, tuple[str, ...], tuple[str, ...]]] = [(root, (), (os.path.realpath(root),))]
    while waiting:
        folder, names, above = waiting.pop()
        visits[above[-1]] += 1
        if visits[above[-1]] > MOST_VISITS:
            raise UserError(f"{folder}: links lead to {above[-1]} more than {MOST_VISITS} times; keep one")
        try:
            entries = sorted((entry for entry in os.scandir(folder) if not hidden(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None
        inner = [entry for entry in entries if _is_folder(entry)]
        files += [FolderFile(names, folder / entry.name) for entry in entries if entry not in inner]
        for entry in reversed(inner):
            path = folder / entry.name
            real = os.path.realpath(path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
            if real in above:
                raise UserError(f"{path} is a link to {real}, a folder above it, and has no end; remove the link")
            folders.add((*names, entry.name))
            waiting.append((path, (*names, entry.name), (*above, real)))
    return files, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: as a file it is refused by name
        return False


def _stem(path: Path) -> str:
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[:len(path.name) - len(suffix)]


def _masks(files: list[FolderFile], folders: set[tuple[str, ...]]) -> set[Path]:
    """Files that are masks: named after an image beside them, or in a folder of masks beside the images they belong to."""
    stems: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for file in files:
        if file.path.name.lower().endswith(SUFFIXES):
            stems[file.folders].add(_stem(file.path))
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for names in folders:
        inside[names[:-1]].add(names[-1].lower())
    everywhere = set().union(*stems.values()) if stems else set()

    def is_mask(file: FolderFile) -> bool:
        named = MASK_NAME.fullmatch(_stem(file.path))
        if named and named[1] in stems[file.folders]:
            return True
        for depth, name in enumerate(file.folders):
            if not _for_masks(name):
                continue
            above = file.folders[:depth]
            if inside[above] & IMAGE_FOLDERS or (named and named[1] in everywhere) or _stem(file.path) in stems[above]:
                return True
        return False

    return {file.path for file in files if is_mask(file)}


def folder_split(name: str) -> str:
    """The split that a folder's name says (`Training`, `test-set`, `val_images`), "" for none."""
    words = _split_words(name)
    return SPLIT_NAMES.get(words[0], "") if len(words) == 1 and not re.search(r"\d", name) else ""


def _split_words(name: str) -> list[str]:
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(set|data)$", r" \1", name.strip().lower()))
    return [word for word in words if word and word not in FILLERS]


def list_folder(root: Path, task: str | None, series: bool = False) -> Listing:
    """List class folders below `root`, below folders of splits (`train`, `Testing`, ...), with or without patient folders in them.

    series: DICOM files that share a series are one volume, a tuple of paths.
    """
    tree = _unwrapped(read_tree(root))
    facts: dict[str, Any] = {"form": "folder", "notes": list(tree.notes)}
    outside = [file for file in tree.images if not file.folders]
    tree, split = _split_of(root, tree)
    outside += [file for file in tree.images if not file.folders and file not in outside]
    problems = [BadImage(str(file.path), *_strange(file.path)) for file in tree.others]
    problems += [BadImage(str(file.path), "no label", "lies beside the class folders, not in one") for file in outside]
    labelled = [place for place, file in enumerate(tree.images) if file.folders]
    images, split = [tree.images[place] for place in labelled], [split[place] for place in labelled]
    if not images:
        raise UserError(f"{root} holds no image in a class folder ({len(problems)} other files); expected {root}/CLASS/image.png or "
                        f"{root}/train/CLASS/image.png with one of {', '.join(SUFFIXES)}, or one CSV file")
    names, groups = _classes_and_patients(root, images, split, facts)
    tops = {file.folders[0] for file in images}
    if empty := sorted(names[0] for names in tree.folders if len(names) == 1 and names[0] not in tops and not _for_masks(names[0])):
        raise UserError(f"{root}: {', '.join(map(repr, empty[:SHOWN]))} {'holds' if len(empty) == 1 else 'hold'} no image; "
                        "a folder here is a class: give it images or remove it")
    _refuse_twins(names, images)
    items: list[Path | tuple[Path, ...]] = [file.path for file in images]
    keys = [file.path.relative_to(root).as_posix() for file in images]
    if series:
        items, keys, rows = _as_series(root, images, keys, list(zip(names, split, groups, strict=True)), facts)
        names, split, groups = ([values[row] for row in rows] for values in (names, split, groups))
    classes, numbered = class_order(names)
    if odd := [name for name in classes if _for_masks(name)]:
        facts["notes"].append(f"the folder {odd[0]} is taken as a class, though it is named like a folder of masks")
    kind = read_task(classes, task, numbered, facts)
    place = {name: index for index, name in enumerate(classes)}
    labels = np.asarray([place[name] for name in names], dtype=np.int64)
    columns = {"patient folder": groups} if any(groups) else {}
    return Listing(items, tuple(keys), labels, classes, kind, np.asarray(split, dtype=object), columns, problems, facts)


def _as_series(
    root: Path, images: list[FolderFile], keys: list[str], homes: list[tuple[str, str, str]], facts: dict[str, Any],
) -> tuple[list[Path | tuple[Path, ...]], list[str], list[int]]:
    """Volumes in the place of DICOM files, their keys and first rows. homes: class, split and patient of each file."""
    grouped = series_rows([file.path for file in images], keys, homes)
    if grouped.mixed:
        first, other = grouped.mixed[0]
        raise UserError(f"{root}: {len(grouped.mixed):,} files belong to a DICOM series of another class, split or patient, such as "
                        f"{keys[other]} and {keys[first]}; keep the files of a series together")
    if not grouped.items:
        raise UserError(f"{root} holds no slice of a DICOM series: {'; '.join(grouped.notes)}")
    facts["notes"] += grouped.notes
    return grouped.items, grouped.keys, grouped.rows


def _strange(path: Path) -> tuple[str, str]:
    if not path.exists():
        return "missing", "a link to nothing"
    return "unknown suffix", path.suffix or "no suffix"


def _unwrapped(tree: Tree) -> Tree:
    """The tree without folders that hold all the rest and name no class: `images/`, or whatever holds `train/`."""
    while True:
        tops, inner = tree.names(0), tree.names(1)
        if len(tops) != 1 or not inner or any(not file.folders for file in tree.images):
            return tree
        if not ({top.lower() for top in tops} & WRAPPERS or "train" in map(folder_split, inner)):
            return tree
        top = next(iter(tops))
        tree = replace(tree, folders={names for names in tree.folders if names[0] == top}).below(0)


def _split_of(root: Path, tree: Tree) -> tuple[Tree, list[str]]:
    """The tree without the folders of splits, and each image's split: they lie above the class folders, or in all of them."""
    tops_with_images = tree.names(0)  # an empty folder counts, but one whose masks were left out does not
    tops = sorted(names[0] for names in tree.folders if len(names) == 1 and (names[0] in tops_with_images or not _for_masks(names[0])))
    splits = {name: folder_split(name) for name in tops}
    alike = {SPLIT_NAMES[word] for name in tops for word in _split_words(name) if word in SPLIT_NAMES}
    if "train" in splits.values() or (tops and all(splits.values())) or {"train", "test"} <= alike:
        if strange := [name for name in tops if not splits[name]]:
            raise UserError(f"{root} has a train folder and also {', '.join(strange[:SHOWN])}; expected train, val and test, or with other "
                            "names of splits a CSV with a column split")
        level = 0
    elif any(folder_split(name) == "train" for name in tree.names(1)):
        level = 1
        if flat := [file for file in tree.images if len(file.folders) < 2 or not folder_split(file.folders[1])]:
            raise UserError(f"{root}: some class folders hold a folder train, and {flat[0].path} lies in no split; expected "
                            "train, val and test above the class folders or in each of them")
        splits = {name: folder_split(name) for name in tree.names(1)}
    else:
        return tree, [""] * len(tree.images)
    if twice := [name for name, count in Counter(filter(None, splits.values())).items() if count > 1]:
        raise UserError(f"{root} has several folders for the split {twice[0]}: "
                        f"{', '.join(name for name in sorted(splits) if splits[name] == twice[0])}; keep one")
    split = [splits[file.folders[level]] for file in tree.images if len(file.folders) > level]
    rest = tree.below(level)
    wrappers = {name.lower() for name in rest.names(0)}
    if len(wrappers) == 1 and wrappers <= WRAPPERS and rest.names(1) and all(len(file.folders) > 1 for file in rest.images):
        rest = rest.below(0)
    return rest, split


def _for_masks(name: str) -> bool:
    return name.lower().strip("_ ") in MASK_FOLDERS


def _classes_and_patients(root: Path, images: list[FolderFile], split: list[str], facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The class of each image and its patient ("" where no folder names one)."""
    tops, nested = {file.folders[0] for file in images}, [file for file in images if len(file.folders) > 1]
    homes: dict[str, set[str]] = defaultdict(set)
    for file in nested:
        homes[file.folders[1]].add(file.folders[0])
    patients = all(PATIENT.fullmatch(name) for name in tops)
    numbered = all(IDENTIFIER.fullmatch(name) for name in tops)
    # Class names repeat below patients; below classes it is the patients who differ.
    repeated = len(nested) == len(images) and len(homes) >= 2 and all(len(above) > 1 for above in homes.values())
    repeated = repeated and not all(VISIT.fullmatch(name) or PATIENT.fullmatch(name) for name in homes)
    known = bool({_spelt(name) for name in homes} & DIAGNOSES) and not {_spelt(name) for name in tops} & DIAGNOSES
    many = len(tops) >= MANY and len(tops) > 2 * len(homes)
    if repeated and (patients or (many and (known or numbered)) or (known and numbered)):
        facts["notes"].append(f"the {len(tops)} folders above the classes {', '.join(sorted(homes)[:SHOWN])} are taken as patients, such "
                              f"as {min(tops)}: each is kept on one side of the split")
        return [file.folders[1] for file in images], _apart([file.folders[0] for file in images], split, facts)
    if patients and len(tops) >= FEWEST:
        raise UserError(f"{root}: the folders {', '.join(sorted(tops)[:SHOWN])} are named like patients, and no folders below all of them "
                        f"name classes; arrange {root}/CLASS/PATIENT/image.png, or write a CSV with columns image, label and patient")
    if repeated and known:
        raise UserError(f"{root}: {', '.join(sorted(tops)[:SHOWN])} all hold folders named {', '.join(sorted(homes)[:SHOWN])}; which of "
                        f"them are the classes? Arrange {root}/CLASS/..., or write a CSV with columns image and label")
    if repeated and many:
        facts["notes"].append(f"{len(tops)} class folders all hold folders named {', '.join(sorted(homes)[:SHOWN])}; if they are patients, "
                              "write a CSV with columns image, label and patient")
    return [file.folders[0] for file in images], _patients_below(images, split, facts)


def _patients_below(images: list[FolderFile], split: list[str], facts: dict[str, Any]) -> list[str]:
    """The patient of each image, named by the first level of folders below the classes that is one of patients."""
    deepest = max(len(file.folders) for file in images)
    why = "are not taken as patients"
    for level in range(1, deepest):
        names = {file.folders[level] for file in images if len(file.folders) > level}
        groups = ["/".join(file.folders[1:level + 1]) if len(file.folders) > level else "" for file in images]
        called = all(PATIENT.fullmatch(name) for name in names)
        if not (called or len(names) >= MANY or (len(names) > FEWEST and all(IDENTIFIER.fullmatch(name) for name in names))):
            continue
        patients: dict[str, set[str]] = defaultdict(set)
        for row, (file, group) in enumerate(zip(images, groups, strict=True)):
            patients[file.folders[0]].add(group or f"image {row}")
        if len(set(groups) - {""}) < 2 or min(map(len, patients.values())) < FEWEST:
            why = "cannot be taken as patients, for a class has fewer than three of them"
            break
        facts["notes"].append(f"the {len(set(groups) - {''}):,} folders in the class folders are taken as patients, such as "
                              f"{min(filter(None, groups))}: each is kept on one side of the split")
        return _apart(groups, split, facts)
    inner = sorted({file.folders[1] for file in images if len(file.folders) > 1})
    if len(inner) > 1:
        shown = ", ".join(inner[:SHOWN]) + (" ..." if len(inner) > SHOWN else "")
        facts["notes"].append(f"the folders in the class folders ({shown}) {why}: images are divided one by one; "
                              "a CSV with columns image, label and patient says who is who")
    return [""] * len(images)


def _apart(groups: list[str], split: list[str], facts: dict[str, Any]) -> list[str]:
    """Patients of given splits, who are told apart by split: folders are often numbered anew in each, but one name in two is noted."""
    where: dict[str, set[str]] = defaultdict(set)
    for group, part in zip(groups, split, strict=True):
        if group and part:
            where[group].add(part)
    if shared := sorted(group for group, parts in where.items() if len(parts) > 1):
        facts["notes"].append(f"{len(shared)} patient folders are named alike in several splits, such as {shared[0]} in "
                              f"{' and '.join(sorted(where[shared[0]]))}: if they are the same patients, the split leaks")
    return [f"{part}/{group}" if part and group else group for group, part in zip(groups, split, strict=True)]


def _spelt(name: str) -> str:
    """A class name for comparison: whatever case, spaces, underscores, hyphens, invisible letters and Unicode form it is written with."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if unicodedata.category(letter) != "Cf").strip()
    sign = plain[len(plain.rstrip("+-")):]  # HER2+ and HER2- are two classes
    words = [word for word in re.split(r"[\s_-]+", plain.rstrip("+-")) if word]
    return (" " if any(word.isdigit() for word in words) else "").join(words) + sign


def _refuse_twins(names: list[str], images: list[FolderFile]) -> None:
    first: dict[str, tuple[str, Path]] = {}
    for name, file in zip(names, images, strict=True):
        other, where = first.setdefault(_spelt(name), (name, file.path.parent))
        if other != name:
            raise UserError(f"the class folders {other!r} ({where}) and {name!r} ({file.path.parent}) differ only in how the name is "
                            "written; spell one class one way")
