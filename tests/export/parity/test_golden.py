"""Golden vectors that show no patient: the same each time, far from borders, of every kind of input, and they find what images find."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stacked
from conftest import Case, image_set, write_student

from benchmarks.robustness.faults import FAULTS, edited
from export.commands import export
from export.config import ExportSettings
from export.parity.golden import KINDS, MARGIN, example, golden_patterns, pattern
from runtimes.agreement import border_distance
from runtimes.artifact.artifact import read_artifact
from runtimes.errors import DONE, PARITY, UserError
from runtimes.files.folder import read_json, write_manifest
from runtimes.scores import decide
from runtimes.session import open_session
from runtimes.verify import read_golden, verify

Exported = Callable[[Case], Path]
CASES = [Case(), Case("multilabel", 3, input_size="40x56"), Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case("binary", input="tensor"),
         Case("multiclass", 3)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_drawn_vectors_are_the_same_each_time_far_from_borders_and_whole_in_their_decisions(exported: Exported, case: Case) -> None:
    artifact = read_artifact(exported(case))
    given, logits, probabilities = read_golden(artifact)
    session = open_session(artifact.folder, threads=1)
    again = golden_patterns(session, artifact, 16)
    assert np.array_equal(again.batch[0], given)
    assert len({one.tobytes() for one in given}) == 16
    assert given.dtype == (np.float32 if case.input == "tensor" else case.dtype)
    margins = border_distance(logits, artifact.task, artifact.temperatures, artifact.thresholds)
    assert margins.min() >= 0.99 * MARGIN * artifact.tolerance
    drawn = read_answers(session, artifact, 128)
    for decided, reached in zip(decisions(probabilities, artifact), decisions(drawn, artifact), strict=True):
        assert decided >= reached, "a decision that one of 128 patterns takes is among the golden ones"


def read_answers(session, artifact, count: int) -> np.ndarray:
    return np.concatenate([session.run(example((number,), artifact)[0][0]).probabilities for number in range(count)])


def decisions(probabilities: np.ndarray, artifact) -> list[set[int]]:
    taken = decide(probabilities, artifact.task, artifact.thresholds)
    return [set(column.tolist()) for column in taken.T] if taken.ndim == 2 else [set(taken.tolist())]


def test_no_image_of_the_data_lies_in_an_artifact_unless_it_was_asked_for(exported: Exported, tmp_path: Path) -> None:
    case = Case()
    images = image_set(case, sizes=((32, 32),))
    found = {}
    write_student(tmp_path / "student", case)
    for kind in ("synthetic", "images"):
        settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / kind, samples=5, golden=kind)  # type: ignore[arg-type]
        export(settings, "", lambda checkpoint: images)
        whole = b"".join(path.read_bytes() for path in sorted((tmp_path / kind).rglob("*")) if path.is_file())
        found[kind] = sum(row.tobytes() in whole for image in images.images for row in image)
    assert found["synthetic"] == 0
    assert found["images"] >= 16 * 32, "the search sees rows of images where there are some"
    assert "show no patient" in (tmp_path / "synthetic" / "README.md").read_text()
    assert "treat this folder as you treat the data" in (tmp_path / "images" / "README.md").read_text()
    assert verify(tmp_path / "images")[0] == DONE


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_fault_of_a_graph_shows_on_drawn_vectors(exported: Exported, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exported(Case("multilabel", 3, input_size="40x56")), tmp_path / "artifact"))
    model, manifest = folder / "model.onnx", read_json(folder / "manifest.json")
    model.write_bytes(edited(model.read_bytes(), FAULTS[name]))
    write_manifest(folder, "artifact", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    assert verify(folder)[0] == PARITY


def test_volumes_are_drawn_with_few_and_with_all_slices(tmp_path: Path) -> None:
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "artifact", samples=5)
    stacked.write(tmp_path / "student", stacked.SPEC)  # scaled by percentiles: what is drawn must not be scaled again
    export(settings, "", lambda checkpoint: stacked.image_set())
    (slices, mask), logits, _ = read_golden(read_artifact(tmp_path / "artifact"))
    depths = mask.sum(axis=1)
    assert {1, stacked.SLICES} <= set(depths.tolist())
    assert not slices[mask == 0].any()
    assert len(logits) == 16
    assert verify(tmp_path / "artifact")[0] == DONE


def test_a_class_that_nothing_reaches_and_answers_that_are_not_finite_end_no_search(exported: Exported) -> None:
    artifact = read_artifact(exported(Case()))
    honest = open_session(artifact.folder, threads=1)

    class Odd:
        """Never class c; no answer to bright images."""

        def run(self, images):
            scores = honest.run(images)
            if np.max(np.mean(images, axis=(1, 2, 3))) > 150:
                raise UserError("NaN")
            return replace(scores, logits=scores.logits - np.asarray([0, 0, 1e3], np.float32))

    golden = golden_patterns(Odd(), artifact, 16)  # type: ignore[arg-type]
    assert len(golden.batch[0]) == 16
    assert np.mean(golden.batch[0], axis=(1, 2, 3)).max() <= 150
    assert "2 of 3 decisions" in golden.about

    class Silent:
        def run(self, images):
            raise UserError("NaN")

    with pytest.raises(UserError, match="--golden images"):
        golden_patterns(Silent(), artifact, 16)  # type: ignore[arg-type]


def test_patterns_are_of_several_kinds_and_never_flat() -> None:
    for number in range(3 * KINDS):
        for size in ((8, 8), (9, 40)):
            level = pattern(number, 0, *size, 3)
            assert level.shape == (*size, 3)
            assert np.isfinite(level).all()
            assert np.ptp(level, axis=(0, 1)).min() > 0.01
    assert not np.array_equal(pattern(0, 0, 16, 16, 1), pattern(0, 1, 16, 16, 1)), "slices differ"
