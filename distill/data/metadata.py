"""What is known of images beside their pixels, as results may hold it: age, sex, view, side, modality, body part, site, scanner.

Owns: the names of these columns in tables, the words that their values may be, ages as bands, numbers in the place of all other texts,
what they count by split. Does not own: reading headers (dicom_headers.py) and tables (tables.py), tests on them (shifts.py, leaks.py).
Every text that is no word of this file becomes a number of its column (`site 2`): a header or a cell may hold a name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.data.splits import FRACTIONS

MODALITIES = {"CR", "CT", "DX", "ES", "GM", "IO", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "OT", "PT", "PX", "RF", "RG", "SC", "SM",
              "US", "XA", "XC"}
VIEWS = {"AP", "PA", "LL", "RL", "LAT", "LATERAL", "FRONTAL", "LLD", "RLD", "LLO", "RLO", "CC", "MLO", "ML", "LM", "LMO", "SIO", "FB",
         "XCC", "XCCL", "XCCM", "ISO", "A4C", "A2C", "PLAX", "PSAX", "AXIAL", "CORONAL", "SAGITTAL", "OBLIQUE"}
BODY_PARTS = {"ABDOMEN", "ANKLE", "AORTA", "ARM", "BLADDER", "BRAIN", "BREAST", "CAROTID", "CERVIX", "CHEST", "CLAVICLE", "COLON",
              "CSPINE", "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HEART", "HIP",
              "JAW", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "RETINA", "SHOULDER",
              "SKIN", "SKULL", "SPINE", "SPLEEN", "STOMACH", "THYROID", "TSPINE", "UTERUS", "WHOLEBODY", "WRIST"}
SEXES = {"M": "M", "MALE": "M", "MAN": "M", "BOY": "M", "F": "F", "FEMALE": "F", "WOMAN": "F", "GIRL": "F", "W": "F", "O": "O", "OTHER":
         "O", "0": "0", "1": "1", "2": "2"}
SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R", "B": "B", "BOTH": "B", "BILATERAL": "B", "U": "U", "UNPAIRED": "U"}
MAKERS = {  # the beginning of what makers of scanners call themselves, and their name here
    "SIEMENS": "Siemens", "GE": "GE", "PHILIPS": "Philips", "TOSHIBA": "Toshiba", "CANON": "Canon", "HITACHI": "Hitachi", "FUJIFILM":
    "Fujifilm", "FUJI": "Fujifilm", "AGFA": "Agfa", "CARESTREAM": "Carestream", "KODAK": "Kodak", "HOLOGIC": "Hologic", "LORAD":
    "Hologic", "SAMSUNG": "Samsung", "MINDRAY": "Mindray", "SHENZHEN MINDRAY": "Mindray", "ESAOTE": "Esaote", "SHIMADZU": "Shimadzu",
    "KONICA": "Konica Minolta", "UIH": "United Imaging", "UNITED IMAGING": "United Imaging", "NEUSOFT": "Neusoft", "SUPERSONIC":
    "SuperSonic", "BRUKER": "Bruker", "VARIAN": "Varian", "ELEKTA": "Elekta", "PLANMECA": "Planmeca", "SECTRA": "Sectra", "LEICA":
    "Leica", "HAMAMATSU": "Hamamatsu", "APERIO": "Leica", "TOPCON": "Topcon", "HEIDELBERG": "Heidelberg", "ZEISS": "Zeiss", "CARL ZEISS":
    "Zeiss", "NIDEK": "Nidek"}
# Columns of results, in their order, and the words that their values may be; of all others the values are numbered.
WORDS: dict[str, Mapping[str, str]] = {
    "modality": {word: word for word in MODALITIES}, "body_part": {word: word for word in BODY_PARTS},
    "view": {word: word for word in VIEWS}, "laterality": SIDES, "sex": SEXES, "age": {}, "site": {}, "scanner": {}}
NAMES = {  # of columns in tables, in lower case, letters and digits alone
    "modality": "modality", "bodypart": "body_part", "bodypartexamined": "body_part", "view": "view", "viewposition": "view", "appa":
    "view", "frontallateral": "view", "projection": "view", "laterality": "laterality", "imagelaterality": "laterality", "side":
    "laterality", "sex": "sex", "gender": "sex", "patientsex": "sex", "patientgender": "sex", "age": "age", "patientage": "age",
    "ageyears": "age", "site": "site", "centre": "site", "center": "site", "hospital": "site", "institution": "site", "institutionname":
    "site", "source": "site", "scanner": "scanner", "device": "scanner", "machine": "scanner", "manufacturer": "scanner",
    "manufacturermodelname": "scanner"}
IDENTITIES = ("patient", "group", "study", "series", "frame")  # columns whose values are the key of the first image that has them
MOST_VALUES = 60  # of a column: more say nothing of a split
OLDEST = 90  # years: the few who are older are one band


def known_value(column: str, text: str) -> str:
    """A text as a value of its column: a word, an age in years as a number, or itself, to be numbered; "" for nothing."""
    text = text.strip()
    if not text or text.lower() in ("nan", "none", "na", "n/a", "null", "unknown", "?"):
        return ""
    if column == "age":
        years = re.fullmatch(r"(\d{1,3})(?:\.\d+)?\s*([YMWD]?)(?:EARS?)?", text.upper())
        return "" if years is None else str(int(years[1]) // {"Y": 1, "": 1, "M": 12, "W": 52, "D": 365}[years[2]])
    return WORDS[column].get(text.upper(), text)


def of_table(columns: Mapping[str, Sequence[str]], squeeze: Any) -> dict[str, tuple[str, list[str]]]:
    """Columns of a table that are known here: (the table's name, values) by their names in results; the first of two that mean one."""
    known: dict[str, tuple[str, list[str]]] = {}
    for name, cells in columns.items():
        column = NAMES.get(squeeze(name))
        if column is None or column in known:
            continue
        values = [known_value(column, cell) for cell in cells]
        if any(values) and len(set(values)) <= (200 if column == "age" else MOST_VALUES):
            known[column] = name, values
    return known


def maker_of(text: str) -> str:
    """The name here of a scanner's maker, "" for a text that begins with none of them."""
    return next((name for start, name in MAKERS.items() if re.match(rf"{start}(?![A-Z])", text.strip().upper())), "")


def for_results(column: str, values: Sequence[str]) -> tuple[str, ...]:
    """Values of a column as results hold them: words as they are, ages in bands of ten years, other texts numbered, most frequent first.

    Of scanners a text may begin with the name of a maker and a bar: that name stays before the number.
    """
    if column == "age":
        return tuple("" if not value else f"{OLDEST}+" if int(value) >= OLDEST else f"{int(value) // 10 * 10}-{int(value) // 10 * 10 + 9}"
                     for value in values)
    words = set(WORDS[column].values())
    places = {value: number for number, (value, _) in enumerate(
        Counter(value for value in values if value and value not in words).most_common(), 1)}

    def shown(value: str) -> str:
        if value not in places:
            return value
        maker = maker_of(value.partition("|")[0]) if column == "scanner" else ""
        return f"{maker or column} {places[value]}"

    return tuple(map(shown, values))


def by_first(values: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """Identities as results hold them: the key of the first image that has each."""
    first: dict[str, str] = {}
    return tuple(first.setdefault(value, key) if value else "" for value, key in zip(values, keys, strict=True))


def result_columns(known: Mapping[str, Sequence[str]], keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """All columns of a set as results hold them, identities first; an identity counts where images share it, and once where two agree."""
    columns: dict[str, tuple[str, ...]] = {}
    for name in IDENTITIES:
        values = known.get(name)
        if values is None or max(Counter(filter(None, values)).values(), default=0) < 2:
            continue
        alias = by_first(values, keys)
        if alias not in columns.values():
            columns[name] = alias
    for name in WORDS:
        values = known.get(name)
        if values is not None and any(values) and len(set(values)) <= (200 if name == "age" else MOST_VALUES):
            columns[name] = for_results(name, values)
    return columns


def counts_by_split(columns: Mapping[str, Sequence[str]], split: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
    """How many images of each split have each value of a column, and of identities how many there are."""
    parts, table = list(split), {}
    for name, values in columns.items():
        if name in IDENTITIES:
            table[name] = {part: {"different": len({value for value, own in zip(values, parts, strict=True) if value and own == part})}
                           for part in FRACTIONS}
            continue
        counts = Counter(zip(parts, values, strict=True))
        order = sorted(set(values) - {""}, key=lambda value: (int(re.sub(r"\D+.*", "", value) or 0) if name == "age" else 0,
                                                              -sum(counts[part, value] for part in FRACTIONS), value))
        table[name] = {part: {value or "not known": counts[part, value] for value in (*order, *([""] if "" in values else []))}
                       for part in FRACTIONS}
    return table
