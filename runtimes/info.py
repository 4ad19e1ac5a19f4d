"""What a folder of ours is: its kind, when and by which command it was made, from what, its figures, what to type next.

Owns: `folder_info`, one reader for each kind of folder, the kinds without a manifest (an interrupted run, an unfinished bank, half a
result). Does not own: flags (info_cli.py), proof that an artifact works here (verify.py). Reads and never writes; needs no runtime.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtimes.artifact.trained import CONFIG, COUNT, FIGURE, METRICS, TASKS, TRAINED
from runtimes.errors import UserError
from runtimes.files.folder import MANIFEST, SIGNATURE, changed_files, read_json, read_manifest
from runtimes.files.lock import described, holder, lives, parse_note
from runtimes.files.outputs import KINDS
from runtimes.files.reading import read_file
from runtimes.files.schema import Rule, anything, check, list_of, mapping_of, maybe, number, object_of, text, truth, whole
from runtimes.files.strict_json import strict_json
from runtimes.text import counted, one_line

COMMANDS = {"student": "rd-distill", "teacher": "rd-adapt", "bank": "rd-distill or rd-adapt", "artifact": "rd-export", "bench": "rd-bench",
            "soak": "rd-bench", "images": "distill.distil"}
MADE_BY = "expected a folder that rd-distill, rd-adapt, rd-export or rd-bench wrote"
AGAIN = "make the folder again, or copy it again"
RUN_NOTE, RUN_STATE, PLAN = "settings.json", "state.json", "plan.json"  # as distill/run.py, state.py and bank.py call them
HALF = re.compile(r"\.(.+)\.tmp-(?:old-)?\d+")  # a result that was being written, as runtimes/files/outputs.py calls it
SMALL_BYTES, NOTE_BYTES = 1 << 24, 4096
SHOWN_PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "tensorrt")

BANK = object_of({"key": object_of({"teacher": text()}, {
    "preprocessing": object_of({}, {"height": COUNT, "width": COUNT}, others=True), "seed": whole(-(2**63), 2**64), "grid": COUNT},
    others=True)}, {"images": COUNT, "rows": COUNT}, others=True)
BANK_PLAN = object_of({"key": object_of({"teacher": text()}, others=True), "hashes": list_of(text())}, others=True)
SCORES = object_of({}, {"scores": object_of({}, {"split": text(), "n": COUNT, "student": FIGURE, "teacher": FIGURE, "probe": FIGURE},
                                            others=True)}, others=True)
PARITY = object_of({}, {"images": COUNT, "flips": COUNT, "flip_bound": maybe(number(0, 1)), "passed": truth}, others=True)
LATENCY = object_of({}, {**{key: number(0, 1e9) for key in ("p50_ms", "p90_ms")}, "facts": object_of(
    {}, {"threads": COUNT, "cpu": maybe(text()), "provider": text()}, others=True)}, others=True)
ROW = object_of({"artifact": text()}, {"p50_ms": number(0, 1e9), "batch": COUNT, "threads": COUNT, "path": text(), "valid": truth},
                others=True)
BENCH = object_of({"rows": list_of(ROW)}, {"machine": object_of({}, {"cpu": maybe(text())}, others=True)}, others=True)
SOAK = object_of({}, {"artifact": text(), "minutes": list_of(anything), "steady": truth, "told": text()}, others=True)
IMAGES = object_of({"images": COUNT, "table": text(255)}, others=True)
RUN = object_of({"settings": mapping_of(anything), "parents": mapping_of(anything)}, others=True)
STATE = list_of(object_of({"epoch": COUNT}, others=True), 0, 2)


@dataclass(frozen=True)
class FolderInfo:
    """What a folder is. `rows` are the lines a person reads (label, text), `facts` what a program does, both without the common ones.

    problems: what differs between files and manifest, empty for nothing, None where it was not looked at or there is no manifest.
    """

    folder: str
    kind: str
    rows: tuple[tuple[str, str], ...]
    facts: dict[str, Any]
    next: str
    written: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: int = 0
    size_bytes: int = 0
    signed: bool = False
    problems: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        fields = asdict(self)
        return {"format": 1, **{key: value for key, value in fields.items() if key not in ("rows", "facts")}, **self.facts,
                "intact": None if self.problems is None else not self.problems}

    def lines(self) -> list[str]:
        """What a person reads, about ten lines, each safe to print."""
        packages = ", ".join(f"{name} {self.versions[name]}" for name in SHOWN_PACKAGES if name in self.versions)
        maker = f"{COMMANDS.get(self.kind, 'one of our commands')} {self.versions.get('rd-distill', '')}".rstrip()
        origin = [("made", f"{self.written} (by its manifest's date) with {maker}" + (f", {packages}" if packages else ""))] \
            if self.written else []
        rows = [self.rows[0], *origin, *([("command", self.command)] if self.command else []), *self.rows[1:]]
        following = "make it anew, or put back what was there: as it is now it is refused" if self.problems else self.next
        return [f"{label:<9} {one_line(words)}" for label, words in [*rows, *self._of_bytes(), ("next", following)]]

    def _of_bytes(self) -> list[tuple[str, str]]:
        if not self.written:
            return []
        size = f"{self.files} files, {self.size_bytes / 1e6:,.2f} MB"
        signature = "; signed, and the signature was not checked" if self.signed else ""
        if self.problems is None:
            return [("bytes", f"{size}, not compared with the manifest{signature}")]
        if not self.problems:
            return [("bytes", f"{size}, as the manifest says{signature}")]
        more = f", and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
        return [("bytes", f"CHANGED: {'; '.join(self.problems[:3])}{more}")]


@dataclass(frozen=True)
class _Reading:
    """What the reader of a kind read: lines, facts, the next command."""

    rows: list[tuple[str, str]]
    facts: dict[str, Any]
    next: str


def folder_info(folder: Path, *, compare: bool = True) -> FolderInfo:
    """What a folder of ours is; UserError for a folder of somebody else's, a file, a manifest that is broken.

    compare: whether to hash every file and compare it with the manifest, which takes time in a large bank.
    """
    if not folder.is_dir():
        there = os.path.lexists(folder)
        raise UserError(f"{one_line(str(folder))} is {'a file; name the folder that holds it' if there else 'not there'}: {MADE_BY}")
    if not (folder / MANIFEST).is_file():
        return _unfinished(folder)
    manifest = read_manifest(folder, *sorted(KINDS))
    kind = str(manifest["kind"])
    reading = READERS[kind](folder, manifest)
    problems = tuple(changed_files(folder, manifest)) if compare else None
    sizes = [_size(folder / name) for name in manifest["files"]]
    return FolderInfo(str(folder), kind, tuple(reading.rows), reading.facts, reading.next, _date(folder / MANIFEST),
                      str(manifest.get("command", "")), dict(manifest.get("versions", {})), len(sizes), sum(sizes),
                      (folder / SIGNATURE).is_file(), problems)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except (OSError, ValueError):  # gone, or no name of a file: the comparison says so
        return 0


def _date(path: Path) -> str:
    """When a file was written. Results hold no clock, so that the same work gives the same bytes; a copy may have its own date."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))


def _read(folder: Path, name: str, rule: Rule) -> dict[str, Any]:
    """A JSON file of a folder by its rule; empty where it is not there, which the comparison with the manifest tells."""
    if not (folder / name).is_file():
        return {}
    content = read_json(folder / name, SMALL_BYTES)
    check(content, rule, str(folder / name), AGAIN)
    return content


def _typed(path: Path | str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def _figure(figure: Mapping[str, Any]) -> str:
    interval = f" ({figure['low']:.3f} to {figure['high']:.3f})" if "low" in figure and "high" in figure else ""
    return f"{figure['value']:.3f}{interval}" if "value" in figure else "none"


def _trained(folder: Path, manifest: Mapping[str, Any]) -> _Reading:
    """A student, or an adapted teacher."""
    check(manifest, TRAINED, str(folder / MANIFEST), AGAIN)
    student = manifest["kind"] == "student"
    model, metrics = _read(folder, "config.json", CONFIG).get("rd", {}).get("model"), _read(folder, "metrics.json", METRICS)
    rows, facts = [("kind", "student" if student else "adapted teacher")], {}
    if model:
        facts = {key: model[key] for key in ("arch", "task", "classes", "height", "width")}
        slices = f", {model['slices']} slices" if model.get("slices") else ""
        rows = [("kind", f"{rows[0][1]}: {model['arch']}, {model['task']}, {len(model['classes'])} classes, "
                         f"{model['height']}x{model['width']}{slices}" + (", pruned" if model.get("cuts") else ""))]
    data, adapters = manifest.get("data", {}), manifest.get("adapters")
    synthetic = " (synthetic)" if manifest.get("synthetic") else ""
    counts = data.get("counts", {})
    rows.append(("data", f"{data.get('data', 'unknown')}{synthetic}" + (
        f": {' / '.join(f'{count:,} {split}' for split, count in counts.items())}" if counts else "")))
    rows.append(("teacher", f"{manifest.get('teacher') or 'none'}, licence {manifest.get('licence', 'unknown')}" + (
        f"; adapted by {adapters.get('method', 'an unknown method')}, {adapters.get('kept', 0)} adapters kept" if adapters else "")))
    if "params" in metrics and "macs" in metrics:
        rows.append(("size", f"{metrics['params'] / 1e6:.3g} M parameters, {metrics['macs'] / 1e6:.3g} M MACs"))
    names = {"student": "student" if student else "teacher", "teacher": "teacher branch", "probe": "probe"}
    figures: dict[str, Any] = {}
    for split, branches in metrics.get("splits", {}).items():
        scores = {name: branches[branch]["auroc"] for branch, name in names.items() if "auroc" in branches.get(branch, {})}
        if scores:
            figures[split] = {"n": branches.get("n"), "auroc": scores}
            rows.append((split, ", ".join(f"{name} AUROC {_figure(score)}" for name, score in scores.items())))
    tasks, lines = _tasks(folder, model or {}, metrics)
    rows += lines
    facts |= {"tasks": tasks} if tasks else {}
    facts |= {"data": {"name": data.get("data"), "counts": counts, "synthetic": bool(manifest.get("synthetic"))},
              "teacher": manifest.get("teacher"), "licence": manifest.get("licence"), "parents": dict(manifest.get("parents", {})),
              "params": metrics.get("params"), "macs": metrics.get("macs"), "figures": figures}
    following = (f"rd-export --target onnx --student-dir {_typed(folder)}" if student else
                 f"rd-distill {_asked(data)}--teacher {_typed(folder)}")
    return _Reading(rows, facts, following)


def _asked(data: Mapping[str, Any]) -> str:
    """The images that a teacher was adapted to, as rd-distill asks for them; nothing for those it takes by itself."""
    name = str(data.get("data", ""))
    return "" if name == "phantom" else f"--data {_typed(name) if Path(name).exists() else 'IMAGES'} "


def _tasks(folder: Path, model: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The tasks of a teacher's folder with what each reached, oldest first, as facts and as lines."""
    content = _read(folder, "tasks.json", TASKS)
    if not content:
        return [], []
    entries = [(entry["name"], entry["config"]["rd"]["model"], entry["metrics"]) for entry in content["earlier"]]
    tasks, lines = [], []
    for name, spec, figures in [*entries, (content["newest"]["name"], model, metrics)]:
        aurocs = {split: branches["student"]["auroc"] for split, branches in figures.get("splits", {}).items()
                  if "auroc" in branches.get("student", {})}
        kept = content.get("images", {}).get(name, 0)
        tasks.append({"name": name, "task": spec.get("task"), "classes": spec.get("classes"), "auroc": aurocs, "images_kept": kept})
        reached = ", ".join(f"{split} AUROC {_figure(auroc)}" for split, auroc in aurocs.items()) or "no figures"
        images = f"; {counted(kept, 'image')} of patients kept" if kept else ""
        classes = counted(len(spec.get("classes", ())), "class", "classes")
        lines.append(("task", f"{name}: {spec.get('task')}, {classes}, {reached}{images}"))
    return tasks, lines


def _bank(folder: Path, manifest: Mapping[str, Any]) -> _Reading:
    check(manifest, BANK, str(folder / MANIFEST), AGAIN)
    key, size = manifest["key"], manifest["key"].get("preprocessing", {})
    facts = {"teacher": key["teacher"], "images": manifest.get("images"), "feature_rows": manifest.get("rows"), "seed": key.get("seed"),
             "grid": key.get("grid", 0), "height": size.get("height"), "width": size.get("width")}
    stages = f", and its stages on a grid of {facts['grid']}" if facts["grid"] else ""
    rows = [("kind", "feature bank"), ("teacher", f"{key['teacher']}, {facts['height']}x{facts['width']} pixels"),
            ("holds", f"{facts['images']} images, {facts['feature_rows']} rows of features (an image and its views){stages}")]
    return _Reading(rows, facts, f"rd-distill --teacher bank:{_typed(folder)}   # with the --data it was made of")


def _artifact(folder: Path, manifest: Mapping[str, Any]) -> _Reading:
    from runtimes.artifact.artifact import artifact_of

    artifact = artifact_of(folder, manifest)
    check(manifest, SCORES, str(folder / MANIFEST), AGAIN)
    about, scores = manifest["artifact"], manifest.get("scores", {})
    parity, latency = _read(folder, "parity.json", PARITY), _read(folder, "latency.json", LATENCY)
    height, width = artifact.graph_size
    rows = [("kind", f"artifact: {artifact.model}, {artifact.target} {artifact.precision}, {artifact.task}, {len(artifact.classes)} "
                     f"classes, {height}x{width} {artifact.image_spec.dtype}"),
            ("from", f"{about.get('student')}, taught by {about.get('teacher')}"
                     + (", on synthetic data" if manifest["artifact"].get("synthetic") else ""))]
    branches = {name: scores[name] for name in ("student", "teacher", "probe") if name in scores}
    if branches:
        rows.append((str(scores.get("split", "test")), ", ".join(f"{name} AUROC {_figure(score)}" for name, score in branches.items())))
    if "passed" in parity:
        rows.append(("parity", f"{'passed' if parity['passed'] else 'NOT PASSED'}: {parity.get('flips')} flips in {parity.get('images')} "
                               f"images" + (f" (rate below {parity['flip_bound']:.1%})" if parity.get("flip_bound") is not None else "")))
    if "p50_ms" in latency:
        where = latency.get("facts", {})
        rows.append(("latency", f"{latency['p50_ms']:.3g} ms p50" + (f", p90 {latency['p90_ms']:.3g}" if "p90_ms" in latency else "")
                     + f" ({where.get('threads', '?')} thread(s), {where.get('cpu') or 'an unknown processor'})"))
    facts = {"target": artifact.target, "precision": artifact.precision, "task": artifact.task, "classes": list(artifact.classes),
             "student": about.get("student"), "teacher": about.get("teacher"), "synthetic": about.get("synthetic"),
             "parents": dict(manifest.get("parents", {})), "scores": dict(scores),
             "parity": {key: parity.get(key) for key in ("passed", "flips", "images", "flip_bound")} if parity else None,
             "latency": {key: latency[key] for key in ("p50_ms", "p90_ms") if key in latency} if latency else None}
    return _Reading(rows, facts, f"rd-verify {_typed(folder)}   # on the device")


def _bench(folder: Path, manifest: Mapping[str, Any]) -> _Reading:
    report = _read(folder, "report.json", BENCH)
    measured, machine = report.get("rows", []), report.get("machine", {})
    names = list(dict.fromkeys(row["artifact"] for row in measured))
    fastest: dict[str, float] = {}
    for row in measured:
        if "p50_ms" in row:
            fastest[row["artifact"]] = min(row["p50_ms"], fastest.get(row["artifact"], row["p50_ms"]))
    bad = sum(row.get("valid") is False for row in measured)
    rows = [("kind", f"report of rd-bench: {len(measured)} rows of {len(names)} artifact(s)" + (f", {bad} not valid" if bad else "")),
            ("machine", str(machine.get("cpu") or "unknown")),
            *[("fastest", f"{name} {fastest[name]:.3g} ms p50") for name in names[:4] if name in fastest]]
    facts = {"measured": len(measured), "not_valid": bad, "artifacts": names, "fastest_p50_ms": fastest, "machine": machine.get("cpu")}
    return _Reading(rows, facts, f"rd-bench --compare {_typed(folder / 'report.json')} LATER/report.json   # or read report.html")


def _soak(folder: Path, manifest: Mapping[str, Any]) -> _Reading:
    report = _read(folder, "soak.json", SOAK)
    minutes = len(report.get("minutes", []))
    rows = [("kind", f"soak of {report.get('artifact', 'an artifact')}, {minutes} minute(s)"),
            ("verdict", f"{'steady' if report.get('steady') else 'DRIFTS'}: {report.get('told', 'nothing told')}")]
    facts = {"artifact": report.get("artifact"), "minutes": minutes, "steady": report.get("steady"), "verdict": report.get("told")}
    return _Reading(rows, facts, f"read {_typed(folder / 'soak.json')}")


def _images(folder: Path, manifest: Mapping[str, Any]) -> _Reading:
    """Images that Python handed over in memory, kept beside their student."""
    check(manifest, IMAGES, str(folder / MANIFEST), AGAIN)
    count, table = manifest["images"], manifest["table"]
    return _Reading([("kind", f"images of a student, given in Python: {count:,}, named in {table}")], {"images": count, "table": table},
                    f"rd-distill --data {_typed(folder / table)}")


READERS: dict[str, Callable[[Path, Mapping[str, Any]], _Reading]] = {
    "student": _trained, "teacher": _trained, "bank": _bank, "artifact": _artifact, "bench": _bench, "soak": _soak,
    "images": _images}


def _unfinished(folder: Path) -> FolderInfo:
    """What a folder without a manifest is: an interrupted run, an unfinished bank, half a result; UserError for anything else."""
    if (half := HALF.fullmatch(folder.resolve().name)) and (rest := _half(folder, half[1])) is not None:
        return rest
    if folder.resolve().name.endswith(".partial"):
        for name, reader in ((RUN_NOTE, _run), (PLAN, _half_bank)):
            if (folder / name).is_file():
                return reader(folder)
    raise UserError(f"{one_line(str(folder))} is none of our folders, or not finished: it has no {MANIFEST}; {MADE_BY}")


def _writer_of(folder: Path) -> str:
    """Who writes the result of a .partial folder at this moment, "" for nobody."""
    place = folder.resolve()
    note = holder(place.with_name(place.name.removesuffix(".partial")))
    return "" if note is None else described(note)


def _run(folder: Path) -> FolderInfo:
    note = read_json(folder / RUN_NOTE, SMALL_BYTES)
    check(note, RUN, str(folder / RUN_NOTE), "move the folder away and start anew")
    settings = note["settings"]
    command = "rd-distill" if "student" in settings else "rd-adapt"
    writer, epoch, epochs = _writer_of(folder), _epoch(folder), settings.get("epochs")
    words = ", ".join(f"--{key} {settings[key]}" for key in ("student", "method", "teacher", "data") if key in settings)
    out = str(settings.get("out", str(folder).removesuffix(".partial")))
    rows = [("kind", f"{'running' if writer else 'interrupted'} run of {command}" + (f", written by {writer}" if writer else "")),
            ("begun", f"{_date(folder / RUN_NOTE)}, with {words[:300]}"),
            ("kept", f"epoch {epoch} of {epochs}" if epoch is not None else "no epoch yet")]
    facts = {"running": bool(writer), "command_name": command, "epoch": epoch, "epochs": epochs, "settings": settings, "out": out}
    following = "wait for it" if writer else f"the same command with --resume goes on (--out {_typed(out)}); --overwrite starts anew"
    return FolderInfo(str(folder), "run", tuple(rows), facts, following)


def _epoch(folder: Path) -> int | None:
    """The last epoch whose state a run has kept: the index is a line of its own hash, then a line of JSON."""
    if not (folder / RUN_STATE).is_file():
        return None
    try:
        entries = strict_json(read_file(folder / RUN_STATE, SMALL_BYTES).decode("utf-8").partition("\n")[2], finite=False)
    except ValueError:
        return None
    return None if STATE(entries, "") or not entries else int(entries[0]["epoch"])


def _half_bank(folder: Path) -> FolderInfo:
    plan = read_json(folder / PLAN)
    check(plan, BANK_PLAN, str(folder / PLAN), "remove the folder and have the bank built again")
    writer, shards = _writer_of(folder), sum(path.suffix == ".safetensors" for path in folder.iterdir())
    images, teacher = len(plan["hashes"]), plan["key"]["teacher"]
    rows = [("kind", "unfinished feature bank" + (f", being built by {writer}" if writer else "")),
            ("teacher", str(teacher)), ("kept", f"{shards} file(s) of features, for {images} images")]
    following = "wait for it" if writer else "the same command with --resume goes on at the next file"
    return FolderInfo(str(folder), "unfinished bank", tuple(rows), {"running": bool(writer), "teacher": teacher, "images": images,
                                                                    "shards": shards}, following)


def _half(folder: Path, name: str) -> FolderInfo | None:
    """A result that was being written, known by the note beside it; None for a folder of somebody else's that has such a name."""
    place = folder.resolve()
    try:
        note = parse_note(read_file(place.with_name(f"{place.name}.writer"), NOTE_BYTES))
    except UserError:
        return None
    if note is None:
        return None
    running = lives(note)
    words = {True: "being written", False: "left by a run that died", None: "written on another machine"}[running]
    rows = (("kind", f"half of {name}, {words}"), ("writer", described(note)))
    following = "wait for it" if running else f"the next run that writes {_typed(name)} removes it"
    return FolderInfo(str(folder), "unfinished", rows, {"running": running, "of": name}, following)
