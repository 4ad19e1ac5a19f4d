"""OpenVINO as a runtime: the same answers as ONNX Runtime, no silent precision, no telemetry, clear words when something is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Case, random_images

from export.targets.to_openvino import with_temperatures
from runtimes.backends.ov import OpenVinoSession, capabilities, load_runtime
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.folder import read_json, read_manifest, write_manifest
from runtimes.scores import calibrated
from runtimes.session import open_session
from runtimes.verify import verify

pytest.importorskip("openvino", reason="openvino is not installed; pip install '.[openvino]'")
Exported = Callable[[Case], Path]
PLAIN = Case(target="openvino")


def test_an_ir_answers_as_the_onnx_of_the_same_student_does(exported: Exported) -> None:
    images = np.stack(random_images(Case(), 6))
    found, expected = open_session(exported(PLAIN), threads=1), open_session(exported(Case()), threads=1)
    for batch in (1, 2, 6):
        ours, theirs = found.run(images[:batch]), expected.run(images[:batch])
        assert np.abs(ours.logits - theirs.logits).max() < 1e-4
        assert np.abs(ours.probabilities - theirs.probabilities).max() < 1e-5
    facts = found.facts()
    assert facts["precision_hint"] == "f32", "its default would be bf16 where the processor has it"
    assert set(facts["layers"]) == {"fp32"}
    assert read_json(exported(PLAIN) / "parity.json")["executed_share"] == {"fp32": 1.0}
    found.close()
    with pytest.raises(UserError, match="closed"):
        found.run(images)


def test_bound_memory_never_mixes_one_call_with_another(exported: Exported) -> None:
    images = np.stack(random_images(Case(), 6))
    session = open_session(exported(PLAIN), threads=1)
    runs = [images[:1], images[1:2], images[2:5], images[5:6], images[::2], images[:1]]
    logits = [session.run(batch).logits for batch in runs]
    for batch, found in zip(runs, logits, strict=True):
        assert np.array_equal(found, session.run(batch.copy()).logits), "an answer holds though the next calls reuse the memory"
    with pytest.raises(UserError):
        session.runtime.run(images[:1].astype(np.float32))
    assert np.array_equal(session.run(images[:1]).logits, logits[0]), "a refused call leaves the session as it was"
    session.close()


@pytest.mark.parametrize("case", [PLAIN, Case(target="openvino", precision="fp16")], ids=str)
def test_golden_vectors_replay_and_weights_lie_in_the_file_as_asked(exported: Exported, case: Case) -> None:
    folder = exported(case)
    code, report = verify(folder, threads=1)
    assert (code, report["flips"]) == (0, 0)
    small = (exported(Case(target="openvino", precision="fp16")) / "openvino_model.bin").stat().st_size
    assert small < 0.6 * (exported(PLAIN) / "openvino_model.bin").stat().st_size


def test_weights_left_out_of_the_manifest_or_changed_are_refused(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported(PLAIN), tmp_path / "artifact"))
    weights = folder / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"openvino_model\.bin"):
        open_session(folder)
    facts = {key: value for key, value in read_manifest(folder, "artifact").items() if key not in ("files", "kind", "format")}
    weights.unlink()
    (folder / "manifest.json").unlink()
    write_manifest(folder, "artifact", facts)
    with pytest.raises(UserError, match=r"does not name openvino_model\.bin"):
        open_session(folder)


def test_unknown_devices_and_broken_models_are_refused_in_words(exported: Exported, tmp_path: Path) -> None:
    from runtimes.backends.ov import OpenVinoSession

    model = exported(PLAIN) / "openvino_model.xml"
    for wrong, code in (({"device": "tpu"}, USAGE), ({"threads": 0}, USAGE), ({"device": "npu"}, MISSING)):
        with pytest.raises(UserError) as caught:
            OpenVinoSession(model, **wrong)  # type: ignore[arg-type]
        assert caught.value.exit_code == code
    with pytest.raises(UserError, match="cannot compile"):
        OpenVinoSession(b"no model at all")


def test_importing_it_reaches_for_no_network_and_writes_nothing_at_home(exported: Exported, tmp_path: Path) -> None:
    code = ("import socket, sys, json, numpy as np\n"
            "def refuse(*given, **named): raise AssertionError('a connection was tried')\n"
            "socket.socket.connect = socket.socket.sendto = refuse\n"
            "socket.create_connection = refuse\n"
            "from runtimes import open_session\n"
            "scores = open_session(sys.argv[1], threads=1).run(np.arange(1024, dtype=np.uint8).reshape(32, 32))\n"
            "print(json.dumps([scores.labels, sys.modules.get('openvino_telemetry') is None]))")
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    environment.pop("CI", None)
    run = subprocess.run([sys.executable, "-c", code, str(exported(PLAIN))], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)[1]
    assert list(tmp_path.iterdir()) == [], "no consent file, no counter"


def test_fp16_is_computed_in_fp16_or_in_fp32_and_never_in_bf16(exported: Exported) -> None:
    session = open_session(exported(Case(target="openvino", precision="fp16")), threads=1)
    able = "FP16" in capabilities()
    assert session.facts()["precision_hint"] == ("f16" if able else "f32")
    assert "bf16" not in session.facts()["layers"]
    session.close()


def test_another_temperature_in_an_ir_moves_its_probabilities_and_not_its_logits(exported: Exported) -> None:
    images = np.stack(random_images(Case(), 4))
    model = load_runtime().Core().read_model(str(exported(PLAIN) / "openvino_model.xml"))
    before = OpenVinoSession(model, threads=1).run(images)
    with_temperatures(model, (0.7,))
    logits, probabilities, _ = OpenVinoSession(model, threads=1).run(images)
    assert np.array_equal(logits, before[0])
    assert np.allclose(probabilities, calibrated(logits, "multiclass", (0.7,)), atol=1e-6)
    with pytest.raises(ValueError, match="shape"):
        with_temperatures(model, (0.7, 0.8))


def test_a_session_takes_the_throughput_hint_and_a_folder_for_compiled_models(exported: Exported, tmp_path: Path) -> None:
    images = np.stack(random_images(Case(), 3))
    plain = open_session(exported(PLAIN), threads=1)
    for _ in range(2):  # the second time from the cache
        session = open_session(exported(PLAIN), threads=1, hint="throughput", cache=tmp_path / "compiled")
        assert np.array_equal(session.run(images).logits, plain.run(images).logits)
        session.close()
    assert list((tmp_path / "compiled").iterdir()), "nothing was kept"


def test_a_cache_that_others_may_write_to_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(UserError, match="written by others") as caught:
        open_session(exported(PLAIN), cache=tmp_path / "shared")
    assert caught.value.exit_code == USAGE
