"""Settings: defaults, then the YAML file, then flags; anything wrong is exit code 2 and names the way out; help is light."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from export.config import ExportSettings
from runtimes.bench.config import BenchSettings
from runtimes.cli import VerifySettings
from runtimes.commands.flags import config_path, parse, record, yaml_flags
from runtimes.commands.settings import settings_of
from runtimes.errors import MISSING, USAGE, UserError


def read(*arguments: str, kind: Any = DistillSettings) -> Any:
    return parse(kind, arguments, "rd-test", "A test.")


def usage(*arguments: str, kind: Any = DistillSettings) -> str:
    """The message of arguments that must end in exit code 2."""
    with pytest.raises((UserError, SystemExit)) as caught:
        read(*arguments, kind=kind)
    error = caught.value
    assert (error.exit_code if isinstance(error, UserError) else error.code) == USAGE
    return str(error)


def yaml_file(folder: Path, content: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_every_setting_has_a_default() -> None:
    assert read() == DistillSettings()
    assert read(kind=ExportSettings) == ExportSettings()


def test_a_file_wins_over_defaults_and_a_flag_over_the_file(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, {"epochs": 7, "lr": 0.01, "flip": False, "student": "resnet18", "phantom-images": [10, 5, 5],
                                "unlabelled": None})
    found = read("--config", str(path), "--epochs", "9", "--phantom-images", "20", "6", "7")
    assert found == DistillSettings(config=path, epochs=9, lr=0.01, flip=False, student="resnet18", phantom_images=(20, 6, 7))
    assert read("--epochs", "9", f"--config={path}").epochs == 9  # wherever --config stands
    assert read("--flip", "--config", str(path)).flip is True


def test_artifacts_stand_in_the_file_or_first_on_the_command_line(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, {"artifacts": ["a", "b"], "batch": [1, 8], "deadline_ms": 5, "roofline": False})
    found = read("--config", str(path), "--seconds", "2", kind=BenchSettings)
    assert found == BenchSettings((Path("a"), Path("b")), config=path, batch=(1, 8), deadline_ms=5.0, roofline=False, seconds=2.0)
    assert read("c", "--config", str(path), "--batch", "4", kind=BenchSettings).artifacts == (Path("c"),)
    one = yaml_file(tmp_path, {"artifact": "a", "threads": 2})
    assert read("--config", str(one), kind=VerifySettings) == VerifySettings(Path("a"), config=one, threads=2)


def test_a_device_without_yaml_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UserError, match="PyYAML") as caught:
        yaml_flags(BenchSettings, tmp_path / "run.yaml")
    assert caught.value.exit_code == MISSING


def test_numbers_as_yaml_and_people_write_them(tmp_path: Path) -> None:
    assert read("--config", str(yaml_file(tmp_path, "lr: 2e-3\nweight_decay: 1e-4\nsize: 64\nseed: 3\n"))).lr == 2e-3
    assert "must be above 0" in usage("--config", str(yaml_file(tmp_path, "lr: -1\n")))


@pytest.mark.parametrize(("content", "word"), [
    ("student: &a [x]\ndata: *a\n", "anchor"), ("student: &a [*a]\n", "anchor"), ("student: [[a]]", "within each other"),
    ("student: " + "[" * 500, "within each other"), ("epochs: 1\nepochs: 1\n", "twice"),
    ("bank-views: 1\nbank_views: 1\n", "once as bank-views"),
    ("student: no", "quote it"), ("task: no", "true or false"), ("flip: 'no'", "neither true nor false"), ("flip: 1", "neither"),
    ("epochs: 010", "'010' is no plain"), ("epochs: 1:30", "'1:30' is no plain"), ("epochs: 0x10", "no plain"), ("lr: .nan", "no plain"),
    ("lr: .inf", "no plain"), ("epochs: 2026-01-01", "no plain"), ("student: --overwrite", "dash"), ("student: -h", "dash"),
    ('label: "a\\0b"', "control"), ("label: |\n  a\n  b\n", "control"), ("epochs: !!python/object/apply:os.system [x]", "tag"),
    ("student: !!str no", "tag"), ("phantom_images: [1, ~, 3]", "nothing"), ("a: 1\n---\nb: 1\n", "single document"),
    ("? [a]\n: 1", "cannot|holds"),
    ("#" * 70_000, "bytes"), ("epochs: 1\x00", "cannot be read"), ("data: {a: 1}", "mapping")])
def test_what_yaml_and_a_reader_may_take_for_two_things_is_told(tmp_path: Path, content: str, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        yaml_flags(DistillSettings, yaml_file(tmp_path, content))
    assert caught.value.exit_code == USAGE
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("content", "flags"), [
    ("lr: 1e-3\nmax_params: 1_000_000\nseed: 1_000", ["--lr", "1e-3", "--max-params", "1_000_000", "--seed", "1000"]),
    ("flip: off\nskip_bad_images: yes", ["--no-flip", "--skip-bad-images"]), ("student: 'no'", ["--student", "no"]),
    ("label: 010\nout: 2026-01-01", ["--label", "010", "--out", "2026-01-01"]),
    ("volume_window: [-100, .5]", ["--volume-window", "-100", ".5"]),
    ("label: ~\nunlabelled:", []), ("\ufeffepochs: 3", ["--epochs", "3"]), ("epochs: '7'", ["--epochs", "7"])])
def test_values_stand_on_the_command_line_as_in_the_file(tmp_path: Path, content: str, flags: list[str]) -> None:
    assert yaml_flags(DistillSettings, yaml_file(tmp_path, content)) == flags


def test_words_that_a_setting_knows_are_those_words(tmp_path: Path) -> None:
    assert yaml_flags(BenchSettings, yaml_file(tmp_path, "spin: [on, off]")) == ["--spin", "on", "off"]


@given(st.text(max_size=40))
def test_any_text_as_a_file_is_flags_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        assert all(isinstance(word, str) for word in yaml_flags(DistillSettings, path))
    except UserError as error:
        assert error.exit_code == USAGE  # noqa: PT017 - either is right


def test_two_files_of_settings_are_a_usage_error() -> None:
    with pytest.raises(UserError, match="2 times"):
        config_path(["--config", "a.yaml", "--config=b.yaml"])


def test_an_empty_file_is_no_settings(tmp_path: Path) -> None:
    assert read("--config", str(yaml_file(tmp_path, "# nothing\n"))).epochs == DistillSettings().epochs


@pytest.mark.parametrize(("key", "near"), [("epoch", "epochs"), ("learning-rate", None), ("studnet", "student"), ("Student", "student"),
                                           ("config", None), ("phantom_imags", "phantom_images")])
def test_an_unknown_key_names_the_nearest(tmp_path: Path, key: str, near: str | None) -> None:
    message = usage("--config", str(yaml_file(tmp_path, {key: 3})))
    assert f"unknown setting '{key}'" in message
    if near:
        assert f"did you mean {near}?" in message


def test_an_unknown_flag_is_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    usage("--epoch-count", "3")
    assert "--epoch-count" in capsys.readouterr().err


def test_flags_are_not_guessed_from_their_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    usage("--epo", "3")
    capsys.readouterr()


@pytest.mark.parametrize("arguments", [("--epochs", "many"), ("--epochs", "1.5"), ("--method", "magic"), ("--lr", "fast"),
                                       ("--phantom-images", "3", "4"), ("--task", "regression"), ("--views", "both"), ("surplus",)])
def test_a_value_of_the_wrong_type_is_exit_code_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    usage(*arguments)
    assert capsys.readouterr().err


@pytest.mark.parametrize("content", ["epochs: many", "epochs: true", "flip: 3", "phantom_images: [1, 2]", "method: magic", "lr: [1, 2]",
                                     "student: {a: 1}"])
def test_a_wrong_value_in_the_file_is_exit_code_two(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    usage("--config", str(yaml_file(tmp_path, content)))
    capsys.readouterr()


@pytest.mark.parametrize(("content", "message"), [("- a\n- b\n", "holds list, expected"), ("just text", "holds str, expected"),
                                                  ("a: [1", "cannot be read"), ("a: 1\n\tb: 2", "cannot be read")])
def test_a_file_that_is_no_settings_is_told(tmp_path: Path, content: str, message: str) -> None:
    found = usage("--config", str(yaml_file(tmp_path, content)))
    assert message in found
    assert "run.yaml" in found


def test_a_file_that_is_missing_or_binary_is_told(tmp_path: Path) -> None:
    assert "gone.yaml cannot be read" in usage("--config", str(tmp_path / "gone.yaml"))
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in usage("--config", str(tmp_path / "run.yaml"))


def test_a_yaml_file_cannot_make_objects(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    usage("--config", str(yaml_file(tmp_path, f"student: !!python/object/apply:os.system ['touch {mark}']")))
    assert not mark.exists()


@pytest.mark.parametrize(("name", "value"), [
    ("epochs", 0), ("epochs", -1), ("batch", 0), ("batch", 1), ("labelled_batch", 0), ("lr", 0.0), ("lr", -1.0), ("lr", float("nan")),
    ("temperature", 0.0), ("bank_views", -1), ("bank_grid", -1), ("min_steps", -1), ("weight_decay", -0.1), ("kd_weight", -1.0),
    ("cka_weight", -1.0), ("teacher_weight", -1.0), ("hint_weight", -1.0), ("focal_gamma", -1.0), ("bootstrap", -1), ("seed", -1),
    ("seed", 2**64), ("bank_seed", -1), ("split_seed", -1), ("audit", 1.0), ("audit", -0.1), ("warmup", 1.0),
    ("phi_dropout", 1.0), ("ema", 1.0), ("ema", float("nan")),
    ("phantom_images", (0, 1, 1)), ("size", 8), ("size", 5000), ("teacher_size", 1), ("phantom_size", 4), ("threads", 0), ("threads", -2),
])
def test_values_outside_their_range_are_refused_by_the_flags_name(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"--{name.replace('_', '-')}") as caught:
        DistillSettings(**{name: value})
    assert caught.value.exit_code == USAGE


def test_contradictions_are_refused() -> None:
    assert "contradict" in usage("--overwrite", "--resume")
    assert "--views tied" in usage("--method", "vanilla", "--views", "tied")


values = st.fixed_dictionaries({}, optional={
    "epochs": st.integers(1, 10**6), "lr": st.floats(1e-8, 1e3), "flip": st.booleans(),
    "method": st.sampled_from(["rd", "kd", "fitnet", "vanilla"]), "size": st.none() | st.integers(16, 1024), "ema": st.floats(0, 0.99),
    "phantom_images": st.lists(st.integers(1, 99), min_size=3, max_size=3),
    "student": st.text("abcxyz0123_-", min_size=1).filter(lambda text: not text.startswith("-")), "seed": st.integers(0, 2**31),
})


@settings(max_examples=40, deadline=None)
@given(values)
def test_any_settings_survive_the_file(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = yaml_file(tmp_path_factory.mktemp("config"), content)
    found = read("--config", str(path))
    expected = DistillSettings(**{**content, "config": path, **(
        {"phantom_images": tuple(content["phantom_images"])} if "phantom_images" in content else {})})
    assert found == expected


def test_the_record_is_plain_json_of_every_setting() -> None:
    found = record(DistillSettings(out=Path("a/b"), bank=Path("c"), unlabelled=None))
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {field.name for field in dataclasses.fields(DistillSettings)}
    assert (found["out"], found["bank"], found["unlabelled"], found["phantom_images"]) == ("a/b", "c", None, None)


def test_every_setting_is_explained() -> None:
    assert yaml_flags(DistillSettings, Path("/dev/null")) == []
    for kind in (DistillSettings, AdaptSettings, ExportSettings, BenchSettings, VerifySettings):
        listed = settings_of(kind)
        assert {setting.name for setting in listed} == {field.name for field in dataclasses.fields(kind)}
        assert [setting.name for setting in listed if not setting.explanation.strip()] == []


def test_the_config_flag_is_found_in_both_forms() -> None:
    assert config_path(["--config", "a.yaml"]) == config_path(["--config=a.yaml"]) == Path("a.yaml")
    assert config_path(["--epochs", "3"]) is config_path(["--config"]) is None


@pytest.mark.parametrize("module", ["distill.cli", "export.cli"])
def test_help_loads_neither_torch_nor_timm_nor_a_runtime(module: str) -> None:
    code = (f"import sys\nsys.argv = ['rd', '--help']\nfrom {module} import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
            "heavy = {'torch', 'timm', 'onnxruntime', 'onnx', 'sklearn', 'scipy', 'matplotlib', 'transformers', 'safetensors', 'yaml'}\n"
            "print('LOADED', sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert "--seed" in done.stdout or "--student-dir" in done.stdout
    assert "--config" in done.stdout


def test_a_mistake_is_told_before_torch_is_loaded() -> None:
    code = ("import sys\nsys.argv = ['rd', '--epochs', '0']\nfrom distill.cli import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr == "error: --epochs 0 must be above 0\n"


def test_a_command_started_in_a_folder_that_is_gone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "is gone" in usage()
    monkeypatch.chdir(tmp_path)
