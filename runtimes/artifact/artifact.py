"""What an exported folder holds and promises, read strictly before any runtime sees the model.

Owns: Artifact, reading its manifest, handing out its files: bytes are read once, compared with the manifest, and then used, so that no
file swapped meanwhile ever answers. Does not own: what a manifest may claim (claims.py), what a graph may hold (operators.py), running
the model (ort.py), writing the folder (the export package).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runtimes.artifact.claims import ENGINE, check_facts, check_graph
from runtimes.artifact.signature import signed_manifest
from runtimes.artifact.targets import TARGETS, DeviceTarget, Precision, Target, target_of
from runtimes.errors import UserError
from runtimes.files.folder import check_files, parse_json, read_manifest
from runtimes.files.reading import DEVICE_JSON_BYTES, most_bytes_of, read_file
from runtimes.files.schema import check
from runtimes.images.spec import ImageSpec
from runtimes.models.graph_facts import GraphFacts
from runtimes.scores import Task

InputKind = Literal["image", "tensor"]

INPUT_NAMES: dict[str, str] = {"image": "image", "tensor": "pixel_values"}
MASK = "mask"  # the second input of a graph of volumes: 1 where a slice is there
GOLDEN = "test_data_set_0"


@dataclass(frozen=True)
class Artifact:
    """An exported folder: the model, how images enter it, how its scores become decisions.

    graph_size is the (height, width) the graph takes; it is the model size unless the resize is baked into the graph.
    tolerance bounds |logit - golden logit| / max(1, |golden logit|) when the golden vectors are replayed.
    signed_by is the fingerprint of the key that was asked for and has signed it; empty where none was asked for.
    """

    folder: Path
    manifest: Mapping[str, Any]
    task: Task
    classes: tuple[str, ...]
    image_spec: ImageSpec
    target: Target
    precision: Precision
    input_kind: InputKind
    graph_size: tuple[int, int]
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    model: str
    opset: int
    tolerance: float
    signed_by: str = ""

    @property
    def row(self) -> DeviceTarget:
        """How a device knows its target."""
        return TARGETS[self.target]

    @property
    def model_path(self) -> Path:
        """Where the model lies; a runtime gets `model_bytes`."""
        return self.folder / self.model

    def read(self, name: str) -> bytes:
        """The bytes of one file, the very ones that the manifest names; UserError for any others."""
        path, digest = self.folder / name, self.manifest["files"].get(name)
        if digest is None:
            raise UserError(f"{self.folder / 'manifest.json'} does not name {name} among its files; export the artifact again")
        most_bytes = DEVICE_JSON_BYTES if name.endswith(".json") else most_bytes_of(name)
        assert most_bytes is not None
        data = read_file(path, most_bytes)
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{self.folder} is not what was written: {name} has other bytes than the manifest says; make it again or "
                            "copy it again")
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        """One JSON file, whose bytes are those that the manifest names."""
        return parse_json(self.read(name), self.folder / name)

    def model_bytes(self, model: str = "") -> tuple[bytes, ...]:
        """What a runtime opens: the bytes of the model (of an IR those of its weights behind them), and nothing else of the folder.

        model: another model of the same folder. UserError where a graph holds what rd-export does not write.
        """
        name = model or self.model
        row = target_of(name)
        contents = tuple(self.read(file) for file in row.opened(name))
        try:
            row.check(contents)
        except UserError as error:
            raise UserError(f"{self.folder / name}: {error}; expected a model as rd-export writes it: export the artifact again") from None
        return contents

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model file, as the manifest names it."""
        return str(self.manifest["files"][self.model])

    @property
    def golden(self) -> Path:
        """The folder of golden vectors, in ONNX's own layout."""
        return self.folder / GOLDEN

    @property
    def baked(self) -> bool:
        """Whether the resize to model size is part of the graph."""
        return self.input_kind == "image" and self.graph_size != (self.image_spec.height, self.image_spec.width)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs: one for images, slices and mask for volumes."""
        return (INPUT_NAMES[self.input_kind],) if not self.image_spec.masked else (INPUT_NAMES[self.input_kind], MASK)


def read_artifact(folder: Path | str, *, check: bool = True, public_key: Path | str | None = None) -> Artifact:
    """Read an artifact folder; with `check`, every file must have the bytes its manifest names, with a key its maker must have signed it.

    A file that is used later is compared with the manifest again, then, whatever `check` says: see `Artifact.read`.
    """
    folder = Path(folder)
    signed, signer = (None, "") if public_key is None else signed_manifest(folder, public_key)
    manifest = read_manifest(folder, "artifact", data=signed)  # of the very bytes that were signed
    if check or signer:
        check_files(folder, manifest)
    artifact = replace(artifact_of(folder, manifest), signed_by=signer)
    for name in needed_files(artifact.model):
        if name not in manifest.get("files", {}):
            raise UserError(f"{folder / 'manifest.json'} does not name {name} among its files; export the artifact again")
    _check_origin(artifact)
    check_graph(manifest["artifact"], _graph_of(artifact), str(folder))
    return artifact


def artifact_of(folder: Path, manifest: Mapping[str, Any]) -> Artifact:
    """What a manifest says of an artifact, its files unread; UserError where it is not complete."""
    where = folder / "manifest.json"
    if "artifact" not in manifest:
        raise UserError(f"{where} is not complete (artifact is missing); export the artifact again")
    facts = manifest["artifact"]
    check_facts(facts, str(where))
    try:
        image_spec = ImageSpec.from_dict(facts["image"])
    except UserError as error:
        raise UserError(f"{where}: {error}; export the artifact again") from None
    artifact = Artifact(
        folder=folder, manifest=manifest, task=facts["task"], classes=tuple(facts["classes"]), image_spec=image_spec,
        target=facts["target"], precision=facts["precision"], input_kind=facts["input"],
        graph_size=(facts["graph_size"][0], facts["graph_size"][1]), temperatures=tuple(map(float, facts["temperatures"])),
        thresholds=tuple(map(float, facts["thresholds"])), model=facts["model"], opset=facts["opset"], tolerance=float(facts["tolerance"]))
    if not artifact.model.endswith(artifact.row.suffix):
        raise UserError(f"{where}: model {artifact.model!r} is no {artifact.row.suffix} file, which {artifact.target} needs; "
                        "export the artifact again")
    return artifact


def needed_files(model: str) -> tuple[str, ...]:
    """The files a model never comes without: an IR keeps its weights beside it, an engine the ONNX that it was built from."""
    return target_of(model).needed(model)


def _graph_of(artifact: Artifact) -> GraphFacts:
    """What the model file says of itself; an engine says nothing, so the ONNX that it was built from does."""
    name = artifact.row.origin or artifact.model
    data = artifact.model_bytes(name)[0]
    try:
        return target_of(name).facts(data)
    except UserError as error:
        raise UserError(f"{artifact.folder / name}: {error}; export the artifact again") from None


def _check_origin(artifact: Artifact) -> None:
    """An engine is code for one GPU that nobody can read: it counts only beside the ONNX that it says it was built from."""
    if not artifact.row.origin:
        return
    engine = artifact.manifest.get("engine")
    check(engine, lambda value, _: ENGINE(value, "engine"), str(artifact.folder / "manifest.json"), "export the artifact again")
    origin = engine.get("onnx_sha256") if isinstance(engine, dict) else None
    if artifact.manifest["files"].get(artifact.row.origin) != origin:
        raise UserError(f"{artifact.folder}: {artifact.model} was not built from the {artifact.row.origin} beside it; build it again from "
                        f"that: rd-export --target {artifact.target}")
