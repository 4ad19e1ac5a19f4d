"""Every format of teacher in miniature: our features are the authors' own on pictures of any shape, or a sentence refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from benchmarks.robustness.stand_ins import FORMATS, REFUSALS
from benchmarks.robustness.teachers import LEAST_CENTRED, LEAST_COSINE, loaded, nearness
from distill.teacher.recipes import RECIPES
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec

LARGE = ("RETFound, a MAE with its decoder", "UNI2-h", "Virchow2", "H-optimus-0", "Prov-GigaPath", "DINO's teacher and student", "UNI",
         "TorchXRayVision's ResNet-50")
SEEN_ELSEWHERE = {"H-optimus-0", "Prov-GigaPath", "Lightning's checkpoint"}  # as UNI and DINOv2, by the study alone


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in SEEN_ELSEWHERE])
def test_features_are_the_authors_own_on_pictures_of_any_shape_and_two_loads_are_one(tmp_path: Path, name: str) -> None:
    stand_in = FORMATS[name].write(tmp_path / "model")
    teacher = loaded(stand_in)
    plain, centred = nearness(teacher, stand_in, 1 if name in LARGE else 3)
    assert plain >= LEAST_COSINE
    assert centred >= LEAST_CENTRED
    if name not in LARGE:
        assert loaded(stand_in).hash == teacher.hash


@pytest.mark.parametrize("name", REFUSALS)
def test_what_would_be_read_wrongly_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    stand_in = REFUSALS[name].write(tmp_path / "model")
    with pytest.raises(UserError) as caught:
        loaded(stand_in)
    assert REFUSALS[name].words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_its_images_can_be_made(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.licence
    assert recipe.weights
    assert recipe.kind == "hf" or recipe.arch.split("_")[0] in ("vit", "densenet121", "resnet50")
    spec = ImageSpec(recipe.side, recipe.side, 3, mean=recipe.mean, std=recipe.std, fit=recipe.fit, edge=recipe.edge,
                     interpolation=recipe.interpolation)
    assert ImageSpec.from_dict(spec.as_dict()) == spec
