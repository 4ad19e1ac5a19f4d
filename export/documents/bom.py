"""The bill of materials of an artifact, bom.cdx.json: CycloneDX 1.6 with the model, what it came from and what runs it.

Owns: which components, hashes and licences are named, and that two exports of a student give the same bytes: no time stamp, a
serial number made from the content. Does not own: the facts themselves (facts.py). The cyclonedx library writes all but the
model card, which it does not know; both together are checked against the schema in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType, Pedigree
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id
from packageurl import PackageURL

from distill.teacher.public_names import public_data
from export.facts import parents_of
from runtimes.artifact.artifact import INPUT_NAMES, needed_files
from runtimes.artifact.targets import TARGETS, Target
from runtimes.files.folder import sha256_file, write_json

BOM = "bom.cdx.json"
UNKNOWN = "unknown"
TOOL = "rd-distill"
HEAD = ("$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata")
NO_DEVICE = "Research tool, not a medical device."
SYNTHETIC = "Made from synthetic images: it says nothing about patients."


def write_bom(folder: Path, facts: Mapping[str, Any], student: Mapping[str, Any]) -> None:
    """Write bom.cdx.json beside a model that is there already; facts: the artifact's manifest, student: that of its student."""
    content = bill(facts, student, {name: sha256_file(folder / name) for name in needed_files(facts["artifact"]["model"])})
    write_json(folder / BOM, content)


def bill(facts: Mapping[str, Any], student: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The bill of materials as JSON; files: SHA-256 of every file of the model, the one that the runtime opens first."""
    about = facts["artifact"]
    model, data = _model(facts, student, files), _data(student)
    libraries = _libraries(facts)
    bom = Bom(components=[data, *libraries])
    bom.metadata.component = model
    bom.metadata.tools = ToolRepository(components=[_tool(student)])
    bom.register_dependency(model, [library for library in libraries if library.scope == ComponentScope.REQUIRED])
    content: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["metadata"]["timestamp"], content["serialNumber"]  # both new at every call
    content["metadata"]["component"]["modelCard"] = _card(about, str(data.bom_ref.value))
    content["serialNumber"] = uuid5(NAMESPACE_URL, json.dumps(content, sort_keys=True)).urn
    return {key: content.pop(key) for key in HEAD} | content


def _model(facts: Mapping[str, Any], student: Mapping[str, Any], files: Mapping[str, str]) -> Component:
    about = facts["artifact"]
    first = next(iter(files.values()))
    properties = {"task": about["task"], "target": about["target"], "precision": about["precision"], "opset": about["opset"],
                  "parameters": about["parameters"], "synthetic": str(about["synthetic"]).lower()}
    return Component(
        name=f"{about['student']} for {about['target']}, {about['precision']}", version=first[:16], bom_ref="model",
        type=ComponentType.MACHINE_LEARNING_MODEL, hashes=_hash(first), properties=_properties(properties),
        description=f"{about['task']} of {', '.join(about['classes'])}", pedigree=Pedigree(ancestors=[_student(facts, student)]),
        components=[Component(name=name, type=ComponentType.FILE, bom_ref=f"file/{name}", version=digest[:16], hashes=_hash(digest))
                    for name, digest in files.items()])


def _student(facts: Mapping[str, Any], student: Mapping[str, Any]) -> Component:
    """The PyTorch student; its ancestors are the teacher and the weights that it started from, where there are any."""
    about, ancestors = facts["artifact"], []
    teacher_hash = parents_of(student)["teacher"]
    if teacher_hash or about["teacher"] not in ("none", "no teacher"):
        ancestors.append(Component(
            name=about["teacher"], type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="teacher", hashes=_hash(teacher_hash),
            version=str(teacher_hash or UNKNOWN)[:16], licenses=_licence(about["licences"].get("teacher")),
            description="The teacher, whose features the student was distilled from; the hash is over its weights."))
    start = student.get("settings", {}).get("student_weights")
    if start:
        ancestors.append(Component(
            name=f"{about['student']}, {'pretrained' if start == 'pretrained' else 'own'} weights", bom_ref="start",
            type=ComponentType.MACHINE_LEARNING_MODEL, version=UNKNOWN, licenses=_licence(None),
            description="The weights that the student's training started from."))
    return Component(
        name=f"{about['student']}, PyTorch student", type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="student",
        version=(about["weights_sha256"] or UNKNOWN)[:16], hashes=_hash(about["weights_sha256"]),
        description="The hash is that of model.safetensors.", properties=_properties({"manifest_sha256": facts["parents"]["student"]}),
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None)


def _data(student: Mapping[str, Any]) -> Component:
    data, digest = student.get("data") or {}, parents_of(student)["images"]
    counts = {f"images_{split}": count for split, count in (data.get("counts") or {}).items() if split in ("train", "val", "test")}
    return Component(
        name=public_data(student), type=ComponentType.DATA, bom_ref="data",
        version=str(digest or UNKNOWN)[:16], hashes=_hash(digest), licenses=_licence(data.get("licence")), properties=_properties(counts),
        description="The student's images; the hash is over the sorted list of each one's SHA-256 and split.")


def _libraries(facts: Mapping[str, Any]) -> list[Component]:
    """What runs the model on the device (required), and what made it (excluded)."""
    versions, engine = dict(facts["versions"]), facts.get("engine") or {}
    target: Target = facts["artifact"]["target"]
    at_work = {*TARGETS[target].libraries, "numpy"}  # an engine adds its own
    if engine:
        versions[engine["library"]] = engine["version"]
        at_work.add(engine["library"])
    return [Component(name=name, version=str(version), type=ComponentType.LIBRARY, bom_ref=f"pkg:pypi/{name}@{version}",
                      purl=PackageURL("pypi", name=name.replace("_", "-"), version=str(version)),
                      scope=ComponentScope.REQUIRED if name in at_work else ComponentScope.EXCLUDED)
            for name, version in versions.items()]


def _tool(student: Mapping[str, Any]) -> Component:
    return Component(name=TOOL, version=str(student.get("versions", {}).get(TOOL) or UNKNOWN), type=ComponentType.APPLICATION,
                     bom_ref=TOOL, licenses=_licence("Apache-2.0"))


def _card(about: Mapping[str, Any], data: str) -> dict[str, Any]:
    """A CycloneDX modelCard: the task, what goes in and out, what it is not for."""
    kind = "raw pixels" if about["input"] == "image" else "normalised pixels"
    outputs = ["logits", "probabilities"] if about["input"] == "image" else ["logits"]
    return {
        "bom-ref": "model-card",
        "modelParameters": {
            "approach": {"type": "supervised"}, "task": f"{about['task']} image classification", "modelArchitecture": about["student"],
            "datasets": [{"ref": data}], "inputs": [{"format": f"{INPUT_NAMES[about['input']]}: {kind}"}],
            "outputs": [{"format": f"{name}: float32 (batch, {len(about['classes'])})"} for name in outputs]},
        "considerations": {"technicalLimitations": [NO_DEVICE, *([SYNTHETIC] if about["synthetic"] else [])]},
    }


def _hash(digest: str | None) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []


def _licence(name: str | None) -> list[DisjunctiveLicense]:
    """A licence by its SPDX name where it has one, else as it was stated, else said to be unknown."""
    stated = (name or "").strip() or UNKNOWN
    spdx = fixup_id(stated)
    return [DisjunctiveLicense(id=spdx) if spdx else DisjunctiveLicense(name=stated)]


def _properties(values: Mapping[str, Any]) -> list[Property]:
    return [Property(name=f"rd:{key}", value=str(value)) for key, value in values.items()]
