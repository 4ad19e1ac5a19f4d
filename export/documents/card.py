"""The README of an artifact folder: what it is, what goes in and comes out, how to run it, what was proven.

Owns: the text. Does not own: any figure in it.
"""

from __future__ import annotations

from typing import Any

from export.targets.listings import listings
from export.targets.table import TARGETS
from runtimes.artifact.artifact import Artifact
from runtimes.text import markdown

METRICS = ("auroc", "accuracy", "balanced_accuracy", "f1", "kappa", "ece")


def artifact_card(artifact: Artifact, *, facts: dict[str, Any], parity: dict[str, Any], latency: dict[str, float],
                  latency_facts: dict[str, Any], metrics: dict[str, Any], calibrated: str) -> str:
    """Markdown for README.md; facts: student, teacher, licences, synthetic; calibrated: what is to be said of the probabilities."""
    stated = [f"- {markdown(name)}: {markdown(str(licence))}\n" for name, licence in sorted(facts["licences"].items())]
    licences = "".join(stated) or "- not stated\n"
    synthetic = "\n**Made from synthetic images: it says nothing about patients.**\n" if facts["synthetic"] else ""
    classes = ", ".join(map(markdown, artifact.classes))
    return f"""# {markdown(facts["student"])} for {artifact.target}, {artifact.precision}

Task: {artifact.task}. Classes: {classes}. Teacher: {markdown(str(facts["teacher"]))}.
Research tool, not a medical device.
{synthetic}
## Input and output

{_interface(artifact, calibrated)}
{_preprocessing(artifact)}

## Run it

{listings(artifact, TARGETS[artifact.target].programs(artifact))}

`rd-verify .` checks every byte and replays the golden vectors of `{artifact.golden.name}` on the machine at hand
({_golden(artifact)}).
With `manifest.sig` beside the manifest, `rd-verify . --public-key pub.pem` takes it from its maker alone.
`bom.cdx.json` is the bill of materials (CycloneDX): model, parents, data, libraries, licences, with their hashes.

## Proven at export

- {parity["images"]} validation images, {parity["flips"]} changed decisions (flip rate below {100 * parity["flip_bound"]:.1f} % with 95 %
  confidence); logits differ from PyTorch by {parity["max_logit_difference"]:.1e} at most, probabilities by {
    parity["max_probability_difference"]:.1e}; batches {", ".join(map(str, parity["batches"]))}.
{_lower(parity)}- 8-bit rounding in training against unrounded levels here: {parity["rounding"]["flips"]} decisions,
  probabilities by {parity["rounding"]["max_probability_difference"]:.1e}.
{_precision(artifact, parity)}- `parity.html` shows all of it, with {_pictures(artifact)}.
- {_speed(latency, latency_facts)}

{_metrics(metrics)}
## Licences

{licences}"""


def _golden(artifact: Artifact) -> str:
    if artifact.manifest["settings"]["golden"] == "images":
        return "they are validation images: treat this folder as you treat the data"
    return "drawn patterns that show no patient"


def _pictures(artifact: Artifact) -> str:
    count = artifact.manifest["settings"]["parity_pictures"]
    return (f"pictures of up to {count} validation images: treat it as you treat the data" if count else
            "no picture and no label of any image")


def _precision(artifact: Artifact, parity: dict[str, Any]) -> str:
    shares = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in parity.get("executed_share", {}).items() if share)
    return f"- Asked for {artifact.precision}; of the layers that multiply run here: {shares}.\n" if shares else ""


def _lower(parity: dict[str, Any]) -> str:
    if parity["precision"] == "fp32" or parity["auroc_difference"] is None:
        return ""
    return (f"- AUROC {parity['auroc_difference']:+.4f} against PyTorch (95 % interval {parity['auroc_difference_low']:+.4f} to "
            f"{parity['auroc_difference_high']:+.4f}); probabilities by {parity['mean_probability_change']:.4f} on average.\n")


def _speed(latency: dict[str, float], facts: dict[str, Any]) -> str:
    if not latency:
        return f"Latency was not measured at export: {markdown(facts['not_measured'])}."
    return (f"One image: {latency['p50_ms']:.2f} ms (median) from array to decision on {markdown(facts['cpu'])}, {facts['threads']} "
            f"thread(s), {facts['provider']}; raw values in `latency.json`.")


def _interface(artifact: Artifact, calibrated: str) -> str:
    spec, count = artifact.image_spec, len(artifact.classes)
    if artifact.input_kind == "tensor":
        rows = [f"| input | `pixel_values` | float32 | (batch, 3, {spec.height}, {spec.width}) | normalised pixels |",
                f"| output | `logits` | float32 | (batch, {count}) | before temperature {_numbers(artifact.temperatures)} |"]
    elif spec.masked:
        height, width = artifact.graph_size
        rows = [f"| input | `image` | {spec.dtype} | (batch, {spec.slices}, {height}, {width}, {spec.channels}) | slices |",
                f"| input | `mask` | uint8 | (batch, {spec.slices}) | 1 where a slice is there |",
                f"| output | `logits` | float32 | (batch, {count}) | before temperature {_numbers(artifact.temperatures)} |",
                f"| output | `probabilities` | float32 | (batch, {count}) | {markdown(calibrated)} |",
                f"| output | `attention` | float32 | (batch, {spec.slices}) | what each slice weighed |"]
    else:
        height, width = artifact.graph_size
        levels = f"raw {'values' if spec.physical else 'grey levels'}, {spec.window[0]:g} to {spec.window[1]:g} are told apart"
        stack = f"{spec.slices}, " if spec.slices else ""
        rows = [f"| input | `image` | {spec.dtype} | (batch, {stack}{height}, {width}, {spec.channels}) | {levels} |",
                f"| output | `logits` | float32 | (batch, {count}) | before temperature {_numbers(artifact.temperatures)} |",
                f"| output | `probabilities` | float32 | (batch, {count}) | {markdown(calibrated)} |"]
    thresholds = f"\nDecision thresholds by class: {_numbers(artifact.thresholds)}.\n" if artifact.thresholds else ""
    return "| | name | type | shape | |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n" + thresholds


def _preprocessing(artifact: Artifact) -> str:
    spec = artifact.image_spec
    fit = {"squash": "", "crop": ", shortest side first, then the middle of it", "pad": ", longest side first, black around it"}[spec.fit]
    if artifact.input_kind == "tensor":
        return (f"Before the graph: window {spec.window[0]:g} to {spec.window[1]:g}, antialiased bilinear resize to "
                f"{spec.height}x{spec.width}{fit}, levels / 255, minus mean {_numbers(spec.mean)}, over std {_numbers(spec.std)}, "
                "channels first.")
    if artifact.baked:
        return (f"Windowing, antialiased resize to {spec.height}x{spec.width}{fit}, and normalisation are inside the graph: do none of "
                "them outside. Images of any other size are refused.")
    return (f"Windowing and normalisation are inside the graph: do neither outside. Images of another size: resize to "
            f"{spec.height}x{spec.width} first{fit} (antialiased bilinear; `open_session` does it).")


def _metrics(metrics: dict[str, Any]) -> str:
    scores = metrics.get("splits", {}).get("test", {}).get("student", {})
    rows = [f"| {name} | {scores[name]['value']:.3f} | {scores[name]['low']:.3f} to {scores[name]['high']:.3f} |"
            for name in METRICS if isinstance(scores.get(name), dict) and {"value", "low", "high"} <= set(scores[name])]
    if not rows:
        return ""
    return "## Test split, PyTorch student\n\n| metric | value | 95 % interval |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
