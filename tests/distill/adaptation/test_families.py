"""rd-adapt on every family of encoders: the network that is trained is the one that ships, fed the same images, and found again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import NETWORKS, side, write_weights

from benchmarks.robustness.stand_ins import ENCODERS, write_encoder
from distill.adaptation import adapt as story
from distill.adapters.insert import POOLED
from distill.data.intake import read_images
from distill.data.views import ViewSpec
from distill.evaluation.predict import Predictions, judge
from distill.networks.checkpoint import load_checkpoint
from distill.networks.encoders import TokenPooling
from distill.report import outcome
from distill.report.outcome import RunResult, write_result
from distill.settings.adapt import AdaptSettings
from distill.settings.data import DataOptions
from distill.teacher.teachers import TeacherInput, load_teacher
from distill.teacher.teaching import BankPlan, TeacherSource, bank_teacher
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json

QUICK: dict[str, Any] = {"method": "lora", "rank": 1, "adapt_share": 9.0, "phantom_images": (8, 12, 12), "phantom_size": 32, "epochs": 1,
                         "min_steps": 0, "batch": 8, "lr": 0.05, "bootstrap": 5, "device": "cpu", "bank_runtime": "torch", "bank_views": 1,
                         "keep_experts": "last"}

FAMILIES = [*(name for name in ENCODERS if name != "ViT fine-tuned, not normalised"), *NETWORKS]  # loaded, a plain ViT


@dataclass(frozen=True)
class Adapted:
    """A family's teacher, the run that adapted it, what was in memory when the folder was written, and the folder."""

    source: TeacherSource
    settings: AdaptSettings
    result: RunResult
    pixels: torch.Tensor
    features: torch.Tensor
    folder: Path


def teacher_of(folder: Path, family: str) -> dict[str, Any]:
    """Flags that name the tiny teacher of a family."""
    if family in ENCODERS:
        return {"teacher": f"hf:{write_encoder(folder / 'encoder', family)}"}
    return {"teacher": family, "teacher_size": side(family), "teacher_weights": str(write_weights(folder, family))}


def adapted(folder: Path, flags: dict[str, Any]) -> Adapted:
    """rd-adapt run once; folder: an empty one, where it works and its teacher lies."""
    kept: dict[str, Any] = {}
    pixels = torch.randn(3, 3, flags.get("teacher_size", 32), flags.get("teacher_size", 32), generator=torch.Generator().manual_seed(0))

    def write_and_keep(out: Path, result: RunResult, **more: Any) -> None:
        with torch.no_grad():
            kept.update(result=result, features=result.model.to("cpu").eval().features(pixels))
        write_result(out, result, **more)

    settings = AdaptSettings(**(QUICK | {"out": folder / "teacher", "bank": folder / "bank"} | flags))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(story, "write_result", write_and_keep)
        patch.setattr(outcome, "write_report", lambda *_, **__: None)  # most of a tiny run's time, and not what is looked at
        assert story.adapt(settings, "rd-adapt --test") == 0
    stated = story.stated_input(settings)  # type: ignore[arg-type]
    return Adapted(TeacherSource(settings.teacher, settings.teacher_weights, stated=stated), settings, kept["result"], pixels,
                   kept["features"], settings.out)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("family")
    return adapted(folder, teacher_of(folder, request.param))


def check_shipped(run: Adapted) -> None:
    """The folder's features, its answers on validation and the figures that were reported are those of the trained network."""
    teacher, checkpoint = load_teacher(str(run.folder)), load_checkpoint(run.folder)
    torch.testing.assert_close(teacher.features(run.pixels), run.features, rtol=1e-5, atol=1e-5 * float(run.features.abs().max()))
    images = read_images(run.settings.part(DataOptions), run.folder)
    rows, spec = images.rows("val"), checkpoint.image_spec
    pixels = torch.from_numpy(np.stack([spec.normalised(spec.stored(images.raw(row))) for row in rows]))
    with torch.no_grad():
        logits = checkpoint.model(pixels).numpy()
    reported = run.result.predictions["val"].student
    near = 1e-4 if run.result.model.spec.adapters or run.settings.method == "lora" else 5e-3  # a head alone is judged on the bank, in fp16
    np.testing.assert_allclose(logits, reported, rtol=near, atol=near * float(np.abs(reported).max()))
    auroc = judge(images, Predictions(rows, logits, None, None, None))["val_auroc_student"]
    metrics = read_json(run.folder / "metrics.json")
    assert metrics["splits"]["val"]["student"]["auroc"]["value"] == pytest.approx(auroc, abs=1e-6)
    assert metrics["adapters"]["merge"]["logit_error"] < 1e-3


def test_the_folder_holds_the_network_that_was_trained(family: Adapted) -> None:
    check_shipped(family)
    before = load_teacher(family.source.name, weights=family.source.weights, stated=family.source.stated).features(family.pixels)
    assert float((before - family.features).abs().max()) > 1e-3 * float(before.abs().max()), "the adapters learnt something"


def test_two_loads_of_a_teacher_and_of_its_adapted_folder_have_one_hash_and_images_reach_both_alike(family: Adapted) -> None:
    first, again = (load_teacher(family.source.name, weights=family.source.weights, stated=family.source.stated) for _ in range(2))
    ours, ours_again = (load_teacher(str(family.folder)) for _ in range(2))
    assert (first.hash, ours.hash) == (again.hash, ours_again.hash)
    assert first.hash != ours.hash
    assert first.image_spec == ours.image_spec


def test_a_bank_is_found_again(family: Adapted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read_images(family.settings.part(DataOptions), tmp_path)
    plan = BankPlan(family.settings.bank, 0, runtime="torch")
    bank_teacher(family.source, plan, images, ViewSpec(), "cpu")
    assert "found" in capsys.readouterr().out, "rd-adapt built it"
    plan = BankPlan(tmp_path / "bank", 0, runtime="torch")
    built, _ = bank_teacher(TeacherSource(str(family.folder)), plan, images, ViewSpec(), "cpu")
    assert "found" not in capsys.readouterr().out
    again, _ = bank_teacher(TeacherSource(str(family.folder)), plan, images, ViewSpec(), "cpu")
    assert "found" in capsys.readouterr().out
    assert built.key == again.key


def test_a_teacher_has_one_hash_in_every_process(tmp_path: Path) -> None:
    run = adapted(tmp_path, {**teacher_of(tmp_path, "DINOv2, as RAD-DINO"), "method": "spectral"})
    names = [run.source.name, str(run.folder)]
    code = "import sys; from distill.teacher.teachers import load_teacher; print(*(load_teacher(name).hash for name in sys.argv[1:]))"
    answer = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [load_teacher(name).hash for name in names]


@pytest.mark.parametrize(("name", "pool", "method"), [
    ("DINOv2 with registers", "cls", "lora"), ("DINOv2 with registers", "mean", "linear"),
    ("DINOv2 with registers", "cls+mean", "spectral"), ("tiny_vit_registers", "cls", "lora"), ("tiny_vit_registers", "mean", "spectral"),
    ("tiny_vit_registers", "cls+mean", "linear"), ("tiny_vit_map", "mean", "lora"), ("tiny_eva02", "cls+mean", "spectral")])
def test_a_pooling_that_was_stated_is_trained_and_shipped(tmp_path: Path, name: str, pool: str, method: str) -> None:
    rate = {"lr": 1e-3} if method == "linear" else {}  # 400 steps of the others' rate make a head that no fp16 serves
    run = adapted(tmp_path, {**teacher_of(tmp_path, name), "teacher_pool": pool, "method": method, **rate})
    check_shipped(run)
    base, teacher = load_teacher(run.source.name, weights=run.source.weights, stated=run.source.stated), load_teacher(str(run.folder))
    assert teacher.pooling == base.pooling
    assert run.features.shape == (3, 48 if pool == "cls+mean" else 24)
    if method == "linear":
        torch.testing.assert_close(teacher.features(run.pixels), base.features(run.pixels), rtol=1e-5, atol=1e-5)
    assert load_checkpoint(run.folder).spec.arguments["pooling"] == pool


@pytest.mark.parametrize("keep_old", ["experts", "none"])
def test_a_second_task_goes_on_with_the_pooling_of_the_first(tmp_path: Path, keep_old: str) -> None:
    first = adapted(tmp_path, {**teacher_of(tmp_path, "tiny_vit"), "teacher_pool": "cls+mean"})
    second = adapted(tmp_path, {"teacher": str(first.folder), "out": tmp_path / "second", "bank": tmp_path / "second-bank",
                                "keep_old": keep_old, "accept_forgetting": True})
    check_shipped(second)
    assert second.features.shape == (3, 48)


def test_an_adapter_folder_of_a_stated_pooling_makes_the_adapted_teacher_again(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = adapted(tmp_path, {**teacher_of(tmp_path, "tiny_vit"), "teacher_pool": "mean", "peft": True})
    again = load_teacher("tiny_vit", weights=run.source.weights, adapter=run.folder / "peft", stated=run.source.stated)
    torch.testing.assert_close(again.features(run.pixels), run.features, rtol=1e-4, atol=1e-4)
    otherwise = load_teacher("tiny_vit", weights=run.source.weights, adapter=run.folder / "peft", stated=TeacherInput(32))
    assert again.hash != otherwise.hash, "of two poolings neither may take the other's bank"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks transformers
@pytest.mark.parametrize("name", ["DINOv2, as RAD-DINO", "CLIP", "ConvNeXt v2"])
def test_peft_puts_the_adapters_of_an_encoder_on_what_transformers_loads(tmp_path: Path, name: str) -> None:
    peft = pytest.importorskip("peft")
    run = adapted(tmp_path, {**teacher_of(tmp_path, name), "peft": True})
    torch.testing.assert_close(load_teacher(run.source.name, adapter=run.folder / "peft").features(run.pixels), run.features)
    model = transformers.AutoModel.from_pretrained(tmp_path / "encoder")
    loaded = peft.PeftModel.from_pretrained(getattr(model, "vision_model", model), run.folder / "peft").eval()
    with torch.no_grad():
        answer = loaded.base_model.model(pixel_values=run.pixels).pooler_output.flatten(1)
    torch.testing.assert_close(answer, run.features, rtol=1e-4, atol=1e-4)


def test_layers_that_are_read_and_never_called_are_a_usage_error_when_there_are_no_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reads the weights of all 2 layers chosen instead of calling them") as caught:
        adapted(tmp_path, {**teacher_of(tmp_path, "tiny_beit"), "adapt_layers": "attention", "adapt_share": 0.06})
    assert caught.value.exit_code == USAGE


def test_an_adapter_behind_the_pool_stays_when_blocks_are_adapted_after_it(tmp_path: Path) -> None:
    first = adapted(tmp_path, {**teacher_of(tmp_path, "tiny_vit"), "method": "molre", "adapt_share": 0.5})
    second = adapted(tmp_path, {"teacher": str(first.folder), "out": tmp_path / "second", "bank": tmp_path / "second-bank",
                                "keep_old": "none", "accept_forgetting": True})
    check_shipped(second)
    assert set(load_checkpoint(tmp_path / "second").spec.adapters) == {POOLED}


@pytest.mark.parametrize("stated", [{"teacher_resize": "crop"}, {"teacher_resize": "pad", "teacher_mean": (0.1, 0.2, 0.3)}])
def test_what_was_stated_of_a_teachers_images_holds_for_its_adapted_folder(tmp_path: Path, stated: dict[str, Any]) -> None:
    run = adapted(tmp_path, {**teacher_of(tmp_path, "tiny_convnext"), **stated})
    spec = load_teacher(str(run.folder)).image_spec
    assert spec.fit == stated["teacher_resize"]
    assert spec == load_teacher("tiny_convnext", weights=run.source.weights, stated=run.source.stated).image_spec


@pytest.mark.parametrize("family_name", ["Swin", "SigLIP, as MedSigLIP", "I-JEPA, without a class token", "ConvNeXt"])
@pytest.mark.parametrize("pool", ["cls", "cls+mean"])
def test_a_class_token_that_an_encoder_lacks_is_refused(tmp_path: Path, family_name: str, pool: TokenPooling) -> None:
    with pytest.raises(UserError, match="has no class token; take mean") as caught:
        load_teacher(f"hf:{write_encoder(tmp_path / 'encoder', family_name)}", stated=TeacherInput(pool=pool))
    assert caught.value.exit_code == USAGE
