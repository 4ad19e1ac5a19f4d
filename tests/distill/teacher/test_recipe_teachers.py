"""Recipes by name: their files and folders, what is refused, and that they are taught from and adapted like any other teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import tiny_images

from benchmarks.robustness.stand_ins import FORMATS, random_weights, shallow, timm_form, timm_net
from distill.adaptation.adaptable import adaptable
from distill.networks.models import build_model
from distill.networks.weight_files import read_state
from distill.teacher.public_names import public_teacher
from distill.teacher.recipes import RECIPES
from distill.teacher.teacher import Teacher, TeacherInput
from distill.teacher.teachers import check_teacher, load_teacher
from runtimes.errors import USAGE, UserError

PHIKON: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12, "intermediate_size": 32, "image_size": 224,
                          "patch_size": 16}


def phikon(folder: Path, **processor: Any) -> Path:
    random_weights(transformers.ViTModel(transformers.ViTConfig(**PHIKON), add_pooling_layer=False), 0.02).save_pretrained(folder)
    settings = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]} | processor
    transformers.ViTImageProcessor(size={"height": 224, "width": 224}, **settings).save_pretrained(folder)
    return folder


def uni(folder: Path) -> Teacher:
    written = FORMATS["UNI"].write(folder)
    with shallow():
        return load_teacher("uni", weights=written.weights)


def test_a_folder_under_its_recipe_is_the_folder_with_name_and_licence(tmp_path: Path) -> None:
    folder = phikon(tmp_path / "phikon")
    named, plain = load_teacher("phikon", weights=str(folder)), load_teacher(f"hf:{folder}")
    pixels = torch.randn(2, 3, 224, 224)
    assert torch.equal(named.features(pixels), plain.features(pixels))
    assert (named.name, named.licence, named.image_spec) == ("phikon", "Owkin non-commercial", plain.image_spec)
    assert public_teacher(named.name) == "phikon"


@pytest.mark.parametrize(("processor", "words"), [
    ({"image_mean": [0.5, 0.5, 0.5]}, r"says mean \(0.5, 0.5, 0.5\), phikon has"), ({"image_std": [0.5, 0.5, 0.5]}, "says std")])
def test_a_folder_with_other_statistics_is_refused_under_the_name(tmp_path: Path, processor: Any, words: str) -> None:
    folder = phikon(tmp_path / "phikon", **processor)
    with pytest.raises(UserError, match=words):
        load_teacher("phikon", weights=str(folder))
    load_teacher(f"hf:{folder}")


def test_a_network_of_another_type_is_refused_under_the_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="type 'vit', rad-dino is dinov2"):
        load_teacher("rad-dino", weights=str(phikon(tmp_path / "phikon")))


@pytest.mark.parametrize(("name", "weights", "flag", "words"), [
    ("uni", None, "--teacher", "name them with --teacher-weights"), ("uni", None, "--second-teacher", "name it first: --teacher uni"),
    ("uni", "nowhere.bin", "--teacher", "no file of weights"), ("rad-dino", "nowhere", "--teacher", "is no folder"),
    ("xrv:nowhere.pt", None, "--teacher", "not found; expected a -best.pt file"),
    ("xrv:nowhere.pt", "x.pth", "--teacher", "names its file itself")])
def test_what_is_not_there_is_asked_for_before_anything_is_read(name: str, weights: str | None, flag: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_teacher(name, weights=weights, flag=flag)


def test_a_folder_with_the_file_in_it_is_taken_too(tmp_path: Path) -> None:
    teacher = uni(tmp_path / "uni")
    with shallow():
        assert load_teacher("uni", weights=str(tmp_path / "uni")).hash == teacher.hash


def test_a_fine_tuned_retfound_brings_its_own_norm(tmp_path: Path) -> None:
    with shallow():
        net = timm_net("vit_large_patch16_224", global_pool="avg", num_classes=5)
        torch.save({"model": net.state_dict()}, tmp_path / "tuned.pth")
        teacher = load_teacher("retfound", weights=str(tmp_path / "tuned.pth"))
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(teacher.features(pixels), expected)


def test_what_a_user_states_goes_before_the_recipe(tmp_path: Path) -> None:
    written = FORMATS["UNI"].write(tmp_path / "uni")
    half = (0.5, 0.5, 0.5)
    with shallow():
        plain = load_teacher("uni", weights=written.weights)
        stated = load_teacher("uni", weights=written.weights, stated=TeacherInput(112, half, half, pool="mean", resize="pad"))
    spec = stated.image_spec
    assert (spec.height, spec.mean, spec.std, spec.fit, stated.pooling) == (112, half, half, "pad", "as the mean of patches")
    assert stated.hash != plain.hash
    assert stated.licence == RECIPES["uni"].licence


@pytest.mark.parametrize("name", ["uni", "phikon", "virchow2", "TorchXRayVision's DenseNet, saved whole"])
def test_a_recipe_is_adapted_from_the_features_that_it_teaches(tmp_path: Path, name: str) -> None:
    with shallow():
        if name == "phikon":
            teacher, called = load_teacher("phikon", weights=str(phikon(tmp_path / "phikon"))), name
        else:
            written = FORMATS[{"uni": "UNI", "virchow2": "Virchow2"}.get(name, name)].write(tmp_path / "model")
            teacher, called = load_teacher(written.teacher, weights=written.weights), written.teacher
        model, spec = adaptable(called, teacher, tiny_images(), seed=0)
        pixels = torch.randn(1, 3, spec.height, spec.width)
        with torch.no_grad():
            torch.testing.assert_close(model.eval().features(pixels), teacher.features(pixels))
            rebuilt = build_model(model.spec)
            rebuilt.load_state_dict(model.state_dict())
            torch.testing.assert_close(rebuilt.eval().features(pixels), teacher.features(pixels))
    assert (spec.fit, spec.mean) == (teacher.image_spec.fit, teacher.image_spec.mean)


def test_a_whole_network_saved_under_a_recipe_has_the_tensors_of_its_state(tmp_path: Path) -> None:
    written = FORMATS["TorchXRayVision's DenseNet, saved whole"].write(tmp_path / "xrv")
    assert written.weights is not None
    assert read_state(Path(written.weights))["features.conv0.weight"].shape == (64, 1, 7, 7)
    with pytest.raises(UserError, match="--teacher-channels 3") as caught:
        load_teacher("xrv-densenet121", weights=written.weights, stated=TeacherInput(channels=3))
    assert caught.value.exit_code == USAGE


def test_the_page_names_every_recipe_with_its_images_licence_and_weights() -> None:
    page = (Path(__file__).parents[3] / "distill" / "TEACHERS.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 8 and "--teacher" not in line]
    rows = {line.split("`")[1]: line for line in table}
    assert set(rows) == set(RECIPES)
    for name, recipe in RECIPES.items():
        assert all(text in rows[name] for text in (f"`{recipe.arch}`", f"{recipe.side} px", recipe.licence, recipe.weights)), name


def test_a_folder_of_a_recipes_name_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    timm_form(tmp_path / "uni")
    assert load_teacher("uni").licence == "cc-by-nc-4.0"
    with pytest.raises(UserError, match="is no folder"):
        load_teacher("rad-dino", weights="nowhere")
