"""Tensors of several tasks in one folder: each stored once, told apart by shape and dtype; and the short form of --task."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.networks.checkpoint import Calibration, config_of
from distill.networks.models import ModelSpec, build_model, state_hash, weights_hash
from distill.networks.tasks import TENSORS, KeptImages, Task, TaskFolder, digest_of, own_parts, write_tasks
from distill.settings.adapt import AdaptSettings
from distill.settings.continual import check_task_name, with_task_names
from runtimes.commands.flags import parse
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec
from runtimes.scores import TASKS


def test_a_digest_tells_shapes_and_types_apart_and_not_layouts() -> None:
    zeros = torch.zeros(2, 3)
    digests = {digest_of(value) for value in (zeros, zeros.view(3, 2), zeros.flatten(), zeros.to(torch.int32), torch.zeros(2, 3, 1))}
    assert len(digests) == 5
    assert digest_of(zeros) == digest_of(torch.zeros(3, 2).T)
    assert digest_of(torch.randn(2, 3, 4, 5)) != digest_of(torch.randn(2, 3, 4, 5))
    images = torch.randn(2, 3, 4, 5)
    assert digest_of(images) == digest_of(images.to(memory_format=torch.channels_last))
    assert digest_of(torch.tensor(3)) == digest_of(torch.tensor(3))


def test_a_hash_of_a_state_is_that_of_its_module() -> None:
    model = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", ("no", "yes")))
    assert state_hash(model.net.state_dict()) == weights_hash(model.net)


def test_a_head_is_a_tasks_own_and_nothing_else_of_an_image_network() -> None:
    net = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", ("no", "yes"))).net
    own = [name for name in net.state_dict() if name.startswith(own_parts(net))]
    assert own == ["classifier.weight", "classifier.bias"]


def test_tensors_are_stored_once_and_come_back(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    shared, first, newest = torch.randn(5), torch.randn(3), {"a": torch.randn(3), "b": torch.randn(5)}
    newest["b"] = shared.clone()
    save_file(newest, tmp_path / "model.safetensors")
    spec = ModelSpec("test_efficientnet", 8, 8, "binary", ("no", "yes"))
    config = config_of(build_model(spec), ImageSpec(8, 8), Calibration())
    tasks = [Task(name, config, {}, {}, {"a": digest_of(first), "b": digest_of(shared), "c": digest_of(first)}) for name in ("one", "two")]
    pool = {digest_of(first): first, digest_of(shared): shared}
    kept = {"one": KeptImages(np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1), np.asarray([0, 1]))}
    assert write_tasks(tmp_path, tasks, "three", newest, None, pool, kept) == 12
    with safe_open(tmp_path / TENSORS, "pt") as file:
        assert set(file.keys()) == {digest_of(first)}
    whole = (*tasks, Task("three", {}, {}, {}, {name: digest_of(tensor) for name, tensor in newest.items()}))
    folder = TaskFolder(tmp_path, whole, None, {"one": 2})
    for name, tensor in folder.state(tasks[1].tensors).items():
        assert torch.equal(tensor, {"a": first, "b": shared, "c": first}[name])
    images = folder.kept("one")
    assert images is not None
    assert np.array_equal(images.levels, kept["one"].levels)
    assert np.array_equal(images.labels, kept["one"].labels)
    assert folder.kept("two") is None


@pytest.mark.parametrize(("typed", "meant"), [
    (["--task", "breast"], ["--task-name", "breast"]), (["--task=breast"], ["--task-name=breast"]),
    (["--task", "binary"], ["--task", "binary"]),
    (["--task", "x", "--task-name=x"], ["--task-name", "x", "--task-name=x"]),
    (["--task=ordinal"], ["--task=ordinal"]), (["--task", "ordinal", "--task", "x"], ["--task", "ordinal", "--task-name", "x"]),
    (["--task"], ["--task"]), ([], [])])
def test_a_task_is_named_by_the_flag_that_says_the_kind_of_labels(typed: list[str], meant: list[str]) -> None:
    assert with_task_names(typed) == meant


@given(st.lists(st.sampled_from(["--task", *TASKS, "--data", "x", "--task=binary", "--task=x"])))
def test_no_word_is_lost_and_no_kind_of_labels_is_taken_for_a_name(words: list[str]) -> None:
    spelled = with_task_names(words)
    assert len(spelled) == len(words)
    assert [word.replace("--task-name", "--task") for word in spelled] == words
    assert not any(before == "--task-name" and after in TASKS for before, after in pairwise(spelled))


@pytest.mark.parametrize("first", [["--task", "breast"], ["--task=breast"], ["--task-name", "breast"], ["--task-name=breast"]])
@pytest.mark.parametrize("second", [["--task", "chest"], ["--task=chest"], ["--task-name", "chest"], ["--task-name=chest"]])
def test_two_names_of_a_task_are_a_usage_error_whichever_flags_say_them(first: list[str], second: list[str]) -> None:
    for words in ([*first, "--task", "ordinal", *second], [*second, *first]):
        with pytest.raises(UserError, match="name 2 tasks") as caught:
            with_task_names(words)
        assert caught.value.exit_code == USAGE
    assert len(with_task_names([*first, *first])) == 2 * len(first)


def test_a_typed_task_overrides_that_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("task: breast\nepochs: 3\n")
    typed = ["--config", str(tmp_path / "settings.yaml"), "--task", "chest"]
    settings = parse(AdaptSettings, typed, "rd-adapt", spelled=with_task_names)
    assert (settings.task_name, settings.epochs, settings.task) == ("chest", 3, None)
    (tmp_path / "settings.yaml").write_text("task: breast\ntask_name: chest\n")
    with pytest.raises(UserError, match="'breast', 'chest'"):
        parse(AdaptSettings, typed[:2], "rd-adapt", spelled=with_task_names)


@pytest.mark.parametrize("kind", TASKS)
def test_a_name_near_a_kind_of_labels_is_refused_in_whole_sentences(kind: str) -> None:
    for name in (kind.capitalize(), f"-{kind}", f"{kind}s", f"{kind} 2"):
        with pytest.raises(UserError, match=f"--task {name}: did you mean {kind}, a kind of labels\\? The name") as caught:
            check_task_name(name)
        assert caught.value.exit_code == USAGE
    with pytest.raises(UserError, match=f"--task {kind}: a kind of labels cannot be the name of a task, too; choose"):
        check_task_name(kind)
