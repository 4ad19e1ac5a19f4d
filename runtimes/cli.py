"""The command line of rd-verify.

Owns: its flags, what it prints. Does not own: the checks (verify.py), what is written of an answer (results/).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from runtimes.commands.flags import parse
from runtimes.errors import DONE, USAGE, UserError, finish
from runtimes.text import one_line

EXAMPLES = (("rd-verify artifact-onnx-fp32", "does this machine give the golden scores?"),
            ("rd-verify artifact-onnx-fp32 --public-key key.pem", "and was it signed by this key?"),
            ("rd-verify artifact-onnx-fp32 --image IM1 --dicom-sr sr.dcm", "what does it say of this image, for the archive?"))


@dataclass(frozen=True)
class VerifySettings:
    """Self-test of an artifact on this machine: hashes, golden vectors, facts."""

    artifact: Annotated[Path, tyro.conf.Positional] = Path("artifact-onnx-fp32")
    """Folder written by rd-export."""
    config: Path | None = None
    """YAML file of settings; flags win."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """Threads of the runtime; all cores this process may use when not given."""
    public_key: Path | None = None
    """PEM file of the Ed25519 key that must have signed the artifact; anything unsigned or changed is refused (exit 1)."""
    image: Path | None = None
    """An image, or a volume, to answer once the self-test has passed."""
    trace: Path | None = None
    """JSON file to write of that answer: hashes, runtime, probabilities, thresholds, times; nothing of a patient."""
    dicom_sr: Path | None = None
    """DICOM report to write of that answer (SR, TID 1500); the image must be DICOM, and the report carries its patient's name."""
    overwrite: bool = False
    """Replace a trace or report that this command wrote before."""
    json: bool = False
    """Print one JSON document instead of lines."""

    def __post_init__(self) -> None:
        if self.image is None and (self.trace or self.dicom_sr):
            raise UserError(f"{'--trace' if self.trace else '--dicom-sr'} is of an answer; name the image to answer: --image FILE", USAGE)


def verify_main() -> None:
    """Entry point of rd-verify: exit code 0 good, 1 changed or broken, 3 other scores than the golden ones, 5 no runtime."""
    sys.exit(finish(lambda: _verify(parse(VerifySettings, sys.argv[1:], "rd-verify", writes=False, examples=EXAMPLES))))


def _verify(settings: VerifySettings) -> int:
    from runtimes.verify import verify

    code, report = verify(settings.artifact, threads=settings.threads, device=settings.device, public_key=settings.public_key,
                          image=settings.image, trace=settings.trace, dicom_sr=settings.dicom_sr, overwrite=settings.overwrite)
    if settings.json:
        print(json.dumps({"exit_code": code, **report}, indent=2))
        return code
    _print(report)
    if code == DONE:
        print("good: this machine gives the golden scores")
        _print_answer(report.get("answer", []))
        for note in report.get("notes", []):
            print(f"note      {one_line(note)}")
        for out, what in ((settings.trace, "trace"), (settings.dicom_sr, "report")):
            if out is not None:
                print(f"{what:<9} {one_line(str(out))}")
    else:
        print("FAILED: this machine gives other scores than the golden ones, or probabilities that do not follow from their logits "
              f"(by {report['calibration_difference']:.1e}); do not use the artifact here", file=sys.stderr)
    return code


def told_signature(report: dict[str, Any]) -> str:
    """What is known of an artifact's signature, in words."""
    if report["signature"] == "good":
        return f"signed by key {report['signed_by']}"
    if report["signature"] == "not checked":
        return "there is one, and it was NOT CHECKED: name its maker's key with --public-key"
    return "none: the bytes are the manifest's, but anyone may have written both"


def _print(report: dict[str, Any]) -> None:
    print(f"files     {report['files']} with the bytes of the manifest, no external data")
    print(f"signature {told_signature(report)}")
    print(f"model     {one_line(report['model'])}, {report['target']} {report['precision']}, opset {report['opset']}, "
          f"sha256 {report['model_sha256'][:16]}")
    print(f"runtime   {report['runtime']} {report['version']}, {report['provider']}, {report['threads']} threads")
    print(f"golden    {report['golden_images']} images, {report['flips']} flips ({report['excused']} on the border), "
          f"logits differ by {report['difference']:.1e} at most (allowed {report['tolerance']:.0e})")
    if not report["calibration_difference"] <= report["calibration_tolerance"]:
        print(f"          probabilities are {report['calibration_difference']:.1e} off the calibration of their own logits "
              f"(allowed {report['calibration_tolerance']:.0e}): another temperature")


def _print_answer(findings: Sequence[Mapping[str, Any]]) -> None:
    """A line a class: what was decided, its probability, and what decides."""
    for place, finding in enumerate(findings):
        rule = "the highest decides" if finding["threshold"] is None else f"threshold {finding['threshold']:.4g}"
        print(f"{'image' if place == 0 else '':<9} {'yes' if finding['decided'] else 'no ':<4} {finding['probability']:.4f}  "
              f"{one_line(finding['name'])} ({rule})")


if __name__ == "__main__":
    verify_main()
