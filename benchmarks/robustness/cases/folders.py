"""Finished folders spoilt: a student, a bank, an artifact copied and then changed, a run that was interrupted, weights that lie.

Owns: what is done to them. Does not own: cases (catalogue.py), running them (`python -m benchmarks.robustness.inputs`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.robustness.cases.case import Make


class Evil:
    """An object whose unpickling would leave a file behind."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, ("executed", "w"))


def copied(name: str, change: Callable[[Path], object] = lambda path: None) -> Make:
    """A copy of a finished folder, then changed."""

    def make(folder: Path, finished: Path) -> None:
        shutil.copytree(finished / name, folder / name)
        change(folder / name)

    return make


def flip_byte(name: str) -> Callable[[Path], None]:
    """Change one byte in the middle of a file."""

    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 0xFF
        (folder / name).write_bytes(bytes(data))

    return change


def agreed(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its hash in the manifest, as somebody would who wants to deceive."""
    from runtimes.files.folder import read_json, sha256_file, write_json

    (folder / name).write_bytes(data)
    manifest = read_json(folder / "manifest.json")
    manifest["files"] = {key: sha256_file(folder / key) for key in manifest["files"]}
    write_json(folder / "manifest.json", manifest)


def other_scores(folder: Path) -> None:
    """Golden logits that no machine would give, with a manifest that agrees."""
    name = "test_data_set_0/output_0.pb"
    agreed(folder, name, (folder / name).read_bytes()[:-32] + np.full(8, 7.5, "<f4").tobytes())


def no_model(folder: Path) -> None:
    """Random bytes as the model, with a manifest that agrees."""
    agreed(folder, "model.onnx", np.random.default_rng(0).bytes(4096))


def external_data(folder: Path) -> None:
    """A model that keeps its weights in another file, with a manifest that agrees."""
    import onnx

    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = (folder / "big.onnx").read_bytes()
    (folder / "big.onnx").unlink()
    (folder / "weights.bin").unlink()
    agreed(folder, "model.onnx", data)


def keys(folder: Path, finished: Path) -> None:
    """Both halves of a key, and one of another kind."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    for name, key in (("private", ed25519.Ed25519PrivateKey.generate()), ("other", ec.generate_private_key(ec.SECP256R1()))):
        (folder / f"{name}.pem").write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
        if name == "private":
            (folder / "public.pem").write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))


def interrupted(folder: Path, finished: Path) -> None:
    """A run of other settings that was interrupted."""
    held = json.loads((finished / "student" / "manifest.json").read_text())["settings"]
    (folder / "student.partial").mkdir()
    (folder / "student.partial" / "settings.json").write_text(
        json.dumps({"settings": {**held, "lr": 0.5}, "replaces": False, "parents": {}}))


def bad_weights(folder: Path, finished: Path) -> None:
    """A teacher's weights with NaN in them."""
    import timm
    import torch

    state = timm.create_model("mobilenetv3_small_050").state_dict()
    torch.save({name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()}, folder / "nan.pth")
