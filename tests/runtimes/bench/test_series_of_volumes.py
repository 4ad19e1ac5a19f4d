"""rd-bench from file to decision on volumes: NIfTI files, or folders of DICOM where there are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dicoms import write_series

from runtimes.bench.crew import input_files
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec

ARTIFACT: Any = SimpleNamespace(image_spec=ImageSpec(16, 16, volume=VolumeSpec(4)), input_kind="image")


def test_a_folder_of_dicom_is_a_series_and_nifti_files_go_first(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / "scans" / name, np.random.default_rng(0).integers(0, 99, (3, 16, 16)).astype(np.int16))
    (tmp_path / "scans" / "notes.txt").write_text("none of these")
    assert input_files(ARTIFACT, tmp_path / "scans", tmp_path) == [tmp_path / "scans" / "a", tmp_path / "scans" / "b"]
    (tmp_path / "scans" / "one.nii.gz").write_bytes(b"any")
    assert input_files(ARTIFACT, tmp_path / "scans", tmp_path) == [tmp_path / "scans" / "one.nii.gz"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"ends in \.nii, \.gz and no DICOM"):
        input_files(ARTIFACT, tmp_path / "empty", tmp_path)


def test_golden_values_are_no_pictures() -> None:
    values: Any = SimpleNamespace(image_spec=ImageSpec(16, 16, 1, "int16", (0.0, 80.0)), input_kind="image")
    assert input_files(values, None, Path("anywhere")) == []
