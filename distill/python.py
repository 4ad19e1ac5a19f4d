"""rd-distill from Python: networks and images in memory, or whatever the command line names, to a student in memory.

Owns: `distil`, Distilled, which settings have no meaning here, how a result becomes a folder. Does not own: the story (commands.py),
networks of one's own (networks/own.py, teacher/own.py), images in memory (data/memory.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distill.commands import OwnNetworks, story
from distill.data.memory import TABLE, Pairs, array_of, check_table, write_images
from distill.data.named import PHANTOMS
from distill.data.views import normalise, unit_levels
from distill.evaluation.predict import probabilities
from distill.networks.models import Model
from distill.networks.own import StudentNetwork, own_student
from distill.progress import say
from distill.report.outcome import RunResult, metrics_of, write_result
from distill.run import check_outputs, opened_run
from distill.settings.distill import DistillSettings
from distill.settings.group import from_record
from distill.settings.training import RunOptions
from distill.teacher.own import TeacherNetwork, own_teacher
from runtimes.commands.flags import record
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import write_manifest
from runtimes.files.outputs import check_out, new_folder
from runtimes.images.spec import ImageSpec
from runtimes.scores import TASKS

BATCH = 64  # images that `predict` looks at together
NAMES = tuple(setting.name for setting in dataclasses.fields(DistillSettings))
IN_PYTHON = {name: "folder" if name == "out" else name for name in NAMES}  # what stands in errors for a flag
FLAG = re.compile(r"--([a-z][a-z-]*)")
# Settings of the command that mean nothing here, and what does instead.
INSTEAD = {
    "out": "keep the result with .save(folder)", "overwrite": "say .save(folder, overwrite=True)",
    "resume": "an interrupted run in Python is not kept; rd-distill --resume goes on with one",
    "config": "give its settings as keywords", "dry_run": "rd-distill --dry-run tells what a run takes",
    "adapt": "adapt the teacher first with rd-adapt, and give its folder as teacher",
}
OF_A_NAME = ("teacher_size", "teacher_weights", "teacher_adapter", "task_name")  # what a TeacherNetwork brings itself
OF_A_KNOWN = ("student_weights", "max_params", "max_macs", "max_latency_ms")  # what only a student by name has


@dataclass(frozen=True, eq=False, repr=False)
class Distilled:
    """A distilled student in memory.

    metrics: the content of metrics.json. student: normalised pixels (B, 3, h, w) to logits (B, classes), in eval mode on the CPU.
    image_spec: how a raw image becomes such pixels.
    """

    metrics: dict[str, Any]
    student: nn.Module
    image_spec: ImageSpec
    _result: RunResult
    _choices: dict[str, Any]
    _images: Path | None  # where images that were given in memory lie until the last use of this object

    def __repr__(self) -> str:
        auroc = self.metrics["splits"]["test"]["student"].get("auroc", {}).get("value")
        reached = "" if auroc is None else f", test AUROC {auroc:.3f}"
        return f"Distilled({self._result.model.spec.arch}, {self._result.images.task}: {', '.join(self.classes)}{reached})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or findings, in the order of logits and probabilities."""
        return self._result.images.classes

    def predict(self, images: Any) -> NDArray[Any]:
        """Calibrated probabilities (N, classes) of raw images: a batch (N, H, W[, C]) or a sequence of (H, W[, C])."""
        spec, calibration = self.image_spec, self._result.calibrations["student"]
        if spec.volume is not None:
            raise UserError("predict takes images, and this student takes volumes; save and export it, and use runtimes.open_session")
        raws = [array_of(image, f"image {place}") for place, image in enumerate(images)]
        if wrong := [place for place, raw in enumerate(raws) if raw.dtype != spec.dtype]:
            raise UserError(f"image {wrong[0]} holds {raws[wrong[0]].dtype}, expected {spec.dtype} as the images of training")
        parts = []
        for start in range(0, len(raws), BATCH):
            levels = np.stack([spec.stored(raw) for raw in raws[start:start + BATCH]])
            with torch.no_grad():
                parts.append(self.student(normalise(unit_levels(levels), spec.mean, spec.std)).numpy())
        if not parts:
            raise UserError("no images; expected at least one")
        return np.asarray(probabilities(self._result.images, np.concatenate(parts), calibration))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the student's folder as rd-distill does, and images that were given in memory beside it as `<folder>-images/`.

        overwrite: replace what an earlier run wrote there. UserError (exit 2) where it may not be written.
        """
        with _said_in_python():
            return self._write(Path(folder), overwrite)

    def _write(self, out: Path, overwrite: bool) -> Path:
        result = self._result
        beside = None if self._images is None else Path(f"{out}-images")
        settings = {**result.settings, "out": str(out), "overwrite": overwrite}
        if beside is not None:
            settings["data"] = os.path.join(os.path.abspath(beside), TABLE)  # found from wherever the next command is typed
        more = {} if beside is None else {"the folder of images": beside}
        check_outputs({**settings, "data": None} if beside else settings, drawn=settings["data"] in PHANTOMS, more=more)
        check_out(out, overwrite=overwrite)
        images = replace(result.images, facts={**result.images.facts, "data": settings["data"]})
        result = replace(result, settings=settings, images=images)
        with contextlib.ExitStack() as stack:
            if beside is not None and self._images is not None:
                check_out(beside, overwrite=overwrite, flag="the folder of images")
                place = stack.enter_context(new_folder(beside, overwrite=overwrite))
                shutil.copytree(self._images, place, dirs_exist_ok=True)
                write_manifest(place, "images", {"command": result.command, "images": len(list(place.glob("*.png"))), "table": TABLE})
            write_result(out, result, overwrite=overwrite, more=self._choices)
        return out


def distil(data: str | Path | Pairs = "phantom", *, teacher: str | Path | TeacherNetwork = "efficientnet-lite0",
           student: str | StudentNetwork = "mobilenetv3", splits: Iterable[str] | None = None, patients: Iterable[Any] | None = None,
           quiet: bool = False, **settings: Any) -> Distilled:
    """Distil a frozen teacher into a small student, as rd-distill does with the same settings: the same weights, bit for bit.

    data: what --data takes, or a sequence of pairs (raw image (H, W[, C]) of uint8 or uint16, label); label: a class as text or whole
    number, {finding: 0, 1 or None}, or None. splits, patients: of such pairs, an entry each. settings: those of rd-distill, dashes as
    underscores. quiet: print nothing. Works in a temporary folder; the bank is kept where `bank` names a folder. Raises UserError.
    """
    if settings.get("task") is not None and settings["task"] not in TASKS:  # of a teacher's folder, as --task NAME
        if settings.get("task_name") not in (None, settings["task"]):
            raise UserError(f"task {settings['task']!r} and task_name {settings['task_name']!r} name two tasks; name one", USAGE)
        settings = {**settings, "task": None, "task_name": settings["task"]}
    networks, names = _networks(teacher, student, settings)
    _check_keywords(settings)
    if isinstance(data, str | Path) and (splits is not None or patients is not None):
        raise UserError("splits and patients are about images in memory; a table or folder brings its own", USAGE)
    if not isinstance(data, str | Path) and "label" in settings:
        raise UserError("label names a column of a table; images in memory bring their labels", USAGE)
    images = None if isinstance(data, str | Path) else Path(tempfile.mkdtemp(prefix="distil-images-"))
    try:
        with (tempfile.TemporaryDirectory(prefix="distil-") as work, _said_in_python(Path(work), images), _as_it_was(),
              contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()):
            if isinstance(data, str | Path) or images is None:
                named = about = str(data)
            else:
                named, about = str(write_images(images, data, splits, patients)), f"{len(data):,} images in memory"
            chosen = _chosen({**settings, **names, "data": named, "out": Path(work) / "student"}, Path(work))
            if images is not None:
                check_table(Path(named), chosen.task, chosen.uncertain)
            call = _call({"data": about, "teacher": teacher, "student": student, **settings})
            with opened_run(chosen.part(RunOptions), record(chosen), "student", drawn=named in PHANTOMS, more={}) as run:
                assert run is not None  # nothing is finished in a new folder
                result, choices = story(chosen, call, run, networks)
            say("done", "the student is in memory; .save(FOLDER) keeps it for rd-export")
    except BaseException:
        if images is not None:
            shutil.rmtree(images, ignore_errors=True)
        raise
    result_settings = {**result.settings, "bank": str(settings["bank"]) if settings.get("bank") else None}
    result = replace(result, settings=result_settings, model=_laid_out(result.model))
    distilled = Distilled(metrics_of(result, choices), result.model, result.image_spec, result, choices, images)
    if images is not None:
        weakref.finalize(distilled, shutil.rmtree, images, ignore_errors=True)
    return distilled


def _chosen(values: dict[str, Any], work: Path) -> DistillSettings:
    """The settings by keywords, checked as those of a record are; a bank that nobody named goes where the run does."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    chosen = from_record(DistillSettings, plain, "distil", key="", todo="see From Python in distill/README.md")
    return chosen if chosen.bank is not None or chosen.teacher.startswith("bank:") else replace(chosen, bank=work / "bank")


def _laid_out(model: Model) -> Model:
    """A trained model as it comes back from its folder, so that both answer in the same bits: on the CPU, its weights in one layout."""
    model.to("cpu").eval()
    for parameter in model.parameters():  # of a 1 x 1 kernel only a clone gets other strides
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model


def _networks(teacher: Any, student: Any, settings: dict[str, Any]) -> tuple[OwnNetworks, dict[str, str]]:
    """The networks that were handed over, and what the settings call teacher and student."""
    for name, value, kind in (("teacher", teacher, "TeacherNetwork(net, mean=..., std=..., size=...)"),
                              ("student", student, "StudentNetwork(net, features=...)")):
        if isinstance(value, nn.Module):
            raise UserError(f"{name} is a bare {type(value).__name__}, which does not say how it is used; give {kind}", USAGE)
    if not isinstance(teacher, str | Path | TeacherNetwork):
        raise UserError(f"teacher is {type(teacher).__name__}, expected a name, a path or a TeacherNetwork", USAGE)
    if not isinstance(student, str | StudentNetwork):
        raise UserError(f"student is {type(student).__name__}, expected a name or a StudentNetwork", USAGE)
    own = own_teacher(teacher) if isinstance(teacher, TeacherNetwork) else None
    body = own_student(student) if isinstance(student, StudentNetwork) else None
    for network, names, instead in ((own, OF_A_NAME, "a TeacherNetwork brings its own size and weights"),
                                    (body, OF_A_KNOWN, "a StudentNetwork is trained as it is, from its own weights; it is not pruned")):
        if network is not None and (needless := [name for name in names if settings.get(name) is not None]):
            raise UserError(f"{instead}; leave {' and '.join(needless)} out", USAGE)
    return OwnNetworks(own, body), {"teacher": own.name if own else str(teacher), "student": body.arch if body else str(student)}


def _check_keywords(settings: dict[str, Any]) -> None:
    """UserError (exit 2) for a keyword that is no setting, or none here."""
    for name in settings:
        if name in INSTEAD:
            raise UserError(f"distil takes no {name}: {INSTEAD[name]}", USAGE)
        if name not in NAMES:
            near = difflib.get_close_matches(name, [known for known in NAMES if known not in INSTEAD], n=1)
            raise UserError(f"distil has no setting {name!r}" + (f"; did you mean {near[0]}?" if near else
                            "; it takes those of rd-distill --help-all, dashes as underscores"), USAGE)


def _call(words: dict[str, Any]) -> str:
    """The call as it was written, for the record."""
    def shown(value: Any) -> str:
        if isinstance(value, TeacherNetwork | StudentNetwork):
            return f"{type(value).__name__}({value.name or type(value.net).__name__})"
        return repr(str(value) if isinstance(value, Path) else value)

    return f"distil({', '.join(f'{name}={shown(value)}' for name, value in words.items())})"


@contextlib.contextmanager
def _said_in_python(*temporary: Path | None) -> Iterator[None]:
    """Errors in the words of Python: settings without dashes, and no path of a folder that is gone by then."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for folder in temporary:
            text = text if folder is None else text.replace(f"{folder}/", "")
        text = FLAG.sub(lambda flag: IN_PYTHON.get(flag[1].replace("-", "_"), flag[0]), text)
        raise UserError(text, error.exit_code) from None


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Random numbers and threads of the caller's PyTorch are left as they were."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
