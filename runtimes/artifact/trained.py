"""What the JSON documents of a student's or a teacher's folder hold, for whoever reads them: rd-info and the workshop.

Owns: the rules of config.json, metrics.json, the manifest and tasks.json, as far as both take values from them. Does not own: reading the
files (info.py, distill/networks), whether a config makes a network (distill/networks/checkpoint.py), what an export repeats.
"""

from __future__ import annotations

from typing import Any

from runtimes.artifact.claims import class_name
from runtimes.files.folder import RECORD
from runtimes.files.schema import list_of, mapping_of, maybe, number, object_of, text, truth, whole
from runtimes.images.spec import SPEC

COUNT = whole(0, 2**62)
FIGURE = object_of({}, {key: number(-1e9, 1e9) for key in ("value", "low", "high")}, others=True)
BRANCHES = {key: object_of({}, {"auroc": FIGURE, "ece": FIGURE}, others=True) for key in ("student", "teacher", "probe")}
METRICS = object_of({}, {"params": COUNT, "macs": COUNT, "splits": mapping_of(object_of({}, {"n": COUNT, **BRANCHES}, others=True))},
                    others=True)
MODEL = object_of({"arch": text(), "height": COUNT, "width": COUNT, "task": text(), "classes": list_of(text())}, {"slices": COUNT},
                  others=True)
CONFIG = object_of({"rd": object_of({"model": MODEL}, {"licences": mapping_of(text())}, others=True)}, others=True)
TRAINED = object_of({}, {"teacher": maybe(text()), "data": object_of(
    {}, {"data": text(), "form": text(), "counts": mapping_of(COUNT)}, others=True),
    "adapters": object_of({}, {"method": text(), "kept": COUNT}, others=True)}, others=True)
ORIGINAL = object_of({"name": text(least=1), "public": text(), "hash": text(64), "net_hash": text(64), "licence": text(), "pooling": text(),
                      "channels": whole(1, 3), "assumed": text(), "folder": truth, "model": MODEL, "image": SPEC})
DIGESTS = mapping_of(text(64, least=64))


def task_record(value: Any, key: str) -> str:
    """The rule of a task's own manifest: of every manifest, and of a trained folder's."""
    return RECORD(value, key) or TRAINED(value, key)


TASKS = object_of({
    "format": whole(1, 1), "newest": object_of({"name": class_name, "tensors": DIGESTS}),
    "earlier": list_of(object_of({"name": class_name, "tensors": DIGESTS, "config": CONFIG, "metrics": METRICS, "record": task_record})),
    "original": maybe(object_of({"teacher": ORIGINAL, "tensors": DIGESTS})), "images": mapping_of(whole(1, 10**6))})
