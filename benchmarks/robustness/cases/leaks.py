"""What must not leave the house: a patient's name planted wherever a user can put one, images and labels of patients in an artifact.

Owns: LEAK_CASES, the search for a planted word. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.robustness.cases.case import VANILLA, Case, Check, both, text
from benchmarks.robustness.cases.folders import agreed, copied

WORD = "JOHNDOE"
EXPORT = "rd-export --samples 5 --golden-images 8"
MOVED = f"{EXPORT} --student-dir ward/{WORD}/student --out {WORD}"


def clean(name: str, also: Check = lambda folder: "") -> Check:
    """Whether an artifact was written and no byte of it, nor of an archive in it, holds the word."""

    def check(folder: Path) -> str:
        files = [path for path in (folder / name).rglob("*") if path.is_file()]
        if not files:
            return f"no artifact in {name}"
        for path in files:
            data = path.read_bytes()
            if zipfile.is_zipfile(io.BytesIO(data)):
                with zipfile.ZipFile(path) as archive:
                    data += b"".join(one.encode() + archive.read(one) for one in archive.namelist())
            if any(one.encode(code) in data for one in (WORD, WORD.lower()) for code in ("utf-8", "utf-16-le")):
                return f"{path.name} says {WORD}"
        return also(folder)

    return check


def no_patients(folder: Path) -> str:
    """Whether pictures, labels or hashes of images stand in an artifact."""
    page, proof = (folder / "artifact" / "parity.html").read_text(), json.loads((folder / "artifact" / "parity.json").read_text())
    if "data:image/png" in page:
        return "parity.html shows images"
    return "parity.json tells labels or hashes" if any({"label", "pixels_sha256"} & set(one) for one in proof["worst"]) else ""


def moved(folder: Path, finished: Path) -> None:
    """A student in a patient's folder."""
    shutil.copytree(finished / "student", folder / "ward" / WORD / "student")


def old_student(folder: Path, finished: Path) -> None:
    """A student folder of an earlier version, whose teacher, data and weights were named by their paths."""
    shutil.copytree(finished / "student", folder / "student")
    path = folder / "student" / "manifest.json"
    held = json.loads(path.read_text())
    held.pop("teacher_public")
    where = f"ward/{WORD}/labels.csv"
    held |= {"teacher": f"hf:{WORD}/net", "command": f"rd-distill --data={where}", "data": {**held["data"], "data": where, "form": "csv"}}
    held["settings"] |= {"student_weights": f"ward/{WORD}/start.pth", "second_teacher": f"~/{WORD}"}
    path.write_text(json.dumps(held))


def own_key(folder: Path, finished: Path) -> None:
    """A key named after a patient."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    shutil.copytree(finished / "student", folder / "student")
    (folder / f"{WORD}.pem").write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def planted_table(folder: Path) -> None:
    """A table whose place, name, columns, patients, files, EXIF and PNG text all name a patient."""
    root = folder / f"in_{WORD}"
    (root / WORD).mkdir(parents=True)
    rows, random = [], np.random.default_rng(0)
    for place in range(36):
        note, exif = PngImagePlugin.PngInfo(), Image.Exif()
        note.add_text("Patient", WORD)
        exif[270] = WORD
        name = f"{WORD}/{WORD}_{place}.png"
        Image.fromarray(random.integers(0, 255, (40, 40)).astype("uint8")).save(root / name, pnginfo=note, exif=exif)
        rows.append({"image": name, "finding": "ab"[place % 2], "split": ("train", "val", "test")[place % 3], f"{WORD}_column": WORD,
                     "patient": f"{WORD}{place}"})
    with (root / f"{WORD}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def distilled(folder: Path, finished: Path) -> None:
    """A student of such a table, by the real command."""
    planted_table(folder)
    line = VANILLA.replace("--data data", f"--data=in_{WORD}/{WORD}.csv").split()
    subprocess.run([str(Path(sys.executable).parent / line[0]), *line[1:], "--label", "finding", "--out", f"out_{WORD}/student", "--size",
                    "32", "--bootstrap", "10", "--threads", "1"], cwd=folder, check=True, capture_output=True, timeout=300,
                   env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "USER": WORD, "HOSTNAME": WORD})


def edited_graph(name: str) -> Case:
    """An artifact whose graph has a fault, under a manifest that agrees: drawn golden vectors must tell."""

    def change(folder: Path) -> None:
        from benchmarks.robustness.faults import FAULTS, edited

        agreed(folder, "model.onnx", edited((folder / "model.onnx").read_bytes(), FAULTS[name]))

    word = "do not follow from their logits" if name == "temperature of 1" else "other scores"
    return Case(f"leaves: drawn golden vectors tell a {name}", "rd-verify artifact", 3, word, copied("artifact", change))


def in_the_ward(folder: Path, finished: Path) -> None:
    """An artifact and a folder of pictures below a name."""
    shutil.copytree(finished / "artifact", folder / "ward" / WORD / "artifact")
    (folder / "ward" / WORD / "pictures").mkdir()


LEAK_CASES: tuple[Case, ...] = (
    Case("leaves: a table that names patients everywhere", f"{EXPORT} --student-dir=out_{WORD}/student --out=out_{WORD}/artifact", 0,
         "drawn patterns", distilled, clean(f"out_{WORD}/artifact")),
    Case("leaves: the same, its table named again", f"{EXPORT} --student-dir out_{WORD}/student --data in_{WORD}/{WORD}.csv --out artifact",
         0, "parity", distilled, clean("artifact", no_patients)),
    Case("leaves: a student in a patient's folder", f"{EXPORT} --student-dir=ward/{WORD}/student --out artifact", 0, "parity", moved,
         clean("artifact")),
    Case("leaves: an artifact in a patient's folder, and named so", f"{EXPORT} --out {WORD}/artifact-{WORD}", 0, "parity",
         copied("student"), clean(f"{WORD}/artifact-{WORD}")),
    Case("leaves: settings in a file named after a patient", f"{EXPORT} --config={WORD}.yaml", 0, "parity",
         both(copied("student"), text(f"{WORD}.yaml", f"out: out/{WORD}\n")), clean(f"out/{WORD}")),
    Case("leaves: a key named after a patient", f"{EXPORT} --sign {WORD}.pem --out artifact", 0, "signed", own_key, clean("artifact")),
    Case("leaves: a student of an earlier version", f"{EXPORT} --out artifact", 0, "parity", old_student, clean("artifact")),
    Case("leaves: OpenVINO's files", f"{MOVED} --target openvino", 0, "parity", moved, clean(WORD)),
    Case("leaves: an engine and what its library says", f"{MOVED} --target trt --gpu sm86", 0, "not run here", moved, clean(WORD)),
    Case("leaves: a plain graph", f"{MOVED} --input tensor", 0, "parity", moved, clean(WORD)),
    Case("leaves: several targets in a patient's folder", f"{EXPORT} --target onnx openvino --out {WORD}", 0, "parity", copied("student"),
         clean(WORD)),
    Case("leaves: a GPU that is a name", f"{EXPORT} --gpu {WORD} --out artifact", 0, "parity", copied("student"), clean("artifact")),
    Case("leaves: no picture, no label, no hash of an image", f"{EXPORT} --out artifact", 0, "no patient's image", copied("student"),
         clean("artifact", no_patients)),
    Case("leaves: validation images where they are asked for, and said", f"{EXPORT} --golden images --out artifact", 0,
         "treat the artifact as you treat the data", copied("student"), clean("artifact", no_patients)),
    Case("leaves: pictures in the page where they are asked for", f"{EXPORT} --parity-pictures 2 --out artifact", 0, "parity",
         copied("student"), lambda folder: "" if no_patients(folder) == "parity.html shows images" else "no pictures were written"),
    Case("leaves: golden vectors of no kind", f"{EXPORT} --golden patients", 2, "golden", copied("student")),
    edited_graph("temperature of 1"),
    edited_graph("wrong class order"),
    edited_graph("bias of one class + 0.001"),
    Case("leaves: a report of latency", f"rd-bench ward/{WORD}/artifact --images=ward/{WORD}/pictures --batch 1 --threads 1 --paths array "
         "--seconds 0.1 --samples 20 --no-roofline --no-profile --out bench", 0, "p50",
         in_the_ward, clean("bench")),
)
