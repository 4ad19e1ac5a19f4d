"""The deployed graph against the PyTorch model fed by ImageSpec, ONNX Runtime against both, and reparameterisation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from conftest import CLASSES, Case, image_spec, random_images, tiny_model
from torch.nn import functional as F
from torchvision import transforms

from distill.networks.checkpoint import Calibration
from distill.networks.deployed import reparameterised
from distill.networks.models import Model, ModelSpec, build_model
from export.graph.network import DeployedGraph, TensorGraph, example_input
from export.graph.to_onnx import to_onnx
from runtimes.backends.ort import load_runtime
from runtimes.images.spec import ImageSpec
from runtimes.scores import calibrated

CALIBRATION = {"multilabel": Calibration((0.8, 1.0, 1.7), (0.3, 0.5, 0.6))}
CASES = [Case("binary"), Case("multiclass", 3), Case("multilabel"), Case("ordinal"), Case("multiclass", 1, "uint16", (100.0, 3000.0)),
         Case("multiclass", 3, "uint16", (0.0, 65535.0)), Case("binary", 1, "uint8", (20.0, 200.0))]


def calibration_of(case: Case) -> Calibration:
    return CALIBRATION.get(case.task, Calibration((1.5,)))


def ort_session(data: bytes, optimise: bool):
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def exported(module: torch.nn.Module, spec: ImageSpec, size: tuple[int, int], opset: int = 18) -> bytes:
    return to_onnx(module, example_input(spec, "image", size), input_names=["image"], output_names=["logits", "probabilities"],
                   opset=opset, metadata={})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_graph_computes_what_the_spec_and_the_model_compute(case: Case) -> None:
    model, spec = tiny_model(case), image_spec(case)
    batch = np.stack(random_images(case, 4))
    graph = DeployedGraph(model, spec, calibration_of(case), (32, 32)).eval()
    with torch.no_grad():
        logits, probabilities = graph(torch.from_numpy(batch))
        wanted = model(torch.from_numpy(spec.normalised(np.stack([spec.levels(image) for image in batch]))))
    assert torch.allclose(logits, wanted, atol=1e-5)
    temperatures = calibration_of(case).temperatures
    assert np.abs(probabilities.numpy() - calibrated(wanted.numpy(), case.task, temperatures)).max() < 1e-6  # type: ignore[arg-type]
    assert probabilities.shape == (4, len(CLASSES[case.task]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 56), (100, 20), (32, 90)])
def test_the_baked_resize_is_torch_s_antialiased_filter(channels: int, size: tuple[int, int]) -> None:
    case = Case("multiclass", channels)
    spec = image_spec(case)
    graph = DeployedGraph(tiny_model(case), spec, Calibration(), size)
    batch = np.stack(random_images(case, 2, (size,)))
    levels = F.interpolate(torch.from_numpy(batch).permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True)
    wanted = spec.normalised(levels.permute(0, 2, 3, 1).numpy())
    assert np.abs(graph.pixels(torch.from_numpy(batch)).numpy() - wanted).max() < 2e-5


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("case", [Case("multiclass", 1), Case("multiclass", 3, "uint16", (100.0, 3000.0))], ids=str)
@pytest.mark.parametrize("size", [(40, 56), (100, 20), (33, 90), (32, 32)])
def test_a_baked_crop_or_pad_is_torchvision_s(fit: str, case: Case, size: tuple[int, int]) -> None:
    spec = replace(image_spec(case), fit=fit)  # type: ignore[arg-type]
    graph = DeployedGraph(tiny_model(case), spec, Calibration(), size)
    batch = np.stack(random_images(case, 2, (size,)))
    levels = torch.from_numpy(np.stack([spec.levels(image) for image in batch])).permute(0, 3, 1, 2)
    if fit == "crop":
        resized = transforms.Resize(32, antialias=True)(levels)
    else:
        resized = transforms.Resize([round(32 * side / max(size)) for side in size], antialias=True)(levels)
    top, left = ((there - 32) // 2 for there in resized.shape[2:])
    below, right = 32 + top - resized.shape[2], 32 + left - resized.shape[3]
    theirs = F.pad(resized, (-left, right, -top, below))  # a crop where negative, zeros where not
    expected = spec.normalised(theirs.permute(0, 2, 3, 1).numpy())
    assert np.abs(graph.pixels(torch.from_numpy(batch.astype(np.int32))).numpy() - expected).max() < 3e-5


@pytest.mark.parametrize(("case", "size", "opset", "seed"), [
    (Case("multiclass", 3), (32, 32), 18, 0), (Case("ordinal", 1, "uint16", (100.0, 3000.0)), (40, 56), 20, 1),
    (Case("multilabel", 1), (32, 32), 19, 2)], ids=str)
def test_onnx_runtime_agrees_with_torch_at_every_batch_and_optimisation(case: Case, size: tuple[int, int], opset: int, seed: int) -> None:
    spec = image_spec(case)
    graph = DeployedGraph(reparameterised(tiny_model(case, seed)), spec, calibration_of(case), size).eval()
    data = exported(graph, spec, size, opset)
    for optimise in (False, True):
        session = ort_session(data, optimise)
        for batch in (1, 2, 5):
            raw = np.stack(random_images(case, batch, (size,), seed=seed))
            with torch.no_grad():
                wanted, chances = (part.numpy() for part in graph(torch.from_numpy(raw)))
            logits, probabilities = session.run(None, {"image": raw})
            distance = np.abs(logits - wanted).max()
            assert distance <= 1e-4
            assert distance / np.abs(wanted).max() <= 2e-5
            assert np.abs(probabilities - chances).max() <= 1e-5
            assert np.array_equal(logits.argmax(axis=1), wanted.argmax(axis=1))


def test_a_mobile_student_agrees_too() -> None:
    case = Case("binary", 1, arch="mobilenetv3_small_050")
    spec, model = image_spec(case), tiny_model(case)
    data = exported(DeployedGraph(reparameterised(model), spec, Calibration((2.0,)), (32, 32)), spec, (32, 32))
    raw = np.stack(random_images(case, 5))
    with torch.no_grad():
        wanted = model(torch.from_numpy(spec.normalised(raw))).numpy()
    session = ort_session(data, True)
    logits = session.run(None, {"image": raw})[0]
    assert np.abs(logits - wanted).max() <= 1e-4
    assert np.array_equal(np.concatenate([session.run(None, {"image": image[None]})[0] for image in raw]), logits)


@pytest.mark.parametrize(("arch", "most"), [("mobileone_s0", 95), ("repvgg_a0", 50), ("fastvit_t8", 170)])
def test_branches_of_training_are_fused_before_export(arch: str, most: int) -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch, 32, 32, "multiclass", ("a", "b", "c"))).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = reparameterised(model)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted, found = model(pixels), fused(pixels)
    assert (wanted - found).abs().max() / wanted.abs().max() <= 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "the student itself is untouched"
    data = to_onnx(TensorGraph(fused), (torch.zeros(2, 3, 64, 64),),
                   input_names=["pixel_values"], output_names=["logits"], opset=18, metadata={})
    nodes = onnx.load_from_string(data).graph.node
    assert len(nodes) <= most, Counter(node.op_type for node in nodes)


def test_operations_come_in_the_order_that_all_runtimes_take() -> None:
    case = Case("multiclass", 3, "uint8")
    spec = image_spec(case)
    graph = DeployedGraph(reparameterised(tiny_model(case)), spec, Calibration(), (40, 56))
    kinds = [node.op_type for node in onnx.load_from_string(exported(graph, spec, (40, 56))).graph.node]
    assert kinds[:6] == ["Cast", "Transpose", "Sub", "Mul", "MatMul", "MatMul"]
    assert kinds[-3:] == ["Gemm", "Div", "Softmax"]
    assert not {"Resize", "Gather", "Range", "Shape", "If", "Loop"} & set(kinds)


def test_a_deployed_model_keeps_its_eval_mode_and_needs_no_gradient() -> None:
    model = tiny_model(Case())
    model.train()
    copy = reparameterised(model)
    assert model.training
    assert not copy.training
    assert isinstance(copy, Model)
    assert not any(parameter.requires_grad for parameter in copy.parameters())
