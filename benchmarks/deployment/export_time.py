"""Where the time of an export goes: our stages, and of the whole the share spent inside the libraries that do the work.

Owns: the clocks around stages and library calls, the table. Does not own: exporting (export/). A second export is measured, so that
imports and caches are paid already; of nested calls the outermost counts.

    python -m benchmarks.deployment.export_time
"""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.deployment.targets import trained
from benchmarks.record import RESULTS, RUNS, facts, store
from export import commands
from export.config import ExportSettings
from runtimes.errors import UserError

CELLS = (("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8"), ("trt", "fp32"), ("trt", "int8"))
STAGES = {"trace": ("fp32_graph",), "precision": ("lowered",), "compile": ("_written", "_opened"),
          "parity": ("_prove", "_golden", "write_golden"), "timing": ("timed", "against_fp32")}
# What a user would call without us to come to the same files and figures.
LIBRARY = ("torch.onnx:export", "torch.nn:Module.__call__", "onnxruntime:InferenceSession.__init__", "onnxruntime:InferenceSession.run",
           "onnxruntime.transformers.float16:convert_float_to_float16",
           "onnxruntime.quantization.qdq_quantizer:QDQQuantizer.quantize_model", "onnxruntime.quantization.calibrate:create_calibrator",
           "onnxruntime.quantization.calibrate:MinMaxCalibrater.collect_data",
           "onnxruntime.quantization.calibrate:MinMaxCalibrater.compute_data",
           "onnxruntime.quantization.calibrate:HistogramCalibrater.collect_data",
           "onnxruntime.quantization.calibrate:HistogramCalibrater.compute_data",
           "onnx:load", "onnx:load_from_string", "onnx.shape_inference:infer_shapes", "onnx.checker:check_model",
           "openvino:Core.read_model", "openvino:Core.compile_model", "openvino:save_model", "openvino:InferRequest.infer",
           "nncf:quantize", "nncf:quantize_with_accuracy_control", "tensorrt_rtx:Builder.build_serialized_network",
           "tensorrt_rtx:OnnxParser.parse", "sklearn.metrics:roc_auc_score")


class Clock:
    """Seconds inside calls by name, the outermost of nested ones alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    def around(self, name: str, call: Any) -> Any:
        """The call, timed under a name."""
        @functools.wraps(call)
        def timed(*given: Any, **named: Any) -> Any:
            if self._inside:
                return call(*given, **named)
            self._inside, start = True, time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self._inside = False
                self.seconds[name] += time.perf_counter() - start
        return timed


def watch(clock: Clock, stages: Clock) -> list[str]:
    """Put the clocks around our stages and the libraries' calls; returns calls of libraries that are not there."""
    for stage, names in STAGES.items():
        for name in names:
            setattr(commands, name, stages.around(stage, getattr(commands, name)))
    absent = []
    for path in LIBRARY:
        module, _, name = path.partition(":")
        owner, _, attribute = name.rpartition(".")
        try:
            holder = importlib.import_module(module)
            holder = getattr(holder, owner) if owner else holder
            setattr(holder, attribute, clock.around(path, getattr(holder, attribute)))
        except (ImportError, AttributeError, TypeError) as error:
            absent.append(f"{path} ({error})")
    return absent


def one(student: Path, target: Any, precision: Any, out: Path) -> float:
    """Seconds of an export by its default settings, but for the refusals that ask for another machine."""
    start = time.perf_counter()
    try:
        commands.export(ExportSettings(target=(target,), precision=precision, student_dir=student, out=out, overwrite=True,
                                       keep_slower=True, keep_upcast=True, max_flips="100%", max_auc_drop=0.9))
    except UserError as error:
        print(f"{target} {precision}: {error}")
    return time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a target and precision; stages as shares of the whole."""
    lines = [f"| target | precision | seconds | {' | '.join(STAGES)} | whole over its library calls |", f"|{'---|' * (len(STAGES) + 4)}"]
    for row in rows:
        shares = (f"{row['stages'].get(stage, 0.0) / row['seconds']:.0%}" for stage in STAGES)
        lines.append(f"| {row['target']} | {row['precision']} | {row['seconds']:.1f} | {' | '.join(shares)} | {row['over_library']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Export every cell once unmeasured and then as often as asked, store medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="mobilenetv3-small", help="a student of benchmarks/deployment/targets.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=RUNS / "targets")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    student = trained(given.student, work)
    clock, stages = Clock(), Clock()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rd-export-time-") as folder:
        for target, precision in CELLS:
            one(student, target, precision, Path(folder) / "first")
            if not rows:
                absent = watch(clock, stages)
            found: list[dict[str, Any]] = []
            for _ in range(given.repeats):
                clock.seconds.clear()
                stages.seconds.clear()
                seconds = one(student, target, precision, Path(folder) / "again")
                found.append({"seconds": seconds, "library": dict(clock.seconds), "stages": dict(stages.seconds),
                              "over_library": seconds / sum(clock.seconds.values())})
            middle = sorted(found, key=lambda row: row["over_library"])[len(found) // 2]
            rows.append({"target": target, "precision": precision, **middle,
                         "over_library_all": [round(row["over_library"], 3) for row in found],
                         "seconds_all": [round(row["seconds"], 2) for row in found]})
            seconds = statistics.median(row["seconds"] for row in found)
            print(f"{target} {precision}: {seconds:.1f} s, {middle['over_library']:.2f}", flush=True)
    store(RESULTS / "export-time.json", {"facts": facts(), "student": given.student, "calls_not_there": absent, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
