"""An exported student of volumes: the graph against torch for any number of slices, the session's inputs, parity and verification."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import onnx
import pytest
import torch
from stacked import SLICES, SPEC, image_set, volume, write

from distill.networks.checkpoint import load_checkpoint
from export.commands import export
from export.config import ExportSettings
from export.parity.answers import graph_inputs
from export.parity.check import parity
from runtimes.artifact.artifact import read_artifact
from runtimes.errors import PARITY, USAGE, UserError
from runtimes.files.folder import read_json
from runtimes.images.volumes import VolumeSpec
from runtimes.session import CheckedSession, open_session
from runtimes.stacks import as_stacks
from runtimes.verify import verify


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One student by percentiles (as files come) and one by a window (as grey stacks come)."""

    @cache
    def make(scaling: str) -> Path:
        root = tmp_path_factory.mktemp(scaling)
        fixed = VolumeSpec(SLICES, scaling="window", window=(0.0, 255.0))
        write(root / "student", SPEC if scaling == "percentile" else replace(SPEC, volume=fixed))
        settings = ExportSettings(student_dir=root / "student", out=root / "artifact", samples=5)
        assert export(settings, "rd-export", lambda checkpoint: image_set()) == 0
        return root / "artifact"

    return {name: make(name) for name in ("percentile", "window")}


def test_the_graph_takes_slices_and_a_mask_and_names_them(artifacts: dict[str, Path]) -> None:
    graph = onnx.load(str(artifacts["window"] / "model.onnx")).graph
    shapes = {one.name: [size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim]
              for one in (*graph.input, *graph.output)}
    assert shapes == {"image": ["batch", SLICES, 32, 32, 1], "mask": ["batch", SLICES], "logits": ["batch", 3],
                      "probabilities": ["batch", 3], "attention": ["batch", SLICES]}
    assert read_artifact(artifacts["window"]).input_names == ("image", "mask")


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 11])
def test_onnx_runtime_agrees_with_torch_for_any_number_of_slices(artifacts: dict[str, Path], depth: int) -> None:
    artifact = read_artifact(artifacts["percentile"])
    held = load_checkpoint(artifacts["percentile"].parent / "student").model
    given = volume(depth, (40, 56))
    scores = open_session(artifacts["percentile"]).run(given)
    raw = artifact.image_spec.volume.levels(given)  # type: ignore[union-attr]
    pixels, mask = (torch.from_numpy(one)[None] for one in graph_inputs(raw, artifact))
    with torch.no_grad():
        expected = held(pixels, mask).numpy()
        weights = held.slice_pool.weights(held.slice_features(pixels), mask).numpy()
    np.testing.assert_allclose(scores.logits, expected, atol=1e-4, rtol=2e-5)
    assert scores.attention is not None
    np.testing.assert_allclose(scores.attention, weights, atol=1e-5)
    assert not scores.attention[0, min(depth, SLICES):].any()


def test_a_volume_alone_and_in_a_batch_of_others_give_the_same_bits(artifacts: dict[str, Path]) -> None:
    session = open_session(artifacts["percentile"], threads=1)
    given = [volume(depth, seed=depth) for depth in (3, 1, 9, 4)]
    together = session.run(given)
    for row, one in enumerate(given):
        assert np.array_equal(session.run(one).logits[0], together.logits[row])


def test_a_nifti_file_answers_as_its_voxels_do(artifacts: dict[str, Path], tmp_path: Path) -> None:
    voxels = volume(7, (20, 30)).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii.gz")
    session = open_session(artifacts["percentile"])
    from_file, cut = session.run(tmp_path / "a.nii.gz"), VolumeSpec().cut(voxels)
    assert np.array_equal(from_file.logits, session.run(cut).logits)
    assert np.array_equal(from_file.logits, session.run([str(tmp_path / "a.nii.gz")]).logits)


GOOD = (np.full((2, SLICES, 32, 32, 1), 3, np.uint8), np.ones((2, SLICES), np.uint8))


@pytest.mark.parametrize(("given", "told"), [
    (np.full((3, 32, 32), np.nan), "NaN or Inf"), (np.full((3, 32, 32), 4), "single value"), (np.zeros((0, 32, 32)), "shape"),
    (volume(3)[0], "shape"), (volume(3).astype(str), "dtype"), (volume(3, (4, 32)), "at least 8 a side"), ([], "no volumes"), (7, "int"),
    ((GOOD[0], GOOD[1] * 2), "of 0 and 1"), ((GOOD[0], GOOD[1] * 0), "mask is 0 everywhere"),
    ((GOOD[0][:, :3], GOOD[1][:, :3]), "expected uint8"),
    ((GOOD[0].astype(float), GOOD[1]), "expected uint8"), ((GOOD[0], GOOD[1][:1]), "mask of")])
def test_what_is_no_volume_of_this_model_never_reaches_the_runtime(artifacts: dict[str, Path], given: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_stacks(given, read_artifact(artifacts["percentile"]))  # type: ignore[arg-type]


def test_golden_volumes_verify_and_a_swapped_mask_does_not(artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    code, report = verify(artifacts["window"])
    assert (code, report["flips"]) == (0, 0)
    assert report["golden_images"] > 1
    monkeypatch.setattr("runtimes.verify.read_golden", lambda artifact, own=read_golden_of: own(artifact))
    assert verify(artifacts["window"])[0] == PARITY


def read_golden_of(artifact: object) -> tuple[object, np.ndarray, np.ndarray]:
    from runtimes.models.tensor_proto import read_tensor

    folder = artifact.golden  # type: ignore[attr-defined]
    slices, mask = (read_tensor(folder / f"input_{place}.pb") for place in (0, 1))
    first = np.zeros_like(mask)
    first[:, 0] = 1
    return (slices, first), read_tensor(folder / "output_0.pb"), read_tensor(folder / "output_1.pb")


def test_parity_fails_where_the_mask_is_not_obeyed(artifacts: dict[str, Path]) -> None:
    folder, images = artifacts["window"], image_set()
    artifact, honest = read_artifact(folder), open_session(folder).runtime  # type: ignore[attr-defined]

    class Maskless:
        def run(self, feeds: tuple[np.ndarray, np.ndarray]) -> object:
            return honest.run((feeds[0], np.ones_like(feeds[1])))

    found = {}
    for name, runtime in {"honest": honest, "maskless": Maskless()}.items():
        found[name] = parity(load_checkpoint(folder.parent / "student").model, CheckedSession(artifact, runtime), artifact, images.images,
                             images.labels, max_batch=8, precision_share={"fp32": 1.0, "fp16": 0.0, "int8": 0.0})["passed"]
    assert found == {"honest": True, "maskless": False}
    assert read_json(folder / "parity.json")["batches"] == [1, 2, 8]


@pytest.mark.parametrize("changes", [{"input": "tensor"}, {"input_size": "40x40"}])
def test_volumes_leave_in_one_form_only(artifacts: dict[str, Path], tmp_path: Path, changes: dict[str, str]) -> None:
    settings = ExportSettings(student_dir=artifacts["window"].parent / "student", out=tmp_path / "a", **changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--input-size out") as caught:
        export(settings, "rd-export", lambda checkpoint: image_set())
    assert caught.value.exit_code == USAGE
