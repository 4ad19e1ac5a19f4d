"""parity.html: self-contained, the same bytes each time, every figure of parity.json, pictures of what the network sees or none."""

from __future__ import annotations

import base64
import copy
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import Case, image_set, write_student
from PIL import Image

from export.commands import export
from export.config import ExportSettings
from export.parity.check import unlabelled
from export.parity.page import parity_page, picture, pictures_of
from runtimes.artifact.artifact import read_artifact
from runtimes.files.folder import read_json, read_manifest, sha256_file
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec

Exported = Callable[[Case], Path]
COLOUR = Case("multiclass", 3)
VOID = {"meta", "img", "br"}


def drawn(page: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in re.findall(r"data:image/png;base64,([\w+/=]+)", page)]


def addresses(page: str) -> list[str]:
    """Whatever a browser would fetch or run, and a check that tags close."""
    found, open_tags = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag in ("script", "link", "iframe", "object"):
                found.append(tag)
            found.extend(value for name, value in attributes if name in ("src", "href", "srcset") or name.startswith("on"))
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Reader().feed(page)
    assert open_tags == []
    return found


def test_every_artifact_has_the_page_with_its_hash_and_nothing_from_outside(exported: Exported) -> None:
    folder = exported(COLOUR)
    page = (folder / "parity.html").read_text()
    assert read_manifest(folder, "artifact")["files"]["parity.html"] == sha256_file(folder / "parity.html")
    fetched = addresses(page)
    assert len(fetched) == 20
    assert all(one.startswith("data:image/png;base64,") for one in fetched)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "@media (prefers-color-scheme: dark)" in page
    proof = read_json(folder / "parity.json")
    for figure in ("0 of 24", f"{proof['max_logit_difference']:.1e}", f"{proof['max_probability_difference']:.1e}", "Parity passed",
                   "100 % fp32", f"{proof['auroc_difference']:+.4f}", f"{100 * proof['flip_bound']:.2g} %"):
        assert figure in page, figure
    assert "image0" not in page, "a file name may name a patient"


def test_pictures_are_what_the_network_sees_worst_first(exported: Exported) -> None:
    folder = exported(COLOUR)
    artifact, images, proof = read_artifact(folder), image_set(COLOUR), read_json(folder / "parity.json")
    for found, one in zip(drawn((folder / "parity.html").read_text()), proof["worst"], strict=True):
        assert np.array_equal(found, artifact.image_spec.resized(images.images[one["image"]]))


def test_another_export_writes_the_same_page_and_pictures_can_stay_out(exported: Exported, tmp_path: Path) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, golden_images=8)
    export(settings, "", lambda checkpoint: image_set(Case()))
    bare, other = (tmp_path / "out" / "parity.html").read_text(), exported(Case())
    assert read_json(tmp_path / "out" / "parity.json") == unlabelled(read_json(other / "parity.json"))
    assert bare == parity_page(unlabelled(read_json(other / "parity.json")), read_artifact(other), [], student="resnet18", synthetic=False)
    assert addresses(bare) == []
    assert "Pictures were left out" in bare
    assert bare.count("<figure") == 20
    assert "no picture and no label of any image" in (tmp_path / "out" / "README.md").read_text()
    assert "pictures of up to 20 validation images" in (other / "README.md").read_text()


def test_a_failed_proof_says_so_marks_the_flips_and_shows_what_was_allowed(exported: Exported) -> None:
    folder = exported(COLOUR)
    artifact, proof = read_artifact(folder), copy.deepcopy(read_json(folder / "parity.json"))
    proof["passed"], proof["limits"], proof["reasons"] = False, {"max_flips": 0.01, "max_auc_drop": 0.005}, ["7 of 24 decisions flipped"]
    proof["auroc_difference"] = proof["auroc_difference_low"] = proof["auroc_difference_high"] = None
    first = proof["worst"][0]
    first["artifact"] = {"decision": ["<b>"], "probabilities": [None, 0.5, 0.5]}
    first["label"], proof["max_logit_difference"] = None, None
    page = parity_page(proof, artifact, [], student="<script>", synthetic=True)
    assert "Parity failed" in page
    assert "7 of 24 decisions flipped" in page
    assert page.count("case flipped") == 1
    assert "not finite" in page
    assert "not known" in page
    assert "Made from synthetic images" in page
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert addresses(page) == []


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
def test_large_inputs_are_shrunk_and_volumes_are_a_row_of_slices(exported: Exported, mean: tuple[float, float, float]) -> None:
    artifact = read_artifact(exported(Case()))
    spec = ImageSpec(400, 300, 1, mean=mean)
    levels = np.tile(np.arange(300, dtype=np.float32) % 256, (400, 1))[..., None]
    (found,) = drawn(picture((spec.normalised(levels),), replace(artifact, image_spec=spec)))
    assert found.shape == (192, 144)
    stack = replace(spec, height=32, width=32, volume=VolumeSpec(8))
    slices = np.stack([np.full((32, 32, 1), 20 * place, np.float32) for place in range(8)])
    mask = (np.arange(8) < 3).astype(np.float32)
    (found,) = drawn(picture((stack.normalised(slices), mask), replace(artifact, image_spec=stack)))
    assert found.shape == (32, 96)
    assert found[0, [0, 40, 90]].tolist() == [0, 20, 40]


def test_pictures_of_images_that_a_graph_resizes_are_of_its_own_resize(exported: Exported) -> None:
    case = Case("multilabel", 3, input_size="40x56")
    artifact, images = read_artifact(exported(case)), image_set(case)
    proof = {"worst": [{"image": 1}]}
    (found,) = drawn(pictures_of(proof, images.images, artifact, 5)[0])
    assert found.shape == (32, 32, 3)
