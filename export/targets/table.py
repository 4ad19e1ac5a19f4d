"""The table of targets: every name that --target takes, and the row behind it.

Owns: TARGETS. Does not own: the form of a row (row.py), the rows (a file each). A new target is a file here, a line below, a row in
runtimes/artifact/targets.py.
"""

from __future__ import annotations

from export.targets.onnx import ONNX
from export.targets.openvino import OPENVINO
from export.targets.ort import ORT
from export.targets.row import ExportTarget
from export.targets.tensorrt import TENSORRT
from runtimes.artifact.targets import Target

TARGETS: dict[Target, ExportTarget] = {"onnx": ONNX, "openvino": OPENVINO, "trt": TENSORRT, "ort": ORT}
