"""The files that OpenVINO writes for us: a disk without room ends in words. What the artifact holds is test_targets.py's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np, openvino
from openvino import opset13 as ops
from export.targets.to_openvino import save_ir
from runtimes.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
x = ops.parameter([1, 1000], np.float32)
model = openvino.Model([ops.add(x, ops.constant(np.ones((1, 1000), np.float32)))], [x])
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
try:
    save_ir(model, Path(sys.argv[1]) / "model.xml", {})
except UserError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(error)
"""


def test_a_disk_without_room_for_the_ir_is_said_in_words(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "OpenVINO could not write model.xml" in done.stdout
    assert "make room there" in done.stdout
