"""What a column of a table is for: the image, the split, the patient or lesion that images share; and which columns are not used.

Owns: the names that such columns bear, what their values must be like, words for splits. Does not own: labels (labels.py), finding
the files (located.py), proving groups apart and making splits (splits.py).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.data.labels import MISSING
from distill.data.located import Places
from distill.data.sources import SPLIT_WORDS, SUFFIXES
from distill.data.splits import check_groups, merge_groups
from distill.data.table_text import listed, plain, shown
from runtimes.errors import UserError

IMAGE_COLUMNS = ("image", "path")
IMAGE_NAMES = {  # without underscores; a column of these names holds images where there is no `image` or `path`
    "images", "imagepath", "imagefile", "imagefilename", "imagename", "imageid", "imageindex", "imageuid", "imagelink", "file", "filename",
    "filepath", "fname", "img", "imgpath", "imgname", "imgid", "imgfile", "imagefilepath", "relativepath", "fullpath", "filelocation",
    "isicid", "idcode", "dicomid", "scan", "scanpath", "volume", "volumepath", "volumename", "nifti", "niftipath"}
GROUP_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "group", "dup_group")
PATIENT = re.compile(r"(anon|anonymi[sz]ed|anonymous|deid|deidentified|dicom|pseudo|hashed|study|unique)?"
                     r"(patient|patienten|pat|pt|subject|participant|person|individual|volunteer|donor|animal|mouse)"
                     r"(id|ids|no|nr|num|number|code|key|name|uid|uuid|identifier|index|idx|hash|pseudonym)")
PATIENTS = {"patient", "patients", "subject", "subjects", "participant", "participants", "person", "pid", "mrn", "empi", "empianon",
            "anonid", "anonpatientid", "medicalrecordnumber", "hospitalnumber", "subid", "rid"}
SHARED = re.compile(r"(lesion|case|study|series|exam|examination|accession|acc|slide|wsi|video|clip|cine|eye|scan|volume|session|encounter|"
                    r"stay|hadm|specimen|sample|biopsy|block|tissue|nodule|tumou?r|breast|acquisition|recording|sequence|stack|visit|fundus|"
                    r"frameofreference|ct|mri|mr|cxr|report)"
                    r"(id|ids|no|nr|num|number|code|key|name|uid|identifier|index|idx|anon|hash|instanceuid)")
ALSO_SHARED = {"lesion", "case", "study", "series", "exam", "accession", "slide", "video", "clip", "eye", "scan", "session", "encounter",
               "specimen", "biopsy", "studyid", "seriesid"}  # may be a trial, a site, a side: taken only where values are many and small
LARGEST = {True: 0.4, False: 0.1}  # largest share of the images that one value may have, where the name is clear, where it is not
FEWEST = {True: 2, False: 10}  # values
SPLIT_NAMES = {"split", "set", "datasetsplit", "datasplit", "partition", "subset", "usage", "phase", "splitset", "traintest",
               "traintestsplit", "trainvaltest", "datasettype", "dataset", "fold", "mode", "part"}
IS_SPLIT = re.compile("(is|in)?(train|training|test|testing|val|valid|validation)")
MORE_SPLIT_WORDS = {  # beside those that folders may bear
    "training": "train", "trn": "train", "tr": "train", "trainset": "train", "train_set": "train", "training_set": "train",
    "learning": "train", "dev": "val", "validate": "val", "validating": "val", "vld": "val", "validation_set": "val",
    "val_set": "val", "valset": "val",
    "tuning": "val", "tune": "val", "publictest": "val", "testing": "test", "tst": "test", "ts": "test", "te": "test", "test_set": "test",
    "testset": "test", "holdout": "test", "hold_out": "test", "held_out": "test", "heldout": "test", "privatetest": "test"}
METADATA = {
    *IMAGE_COLUMNS, *GROUP_COLUMNS,
    "label", "split", "id", "index", "key", "file", "filename", "name", "image_id", "study", "study_id", "series",
    "series_id", "visit", "follow_up", "age", "sex", "gender", "male", "female", "race", "ethnicity", "weight",
    "height", "width", "rows", "columns", "view", "view_position", "ap_pa", "frontal_lateral", "laterality", "side",
    "source", "site", "centre", "center", "hospital", "device", "scanner", "machine", "manufacturer", "model", "year",
    "date", "time", "fold", "mask", "count", "number",
}
MORE_METADATA = {  # not findings to versions from --uncertain on
    "train", "test", "val", "valid", "is_train", "is_training", "is_test", "is_testing", "is_val", "is_valid", "is_validation", "in_train",
    "in_test", "in_val", "unnamed_0", "unnamed_0_1", "patient_age", "patient_sex", "patient_gender", "sex_f", "sex_m", "has_mask", "slice",
    "frame", "is_male", "is_female"}


def squeezed(name: str) -> str:
    """A column's name for comparison with lists of names: lower case, letters and digits only."""
    return plain(name).replace("_", "")


def nothing(cell: str) -> bool:
    """Whether a cell of a group or a split is as good as empty."""
    return cell.casefold() in MISSING or cell.casefold() == "none"


def split_of(cell: str) -> str | None:
    """The split that a word means, in any case; None for no such word."""
    word = plain(cell)
    return SPLIT_WORDS.get(word) or MORE_SPLIT_WORDS.get(word)


def image_column(path: Path, columns: Mapping[str, Sequence[str]], notes: list[str]) -> str:
    """The column that names images: `image` or `path`, else the one clear name; UserError says which it could be."""
    exact = [name for spelling in IMAGE_COLUMNS for name in columns if plain(name) == spelling]
    alike = exact or [name for name in columns if squeezed(name) in IMAGE_NAMES]
    if not alike:
        raise UserError(f"{path}, line 1: no column image or path; it has {listed(list(columns))}{_image_guess(path, columns)}")
    places = Places(path.parent)

    def located(name: str) -> int:
        return sum(len(places.find(cell)) == 1 for cell in columns[name][:20])

    best = alike[0] if len(alike) == 1 else max(alike, key=located)  # the first where all are equal
    twins = [name for name in alike if name != best and plain(name) == plain(best)]
    if twins:
        raise UserError(f"{path}, line 1: columns {best} and {twins[0]} have one name but for case; rename one")
    if not exact:
        notes.append(f"images are named by column {best}")
    return best


def _image_guess(path: Path, columns: Mapping[str, Sequence[str]]) -> str:
    """What to say where no column bears the name of one of images: that the header is missing, or which column holds file names."""
    if any(name.lower().endswith(SUFFIXES) for name in columns):
        return "; that looks like a row of images: write a header above it, such as image,label"
    places = Places(path.parent)
    like = [name for name, cells in columns.items()
            if all(cell.lower().endswith(SUFFIXES) or places.find(cell) for cell in cells[:20])]
    return f"; {like[0]} holds file names: rename it to image" if like else ""


def split_column(path: Path, columns: Mapping[str, Sequence[str]], notes: list[str]) -> tuple[str | None, list[str]]:
    """The column of given splits, and those that only look like one, which is noted.

    It is `split`, or else the one column of nothing but words for splits.
    """
    exact = [name for name, cells in columns.items() if plain(name) == "split" and any(cells)]
    if len(exact) > 1:
        raise UserError(f"{path}, line 1: columns {exact[0]} and {exact[1]} have one name but for case; rename one")
    if exact:
        return exact[0], []
    clear: list[str] = []
    aside: list[str] = []
    for name, cells in columns.items():
        words = sorted(set(cells))
        parts = {split_of(word) for word in words}
        named = squeezed(name) in SPLIT_NAMES or IS_SPLIT.fullmatch(squeezed(name)) is not None
        coded = named and all(re.fullmatch("[0-9]{1,2}|true|false|yes|no", word.lower()) for word in words)
        if "train" in parts and None not in parts and len(parts) > 1:
            clear.append(name)
        elif len(words) > 1 and (coded or (parts > {None} and (named or "train" in parts)) or (named and parts == {"val", "test"})):
            aside.append(name)
            notes.append(f"column {name} ({', '.join(map(shown, words[:5]))}) may be a split and is not used as one; for that, name it "
                         "split and write train, val and test")
    if len({tuple(map(split_of, columns[name])) for name in clear}) > 1:
        raise UserError(f"{path}, line 1: columns {' and '.join(clear)} both hold splits, and differ; rename the one that counts to split")
    if clear:
        notes.append(f"the split is that of column {clear[0]}")
    return (clear[0] if clear else None), aside


def group_columns(
    path: Path, columns: Mapping[str, Sequence[str]], labels: NDArray[np.int64] | NDArray[np.float32], split: NDArray[np.object_],
    notes: list[str],
) -> tuple[dict[str, list[str]], list[str]]:
    """Columns whose values images share, patients first, and the columns that only looked like such; every decision is noted.

    Beside `patient` and its like, a column counts whose name is that of a subject, a lesion, a study and so on, if some value repeats.
    One that names less than a patient (a lesion) counts where no patient is known, if its values are many, and leave room for a split.
    """
    values = {name: ["" if nothing(cell) else cell for cell in cells] for name, cells in columns.items()}
    groups = {name: cells for spelling in GROUP_COLUMNS for name, cells in values.items() if plain(name) == spelling and any(cells)}
    aside: list[str] = []
    for name, cells in values.items():
        if name not in groups and (squeezed(name) in PATIENTS or PATIENT.fullmatch(squeezed(name))) and _repeats(cells):
            if _largest(cells) > 0.5:
                aside.append(name)
                notes.append(f"{name} is not taken as a patient: one value has {100 * _largest(cells):.0f} % of the images")
            else:
                groups[name] = cells
                notes.append(f"images that share {name} stay in one split")
    patients = [cells for name, cells in groups.items() if plain(name) not in ("group", "dup_group")]
    for name, cells in values.items():
        clear = SHARED.fullmatch(squeezed(name)) is not None and squeezed(name) not in ALSO_SHARED
        if name in groups or not (clear or squeezed(name) in ALSO_SHARED) or not _repeats(cells):
            continue
        distinct = len(set(cells) - {""})
        why = ""
        if any(all(column) for column in patients):  # who every image is of says more
            continue
        if any(not _within(cells, column) for column in patients):
            why = "its values are shared by several patients"
        elif _largest(cells) > LARGEST[clear] or distinct < FEWEST[clear]:
            why = f"{distinct:,} values, one with {100 * _largest(cells):.0f} % of the images, look like a site or a side"
        elif not split.any() and not _room([*groups.values(), cells], labels):
            why = "a class has it in fewer than 3 groups, too few for a split; images that share it may be in two splits"
        if why:
            aside.append(name)
            notes.append(f"{name} repeats and is not used to keep images together: {why}")
            continue
        try:
            check_groups(split, {name: cells})
        except UserError as error:
            if not clear:
                aside.append(name)
                notes.append(f"{name} is in several of the given splits, which are kept: see whether its images are alike")
                continue
            raise UserError(f"{path}: {error}; if images that share {name} are unlike, take the column out of the table") from None
        groups[name] = cells
        notes.append(f"images that share {name} stay in one split")
    return groups, aside


def _repeats(cells: Sequence[str]) -> bool:
    counts = Counter(filter(None, cells))
    return len(counts) > 1 and max(counts.values()) > 1


def _largest(cells: Sequence[str]) -> float:
    counts = Counter(filter(None, cells))
    return max(counts.values()) / counts.total()


def _within(cells: Sequence[str], patients: Sequence[str]) -> bool:
    """Whether no value is shared by two patients."""
    home: dict[str, set[str]] = defaultdict(set)
    for cell, patient in zip(cells, patients, strict=True):
        if cell and patient:
            home[cell].add(patient)
    return all(len(owners) == 1 for owners in home.values())


def _room(groups: Sequence[Sequence[str]], labels: NDArray[np.int64] | NDArray[np.float32]) -> bool:
    """Whether a split by these groups can be made: every class (of several findings: the images) in three groups at least."""
    merged = merge_groups(groups, len(labels))
    sets = [merged] if labels.ndim == 2 else [merged[labels == label] for label in np.unique(labels[labels >= 0])]
    return all(len(np.unique(members)) >= 3 for members in sets)


def unused(header: Sequence[str], used: Iterable[str], notes: list[str]) -> None:
    """Note, once, every column that nothing was read from."""
    used = set(used)
    left = [name or f"number {place}, which has no name" for place, name in enumerate(header, 1) if name not in used]
    if left:
        notes.append(f"columns not used: {listed(left)}")
