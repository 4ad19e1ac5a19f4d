"""Every command block of the pages runs: on a small world that has what they name, with settings that keep each to a second or two.

Owns: that world, what is made smaller, which exit code is right on a machine without a GPU. Does not own: links and flags of pages
(test_pages.py), what any command does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from dicoms import write_dicom
from drawn import class_folders, picture
from places import ROOT
from test_pages import blocks, text_of, typed, words_of

from distill.selection import candidates

ENTRIES = {"rd-distill": "distill.cli:main", "rd-adapt": "distill.adaptation.cli:main", "rd-export": "export.cli:main",
           "rd-verify": "runtimes.cli:verify_main", "rd-bench": "runtimes.bench.cli:main", "rd-info": "runtimes.info_cli:main"}
RUN = ["--epochs", "1", "--min-steps", "0", "--batch", "8", "--bootstrap", "5", "--bank-views", "1", "--bank-runtime", "torch",
       "--phantom-images", "16", "12", "12", "--phantom-size", "32", "--device", "cpu", "--overwrite"]
# What is typed behind a line to keep it small, where the line does not say it itself.
SMALLER = {
    "rd-distill": [*RUN, "--size", "32"],
    "rd-adapt": RUN,
    "rd-export": ["--samples", "5", "--max-auc-drop", "0.9", "--keep-slower", "--keep-upcast", "--no-sensitivity", "--golden-images", "8",
                  "--max-batch", "1", "--overwrite"],
    "rd-bench": ["--seconds", "0.05", "--samples", "5", "--warmups", "1", "--rounds", "2", "--batch", "1", "--no-roofline", "--no-profile",
                 "--overwrite"],
}
# Settings that only some lines of rd-distill may have.
ASIDE = {"--student auto": ["--auto-students", "2", "--proxy-steps", "2", "--auto-folds", "2"],
         "--method auto": ["--auto-folds", "2", "--auto-steps", "2"],
         "--max-": ["--prune-rounds", "1", "--prune-steps", "2"]}
INSTEAD = {"--soak-minutes": "0.02", "--batch": "1", "--seconds": "0.05", "--max-flips": "60%"}  # values of a line that would take minutes
NO_GPU = not torch.cuda.is_available()
# Lines that need a GPU end with exit code 5 without one.
NEEDS_GPU = ("rd-verify artifact-onnx-fp32 --device cuda", "rd-bench artifact-trt-fp16")
# What a reader has made on an earlier page; the student is one that exports in a moment.
MADE_BEFORE = ("rd-distill --student test_efficientnet", "rd-export --sign key.pem", "rd-adapt --method linear")
IN_RUNTIMES = ("rd-export --target trt --precision fp16 --gpu sm86", "rd-export --target openvino --precision int8",
               "rd-bench artifact-onnx-fp32 --out old",
               "rd-bench artifact-onnx-fp32 --out new", "rd-export --out student-onnx-fp32",
               "rd-export --precision int8 --out student-onnx-int8", "rd-export --target openvino --out student-openvino-fp32")
PAGES = ("README.md", "distill/README.md", "export/README.md", "runtimes/README.md")


def files_like(pattern: str) -> list[str]:
    """What a shell makes of a pattern; engines are left out where nothing can open them."""
    return sorted(str(path) for path in Path().glob(pattern) if not (NO_GPU and "trt" in path.name))


def smaller(line: str) -> list[str]:
    """A line's words with settings that make it small; its own win, but for those that would take minutes."""
    command, *words = words_of(line)
    if command == "rd-export":
        words += ["--max-flips", "60%"] if "--max-flips" not in words else []
    for flag, value in INSTEAD.items():
        if flag in words and command == "rd-bench":
            place = words.index(flag) + 1
            while place < len(words) and not words[place].startswith("--"):
                del words[place]
            words.insert(place, value)
    extra = next((words for part, words in ASIDE.items() if command == "rd-distill" and part in line), [])
    added = [*SMALLER.get(command, []), *extra]
    groups: list[list[str]] = []
    for word in added:
        if word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    more = [word for group in groups if group[0] not in words for word in group]
    if command == "rd-bench" and ({"--compare", "--soak-minutes"} & set(words)):
        more = ["--overwrite"] if "--soak-minutes" in words else []
    if command in ("rd-distill", "rd-adapt"):
        named = words[words.index("--teacher") + 1] if "--teacher" in words else ""
        more += ["--teacher", "test_resnet", "--teacher-weights", "random", "--teacher-size", "32"] if not named else []
        more += ["--teacher-size", "64"] if named.startswith("efficientnet") else []
    if "trt" in words and "--gpu" not in words:
        more += ["--gpu", "sm86"]
    expanded = [path for word in words for path in (files_like(word) if "*" in word else [word])]
    return [command, *expanded, *more]


def typed_in(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """What a command answers to words typed in this folder: its exit code, and all that it prints."""
    module, _, name = ENTRIES[command].partition(":")
    printed = io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        patch.setattr(sys, "argv", [command, *words])
        with pytest.raises(SystemExit) as ended:
            getattr(importlib.import_module(module), name)()
    return int(ended.value.code or 0), printed.getvalue()


def write_keys(root: Path) -> None:
    """key.pem and pub.pem, as the pages have openssl write them."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    (root / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (root / "pub.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def build_world(root: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the pages name and no line of theirs makes."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    class_folders(root / "images", {"benign": 14, "malignant": 14})
    rows = [(path.relative_to(root).as_posix(), path.parent.name) for path in sorted((root / "images").rglob("*.png"))]
    (root / "labels.csv").write_text("\n".join(["image,label", *(f"{path},{name}" for path, name in rows)]) + "\n", encoding="utf-8")
    class_folders(root / "more", {"any": 6}, seed=50_000)
    for place, name in enumerate(("breast", "chest", "hand")):
        class_folders(root / name, {"benign": 14, "malignant": 14}, seed=60_000 + 1000 * place)
    picture(root / "image.png", 1, size=(96, 96))
    random = np.random.default_rng(0)
    volumes = []
    for index in range(20):
        path = root / "scans" / "ab"[index % 2] / f"{index}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        scan = random.uniform(0, 80, (24, 24, 6)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), path)
        volumes.append(f"{path.relative_to(root)},{'ab'[index % 2]}")
    (root / "volumes.csv").write_text("\n".join(["image,label", *volumes]) + "\n", encoding="utf-8")
    write_dicom(root / "IM000001", np.arange(64 * 64, dtype=np.uint8).reshape(64, 64), StudyInstanceUID="1.2.3",
                SeriesInstanceUID="1.2.3.4", PatientID="P", PatientName="A^B")
    write_keys(root)
    (root / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "demo.yaml", root / "benchmarks")
    torch.manual_seed(0)
    encoder = ViTModel(ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
                                 patch_size=16))
    encoder.save_pretrained(root / "FOLDER")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "FOLDER")
    for line in (*MADE_BEFORE, *(IN_RUNTIMES if page == "runtimes/README.md" else ())):
        command, *words = smaller(line)
        code, printed = typed_in(command, words, monkeypatch)
        assert code == 0, f"{line}\n{printed[-2000:]}"
    shutil.copytree(next(Path("banks").iterdir()), "banks/NAME")


def own_things() -> dict[str, Any]:
    """What the pages' programs take as the reader's own: a network, and pairs of an image and its label."""
    from torchvision.models import resnet18

    images = np.random.default_rng(0).integers(0, 99, (30, 48, 48), dtype=np.uint8)
    images[::2, 8:40, 8:40] += 99
    return {"my_network": resnet18(), "pairs": [(image, "ab"[place % 2]) for place, image in enumerate(images)]}


def expected(words: list[str]) -> set[int]:
    """The exit codes of a line on this machine. A busy one may give reports that differ beyond noise, or a table without a valid row."""
    line = " ".join(words)
    if NO_GPU and line.startswith(NEEDS_GPU):
        return {5}
    if "--keep-old distil" in line:  # on a few pictures one network may forget too much, which is refused
        return {0, 3}
    return {0, 4} if "--compare" in words else {0, 1, 4} if "--latency-table" in words else {0}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs_as_it_stands(page: str, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "FAMILIES", {"mobilenetv3": ("mobilenetv3_small_050",)})
    build_world(in_empty_folder, page, monkeypatch)
    count, seen = 0, {" ".join(words_of(line)) for earlier in PAGES[:PAGES.index(page)] for line in typed(text_of(earlier))}
    for language, content in blocks(text_of(page)):
        if language == "python":
            exec(compile(content, page, "exec"), own_things())
            count += 1
            continue
        for line in content.splitlines():
            line = line.removeprefix("$ ")
            if not line.startswith("rd-") or " ".join(words_of(line)) in seen:
                continue
            command, *words = smaller(line)
            code, printed = typed_in(command, words, monkeypatch)
            assert code in expected([command, *words]), f"{line}\n{' '.join(words)}\n{printed[-3000:]}"
            assert "Traceback" not in printed, line
            count += 1
    assert count >= 3


def test_a_line_that_is_made_smaller_keeps_what_it_says() -> None:
    assert smaller("rd-export --target trt --precision fp16   # a comment")[:5] == ["rd-export", "--target", "trt", "--precision", "fp16"]
    assert smaller("rd-distill --student resnet18 --size 64").count("--size") == 1
    assert "0.02" in smaller("rd-bench artifact-onnx-fp32 --soak-minutes 10 --gate")
