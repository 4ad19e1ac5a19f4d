"""The programs of an artifact's README: complete and safe to paste; and, marked `embed`, run for real against the golden vectors.

`make embed` brings the npm packages and runs them. It needs node, g++ and Chromium on the PATH, and the headers of ONNX Runtime in the
folder named by RD_ORT_INCLUDE (its release, or Debian's libonnxruntime-dev). RD_EMBED_ARTIFACT names an artifact of your own to try
instead of the tests', RD_EMBED_SCREENSHOT a file for a picture of the web page.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stacked
from browser import Browser
from conftest import Case, random_images
from PIL import Image

from export.commands import export
from export.config import ExportSettings
from export.targets.listings import listing, listings
from export.targets.table import TARGETS
from runtimes.artifact.artifact import read_artifact
from runtimes.images.spec import ImageSpec
from runtimes.models.tensor_proto import read_tensor
from runtimes.session import open_session

Exported = Callable[[Case], Path]
CASES = [Case(), Case("multilabel", 3, input_size="40x56"), Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case(input="tensor")]
MODULES = Path(os.environ.get("RD_NODE_MODULES", ".venv/npm/node_modules")).resolve()
WEB = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
EVIL = ('a"b', "c\\n'd", "</script><b>", "`${x}`", "é\n", "😀", "\u202egnp", "??/")


ENGINE = {"library": "tensorrt_rtx", "version": "1.7.1", "gpus": ["sm86", "sm89"], "batches": [1, 8, 8]}
KINDS: dict[str, dict[str, Any]] = {
    "grey": {}, "baked, labels": {"graph_size": (40, 56), "task": "multilabel", "thresholds": (0.3, 0.5, 0.6)},
    "deep": {"image_spec": ImageSpec(32, 32, 1, "uint16", (100.0, 3000.0))}, "tensor": {"input_kind": "tensor"},
    "openvino": {"target": "openvino", "precision": "bf16", "model": "openvino_model.xml"},
    "engine": {"target": "trt", "model": "model.engine"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_of_any_kind_gets_listings_with_its_own_shapes_and_classes(exported: Exported, kind: str) -> None:
    artifact = replace(read_artifact(exported(Case())), **KINDS[kind])
    if kind == "engine":
        artifact = replace(artifact, target="trt", manifest={**artifact.manifest, "engine": ENGINE})
    text = listings(artifact, TARGETS[artifact.target].programs(artifact))
    if kind == "grey":
        assert text in (artifact.folder / "README.md").read_text()
    languages = re.findall(r"^```(\w+)$", text, re.MULTILINE)
    web = [] if kind in ("openvino", "engine") else ["javascript", "html"]
    assert languages == ["python", "python", *web, "cpp"]
    assert len(blocks(text, "python")[0].strip().splitlines()) == 6
    for code in blocks(text, "python"):
        ast.parse(code)
    height, width = artifact.graph_size
    for language in languages[2:]:
        (code,) = blocks(text, language)
        assert re.search(rf"\b{height}\b.*\b{width}\b", code), language
        assert all(json.dumps(name) in code for name in artifact.classes), language
    assert ("sm86, sm89" in text) == (kind == "engine")
    assert "openvino_model.xml" in text or kind != "openvino"


def test_names_of_classes_cannot_break_out_of_a_listing(exported: Exported) -> None:
    artifact = replace(read_artifact(exported(Case())), classes=EVIL)
    for name in ("onnxruntime.py.txt", "runtimes.py.txt"):
        tree = ast.parse(listing(name, artifact))
        found = [ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.List) and len(node.elts) == len(EVIL)]
        assert found == ([list(EVIL)] if name.startswith("onnx") else [])
    page = listing("web.html.txt", artifact)
    assert page.count("</script>") == 1
    assert list(EVIL) == json.loads(re.search(r"classes = (\[.*?\]), \[H", page)[1])  # type: ignore[index]
    assert r'"a\"b", "c\\n' in listing("onnxruntime.cpp.txt", artifact)


# ---- for real -----------------------------------------------------------------------------------------------------------------------

def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block(folder: Path, language: str) -> str:
    """The first program of a language in an artifact's README."""
    return blocks((folder / "README.md").read_text(), language)[0]


def tool(*names: str) -> str:
    found = next((place for name in names if (place := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is on the PATH")
    return found


def package(name: str) -> Path:
    if not (MODULES / name).is_dir():
        pytest.skip(f"npm package {name} is not in {MODULES}; make embed installs it")
    return MODULES / name


def asked(exported: Exported, case: Case) -> tuple[Path, list[np.ndarray], np.ndarray]:
    """An artifact, raw images for it, and what it must answer: PyTorch's golden probabilities, or of a tensor graph its logits."""
    own = os.environ.get("RD_EMBED_ARTIFACT")
    if own and case != CASES[0]:
        pytest.skip("RD_EMBED_ARTIFACT is tried once")
    folder = Path(own).resolve() if own else exported(case)
    artifact = read_artifact(folder)
    if artifact.input_kind == "tensor":
        raw = random_images(case, 4)
        return folder, raw, open_session(folder).run(np.stack(raw)).logits
    golden = [read_tensor(artifact.golden / name) for name in ("input_0.pb", "output_1.pb")]
    return folder, list(golden[0][:4]), golden[1][:4]


def answers(text: str, classes: tuple[str, ...]) -> np.ndarray:
    told = dict(line.split("\t") for line in text.splitlines() if "\t" in line)
    assert tuple(told) == classes
    return np.asarray([float(value) for value in told.values()])


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def decided(folder: Path, raw: np.ndarray, text: str) -> bool:
    """Whether a program's last line names what a session decides; a tensor graph of several labels names nothing."""
    label = open_session(folder).run(raw).labels[0]
    wanted = set(label if isinstance(label, list) else [label])
    return set(re.split(r"[\s,]+", text.rsplit("decided:", 1)[1].strip())) - {"none", ""} == wanted


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    stacked.write(root / "student", stacked.SPEC)
    settings = ExportSettings(student_dir=root / "student", out=root / "artifact", samples=5, golden_images=8)
    assert export(settings, "", lambda checkpoint: stacked.image_set()) == 0
    return root / "artifact"


@pytest.mark.embed
@pytest.mark.parametrize("case", [*CASES, Case(channels=3, precision="fp16"), Case(precision="int8")], ids=str)
def test_node_answers_with_the_golden_probabilities(exported: Exported, tmp_path: Path, case: Case) -> None:
    package("onnxruntime-node")
    folder, images, wanted = asked(exported, case)
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / folder_name(folder)).symlink_to(folder)
    (tmp_path / "classify.mjs").write_text(block(folder, "javascript"))
    for image, expected in zip(images, wanted, strict=True):
        (tmp_path / "image.raw").write_bytes(image.tobytes())
        said = run(tool("node"), "classify.mjs", "image.raw", cwd=tmp_path)
        assert np.abs(answers(said, read_artifact(folder).classes) - expected).max() < within(case)
        assert decided(folder, image, said)


@pytest.mark.embed
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpp_on_onnx_runtime_answers_with_the_golden_probabilities(exported: Exported, tmp_path: Path, case: Case) -> None:
    folder, images, wanted = asked(exported, case)
    program = built_on_ort(folder, tmp_path)
    for image, expected in zip(images, wanted, strict=True):
        (tmp_path / "image.raw").write_bytes(image.tobytes())
        said = run(program, "image.raw", cwd=tmp_path)
        assert np.abs(answers(said, read_artifact(folder).classes) - expected).max() < within(case)
        assert decided(folder, image, said)
    (tmp_path / "image.raw").write_bytes(b"short")
    assert subprocess.run([program, "image.raw"], cwd=tmp_path, capture_output=True, check=False).returncode == 1


@pytest.mark.embed
@pytest.mark.parametrize("language", ["python", "javascript", "cpp"])
def test_volumes_answer_with_the_golden_probabilities(volumes: Path, tmp_path: Path, language: str) -> None:
    artifact = read_artifact(volumes)
    slices, mask, wanted = (read_tensor(artifact.golden / f"{name}.pb") for name in ("input_0", "input_1", "output_1"))
    (tmp_path / "artifact").symlink_to(volumes)
    for row in range(3):
        there = slices[row][:int(mask[row].sum())]
        (tmp_path / "slices.raw").write_bytes(there.tobytes())
        if language == "python":
            np.save(tmp_path / "slices.npy", there)
            code = blocks((volumes / "README.md").read_text(), "python")[1]
            found = np.asarray(list(ast.literal_eval(run(sys.executable, "-c", code, cwd=tmp_path)).values()))
        elif language == "javascript":
            package("onnxruntime-node")
            (tmp_path / "node_modules").unlink(missing_ok=True)
            (tmp_path / "node_modules").symlink_to(MODULES)
            (tmp_path / "classify.mjs").write_text(block(volumes, language))
            found = answers(run(tool("node"), "classify.mjs", "slices.raw", cwd=tmp_path), artifact.classes)
        else:
            found = answers(run(built_on_ort(volumes, tmp_path), "slices.raw", cwd=tmp_path), artifact.classes)
        assert np.abs(found - wanted[row]).max() < 1e-4


@pytest.mark.embed
def test_cpp_on_openvino_answers_with_the_golden_probabilities(exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    case = Case(target="openvino", precision="bf16")
    folder = exported(case)
    home = Path(find_spec("openvino").origin).parent  # type: ignore[union-attr, arg-type]
    library = next((home / "libs").glob("libopenvino.so.*"))
    (tmp_path / folder_name(folder)).symlink_to(folder)
    (tmp_path / "classify.cpp").write_text(block(folder, "cpp"))
    run(tool("g++"), "-std=c++17", "-O1", "classify.cpp", "-I", home / "include", library, f"-Wl,-rpath,{home / 'libs'}", "-o", "classify",
        cwd=tmp_path)
    images, wanted = (read_tensor(folder / "test_data_set_0" / name) for name in ("input_0.pb", "output_1.pb"))
    for image, expected in zip(images[:4], wanted[:4], strict=True):
        (tmp_path / "image.raw").write_bytes(image.tobytes())
        said = run(tmp_path / "classify", "image.raw", cwd=tmp_path)
        assert np.abs(answers(said, read_artifact(folder).classes) - expected).max() < within(case)


def built_on_ort(folder: Path, work: Path) -> Path:
    """The C++ listing of an artifact, compiled with warnings as errors and linked with the library that pip's onnxruntime brings."""
    headers = os.environ.get("RD_ORT_INCLUDE", "")
    if not (Path(headers) / "onnxruntime_cxx_api.h").is_file():
        pytest.skip("RD_ORT_INCLUDE names no folder with onnxruntime_cxx_api.h (ONNX Runtime's release, or Debian's libonnxruntime-dev)")
    library = next((Path(find_spec("onnxruntime").origin).parent / "capi").glob("libonnxruntime.so*"))  # type: ignore[union-attr, arg-type]
    if not (work / folder_name(folder)).exists():
        (work / folder_name(folder)).symlink_to(folder)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # the name to link with and the name to load
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(library)
    (work / "classify.cpp").write_text(block(folder, "cpp"))
    run(tool("g++"), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "classify.cpp", "-isystem", headers, "-L", work, "-lonnxruntime",
        f"-Wl,-rpath,{work}", "-o", "classify", cwd=work)
    return work / "classify"


def folder_name(folder: Path) -> str:
    return str(read_artifact(folder).manifest["settings"]["out"])


def within(case: Case) -> float:
    """How far another build of a runtime may be from the golden probabilities."""
    return {"fp32": 1e-4, "fp16": 5e-3, "bf16": 2e-2, "int8": 3e-2}[case.precision]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder at an address of this machine."""
    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.embed
@pytest.mark.parametrize("case", [*CASES, Case(channels=3)], ids=str)
def test_a_browser_answers_with_the_golden_probabilities_and_asks_nobody_else(exported: Exported, tmp_path: Path, case: Case) -> None:
    chromium, dist = tool("chromium", "chromium-browser", "google-chrome"), package("onnxruntime-web") / "dist"
    folder, images, wanted = asked(exported, case)
    artifact = read_artifact(folder)
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(block(folder, "html"))
    for file in (folder / "model.onnx", *(dist / name for name in WEB)):
        shutil.copy(file, site)
    with served(site) as address:
        page = Browser(chromium, tmp_path / "profile")
        try:
            page.call("Page.navigate", url=address)
            page.wait("document.getElementById('state')?.textContent === 'choose an image'")

            def look(file: Path) -> np.ndarray:
                page.choose("#file", file)
                page.wait("!['choose an image', 'looking'].includes(document.getElementById('state').textContent)")
                assert page.value("document.getElementById('state').textContent") == "done", page.value("document.body.innerText")
                rows = page.value("[...document.querySelectorAll('tr')].map((row) => [row.cells[0].textContent, row.dataset.probability, "
                                  "row.className])")
                page.value("document.getElementById('state').textContent = 'looking'")
                assert tuple(name for name, *_ in rows) == artifact.classes
                label = open_session(folder).run(str(file) if file.suffix == ".png" else images[0]).labels[0]
                assert [name for name, _, mark in rows if mark] == (label if isinstance(label, list) else [label])
                return np.asarray([float(value) for _, value, _ in rows])

            for place, (image, expected) in enumerate(zip(images, wanted, strict=True)):
                if artifact.input_kind == "tensor":
                    expected = open_session(folder).run(image).probabilities[0]
                file = tmp_path / f"{place}.{'raw' if image.dtype == np.uint16 else 'png'}"
                if image.dtype == np.uint16:
                    file.write_bytes(image.tobytes())
                    images[0] = image
                else:
                    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(file)
                assert np.abs(look(file) - expected).max() < 1e-4
            if image.dtype == np.uint8 and not artifact.baked:  # an image of another size, in colour: the page's own resize and luma
                Image.fromarray(random_images(Case(channels=3), 1, ((131, 77),))[0]).save(tmp_path / "large.png")
                expected = open_session(folder).run(str(tmp_path / "large.png")).probabilities[0]
                assert np.abs(look(tmp_path / "large.png") - expected).max() < 5e-3
            if (drawn := os.environ.get("RD_EMBED_SCREENSHOT")) and case == CASES[0]:
                look(tmp_path / "0.png")
                page.value("document.getElementById('state').textContent = 'done'")
                page.draw(Path(drawn))
            assert page.asked
            assert all(url.startswith((address, "blob:", "data:", "about:")) for url in page.asked), page.asked
        finally:
            page.close()
