"""rd-adapt as a user meets it: each method end to end, what merges, what is refused, resuming; and ONNX Runtime on what stays."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from runs import class_folders
from safetensors.torch import save_file
from tiny import tiny_images

from distill.adaptation import adapt as story
from distill.adaptation.adapt import adapt
from distill.commands import distill
from distill.networks.checkpoint import load_checkpoint
from distill.networks.models import weights_hash
from distill.networks.tasks import load_task, read_tasks
from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from distill.teacher.forward import onnx_forward, torch_forward
from distill.teacher.teachers import load_teacher
from distill.training import fit
from runtimes.errors import PARITY, USAGE, UserError
from runtimes.files.folder import check_files, read_json, read_manifest

pytestmark = pytest.mark.usefixtures("in_empty_folder")

TINY: dict[str, Any] = {
    "teacher": "test_vit", "teacher_size": 160, "teacher_weights": "random", "phantom_images": (16, 12, 12), "phantom_size": 32,
    "epochs": 2, "min_steps": 0, "batch": 8, "bootstrap": 5, "device": "cpu", "bank_runtime": "torch", "bank_views": 1,
    "keep_experts": "last"}  # 16 images of noise earn no expert its place, and most of this is about experts
REFUSED = r"routed adapters, load it with distill\.load_checkpoint"
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "rank": 2}, "pissa": {"method": "lora", "init": "pissa", "rank": 2}, "moe": {"method": "moe"},
    "molre": {"method": "molre"}, "molre in blocks": {"method": "molre", "place": "blocks", "rank": 2}, "spectral": {"method": "spectral"}}


def run(**changes: Any) -> int:
    return adapt(AdaptSettings(**(TINY | changes)), "rd-adapt --test")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_writes_a_teacher_that_is_whole_and_can_be_distilled(name: str) -> None:
    assert run(**METHODS[name]) == 0
    folder = Path("teacher")
    manifest = read_manifest(folder, "teacher")
    check_files(folder, manifest)
    kept = load_checkpoint(folder).spec.adapters
    facts = read_json(folder / "metrics.json")
    assert facts["adapters"]["kept"] == len(kept)
    assert bool(kept) == (METHODS[name]["method"] != "lora"), "lora folds, what is routed stays"
    assert facts["adapters"]["merge"]["logit_error"] < 1e-4
    assert facts["splits"]["test"]["student"]["auroc"]["value"] == pytest.approx(facts["adapters"]["merge"]["auroc_after"], abs=1)
    assert manifest["parents"]["teacher"] == facts["adapters"]["base_hash"]
    teacher = load_teacher("teacher")
    x = torch.randn(3, 3, 160, 160)
    torch.testing.assert_close(teacher.features(x), load_checkpoint(folder).model.features(x).detach())
    if kept:
        with pytest.raises(RuntimeError, match=REFUSED):
            timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.equal(plain(x), load_checkpoint(folder).model(x))
    settings = DistillSettings(student="test_efficientnet", teacher="teacher", size=32, phantom_images=(16, 12, 12), phantom_size=32,
                               epochs=1, min_steps=0, batch=8, bootstrap=5, device="cpu", bank_runtime="torch", bank_views=1)
    assert distill(settings, "rd-distill --test") == 0
    assert read_manifest(Path("student"), "student")["parents"]["teacher"] == teacher.hash


def test_the_frozen_network_keeps_its_weights_and_a_spectral_start_takes_only_the_mean_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_teacher("test_vit", size=160, weights="random").net.net.state_dict()
    run(method="moe")
    held = load_checkpoint(Path("teacher")).model.net.state_dict()
    shared = {name: name.replace(".base.", ".") for name in held if name.replace(".base.", ".") in base and "head" not in name}
    assert len(shared) == len(base) - 2
    assert all(torch.equal(held[name], base[own]) for name, own in shared.items())
    run(method="spectral", overwrite=True)
    held = load_checkpoint(Path("teacher")).model.net.state_dict()
    changed = {name for name, own in shared.items() if not torch.equal(held[name], base[own])}
    assert changed == {name for name in shared if ".base.weight" in name}


@pytest.mark.parametrize(("arch", "size"), [("test_vit", 160), ("test_efficientnet", 64), ("tf_efficientnet_lite0", 32)])
def test_onnx_runtime_answers_as_torch_for_a_routed_teacher(arch: str, size: int) -> None:
    run(method="spectral", teacher=arch, teacher_size=size, epochs=1)
    teacher = load_teacher("teacher")
    through = onnx_forward(teacher, 1)
    for count in (1, 5):
        pixels = torch.randn(count, 3, size, size)
        torch.testing.assert_close(through(pixels)["pooled"], torch_forward(teacher)(pixels)["pooled"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["molre", "lora"])
def test_onnx_runtime_answers_as_torch_behind_an_ensemble_of_experts_and_their_head(method: str) -> None:
    run(method=method, place="pooled", teacher="test_efficientnet", teacher_size=32, keep_experts="best", lr=0.01)
    model = load_checkpoint(Path("teacher")).model
    (spec,) = model.spec.adapters.values()
    assert (spec.standardised, spec.members) == (True, 5 if method == "molre" else 1)
    pixels = torch.randn(5, 3, 32, 32)
    through = onnx_forward(load_teacher("teacher"), 1)(pixels)["pooled"]
    with torch.no_grad():
        for ours, theirs in ((through, model.features(pixels)), (model.logits(through), model(pixels))):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))  # noise is far from training


@pytest.mark.parametrize("method", ["lora", "spectral"])
def test_one_network_goes_on_to_a_second_task_and_every_head_is_kept(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(method=method, out=Path("first"))
    first = load_checkpoint(Path("first")).model
    again = {"method": method, "teacher": "first", "teacher_size": None, "teacher_weights": None, "split_seed": 1, "keep_old": "none",
             "accept_forgetting": True}
    run(**again, out=Path("second"))
    names = read_tasks(Path("second")).names
    assert names == ("phantom (synthetic head CT)", "phantom (synthetic head CT)-2")
    second, old = load_checkpoint(Path("second")).model, load_task(Path("second"), names[0]).model
    assert torch.equal(old.head.weight, first.head.weight)
    assert not torch.equal(old.head.weight, second.head.weight)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(old.features(x), second.features(x)), "one network, two heads"
    assert not torch.equal(old.features(x), first.features(x))
    assert len(second.spec.adapters) == len(first.spec.adapters)
    assert ("going on with" in capsys.readouterr().out) == (method == "spectral")
    if method == "spectral":
        with pytest.raises(UserError, match="go on with the same --method"):
            run(**{**again, "method": "lora"}, out=Path("third"))


def test_a_second_adapter_behind_the_pool_is_refused() -> None:
    run(method="molre", out=Path("first"))
    with pytest.raises(UserError, match="behind its pool already"):
        run(method="molre", teacher="first", teacher_size=None, teacher_weights=None, keep_old="none")


def test_merge_aware_training_ends_in_plain_weights() -> None:
    run(method="spectral", merge_aware=0.5)
    facts = read_json(Path("teacher") / "metrics.json")["adapters"]
    assert facts["kept"] == 0
    assert facts["merge"]["exact"] > 0
    assert facts["merge"]["logit_error"] < 1e-4
    assert facts["merge"]["flips"] == 0
    assert not any("router" in name for name in load_checkpoint(Path("teacher")).model.net.state_dict())


@pytest.mark.parametrize("mode", ["mean", "least-squares"])
def test_an_approximate_fold_is_measured_and_refused_above_its_limit_without_losing_the_training(
        mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=f"--merge {mode} moves the logits by .*--max-fold-error") as caught:
        run(method="moe", merge=mode, max_fold_error=1e-9)
    assert caught.value.exit_code == PARITY
    assert not Path("teacher").exists()
    assert run(method="moe", merge=mode, max_fold_error=10.0, resume=True) == 0
    facts = read_json(Path("teacher") / "metrics.json")["adapters"]
    assert facts["kept"] == 0
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(timm.create_model("local-dir:teacher", pretrained=True).eval()(x), load_checkpoint(Path("teacher")).model(x))
    merge = facts["merge"]
    assert merge["approximate"] == len(merge["layers"]) > 0
    assert 0 < merge["logit_error"] < 10
    assert all(one["of_change"] > 0 for one in merge["layers"].values())
    assert "from epoch 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"method": "lora"}, {"method": "spectral"}, {"method": "moe", "merge_aware": 0.5}, {"method": "molre"},
                                     {"method": "linear"}], ids=lambda changes: "-".join(map(str, changes.values())))
def test_where_experts_gain_nothing_the_frozen_network_with_the_probe_as_its_head_is_written(
        changes: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("adapt", "from_probe"):  # on twelve images chance decides; what it decides is tested elsewhere
        monkeypatch.setattr(f"distill.adaptation.{module}.gain_of", lambda *_: (0.01, 0.02))
    run(**changes, keep_experts="better")
    assert "the probe is kept" in capsys.readouterr().out
    facts = read_json(Path("teacher") / "metrics.json")
    verdict = facts["adapters"]["experts"]
    assert not verdict["used"]
    assert (verdict["gain"], verdict["error"]) == (0.01, 0.02)
    assert verdict["images"] == (16 if changes["method"] in ("molre", "linear") else 12)
    model = load_checkpoint(Path("teacher")).model
    assert model.spec.adapters == {}
    base = load_teacher("test_vit", size=160, weights="random").net.net.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in model.net.state_dict().items() if "head" not in name)
    for split in ("val", "test"):
        student, probe = (facts["splits"][split][branch]["auroc"]["value"] for branch in ("student", "probe"))
        assert student == pytest.approx(probe, abs=1e-9), "the network answers as the probe, whose features were banked in fp16"
    assert "Experts against the probe they start from" in (Path("teacher") / "report.html").read_text()


def test_a_network_is_trained_where_that_helps_and_the_epoch_of_the_least_loss_is_kept(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.teacher.probe.STRENGTHS", (1e-7,))  # a probe that says next to nothing
    data = class_folders(tmp_path / "data", tiny_images("binary", (96, 48, 16), seed=1))
    run(data=str(data), method="lora", teacher="test_efficientnet", teacher_size=32, epochs=10, rank=2, adapt_share=1.0,
        keep_experts="better")
    facts = read_json(Path("teacher") / "metrics.json")
    verdict = facts["adapters"]["experts"]
    assert verdict["used"]
    assert verdict["gain"] > verdict["error"]
    scores = [float(row["score"]) for row in csv.DictReader(Path("teacher/summary.csv").read_text().splitlines())]
    assert verdict["trained"] == f"epoch {10 - scores[::-1].index(max(scores))} of 10"
    kept = facts["splits"]["val"]["student"]
    assert kept["auroc"]["value"] >= facts["splits"]["val"]["probe"]["auroc"]["value"]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("changes", [{"method": "spectral", "merge_aware": 0.5, "epochs": 3}, {"method": "molre"},
                                     {"method": "moe", "epochs": 3, "keep_experts": "best"},
                                     {"method": "lora", "epochs": 3, "keep_experts": "better"},
                                     {"method": "molre", "keep_experts": "best"}],
                         ids=["blocks", "pooled", "blocks at their best", "blocks guarded", "pooled at its best"])
def test_a_killed_run_resumes_to_the_same_weights(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(**changes, out=Path("whole"))
    judge, calls = story.judge, 0

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Killed
        return judge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(story, "judge", dying)
        with pytest.raises(Killed):
            run(**changes, out=Path("again"))
    assert run(**changes, out=Path("again"), resume=True) == 0
    first, second = (load_checkpoint(Path(name)).model.net for name in ("whole", "again"))
    assert weights_hash(first) == weights_hash(second)


@pytest.mark.parametrize(("changes", "told"), [
    ({"method": "spectral", "place": "pooled"}, "--place blocks"), ({"method": "lora", "merge_aware": 0.2}, "--merge-aware"),
    ({"method": "moe", "init": "pissa"}, "--init pissa"), ({"method": "moe", "init": "svd"}, "--init svd"), ({"rank": 0}, "--rank"),
    ({"top_k": 9}, "top-k 9 of 8"), ({"scale": float("nan")}, "--scale"), ({"merge_aware": 1.0}, "--merge-aware"),
    ({"method": "spectral", "rank": 999}, "--adapt-layers"), ({"teacher": "bank:x"}, "shows no layers"),
    ({"method": "moe", "peft": True}, "--peft needs"), ({"merge_aware": 0.5, "select": "best"}, "--select best"),
    ({"merge_aware": 0.5, "keep_experts": "best"}, "--keep-experts best"),
    ({"method": "molre", "merge_aware": 0.5}, "--merge-aware is for gates beside layers"),
    ({"select": "best", "keep_experts": "better"}, "--keep-experts better takes the epoch"),
    ({"adapt_layers": "pointwise"}, "--adapt-layers pointwise"), ({"epochs": 0}, "--epochs")])
def test_what_cannot_be_is_a_usage_error_in_words(changes: dict[str, Any], told: str) -> None:
    if changes.get("teacher") == "bank:x":
        changes = changes | {"teacher_size": None, "teacher_weights": None}
    with pytest.raises(UserError, match=told) as caught:
        run(**changes)
    assert caught.value.exit_code == USAGE
    assert not Path("teacher").exists()


@pytest.mark.parametrize("changes", [{"method": "lora", "init": "pissa"}, {"method": "spectral", "merge_aware": 0.5}],
                         ids=["pissa", "spectral"])
def test_peft_puts_the_adapters_on_the_original_network_with_equal_features(changes: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    run(**changes, peft=True)
    original = load_teacher("test_vit", size=160, weights="random").net.net
    x = torch.randn(3, 3, 160, 160)
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(original, "teacher/peft").eval().base_model.model
        torch.testing.assert_close(loaded.forward_head(loaded.forward_features(x), pre_logits=True), load_teacher("teacher").features(x),
                                   rtol=1e-3, atol=1e-4)


def test_an_adapter_folder_alone_makes_the_adapted_teacher_of_its_base_again_and_of_no_other() -> None:
    run(method="lora", peft=True)
    x = torch.randn(3, 3, 160, 160)
    again = load_teacher("test_vit", size=160, weights="random", adapter=Path("teacher/peft"))
    torch.testing.assert_close(again.features(x), load_teacher("teacher").features(x), rtol=1e-3, atol=1e-4)
    assert again.hash != load_teacher("test_vit", size=160, weights="random").hash
    other = load_teacher("test_vit", size=160, weights="random").net.net
    torch.nn.init.normal_(other.blocks[0].attn.qkv.weight)
    save_file(other.state_dict(), "other.safetensors")
    with pytest.raises(UserError, match="was trained on weights"):
        load_teacher("test_vit", size=160, weights="other.safetensors", adapter=Path("teacher/peft"))
    with pytest.raises(UserError, match="--teacher-adapter"):
        load_teacher("teacher", adapter=Path("teacher/peft"))
    settings = DistillSettings(student="test_efficientnet", size=32, min_steps=2, teacher_adapter=Path("teacher/peft"),
                               **{name: value for name, value in TINY.items() if name not in ("min_steps", "keep_experts")})
    assert distill(settings, "rd-distill --test") == 0
    assert read_manifest(Path("student"), "student")["parents"]["teacher"] == again.hash


def test_adapters_train_in_bf16_and_the_state_of_a_run_leaves_the_frozen_weights_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.Tensor] = {}
    saved = fit.save_state

    def look(folder: Path, epoch: int, tensors: dict[str, torch.Tensor], record: Any) -> None:
        seen.update(tensors)
        saved(folder, epoch, tensors, record)

    monkeypatch.setattr(fit, "save_state", look)
    run(method="spectral", precision="bf16", epochs=4)
    trained = [name for name in seen if name.startswith("model.")]
    assert trained
    assert not any(".base.weight" in name for name in trained), "only what is trained"
    history = Path("teacher/summary.csv").read_text().splitlines()
    losses = [float(line.split(",")[2]) for line in history[1:]]
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    assert {value.dtype for value in load_checkpoint(Path("teacher")).model.state_dict().values()} <= {torch.float32, torch.int64}


def test_a_run_that_diverges_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"not finite.*--lr"):
        run(method="moe", lr=1e30, epochs=3)


def test_a_transformers_encoder_is_adapted_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32,
                                    patch_size=8)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    run(teacher=f"hf:{tmp_path / 'vit'}", teacher_size=None, teacher_weights=None, method="spectral", adapt_layers="attention")
    model = load_checkpoint(Path("teacher")).model
    assert len(model.spec.adapters) == 8
    assert np.isfinite(load_teacher("teacher").features(torch.randn(2, 3, 32, 32)).numpy()).all()


@pytest.mark.parametrize(("changes", "told"), [
    ({"teacher": "tset_vit"}, "no network"), ({"teacher_weights": "gone.pth"}, "gone.pth"),
    ({"teacher": "bank:gone", "teacher_weights": None, "teacher_size": None}, "shows no layers"),
    ({"teacher": "gone.pt2", "teacher_weights": None}, "shows no layers"), ({"teacher": "hf:./gone", "teacher_weights": None}, "gone")])
def test_a_teacher_is_looked_up_before_any_image_is_read(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str) -> None:
    monkeypatch.setattr("distill.adaptation.adapt.read_images", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(UserError, match=told):
        run(**changes)
