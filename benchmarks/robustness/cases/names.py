"""Inputs that tempt to a wrong answer: names that write into reports, programs and spreadsheets, calibration that nothing shows.

Owns: NAME_CASES. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.robustness.cases.case import TINY, VANILLA, Case, Check, Make, good, picture, table
from benchmarks.robustness.cases.folders import copied
from runtimes.files.folder import read_json, sha256_file, write_json
from runtimes.files.spreadsheet import read_table
from runtimes.text import markdown

CSV = VANILLA.replace("--data data", "--data data/labels.csv")
QUICK = " --size 32 --bootstrap 5 --threads 1"
HTML, FORMULA, MARKS = "</script><img src=x onerror=alert(1)>", "=cmd(' /C calc')!A0", "a`b`c`[d](http://x) {{7*7}} ??/"
FENCE = "zz\n\n## Run it\n\n```python\nimport os\n```\n"
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def labelled(classes: Sequence[str], names: Sequence[str] = ("p", "q")) -> Make:
    """A CSV of 24 pictures with these class names, whatever they hold; names begin the names of the files."""

    def make(folder: Path, finished: Path) -> None:
        rows = []
        for index in range(24):
            name = f"{names[index % len(names)]}{index}.png"
            picture(folder / "data" / name, index)
            rows.append([name, classes[index % len(classes)]])
        with (folder / "data" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "label"], *rows])

    return make


def findings(column: str) -> Make:
    """A CSV of two findings, one of this name."""
    return table("image,cyst,mass", change=lambda lines: [f"image,cyst,{column}", *lines[1:]])


def class_folders(name: str) -> Make:
    """Class folders, one of this name."""
    return lambda folder, _: good(folder, ("a", name))


def broken(name: str) -> Make:
    """Class folders with a file of this name that is no picture."""

    def make(folder: Path, finished: Path) -> None:
        good(folder)
        (folder / "data" / "a" / name).write_text("no picture")

    return make


def formula_file(folder: Path, finished: Path) -> None:
    """A CSV beside its pictures, one of them broken: its path begins with an equals sign."""
    for index in range(24):
        picture(folder / f"{index}.png", index)
    (folder / "=1+12.png").write_text("no picture")
    rows = [f"{index}.png,{'ab'[index % 2]}" for index in range(24)]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows, "=1+12.png,a"]), encoding="utf-8")


def same_names(folder: Path) -> str:
    """Classes and files come back from our tables as they were given, no cell runs, and no page or card holds what is not seen."""
    classes = {row["label"] for row in csv.DictReader((folder / "data" / "labels.csv").open(newline="", encoding="utf-8"))}
    images = {path.name for path in (folder / "data").glob("*.png")}
    student = folder / "student"
    rows = read_table(student / "split.csv")
    if {row["label"] for row in rows} != classes or {row["key"] for row in rows} != images:
        return "split.csv does not give the names back"
    for name in ("split.csv", "predictions.csv"):
        cells = [cell for row in csv.reader((student / name).open(newline="", encoding="utf-8")) for cell in row]
        if wrong := [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]:
            return f"{name}: {wrong[0]!r} is a formula to a spreadsheet"
    card = (student / "README.md").read_text(encoding="utf-8")
    if not all(markdown(name) in card for name in classes):
        return "the card does not show a class as it is"
    return unseen(student)


def unseen(folder: Path) -> str:
    """What a report or a card holds that nobody sees, or that a browser would run."""
    for path in (*folder.rglob("*.md"), *folder.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        if found := UNSEEN.search(text):
            return f"{path.name} holds {found[0]!r}"
        if path.suffix == ".html" and (("onerror=alert" in text and "<img src=x" in text) or "Content-Security-Policy" not in text):
            return f"{path.name} runs what a name says"
    return ""


def guarded_list(folder: Path) -> str:
    """The list of bad images names them, and no cell of it runs."""
    with (folder / "student.bad-images.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    return "" if any(cell.endswith("12.png") for cell in cells) and not any(cell[:1] in tuple("=+-@") for cell in cells) else "a cell runs"


def not_called_calibrated(folder: Path) -> str:
    """Neither card nor graph of the artifact says calibrated."""
    from onnx import load

    text = (folder / "artifact" / "README.md").read_text(encoding="utf-8")
    if "| not calibrated" not in text or "| calibrated" in text:
        return "the card calls probabilities calibrated that are not shown to be"
    told = {one.key: one.value for one in load(folder / "artifact" / "model.onnx").metadata_props}
    return "" if "not_calibrated" in told["rd.calibration"] else "the graph does not say that it is not calibrated"


def said_in_card(word: str) -> Check:
    """That the student's card and page say this."""
    return lambda folder: "" if all(word in (folder / "student" / name).read_text(encoding="utf-8")
                                    for name in ("README.md", "report.html")) else f"card or page do not say {word!r}"


def of_an_earlier_version(folder: Path) -> None:
    """A student whose record says nothing of how its temperature was tested."""
    config = read_json(folder / "config.json")
    del config["rd"]["not_calibrated"], config["rd"]["few_images"]
    write_json(folder / "config.json", config)
    manifest = read_json(folder / "manifest.json")
    manifest["files"]["config.json"] = sha256_file(folder / "config.json")
    write_json(folder / "manifest.json", manifest)


REFUSED = {"an escape sequence": "esc\x1b[2J", "a bell": "bell\x07", "a line break": "a1\nb", "a code fence": FENCE.rstrip(),
           "a right-to-left mark": "\u202egnp.exe", "a letter without width": "cy\u200bst", "a soft hyphen": "cy\u00adst"}

NAME_CASES: tuple[Case, ...] = (
    *(Case(f"names: class folder with {what}", VANILLA, 1, "rename the class", class_folders(name)) for what, name in REFUSED.items()),
    *(Case(f"names: label with {what}", CSV, 1, "rename the class", labelled(("a", name)))
      for what, name in REFUSED.items() if what in ("an escape sequence", "a code fence", "a right-to-left mark")),
    Case("names: label of 4,000 letters", CSV, 1, "4,000 letters", labelled(("a", "L" * 4000))),
    Case("names: class folder of 101 letters", VANILLA, 1, "101 letters", class_folders("L" * 101)),
    Case("names: finding with a right-to-left mark", CSV, 1, "rename the class", findings("m\u202eass")),
    Case("names: class that is HTML, formula and Markdown", CSV + QUICK, 0, "student/", labelled((HTML, FORMULA, MARKS)), same_names),
    Case("names: files that are formulas", CSV + QUICK, 0, "student/", labelled(("a", "b"), ("=1+1", "@SUM(1)", "-2+3", "'=x", "+1;=2")),
         same_names),
    Case("names: files with escapes and marks of direction", CSV + QUICK, 0, "student/", labelled(("a", "b"), ("e\x1b[2J", "\u202egnp")),
         same_names),
    Case("names: classes in Arabic, Chinese and German", CSV + QUICK, 0, "student/", labelled(("سرطان", "肺炎", "Größe > 3")), same_names),
    Case("names: broken file with an escape sequence", VANILLA, 1, "e\\x1b[2J12.png", broken("e\x1b[2J12.png"), guarded_list),
    Case("names: broken file that is a formula", VANILLA.replace("--data data", "--data labels.csv"), 1, "=1+12.png", formula_file,
         guarded_list),
    Case("names: --out with an escape sequence", f"{TINY} --method vanilla --out 'st\x1b[2Ju`d`'", 2, "cannot be seen", check=unseen),
    Case("calibration: 16 validation images", f"{TINY} --method vanilla", 0, "not calibrated",
         check=said_in_card("not calibrated")),
    Case("calibration: 3 validation images", VANILLA + QUICK, 0, "not calibrated", lambda folder, _: good(folder),
         said_in_card("not calibrated")),
    Case("calibration: thresholds on few images", f"{TINY} --method vanilla --seed 1", 0, "thresholds on few images"),
    Case("calibration: an artifact of such a student", "rd-export --student-dir student --out artifact --samples 5", 0, "not calibrated",
         copied("student"), not_called_calibrated),
    Case("calibration: its fp16, the temperature still 1", "rd-export --student-dir student --out artifact --samples 5 --precision fp16 "
         "--keep-upcast --max-flips 20%", 0, "not calibrated", copied("student"), not_called_calibrated),
    Case("calibration: a student of an earlier version", "rd-export --student-dir student --out artifact --samples 5", 0, "earlier version",
         copied("student", of_an_earlier_version), not_called_calibrated),
)
