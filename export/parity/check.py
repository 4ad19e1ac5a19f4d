"""Proof that a finished artifact takes the decisions of the PyTorch model, from raw images to the answer.

Owns: `parity` (the content of parity.json), the rules, the bound on the flip rate, which images are worst. Pure: it reads images and
asks a session, it writes nothing. Does not own: asking (answers.py), what agreement means (runtimes/agreement.py), the page
(page.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.networks.checkpoint import Calibration
from distill.networks.models import Model
from export.options import Limits
from export.parity.answers import Answers, Image, ask
from export.precision.gate import judge_logits
from runtimes.agreement import TAIL, compare, tail_difference
from runtimes.artifact.artifact import Artifact
from runtimes.scores import calibrated, decide
from runtimes.session import Session

Array = NDArray[Any]
CONFIDENCE = 0.95
WORST = 20  # images named one by one
RESAMPLES = 500
RULE = ("every logit within tolerance x max(1, |logit|) of PyTorch at every batch size, every probability within tolerance of its "
        "own logits, and no decision flipped but where PyTorch itself stands within 2 x tolerance of the border")
LOWER_RULE = ("flips, drop of AUROC and mean change of probabilities within their limits at every batch size, every probability within "
              "its own logits' calibration, and every logit within tolerance x max(1, |logit|) of PyTorch in fp16, within tolerance x "
              "max(1, the largest |logit| of these images) in bf16")


def parity(model: Model, session: Session, artifact: Artifact, images: Sequence[Image], labels: Array, *,
           max_batch: int, precision_share: dict[str, float], calibration: Calibration | None = None, limits: Limits | None = None,
           rows: Sequence[int] | None = None, groups: Array | None = None,
           progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Compare an artifact with the model it was made from on raw images (files or arrays; those of `rows`): what parity.json holds.

    Raises UserError when not one image can be used. `passed` follows RULE, or with `limits` LOWER_RULE. calibration: the model's own,
    where the artifact's was fitted anew. groups: whose image each one is, so that the interval of AUROC redraws patients, not images.
    """
    answers = ask(model, session, artifact, images, max_batch=max_batch, rows=rows, progress=progress)
    task, count = artifact.task, len(answers.rows)
    logits, known = answers.expected, labels[answers.rows]
    own = calibration or Calibration(artifact.temperatures, artifact.thresholds)
    expected = calibrated(logits, task, own.temperatures)
    single_logits, single_probabilities = answers.outputs[1]
    results = [compare(*output, logits, expected, task=task, temperatures=own.temperatures, thresholds=own.thresholds,
                       tolerance=artifact.tolerance) for output in answers.outputs.values()]
    verdicts = [judge_logits(graph_logits, expected, known, task, own, limits)
                for graph_logits, _ in answers.outputs.values()] if limits else []
    tail = tail_difference(single_logits, single_probabilities, task, artifact.temperatures)
    theirs = decide(expected, task, own.thresholds)  # a refitted temperature moves the artifact's thresholds, not its decisions
    flips = max(int((decide(probabilities, task, artifact.thresholds) != theirs).reshape(count, -1).any(axis=1).sum())
                for _, probabilities in answers.outputs.values())
    furthest = max(float(np.abs(graph_logits.astype(np.float64) - logits).max()) for graph_logits, _ in answers.outputs.values())
    # Eight bits of mantissa err by the size of what is summed up, not by how near to 0 one image's logit comes out.
    relative = (furthest / max(1.0, float(np.abs(logits).max())) if artifact.precision == "bf16" else
                max(result.difference for result in results))
    close = artifact.precision == "int8" or relative <= artifact.tolerance
    passed = (close and all(verdict.passed for verdict in verdicts)) if limits else all(
        result.within(artifact.tolerance) for result in results)
    change = _auroc_change(known, single_probabilities, expected, artifact, groups if groups is None else groups[answers.rows])
    return {
        "format": 1, "target": artifact.target, "precision": artifact.precision, "images": count,
        "flips": flips, "flip_bound": flip_bound(flips, count),
        "max_logit_difference": _finite(furthest),
        "max_probability_difference": _finite(max(result.probability_difference for result in results)),
        "auroc_difference": change.get("value"), "auroc_difference_low": change.get("low"), "auroc_difference_high": change.get("high"),
        "passed": bool(passed and tail <= TAIL[artifact.precision]),
        "precision_share": precision_share,
        "max_relative_logit_difference": _finite(max(result.difference for result in results)),
        "excused_flips": max(result.excused for result in results), "calibration_difference": _finite(tail),
        "tolerance": artifact.tolerance, "calibration_tolerance": TAIL[artifact.precision],
        "limits": {"max_flips": limits.max_flips, "max_auc_drop": limits.max_auc_drop} if limits else None,
        "rule": LOWER_RULE if limits else RULE,
        "changed_decisions": max((verdict.changed for verdict in verdicts), default=flips),
        "decisions": max((verdict.decisions for verdict in verdicts), default=count),
        "reasons": sorted({reason for verdict in verdicts for reason in verdict.reasons}) + _apart(relative, tail, close, artifact),
        "mean_probability_change": _finite(float(np.abs(single_probabilities.astype(np.float64) - expected).mean())),
        "batches": sorted(answers.outputs), "confidence": CONFIDENCE,
        "refused_images": len(answers.refused), "images_resized_to_graph": answers.stand_ins,
        "rounding": _rounding(answers, expected, artifact, own), "worst": _worst(answers, known, expected, artifact, own),
    }


def unlabelled(proof: dict[str, Any]) -> dict[str, Any]:
    """The same proof without what tells patients apart: of its worst images no label, and no figure so exact that it fits one alone."""
    def rounded(value: float | None, digits: int) -> float | None:
        return None if value is None else float(f"{value:.{digits}g}")

    def side(answer: dict[str, Any]) -> dict[str, Any]:
        return {**answer, "probabilities": [None if value is None else round(value, 2) for value in answer["probabilities"]]}

    worst = [{key: value for key, value in image.items() if key != "label"} | {
        "logit_difference": rounded(image["logit_difference"], 2), "probability_difference": rounded(image["probability_difference"], 2),
        "pytorch": side(image["pytorch"]), "artifact": side(image["artifact"])} for image in proof["worst"]]
    return {**proof, "worst": worst}


def _apart(relative: float, tail: float, close: bool, artifact: Artifact) -> list[str]:
    """What speaks against an artifact beside its decisions, in words."""
    reasons = []
    if not close:
        whose = "the largest |logit|" if artifact.precision == "bf16" else "max(1, |logit|)"
        reasons.append(f"logits differ by {relative:.1e} x {whose}, allowed {artifact.tolerance:.0e}")
    if not tail <= TAIL[artifact.precision]:
        reasons.append(f"probabilities are {tail:.1e} off the calibration of their own logits, allowed {TAIL[artifact.precision]:.0e}")
    return reasons


def flip_bound(flips: int, images: int, confidence: float = CONFIDENCE) -> float:
    """Upper limit of the flip rate after `flips` among `images`, exact binomial, one-sided (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return 1.0 if flips >= images else float(beta.ppf(confidence, flips + 1, images - flips))


def _worst(answers: Answers, labels: Array, expected: Array, artifact: Artifact, own: Calibration) -> list[dict[str, Any]]:
    """The images whose probabilities moved most at any batch size, both sides beside each other.

    No names, no hash of pixels: a file name may name a patient, a hash beside a label says which label an image at hand had. The row
    among the images tells them apart where the images are.
    """
    moved = np.stack([np.abs(probabilities.astype(np.float64) - expected).max(axis=1) for _, probabilities in answers.outputs.values()])
    apart = np.stack([np.abs(logits.astype(np.float64) - answers.expected).max(axis=1) for logits, _ in answers.outputs.values()])
    ranked = np.lexsort((-apart.max(axis=0), -moved.max(axis=0)))[:WORST]  # NaN sorts last, and has failed long before
    batches = list(answers.outputs)

    def answer(probabilities: Array, thresholds: Sequence[float]) -> dict[str, Any]:
        return {"decision": _names(decide(probabilities[None], artifact.task, thresholds)[0], artifact),
                "probabilities": [_finite(float(value)) for value in probabilities]}

    cases = []
    for row in ranked:
        image, batch = answers.rows[row], batches[int(moved[:, row].argmax())]
        cases.append({"image": image, "label": _names(labels[row], artifact), "batch": batch,
                      "logit_difference": _finite(float(apart[:, row].max())),
                      "probability_difference": _finite(float(moved[:, row].max())), "pytorch": answer(expected[row], own.thresholds),
                      "artifact": answer(answers.outputs[batch][1][row], artifact.thresholds)})
    return cases


def _names(decision: Any, artifact: Artifact) -> list[str] | None:
    """Class names of a label or a decision; None where nothing is known."""
    if artifact.task == "multilabel":
        values = np.asarray(decision, dtype=np.float64)
        return [name for name, hit in zip(artifact.classes, values, strict=True) if hit == 1] if np.isfinite(values).any() else None
    return [artifact.classes[int(decision)]] if decision >= 0 else None


def _rounding(answers: Answers, expected: Array, artifact: Artifact, own: Calibration) -> dict[str, Any]:
    """What training's 8-bit levels change against the graph's unrounded ones, both in PyTorch: a property, not a fault."""
    trained = answers.trained
    comparison = compare(answers.expected, expected, trained, calibrated(trained, artifact.task, own.temperatures), task=artifact.task,
                         temperatures=own.temperatures, thresholds=own.thresholds, tolerance=artifact.tolerance)
    return {"flips": comparison.flips, "max_logit_difference": float(np.abs(answers.expected - trained).max()),
            "max_probability_difference": comparison.probability_difference}


def _auroc_change(labels: Array, probabilities: Array, expected: Array, artifact: Artifact, groups: Array | None) -> dict[str, float]:
    """AUROC of the artifact minus that of PyTorch on the labelled images, with a paired 95 % interval; empty where it is not defined."""
    from distill.evaluation.evaluate import auroc_difference

    if not np.isfinite(probabilities).all():
        return {}
    return auroc_difference(labels, probabilities, expected, artifact.task, groups, n_bootstrap=RESAMPLES)


def _finite(value: float) -> float | None:
    """JSON has no infinity; None says that a score was not finite, and then parity has failed."""
    return value if np.isfinite(value) else None
