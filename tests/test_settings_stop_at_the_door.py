"""Law 8: a command's settings stop at the command; everything below takes flat values, or a small group of its own."""

from __future__ import annotations

import ast

import pytest
from places import ROOT

COVERED = ("distill", "export", "runtimes")
SETTINGS = {"DistillSettings", "AdaptSettings", "ExportSettings", "BenchSettings", "VerifySettings"}
# Where a command is: whole modules, or the one function that it enters by. The methods of the settings themselves take `self`.
COMMANDS = {"distill/commands.py", "distill/dry_run.py", "distill/adaptation/adapt.py:adapt", "distill/adaptation/adapt.py:_adapt",
            "distill/settings/distill.py:contradictions", "export/commands.py", "export/cli.py", "runtimes/bench/cli.py", "runtimes/cli.py",
            "runtimes/bench/command.py:bench", "runtimes/bench/soak.py:soak"}


def takers(file: str, tree: ast.AST) -> list[str]:
    """Functions of a file outside the commands with a parameter that is annotated with the settings of a command."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            name = getattr(node, "name", "lambda")
            notes = [parameter.annotation for parameter in parameters if parameter is not None and parameter.annotation is not None]
            words = {part.value if isinstance(part, ast.Constant) else part.id if isinstance(part, ast.Name) else
                     part.attr if isinstance(part, ast.Attribute) else "" for note in notes for part in ast.walk(note)}
            if {str(word).strip().split(".")[-1] for word in words} & SETTINGS and not {file, f"{file}:{name}"} & COMMANDS:
                found.append(f"{file}:{name}")
    return found


@pytest.mark.parametrize("package", COVERED)
def test_no_function_below_a_command_takes_its_settings(package: str) -> None:
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py"))
    assert [line for file in files for line in takers(file, ast.parse((ROOT / file).read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize("code", ["def f(a: ExportSettings): ...", "def f(*, a: BenchSettings | None = None): ...",
                                  "def f(a: 'ExportSettings'): ...", "def f(a: config.ExportSettings): ...",
                                  "class A:\n    def f(self, *a: VerifySettings): ...",
                                  "def g():\n    async def f(a: list[AdaptSettings]): ..."])
def test_the_check_of_settings_can_fail(code: str) -> None:
    assert takers("export/new.py", ast.parse(code)) == ["export/new.py:f"]
    assert takers("runtimes/bench/command.py", ast.parse(code.replace(" f(", " bench("))) == []
