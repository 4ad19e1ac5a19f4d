"""Multiply-adds against PyTorch's own count, layers and operators as the runtimes tell them, the roofline, and the machine's peaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Case, tiny_model

from runtimes.artifact.artifact import read_artifact
from runtimes.backends.ort import OrtSession
from runtimes.errors import UserError
from runtimes.measure import gemm
from runtimes.measure.profile import inside, macs_of, spent_by
from runtimes.measure.roofline import bound, set_up_notice
from runtimes.verify import read_golden

Exported = Callable[[Case], Path]


def looked(folder: Path, **more: Any) -> dict[str, Any]:
    artifact = read_artifact(folder)
    return inside(artifact, (read_golden(artifact)[0],), threads=1, **more)


@pytest.mark.parametrize("case", [Case(), Case(precision="int8"), Case(target="openvino")], ids=["onnx fp32", "onnx int8", "openvino fp32"])
def test_multiply_adds_are_those_that_pytorch_counts(exported: Exported, case: Case) -> None:
    from distill.networks.models import count_macs

    found = looked(exported(case))
    assert found["macs"] == pytest.approx(count_macs(tiny_model(case), 32, 32), rel=0.01)
    assert found["io_bytes"] == 32 * 32 + 8 * 3


def test_layers_run_in_the_precision_that_was_asked_for(exported: Exported) -> None:
    assert set(looked(exported(Case()), operators=False)["layers"]) == {"fp32"}
    lower = looked(exported(Case(precision="int8")), operators=False)["layers"]
    assert lower["int8"] > lower.get("fp32", 0)
    assert set(looked(exported(Case(target="openvino")), operators=False)["layers"]) == {"fp32"}


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_slowest_operators_come_first_and_are_shares_of_all(exported: Exported, target: str) -> None:
    found = looked(exported(Case(target=target)))
    operators = found["operators"]
    times = [one["us"] for one in operators]
    assert times == sorted(times, reverse=True)
    assert 3 <= len(operators) <= 10
    assert 0.5 < sum(one["share"] for one in operators) <= 1 + 1e-9
    assert any("Conv" in one["kind"] for one in operators)
    assert sum(one["share"] for one in found["kinds"]) == pytest.approx(1)
    assert "(" not in "".join(one["kind"] for one in found["kinds"])


def test_an_operator_that_is_called_often_is_summed_and_so_is_its_kind() -> None:
    found = spent_by([("a", "Conv", 5.0), ("b", "Add (jit)", 4.0), ("b", "Add (jit)", 4.0), ("c", "Conv", 7.0)], runs=2)
    assert [(one["name"], one["us"]) for one in found["operators"]] == [("b", 4.0), ("c", 3.5), ("a", 2.5)]
    assert [(one["kind"], one["us"], one["share"]) for one in found["kinds"]] == [("Conv", 6.0, 0.6), ("Add", 4.0, 0.4)]
    assert spent_by([], runs=2) == {"operators": [], "kinds": []}


def test_shapes_that_cannot_be_counted_are_no_silent_zero() -> None:
    with pytest.raises(UserError, match="QLinearConv"):
        macs_of({"op_name": "QLinearConv", "output_type_shape": [{"uint8": [1, 2]}], "input_type_shape": [{"uint8": [1, 2]}]})
    assert macs_of({"op_name": "Relu", "output_type_shape": [{"float": [1, 2]}], "input_type_shape": [{"float": [1, 2]}]}) == 0


@pytest.mark.parametrize("name", ["float_product", "integer_product", "quantised_product"])
def test_the_products_behind_the_peaks_are_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "SIDE", 64)
    random = np.random.default_rng(0)
    b = random.integers(-63, 63, (64, 64), dtype=np.int8)
    model = getattr(gemm, name)(b.astype(np.float32) if name == "float_product" else b)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    a = random.integers(0, 255, (64, 64), dtype=np.uint8)
    given = a if name == "integer_product" else (a.astype(np.float32) - 128) * (0.02 if name == "quantised_product" else 1)
    expected = (a.astype(np.float64) - 128) @ b * 0.02**2 if name == "quantised_product" else given.astype(np.float64) @ b
    found = OrtSession(model, threads=1).run(given.astype(given.dtype if given.dtype == np.uint8 else np.float32))[0]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_peaks_name_every_precision_that_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "SIDE", 128)
    monkeypatch.setattr(gemm, "SECONDS", 0.02)
    monkeypatch.setattr(gemm, "COPIES", (2**20, 2**22))
    found = gemm.peaks(1)
    assert {"fp32", "int8"} <= set(found["products"])
    for one in found["products"].values():
        assert 1e7 < one["ops_per_s"] < 1e16
    assert all(1e7 < rate < 1e13 for rate in found["copies"].values())


PEAK = {"products": {"fp32": {"ops_per_s": 1e11}, "int8": {"ops_per_s": 4e11}}, "copies": {"1000000": 1e11, "100000000": 1e10}}


def test_the_bound_is_the_longer_of_arithmetic_and_memory() -> None:
    found = {"macs": 10**8, "io_bytes": 0, "layers": {"fp32": 4}}
    line = bound(found, PEAK, model_bytes=10**6, batch=1, p50_ms=4.0)
    assert line is not None
    assert (line["compute_ms"], line["memory_ms"]) == (pytest.approx(2.0), pytest.approx(0.01))
    assert line["share"] == pytest.approx(0.5)
    heavy = bound(found, PEAK, model_bytes=5 * 10**7, batch=1, p50_ms=10.0)
    assert heavy is not None
    assert heavy["bound_ms"] == pytest.approx(5.0)  # beyond the first copy's size memory is slower
    eight = bound(found, PEAK, model_bytes=10**6, batch=8, p50_ms=16.0)
    assert eight is not None
    assert eight["compute_ms"] == pytest.approx(16.0)


def test_layers_of_several_precisions_count_at_their_own_pace() -> None:
    line = bound({"macs": 10**8, "io_bytes": 0, "layers": {"int8": 3, "fp32": 1}}, PEAK, model_bytes=1, batch=1, p50_ms=1.0)
    assert line is not None
    assert line["precision"] == "int8"
    assert line["compute_ms"] == pytest.approx(0.75 * 0.5 + 0.25 * 2.0)
    assert bound({"io_bytes": 0, "reason": "none"}, PEAK, model_bytes=1, batch=1, p50_ms=1.0) is None


def test_a_slow_resnet_in_fp32_is_suspected() -> None:
    line = {"precision": "fp32", "share": 0.5}
    assert "wrong set-up" in set_up_notice("resnet18", line)
    assert set_up_notice("resnet18", {**line, "share": 0.9}) == ""
    assert set_up_notice("mobilenetv3_small_100", line) == ""
