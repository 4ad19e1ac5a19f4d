"""Settings in groups that are inherited: flat flags, flat files, flat records; expert settings are parsed and stay out of --help."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from runtimes.commands.flags import parse, record
from runtimes.commands.settings import Expert, Help, settings_of
from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class Data:
    """Data: which images."""

    data: str = "phantom"
    """Folder or CSV."""
    sizes: tuple[int, ...] = (1, 2)
    """Sides in pixels."""


@dataclass(frozen=True)
class Method:
    """Method: how it learns.

    And more that no heading holds.
    """

    method: Annotated[Literal["rd", "kd"], Help("Made of the table of methods.")] = "rd"
    rate: Annotated[float, Expert] = 0.5
    """How fast."""
    flip: Annotated[bool, Expert] = True
    """Mirror
    images."""


@dataclass(frozen=True)
class Grouped(Method, Data):
    """Settings in groups."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("here")
    """Where."""
    config: Path | None = None
    """YAML file."""
    sizes: tuple[int, ...] = (3,)
    """Sides, of this command."""
    seed: int = 0
    """Of everything."""


def read(*arguments: str) -> Grouped:
    return parse(Grouped, arguments, "rd-test")


def help_of(flag: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        read(flag)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_settings_stand_group_by_group_in_the_order_of_inheritance() -> None:
    settings = settings_of(Grouped)
    assert [setting.name for setting in settings] == ["data", "sizes", "method", "rate", "flip", "folder", "config", "seed"]
    by_name = {setting.name: setting for setting in settings}
    assert {name: setting.group for name, setting in by_name.items() if name in ("data", "sizes", "rate", "seed")} == {
        "data": "Data: which images.", "sizes": "Data: which images.", "rate": "Method: how it learns.",
        "seed": "Further: of this command alone"}
    assert (by_name["sizes"].default, by_name["sizes"].explanation) == ((3,), "Sides, of this command."), "the nearest class wins"
    assert (by_name["method"].explanation, by_name["flip"].explanation) == ("Made of the table of methods.", "Mirror images.")
    assert {name for name, setting in by_name.items() if setting.expert} == {"rate", "flip"}
    assert {name for name, setting in by_name.items() if setting.positional} == {"folder"}
    assert {setting.group for setting in settings_of(Data)} == {""}


def test_flags_of_groups_are_flat_and_expert_ones_are_parsed() -> None:
    assert read() == Grouped()
    assert read("there", "--data", "a.csv", "--sizes", "4", "5", "--method", "kd", "--rate", "0.1", "--no-flip", "--seed", "2") == Grouped(
        folder=Path("there"), data="a.csv", sizes=(4, 5), method="kd", rate=0.1, flip=False, seed=2)


def test_a_file_of_settings_is_flat_whatever_group_a_key_is_of(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("folder: there\ndata: a.csv\nsizes: [4, 5]\nrate: 0.1\nflip: no\nmethod: kd\nseed: 2\n", encoding="utf-8")
    assert read("--config", str(path), "--seed", "3") == Grouped(
        folder=Path("there"), config=path, data="a.csv", sizes=(4, 5), method="kd", rate=0.1, flip=False, seed=3)
    for content, word in (("rat: 1", "did you mean rate"), ("Method: {rate: 1}", "mapping")):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=word) as caught:
            read("--config", str(path))
        assert caught.value.exit_code == USAGE


def test_the_record_is_flat_json() -> None:
    held = record(read("--sizes", "7", "--no-flip"))
    assert json.loads(json.dumps(held)) == held
    assert (held["sizes"], held["flip"], held["folder"], held["config"]) == ([7], False, "here", None)
    assert set(held) == {setting.name for setting in settings_of(Grouped)}


def test_help_hides_what_is_for_experts_and_says_that_there_is_more(capsys: pytest.CaptureFixture[str]) -> None:
    brief, whole = help_of("--help", capsys), help_of("--help-all", capsys)
    for flag in ("--data TEXT", "--sizes INT ...", "--method rd|kd", "--seed INT", "PATH [folder]"):
        assert flag in brief, flag
        assert flag in whole, flag
    for flag in ("--rate FLOAT", "--[no-]flip"):
        assert flag not in brief, flag
        assert flag in whole, flag
    assert [line for line in brief.splitlines() if line.endswith(":") and not line.startswith(" ")] == [
        "Data: which images:", "Method: how it learns:", "Further: of this command alone:"]
    assert "(default: 3)" in brief
    assert brief.splitlines()[-1].startswith("2 more flags, for experts: rd-test --help-all.")
    assert "more flags" not in whole.splitlines()[-1]


def test_a_class_whose_source_is_gone_has_no_explanations() -> None:
    kind = dataclass(type("Made", (), {"__annotations__": {"size": int}, "size": 3, "__module__": "nowhere"}))
    assert [(setting.name, setting.default, setting.explanation) for setting in settings_of(kind)] == [("size", 3, "")]
