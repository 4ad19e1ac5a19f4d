"""What leaves the house: a word planted wherever a user can put one stands in no byte of an artifact."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Case, image_set, write_student
from hypothesis import given
from hypothesis import strategies as st

from distill.teacher.public_names import OWN_DATA, OWN_TEACHER, public_data, public_teacher
from export.commands import export
from export.config import ExportSettings
from runtimes.files.folder import read_json, write_manifest

WORD = "JOHNDOE"


def parts(data: bytes) -> Iterator[bytes]:
    """A file's bytes, and those of every member where it is an archive."""
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from parts(archive.read(name))


def tellers(folder: Path, word: str = WORD) -> list[str]:
    """Files of a folder whose name or bytes hold a word, in one byte a letter or two, in any case."""
    spellings = [text.encode(code) for text in (word, word.lower()) for code in ("utf-8", "utf-16-le")]
    return [path.name for path in sorted(folder.rglob("*")) if word in path.name or (
        path.is_file() and any(one in part for part in parts(path.read_bytes()) for one in spellings))]


def planted(root: Path) -> tuple[Path, ExportSettings, str]:
    """A student whose every record names a patient, the settings of its export, and the command as it would be typed."""
    folder = root / f"ward {WORD}" / f"student-{WORD}"
    write_student(folder, Case())
    where = f"ward/{WORD}/l.csv"
    write_manifest(folder, "student", {
        "command": f"rd-distill --data={where} --out {folder}", "parents": {"teacher": WORD, "images": "0" * 64, WORD: WORD},
        "settings": {"data": where, "teacher": f"hf:ward/{WORD}", "student_weights": f"~/{WORD}.pth", "bank": f"banks/{WORD}",
                     "config": f"{WORD}.yaml", "out": str(folder), "latency_table": f"{WORD}.json", "label": WORD},
        "teacher": f"{WORD} with {WORD} + hf:{WORD}/net", "data": {"data": where, "form": "csv", "columns": [WORD], "counts": {WORD: 3}}})
    settings = ExportSettings(student_dir=folder, out=root / f"out {WORD}" / f"artifact-{WORD}", data=f"~/{WORD}/l.csv", samples=5,
                              config=Path(f"{WORD}.yaml"), golden_images=8)
    return folder, settings, f"rd-export --student-dir='{folder}' --data=~/{WORD}/l.csv --out '{settings.out}' --config={WORD}.yaml"


@pytest.mark.parametrize("target", ["onnx", *(pytest.param(name, marks=pytest.mark.skipif(not find_spec(library), reason=library))
                                              for name, library in (("openvino", "openvino"), ("trt", "tensorrt_rtx")))])
def test_a_word_planted_everywhere_stands_nowhere_in_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    for name in ("HOME", "USER", "LOGNAME", "HOSTNAME", "COMPUTERNAME", "RD_SIGN_PASSWORD"):
        monkeypatch.setenv(name, f"/home/{WORD}")
    folder, settings, typed = planted(tmp_path)
    images = replace(image_set(Case()), keys=tuple(f"{WORD}_{row}.png" for row in range(24)), facts={"data": typed, "notes": [WORD]},
                     groups=image_set(Case()).labels)
    gpu = ("sm86",) if target == "trt" else ()
    export(replace(settings, target=(target,), gpu=gpu), typed, lambda checkpoint: images)  # type: ignore[arg-type]
    assert tellers(folder) == ["manifest.json"], "the search sees a word where it is, and the workshop keeps its paths"
    assert settings.out is not None
    assert tellers(settings.out) == []
    assert tellers(settings.out, str(tmp_path)) == []
    manifest = read_json(settings.out / "manifest.json")
    assert manifest["artifact"]["teacher"] == f"{OWN_TEACHER} with an adapter + {OWN_TEACHER}"
    assert manifest["settings"]["out"] == f"artifact-{target}-fp32"
    assert OWN_DATA in (settings.out / "bom.cdx.json").read_text()


def test_parity_holds_neither_hash_nor_label_of_an_image_unless_pictures_are_asked_for(tmp_path: Path) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "bare", samples=5, golden_images=8)
    export(settings, "", lambda checkpoint: image_set(Case()))
    export(replace(settings, out=tmp_path / "shown", parity_pictures=3), "", lambda checkpoint: image_set(Case()))
    bare, shown = (read_json(tmp_path / name / "parity.json") for name in ("bare", "shown"))
    assert {key: value for key, value in bare.items() if key != "worst"} == {key: value for key, value in shown.items() if key != "worst"}
    assert "sha256" not in json.dumps([bare, shown])
    for kept, whole in zip(bare["worst"], shown["worst"], strict=True):
        assert set(whole) - set(kept) == {"label"}
        assert kept["pytorch"]["probabilities"] == pytest.approx(whole["pytorch"]["probabilities"], abs=0.005)
        assert all(round(value, 2) == value for value in kept["artifact"]["probabilities"])
        assert kept["pytorch"]["decision"] == whole["pytorch"]["decision"]
    pages = [(tmp_path / name / "parity.html").read_text() for name in ("bare", "shown")]
    assert "label <b>" not in pages[0]
    assert pages[1].count("label <b>") == 20
    assert [page.count("data:image/png") for page in pages] == [0, 3]


PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(PATHS, PATHS, PATHS, PATHS, PATHS)
def test_what_is_kept_of_settings_does_not_hang_on_any_path(student: str, out: str, data: str, config: str, device: str) -> None:
    plain = ExportSettings(student_dir=Path("s"), out=Path("o"), data="d", device="x y", samples=7)
    own = replace(plain, student_dir=Path(student), out=Path(f"{out}_"), data=data, config=Path(config), sign=Path(config),
                  device=f"{device} y", gpu=(f"{device} y",))
    assert own.kept() == {**plain.kept(), "gpu": ["<gpu>"]}
    assert own.kept_command().replace(" --gpu '<gpu>'", "") == plain.kept_command()


@given(st.sampled_from([("onnx",), ("openvino",)]), st.booleans(), st.integers(1, 99), st.sampled_from([None, "64x96"]))
def test_the_kept_command_is_one_that_can_be_typed(target: Any, slower: bool, samples: int, size: str | None) -> None:
    import shlex

    from runtimes.commands.flags import parse

    settings = ExportSettings(target=target, keep_slower=slower, samples=samples, sensitivity=slower, input_size=size)
    assert parse(ExportSettings, shlex.split(settings.kept_command())[1:], "rd-export").kept() == settings.kept()


@given(st.text(max_size=20))
def test_only_names_that_anybody_can_look_up_are_public(name: str) -> None:
    assert public_teacher(f"{name}/{WORD}") != f"{name}/{WORD}"
    assert WORD not in public_teacher(f"resnet18.{WORD}")
    assert public_data({"data": {"data": name, "form": "csv"}}) == OWN_DATA


def test_public_names_stay() -> None:
    for name in ("dinov2-small", "efficientnet-lite0", "resnet18", "vit_base_patch16_224", "no teacher", "none",
                 "resnet18 + efficientnet-lite2"):
        assert public_teacher(name) == name
    assert public_teacher("hf:facebook/dinov2-small", hub=True) == "hf:facebook/dinov2-small"
    assert public_teacher("hf:facebook/dinov2-small") == OWN_TEACHER, "it may have been a folder"
    assert public_teacher(f"hf:/home/{WORD}/net", hub=True) == OWN_TEACHER
    assert public_data({"data": {"data": "breastmnist", "form": "medmnist"}}) == "breastmnist"
    assert public_data({}) == OWN_DATA
