"""S-6: the bill of materials is valid CycloneDX, has nothing empty, names the very hashes, and comes out the same each time."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Case
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from export.documents.bom import bill
from runtimes.files.folder import read_json, sha256_file

Exported = Callable[[Case], Path]
STUDENT = {"parents": {"teacher": "a" * 64, "images": "b" * 64}, "versions": {"rd-distill": "0.1.0"}, "settings": {"student_weights": None},
           "data": {"data": "/secret/place/labels.csv", "licence": "CC BY 4.0", "counts": {"train": 7, "val": 2}}}


def invalid(content: dict[str, Any]) -> object:
    """What the schema of CycloneDX 1.6 has against a bill; None when nothing."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(content))


def empties(value: Any, where: str = "") -> Iterator[str]:
    """Places that hold nothing: None, empty texts, lists and objects."""
    if value is None or value in ("", [], {}):
        yield where
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from empties(inner, f"{where}/{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from empties(inner, f"{where}/{place}")


def components(value: Any) -> Iterator[dict[str, Any]]:
    """Every component, at any depth."""
    if isinstance(value, dict):
        if "bom-ref" in value and "type" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from components(inner)


def by_name(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["bom-ref"]: one for one in components(content)}


def digest(component: dict[str, Any]) -> str:
    (one,) = component["hashes"]
    assert one["alg"] == "SHA-256"
    return str(one["content"])


@pytest.fixture
def facts(exported: Exported) -> dict[str, Any]:
    """A manifest that a test may change."""
    return read_json(exported(Case()) / "manifest.json")


def made(facts: dict[str, Any], target: str) -> dict[str, Any]:
    """The bill of a target, its files stood in for."""
    models = {"onnx": ("model.onnx",), "openvino": ("openvino_model.xml", "openvino_model.bin"), "trt": ("model.engine", "model.onnx")}
    facts = copy.deepcopy(facts)
    facts["artifact"] |= {"target": target, "model": models[target][0]}
    if target == "openvino":
        facts["versions"]["openvino"] = "2026.1.0"
    if target == "trt":
        facts["engine"] = {"library": "tensorrt_rtx", "version": "1.7.1"}
    return bill(facts, STUDENT, {name: f"{place}" * 64 for place, name in enumerate(models[target])})


def test_an_artifact_carries_a_valid_bill_with_its_own_hashes(exported: Exported) -> None:
    folder = exported(Case())
    manifest, content = read_json(folder / "manifest.json"), read_json(folder / "bom.cdx.json")
    assert invalid(content) is None
    assert list(empties(content)) == []
    found = by_name(content)
    assert digest(found["model"]) == digest(found["file/model.onnx"]) == sha256_file(folder / "model.onnx")
    assert found["model"]["type"] == "machine-learning-model"
    student = folder.parent / "student"
    assert digest(found["student"]) == sha256_file(student / "model.safetensors")
    assert {"name": "rd:manifest_sha256", "value": sha256_file(student / "manifest.json")} in found["student"]["properties"]
    for package in ("onnxruntime", "numpy"):
        version = manifest["versions"][package]
        assert found[f"pkg:pypi/{package}@{version}"]["scope"] == "required"
    assert found[f"pkg:pypi/torch@{manifest['versions']['torch']}"]["scope"] == "excluded"
    assert manifest["files"]["bom.cdx.json"] == sha256_file(folder / "bom.cdx.json")


@pytest.mark.parametrize("target", ["onnx", "openvino", "trt"])
def test_a_bill_names_parents_data_and_licences_and_no_place_of_this_machine(facts: dict[str, Any], target: str) -> None:
    facts["artifact"] |= {"teacher": "some-teacher", "licences": {"teacher": "apache-2.0", "tool": "Apache-2.0"}}
    content = made(facts, target)
    assert invalid(content) is None
    assert list(empties(content)) == []
    found = by_name(content)
    assert (digest(found["teacher"]), digest(found["data"])) == ("a" * 64, "b" * 64)
    assert found["teacher"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert found["data"]["licenses"] == [{"license": {"name": "CC BY 4.0"}}]
    assert found["rd-distill"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert found["data"]["name"] == "own images"
    assert "secret" not in json.dumps(content)
    assert len([one for one in found if one.startswith("file/")]) == {"onnx": 1, "openvino": 2, "trt": 2}[target]
    depends = next(one["dependsOn"] for one in content["dependencies"] if one["ref"] == "model")
    assert any({"onnx": "onnxruntime", "openvino": "openvino", "trt": "tensorrt_rtx"}[target] in one for one in depends)
    card = found["model"]["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": "data"}]
    assert "not a medical device" in card["considerations"]["technicalLimitations"][0]


def test_what_is_not_known_is_said_to_be_unknown(facts: dict[str, Any]) -> None:
    facts["artifact"] |= {"teacher": "some-teacher", "licences": {}, "synthetic": True}
    bare: dict[str, Any] = {"settings": {"student_weights": "/home/me/start.safetensors"}}
    content = bill(facts, bare, {"model.onnx": "0" * 64})
    assert invalid(content) is None
    assert list(empties(content)) == []
    found = by_name(content)
    for name in ("teacher", "data", "start"):
        assert found[name]["licenses"] == [{"license": {"name": "unknown"}}]
        assert found[name]["version"] == "unknown"
    assert "/home" not in json.dumps(content)
    assert "synthetic" in content["metadata"]["component"]["modelCard"]["considerations"]["technicalLimitations"][1]
    facts["artifact"]["teacher"] = "none"
    assert "teacher" not in by_name(bill(facts, {}, {"model.onnx": "0" * 64}))


def test_the_same_facts_give_the_same_bytes_in_another_process_and_other_facts_another_serial_number(facts: dict[str, Any]) -> None:
    first = made(facts, "onnx")
    assert "timestamp" not in first["metadata"]
    code = ("import json, sys\nfrom export.documents.bom import bill\nfacts, student = json.load(sys.stdin)\n"
            "print(json.dumps(bill(facts, student, {'model.onnx': '0' * 64})))")
    run = subprocess.run([sys.executable, "-c", code], input=json.dumps([facts, STUDENT]), capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONHASHSEED": "7"})
    assert run.stdout.strip() == json.dumps(first)
    assert made(facts, "trt")["serialNumber"] != first["serialNumber"]


@pytest.mark.parametrize("spoil", [lambda one: one.pop("bomFormat"), lambda one: one["metadata"]["component"].pop("name"),
                                   lambda one: one["metadata"]["component"]["modelCard"].update(colour="red"),
                                   lambda one: one["components"][0].update(type="animal")])
def test_the_check_of_the_schema_can_fail(facts: dict[str, Any], spoil: Callable[[dict[str, Any]], object]) -> None:
    content = made(facts, "onnx")
    spoil(content)
    assert invalid(content) is not None
    assert list(empties({"a": [{"b": ""}, None]})) == ["/a/0/b", "/a/1"]
