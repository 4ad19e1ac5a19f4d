"""What an artifact's manifest claims of it, believed only where it is plausible in itself and the model file says the same.

Owns: the rules of the manifest's `artifact`, of class names and calibrations; the manifest against the graph and the files beside it.
Does not own: reading the graph's own facts (graph_facts.py), files (artifact.py), golden vectors (verify.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from runtimes.agreement import TOLERANCES
from runtimes.artifact.targets import TARGETS
from runtimes.errors import UserError
from runtimes.files.schema import Rule, anything, check, list_of, mapping_of, maybe, number, object_of, one_of, shown, text, truth, whole
from runtimes.files.strict_json import strict_json
from runtimes.models.graph_facts import GraphFacts, GraphTensor
from runtimes.scores import TASKS

AGAIN = "export the artifact again"
MODEL_NAMES = re.compile(r"[\w.-]{1,200}")
LINE_BREAKING = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, separators of lines and paragraphs
ENGINE = object_of({"library": text(64), "version": text(64), "gpus": list_of(text(32, least=1), 1, 64)},
                   {"batches": list_of(whole(1, 65536), 3, 3), "precision": one_of(*TOLERANCES), "onnx_sha256": text(64)}, others=True)
# The facts that every graph of ours carries: one without them is not the graph that the manifest speaks of.
ALWAYS = ("task", "classes", "image", "input", "graph_size", "precision", "calibration")


def class_name(value: Any, key: str) -> str:
    """The rule of a class's name: some letters, and nothing that breaks a line or moves a cursor."""
    problem = text(1000, least=1)(value, key)
    if problem:
        return problem
    if not value.strip() or any(unicodedata.category(letter) in LINE_BREAKING for letter in value):
        return f"{key} is {shown(value)}, expected a name without control characters"
    return ""


def class_names(value: Any, key: str) -> str:
    """The rule of a list of classes: each has a name of its own."""
    problem = list_of(class_name, 1, 100_000)(value, key)
    if not problem and len(set(value)) < len(value):
        twice = next(name for name in value if list(value).count(name) > 1)
        return f"{key} holds {shown(twice)} twice, expected names that differ"
    return problem


TEMPERATURE, THRESHOLD = number(1e-3, 1e3), number(0, 1)
ARTIFACT: Rule = object_of(
    {"task": one_of(*TASKS), "classes": class_names, "image": anything, "input": one_of("image", "tensor"),
     "graph_size": list_of(whole(8, 4096), 2, 2), "temperatures": list_of(TEMPERATURE, 1), "thresholds": list_of(THRESHOLD),
     "target": one_of(*TARGETS), "precision": one_of(*TOLERANCES), "model": text(200, least=1), "opset": whole(7, 99),
     "tolerance": number(0, 1, above=True)},
    {"student": text(), "teacher": text(), "parameters": maybe(whole(1, 10**13)), "weights_sha256": text(64),
     "licences": mapping_of(text()), "synthetic": truth, "not_calibrated": mapping_of(text())}, others=True)


def calibration_problem(task: str, classes: Sequence[str], temperatures: Sequence[Any], thresholds: Sequence[Any]) -> str:
    """What is wrong with a calibration for a task of these classes; "" when nothing is."""
    count, multilabel = len(classes), task == "multilabel"
    if (count < 2 and not multilabel) or (task == "binary" and count != 2):
        return f"{count} classes do not fit task {task}"
    if len(temperatures) not in ((1, count) if multilabel else (1,)):
        return f"temperatures {shown(list(temperatures))} do not fit {count} classes of task {task}"
    if len(thresholds) not in ((0, count) if multilabel else (0,)):
        return f"thresholds {shown(list(thresholds))} do not fit {count} classes of task {task}"
    return (list_of(TEMPERATURE)(temperatures, "temperatures") or list_of(THRESHOLD)(thresholds, "thresholds"))


def check_facts(facts: Any, where: str) -> None:
    """UserError where the manifest's `artifact` is not complete, or says what cannot be."""
    check(facts, lambda value, _: ARTIFACT(value, "artifact"), where, AGAIN)
    problem = calibration_problem(facts["task"], facts["classes"], facts["temperatures"], facts["thresholds"])
    most = TOLERANCES[facts["precision"]]
    if not problem and facts["tolerance"] > most:
        problem = f"tolerance is {facts['tolerance']:g}, and {facts['precision']} is allowed {most:g} at most"
    if not problem and not MODEL_NAMES.fullmatch(facts["model"]):
        problem = f"model is {shown(facts['model'])}, expected the name of a file beside the manifest"
    if problem:
        raise UserError(f"{where}: {problem}; {AGAIN}")


def check_graph(facts: Mapping[str, Any], graph: GraphFacts, where: str) -> None:
    """UserError where a manifest's `artifact` and the model file that it names do not say the same, with key and both values."""
    missing = [key for key in ALWAYS if key not in graph.facts]
    if missing:
        raise UserError(f"{where}: the graph says nothing of {', '.join(missing)}, as every graph of rd-export does; {AGAIN}")
    claimed = {**facts, "calibration": {key: facts[key] for key in ("temperatures", "thresholds", "not_calibrated") if key in facts},
               "names": str(dict(enumerate(facts["classes"])))}
    for key, words in sorted(graph.facts.items(), key=lambda pair: pair[0] == "names"):  # which says in other words what classes do
        if key in claimed:
            _compare(key, claimed[key], _value(key, words, claimed[key], where), where)
    _check_tensors(facts, graph, where)
    if graph.opset is not None:
        _compare("opset", facts["opset"], graph.opset, where)


def check_beside(facts: Mapping[str, Any], name: str, content: Mapping[str, Any], where: str) -> None:
    """UserError where a file beside the manifest, which other programs read, says another thing than the manifest; silence is none."""
    image, classes = facts["image"], facts["classes"]
    size = {"height": image["height"], "width": image["width"]}
    sizes = ({"size": {"shortest_edge": image.get("edge") or image["height"]}, "crop_size": size} if image.get("fit") == "crop" else
             {"size": size})
    claimed: dict[str, dict[str, Any]] = {
        "config.json": {"label_names": classes, "id2label": {str(place): label for place, label in enumerate(classes)},
                        "rd.model.task": facts["task"], "rd.model.classes": classes, "rd.image": image},
        "preprocessor_config.json": {"image_mean": image["mean"], "image_std": image["std"], **sizes},
        "parity.json": {"target": facts["target"], "precision": facts["precision"], "passed": True},
        "latency.json": {"facts.target": facts["target"], "facts.precision": facts["precision"]}}
    for key, value in claimed.get(name, {}).items():
        actual: Any = content
        for part in key.split("."):
            actual = actual.get(part) if isinstance(actual, Mapping) else None
        if actual is not None:
            _compare(key, value, actual, f"{where}: {name}", "the file")


def _compare(key: str, claimed: Any, actual: Any, where: str, who: str = "the graph") -> None:
    if _plain(claimed) != _plain(actual):
        if isinstance(claimed, Mapping) and isinstance(actual, Mapping):  # name the part that differs
            parts = [name for name in {**claimed, **actual} if _plain(claimed.get(name)) != _plain(actual.get(name))]
            _compare(f"{key}.{parts[0]}", claimed.get(parts[0]), actual.get(parts[0]), where, who)
        raise UserError(f"{where}: the manifest says {key} {shown(claimed)}, {who} itself says {shown(actual)}; {AGAIN}")


def _value(key: str, words: str, claimed: Any, where: str) -> Any:
    """A fact of the graph in the form in which the manifest has it: texts stand there as they are, all else as JSON."""
    if isinstance(claimed, str):
        return words
    try:
        return strict_json(words)
    except ValueError as error:
        raise UserError(f"{where}: the graph's {key} is not readable JSON ({error}); {AGAIN}") from None


def _plain(value: Any) -> Any:
    """A value without what JSON does not tell apart: tuples are lists, 1.0 is 1, but true is not 1."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return ("truth", value) if isinstance(value, bool) else value


def _check_tensors(facts: Mapping[str, Any], graph: GraphFacts, where: str) -> None:
    """The graph's inputs and outputs are those that follow from the manifest; what it leaves open or unsaid is no contradiction."""
    image, count = facts["image"], len(facts["classes"])
    volume = image.get("volume") or {}
    stack = (volume["slices"],) if volume else ()
    slices = 0 if volume.get("solid") else volume.get("slices", 0)
    if facts["input"] == "tensor":
        inputs = [GraphTensor("pixel_values", "float32", (None, 3, image["height"], image["width"]))]
    else:
        inputs = [GraphTensor("image", image["dtype"], (None, *stack, *facts["graph_size"], image["channels"]))]
        inputs += [GraphTensor("mask", "", (None, slices))] * bool(slices)
    outputs = [GraphTensor(name, "float32", (None, count)) for name in ("logits", "probabilities")[:1 if facts["input"] == "tensor" else 2]]
    outputs += [GraphTensor("attention", "float32", (None, slices))] * bool(slices)
    for kind, expected, actual in (("inputs", inputs, graph.inputs), ("outputs", outputs, graph.outputs)):
        if len(expected) != len(actual) or not all(map(_fits, expected, actual)):
            raise UserError(f"{where}: the manifest means {kind} {_listed(expected)}, the graph itself has {_listed(actual)}; {AGAIN}")


def _fits(expected: GraphTensor, actual: GraphTensor) -> bool:
    same_name = not actual.name or actual.name == expected.name
    same_dtype = not (actual.dtype and expected.dtype) or actual.dtype == expected.dtype
    same_sizes = not actual.shape or (len(actual.shape) == len(expected.shape) and all(
        size is None or other is None or size == other for size, other in zip(expected.shape[1:], actual.shape[1:], strict=True)))
    return same_name and same_dtype and same_sizes


def _listed(tensors: Sequence[GraphTensor]) -> str:
    return ", ".join(f"{tensor.name[:40] or 'unnamed'} {tensor.dtype} "
                     f"({', '.join('?' if size is None else str(size) for size in tensor.shape)})" for tensor in tensors) or "none"
