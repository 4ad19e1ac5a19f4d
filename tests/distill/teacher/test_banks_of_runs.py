"""Whose features a run learns from: banks reused, refused and audited, teachers from programs and from folders of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Body, write_program
from runs import refused, run, tree

from distill.networks.checkpoint import load_checkpoint
from distill.teacher import teaching
from runtimes.errors import USAGE
from runtimes.files.folder import read_manifest

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_a_second_run_reuses_the_bank_and_another_setting_of_it_builds_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out=Path("one"), epochs=1) == 0
    assert ", through PyTorch" in capsys.readouterr().out
    banks = sorted(path.name for path in Path("banks").iterdir() if not path.name.startswith("."))
    assert len(banks) == 1
    before = tree(Path("banks") / banks[0])
    assert run(out=Path("two"), epochs=1, method="kd", seed=5) == 0
    said = capsys.readouterr().out
    assert "found: 16 images x 2 views + 24" in said
    assert "smallest cosine to a live teacher 1.0000" in said or "smallest cosine to a live teacher 0.9999" in said
    assert tree(Path("banks") / banks[0]) == before
    assert run(out=Path("three"), epochs=1, method="kd", bank_seed=1) == 0
    assert len([path for path in Path("banks").iterdir() if not path.name.startswith(".")]) == 2


def test_a_named_bank_that_does_not_fit_is_refused_and_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bank=Path("held"), epochs=1, method="kd") == 0
    capsys.readouterr()
    other: dict[str, Any] = {"out": Path("other"), "bank": Path("held"), "method": "kd"}
    assert "is stale: seed is 0, this run needs 1" in refused(1, **other, bank_seed=1)
    assert "is stale: teacher_hash is" in refused(1, **other, teacher="test_efficientnet")
    assert "is stale: preprocessing is" in refused(1, **other, teacher_size=48)
    assert "is stale: views is" in refused(1, **other, flip=False)
    assert "holds fewer views than 3 for 16 training images" in refused(1, **other, bank_views=3)
    assert "lacks" in refused(1, **other, phantom_images=(17, 12, 12))
    shard = next(Path("held").glob("features-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
    assert "other bytes than the manifest says" in refused(1, **other)


def test_a_bank_alone_teaches_without_its_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bank=Path("held"), epochs=1, out=Path("one")) == 0
    capsys.readouterr()
    alone: dict[str, Any] = {"teacher": "bank:held", "teacher_weights": None, "teacher_size": None, "epochs": 1}
    assert run(**alone, out=Path("two")) == 0
    assert "no teacher at hand, so no audit" in capsys.readouterr().out
    assert tree(Path("one"))["model.safetensors"] == tree(Path("two"))["model.safetensors"]
    assert read_manifest(Path("two"), "student")["parents"]["teacher"] == read_manifest(Path("one"), "student")["parents"]["teacher"]
    assert "leave --teacher-size out" in refused(USAGE, **(alone | {"teacher_size": 64}), out=Path("three"))
    assert "views is" in refused(1, **alone, flip=False, out=Path("three"))  # the bank shows mirror images
    assert "seed is" in refused(1, **alone, views="tied", bank_seed=3, out=Path("three"))
    assert "does not exist" in refused(1, **(alone | {"teacher": "bank:gone"}), out=Path("three"))


def test_a_bank_of_another_teacher_is_caught_by_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = teaching.choose_forward

    def wrong(*arguments: Any, **named: Any) -> Any:
        forward, name = real(*arguments, **named)
        return lambda pixels: {"pooled": forward(pixels)["pooled"].flip(1)}, name

    monkeypatch.setattr(teaching, "choose_forward", wrong)
    assert "does not match its teacher" in refused(1, audit=0.1)


def test_an_exported_program_teaches(tmp_path: Path) -> None:
    write_program(tmp_path / "body.pt2", Body())
    assert run(teacher="body.pt2", teacher_size=None, teacher_weights=None, epochs=1, method="kd") == 0
    assert read_manifest(Path("student"), "student")["teacher"] == "body.pt2"


def test_a_student_folder_teaches_the_next_student() -> None:
    assert run(method="vanilla", epochs=1, out=Path("first")) == 0
    assert run(teacher="first", teacher_size=None, teacher_weights=None, epochs=1) == 0
    manifest = read_manifest(Path("student"), "student")
    assert manifest["teacher"] == "first"
    assert len(manifest["parents"]["teacher"]) == 64


def test_a_student_that_starts_from_another_takes_its_statistics_and_its_body() -> None:
    assert run(method="vanilla", epochs=1, out=Path("first"), student="test_vit") == 0
    assert run(method="vanilla", epochs=1, lr=1e-12, student="test_vit", student_weights="first", seed=9) == 0
    first, second = (load_checkpoint(Path(name)) for name in ("first", "student"))
    assert second.image_spec == first.image_spec
    body = {name: value for name, value in first.model.net.state_dict().items() if not name.startswith("head.")}
    found = second.model.net.state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in body.items())
    shard = Path("first/model.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    assert "is not what was written" in refused(1, method="vanilla", student="test_vit", student_weights="first", out=Path("third"))
