"""A .pt2 file, looked through before torch reads it: torch.export.load would unpickle, evaluate and call what the file says.

Owns: `load_program`, the list of what a program may hold (plain tensors, sizes as arithmetic, ATen operators), `image_sides`.
Does not own: whether a program fits as a teacher (teachers.py) or a student (own.py). It is a list of what is allowed, not a sandbox.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from runtimes.errors import UserError
from runtimes.files.strict_json import strict_json

# torch.export falls back to unpickling anything; this variable overrules what it asks for.
PLAIN_TENSORS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
PARTS = re.compile(r"[^/]+/(data/(weights|constants|sample_inputs)/.+|models/[^/]+\.json|archive_format|archive_version|byteorder|version"
                   r"|\.data/.+)")
OPERATORS = re.compile(
    r"(?!.*(__|from_file))torch\.ops\.(aten|prims|torchvision|quantized_decomposed)(\.\w+)+|torch\.sym_\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)|math\.(ceil|floor|sqrt|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)")
NODES = (ast.Expression, ast.Call, ast.Name, ast.Constant, ast.keyword, ast.Attribute, ast.Subscript, ast.Compare, ast.BoolOp, ast.UnaryOp,
         ast.BinOp, ast.Load, ast.cmpop, ast.boolop, ast.unaryop, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
FUNCTIONS = {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "CeilToInt",
             "FloorToInt", "TruncToInt", "IntTrueDiv", "ToFloat", "PowByNatural", "ModularIndexing", "Where", "Max", "Min", "Eq", "Ne",
             "Lt", "Le", "Gt", "Ge", "And", "Or", "Not"}
SIZES = {"size", "stride", "storage_offset", "shape"}
NAMES = re.compile(r"[a-z]+\d+|L|True|False|oo|int_oo")


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read a program written by torch.export.save; UserError where it is none, or holds more than a network."""
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # torch prints a traceback of its own before it raises
    try:
        with zipfile.ZipFile(path) as archive:
            strange = next(_strange(archive), None)
        if strange is None:
            with _plain_tensors():
                return torch.export.load(path)
    except Exception as error:  # the reader raises zip, JSON and unpickling errors alike
        raise UserError(f"{path} is not a torch.export program ({type(error).__name__}); save it with torch.export.save") from None
    finally:
        log.setLevel(level)
    raise UserError(f"{path} holds {strange}, which is more than a network and might run code; expected what torch.export.save of "
                    "PyTorch 2.9 or newer writes for one: plain weights, sizes and ATen operators")


def image_sides(program: torch.export.ExportedProgram, path: Path, channels: tuple[int, ...] = (3,)) -> tuple[int, Any, Any]:
    """Channels, height and width of the images that a program takes, the last two whole numbers or symbols.

    channels: how many it may have. UserError unless it takes a batch of any size.
    """
    inputs = [node.meta["val"].shape for node in program.graph.nodes
              if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or len(inputs[0]) != 4 or not isinstance(inputs[0][1], int) or inputs[0][1] not in channels:
        raise UserError(f"{path} takes {[tuple(map(str, shape)) for shape in inputs]}, expected one input (batch, "
                        f"{' or '.join(map(str, channels))}, h, w)")
    if not isinstance(inputs[0][0], torch.SymInt):
        raise UserError(f"{path} takes a fixed batch of {inputs[0][0]}; export it with a dynamic batch dimension")
    return inputs[0][1], inputs[0][2], inputs[0][3]


def is_arithmetic(text: Any) -> bool:
    """Whether a text is only arithmetic and comparison of sizes, such as `Mul(Integer(4), Symbol('s7'))`."""
    try:
        tree = ast.parse(str(text), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return all(_harmless(node, id(node) in called) for node in ast.walk(tree))


def _harmless(node: ast.AST, called: bool) -> bool:
    if isinstance(node, ast.Name):
        return node.id in FUNCTIONS if called else NAMES.fullmatch(node.id) is not None
    if isinstance(node, ast.Attribute):
        return node.attr in SIZES
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or (isinstance(node.value, str) and "__" not in node.value
                                                       and re.fullmatch(r"\w{1,99}", node.value) is not None)
    return isinstance(node, NODES) and not (called and isinstance(node, ast.Call | ast.Subscript))


def _strange(archive: zipfile.ZipFile) -> Iterator[str]:
    """What an archive holds that no network needs."""
    names = archive.namelist()
    if not any(name.endswith("/archive_format") for name in names):
        raise ValueError("another kind of archive")
    for name in names:
        if not PARTS.fullmatch(name) or ".." in name:
            yield f"a part {name[:80]!r}"
        elif name.endswith(".json") and "/models/" in name:
            yield from _strange_parts(strict_json(archive.read(name).decode("utf-8"), finite=False))  # torch writes -Infinity


def _strange_parts(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _strange_parts(item)
    elif isinstance(value, dict):
        for text in (value["expr_str"], ) if "expr_str" in value else value.get("guards_code") or ():
            if not is_arithmetic(text):
                yield f"the expression {str(text)[:80]!r}"
        if "target" in value and "inputs" in value and not OPERATORS.fullmatch(str(value["target"])):
            yield f"a call of {str(value['target'])[:80]!r}"
        for item in value.values():
            yield from _strange_parts(item)


@contextmanager
def _plain_tensors() -> Iterator[None]:
    before = os.environ.get(PLAIN_TENSORS)
    os.environ[PLAIN_TENSORS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PLAIN_TENSORS]
        else:
            os.environ[PLAIN_TENSORS] = before
