"""Wrong inputs of one kind: what a manifest, a table, a bank or a settings file claims, and what must not be believed.

Owns: MANIFEST_CASES. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.cases.artifacts import BENCH, BUDGET, EXPORT
from benchmarks.robustness.cases.case import TINY, Case, Make, both, text
from benchmarks.robustness.cases.folders import agreed, copied

VERIFY = "rd-verify artifact"
BANKED = TINY + " --teacher bank:bank --bank-views 1"
Facts = dict[str, Any]


def claimed(change: Callable[[Facts], Any], name: str = "manifest.json", folder: str = "artifact") -> Make:
    """A finished folder whose manifest, or another JSON file of it, was changed as its maker might; the hashes agree."""

    def spoil(place: Path) -> None:
        content = json.loads((place / name).read_text())
        change(content)
        (place / name).write_text(json.dumps(content))
        if name != "manifest.json":
            agreed(place, name, (place / name).read_bytes())

    return copied(folder, spoil)


def fact(**changes: Any) -> Make:
    """An artifact whose manifest claims other facts than its graph."""
    return claimed(lambda manifest: manifest["artifact"].update(changes))


def image_fact(**changes: Any) -> Make:
    """An artifact whose manifest claims another image spec."""
    return claimed(lambda manifest: manifest["artifact"]["image"].update(changes))


def raw(before: str, after: str) -> Make:
    """An artifact whose manifest was changed as text."""

    def spoil(place: Path) -> None:
        told = (place / "manifest.json").read_text()
        assert before in told
        (place / "manifest.json").write_text(told.replace(before, after, 1))

    return copied("artifact", spoil)


def golden(change: Callable[[Any], Any], name: str = "input_0.pb") -> Make:
    """An artifact with other golden vectors, whose hashes agree."""

    def spoil(place: Path) -> None:
        from onnx import TensorProto, numpy_helper

        path = place / "test_data_set_0" / name
        held = TensorProto.FromString(path.read_bytes())
        made = numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(held))), held.name)
        agreed(place, f"test_data_set_0/{name}", made.SerializeToString())

    return copied("artifact", spoil)


def without_metadata(place: Path) -> None:
    """A graph that says nothing of itself, with a manifest that agrees."""
    import onnx

    model = onnx.load(place / "model.onnx")
    del model.metadata_props[:]
    agreed(place, "model.onnx", model.SerializeToString())


def board(*changes: Facts, **top: Any) -> Make:
    """A latency table with one row for each change."""
    row = {"student": "mobilenetv3_small_050", "height": 64, "width": 64, "slices": 0, "params": 574374, "macs": 2284352, "target": "onnx",
           "precision": "fp32", "threads": 1, "p50_ms": 0.2, "p90_ms": 0.3, "valid": True}
    table = {"kind": "latency table", "format": 1, "machine": {"cpu": "a board"}, "rows": [{**row, **one} for one in changes], **top}
    return text("board.json", json.dumps(table))


def shard(change: Callable[[Facts, bytes], bytes | None]) -> Make:
    """A bank whose first shard has another header or other values; the manifest agrees."""

    def spoil(place: Path) -> None:
        data = (place / "features-00000.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header, values = json.loads(data[8:8 + length]), data[8 + length:]
        values = change(header, values) or values
        told = json.dumps(header).encode()
        agreed(place, "features-00000.safetensors", len(told).to_bytes(8, "little") + told + values)

    return copied("bank", spoil)


def entry(**changes: Any) -> Make:
    """A bank whose pooled features are said to lie or look otherwise."""
    return shard(lambda header, _: header["pooled"].update(changes))


def report(**changes: Any) -> Make:
    """A report of rd-bench with one row, changed."""
    row = {"artifact": "a", "target": "onnx", "precision": "fp32", "batch": 1, "threads": 1, "path": "array", "spin": None, "pinned": False,
           "p50_ms": 1.0, "block_p50_ms": [1.0, 1.1], "valid": True}
    return text("old.json", json.dumps({"format": 1, "machine": {"libraries": {}}, "rows": [{**row, **changes}]}))


def settings(content: str) -> tuple[str, int, Make]:
    """What is typed, its exit code and its file, for a settings file."""
    return f"{TINY} --method vanilla --config run.yaml", 2, text("run.yaml", content)


def yaml(name: str, word: str, content: str) -> Case:
    """A settings file that must end in exit code 2."""
    typed, code, make = settings(content)
    return Case(f"believed: YAML {name}", typed, code, word, make)


def bank_is_whole(folder: Path) -> str:
    """Whether the bank that was refused is still as it was given."""
    held = json.loads((folder / "bank" / "manifest.json").read_text())["files"]
    changed = [name for name, digest in held.items() if hashlib.sha256((folder / "bank" / name).read_bytes()).hexdigest() != digest]
    return f"{', '.join(changed)} of the bank was changed" if changed else ""


MANIFEST_CASES: tuple[Case, ...] = (
    # a manifest against its own graph
    Case("believed: an artifact as it was exported", VERIFY, 0, "good", copied("artifact")),
    Case("believed: classes in another order", VERIFY, 1, "classes", claimed(lambda held: held["artifact"]["classes"].reverse())),
    Case("believed: another temperature", VERIFY, 1, "calibration.temperatures", fact(temperatures=[1.25])),
    Case("believed: another threshold", VERIFY, 1, "calibration.thresholds", fact(thresholds=[0.125] * 6)),
    Case("believed: another mean", VERIFY, 1, "image.mean", image_fact(mean=[0.5, 0.5, 0.5])),
    Case("believed: another precision", VERIFY, 1, "precision", fact(precision="fp16")),
    Case("believed: another graph size", VERIFY, 1, "graph_size", fact(graph_size=[64, 72])),
    Case("believed: synthetic images called real", VERIFY, 1, "synthetic", fact(synthetic=False)),
    Case("believed: another opset", VERIFY, 1, "opset", fact(opset=20)),
    Case("believed: a graph that says nothing of itself", VERIFY, 1, "says nothing of task", copied("artifact", without_metadata)),
    Case("believed: another class in config.json", VERIFY, 1, "config.json",
         claimed(lambda held: held["id2label"].update({"0": "none"}), "config.json")),
    Case("believed: parity that was not passed", VERIFY, 1, "passed", claimed(lambda held: held.update(passed=False), "parity.json")),
    # numbers and words that cannot be
    Case("believed: a tolerance without end", VERIFY, 1, "artifact.tolerance", fact(tolerance=float("inf"))),
    Case("believed: a tolerance above that of fp32", VERIFY, 1, "0.0001 at most", fact(tolerance=0.5)),
    Case("believed: a temperature of NaN", VERIFY, 1, "artifact.temperatures[0]", fact(temperatures=[float("nan")])),
    Case("believed: a threshold of two", VERIFY, 1, "artifact.thresholds[0]", fact(thresholds=[2.0] * 6)),
    Case("believed: a class that stands twice", VERIFY, 1, "twice", fact(classes=["bleed"] * 6)),
    Case("believed: a class with a line break", VERIFY, 1, "control characters",
         claimed(lambda held: held["artifact"]["classes"].__setitem__(0, "a\nb"))),
    Case("believed: a side of 1e12 pixels", VERIFY, 1, "artifact.graph_size[0]", fact(graph_size=[10**12, 64])),
    Case("believed: true as a number", VERIFY, 1, "artifact.opset", fact(opset=True)),
    Case("believed: a dtype of objects", VERIFY, 1, "image.dtype", image_fact(dtype="O")),
    Case("believed: a volume that is a word", VERIFY, 1, "image.volume", image_fact(volume="x")),
    Case("believed: one key twice", VERIFY, 1, "stands twice", raw('"artifact": {', '"artifact": {"task": "binary"}, "artifact": {')),
    Case("believed: a number too large for a float", VERIFY, 1, "tolerance", raw('"tolerance": 0.0001', '"tolerance": 1e999')),
    Case("believed: half a character", VERIFY, 1, "surrogate", raw('"kind": "artifact"', '"kind": "artifact", "note": "\\ud800"')),
    Case("believed: scores that are a word", BENCH, 1, "scores", claimed(lambda held: held.update(scores="good"))),
    # golden vectors
    Case("believed: golden images that are all the same", VERIFY, 1, "the same", golden(lambda held: np.repeat(held[:1], len(held), 0))),
    Case("believed: no golden image", VERIFY, 1, "golden", golden(lambda held: held[:0])),
    Case("believed: golden images of another size", VERIFY, 1, "golden input", golden(lambda held: held.repeat(2, 1).repeat(2, 2))),
    Case("believed: golden logits of NaN", VERIFY, 1, "NaN", golden(lambda held: held * np.float32("nan"), "output_0.pb")),
    Case("believed: golden probabilities of another temperature", VERIFY, 3, "golden", golden(lambda held: held * np.float32(0.9) +
                                                                                            np.float32(0.05), "output_1.pb")),
    # latency tables and reports
    Case("believed: a latency below zero", BUDGET, 1, "rows[0].p90_ms", board({"p90_ms": -5})),
    Case("believed: a latency of NaN", BUDGET, 1, "rows[1].p90_ms", board({}, {"p90_ms": float("nan")})),
    Case("believed: a latency in quotes", BUDGET, 1, "rows[0].p90_ms", board({"p90_ms": "1"})),
    Case("believed: true as a count of threads", BUDGET, 1, "rows[0].threads", board({"threads": True})),
    Case("believed: a p90 below its p50", BUDGET, 1, "p50_ms", board({"p50_ms": 2.0})),
    Case("believed: rows that were not valid", BUDGET, 1, "none of its 2 rows", board({"valid": False}, {"valid": False})),
    Case("believed: a table of no machine", BUDGET, 1, "machine.cpu", board({}, machine={})),
    Case("believed: a table as rd-bench writes it", BUDGET, 0, "rows of board.json without 1", board({}, {"valid": False, "p90_ms": 99.0})),
    Case("believed: a report with a p50 of zero", "rd-bench --compare old.json old.json", 1, "rows[0].p50_ms", report(p50_ms=0)),
    Case("believed: a report without blocks", "rd-bench --compare old.json old.json", 1, "block_p50_ms", report(block_p50_ms=[])),
    Case("believed: noise of NaN", "rd-bench --compare old.json old.json --noise nan", 2, "noise", report()),
    # banks
    Case("believed: a bank as it was built", BANKED, 0, "student/", copied("bank")),
    Case("believed: features before the file", BANKED, 1, "data_offsets[0]", entry(data_offsets=[-64, 0]), bank_is_whole),
    Case("believed: features behind the file", BANKED, 1, "data_offsets", entry(data_offsets=[0, 10**9]), bank_is_whole),
    Case("believed: features of another dtype", BANKED, 1, "pooled.dtype", entry(dtype="F32"), bank_is_whole),
    Case("believed: features of a width of 1e9", BANKED, 1, "data_offsets", entry(shape=[80, 10**9]), bank_is_whole),
    Case("believed: features of NaN", BANKED, 1, "NaN", shard(lambda _, values: values[:-2] + b"\x00\x7e"), bank_is_whole),
    Case("believed: features of another byte order in places", BANKED, 1, "NaN",
         shard(lambda _, values: np.full(len(values) // 2, 0x7C01, "<u2").tobytes()), bank_is_whole),
    Case("believed: a truncated shard", BANKED, 1, "bytes of features", shard(lambda _, values: values[:-64]), bank_is_whole),
    Case("believed: views below zero", BANKED, 1, "views[0]", claimed(lambda held: held["views"].__setitem__(0, -5), "plan.json", "bank")),
    Case("believed: one image twice in a bank", BANKED, 1, "each image once",
         claimed(lambda held: held["hashes"].__setitem__(0, held["hashes"][1]), "plan.json", "bank")),
    # students
    Case("believed: a student of no architecture", EXPORT, 1, "arch",
         claimed(lambda held: held["rd"]["model"].update(arch=5), "config.json", "student")),
    Case("believed: a student of infinite temperature", EXPORT, 1, "temperatures",
         claimed(lambda held: held["rd"].update(temperatures=[1e300]), "config.json", "student")),
    Case("believed: a student with settings of another type", EXPORT, 1, "settings.slices",
         claimed(lambda held: held["settings"].update(slices="many"), folder="student")),
    Case("believed: metrics that are words", EXPORT, 1, "splits.test.student.auroc",
         claimed(lambda held: held["splits"]["test"]["student"].update(auroc="good"), "metrics.json", "student")),
    # settings files
    yaml("aliases", "anchor", "student: &a [x, x]\ndata: *a\n"),
    yaml("of lists in lists", "within each other", "student: [[a]]\n"),
    yaml("key twice", "twice", "epochs: 1\nepochs: 500\n"),
    yaml("key twice in two spellings", "twice", "bank-views: 1\nbank_views: 2\n"),
    yaml("word that is false", "true or false", "student: no\n"),
    yaml("octal number", "010", "epochs: 010\n"),
    yaml("number to the base of 60", "1:30", "epochs: 1:30\n"),
    yaml("date", "2026-01-01", "epochs: 2026-01-01\n"),
    yaml("NaN", ".nan", "lr: .nan\n"),
    yaml("value that is a flag", "dash", "student: --overwrite\n"),
    yaml("object", "tag", 'epochs: !!python/object/apply:os.system ["touch executed"]\n'),
    yaml("NUL in quotes", "control character", 'label: "a\\0b"\n'),
    yaml("of a megabyte", "bytes", "#" * 10**6),
    Case("believed: --config twice", TINY + " --config a.yaml --config b.yaml", 2, "2 times", both(text("a.yaml", ""), text("b.yaml", ""))),
    Case("believed: YAML as people write it", f"{TINY} --method vanilla --config run.yaml", 0, "student/",
         text("run.yaml", "lr: 1e-3\nflip: no\nout: 'student'\nmax_params: 1_000_000\nunlabelled:\n")),
)
