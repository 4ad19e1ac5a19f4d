"""The tasks of a teacher folder: the newest as any checkpoint, earlier ones and the original from an index and one file of tensors.

Owns: Task, TaskFolder, tasks.json (each task's own documents, its tensors by their digests), tasks.safetensors (every tensor that
model.safetensors does not hold, once), images that stay for later. Does not own: the newest task's files (checkpoint.py), folders of
earlier versions (adaptation/earlier.py), what an original is as a teacher (teacher/originals.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.adapters.insert import SLICES
from distill.networks.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint, parse_config, weights_bytes
from distill.networks.models import ModelSpec, build_model, state_hash
from distill.networks.nets import classifier_of
from distill.networks.weight_files import first_line
from runtimes.artifact import trained
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST, check_files, read_json, read_manifest, sha256_file, write_atomic, write_json
from runtimes.files.schema import check
from runtimes.text import counted

INDEX, TENSORS, IMAGES = "tasks.json", "tasks.safetensors", "tasks-images.safetensors"
METRICS = "metrics.json"
AGAIN = "make the folder again, or copy it again"
MOST_BYTES = 1 << 28  # of the index: a line a tensor and task


@dataclass(frozen=True)
class Task:
    """A task by what its own folder said of it: config.json, metrics.json, its manifest without files; and its tensors by digest."""

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    tensors: Mapping[str, str]

    @property
    def spec(self) -> ModelSpec:
        """The network's spec: architecture, task, classes, adapters."""
        return parse_config(dict(self.config), Path(f"task {self.name}"))[0]

    def auroc(self, split: str = "val") -> float | None:
        """What the task's own run reached on a split; None where it is not known."""
        value = self.metrics.get("splits", {}).get(split, {}).get("student", {}).get("auroc", {}).get("value")
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class KeptImages:
    """Images of a task that stay in the folder: grey levels (N, h, w, C) as its network is fed, labels, no names."""

    levels: NDArray[np.uint8]
    labels: NDArray[Any]


@dataclass(frozen=True)
class TaskFolder:
    """What a teacher folder holds: its tasks, the newest last, the original that their adapters stand on, images that were kept.

    original: what it is as a teacher, and its tensors by digest; None where nobody kept it. more: tensors by digest that are in no file.
    """

    folder: Path
    tasks: tuple[Task, ...]
    original: Mapping[str, Any] | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks, the newest last."""
        return tuple(task.name for task in self.tasks)

    def task(self, name: str) -> Task:
        """A task by its name; UserError (exit 2) that lists those there are."""
        task = next((task for task in self.tasks if task.name == name), None)
        if task is None:
            raise UserError(f"{self.folder} holds no task {name!r}; it holds {', '.join(map(repr, self.names))}", USAGE)
        return task

    def state(self, tensors: Mapping[str, str]) -> dict[str, Tensor]:
        """Tensors by name, of names and digests; UserError where one is missing or has other bytes."""
        by_digest = self.tensors(tensors.values())
        return {name: by_digest[digest] for name, digest in tensors.items()}

    def tensors(self, digests: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by digest, each compared with it; UserError where one is missing or has other bytes."""
        from safetensors import SafetensorError, safe_open

        newest = {digest: name for name, digest in self.tasks[-1].tensors.items()}
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            try:
                weights = stack.enter_context(safe_open(self.folder / WEIGHTS, "pt"))
                beside = stack.enter_context(safe_open(self.folder / TENSORS, "pt")) if (self.folder / TENSORS).is_file() else None
                for digest in dict.fromkeys(digests):
                    if digest in self.more:
                        found[digest] = self.more[digest]
                    elif digest in newest:
                        found[digest] = weights.get_tensor(newest[digest])
                    elif beside is not None:
                        found[digest] = beside.get_tensor(digest)
                    else:
                        raise UserError(f"{self.folder} lacks {TENSORS}, which holds its earlier tasks; {AGAIN}")
            except (SafetensorError, OSError) as error:
                raise UserError(f"the tensors of the tasks in {self.folder} cannot be read ({first_line(error)}); {AGAIN}") from None
        wrong = next((digest for digest, tensor in found.items() if digest_of(tensor) != digest), None)
        if wrong is not None:
            raise UserError(f"{self.folder}: a tensor of its tasks has other bytes than {INDEX} says ({wrong[:16]}); {AGAIN}")
        return found

    def checkpoint(self, name: str) -> Checkpoint:
        """A task's own network as it was, on the CPU, in eval mode; its manifest is what its own folder's said."""
        task = self.task(name)
        spec, image_spec, calibration = parse_config(dict(task.config), self.folder / INDEX)
        state = self.state(task.tensors)
        model = loaded(spec, state, f"{self.folder / INDEX}: task {name}")
        if (weights := task.record.get("weights_hash")) is not None and state_hash(state) != weights:
            raise UserError(f"{self.folder / INDEX}: the tensors of task {name} are not the weights that its record says "
                            f"({str(weights)[:16]}); {AGAIN}")
        return Checkpoint(model, image_spec, calibration, dict(task.record))

    def prove(self) -> None:
        """UserError where a task, the original or kept images would not come back as they were written: every tensor is read."""
        for task in self.tasks:
            self.checkpoint(task.name)
            self.kept(task.name)
        self.tensors((self.original or {}).get("tensors", {}).values())

    def kept(self, name: str) -> KeptImages | None:
        """The images that were kept of a task; None where there are none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if name not in self.images:
            return None
        try:
            arrays = load_file(self.folder / IMAGES)
            kept = KeptImages(arrays[f"{name}.levels"], arrays[f"{name}.labels"])
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(f"{self.folder / IMAGES} cannot be read ({type(error).__name__}: {error}); {AGAIN}") from None
        spec, count = self.task(name).spec, self.images[name]
        if kept.levels.dtype != np.uint8 or kept.levels.ndim != 4 or kept.levels.shape[:3] != (count, spec.height, spec.width):
            raise UserError(f"{self.folder / IMAGES} holds {kept.levels.dtype} levels of shape {kept.levels.shape} of {name!r}, expected "
                            f"uint8 ({count}, {spec.height}, {spec.width}, channels); {AGAIN}")
        if not _fit(kept.labels, count, spec):
            raise UserError(f"{self.folder / IMAGES} holds labels of {name!r} that do not fit {counted(count, 'image')} of "
                            f"{counted(len(spec.classes), 'class', 'classes')} of a {spec.task} task; {AGAIN}")
        return kept


def loaded(spec: ModelSpec, state: dict[str, Tensor], where: str) -> Any:
    """A model of a spec with these tensors, strictly; where: what an error calls them."""
    model = build_model(spec)
    try:
        model.net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{where} does not fit {spec.arch}: {first_line(error)}; {AGAIN}") from None
    return model.eval()


def _fit(labels: NDArray[Any], count: int, spec: ModelSpec) -> bool:
    """Whether labels are those of so many images of a task: a class each, or 0, 1 and nan a finding."""
    if spec.task == "multilabel":
        return labels.shape == (count, len(spec.classes)) and labels.dtype.kind == "f" and bool(
            np.isin(labels[~np.isnan(labels)], (0, 1)).all())
    return labels.shape == (count,) and labels.dtype.kind == "i" and bool(((labels >= 0) & (labels < len(spec.classes))).all())


def digest_of(tensor: Tensor) -> str:
    """SHA-256 over a tensor's shape, dtype and bytes."""
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(values.shape)} {values.dtype} ".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def own_parts(net: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of tensors that are one task's alone, whatever network it shares: its head, and its pooling of slices."""
    head = classifier_of(net)[-1]
    return (next(name for name, module in net.named_modules() if module is head) + ".", f"{SLICES}.")


def has_tasks(name: str) -> bool:
    """Whether a teacher's name is that of a folder with an index of tasks."""
    return (Path(name) / INDEX).is_file()


def read_tasks(folder: Path) -> TaskFolder:
    """The tasks of a teacher folder, every byte compared with its manifest; UserError for a folder without an index, or a damaged one.

    Every document is checked, and that each tensor is there; whether its bytes are right shows when it is read (TaskFolder.prove).
    """
    manifest = read_manifest(folder, "teacher")
    check_files(folder, manifest)
    path = folder / INDEX
    content, config, metrics = read_json(path, MOST_BYTES), read_json(folder / CONFIG), read_json(folder / METRICS)
    for where, document, rule in ((path, content, trained.TASKS), (folder / CONFIG, config, trained.CONFIG),
                                  (folder / METRICS, metrics, trained.METRICS), (folder / MANIFEST, manifest, trained.task_record)):
        check(document, rule, str(where), AGAIN)
    newest = Task(content["newest"]["name"], config, metrics, record_of(folder), content["newest"]["tensors"])
    tasks = (*(Task(**entry) for entry in content["earlier"]), newest)
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a task twice ({', '.join(names)}); {AGAIN}")
    if unknown := sorted(set(content["images"]) - set(names)):
        raise UserError(f"{path} keeps images of {unknown[0]!r}, which is none of its tasks; {AGAIN}")
    for task in tasks[:-1]:
        try:
            parse_config(dict(task.config), Path(f"{path}: task {task.name}"))
        except UserError as error:
            raise UserError(f"{str(error).removesuffix('; make the folder again')}; {AGAIN}") from None
    _check_tensors(folder, tasks, (content["original"] or {}).get("tensors", {}))
    return TaskFolder(folder, tasks, content["original"], content["images"])


def _check_tensors(folder: Path, tasks: tuple[Task, ...], original: Mapping[str, str]) -> None:
    """UserError where the files beside the index hold not the tensors that it names; none is read."""
    newest, apart = tasks[-1].tensors, _keys(folder / TENSORS) if (folder / TENSORS).is_file() else None
    if different := sorted(set(newest) ^ _keys(folder / WEIGHTS)):
        raise UserError(f"{folder / INDEX} and {WEIGHTS} do not name the same tensors of the newest task ({different[0][:80]}); {AGAIN}")
    held = {*newest.values(), *(apart or ())}
    for whose, tensors in (*((f"task {task.name}", task.tensors) for task in tasks), ("the original", original)):
        if (name := next((name for name, digest in tensors.items() if digest not in held), None)) is not None:
            raise UserError(f"{folder} lacks {TENSORS}, which holds its earlier tasks; {AGAIN}" if apart is None else
                            f"{folder / INDEX}: {name[:80]} of {whose} is {tensors[name][:16]}, which neither {WEIGHTS} nor {TENSORS} "
                            f"holds; {AGAIN}")


def _keys(path: Path) -> set[str]:
    """Names of the tensors in a file, of which only the beginning is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); {AGAIN}") from None


def record_of(folder: Path) -> dict[str, Any]:
    """A folder's manifest as its task keeps it: of the files only the weights', which are the same when they are written again."""
    manifest = read_manifest(folder, "teacher")
    return {**manifest, "files": {name: digest for name, digest in manifest["files"].items() if name == WEIGHTS}}


def load_task(folder: Path, name: str | None, *kinds: str) -> Checkpoint:
    """A folder's model by the name of its task, the newest where none is named; UserError (exit 2) for a task that is not there."""
    if name is None:
        return load_checkpoint(folder, *kinds)
    tasks = tasks_named(folder, name)
    return load_checkpoint(folder, *kinds) if name == tasks.names[-1] else tasks.checkpoint(name)


def tasks_named(folder: Path, name: str) -> TaskFolder:
    """A folder's tasks, of which one is asked for; UserError (exit 2) where it is not there, or the folder knows of no tasks."""
    if INDEX not in read_manifest(folder, "student", "teacher")["files"]:  # one that is named there and gone is a damaged folder's
        raise UserError(f"--task {name}: {folder} is no folder that holds tasks; expected one that rd-adapt wrote, or leave it out", USAGE)
    tasks = read_tasks(folder)
    tasks.task(name)
    return tasks


def write_tasks(folder: Path, earlier: Iterable[Task], newest: str, state: Mapping[str, Tensor], original: Mapping[str, Any] | None,
                pool: Mapping[str, Tensor], images: Mapping[str, KeptImages]) -> int:
    """Write the index and what it needs beside model.safetensors; returns how many bytes the tensors take.

    state: the newest task's, as model.safetensors holds it. pool: tensors by digest, of earlier tasks and the original.
    """
    import safetensors.numpy
    import safetensors.torch

    tasks = list(earlier)
    digests = {name: digest_of(tensor) for name, tensor in state.items()}
    needed = {digest for task in tasks for digest in task.tensors.values()} | set((original or {}).get("tensors", {}).values())
    apart = {digest: pool[digest].detach().cpu().contiguous() for digest in sorted(needed - set(digests.values()))}
    if apart:
        write_atomic(folder / TENSORS, safetensors.torch.save(apart, metadata={"format": "pt"}))
    if images:
        arrays = {f"{name}.{part}": np.ascontiguousarray(getattr(kept, part)) for name, kept in images.items()
                  for part in ("levels", "labels")}
        write_atomic(folder / IMAGES, safetensors.numpy.save(arrays))
    write_json(folder / INDEX, {
        "format": 1, "newest": {"name": newest, "tensors": digests},
        "earlier": [{"name": task.name, "config": task.config, "metrics": task.metrics, "record": task.record, "tensors": task.tensors}
                    for task in tasks],
        "original": original, "images": {name: len(kept.levels) for name, kept in images.items()}})
    return sum(tensor.numel() * tensor.element_size() for tensor in apart.values())


def gone_on(task: Task, network: Mapping[str, Tensor], own: tuple[str, ...], spec: ModelSpec) -> tuple[Task, dict[str, Tensor]]:
    """A task whose network went on to another: what is its own stays, all else is the new network's; with the new tensors by digest.

    spec: of the new network, of which only the adapters count. The documents are not touched: what they say is no longer so.
    """
    shared = {name: tensor for name, tensor in network.items() if not name.startswith(own)}
    digests = {name: digest_of(tensor) for name, tensor in shared.items()}
    kept = {name: digest for name, digest in task.tensors.items() if name.startswith(own)}
    model = replace(task.spec, adapters=spec.adapters).as_dict()
    config = {**task.config, "rd": {**task.config["rd"], "model": model}}
    return replace(task, config=config, tensors={**digests, **kept}), {digests[name]: tensor for name, tensor in shared.items()}


def file_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of model.safetensors with these tensors."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}  # equal ones may be one here, not in a file
    return hashlib.sha256(weights_bytes(own)).hexdigest()


def identity(folder: Path, task: str | None = None) -> str:
    """What a result names as its parent: the hash of a folder's manifest, of a named task that and its name; "" where there is none."""
    digest = sha256_file(folder / MANIFEST) if (folder / MANIFEST).is_file() else ""
    return digest if task is None or not digest else hashlib.sha256(f"{digest} {task}".encode()).hexdigest()


def documents(folder: Path, task: str | None = None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """config.json and metrics.json of a folder, or of one of its tasks; the second is empty where there is none."""
    if task is not None:
        found = tasks_named(folder, task).task(task)
        return found.config, found.metrics
    return read_json(folder / CONFIG), read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
