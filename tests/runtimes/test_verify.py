"""The self-test on a device: golden vectors replayed in a process without torch, every kind of damage with its exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Case
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from runtimes.agreement import border_distance, compare
from runtimes.errors import FAILED, PARITY, UserError
from runtimes.files.folder import read_json, write_manifest
from runtimes.measure.latency import measure
from runtimes.verify import verify

Exported = Callable[[Case], Path]


@pytest.fixture
def artifact(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))


def reseal(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    write_manifest(folder, "artifact", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runtimes.cli", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", [Case(), Case("multilabel", 3, input_size="40x56"), Case("ordinal", 1, "uint16", (100.0, 3000.0)),
                                  Case(input="tensor")], ids=str)
def test_a_fresh_artifact_verifies(exported: Exported, case: Case) -> None:
    code, report = verify(exported(case))
    assert code == 0
    assert report["flips"] == 0
    assert report["golden_images"] == 16
    assert report["difference"] <= 1e-5


def test_the_command_reports_facts_and_json(exported: Exported) -> None:
    run = command(str(exported(Case())), "--threads", "1")
    assert (run.returncode, run.stderr) == (0, "")
    for word in ("CPUExecutionProvider", "opset 18", "16 images, 0 flips", "good"):
        assert word in run.stdout
    document = json.loads(command(str(exported(Case())), "--json").stdout)
    assert document["exit_code"] == 0
    assert document["provider"] == "CPUExecutionProvider"


def test_the_command_s_exit_codes(artifact: Path, tmp_path: Path) -> None:
    assert command(str(tmp_path / "nowhere")).returncode == FAILED
    assert command("--nonsense").returncode == 2
    assert command(str(artifact), "--device", "tpu").returncode == 2
    (artifact / "config.json").write_text("{}")
    changed = command(str(artifact))
    assert changed.returncode == FAILED
    assert changed.stderr.startswith("error:")
    assert "config.json" in changed.stderr
    assert "Traceback" not in changed.stderr


@pytest.mark.parametrize("what", ["weights", "golden logits"])
def test_other_scores_than_the_golden_ones_are_exit_code_three(artifact: Path, what: str) -> None:
    if what == "weights":
        model = onnx.load(artifact / "model.onnx")
        tensor = next(one for one in model.graph.initializer if one.name.endswith("fc.bias"))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.01), tensor.name))
        onnx.save(model, artifact / "model.onnx")
    else:
        path = artifact / "test_data_set_0" / "output_0.pb"
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        path.write_bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), "logits").SerializeToString())
    reseal(artifact)
    code, report = verify(artifact)
    assert code == PARITY
    assert report["difference"] > report["tolerance"]
    assert command(str(artifact)).returncode == PARITY


def test_golden_vectors_of_another_shape_are_refused(artifact: Path) -> None:
    path = artifact / "test_data_set_0" / "output_0.pb"
    path.write_bytes(numpy_helper.from_array(np.zeros((16, 7), np.float32), "logits").SerializeToString())
    reseal(artifact)
    with pytest.raises(UserError, match="golden logits"):
        verify(artifact)
    shutil.rmtree(artifact / "test_data_set_0")
    reseal(artifact)
    with pytest.raises(UserError, match=r"input_0\.pb"):
        verify(artifact)


def test_help_comes_without_a_runtime() -> None:
    code = ("import sys\nsys.argv = ['rd-verify', '--help']\nfrom runtimes.cli import verify_main\ntry: verify_main()\n"
            "except SystemExit as error: assert not error.code\n"
            "assert not [name for name in ('onnxruntime', 'torch', 'onnx') if name in sys.modules]")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "golden" in run.stdout


def test_nothing_is_opened_to_the_network(exported: Exported) -> None:
    """Python's own sockets, with CI unset; native telemetry is held by the variables that runtimes/test_session.py checks."""
    code = ("import sys\ndef hook(event, args):\n"
            "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'): raise SystemExit(f'network: {event}')\n"
            "sys.addaudithook(hook)\nfrom pathlib import Path\nfrom runtimes.verify import verify\n"
            "raise SystemExit(verify(Path(sys.argv[1]))[0])")
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    run = subprocess.run([sys.executable, "-c", code, str(exported(Case()))], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr


def scores(*rows: tuple[float, ...]) -> np.ndarray:
    return np.asarray(rows, dtype=np.float32)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def agree(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4):
    return compare(found, softmax(found), expected, softmax(expected), task="multiclass", temperatures=(1.0,), thresholds=(),
                   tolerance=tolerance)


def test_a_flip_on_the_border_is_excused_and_another_is_not() -> None:
    border = agree(scores((1.00001, 1.0), (0, 3)), scores((1.0, 1.00001), (0, 3)))
    assert (border.flips, border.excused) == (1, 1)
    assert border.within(1e-4)
    clear = agree(scores((2, 1), (0, 3)), scores((1, 2), (0, 3)))
    assert (clear.flips, clear.excused) == (1, 0)
    assert not clear.within(1e-4)
    assert not clear.within(10.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_never_agree(value: float) -> None:
    expected = scores((0.0, 1.0))
    for found, probabilities in ((scores((value, 1.0)), expected), (scores((value, 1.0)), scores((value, 1.0)))):
        assert not compare(found, probabilities, expected, softmax(expected), task="multiclass", temperatures=(1.0,), thresholds=(),
                           tolerance=1e9).within(1e9)


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(0.3, 3), st.floats(0.05, 0.95))
def test_a_decision_tips_just_beyond_its_border_distance(values: list[float], temperature: float, threshold: float) -> None:
    logits = np.asarray([values])
    limits, temperatures = (threshold,) * 3, (temperature,)
    distance = border_distance(logits, "multilabel", temperatures, limits)
    hit = 1 / (1 + np.exp(-logits / temperature)) >= threshold
    moved = logits + np.where(hit, -1, 1) * (distance * np.maximum(1, np.abs(logits)) + 1e-6)
    assert ((1 / (1 + np.exp(-moved / temperature)) >= threshold) != hit).all()


def test_measure_keeps_every_sample_and_shows_only_percentiles_it_can_support() -> None:
    calls = []
    report = measure(lambda: (calls.append(1), time.sleep(0.001)), warmups=3, samples=70, facts={"model": "m"})
    assert (len(calls), len(report.warmup_ns), len(report.samples_ns)) == (73, 3, 70)
    shown = report.percentiles_ms()
    assert shown["p50_ms"] == pytest.approx(np.median(report.samples_ns) / 1e6)
    assert "p90_ms" in shown
    assert "p95_ms" not in shown
    assert shown["min_ms"] >= 1.0
    assert report.facts["model"] == "m"
    assert report.facts["cores_allowed"] >= 1
    json.dumps(report.as_dict())
    with pytest.raises(UserError):
        measure(lambda: None, warmups=0, samples=0)
