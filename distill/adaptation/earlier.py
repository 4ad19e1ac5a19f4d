"""The tasks of the folder that rd-adapt goes on from, whichever version wrote it.

Owns: earlier_tasks, and what a folder with one network and heads.json is as tasks: its original is found again, or gone. Does not own:
folders as they are written now (networks/tasks.py), what becomes of earlier tasks (continual.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.adapters.insert import POOLED, SLICES
from distill.networks.checkpoint import CONFIG, Checkpoint, load_checkpoint
from distill.networks.heads import TaskHead, load_heads
from distill.networks.models import Model, ModelSpec, weights_hash
from distill.networks.nets import build_net
from distill.networks.tasks import METRICS, Task, TaskFolder, digest_of, has_tasks, own_parts, read_tasks, record_of
from distill.teacher.originals import Original, record_original
from distill.teacher.public_names import public_teacher
from distill.teacher.teachers import of_checkpoint
from runtimes.files.folder import MANIFEST, read_json, read_manifest

NOTHING = {"kind": "teacher", "format": 1, "files": {}, "settings": {}, "parents": {}, "data": {}}  # what is known of such a head's run


def earlier_tasks(name: str) -> TaskFolder | None:
    """The tasks of the folder that --teacher names; None where it is none that rd-adapt wrote."""
    folder = Path(name)
    if not (folder / MANIFEST).is_file() or read_manifest(folder, "student", "teacher")["kind"] != "teacher":
        return None
    return read_tasks(folder) if has_tasks(name) else _of_earlier_version(folder)


def _of_earlier_version(folder: Path) -> TaskFolder:
    checkpoint = load_checkpoint(folder, "teacher")
    heads, config = load_heads(folder), read_json(folder / CONFIG)
    state = dict(checkpoint.model.net.state_dict())
    digests = {name: digest_of(tensor) for name, tensor in state.items()}
    head = own_parts(checkpoint.model.net)[0]
    record = record_of(folder)
    newest = heads[-1].name if heads else Path(str(record.get("data", {}).get("data", folder.name))).name
    tasks: list[Task] = []
    more: dict[str, Tensor] = {}
    for earlier in heads[:-1]:
        own = {f"{head}weight": earlier.weight, f"{head}bias": earlier.bias}
        more |= {digest_of(tensor): tensor for tensor in own.values()}
        tasks.append(Task(earlier.name, _with_head(config, earlier), {}, NOTHING,
                          {**digests, **{name: digest_of(tensor) for name, tensor in own.items()}}))
    tasks.append(Task(newest, config, read_json(folder / METRICS), record, digests))
    original = None
    if (stripped := _original_of(checkpoint, len(heads))) is not None:
        teacher = of_checkpoint(replace(checkpoint, model=stripped), folder.name)
        original, tensors = record_original(Original(teacher, weights_hash(teacher.net), public_teacher(teacher.name)), stripped.spec)
        more |= tensors
    return TaskFolder(folder, tuple(tasks), original, {}, more)


def _with_head(config: Mapping[str, Any], head: TaskHead) -> dict[str, Any]:
    """A folder's config with another head in place: nothing is known of its calibration."""
    several = len(head.classes) if head.task == "multilabel" else 0
    record = {key: value for key, value in config["rd"].items() if key not in ("not_calibrated", "few_images")}
    model = {**record["model"], "task": head.task, "classes": list(head.classes)}
    return {**config, "rd": {**record, "model": model, "temperatures": [1.0] * (several or 1), "thresholds": [0.5] * several}}


def _original_of(checkpoint: Checkpoint, tasks: int) -> Model | None:
    """The network that new adapters may stand on: without those that were trained; folded ones are part of it. None where it is gone.

    Experts that began in a weight's spectrum took their mean out of it: without them it is no weight of anybody's. Those of one run of moe
    began at zero, and the weights beside them are the original's.
    """
    spec, settings = checkpoint.spec, checkpoint.manifest.get("settings", {})
    if set(spec.adapters) - {POOLED} and not (tasks <= 1 and settings.get("method") in ("moe", "molre")):
        return None
    plain = ModelSpec(spec.arch, spec.height, spec.width, "binary", ("no", "yes"), spec.arguments, slices=spec.slices if spec.solid else 0)
    net = build_net(plain.arch, plain.height, plain.width, plain.outputs, **plain.arguments)
    head = own_parts(net)[0]
    state: dict[str, Tensor] = {}
    inside = tuple(f"{name}." for name in spec.adapters)
    for name, tensor in checkpoint.model.net.state_dict().items():
        adapter = next((start for start in inside if name.startswith(start)), "")
        if name.startswith((POOLED, SLICES, head)) or (adapter and not name.startswith(f"{adapter}base.")):
            continue
        state[f"{adapter}{name.removeprefix(f'{adapter}base.')}" if adapter else name] = tensor
    own = net.state_dict()
    net.load_state_dict({**{name: own[name] for name in own if name.startswith(head)}, **state}, strict=True)
    return Model(plain, net.eval())
