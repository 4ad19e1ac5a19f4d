"""What commands say of themselves: usage when typed alone, help that lists what is parsed, expert flags apart, the version."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from export.config import ExportSettings
from runtimes.bench.config import BenchSettings
from runtimes.cli import VerifySettings
from runtimes.commands.flags import parse
from runtimes.commands.usage import help_page, version_line
from runtimes.info_cli import InfoSettings

COMMANDS: dict[str, tuple[str, Any]] = {
    "rd-distill": ("distill.cli", DistillSettings), "rd-adapt": ("distill.adaptation.cli", AdaptSettings),
    "rd-export": ("export.cli", ExportSettings), "rd-verify": ("runtimes.cli", VerifySettings),
    "rd-bench": ("runtimes.bench.cli", BenchSettings), "rd-info": ("runtimes.info_cli", InfoSettings)}


def command(prog: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process that must load neither the workshop's libraries nor a runtime."""
    module, _ = COMMANDS[prog]
    main = "verify_main" if prog == "rd-verify" else "main"
    code = (f"import sys\nsys.argv = [{prog!r}, *sys.argv[1:]]\nfrom {module} import {main}\n"
            f"try:\n    {main}()\nfinally:\n    assert not {{'torch', 'timm', 'onnxruntime', 'onnx', 'yaml'}} & set(sys.modules)")
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def page(kind: Any, *, every: bool) -> str:
    return help_page(kind, "rd-test", "A test.", (), every=every)


@pytest.mark.parametrize("prog", COMMANDS)
def test_a_command_typed_alone_prints_three_examples_and_starts_nothing(prog: str, tmp_path: Path) -> None:
    run = command(prog, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    examples = importlib.import_module(COMMANDS[prog][0]).EXAMPLES
    assert len(examples) == 3
    assert [line.split("   # ")[0].strip() for line in run.stdout.splitlines() if "   # " in line] == [typed for typed, _ in examples]
    assert f"{prog} --help" in run.stdout
    assert len(run.stdout.splitlines()) < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prog", COMMANDS)
def test_every_example_is_a_command_that_is_understood(prog: str) -> None:
    module, kind = COMMANDS[prog]
    for typed, _ in importlib.import_module(module).EXAMPLES:
        name, *arguments = shlex.split(typed)
        assert name == prog
        assert isinstance(parse(kind, arguments, prog), kind)


@pytest.mark.parametrize("prog", COMMANDS)
def test_help_begins_with_the_examples_and_fits_the_terminal(prog: str) -> None:
    run = command(prog, "--help")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert [line for line in lines[:6] if line.startswith(f"  {prog} ")] != []
    assert all(len(line) <= 130 for line in lines)
    assert "--version" in lines[-1]
    assert command(prog, "-h").stdout == run.stdout


@pytest.mark.parametrize("prog", COMMANDS)
def test_help_lists_exactly_the_flags_that_are_parsed(prog: str) -> None:
    script = command(prog, "--tyro-print-completion", "bash").stdout
    options = ast.literal_eval(next(line for line in script.splitlines() if line.startswith("COMPLETION_SPEC = "))[18:])["options"]
    parsed = {flag for option in options for flag in option["flags"]} - {"-h", "--help"}
    whole = page(COMMANDS[prog][1], every=True)
    listed = re.findall(r"^  --(\[no-\])?([a-z][a-z0-9-]*)", whole, re.MULTILINE)
    switches = {f"--no-{name}" for name in (flag[2:] for flag in parsed) if f"--no-{name}" in parsed}
    assert {f"--{name}" for _, name in listed} == parsed - switches
    assert {f"--no-{name}" for both, name in listed if both} <= switches


@pytest.mark.parametrize(("prog", "words", "expected"), [
    ("rd-distill", "--method", "vanilla"), ("rd-adapt", "--init", "pissa"), ("rd-export", "--precision", "fp16"),
    ("rd-verify", "--th", "--threads"), ("rd-bench", "--dead", "--deadline-ms"), ("rd-info", "--js", "--json")])
def test_a_shell_completes_flags_and_choices(prog: str, words: str, expected: str, tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "completion").write_text(command(prog, "--tyro-print-completion", "bash").stdout, encoding="utf-8")
    typed = [prog, words, ""] if expected[:2] != "--" else [prog, words]
    name = f"_tyro_{prog.replace('-', '_')}"
    ask = f'source "$0"; COMP_WORDS=("$@"); COMP_CWORD={len(typed) - 1}; {name}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    run = subprocess.run(["bash", "-c", ask, str(tmp_path / "completion"), *typed], capture_output=True, text=True, check=False)
    assert expected in run.stdout.split()
    assert command(prog, "--tyro-print-completion", "zsh").stdout.startswith(f"#compdef {prog}")


@pytest.mark.parametrize("prog", COMMANDS)
def test_the_version_is_said_without_loading_what_it_is_of(prog: str) -> None:
    run = command(prog, "--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert re.fullmatch(r"rd-distill \S+ \(Python 3\.\d+\.\d+, torch \S+\)\n", run.stdout)


def test_the_version_leaves_out_what_is_not_installed() -> None:
    def nothing(package: str) -> str:
        raise PackageNotFoundError(package)

    assert version_line(lambda package: {"rd-distill": "1.2.3"}.get(package) or nothing(package)).startswith("rd-distill 1.2.3 (Python 3.")
    assert "torch" not in version_line(nothing)
    assert "not installed as a package" in version_line(nothing)


@pytest.mark.parametrize("prog", COMMANDS)
def test_help_lists_few_enough_flags_to_be_read_and_those_of_the_examples(prog: str) -> None:
    module, kind = COMMANDS[prog]
    listed = {f"--{name}" for _, name in re.findall(r"^  --(\[no-\])?([a-z][a-z0-9-]*)", page(kind, every=False), re.MULTILINE)}
    assert len(listed) <= 35
    used = {word for typed, _ in importlib.import_module(module).EXAMPLES for word in shlex.split(typed) if word.startswith("--")}
    assert used <= listed


def test_the_help_of_rd_bench_leaves_to_experts_what_two_in_three_never_need() -> None:
    brief, whole = (page(BenchSettings, every=every) for every in (False, True))
    for flag in ("--batch", "--threads", "--deadline-ms", "--compare", "--soak-minutes"):
        assert f"  {flag} " in brief, flag
    for flag in ("--spin", "--[no-]roofline", "--noise"):
        assert f"  {flag}" not in brief, flag
        assert f"  {flag}" in whole, flag
    assert "11 more flags, for experts: rd-test --help-all" in brief


def test_a_pages_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (80, 100, 4000):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, page(BenchSettings, every=True).splitlines())) <= min(columns, 120)


def test_a_flag_behind_other_words_still_asks_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(BenchSettings, ["artifact", "--batch", "1", "--help"], "rd-bench")
    assert caught.value.code == 0
    assert "--deadline-ms" in capsys.readouterr().out
