"""distil, rd-distill from Python: the bits of the command, networks and images of one's own, folders that export, refusals in sentences."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT
from tiny import tiny_images
from torch import Tensor, nn

from distill import Distilled, StudentNetwork, TeacherNetwork, distil, load_checkpoint
from distill.commands import distill
from distill.networks.models import ModelSpec, build_model, weights_hash
from distill.networks.own import own_student, tried
from distill.settings.distill import DistillSettings
from distill.teacher.own import own_teacher
from distill.teacher.teachers import load_teacher
from export.commands import export
from export.config import ExportSettings
from runtimes import open_session
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest
from runtimes.info import folder_info

SMALL: dict[str, Any] = {"epochs": 1, "min_steps": 0, "batch": 8, "bootstrap": 10, "device": "cpu", "bank_views": 1,
                         "bank_runtime": "torch", "size": 32}
NAMED: dict[str, Any] = {"teacher": "test_resnet", "teacher_size": 32, "teacher_weights": "random"}
HALF = (0.5, 0.5, 0.5)


class Net(nn.Module):
    """A network as people write them: batch norm, dropout, weights that two layers share, class scores at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.first, self.second = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.second.weight = self.first.weight
        self.last = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.last(self.second(self.first(self.stem(pixels)))).mean((2, 3)))


class Tokens(nn.Module):
    """A network that answers tokens, the first one a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], 1)


class Counting(Tokens):
    """A network whose code looks at values, which neither torch.fx nor torch.export can follow."""

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = super().forward(pixels)
        return tokens if bool(tokens.mean() > 0) else -tokens


class Random(Tokens):
    """A network that draws at random in eval mode, too."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(pixels))


class Keyed:
    """A data set whose items have no numbers."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int) -> Any:
        raise KeyError(place)


def seeded(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()


def pairs_of(task: str = "binary", **changes: Any) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Tiny images as pairs, and their split."""
    images = tiny_images(task, (24, 12, 12), **changes)
    labels = ([{name: int(value) for name, value in zip(images.classes, row, strict=True)} for row in images.labels]
              if task == "multilabel" else [images.classes[label] for label in images.labels])
    return list(zip(images.images, labels, strict=True)), images.split.tolist()


PAIRS, SPLIT = pairs_of()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, and another one for what is temporary."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "here"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Distilled, Path]:
    """A student of one's own by a teacher of one's own on images in memory, and its saved folder."""
    teacher = TeacherNetwork(seeded(Tokens), HALF, HALF, 32, pool="cls", licence="mine")
    made = distil(PAIRS, teacher=teacher, student=StudentNetwork(seeded(Net), features="last", mean=HALF, std=HALF), splits=SPLIT,
                  patients=[f"p{row // 2}" for row in range(len(PAIRS))], quiet=True, **SMALL)
    return made, made.save(tmp_path_factory.mktemp("own") / "student")


def sealed(folder: Path, **changes: Any) -> Path:
    """A folder's manifest again, after its files were changed."""
    manifest = read_json(folder / "manifest.json") | changes
    write_manifest(folder, manifest["kind"], {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_python_gives_what_the_command_gives_bit_for_bit(place: Path) -> None:
    same: dict[str, Any] = {"data": "phantom", "phantom_images": (24, 10, 12), "phantom_size": 32, "student": "test_efficientnet", **NAMED,
                            **SMALL}
    assert distill(DistillSettings(**same, out=Path("command")), "rd-distill") == 0
    made = distil(**same)
    made.save("python")
    for name in ("model.safetensors", "config.json", "metrics.json", "predictions.csv", "split.csv", "summary.csv"):
        assert (place / "python" / name).read_bytes() == (place / "command" / name).read_bytes(), name
    assert made.metrics == read_json(place / "python" / "metrics.json")
    command, python = (read_json(place / name / "manifest.json") for name in ("command", "python"))
    assert {key for key in command["settings"] if command["settings"][key] != python["settings"][key]} == {"out"}
    assert command["parents"] == python["parents"]
    assert not (place / "python-images").exists()


def test_images_in_memory_give_what_the_same_images_in_a_folder_give(place: Path) -> None:
    rows = []
    for number, (image, label) in enumerate(PAIRS):
        Image.fromarray(image[..., 0]).save(place / f"{number:03d}.png")
        rows.append({"image": f"{number:03d}.png", "split": SPLIT[number], "label": label})
    with (place / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    folder = distil("table.csv", student="test_efficientnet", method="vanilla", **SMALL)
    memory = distil([(torch.from_numpy(image), label) for image, label in PAIRS], splits=SPLIT, student="test_efficientnet",
                    method="vanilla", **SMALL)
    assert weights_hash(memory.student) == weights_hash(folder.student)
    assert memory.metrics == folder.metrics
    np.testing.assert_array_equal(memory.predict([image for image, _ in PAIRS]), folder.predict(np.stack([image for image, _ in PAIRS])))


def test_a_teacher_module_teaches_as_the_same_network_by_its_name(place: Path) -> None:
    teacher = load_teacher("test_resnet", size=32, weights="random")
    before = weights_hash(teacher.net)
    spec = teacher.image_spec
    given = TeacherNetwork(teacher.net.net, spec.mean, spec.std, 32)  # type: ignore[arg-type]
    named = distil(PAIRS, splits=SPLIT, student="test_efficientnet", **NAMED, **SMALL)
    made = distil(PAIRS, splits=SPLIT, student="test_efficientnet", teacher=given, **SMALL)
    assert weights_hash(made.student) == weights_hash(named.student)
    assert weights_hash(teacher.net) == before


def test_nothing_stays_behind_and_nothing_of_the_caller_is_changed(place: Path) -> None:
    net, pairs = seeded(Net).train(), [(image.copy(), label) for image, label in PAIRS]
    before, threads = weights_hash(net), torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    made = distil(pairs, student=StudentNetwork(net, "last"), method="vanilla", threads=2, **SMALL)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert torch.get_num_threads() == threads
    assert (weights_hash(net), net.training) == (before, True)
    assert all((mine == PAIRS[row][0]).all() for row, (mine, _) in enumerate(pairs))
    assert list(place.iterdir()) == []
    left = [path.name for path in Path(tempfile.gettempdir()).iterdir()]
    assert [name.startswith("distil-images-") for name in left] == [True]  # as long as somebody may save the student
    del made
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    with pytest.raises(UserError, match=r"image-000003\.png: constant"):
        distil([*pairs[:3], (np.full((32, 32), 9, np.uint8), "no"), *pairs[3:]], student="test_efficientnet", method="vanilla", **SMALL)
    assert [*place.iterdir(), *Path(tempfile.gettempdir()).iterdir()] == []


def test_a_bank_that_is_named_is_kept_used_again_and_refused_to_another_teacher(
        place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(pool: Any) -> Distilled:
        return distil(PAIRS, splits=SPLIT, teacher=TeacherNetwork(seeded(Tokens), HALF, HALF, 32, pool=pool), student="test_efficientnet",
                      bank="bank", **SMALL)

    first = run("mean")
    assert "bank, found" not in capsys.readouterr().out
    again = run("mean")
    assert "bank, found" in capsys.readouterr().out
    assert weights_hash(first.student) == weights_hash(again.student)
    with pytest.raises(UserError, match="bank"):
        run("cls")


def test_a_teacher_of_one_channel_sees_the_mean_of_colours() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
    teacher = own_teacher(TeacherNetwork(net, HALF, HALF, 32, channels=1))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher.features(pixels), net(pixels.mean(1, keepdim=True)).mean((2, 3)))
    assert "one channel" in teacher.describe()
    with pytest.raises(UserError, match="expected 1 or 3"):
        own_teacher(TeacherNetwork(net, HALF, HALF, 32, channels=2))


def test_teachers_that_differ_in_weights_code_or_pooling_have_other_hashes() -> None:
    def hash_of(net: nn.Module, **changes: Any) -> str:
        return own_teacher(TeacherNetwork(net, HALF, HALF, 32, **changes)).hash

    def first(tokens: Tensor) -> Tensor:
        return tokens[:, 0]

    def second(tokens: Tensor) -> Tensor:
        return tokens[:, 1]

    net = seeded(Tokens)
    hashes = [hash_of(net), hash_of(seeded(Tokens, 1)), hash_of(net, pool="cls"), hash_of(net, pool=first), hash_of(net, pool=second),
              hash_of(net, features="patch"), hash_of(nn.Sequential(net, nn.ReLU())), hash_of(nn.Sequential(net, nn.GELU()))]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(net, pool=first) == hash_of(seeded(Tokens), pool=first)


def test_the_ways_of_pooling_are_what_they_say() -> None:
    net, pixels = seeded(Tokens), torch.randn(2, 3, 32, 32)
    tokens = net(pixels)
    for pool, expected in (("auto", tokens.mean(1)), ("mean", tokens.mean(1)), ("cls", tokens[:, 0]),
                           (lambda found: found.amax(1), tokens.amax(1))):
        teacher = own_teacher(TeacherNetwork(net, HALF, HALF, 32, pool=pool))  # type: ignore[arg-type]
        torch.testing.assert_close(teacher.features(pixels), expected, rtol=0, atol=0)
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
                                    patch_size=8)
    encoder = transformers.ViTModel(config).eval()
    torch.testing.assert_close(own_teacher(TeacherNetwork(encoder, HALF, HALF, 32)).features(pixels), encoder(pixels).pooler_output)
    torch.testing.assert_close(own_teacher(TeacherNetwork(encoder, HALF, HALF, 32, pool="cls")).features(pixels),
                               encoder(pixels).last_hidden_state[:, 0])


def test_a_student_of_ones_own_comes_back_from_its_folder_bit_for_bit_without_its_code(
        own: tuple[Distilled, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made, folder = own
    pixels = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = made.student(pixels)
    for kind in (Net, Tokens):
        monkeypatch.setattr(kind, "__init__", lambda *_: pytest.fail("the code of the network was run"))
        monkeypatch.setattr(kind, "forward", lambda *_: pytest.fail("the code of the network was run"))
    with torch.no_grad():
        assert torch.equal(load_checkpoint(folder).model(pixels), expected)
    config = read_json(folder / "config.json")
    assert config["rd"]["model"]["arch"] == "program/Net"
    program = (folder / "network.pt2").read_bytes()
    assert not [word for word in (b"test_distill_python", b"/torch/", str(ROOT).encode()) if word in program]
    made.save("again")
    assert Path("again/network.pt2").read_bytes() == program
    assert Path("again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_student_of_ones_own_exports_without_a_flip_and_answers_as_the_module(
        own: tuple[Distilled, Path], place: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    made, folder = own
    settings = ExportSettings(student_dir=folder, out=Path("artifact"), precision=precision, samples=3, keep_slower=True,  # type: ignore[arg-type]
                              keep_upcast=True)
    assert export(settings) == 0
    assert "12 images, 0 flips" in capsys.readouterr().out
    images = np.stack([image for image, _ in PAIRS])
    scores = open_session("artifact").run(images)
    near = {"fp32": 1e-5, "fp16": 5e-3, "int8": 5e-2}[precision]
    np.testing.assert_allclose(scores.probabilities, made.predict(images), atol=near)


def test_predictions_are_those_of_the_saved_table(own: tuple[Distilled, Path]) -> None:
    made, folder = own
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [PAIRS[int(row["image"].removeprefix("image-").removesuffix(".png"))][0] for row in rows]
    np.testing.assert_allclose(made.predict(images), [[float(row[f"prob_{name}"]) for name in made.classes] for row in rows], atol=1e-6)


def test_saved_images_teach_the_command_line_and_folders_say_what_they_are(own: tuple[Distilled, Path], place: Path) -> None:
    _, folder = own
    images = folder.with_name("student-images")
    settings = read_json(folder / "manifest.json")["settings"]
    assert settings["data"] == str(images / "labels.csv")
    assert (settings["out"], settings["bank"]) == (str(folder), None)
    assert distill(DistillSettings(**{**SMALL, "data": settings["data"], "student": "test_efficientnet", "method": "vanilla",
                                      "out": Path("second")}), "rd-distill") == 0
    parents = [read_json(one / "manifest.json")["parents"]["images"] for one in (folder, Path("second"))]
    assert parents[0] == parents[1]
    lines = "\n".join(folder_info(folder).lines())
    assert "kind      student: program/Net, binary, 2 classes, 32x32" in lines
    assert "teacher   Tokens, licence mine" in lines
    assert read_json(folder / "manifest.json")["teacher_public"] == "own teacher"  # its name may be a network's that others know
    lines = "\n".join(folder_info(images).lines())
    assert f"images of a student, given in Python: {len(PAIRS)}" in lines
    assert f"rd-distill --data {images}/labels.csv" in lines
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "load_checkpoint" in card
    assert f"distil(data='{len(PAIRS)} images in memory', teacher=TeacherNetwork(Tokens), student=StudentNetwork(Net)" in card


def test_a_student_of_ones_own_is_a_teacher_and_is_neither_adapted_nor_weights_of_another(own: tuple[Distilled, Path]) -> None:
    from distill.adaptation.adaptable import check_adaptable

    _, folder = own
    pixels = torch.randn(2, 3, 32, 32)
    teacher = load_teacher(str(folder))
    torch.testing.assert_close(teacher.features(pixels), load_checkpoint(folder).model.features(pixels))
    with pytest.raises(UserError, match="shows no layers"):
        check_adaptable(str(folder))
    with pytest.raises(UserError, match="does not fit test_efficientnet"):
        distil(PAIRS, student="test_efficientnet", student_weights=str(folder), method="vanilla", **SMALL)


@pytest.mark.parametrize("method", ["drd", "auto"])
def test_methods_of_stages_and_of_trials_teach_a_network_of_ones_own(method: str) -> None:
    more = {"bank_grid": 4, "auto_steps": 2, "auto_folds": 2}
    made = distil(PAIRS, splits=SPLIT, student=StudentNetwork(seeded(Net), "last"), method=method, quiet=True, **NAMED, **SMALL, **more)
    assert made.metrics.get("choice", {"method": method})["method"]
    made.save("student")
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(Path("student")).model(pixels), made.student(pixels))


@pytest.mark.parametrize(("task", "changes"), [("multilabel", {}), ("multiclass", {"channels": 3})])
def test_labels_and_colours_come_through_memory(task: str, changes: dict[str, Any]) -> None:
    pairs, split = pairs_of(task, **changes)
    made = distil(pairs, splits=split, student="test_efficientnet", method="vanilla", **SMALL)
    assert (made.metrics["task"], made.image_spec.channels) == (task, changes.get("channels", 1))
    assert [made.metrics["splits"][part]["n"] for part in ("val", "test")] == [12, 12]
    assert made.predict(pairs[0][0][None]).shape == (1, 3)


def test_deep_images_missing_labels_and_numbers_come_through_memory() -> None:
    pairs = [(image[..., 0].astype(np.uint16) * 16, None if row % 6 == 4 else np.int64(row % 2)) for row, (image, _) in enumerate(PAIRS)]
    made = distil(pairs, student="test_efficientnet", quiet=True, **NAMED, **SMALL)
    assert (made.image_spec.dtype, made.classes) == ("uint16", ("0", "1"))
    assert repr(made).startswith("Distilled(test_efficientnet, binary: 0, 1, test AUROC ")
    with pytest.raises(UserError, match="image 0 holds uint8, expected uint16"):
        made.predict([PAIRS[0][0]])


def test_a_folder_is_only_saved_over_what_was_saved_before(own: tuple[Distilled, Path], place: Path) -> None:
    made, _ = own
    made.save("student")
    with pytest.raises(UserError, match="folder student is not empty; add overwrite"):
        made.save("student")
    made.save("student", overwrite=True)
    (place / "student-images" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds what none of our commands wrote: mine\.txt"):
        made.save("student", overwrite=True)
    (place / "other-images").mkdir()
    (place / "other-images" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="other-images is not empty"):
        made.save("other")
    assert not (place / "other").exists()
    assert sorted(path.name for path in (place / "other-images").iterdir()) == ["mine.txt"]
    with pytest.raises(UserError, match="lies inside"):
        made.save("student/inside")


def spoil_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = read_json(folder / "config.json")
    change(config["rd"]["model"])
    write_json(folder / "config.json", config)


def evil_program(folder: Path) -> None:
    """The same program, in which an operator became a call of the operating system."""
    with zipfile.ZipFile(folder / "network.pt2") as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(folder / "network.pt2", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content.replace(b"torch.ops.aten.relu.default", b"os.system"))


def other_program(folder: Path, body: nn.Module, dynamic: bool = True, side: int = 32) -> None:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    program = torch.export.export(body.eval(), (torch.zeros(2, 3, side, side),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "network.pt2")


@pytest.mark.parametrize(("spoil", "told"), [
    (lambda folder: spoil_config(folder, lambda model: model.update(arch="program/../../etc")), "expected a plain name"),
    (lambda folder: spoil_config(folder, lambda model: model.update(arguments={"features": 16, "file": "x"})), "width of its features"),
    (lambda folder: spoil_config(folder, lambda model: model.update(arguments={"features": -1})), "width of its features"),
    (lambda folder: spoil_config(folder, lambda model: model.update(arguments={"features": 17})), r"expected \(2, 17\)"),
    (lambda folder: spoil_config(folder, lambda model: model.update(cuts={"shapes": {"a": [1]}})), "comes with cuts"),
    (lambda folder: spoil_config(folder, lambda model: model.update(arch="resnet18", arguments={})), "does not fit resnet18"),
    (lambda folder: (folder / "network.pt2").unlink(), r"lacks network\.pt2"),
    (lambda folder: (folder / "network.pt2").write_bytes(b"PK"), r"is not a torch\.export program"),
    (evil_program, "a call of 'os.system'"),
    (lambda folder: other_program(folder, nn.Conv2d(3, 16, 3)), r"answers a tensor of shape \(2, 16, 30, 30\)"),
    (lambda folder: other_program(folder, nn.Flatten(), dynamic=False), "fixed batch of 2"),
    (lambda folder: other_program(folder, nn.Flatten(), side=16), "takes 16x16 pixels, expected 32x32"),
    (lambda folder: other_program(folder, nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())), "does not fit"),
])
def test_a_folder_whose_network_is_another_ends_in_a_sentence(
        own: tuple[Distilled, Path], place: Path, spoil: Callable[[Path], Any], told: str) -> None:
    folder = copy_of(own[1], place / "spoilt")
    spoil(folder)
    with pytest.raises(UserError, match=told):
        load_checkpoint(sealed(folder))


def test_a_network_of_ones_own_is_made_from_its_folder_alone() -> None:
    with pytest.raises(UserError, match="only its folder holds"):
        build_model(ModelSpec("program/Net", 32, 32, "binary", ("no", "yes"), {"features": 16}))
    with pytest.raises(UserError, match="no network is called"):
        distil(PAIRS, student="program/Net", method="vanilla", **SMALL)


def teacher_of(net: Any, mean: Any = HALF, std: Any = HALF, size: Any = 32, **more: Any) -> Callable[[], Any]:
    return lambda: distil(PAIRS, teacher=TeacherNetwork(net, mean, std, size, **more), student="test_efficientnet", **SMALL)


def student_of(net: Any, features: str | None = None, **more: Any) -> Callable[[], Any]:
    return lambda: distil(PAIRS, student=StudentNetwork(net, features), **{**NAMED, **SMALL, **more})


def given(*pairs: Any, **more: Any) -> Callable[[], Any]:
    return lambda: distil([*pairs, *PAIRS], student="test_efficientnet", **{"method": "vanilla", **SMALL, **more})


IMAGE = PAIRS[0][0]
REFUSED: list[tuple[str, Callable[[], Any], str]] = [
    ("an unknown setting", lambda: distil(PAIRS, epoch=3), "no setting 'epoch'; did you mean epochs?"),
    ("an unknown setting like none", lambda: distil(PAIRS, zzz=3), "dashes as underscores"),
    ("a setting of another type", lambda: distil(PAIRS, epochs="3"), "distil: epochs is '3', expected a whole number"),
    ("a word that is none", lambda: distil(PAIRS, method="rdd"), "method is 'rdd', expected one of rd, drd"),
    ("a setting out of range", lambda: distil(PAIRS, bank_views=-1), "^bank_views -1 must not be negative"),
    ("settings that contradict", lambda: distil(PAIRS, method="vanilla", views="tied"), "^views tied needs a bank; method vanilla"),
    ("a place", lambda: distil(PAIRS, out="x"), r"takes no out: keep the result with \.save"),
    ("going on", lambda: distil(PAIRS, resume=True), "takes no resume"),
    ("adapting", lambda: distil(PAIRS, adapt="lora"), "rd-adapt"),
    ("a bare teacher", lambda: distil(PAIRS, teacher=Net()), "teacher is a bare Net"),  # type: ignore[arg-type]
    ("a bare student", lambda: distil(PAIRS, student=Net()), "student is a bare Net"),  # type: ignore[arg-type]
    ("a number as teacher", lambda: distil(PAIRS, teacher=3), "teacher is int"),  # type: ignore[arg-type]
    ("no data", lambda: distil([]), "data is empty"),
    ("None as data", lambda: distil(None), "data is NoneType"),
    ("an iterator as data", lambda: distil(iter(PAIRS)), "data is list_iterator, expected a path, or pairs"),  # type: ignore[arg-type]
    ("a mapping as data", lambda: distil({0: PAIRS[0]}), "data is dict, expected a path, or pairs"),
    ("a data set with other keys", lambda: distil(Keyed()), "item 0 of data cannot be had"),
    ("images alone", lambda: distil([IMAGE, IMAGE]), "item 0 of data is ndarray, expected a pair"),
    ("a path that is not there", lambda: distil("nowhere.csv", **NAMED), "data nowhere.csv does not exist"),
    ("splits of a path", lambda: distil("phantom", splits=["train"]), "splits and patients are about images in memory"),
    ("a column of images in memory", lambda: distil(PAIRS, label="x"), "label names a column"),
    ("fractions", given((IMAGE / 255, "no")), r"image 0 holds float64; levels are never scaled silently"),
    ("wide integers", given((IMAGE.astype(np.int64), "no")), "image 0 holds int64, expected raw grey levels"),
    ("channels first", given((np.zeros((3, 32, 32), np.uint8), "no")), "channels first"),
    ("a row of an image", given((IMAGE[0], "no")), r"has shape \(32, 1\), expected"),
    ("four channels", given((np.zeros((32, 32, 4), np.uint8), "no")), "1 or 3 channels"),
    ("16-bit colour", given((np.zeros((32, 32, 3), np.uint16), "no")), "16-bit colour"),
    ("two depths", given((IMAGE.astype(np.uint16), "no")), "8-bit and 16-bit images are mixed"),
    ("no label that a table can hold", given((IMAGE, "N/A")), "label 'N/A' of image 0 would be read as no label"),
    ("two labels in one", given((IMAGE, "no|yes")), "would be read as the findings no, yes"),
    ("a number as a word", given((IMAGE, 0.5)), "label 0.5 of image 0 is float"),
    ("an empty label", given((IMAGE, " ")), "give None where there is no label"),
    ("a hidden letter", given((IMAGE, "a\nb")), "label of image 0: class"),
    ("findings among classes", given((IMAGE, {"x": 1, "y": 0})), "expected one form for all images"),
    ("one finding", lambda: distil([(image, {"x": row % 2}) for row, (image, _) in enumerate(PAIRS)]), "labels 0 and 1"),
    ("a finding that is a column", lambda: distil([(image, {"x": row % 2, "sex": row % 3 % 2}) for row, (image, _) in enumerate(PAIRS)]),
     "finding '.*' would not be read as one"),
    ("a finding with the name of ours", given((IMAGE, {"split": 1})), "is no name for one"),
    ("a finding of more than 0 and 1", given((IMAGE, {"x": 2})), "finding 'x' of image 0 is 2, expected 0, 1, or None"),
    ("a short split", given((IMAGE, "no"), splits=["train"]), "splits has 1 entries for 49 images"),
    ("a split of no word", lambda: distil(PAIRS, splits=["foo"] * len(PAIRS), **NAMED), "expected train, val or test"),
    ("a patient in two splits", lambda: distil(PAIRS, splits=SPLIT, patients=[1] * len(PAIRS), **NAMED), "in more than one split"),
    ("a teacher that is no module", teacher_of("net"), "TeacherNetwork.* is str, expected a torch.nn.Module"),
    ("two means", teacher_of(Tokens(), mean=(0.5, 0.5)), "expected three numbers"),
    ("a std of zero", teacher_of(Tokens(), std=(0, 1, 1)), "expected three numbers above 0"),
    ("a size of text", teacher_of(Tokens(), size="32"), "is no size"),
    ("a size that does not fit", teacher_of(nn.Sequential(nn.Flatten(), nn.Linear(9, 9))), "cannot take 32x32 pixels"),
    ("a pool of no name", teacher_of(Tokens(), pool="max"), "expected auto, cls, mean, or a function"),
    ("a class token of maps", teacher_of(nn.Conv2d(3, 8, 3), pool="cls"), "no class token"),
    ("a function that leaves places", teacher_of(Tokens(), pool=lambda found: found), "expected one vector an image"),
    ("answers that are no number", teacher_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Threshold(1e9, float("nan")))), "finite numbers"),
    ("a name with a scheme", teacher_of(Tokens(), name="bank:x"), "is no plain name"),
    ("a size beside a module", lambda: distil(PAIRS, teacher=TeacherNetwork(Tokens(), HALF, HALF, 32), teacher_size=64),
     "leave teacher_size out"),
    ("a layer that is not there", student_of(Net(), "lst"), "has no module 'lst'; it has stem, first, second, last, fc"),
    ("code that fx cannot follow", student_of(Counting(), "patch"), "torch.fx cannot follow its code"),
    ("code that export cannot follow", student_of(Counting()), "torch.export cannot follow it"),
    ("a network that draws", student_of(Random()), "answers otherwise once it is exported"),
    ("a network of another size", student_of(nn.Linear(3, 3)), "cannot take 32x32 pixels"),
    ("a network that mixes images", student_of(nn.Flatten(0)), "student Flatten answers a tensor of shape"),
    ("too few stages", student_of(Net(), "last", method="drd", stages=5), "stages of more than one place, stages asks for 4"),
    ("pruning", student_of(Net(), "last", max_params="1K"), "it is not pruned; leave max_params out"),
    ("other weights", student_of(Net(), "last", student_weights="x"), "leave student_weights out"),
    ("a student that is unknown", lambda: distil(PAIRS, student="resnet181", **NAMED), "did you mean resnet18"),
]


@pytest.mark.parametrize(("call", "told"), [(call, told) for _, call, told in REFUSED], ids=[name for name, _, _ in REFUSED])
def test_what_cannot_be_is_refused_in_a_sentence_and_leaves_nothing(
        call: Callable[[], Any], told: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=told) as caught:
        call()
    assert "--" not in re.sub(r"rd-\w+ --[\w-]+", "", str(caught.value))
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "bank " not in captured.out, "refused after the bank was built"
    assert [*place.iterdir(), *Path(tempfile.gettempdir()).iterdir()] == []


@pytest.mark.parametrize(("net", "features", "width"), [(Net, "last", 16), (Net, "stem.0", 8), (Net, None, 10), (Tokens, None, 16),
                                                        (lambda: Net().bfloat16(), "last", 16)])
def test_features_are_averaged_to_one_vector(net: Callable[[], nn.Module], features: str | None, width: int) -> None:
    student = own_student(StudentNetwork(net(), features))
    assert tried(student, 32, 32) == width
    assert student.body(torch.randn(4, 3, 32, 32)).shape == (4, width)


def test_the_package_brings_its_names_without_torch() -> None:
    import distill as package

    assert {name: getattr(package, name).__name__ for name in package.PUBLIC} == {name: name for name in package.PUBLIC}
    code = "import sys, distill\nassert 'torch' not in sys.modules\nassert 'distil' in distill.PUBLIC"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
