"""Lower precisions as graphs: what fp16 and int8 change, what they leave, and how the search for an int8 that decides the same ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import CLASSES, Case, random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from distill.networks.checkpoint import Calibration
from export.graph.hygiene import check_hygiene, precision_share
from export.graph.regions import layers, outside, relabelled
from export.options import Limits
from export.precision.fp16 import in_half
from export.precision.gate import judge
from export.precision.int8 import METHODS, quantised, ranges, sensitivities
from export.precision.lower import Int8Task, find_int8, refitted
from export.targets.executed import check_honoured, executed_by_ort
from export.targets.openvino import by_openvino, control_score
from runtimes.backends.ort import OrtSession
from runtimes.errors import MISSING, PARITY, UserError
from runtimes.scores import calibrated, decide

Exported = Callable[[Case], Path]
DEEP = Case("multilabel", 3, input_size="40x56")


def feeds(case: Case, count: int = 8) -> list[dict[str, Any]]:
    size = tuple(map(int, (case.input_size or "32x32").split("x")))
    return [{"image": one[None]} for one in random_images(case, count, (size,))]  # type: ignore[arg-type]


def answer(data: bytes, images: Sequence[dict[str, Any]]) -> Any:
    session = OrtSession(data, threads=1)
    return np.concatenate([session.run(tuple(one.values()))[0] for one in images])


@pytest.mark.parametrize("case", [Case(), DEEP, Case("ordinal", 1, "uint16", (100.0, 3000.0))], ids=str)
def test_fp16_halves_the_weights_and_leaves_everything_around_the_network_alone(exported: Exported, case: Case) -> None:
    data = (exported(case) / "model.onnx").read_bytes()
    half = in_half(data)
    assert half == in_half(data)
    check_hygiene(half, opset=18, input_names=["image"], output_names=["logits", "probabilities"])
    resize = 2 if case.input_size else 0  # its two matrices are no part of the network
    count = len(layers(onnx.load_from_string(data)))
    assert precision_share(half, layers=True)["fp32"] == pytest.approx(resize / (count + resize), abs=1e-6)
    graph = onnx.load_from_string(half).graph
    kinds = {one.name.split(".")[-1]: one.data_type for one in graph.initializer}
    for name in {"mean", "factor", "temperature", "rows", "columns"} & set(kinds):
        assert kinds[name] == onnx.TensorProto.FLOAT, f"{name} belongs to the preprocessing or the tail"
    casts = [node for node in graph.node if node.op_type == "Cast"]
    halves = {node.output[0] for node in casts if node.attribute[0].i == onnx.TensorProto.FLOAT16}
    assert len(halves) == 1, "pixels enter the network once; nothing outside it is rounded on the way"
    plain, lower = answer(data, feeds(case)), answer(half, feeds(case))
    assert 0 < np.abs(lower - plain).max() < 3e-2 * max(1, np.abs(plain).max())


def test_the_network_is_told_from_what_surrounds_it(exported: Exported) -> None:
    model = onnx.load(exported(DEEP) / "model.onnx")
    kinds = {node.name: node.op_type for node in model.graph.node}
    around = [kinds[name] for name in outside(model)]
    assert around.count("MatMul") == 2, "the two matrices of the resize"
    assert around[0] == "Cast"
    assert around[-1] == "Sigmoid"
    assert {kinds[name] for name in layers(model)} == {"Conv", "Gemm"}


@pytest.mark.parametrize(("method", "form"), [("minmax", "symmetric"), *((method, "unsigned") for method in METHODS)])
def test_int8_stores_weights_per_channel_and_leaves_biases_and_logits_in_float(exported: Exported, method: Any, form: Any) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    found = ranges(data, feeds(Case()), method, form)
    lower = quantised(data, found, form=form)
    assert lower == quantised(data, found, form=form)
    check_hygiene(lower, opset=18, input_names=["image"], output_names=["logits", "probabilities"])
    assert precision_share(lower) == {"fp32": 0.0, "fp16": 0.0, "int8": 1.0}
    graph = onnx.load_from_string(lower).graph
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert any(held[node.input[2]].any() for node in pairs) == (form == "unsigned"), "TensorRT takes no zero points"
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    made = {node.output[0]: node for node in graph.node}
    for node in convolutions:
        weight = made[node.input[1]]
        assert held[weight.input[0]].dtype == np.int8
        assert np.abs(held[weight.input[0]]).max() <= 64, "7 bits: products of 8 saturate on processors without VNNI"
        assert held[weight.input[1]].shape == (held[weight.input[0]].shape[0],), "a scale for every output channel"
        assert all(held[name].dtype == np.float32 for name in node.input[2:]), "the bias stays as it was"
    assert made["logits"].op_type == "Gemm"
    plain = answer(data, feeds(Case()))
    assert np.abs(answer(lower, feeds(Case())) - plain).max() < 0.1 * np.abs(plain).max()


def test_layers_left_in_float_are_left_and_one_layer_alone_moves_less_than_all(exported: Exported) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    found, names = ranges(data, feeds(Case()), "minmax"), layers(onnx.load_from_string(data))
    kept = precision_share(quantised(data, found, keep=names[:3]), layers=True)
    assert kept["int8"] == pytest.approx(1 - 3 / len(names))
    assert quantised(data, found, keep=names) == data
    moved = sensitivities(data, found, feeds(Case(), 4), answer)
    assert list(moved) == names
    assert min(moved.values()) >= 0  # convolutions that end a block start at zero in timm, and stay it here
    assert moved["Conv_0"] > 0
    assert max(moved.values()) < 4 * np.square(answer(quantised(data, found), feeds(Case(), 4)) - answer(data, feeds(Case(), 4))).mean()


def test_the_runtime_s_own_graph_says_what_it_computes_in(exported: Exported, tmp_path: Path) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    count = len(layers(onnx.load_from_string(data)))
    for name, graph in {"fp32": data, "int8": quantised(data, ranges(data, feeds(Case()), "minmax"))}.items():
        (tmp_path / f"{name}.onnx").write_bytes(graph)
    assert executed_by_ort(tmp_path / "fp32.onnx") == {"fp32": count}
    assert executed_by_ort(tmp_path / "int8.onnx").get("int8", 0) >= count - 1


def test_a_downgrade_is_exit_five_unless_it_is_allowed_and_then_it_is_told() -> None:
    assert check_honoured("int8", {"int8": 0.9, "fp32": 0.1}, {"int8": 0.8, "fp32": 0.2}, where="x", allowed=False) == ""
    assert check_honoured("fp16", {"fp16": 1.0}, {}, where="x", allowed=False) == "", "a runtime that cannot tell is no downgrade"
    with pytest.raises(UserError, match="asked for fp16, x computes 100 % fp32") as caught:
        check_honoured("fp16", {"fp16": 1.0}, {"fp32": 1.0}, where="x", allowed=False)
    assert caught.value.exit_code == MISSING
    assert "100 % fp32" in check_honoured("fp16", {"fp16": 1.0}, {"fp32": 1.0}, where="x", allowed=True)


def problem(data: bytes, case: Case, limits: Limits) -> Int8Task:
    images = feeds(case, 24)
    logits = answer(data, images)
    labels = logits.argmax(axis=1) if case.task != "multilabel" else (logits > 0).astype(np.float32)
    student = Calibration((0.8, 1.0, 1.7), (0.3, 0.5, 0.6)) if case.task == "multilabel" else Calibration((1.5,))
    return Int8Task(feeds(case), images, labels, calibrated(logits, case.task, student.temperatures), case.task, limits, student,
                   CLASSES[case.task])  # type: ignore[arg-type]


def test_no_more_layers_stay_in_float_than_it_takes(exported: Exported) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    names = layers(onnx.load_from_string(data))
    need = 3
    posed = problem(data, Case(), Limits())
    right = answer(data, posed.judged)

    def fussy(graph: bytes, images: Sequence[dict[str, Any]]) -> Any:
        """Right as soon as `need` layers are in float, wrong before."""
        in_float = round(len(names) * (1 - precision_share(graph, layers=True)["int8"]))
        return right[:len(images)] * (1 if in_float >= need else -1)

    found = find_int8(data, posed, fussy, method="minmax", rank=answer)
    assert len(found.record["layers_in_float"]) == need
    moved = found.record["sensitivities"]
    assert found.record["layers_in_float"] == sorted(moved, key=lambda name: -moved[name])[:need]
    assert precision_share(found.data, layers=True)["int8"] == pytest.approx(1 - need / len(names))
    with pytest.raises(UserError, match=r"int8 does not pass: 24 of 24 decisions flipped|int8 does not pass") as caught:
        find_int8(data, posed, lambda graph, images: -right[:len(images)], method="minmax", rank=answer)
    assert caught.value.exit_code == PARITY
    with pytest.raises(UserError, match="nearest of 1 attempts"):
        find_int8(data, posed, fussy, method="minmax", sensitivity=False)


def test_temperature_is_fitted_to_the_int8_graph_s_own_logits(exported: Exported) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    posed = problem(data, Case(), Limits(1.0, 1.0))
    found = find_int8(data, posed, answer, method="minmax")
    assert found.calibration == refitted(answer(found.data, posed.judged), posed.labels, "multiclass", posed.student, posed.classes)
    session = OrtSession(relabelled(found.data, {"rd.x": "y"}, found.calibration.temperatures), threads=1)
    logits, probabilities, _ = session.run(tuple(posed.judged[0].values()))
    assert np.abs(probabilities - calibrated(logits, "multiclass", found.calibration.temperatures)).max() < 1e-5
    with pytest.raises(ValueError, match="temperature"):
        relabelled((exported(Case(input="tensor")) / "model.onnx").read_bytes(), {}, (1.0,))


def test_a_temperature_inside_the_network_is_not_that_of_the_tail(exported: Exported) -> None:
    model = onnx.load_from_string((exported(Case()) / "model.onnx").read_bytes())
    own = numpy_helper.from_array(np.full((4, 1, 1), 3.0, dtype=np.float32), "model.net.stages.1.xca.temperature")  # as EdgeNeXt has
    model.graph.initializer.append(own)
    changed = onnx.load_from_string(relabelled(model.SerializeToString(), {}, (0.9,)))
    held = {one.name: numpy_helper.to_array(one) for one in changed.graph.initializer if one.name.endswith("temperature")}
    assert held.pop(own.name).tolist() == numpy_helper.to_array(own).tolist()
    assert [value.ravel().tolist() for value in held.values()] == [pytest.approx([0.9])]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_refitted_thresholds_decide_as_the_old_ones_did(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 3, (40, 3)), random.integers(0, 2, (40, 3)).astype(np.float32)
    old = Calibration(tuple(random.uniform(0.3, 3, 3)), tuple(random.uniform(0.05, 0.95, 3)))
    new = refitted(logits, labels, "multilabel", old, ("x", "y", "z"))
    before = decide(calibrated(logits, "multilabel", old.temperatures), "multilabel", old.thresholds)
    after = decide(calibrated(logits, "multilabel", new.temperatures), "multilabel", new.thresholds)
    border = np.log(np.asarray(old.thresholds) / (1 - np.asarray(old.thresholds))) * np.asarray(old.temperatures)
    assert (before == after)[np.abs(logits - border) > 1e-4].all()


def test_the_gate_counts_decisions_and_says_what_speaks_against_a_graph() -> None:
    random = np.random.default_rng(0)
    expected = random.dirichlet([1, 1, 1], 200)
    labels = expected.argmax(axis=1)
    same = judge(expected, expected, labels, task="multiclass", thresholds=(), limits=Limits(0.0, 0.0))
    assert same.passed
    assert (same.flips, same.changed, same.decisions, same.auroc_change) == (0, 0, 200, 0.0)
    wrong = expected.copy()
    wrong[:3] = np.roll(wrong[:3], 1, axis=1)
    for share, passed in ((0.01, False), (0.015, True)):
        found = judge(wrong, expected, labels, task="multiclass", thresholds=(), limits=Limits(share, 1.0))
        assert (found.changed, found.passed) == (3, passed), found.reasons
    assert not judge(np.full_like(expected, np.nan), expected, labels, task="multiclass", thresholds=(), limits=Limits(1.0, 1.0)).passed
    shuffled = judge(random.permutation(expected), expected, labels, task="multiclass", thresholds=(), limits=Limits(1.0, 0.005))
    assert any("AUROC fell" in reason for reason in shuffled.reasons)
    assert any("probabilities moved" in reason for reason in shuffled.reasons)
    several = judge(1 - expected, expected, (expected > 0.5).astype(np.float32), task="multilabel", thresholds=(0.5,) * 3,
                    limits=Limits())
    assert several.decisions == 600, "of several labels each is a decision"


def test_accuracy_control_gets_a_score_it_can_divide_by(exported: Exported) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed; pip install '.[openvino]'")
    from export.targets.to_openvino import nncf_int8

    data = (exported(Case()) / "model.onnx").read_bytes()
    posed, scores = problem(data, Case(), Limits()), list[float]()

    def score(compiled: Any) -> float:
        scores.append(control_score(compiled, posed))
        return scores[-1]

    model = nncf_int8(data, posed.calibration[:4], transformer=False, validate=score, max_drop=0.005)
    assert scores[0] == 1.0, "of the whole model itself nothing has changed"
    assert posed.judge(by_openvino(model, posed.judged))[0].decisions == 24
