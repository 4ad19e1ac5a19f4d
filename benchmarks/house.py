"""The house in figures: files a wing, imports between wings, functions that take a command's settings, lines of the README.

Owns: counting, read off the source alone (ast). Does not own: the laws (tests/test_architecture.py). --root names another checkout,
such as an earlier one to compare with.

    python -m benchmarks.house
    python -m benchmarks.house --root ../earlier
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from pathlib import Path

PACKAGES = ("distill", "export", "runtimes", "benchmarks")


def wing_of(parts: tuple[str, ...]) -> str:
    """The wing of a module by the parts of its path: its folder within the package, or the package itself."""
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def modules(root: Path) -> dict[str, tuple[str, ast.Module]]:
    """Every module of the packages by its dotted name: its wing and its tree."""
    held = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] != "__init__":
                held[".".join(parts)] = (wing_of(parts), ast.parse(path.read_text(encoding="utf-8")))
    return held


def arrows(held: dict[str, tuple[str, ast.Module]]) -> Counter[tuple[str, str]]:
    """How many imports run from one wing to another; those within a wing stand under (wing, wing)."""
    counts: Counter[tuple[str, str]] = Counter()
    for wing, tree in held.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module] if node.module in held else [f"{node.module}.{name.name}" for name in node.names]
                counts.update((wing, held[name][0]) for name in names if name in held)
    return counts


def takers(held: dict[str, tuple[str, ast.Module]]) -> list[str]:
    """Functions with a parameter that is annotated with the settings of a command."""
    found = []
    for name, (_, tree) in held.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                notes = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs) if argument.annotation is not None]
                words = " ".join(ast.unparse(note) for note in notes)
                if any(f"{kind}Settings" in words for kind in ("Distill", "Adapt", "Export", "Bench", "Verify")):
                    found.append(f"{name}.{node.name}")
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    root = parser.parse_args().root
    held = modules(root)
    counts = arrows(held)
    print("| wing | files | imports within | imports of other wings | which |\n|---|---|---|---|---|")
    for wing, files in Counter(wing for wing, _ in held.values()).items():
        others = {end: count for (start, end), count in counts.items() if start == wing and end != wing}
        print(f"| {wing} | {files} | {counts[wing, wing]} | {sum(others.values())} | {', '.join(sorted(others))} |")
    settings = takers(held)
    print(f"\n{len(settings)} functions take a command's settings: {', '.join(settings)}")
    lines = len((root / "README.md").read_text(encoding="utf-8").splitlines())
    print(f"README.md has {lines:,} lines")


if __name__ == "__main__":
    main()
