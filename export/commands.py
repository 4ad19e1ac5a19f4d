"""rd-export: student folder -> artifact folder, with proof and timing inside, or nothing at all.

Owns: the order of the work, what is written and printed. Does not own: the graph, the proof, the files' meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from distill.data.image_set import ImageSet
from distill.networks.checkpoint import Checkpoint
from distill.networks.foreign_config import graph_config, preprocessor_config
from distill.networks.tasks import identity, load_task
from distill.progress import say, track
from export.config import ExportSettings
from export.documents.bom import write_bom
from export.documents.card import artifact_card
from export.documents.sign import load_signing_key, sign_manifest, signed_by
from export.facts import Student, finished, manifest_facts, proven_on, read_student
from export.graph.fp32 import fp32_graph
from export.graph.hygiene import precision_share
from export.parity.answers import evenly
from export.parity.check import parity, unlabelled
from export.parity.evidence import not_timed, timed, write_golden
from export.parity.golden import Golden, golden_images, golden_patterns
from export.parity.page import parity_page, pictures_of
from export.targets.executed import check_honoured, shares
from export.targets.lowering import lowered
from export.targets.row import ExportedGraph
from export.targets.speed import against_fp32
from export.targets.table import TARGETS
from runtimes.artifact.artifact import GOLDEN, Artifact, artifact_of, read_artifact
from runtimes.artifact.targets import Runtime
from runtimes.backends.ort import OrtSession
from runtimes.errors import DONE, MISSING, PARITY, USAGE, UserError
from runtimes.files.folder import SIGNATURE, read_json, write_atomic, write_json, write_manifest
from runtimes.files.outputs import check_apart, check_out, check_place, claimed, new_folder
from runtimes.session import CheckedSession, Session, open_runtime
from runtimes.text import printable


def export(settings: ExportSettings, command: str = "", images_of: Callable[[Checkpoint], ImageSet] | None = None) -> int:
    """Export a student for every target named; returns 0, raises UserError (exit 3 where parity fails, 5 where a runtime is missing).

    images_of reads the images a student was made from; by default as its folder says, or from --data. Of several targets one that
    fails does not stop the others.
    """
    for job in settings.jobs():
        check_place(job.folder())
    check_apart({f"--out ({job.runtime})" if len(settings.target) > 1 else "--out": job.folder() for job in settings.jobs()},
                {"--student-dir": settings.student_dir, "--data": settings.data, "--sign": settings.sign, "--config": settings.config})
    with ExitStack() as stack:
        for job in settings.jobs():
            stack.enter_context(claimed(job.folder()))
        return _export(settings, command, images_of)


def _export(settings: ExportSettings, command: str, images_of: Callable[[Checkpoint], ImageSet] | None) -> int:
    jobs, key = [], load_signing_key(settings.sign) if settings.sign is not None else None  # a bad key is told before the work

    @cache
    def opened() -> tuple[Checkpoint, ImageSet]:
        checkpoint = load_task(settings.student_dir, settings.task, "student", "teacher")
        source = f"{settings.student_dir}{f', task {settings.task}' if settings.task else ''}"
        say("student", f"{source}: {checkpoint.spec.arch}, {checkpoint.spec.task}, {len(checkpoint.spec.classes)} classes, "
                       f"{checkpoint.image_spec.height}x{checkpoint.image_spec.width} {checkpoint.image_spec.dtype}, "
                       f"{checkpoint.calibration.describe()}")
        _check_data(settings, checkpoint)
        beside = settings.student_dir if settings.task is None else None  # whose list of hidden names is that of the newest task
        return checkpoint, images_of(checkpoint) if images_of is not None else _images(checkpoint, settings.data, beside)

    for job in settings.jobs():
        if (job.resume and finished(job.folder(), identity(job.student_dir, job.task), job.kept())
                and (key is None or signed_by(job.folder(), key))
                and (job.data is None or proven_on(job.folder()) == opened()[1].digest)):
            say("done", f"{job.folder()}/ was finished already; nothing to resume")
            continue
        check_out(job.folder(), overwrite=job.overwrite)
        TARGETS[job.runtime].check(job.engine())  # before the minutes of work, not after
        jobs.append(job)
    if not jobs:
        return DONE
    checkpoint, images = opened()
    student = read_student(settings.student_dir, checkpoint, settings.task)  # figures that cannot be: told before the minutes of work, too
    if checkpoint.image_spec.volume is not None and (settings.input != "image" or settings.input_size):
        raise UserError("a student of volumes takes slices of its own size; leave --input tensor and --input-size out", USAGE)
    if checkpoint.image_spec.physical and settings.input != "image":
        raise UserError("the windows of this student are inside its graph, which takes physical values; leave --input tensor out", USAGE)
    rows = parity_rows(images, settings.parity_images)
    data, failed = fp32_graph(student, jobs[0].build()), []
    for job in jobs:
        try:
            _export_one(job, student, data, images, rows, command, key)
        except UserError as error:
            if len(jobs) == 1:
                raise
            say(job.runtime, f"FAILED: {error}")
            failed.append((job.runtime, error))
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} targets failed: {', '.join(name for name, _ in failed)} (reasons above)",
                        failed[0][1].exit_code)
    return DONE


def _export_one(settings: ExportSettings, student: Student, data: bytes, images: ImageSet, rows: list[int], command: str,
                key: Any) -> None:
    out, build, checkpoint = settings.folder(), settings.build(), student.checkpoint
    with new_folder(out, overwrite=settings.overwrite) as folder:
        graph = lowered(data, student, artifact_of(out, manifest_facts(student, build)), images, rows, build, settings.quantisation(),
                        settings.threads)
        written = _written(folder, graph, settings)
        compiled = written.get("engine")
        facts = manifest_facts(graph.student, build, command=settings.kept_command() if command else "", settings=settings.kept(),
                               parity_images=images.digest) | (
            {"lowering": graph.record} if graph.record else {}) | written
        write_bom(folder, facts, checkpoint.manifest)
        write_manifest(folder, "artifact", facts)  # so that the folder opens as on a device; written again as the last file
        artifact = read_artifact(folder)
        runtime, absent = _opened(artifact, settings)
        session = CheckedSession(artifact, runtime)
        try:
            weights = precision_share(graph.data)
            executed = compiled["precision_share"] or {} if compiled else shares(
                TARGETS[build.target].layers(runtime.facts(), artifact.model_path, settings.device))
            asked = weights if compiled else precision_share(graph.data, layers=True)
            notice = check_honoured(settings.precision, asked, executed, where=f"{settings.runtime} on this machine",
                                    allowed=settings.keep_upcast)
            if notice:
                say("precision", notice)
            proof = _prove(folder, checkpoint, artifact, session, images, rows, settings, weights, executed)
            golden = _golden(artifact, session, images, rows, settings)
            write_golden(folder / GOLDEN, checkpoint, artifact, session, golden)
            first = tuple(array[:1].copy() for array in golden.batch)
            timing = not_timed(folder, session) if absent else timed(
                folder, session, first, settings.samples, settings.threads, against_fp32(
                    data, graph.record.get("quantised_by", ""), runtime, first, build, settings.execution(), settings.engine(),
                    keep_slower=settings.keep_slower))
        finally:
            session.close()
        card = artifact_card(artifact, facts=facts["artifact"], parity=proof, latency=timing, latency_facts=read_json(
            folder / "latency.json")["facts"], metrics=dict(student.metrics), calibrated=graph.student.checkpoint.calibration.describe())
        write_atomic(folder / "README.md", card.encode())
        write_manifest(folder, "artifact", facts)
        if key is not None:
            say("signed", f"{SIGNATURE} by key {sign_manifest(folder, key)}")
    print(printable(f"{out}/  {', '.join(sorted(path.name for path in out.iterdir()))}"))
    print(printable(f"next: rd-verify {out}{' --public-key pub.pem' if key is not None else ''}   (on the device)"))


def _written(folder: Path, graph: ExportedGraph, settings: ExportSettings) -> dict[str, Any]:
    """Write what the target opens and what other programs read beside it; what the manifest says of them."""
    facts = TARGETS[settings.runtime].write(folder, graph, settings.build(), settings.engine())
    checkpoint = graph.student.checkpoint
    write_json(folder / "config.json", dict(graph.student.config) | graph_config(checkpoint.spec))
    write_json(folder / "preprocessor_config.json", preprocessor_config(checkpoint.image_spec))
    return facts


def _check_data(settings: ExportSettings, checkpoint: Checkpoint) -> None:
    """Refuse (exit 2) an output inside the images that the student was made from."""
    from distill.data.intake import data_of

    data = data_of(checkpoint.manifest, settings.student_dir) if settings.data is None and settings.task is None else None
    if data is not None:
        check_apart({f"--out ({job.runtime})": job.folder() for job in settings.jobs()}, {"the student's images": data})


def _opened(artifact: Artifact, settings: ExportSettings) -> tuple[Runtime, bool]:
    """The runtime that answers for an artifact, and whether it is another than its own: an engine needs its GPU, its ONNX does not."""
    try:
        return open_runtime(artifact, threads=settings.threads, device=settings.device), False
    except UserError as error:
        if not artifact.row.origin or error.exit_code != MISSING:
            raise
        say("engine", f"not run here: {error}")
        say("", "parity and golden vectors are those of ONNX Runtime on the ONNX beside it; rd-verify checks the engine on the device")
        return OrtSession(artifact.model_bytes(artifact.row.origin)[0], threads=settings.threads), True


def parity_rows(images: ImageSet, most: int) -> list[int]:
    """Up to `most` validation images, evenly spaced."""
    rows = images.rows("val")
    if len(rows) == 0:
        raise UserError("the data has no validation images, so parity cannot be shown; name data that has some with --data")
    return evenly(rows, most)


def _images(checkpoint: Checkpoint, data: str | None, folder: Path | None) -> ImageSet:
    from distill.data.intake import images_for

    try:
        images = images_for(checkpoint.manifest, data, folder)
    except UserError as error:
        hint = "" if data else "; if the images have moved, name them with --data"
        raise UserError(f"the images this student was made from cannot be read again: {error}{hint}", error.exit_code) from None
    if images.task != checkpoint.spec.task or images.classes != checkpoint.spec.classes:
        raise UserError(f"these images are {images.task} with classes {', '.join(images.classes)}; the student decides "
                        f"{checkpoint.spec.task} between {', '.join(checkpoint.spec.classes)}")
    return images


def _prove(folder: Path, checkpoint: Checkpoint, artifact: Artifact, session: Session, images: ImageSet, rows: list[int],
           settings: ExportSettings, weights: dict[str, float], executed: dict[str, float]) -> dict[str, Any]:
    limits = None if settings.precision == "fp32" else settings.limits()
    with track("parity") as update:
        proof = parity(checkpoint.model, session, artifact, images.images, images.labels, rows=rows, groups=images.groups,
                       max_batch=settings.max_batch, precision_share=weights, calibration=checkpoint.calibration, limits=limits,
                       progress=update)
    proof["executed_share"] = executed
    rounding = proof["rounding"]
    text = (f"{proof['images']} images, {proof['flips']} flips (rate below {100 * proof['flip_bound']:.1f} %), "
            f"logits within {_number(proof['max_logit_difference'])}, batches {', '.join(map(str, proof['batches']))}")
    if not proof["passed"]:
        reasons = f" ({'; '.join(proof['reasons'])})" if proof["reasons"] else ""
        raise UserError(f"parity failed: {text}{reasons}; allowed {artifact.tolerance:.0e} relative, expected: {proof['rule']}. "
                        f"Worst images: {_worst(proof, artifact, images.keys)}. No artifact was written", PARITY)
    say("parity", text)
    if rounding["max_logit_difference"] > 0:
        say("", f"8-bit rounding of training: {rounding['flips']} flips, logits within {rounding['max_logit_difference']:.1e}")
    if proof["refused_images"] or proof["images_resized_to_graph"]:
        say("", f"{proof['refused_images']} images refused by the input check, "
                f"{proof['images_resized_to_graph']} resized to the graph's size")
    if not settings.parity_pictures:
        proof = unlabelled(proof)
    write_json(folder / "parity.json", proof)
    shown = pictures_of(proof, images.images, artifact, settings.parity_pictures)
    facts = artifact.manifest["artifact"]
    write_atomic(folder / "parity.html", parity_page(proof, artifact, shown, student=facts["student"],
                                                     synthetic=facts["synthetic"]).encode())
    return proof


def _golden(artifact: Artifact, session: Session, images: ImageSet, rows: list[int], settings: ExportSettings) -> Golden:
    if settings.golden == "images":
        golden = golden_images(images.images, artifact, rows, settings.golden_images)
    else:
        with track("golden") as update:
            golden = golden_patterns(session, artifact, settings.golden_images, max_batch=settings.max_batch, progress=update)
    say("golden", golden.about)
    return golden


def _worst(proof: dict[str, Any], artifact: Artifact, keys: Sequence[str]) -> str:
    """The three images that moved most, each with the class that did, for the person at the keyboard; nothing of this ships."""
    def line(case: dict[str, Any]) -> str:
        here, there = case["artifact"]["probabilities"], case["pytorch"]["probabilities"]
        apart = [abs((a if a is not None else math.inf) - b) for a, b in zip(here, there, strict=True)]
        index = apart.index(max(apart))
        return f"{keys[case['image']]}: {artifact.classes[index]} {_number(there[index], 4)} by PyTorch, {_number(here[index], 4)} here"

    return "; ".join(line(case) for case in proof["worst"][:3])


def _number(value: float | None, digits: int = 0) -> str:
    return "not finite" if value is None else f"{value:.{digits}f}" if digits else f"{value:.1e}"


