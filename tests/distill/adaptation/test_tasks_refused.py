"""Folders of tasks that are damaged, half there or edited, and settings that they cannot take: refused before any image is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adapted import METHODS, damaged, edited, later, refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from json_leaves import VALUES, places, replaced

from distill.adaptation import adapt as story
from distill.adaptation.continual import continual
from distill.networks.tasks import INDEX, load_task
from distill.python import distil
from distill.settings.continual import ContinualOptions
from distill.teacher.teacher import TeacherInput
from distill.teacher.teachers import check_teacher
from runtimes.errors import FAILED, USAGE, UserError
from runtimes.files.folder import read_json, read_manifest, write_manifest
from runtimes.info import folder_info


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of two tasks, with images kept of the first; whoever reads further images fails."""
    root = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(**METHODS["moe"], out=Path("one"), task_name="breast", keep_old="distil", keep_images=4)
        later("one", 1, **METHODS["moe"], out=Path("two"), task_name="chest")
        patch.setattr(story, "read_images", lambda *_: pytest.fail("images were read"))
        yield root / "two"


def first_of(content: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = content["earlier"][0]
    return entry


def exchanged(content: dict[str, Any]) -> None:
    """Two tensors of one shape in each other's places."""
    tensors = first_of(content)["tensors"]
    names = [name for name in tensors if name.endswith("attn.qkv.base.weight")]
    assert tensors[names[0]] != tensors[names[1]]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]


EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda content: first_of(content).update(config={}), r"earlier\[0\]\.config\.rd is missing"),
    (lambda content: first_of(content).update(metrics={"splits": 5}), r"earlier\[0\]\.metrics\.splits is 5, expected an object"),
    (lambda content: first_of(content)["metrics"]["splits"]["val"]["student"].update(auroc={"value": "NaN"}), "value is 'NaN', expected"),
    (lambda content: first_of(content)["record"].update(parents=7), r"earlier\[0\]\.record\.parents is 7, expected an object"),
    (lambda content: first_of(content)["record"].update(weights_hash="0" * 64), "the tensors of task breast are not the weights"),
    (lambda content: first_of(content)["config"]["rd"]["model"]["classes"].append("more"), "fit"),
    (lambda content: first_of(content)["config"]["rd"]["image"].update(height=32), "breast"),
    (lambda content: first_of(content)["tensors"].update({"norm.weight": "0" * 64}), "norm.weight of task breast is 00000000"),
    (lambda content: content["newest"]["tensors"].update({"norm.weight": "0" * 64}), "norm.weight|other bytes"),
    (lambda content: content["newest"]["tensors"].popitem(), "do not name the same tensors"),
    (exchanged, "the tensors of task breast are not the weights"),
    (lambda content: content["images"].update(breast=3), r"holds uint8 levels of shape \(4, 64, 64, 1\) of 'breast'"),
    (lambda content: content["original"]["teacher"].update(image=3), r"original\.teacher\.image is 3, expected an object"),
    (lambda content: content["original"]["teacher"]["model"].update(arch="nothing"), r"original\.teacher: timm cannot make 'nothing'"),
    (lambda content: content["original"]["teacher"]["model"].update(height="x"), r"original\.teacher\.model\.height is 'x'"),
    (lambda content: content["original"]["tensors"].popitem(), r"original\.teacher: the original does not fit")]


@pytest.mark.parametrize(("edit", "told"), EDITS)
def test_what_an_editor_left_in_the_index_is_named_with_file_and_remedy_before_any_image_is_read(
        edit: Callable[[dict[str, Any]], object], told: str, two: Path, tmp_path: Path) -> None:
    folder = damaged(two, tmp_path, edited(edit))
    with pytest.raises(UserError, match=told) as caught:
        later(folder, 2, **METHODS["moe"], out=tmp_path / "three")
    assert caught.value.exit_code == FAILED
    assert str(folder) in str(caught.value)
    assert str(caught.value).count("; make the folder again, or copy it again") == 1
    assert not (tmp_path / "three.partial").exists()


@given(data=st.data())
@settings(max_examples=60)
def test_any_value_in_any_place_of_the_index_is_a_sentence_or_a_folder_whose_every_task_opens(
        two: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "edited"
    if not folder.is_dir():
        shutil.copytree(two, folder)
    content = read_json(two / INDEX)
    every = [place for place in places(content) if "tensors" not in place[:-1]] + [
        ("newest", "tensors", "norm.weight"), ("earlier", 0, "tensors", "norm.weight"), ("original", "tensors", "norm.weight")]
    changed = replaced(content, data.draw(st.sampled_from(every)), data.draw(VALUES))
    (folder / INDEX).write_text(json.dumps(changed), encoding="utf-8", errors="surrogatepass")
    manifest = read_manifest(two, "teacher")
    write_manifest(folder, "teacher", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.adaptation.continual.say", lambda *_: None)
        try:
            tasks = continual(str(folder), ContinualOptions(), TeacherInput(), None).folder
        except UserError as error:
            assert error.exit_code in (FAILED, USAGE)  # noqa: PT017 - either is right
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            return
    assert tasks is not None
    for task in tasks.tasks:
        assert tasks.checkpoint(task.name).spec == task.spec
        assert task.auroc() is None or isinstance(task.auroc(), float)
    assert folder_info(folder).facts["tasks"], "rd-info reads it by the same rule"


@pytest.mark.parametrize("keep_old", ["experts", "none"])
@pytest.mark.parametrize(("changes", "told"), [
    ({"task_name": "chest"}, r"--task chest is there already: .*two holds 'breast', 'chest'; choose another name"),
    ({"teacher_size": 32}, r"--teacher-size 32: teacher .*two was trained at 64x64; leave it out")])
def test_what_a_folder_cannot_take_is_refused_before_any_image_is_read(changes: dict[str, Any], told: str, keep_old: str, two: Path,
                                                                       tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told) as caught:
        run(**{**METHODS["moe"], "teacher": str(two), "teacher_size": None, "teacher_weights": None, "keep_old": keep_old,
               "out": tmp_path / "three", **changes})
    assert caught.value.exit_code == USAGE


def test_two_names_of_a_task_are_refused_in_python_too() -> None:
    with pytest.raises(UserError, match="task 'breast' and task_name 'chest' name two tasks"):
        distil("phantom", task="breast", task_name="chest", quiet=True)


def test_what_is_missing_is_what_the_message_says(two: Path, tmp_path: Path) -> None:
    lost = Path(shutil.copytree(two, tmp_path / "lost"))
    (lost / INDEX).unlink()
    bare = Path(shutil.copytree(two, tmp_path / "bare"))
    (bare / "manifest.json").unlink()
    for folder, told in ((lost, f"{lost} is not what was written: {INDEX} is missing"), (bare, f"{bare} has no manifest.json"),
                         (tmp_path / "nowhere", f"{tmp_path / 'nowhere'} does not exist")):
        for task in ("breast", "chest"):
            assert told in refused(FAILED, load_task, folder=folder, name=task)
    assert f"{INDEX} is missing" in refused(FAILED, later, folder=lost, split=2, **METHODS["moe"])
    assert f"{bare} has no manifest.json" in refused(FAILED, later, folder=bare, split=2, **METHODS["moe"])
    (bare / INDEX).unlink()
    assert f"{bare} has no manifest.json" in refused(FAILED, later, folder=bare, split=2, **METHODS["moe"])
    nowhere = refused(USAGE, check_teacher, name=str(tmp_path / "nowhere"), task="breast")
    assert f"--teacher {tmp_path / 'nowhere'} is no folder" in nowhere
    assert "no folder of rd-adapt" not in nowhere
