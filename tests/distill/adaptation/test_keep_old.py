"""One task after another: earlier ones bit for bit with experts of their own, held or tried and refused where one network goes on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted import METHODS, damaged, edited, later, refused, run
from families import side, write_weights
from PIL import Image
from places import FIXTURES

from benchmarks.robustness.stand_ins import write_encoder
from distill.adaptation import adapt as story
from distill.adaptation.earlier import earlier_tasks
from distill.commands import distill
from distill.dry_run import dry_run
from distill.networks.checkpoint import load_checkpoint
from distill.networks.models import weights_hash
from distill.networks.tasks import IMAGES, INDEX, TENSORS, load_task, read_tasks
from distill.python import distil
from distill.report import outcome
from distill.settings.distill import DistillSettings
from distill.teacher.teachers import load_teacher
from export.commands import export
from export.config import ExportSettings
from runtimes.errors import PARITY, USAGE, UserError
from runtimes.files.folder import read_json, read_manifest, write_json, write_manifest
from runtimes.info import folder_info

pytestmark = pytest.mark.usefixtures("in_empty_folder")

PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
STUDENT: dict[str, Any] = {"student": "test_efficientnet", "size": 32, "phantom_images": (16, 12, 12), "phantom_size": 32, "epochs": 1,
                           "min_steps": 0, "batch": 8, "bootstrap": 5, "device": "cpu", "bank_runtime": "torch", "bank_views": 1}


@dataclass(frozen=True)
class Chain:
    """Three tasks one after another, the second adapted afresh as well, and what was answered when each was the newest."""

    root: Path
    folders: tuple[Path, ...]
    fresh: Path
    hashes: tuple[str, ...]
    logits: tuple[torch.Tensor, ...]


@pytest.fixture(scope="module", params=METHODS)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root, own = tmp_path_factory.mktemp("chain"), METHODS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(outcome, "write_report", lambda *_, **__: None)  # most of a tiny run's time, and not what is looked at
        run(**own, out=Path("one"), task_name="breast")
        later("one", 1, **own, out=Path("two"), task_name="chest")
        later("two", 2, **own, out=Path("three"))
        run(**own, out=Path("fresh"), split_seed=1, seed=1)
    folders = tuple(root / name for name in ("one", "two", "three"))
    models = [load_checkpoint(folder).model for folder in folders]
    with torch.no_grad():
        return Chain(root, folders, root / "fresh", tuple(weights_hash(model.net) for model in models),
                     tuple(model(PIXELS) for model in models))


def test_earlier_tasks_come_back_bit_for_bit_after_every_later_one(chain: Chain) -> None:
    for count, folder in enumerate(chain.folders, 1):
        tasks = read_tasks(folder)
        assert tasks.names == ("breast", "chest", "phantom (synthetic head CT)")[:count]
        for name, digest, logits in zip(tasks.names, chain.hashes, chain.logits, strict=False):
            checkpoint = load_task(folder, name)
            assert weights_hash(checkpoint.model.net) == digest
            with torch.no_grad():
                assert torch.equal(checkpoint.model(PIXELS), logits)
            assert checkpoint.manifest["weights_hash"] == digest
        own = read_json(chain.folders[0] / "metrics.json")["splits"]
        assert tasks.task("breast").metrics["splits"] == own, "figures of a task are those of its own run"
        assert load_task(folder, "breast").calibration == load_checkpoint(chain.folders[0]).calibration


def test_a_later_task_is_a_fresh_adapter_of_the_original_bit_for_bit(chain: Chain) -> None:
    assert weights_hash(load_checkpoint(chain.fresh).model.net) == chain.hashes[1]
    later_, fresh = (read_manifest(folder, "teacher") for folder in (chain.folders[1], chain.fresh))
    for key in ("weights_hash", "teacher", "teacher_public", "licence"):
        assert later_[key] == fresh[key]
    assert later_["parents"] == fresh["parents"], "its teacher is the original"
    assert read_json(chain.folders[1] / "metrics.json")["splits"] == read_json(chain.fresh / "metrics.json")["splits"]
    assert read_json(chain.folders[1] / "config.json") == read_json(chain.fresh / "config.json")


def test_what_a_task_costs_is_its_own_tensors_and_no_copy_of_a_shared_one(chain: Chain) -> None:
    from safetensors import safe_open

    tasks = read_tasks(chain.folders[2])
    assert tasks.original is not None
    newest = set(tasks.tasks[-1].tensors.values())
    needed = {digest for task in tasks.tasks[:-1] for digest in task.tensors.values()} | set(tasks.original["tensors"].values())
    with safe_open(chain.folders[2] / TENSORS, "pt") as file:
        assert set(file.keys()) == needed - newest
    method = read_json(chain.folders[2] / "metrics.json")["adapters"]["method"]
    sizes = [folder.joinpath(TENSORS).stat().st_size if folder.joinpath(TENSORS).is_file() else 0 for folder in chain.folders]
    whole = (chain.folders[0] / "model.safetensors").stat().st_size
    if method in ("linear", "molre", "moe"):
        assert sizes[0] == 0, "nothing was changed that the original held"
        assert sizes[2] < 0.5 * whole
    else:
        assert sizes[0] > 0.5 * whole, "folded weights, or what was taken out of them, are whole layers"


def test_a_task_is_chosen_as_a_teacher_and_its_features_are_its_own(chain: Chain) -> None:
    earlier, newest = (load_teacher(str(chain.folders[2]), task=name) for name in ("breast", None))
    first = load_teacher(str(chain.folders[0]))
    assert earlier.hash == first.hash
    assert torch.equal(earlier.features(PIXELS), first.features(PIXELS))
    if read_json(chain.folders[2] / "metrics.json")["adapters"]["method"] != "linear":
        assert earlier.hash != newest.hash, "banks of two tasks must not be taken for each other"


def test_every_task_is_exported_in_parity(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    method = read_json(chain.folders[2] / "metrics.json")["adapters"]["method"]
    for name in ("breast", "chest", *([None] if method == "moe" else [])):
        settings = ExportSettings(student_dir=chain.folders[2], task=name, out=Path(f"artifact-{name}"), samples=5)
        assert export(settings, "rd-export --test") == 0
        parity = read_json(Path(f"artifact-{name}/parity.json"))
        assert (parity["passed"], parity["flips"]) == (True, 0)
    again = ExportSettings(student_dir=chain.folders[2], task="breast", out=Path("artifact-breast"), samples=5, resume=True)
    assert export(again, "rd-export --test") == 0
    assert "was finished already" in capsys.readouterr().out
    other = ExportSettings(student_dir=chain.folders[2], task="chest", out=Path("artifact-breast"), samples=5, resume=True)
    assert "--out artifact-breast is not empty" in refused(USAGE, export, settings=other)
    manifests = [read_json(Path(f"artifact-{name}/manifest.json")) for name in ("breast", "chest")]
    assert manifests[0]["parents"]["student"] != manifests[1]["parents"]["student"]
    assert manifests[0]["artifact"]["weights_sha256"] == read_manifest(chain.folders[0], "teacher")["files"]["model.safetensors"]
    assert "breast" not in Path("artifact-breast/manifest.json").read_text(), "a task's name may be a ward's"


def test_the_folder_lists_its_tasks_with_their_figures(chain: Chain) -> None:
    info = folder_info(chain.folders[2])
    lines = [words for label, words in info.rows if label == "task"]
    assert [line.partition(":")[0] for line in lines] == ["breast", "chest", "phantom (synthetic head CT)"]
    for line, folder, facts in zip(lines, chain.folders, info.facts["tasks"], strict=True):
        own = read_json(folder / "metrics.json")["splits"]
        for split in ("val", "test"):
            auroc = own[split]["student"].get("auroc")
            assert facts["auroc"].get(split) == auroc
            assert auroc is None or f"{split} AUROC {auroc['value']:.3f}" in line
    assert [words.partition(":")[0] for label, words in folder_info(chain.folders[0]).rows if label == "task"] == ["breast"]


def test_students_are_distilled_from_each_task() -> None:
    run(**METHODS["moe"], out=Path("one"), task_name="breast")
    later("one", 1, **METHODS["moe"], out=Path("two"), task_name="chest")
    for name, folder in (("breast", "one"), ("chest", "two")):
        settings = DistillSettings(teacher="two", task_name=name, out=Path(f"student-{name}"), **STUDENT)
        assert distill(settings, "rd-distill --test") == 0
        assert read_manifest(Path(f"student-{name}"), "student")["parents"]["teacher"] == load_teacher(folder).hash
    both = DistillSettings(teacher="two", task_name="breast", second_teacher="two", second_task_name="chest", out=Path("both"), **STUDENT)
    assert distill(both, "rd-distill --test") == 0
    assert dry_run(DistillSettings(teacher="two", task_name="breast", **STUDENT)) == 0
    python = distil("phantom", teacher="two", task="breast", quiet=True, **{key: value for key, value in STUDENT.items()})
    known = read_json(Path("student-breast") / "metrics.json")["splits"]
    assert python.metrics["splits"] == known


def test_an_unknown_task_is_a_usage_error_that_lists_those_there_are() -> None:
    run(**METHODS["linear"], out=Path("one"), task_name="breast")
    later("one", 1, **METHODS["linear"], out=Path("two"), task_name="chest")
    for call, changes in ((distill, {"settings": DistillSettings(teacher="two", task_name="brest", **STUDENT)}),
                          (distill, {"settings": DistillSettings(second_teacher="two", second_task_name="brest", **STUDENT)}),
                          (export, {"settings": ExportSettings(student_dir=Path("two"), task="brest")})):
        assert "'breast', 'chest'" in refused(USAGE, call, command="rd --test", **changes)
    told = refused(USAGE, distill, settings=DistillSettings(teacher="test_resnet", teacher_weights="random", task_name="breast", **STUDENT),
                   command="")
    assert "no folder of rd-adapt" in told
    assert "'breast', 'chest'" in refused(USAGE, later, folder="two", split=2, task_name="chest", out=Path("three"))
    assert not Path("three").exists()
    with pytest.raises(UserError, match="breast"):
        distil("phantom", teacher="two", task="brest", quiet=True)


@pytest.mark.parametrize(("changes", "told"), [
    ({"keep_images": 3}, "--keep-old distil"), ({"keep_images": -1}, "--keep-images"), ({"keep_weight": 0.0}, "--keep-weight"),
    ({"method": "molre", "keep_old": "distil"}, "--place blocks"),
    ({"task_name": "binary"}, "a kind of labels"), ({"task_name": "multi-label"}, "did you mean multilabel"),
    ({"task_name": "a\nb"}, "control characters"), ({"task_name": "x" * 101}, "100 letters")])
def test_what_cannot_be_is_a_usage_error(changes: dict[str, Any], told: str) -> None:
    assert told in refused(USAGE, run, **changes)
    assert not Path("teacher").exists()


def test_one_network_that_forgets_is_refused_and_nothing_that_was_trained_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    own = {**METHODS["moe"], "phantom_images": (32, 48, 12)}
    run(**own, epochs=12, min_steps=60, out=Path("one"), task_name="breast")
    spoiling = {**own, "keep_old": "none", "lr": 1.0, "epochs": 3, "out": Path("two"), "task_name": "chest"}
    told = refused(PARITY, later, folder="one", split=1, **spoiling)
    assert "breast now AUROC" in told
    assert "% of what was above chance" in told
    assert "--keep-old experts --overwrite, which forgets nothing and removes two.partial" in told
    assert not Path("two").exists()
    assert later("one", 1, **spoiling, accept_forgetting=True, resume=True) == 0
    assert "from epoch 3 of 3" in capsys.readouterr().out
    task = read_tasks(Path("two")).task("breast")
    moved = task.record["moved"]
    assert moved["was"] == pytest.approx(read_tasks(Path("one")).task("breast").auroc(), abs=1e-6)
    assert (moved["was"] - moved["now"]) / (moved["was"] - 0.5) > 0.05
    assert task.auroc() == pytest.approx(moved["now"], abs=1e-6), "its figures are those of the network that answers now"
    refused(PARITY, later, folder="one", split=1, **{**spoiling, "out": Path("three")})
    anew = {**spoiling, "out": Path("three"), "keep_old": "experts", "lr": 1e-3, "overwrite": True}
    assert later("one", 1, **anew) == 0, "the other way out"
    assert not Path("three.partial").exists()


@pytest.mark.parametrize("kept", [0, 6])
@pytest.mark.parametrize("method", ["lora", "moe"])
def test_a_network_that_is_held_stays_nearer_to_its_earlier_features(kept: int, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = {**METHODS[method], "lr": 0.02, "epochs": 6}
    run(**own, out=Path("one"), task_name="breast", keep_old="distil", keep_images=kept)
    said = capsys.readouterr().out
    assert ("6 images of patients stay in this folder" in said) == bool(kept)
    assert (Path("one") / IMAGES).is_file() == bool(kept)
    assert ("images of patients stay" in (Path("one") / "README.md").read_text()) == bool(kept)
    before = load_checkpoint(Path("one")).model
    apart = {}
    for way, more in (("none", {}), ("distil", {"keep_images": kept, "keep_weight": 30.0})):
        later("one", 1, **own, out=Path(way), keep_old=way, accept_forgetting=True, **more)
        model, old = (load_task(Path(way), name).model for name in (None, "breast"))
        assert torch.equal(old.head.weight, before.head.weight)
        with torch.no_grad():
            assert torch.equal(old.features(PIXELS), model.features(PIXELS))
            apart[way] = float((model.features(PIXELS) - before.features(PIXELS)).square().mean())
    assert 0 < apart["distil"] < 0.8 * apart["none"]
    assert (f"on {kept} images kept" if kept else "nothing of earlier tasks is kept") in capsys.readouterr().out
    if kept:
        tasks = read_tasks(Path("distil"))
        assert dict(tasks.images) == {"breast": 6, "phantom (synthetic head CT)": 6}
        images = tasks.kept("breast")
        assert images is not None
        assert images.levels.shape == (6, 64, 64, 1)


class Killed(BaseException):
    """Stands for a kill."""


def test_a_killed_run_that_is_held_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    run(**METHODS["lora"], out=Path("one"), keep_old="distil", keep_images=4)
    held = {**METHODS["lora"], "keep_old": "distil", "keep_images": 4, "accept_forgetting": True, "epochs": 3}
    later("one", 1, **held, out=Path("whole"))
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
            later("one", 1, **held, out=Path("again"))
    assert later("one", 1, **held, out=Path("again"), resume=True) == 0
    assert weights_hash(load_checkpoint(Path("whole")).model.net) == weights_hash(load_checkpoint(Path("again")).model.net)
    tasks = [read_json(Path(name) / INDEX) for name in ("whole", "again")]
    assert tasks[0]["earlier"][0]["tensors"] == tasks[1]["earlier"][0]["tensors"]


def test_names_that_were_hidden_stay_hidden_in_later_folders(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for place, name in ((place, name) for place in ("Anna", "Berta") for name in ("no", "yes")):
        for number in range(20):
            folder = tmp_path / f"ward of {place}" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (32, 32)).astype(np.uint8)).save(folder / f"{place} {number}.png")
    own = {**METHODS["moe"], "phantom_images": None, "hide_names": "always"}
    run(**own, data=str(tmp_path / "ward of Anna"), out=Path("one"))
    later("one", 1, **own, data=str(tmp_path / "ward of Berta"), out=Path("two"))
    written = b"".join(path.read_bytes() for path in Path("two").rglob("*") if path.is_file())
    assert not any(word in written for word in (b"Anna", b"Berta"))
    first = read_tasks(Path("two")).names[0]
    assert first.startswith("data-")
    told = refused(1, export, settings=ExportSettings(student_dir=Path("two"), task=first, samples=5))
    assert "name them with --data" in told
    settings = ExportSettings(student_dir=Path("two"), task=first, samples=5, data=str(tmp_path / "ward of Anna"))
    assert export(settings, "rd-export --test") == 0


def test_a_head_alone_moves_no_network_and_needs_no_trial() -> None:
    run(**METHODS["moe"], out=Path("one"), task_name="breast")
    later("one", 1, method="linear", keep_old="none", out=Path("two"), task_name="chest")
    assert weights_hash(load_task(Path("two"), "breast").model.net) == weights_hash(load_checkpoint(Path("one")).model.net)


def test_earlier_images_that_are_gone_are_told_before_training_and_found_again_where_they_are_now(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("no", "yes"):
            for number in range(8):
                folder = tmp_path / "data" / split / label
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 255, (32, 32)).astype(np.uint8)).save(folder / f"{number}.png")
    run(**METHODS["moe"], data=str(tmp_path / "data"), out=Path("one"), phantom_images=None, task_name="breast")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    told = refused(USAGE, later, folder="one", split=1, keep_old="none", out=Path("two"), **METHODS["moe"])
    assert f"images of breast cannot be read where they were (--data {tmp_path / 'data'} does not exist" in told
    assert not Path("two.partial").exists() or not any(Path("two.partial").glob("state*"))
    assert later("one", 1, keep_old="none", out=Path("two"), old_data=(str(tmp_path / "moved"),), **METHODS["moe"],
                 accept_forgetting=True) == 0
    moved = read_tasks(Path("two")).task("breast").record["moved"]
    assert moved["on"] == "16 of its validation images"
    assert moved["was"] is not None
    assert later("one", 1, keep_old="none", out=Path("three"), accept_forgetting=True, **METHODS["moe"]) == 0
    task = read_tasks(Path("three")).task("breast")
    assert task.record["moved"]["now"] is None
    assert task.auroc() is None, "figures of a network that no longer answers are not repeated"


@pytest.mark.parametrize("kind", ["hf", "timm file", "folder of rd-distill"])
def test_the_original_of_any_kind_of_teacher_is_found_again(kind: str, tmp_path: Path) -> None:
    if kind == "hf":
        pytest.importorskip("transformers")
        flags = {"teacher": f"hf:{write_encoder(tmp_path / 'encoder', 'DINOv2 with registers')}", "teacher_pool": "cls+mean",
                 "teacher_size": None, "teacher_weights": None}
    elif kind == "timm file":
        flags = {"teacher": "tiny_vit", "teacher_size": side("tiny_vit"), "teacher_weights": str(write_weights(tmp_path, "tiny_vit")),
                 "teacher_resize": "crop", "teacher_pool": "mean"}
    else:
        settings = DistillSettings(teacher="test_resnet", teacher_weights="random", teacher_size=32, out=Path("student"), **STUDENT)
        assert distill(settings, "rd-distill --test") == 0
        flags = {"teacher": "student", "teacher_size": None, "teacher_weights": None}
    own = {"method": "lora", "rank": 1, "adapt_share": 9.0}
    run(**own, **flags, out=Path("one"))
    later("one", 1, **own, out=Path("two"))
    run(**own, **flags, out=Path("fresh"), split_seed=1, seed=1)
    two, fresh = load_checkpoint(Path("two")), load_checkpoint(Path("fresh"))
    assert weights_hash(two.model.net) == weights_hash(fresh.model.net)
    assert (two.spec, two.image_spec) == (fresh.spec, fresh.image_spec)
    assert weights_hash(load_task(Path("two"), read_tasks(Path("two")).names[0]).model.net) == weights_hash(
        load_checkpoint(Path("one")).model.net)
    told = refused(USAGE, run, **own, teacher="one", teacher_size=None, teacher_weights=None, teacher_mean=(0.1, 0.1, 0.1), out=Path("x"))
    assert "keeps how images reach its original" in told


def test_volumes_have_experts_and_a_pooling_of_their_own() -> None:
    volumes = {"data": "phantom-volumes", "phantom_images": (8, 12, 12), "phantom_size": 32, "teacher": "test_efficientnet",
               "teacher_size": 32, "method": "molre", "slices": 4}
    run(**volumes, out=Path("one"), task_name="head")
    of_folder = {"teacher_size": None, "teacher_weights": None, "split_seed": 1, "seed": 1}
    run(**{**volumes, **of_folder, "teacher": "one"}, out=Path("two"))
    first, again = load_checkpoint(Path("one")), load_task(Path("two"), "head")
    assert weights_hash(first.model.net) == weights_hash(again.model.net)
    assert again.spec == first.spec
    inside = {**volumes, "method": "lora", "rank": 2}
    run(**inside, out=Path("three"), task_name="head")
    run(**{**inside, **of_folder, "teacher": "three"}, keep_old="distil", accept_forgetting=True, out=Path("four"))
    before, old, new = (checkpoint.model for checkpoint in (load_checkpoint(Path("three")), load_task(Path("four"), "head"),
                                                            load_checkpoint(Path("four"))))
    for name, tensor in before.slice_pool.state_dict().items():
        assert torch.equal(old.slice_pool.state_dict()[name], tensor), "the pooling of slices is a task's own, as its head is"
    assert torch.equal(old.head.weight, before.head.weight)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(old.trunk(pixels), new.trunk(pixels))
        assert not torch.equal(old.trunk(pixels), before.trunk(pixels))


def test_a_peft_folder_of_a_later_task_fits_the_original() -> None:
    pytest.importorskip("peft")
    run(**METHODS["lora"], out=Path("one"))
    later("one", 1, **METHODS["lora"], out=Path("two"), peft=True)
    again = load_teacher("test_vit", size=64, weights="random", adapter=Path("two/peft"))
    torch.testing.assert_close(again.features(PIXELS), load_teacher("two").features(PIXELS), rtol=1e-3, atol=1e-4)


def as_earlier_version(folder: Path) -> None:
    """A folder as versions before tasks.json wrote it: one network, heads.json."""
    from safetensors.torch import save_file

    tasks = read_tasks(folder)
    heads = {}
    for name in tasks.names:
        head = load_task(folder, name).model.head
        heads |= {f"{name}.weight": head.weight.detach().clone(), f"{name}.bias": head.bias.detach().clone()}
    specs = [load_task(folder, name).spec for name in tasks.names]
    save_file(heads, folder / "heads.safetensors")
    write_json(folder / "heads.json", {"heads": [{"name": name, "task": spec.task, "classes": list(spec.classes)}
                                                 for name, spec in zip(tasks.names, specs, strict=True)]})
    (folder / INDEX).unlink()
    (folder / TENSORS).unlink(missing_ok=True)
    manifest = read_json(folder / "manifest.json")
    write_manifest(folder, "teacher", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})


@pytest.mark.parametrize("method", ["moe", "molre", "linear"])
def test_an_earlier_versions_folder_whose_original_is_whole_takes_a_fresh_adapter(method: str) -> None:
    run(**METHODS[method], out=Path("one"), task_name="breast")
    digest = weights_hash(load_checkpoint(Path("one")).model.net)
    as_earlier_version(Path("one"))
    later("one", 1, **METHODS[method], out=Path("two"))
    run(**METHODS[method], out=Path("fresh"), split_seed=1, seed=1)
    assert weights_hash(load_task(Path("two"), "breast").model.net) == digest
    assert weights_hash(load_checkpoint(Path("two")).model.net) == weights_hash(load_checkpoint(Path("fresh")).model.net)


def test_an_earlier_versions_folded_folder_is_itself_what_new_experts_stand_on() -> None:
    run(**METHODS["lora"], out=Path("one"), task_name="breast")
    later("one", 1, **METHODS["lora"], keep_old="none", accept_forgetting=True, out=Path("two"), task_name="chest")
    digests = [weights_hash(load_task(Path("two"), name).model.net) for name in ("breast", "chest")]
    as_earlier_version(Path("two"))
    later("two", 2, **METHODS["lora"], out=Path("three"), task_name="hand")
    assert [weights_hash(load_task(Path("three"), name).model.net) for name in ("breast", "chest")] == digests
    later("three", 3, **METHODS["lora"], out=Path("four"))
    assert weights_hash(load_task(Path("four"), "hand").model.net) == weights_hash(load_checkpoint(Path("three")).model.net)


def test_an_earlier_versions_spectral_folder_has_lost_its_original_and_says_what_it_can() -> None:
    run(**METHODS["spectral"], out=Path("one"), task_name="breast")
    as_earlier_version(Path("one"))
    told = refused(USAGE, later, folder="one", split=1, **METHODS["spectral"], out=Path("two"))
    assert "no longer holds the original" in told
    assert "--keep-old distil or none" in told
    assert later("one", 1, **METHODS["spectral"], keep_old="none", accept_forgetting=True, out=Path("two"), task_name="chest") == 0
    assert read_tasks(Path("two")).names == ("breast", "chest")
    assert "no longer holds" in refused(USAGE, later, folder="two", split=2, **METHODS["spectral"], out=Path("three"))


def test_a_folder_that_an_old_commit_wrote_goes_on_bit_for_bit() -> None:
    pytest.importorskip("transformers")
    folder = FIXTURES / "ffa3fd1" / "teacher"
    tasks = earlier_tasks(str(folder))
    assert tasks is not None
    assert tasks.original is not None, "its experts began at zero"
    own = {"method": "moe", "phantom_images": (24, 8, 8)}
    later(folder, 1, **own, out=Path("two"))
    assert weights_hash(load_task(Path("two"), tasks.names[0]).model.net) == weights_hash(load_checkpoint(folder).model.net)


def test_a_damaged_folder_of_tasks_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run(**METHODS["moe"], out=Path("one"), task_name="breast")
    later("one", 1, **METHODS["moe"], out=Path("two"), task_name="chest")

    def swapped(content: dict[str, Any]) -> None:
        tensors = content["earlier"][0]["tensors"]
        first, second = list(tensors)[:2]
        tensors[first], tensors[second] = tensors[second], tensors[first]

    cases: list[tuple[Any, str, str]] = [
        (edited(lambda content: content.pop("newest")), INDEX, "newest is missing"),
        (edited(lambda content: content["earlier"][0].update(name="chest")), INDEX, "names a task twice"),
        (edited(lambda content: content["earlier"][0]["tensors"].update({"norm.weight": "x"})), INDEX, "norm.weight"),
        (edited(lambda content: content["earlier"][0]["tensors"].popitem()), INDEX, "does not fit"),
        (edited(lambda content: content["earlier"][0]["tensors"].update({"norm.weight": "0" * 64})), INDEX, "which neither model"),
        (edited(lambda content: content["earlier"][0]["config"]["rd"]["model"].update(arch="nothing")), INDEX, "nothing"),
        (edited(lambda content: content["earlier"][0].update(config={})), INDEX, r"earlier\[0\].config.rd is missing"),
        (edited(lambda content: content.update(images={"hand": 3})), INDEX, "none of its tasks"),
        (edited(swapped), INDEX, "does not fit"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8), TENSORS, "other bytes than"),
        (lambda path: path.write_bytes(b"nonsense"), TENSORS, "cannot be read"), (lambda path: path.unlink(), TENSORS, "lacks tasks.safe")]
    for number, (change, file, told) in enumerate(cases):
        folder = damaged(Path("two"), tmp_path / str(number), change, file)
        with pytest.raises(UserError, match=told):
            load_task(folder, "breast")
    folder = damaged(Path("two"), tmp_path / "plain", lambda path: None)
    assert load_task(folder, "breast").spec.task == "multilabel"
    (folder / TENSORS).write_bytes(b"")
    with pytest.raises(UserError, match="is not what was written"):
        load_task(folder, "breast")
