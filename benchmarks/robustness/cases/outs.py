"""Inputs that tempt to a wrong answer, outputs that would cost somebody their files, names that break.

Owns: OUT_CASES. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.robustness.cases.case import TAUGHT, TINY, VANILLA, Case, Check, Make, both, good, picture, text
from benchmarks.robustness.cases.folders import copied

PLAIN = TINY + " --method vanilla"
EXPORT = "rd-export --student-dir student"
BENCH = "rd-bench artifact --batch 1 --threads 1 --paths array --seconds 0.1 --samples 20 --no-roofline --no-profile"
ADAPT = ("rd-adapt --teacher mobilenetv3_small_050 --teacher-weights random --teacher-size 64 --phantom-images 48 16 16 --phantom-size 64 "
         "--bank-runtime torch --epochs 1")


def images(folder: Path, finished: Path) -> None:
    """A folder of class folders that could be trained on."""
    good(folder)


def keeps(name: str, content: str | None = None) -> Check:
    """What must lie in the folder still, with its content."""

    def check(folder: Path) -> str:
        path = folder / name
        if not os.path.lexists(path):
            return f"{name} is gone"
        return "" if content is None or path.read_text() == content else f"{name} has another content"

    return check


def linked(link: str, target: str) -> Make:
    """A link."""

    def make(folder: Path, finished: Path) -> None:
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(target)

    return make


def misnamed(name: bytes) -> Make:
    """Pictures, one of them under a name of bytes that are no UTF-8."""

    def make(folder: Path, finished: Path) -> None:
        good(folder)
        picture(folder / "data" / os.fsdecode(name), 77)

    return make


OUT_CASES: tuple[Case, ...] = (
    Case("outs: --out is the data, to be overwritten", VANILLA + " --out data --overwrite", 2, "which this run reads", images,
         keeps("data/a/00.png")),
    Case("outs: --out is a link to the data", VANILLA + " --out link --overwrite", 2, "which this run reads",
         both(images, linked("link", "data")), keeps("data/a/00.png")),
    Case("outs: --data is a link to --out", VANILLA.replace("--data data", "--data link") + " --out data --overwrite", 2,
         "which this run reads", both(images, linked("link", "data")), keeps("data/a/00.png")),
    Case("outs: --out inside the data", VANILLA + " --out data/student", 2, "lies inside --data", images),
    Case("outs: --out is a class of the data", VANILLA + " --out data/a --overwrite", 2, "lies inside --data", images,
         keeps("data/a/00.png")),
    Case("outs: --out holds the data", VANILLA.replace("--data data", "--data project/data") + " --out project --overwrite", 2,
         "holds --data", text("project/data/labels.csv", "image,label\n"), keeps("project/data/labels.csv")),
    Case("outs: --out holds the table of the data", VANILLA.replace("--data data", "--data data/labels.csv") + " --out data --overwrite", 2,
         "holds --data", both(images, text("data/labels.csv", "image,label\n")), keeps("data/labels.csv")),
    Case("outs: --out is the unlabelled images", VANILLA + " --unlabelled more --out more --overwrite", 2, "--unlabelled",
         both(images, text("more/a.png", "x")), keeps("more/a.png")),
    Case("outs: --out is this folder", PLAIN + " --out . --overwrite", 2, "the folder this command runs in",
         text("notes.txt", "mine"), keeps("notes.txt", "mine")),
    Case("outs: --out is the folder above", PLAIN + " --out .. --overwrite", 2, "runs in or one above"),
    Case("outs: --out is everything", PLAIN + " --out / --overwrite", 2, "runs in or one above"),
    Case("outs: --out is nothing", PLAIN + " --out '' --overwrite", 2, "name a folder of its own", text("notes.txt", "mine"),
         keeps("notes.txt", "mine")),
    Case("outs: --out with a tilde that no shell resolved", PLAIN + " --out '~/student'", 2, "~", check=lambda folder: (
        "a folder ~ was made" if (folder / "~").exists() else "")),
    Case("outs: --out is a folder that none of our commands wrote", PLAIN + " --overwrite", 2, "none of our commands wrote",
         text("student/thesis.txt", "mine"), keeps("student/thesis.txt", "mine")),
    Case("outs: --out has a manifest of somebody else", PLAIN + " --overwrite", 2, "none of our commands wrote",
         both(text("student/manifest.json", '{"name": "app", "files": {}}'), text("student/app.js", "mine")),
         keeps("student/app.js", "mine")),
    Case("outs: a note was added to a finished student", PLAIN + " --overwrite", 2, "notes.txt",
         both(copied("student"), text("student/notes.txt", "mine")), keeps("student/notes.txt", "mine")),
    Case("outs: the card of a finished student was edited", PLAIN + " --overwrite", 2, "changed since",
         both(copied("student"), text("student/README.md", "mine")), keeps("student/README.md", "mine")),
    Case("outs: a finished student is replaced when asked", PLAIN + " --overwrite", 0, "report", copied("student"),
         keeps("student/manifest.json")),
    Case("outs: somebody's own folder where a run keeps its state", PLAIN, 2, "none of our commands wrote",
         text("student.partial/chapter.txt", "mine"), keeps("student.partial/chapter.txt", "mine")),
    Case("outs: somebody's own folder where a run keeps its state, to be overwritten", PLAIN + " --overwrite", 2,
         "none of our commands wrote", text("student.partial/settings.json", '{"theme": "dark"}'),
         keeps("student.partial/settings.json", '{"theme": "dark"}')),
    Case("outs: a file where a run keeps its state", PLAIN + " --overwrite", 2, "in the way", text("student.partial", "mine"),
         keeps("student.partial", "mine")),
    Case("outs: a link where a run keeps its state", PLAIN + " --overwrite", 2, "in the way",
         both(text("precious/a.txt", "mine"), linked("student.partial", "precious")), keeps("precious/a.txt", "mine")),
    Case("outs: --out inside a finished student", PLAIN + " --out student/again", 2, "has finished", copied("student")),
    Case("outs: --out is a link that leads to itself", PLAIN + " --out loop", 2, "leads to itself", linked("loop", "loop")),
    Case("outs: --out has a name of 250 letters", PLAIN + f" --out {'x' * 250}", 2, "shorter"),
    Case("outs: --out has a name with a line break", PLAIN + " --out 'a\nb'", 2, "cannot be seen"),
    Case("outs: --out is not UTF-8", PLAIN + " --out 'a\udcff'", 2, "not UTF-8"),
    Case("outs: --data is not UTF-8", VANILLA.replace("--data data", "--data 'd\udcff'"), 2, "not UTF-8"),
    Case("outs: an image whose name is not UTF-8", VANILLA, 1, "not UTF-8", misnamed(b"a/b\xffd.png")),
    Case("outs: an image whose name is not UTF-8, left out", VANILLA + " --skip-bad-images", 0, "1 skipped", misnamed(b"a/b\xffd.png")),
    Case("outs: a class whose name is not UTF-8", VANILLA, 1, "not UTF-8", misnamed(b"c\xff/0.png")),
    Case("outs: --out with letters that mean something to a shell", PLAIN + " --out 'run[v2] *?'", 0, "report",
         check=keeps("run[v2] *?/manifest.json")),
    Case("outs: --out named *, beside somebody's hidden folders", PLAIN + " --out '*'", 0, "report",
         text(".other.tmp-123.d/work", "mine"), keeps(".other.tmp-123.d/work", "mine")),
    Case("outs: a list of bad images where somebody's file has that name", VANILLA, 1, "student.bad-images-2.csv",
         both(images, text("data/a/03.png", ""), text("student.bad-images.csv", "mine")), keeps("student.bad-images.csv", "mine")),
    Case("outs: --bank is the data", TAUGHT + " --data data --bank data", 2, "--bank", images, keeps("data/a/00.png")),
    Case("outs: --bank inside the data", TAUGHT + " --data data --bank data/bank", 2, "--bank", images),
    Case("outs: --bank holds --out", TAUGHT + " --bank work --out work/student", 2, "which this run writes"),
    Case("outs: somebody's own folder where a bank is built", TAUGHT + " --bank features", 2, "none of our commands wrote",
         text("features.partial/notes.txt", "mine"), keeps("features.partial/notes.txt", "mine")),
    Case("outs: weights inside --out", VANILLA + " --student-weights student --overwrite", 2, "--student-weights",
         both(images, copied("student")), keeps("student/model.safetensors")),
    Case("outs: the config inside --out", PLAIN + " --config student/run.yaml --overwrite", 2, "--config",
         text("student/run.yaml", "seed: 1\n"), keeps("student/run.yaml")),
    Case("outs: adapt over its teacher", ADAPT.replace("mobilenetv3_small_050 --teacher-weights random", "student")
         + " --out student --overwrite", 2, "--teacher", copied("student"), keeps("student/manifest.json")),
    Case("outs: adapt over its data", ADAPT + " --data data --out data --overwrite", 2, "--data", images, keeps("data/a/00.png")),
    Case("outs: export over its student", EXPORT + " --out student --overwrite", 2, "--student-dir", copied("student"),
         keeps("student/manifest.json")),
    Case("outs: export into its student", EXPORT + " --out student/artifact", 2, "lies inside", copied("student")),
    Case("outs: export above its student", "rd-export --student-dir work/student --out work --overwrite", 2, "--student-dir",
         text("work/student/manifest.json", "{}"), keeps("work/student/manifest.json")),
    Case("outs: export over the folder of its key", EXPORT + " --sign keys/private.pem --out keys --overwrite", 2, "--sign",
         both(copied("student"), text("keys/private.pem", "x")), keeps("keys/private.pem")),
    Case("outs: export over somebody's folder", EXPORT + " --out mine --overwrite", 2, "none of our commands wrote",
         both(copied("student"), text("mine/notes.txt", "mine")), keeps("mine/notes.txt", "mine")),
    Case("outs: a report over its artifact", BENCH + " --out artifact --overwrite", 2, "which this run reads", copied("artifact"),
         keeps("artifact/model.onnx")),
    Case("outs: a report over somebody's folder", BENCH + " --overwrite", 2, "none of our commands wrote",
         both(copied("artifact"), text("bench/notes.txt", "mine")), keeps("bench/notes.txt", "mine")),
    Case("outs: a table of latencies over somebody's file", BENCH + " --save-table labels.csv", 2, "no latency table",
         both(copied("artifact"), text("labels.csv", "image,label\n")), keeps("labels.csv", "image,label\n")),
)
