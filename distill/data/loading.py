"""--data to an ImageSet: listed, scanned, split and checked before anything is trained.

Owns: unlabelled images, what becomes of bad images, whether every class can be learnt, the facts kept of a set.
Does not own: the forms of --data (named.py, folders.py, sources.py, tables.py), opening images (scan.py), which are copies (copies.py),
splitting (splits.py).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.burned_text import TEXT
from distill.data.copies import find_copies, find_near_copies, join_near
from distill.data.dicom_patients import with_header_groups
from distill.data.dicom_series import note_series, series_rows
from distill.data.folders import image_files
from distill.data.hiding import hides, with_hidden_names
from distill.data.image_set import ImageSet
from distill.data.leaks import guess_labels, sentence
from distill.data.metadata import counts_by_split, result_columns
from distill.data.named import list_data
from distill.data.scan import BadImage, BadImages, ImageRecord, complaint, mixed_depths, scan
from distill.data.shifts import find_shifts
from distill.data.signs import signs_of
from distill.data.sources import SPLITS, Listing, check_task
from distill.data.splits import check_groups, complete_splits, merge_groups
from distill.phantom.volumes import DEPTHS
from runtimes.errors import USAGE, UserError
from runtimes.images.volumes import VolumeSpec, is_volume
from runtimes.text import class_name_problem, is_utf8

WINDOW_IMAGES = 4096  # 16-bit training images the window is read from, evenly spaced: more do not move a percentile
MOST_SLICES = 32  # of a volume, where --slices does not say: more cost time, and neighbours look alike
# The names may be right, and the process's own idea of names wrong: said where that is so.
LOCALE = "" if sys.getfilesystemencoding().lower() == "utf-8" else (
    f", or set PYTHONUTF8=1: this process reads file names as {sys.getfilesystemencoding()}")
COPIES = {"duplicate", "leak", "contradicting labels", "constant"}
SHOWN = 5  # examples in a note


def _with_unlabelled(listing: Listing, folder: Path, series: bool) -> Listing:
    if not folder.is_dir():
        raise UserError(f"--unlabelled {folder} is not a folder; expected one with images anywhere below it")
    paths, others, notes = image_files(folder)
    if not paths:
        raise UserError(f"--unlabelled {folder} holds no image ({len(others)} other files)")
    keys = [f"unlabelled/{path.relative_to(folder).as_posix()}" for path in paths]
    items: list[Path | tuple[Path, ...]] = list(paths)
    if series:
        grouped = series_rows(paths, keys, [("", "", "")] * len(paths))
        items, keys, notes = grouped.items, grouped.keys, [*notes, *grouped.notes]
    if clash := set(keys) & set(listing.keys):
        raise UserError(f"--unlabelled {folder}: {min(clash)} is also the name of an image in --data; "
                        "rename the folder unlabelled there")
    shape = (len(items), *listing.labels.shape[1:])
    missing = np.full(shape, np.nan, np.float32) if listing.labels.ndim == 2 else np.full(shape, -1, np.int64)
    part = np.full(len(items), "train" if listing.split.any() else "", dtype=object)
    strange = [BadImage(str(path), "unknown suffix", path.suffix or "no suffix") for path in others]
    return replace(
        listing, images=[*listing.images, *items], keys=(*listing.keys, *keys),
        labels=np.concatenate([listing.labels, missing]), split=np.concatenate([listing.split, part]),
        groups={name: [*values, *[""] * len(items)] for name, values in listing.groups.items()},
        known={name: [*values, *[""] * len(items)] for name, values in listing.known.items()},
        problems=[*listing.problems, *strange], facts={**listing.facts, "notes": [*listing.facts.get("notes", []), *notes]},
    )


def _keep(listing: Listing, rows: NDArray[np.int64]) -> Listing:
    if len(rows) == len(listing.keys):
        return listing
    images = listing.images
    return replace(
        listing, images=images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows.tolist()],
        keys=tuple(listing.keys[row] for row in rows.tolist()), labels=listing.labels[rows], split=listing.split[rows],
        groups={name: [values[row] for row in rows.tolist()] for name, values in listing.groups.items()},
        known={name: [values[row] for row in rows.tolist()] for name, values in listing.known.items()},
    )


def load_images(
    data: str, *, task: str | None = None, label: str | None = None, seed: int = 0, unlabelled: Path | None = None,
    skip_bad_images: bool = False, phantom_images: tuple[int, int, int] | None = None, phantom_size: int = 96,
    volume: VolumeSpec | None = None, windows: Sequence[tuple[float, float]] = (), uncertain: str = "unknown", keep_together: str = "near",
    hide_names: str = "never", earlier: bool = False, series: bool = False, examine: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """List, scan, split and check the images of --data; nothing is trained on that was not opened once.

    `facts` says how it was done: form, task_from, split_from, counts, class_counts, channels, dtype, window, windows, sizes,
    median_size, skipped, skipped_paths, copies, left_out, near_copies, notes. Raises BadImages, one report of every bad image,
    unless they are to be skipped, and UserError for everything else a user can mend. volume: how volumes are cut, should the
    data hold any; the number of slices is read off the data where it is 0. windows: of physical values, three at most. uncertain: what -1
    means in a table. keep_together: what a split that is made here holds on one side: patients and near copies (near), patients (group) or
    neither (none). hide_names: whether keys are hashes (always, never, or auto: of DICOM and NIfTI); notes name files all the same. series:
    DICOM files in folders are volumes, by their series. earlier: as versions without these read data, so that the split of an old student
    comes out again: copies by the bytes of files, no patients by folders, tables as they were read. examine: whether labels that signs give
    away and splits that differ are looked for (facts guess, shifts, warnings).
    """
    check_task(task)
    listing = list_data(data, task, label, seed, phantom_images, phantom_size, None if earlier else uncertain, series)
    if misspelt := [name for name in listing.classes if not is_utf8(name)]:
        raise UserError(f"class {misspelt[0]!r} has a name that is not UTF-8, and names are written into files; rename it{LOCALE}")
    if problem := next(filter(None, map(class_name_problem, listing.classes)), ""):
        raise UserError(problem)
    if earlier and listing.facts["form"] == "folder":
        listing = replace(listing, groups={}, facts={**listing.facts, "notes": []})
    drawn = len(listing.keys) if listing.synthetic else 0
    if unlabelled is not None:
        listing = _with_unlabelled(listing, unlabelled, series)
    if windows and listing.synthetic:
        raise UserError(f"--windows are about physical values such as HU; {data} is drawn in grey levels; leave them out", USAGE)
    cut = _volumes(listing, volume or VolumeSpec())
    cut = replace(cut, scaling="values") if cut is not None and windows else cut
    facts = {"data": data, **listing.facts, "notes": list(listing.facts.get("notes", []))}
    if keep_together != "none":
        check_groups(listing.split, listing.groups)
    elif listing.groups:
        facts["notes"].append(f"--keep-together none: images of one {' or '.join(listing.groups)} may be in several splits")
    images = listing.images
    paths = list(listing.keys)
    if isinstance(images, list):  # else an array or the phantom, which is not drawn just to be named
        paths = [str(image) if isinstance(image, Path) else key for image, key in zip(images, paths, strict=True)]
    misnamed = [BadImage(path, "name is not UTF-8", f"rename it{LOCALE}", row)
                for row, (path, key) in enumerate(zip(paths, listing.keys, strict=True)) if not is_utf8(path) or not is_utf8(key)]
    records: list[ImageRecord | None] = [
        ImageRecord(hashlib.sha256(key.encode()).hexdigest(), phantom_size, phantom_size, False, "uint8",
                    depth=DEPTHS[1] if cut is not None else 1)
        for key in listing.keys[:drawn]]
    if drawn < len(paths):  # what is drawn by our own code is not scanned
        rest, faults = scan(images[drawn:], listing.keys[drawn:], volume=cut, values=bool(windows), progress=progress)
        records += rest
        problems = [*listing.problems, *(replace(problem, row=problem.row + drawn) for problem in faults)]
    else:
        problems = list(listing.problems)
    problems += misnamed
    wrong = {problem.row for problem in problems}
    pictures = ["" if record is None or row in wrong else record.digest if earlier else record.pixels or record.digest
                for row, record in enumerate(records)]
    problems += find_copies(paths, pictures, listing.labels, listing.split, listing.classes)
    if facts.pop("published", False):
        repeats = [problem for problem in problems if problem.reason in COPIES]
        problems = [problem for problem in problems if problem.reason not in COPIES]
        if repeats:
            counts = ", ".join(f"{count} {name}" for name, count in Counter(problem.reason for problem in repeats).most_common())
            shown = "; ".join(map(str, repeats[:SHOWN]))
            facts["notes"].append(f"the published set holds {counts}; kept, so that results compare: {shown}")
    copies = [problem for problem in problems if problem.reason == "duplicate"]
    problems = [problem for problem in problems if problem.reason != "duplicate"]
    if copies:
        many = "exact copy is" if len(copies) == 1 else "exact copies are"
        facts["notes"].append(f"{len(copies)} {many} left out, one of each picture is kept: "
                              + "; ".join(f"{problem.path} ({problem.detail})" for problem in copies[:SHOWN]))
    mixed = mixed_depths(paths, records)
    if problems and not skip_bad_images:
        raise BadImages("\n".join(filter(None, [complaint(problems, len(paths)), mixed])), problems)
    if mixed:
        raise UserError(mixed)
    first = {problem.path: problem for problem in reversed(problems)}
    facts["skipped"] = dict(Counter(problem.reason for problem in first.values()))
    facts["skipped_paths"] = sorted(first)
    facts["copies"] = len(copies)
    bad = {problem.row for problem in (*problems, *copies)}
    rows = np.asarray([row for row in range(len(paths)) if row not in bad], dtype=np.int64)
    if not len(rows):
        raise BadImages(f"no image is left after skipping the bad ones: {complaint(problems, len(paths))}", problems)
    listing = _keep(listing, rows)
    records = [records[row] for row in rows.tolist()]
    named = set(listing.groups)
    headers = [None if record is None else record.header for record in records]
    facts["notes"] += note_series(headers) if cut is None else _notes_of_volumes(listing.keys, records)
    listing = with_header_groups(listing, headers, facts["notes"])
    if added := {name: values for name, values in listing.groups.items() if name not in named}:
        if keep_together == "none":
            facts["notes"].append(f"--keep-together none: images of one {' or '.join(added)} may be in several splits")
        else:
            check_groups(listing.split, added)
    seen = [record for record in records if record is not None]
    hidden = not listing.synthetic and hides(hide_names, listing.images, seen)
    return _finished(listing, seen, facts, seed, cut, keep_together, windows, hidden=hidden, examine=examine)


def _notes_of_volumes(keys: Sequence[str], records: Sequence[ImageRecord | None]) -> list[str]:
    """What reading the volumes says, once for each kind of sentence: how many, and the first."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for key, record in zip(keys, records, strict=True):
        for note in record.notes if record is not None else ():
            kinds.setdefault(re.sub(r"[\d.,]+", "#", note), []).append((key, note))
    return [f"{len(rows):,} {'volumes' if len(rows) > 1 else 'volume'}, such as {rows[0][0]}: {rows[0][1]}" for rows in kinds.values()]


def _volumes(listing: Listing, volume: VolumeSpec) -> VolumeSpec | None:
    """How the images become slices when they are volumes; None for images. A mixture of both is an error."""
    if listing.facts.get("form") == "phantom-volumes":
        return replace(volume, axis="axial", scaling="window", window=(0.0, 255.0))
    images = listing.images
    if isinstance(images, np.ndarray):
        if images.ndim < 5:
            return None
        if volume.axis != "axial":
            raise UserError(f"--axis {volume.axis} is about NIfTI files; the slices of an .npz lie along the first axis of a volume", USAGE)
        as_they_are = images.dtype == np.uint8 and volume.scaling == "percentile"
        return replace(volume, scaling="window", window=(0.0, 255.0)) if as_they_are else volume
    kinds: dict[str, int] = {}
    for row, item in enumerate(images if isinstance(images, list) else []):
        stack = item.ndim == 4 if isinstance(item, np.ndarray) else isinstance(item, tuple) or is_volume(item)
        kinds.setdefault("image" if not stack else "array" if isinstance(item, np.ndarray) else "file", row)
    if len(kinds) > 1:
        pair = " and ".join(str(images[row]) if isinstance(images[row], Path) else listing.keys[row] for row in sorted(kinds.values())[:2])
        raise UserError(f"volumes and images are mixed: {pair}; one network reads one kind")
    return volume if "file" in kinds else None


def _finished(
    listing: Listing, records: list[ImageRecord], facts: dict[str, Any], seed: int, cut: VolumeSpec | None, keep_together: str,
    windows: Sequence[tuple[float, float]] = (), *, hidden: bool, examine: bool,
) -> ImageSet:
    """Split what is left, check that every class can be learnt, and write down the facts."""
    columns = list(listing.groups.values())
    grouping = [] if keep_together == "none" else columns
    together = merge_groups([*grouping, [record.pixels or record.digest for record in records]], len(records))
    unit = "image" if not grouping else "patient" if _of_patients(listing) else "group"
    links = find_near_copies(records)
    alike = None
    if links and keep_together == "near":
        alike = _joined(listing, together, links, facts if set(listing.split.tolist()) != set(SPLITS) else None)
        together = alike if set(listing.split.tolist()) != set(SPLITS) else together
    split, facts["split_from"] = complete_splits(listing.split, listing.labels, listing.classes, together, seed, unit)
    _note_near_copies(listing.keys, records, split, links, facts)
    _note_text(listing.keys, records, facts)
    rows = np.flatnonzero(split != "")
    facts["left_out"] = len(split) - len(rows)  # unlabelled images of patients who validate or test
    listing, records = _keep(replace(listing, split=split), rows), [records[row] for row in rows.tolist()]
    alike = None if alike is None else alike[rows]
    _check_classes(listing, facts)
    groups = None
    if columns:
        columns = list(listing.groups.values())
        roots = merge_groups(columns, len(records)).tolist()
        named = [" ".join(filter(None, (values[row] for values in columns))) or listing.keys[row] for row in roots]
        groups = np.asarray(named, dtype=object)
    colour = sum(record.colour for record in records)
    if 0 < colour < len(records):
        facts["notes"].append(f"{colour:,} of {len(records):,} images are in colour, the others grey: all taken as RGB")
    sizes = Counter(f"{record.height}x{record.width}" for record in records)
    facts |= {
        "channels": 3 if colour else 1, "dtype": records[0].dtype,
        "sizes": dict(sizes.most_common(20)), "sizes_found": len(sizes),
        "median_size": [int(np.median([record.height for record in records])), int(np.median([record.width for record in records]))],
    }
    if cut is not None:
        depths = [record.depth for record in records]
        facts |= {"slices_stated": True} if cut.slices else {}
        cut = replace(cut, slices=cut.slices or min(max(depths), MOST_SLICES))
        facts |= {"volume": cut.as_dict(), "depths": [min(depths), int(np.median(depths)), max(depths)]}
    result = ImageSet(listing.images, listing.keys, listing.labels, listing.classes, listing.task,
                      listing.split.astype(str), groups, tuple(record.digest for record in records), listing.synthetic, facts, cut,
                      bool(windows), alike=alike)
    if windows:
        facts["window"] = [min(low for low, _ in windows), max(high for _, high in windows)]
        facts |= {"windows": [list(window) for window in windows]} if len(windows) > 1 else {}
    else:
        facts["window"] = [0, 255] if facts["dtype"] == "uint8" else find_window(result)
    facts["unlabelled"] = int((~result.labelled).sum())
    result = with_hidden_names(result) if hidden else result
    people = {} if result.groups is None else {"patient" if _of_patients(listing) else "group": result.groups.tolist()}
    beside = result_columns({**listing.known, **people}, result.keys)
    if beside:
        facts["columns"] = counts_by_split(beside, result.split.tolist())
    if examine and not listing.synthetic:
        counted = "image" if groups is None else next(iter(people))
        _examine(listing, records, merge_groups(list(listing.groups.values()), len(records)), counted, facts)
    return replace(result, columns=beside, facts=result.facts | facts)


def _note_text(keys: tuple[str, ...], records: list[ImageRecord], facts: dict[str, Any]) -> None:
    """Whether some of the images that were looked at hold what looks like burned-in text, with an example."""
    looked = [row for row, record in enumerate(records) if record.letters >= 0]
    texts = [row for row in looked if records[row].letters >= TEXT]
    if looked:
        facts["burned_text"] = {"looked_at": len(looked), "with_text": len(texts)}
    if texts:
        facts["notes"].append(f"{len(texts)} of {len(looked)} images looked at seem to hold burned-in text, such as {keys[texts[0]]}: it "
                              "may name a patient, and report.html shows pictures")


def _of_patients(listing: Listing) -> bool:
    """Whether what images share is a patient: else it may be a lesion, or copies."""
    return any("patient" in name.lower() for name in listing.groups)


def _examine(listing: Listing, records: list[ImageRecord], groups: NDArray[np.int64], unit: str, facts: dict[str, Any]) -> None:
    """What is wrong with a set that every image for itself is right of: labels that signs give away, splits that differ; all is noted."""
    signs = signs_of(listing.known, records, listing.images, listing.keys, listing.classes)
    train = np.flatnonzero(listing.split == "train")
    own = [replace(sign, values=sign.values[train]) for sign in signs]
    guess = guess_labels(own, listing.labels[train], listing.classes, groups[train])
    facts["guess"], facts["shifts"] = guess, find_shifts(signs, listing.split, groups, unit)
    facts["warnings"] = [*([sentence(guess)] if guess.get("clear") else []), *(shift["sentence"] for shift in facts["shifts"])]
    facts["notes"] += facts["warnings"]


def _joined(
    listing: Listing, groups: NDArray[np.int64], links: list[tuple[int, int]], facts: dict[str, Any] | None,
) -> NDArray[np.int64]:
    """Groups with near copies joined to one, as far as enough is left for every split; both are noted in facts, where a split is made."""
    several = listing.labels.ndim == 2
    positives = (np.isfinite(listing.labels).any(axis=1, keepdims=True) if several
                 else listing.labels[:, None] == np.arange(len(listing.classes)))
    groups, joined, loose = join_near(groups, links, positives)
    if facts is None:
        return groups
    facts["near_copies"] = {"kept_together": len(joined), "too_alike": len(loose)}
    if len(joined):
        facts["notes"].append(f"{len(joined):,} images are near copies of others, such as {listing.keys[links[0][0]]} and "
                              f"{listing.keys[links[0][1]]}: kept on one side of the split (--keep-together near)")
    if len(loose):
        facts["notes"].append(f"{len(loose):,} images look so alike that kept together they would leave too few for the other splits; "
                              "they are divided one by one, or by patient where a table or folders name patients")
    return groups


def _note_near_copies(
    keys: tuple[str, ...], records: list[ImageRecord], split: NDArray[np.object_], links: list[tuple[int, int]], facts: dict[str, Any],
) -> None:
    apart = [(a, b) for a, b in links if split[a] and split[b] and split[a] != split[b] and records[a].pixels != records[b].pixels]
    facts.setdefault("near_copies", {})["pairs_in_two_splits"] = len(apart)
    if apart:
        shown = " and ".join(f"{keys[row]} ({split[row]})" for row in apart[0])
        facts["notes"].append(f"{len(apart):,} pairs of nearly the same picture are in different splits, such as {shown}")


def _check_classes(listing: Listing, facts: dict[str, Any]) -> None:
    several = listing.labels.ndim == 2
    hits = listing.labels == 1 if several else listing.labels[:, None] == np.arange(len(listing.classes))
    counts = {part: hits[listing.split == part].sum(axis=0).tolist() for part in SPLITS}
    facts["counts"] = {part: int((listing.split == part).sum()) for part in SPLITS}
    facts["class_counts"] = {part: dict(zip(listing.classes, counts[part], strict=True)) for part in SPLITS}
    if empty := [part for part in SPLITS if not facts["counts"][part]]:
        raise UserError(f"split {', '.join(empty)} has no image left; give it images, or give no split to have it made")
    for part in SPLITS:
        absent = [name for name, count in zip(listing.classes, counts[part], strict=True) if not count]
        if absent and part == "train" and not several:
            raise UserError(f"no training image of class {', '.join(absent)}; give some, or remove the class")
        if absent:
            facts["notes"].append(f"{part} has no {'positive' if several else 'image'} of {', '.join(absent)}")


def find_window(images: ImageSet) -> list[int]:
    """The grey levels [low, high] at the 0.5 and 99.5 percentile of the 16-bit training images, rounded, low < high."""
    rows = images.rows("train")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), WINDOW_IMAGES)).astype(np.int64))]
    levels = np.zeros(65536, dtype=np.int64)
    for row in rows.tolist():
        levels += np.bincount(images.raw(row).reshape(-1), minlength=65536)
    ranked = np.cumsum(levels)
    ends = []
    for share in (0.005, 0.995):
        place = share * (int(ranked[-1]) - 1)
        below, above = np.searchsorted(ranked, [int(place) + 1, min(int(place) + 2, int(ranked[-1]))])
        ends.append(round(float(below + (place - int(place)) * (above - below))))
    low, high = ends
    return [low, high] if low < high else [min(low, 65534), min(low, 65534) + 1]


def split_table(images: ImageSet) -> list[dict[str, Any]]:
    """One row an image: key, split, and label (a class name) or one label_<finding> of 0 and 1; "" where unlabelled."""
    table: list[dict[str, Any]] = []
    for key, part, label in zip(images.keys, images.split.tolist(), images.labels, strict=True):
        row: dict[str, Any] = {"key": key, "split": part}
        if images.task == "multilabel":
            for name, value in zip(images.classes, label.tolist(), strict=True):
                row[f"label_{name}"] = "" if np.isnan(value) else int(value)
        else:
            row["label"] = images.classes[int(label)] if label >= 0 else ""
        table.append(row)
    return table
