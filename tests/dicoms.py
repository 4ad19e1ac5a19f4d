"""DICOM files drawn by tests: any pixels under any header, in any transfer syntax that pydicom can write.

Owns: write_dicom, write_series, write_frames, wheel_files, NAMES. Does not own: what is expected of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="DICOM: pip install 'rd-distill[dicom]'")
pytest.importorskip("libjpeg", reason="DICOM: pip install 'rd-distill[dicom]'")
pytest.importorskip("openjpeg", reason="DICOM: pip install 'rd-distill[dicom]'")
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
# What stands in the header of a real file and may not leave it.
NAMES = {"PatientName": "Zwiebel^Ottokar", "PatientID": "ZW-4711-XYZ", "PatientBirthDate": "19430817", "PatientAddress": "Gurkengasse 12",
         "OtherPatientIDs": "OTHER-88231", "ReferringPhysicianName": "Quarkmann^Ida", "InstitutionName": "Spital Nebelhorn",
         "InstitutionAddress": "Nebelweg 3", "AccessionNumber": "ACC99417733", "StudyDescription": "Befund Zwiebel",
         "SeriesDescription": "Serie Zwiebel", "OperatorsName": "Rettich^Hugo", "PerformingPhysicianName": "Lauch^Emil",
         "PatientComments": "Frau Zwiebel klagt", "StudyID": "STUDYZW77", "PatientTelephoneNumbers": "0431-778812",
         "RequestingPhysician": "Kresse^Eva", "StationName": "NEBELCT1", "ImageComments": "Zwiebel links",
         "PatientMotherBirthName": "Porree"}


def write_dicom(path: Path, stored: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, compress: str = "", private: bool = False,
                names: bool = False, without: tuple[str, ...] = (), frames: bool = False, **tags: Any) -> Path:
    """A file with these stored values: (H, W) grey or palette, (H, W, 3) colour; tags by keyword go over the usual ones.

    frames: the first axis counts frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    colour = stored.ndim == 3 + frames
    rows, columns = stored.shape[frames:][:2]
    bits = 8 * stored.dtype.itemsize
    usual: dict[str, Any] = {
        "SOPClassUID": CT, "SOPInstanceUID": generate_uid(entropy_srcs=[str(path)]), "Modality": "CT", "Rows": rows,
        "Columns": columns, "SamplesPerPixel": 3 if colour else 1, "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits, "BitsStored": bits, "PixelRepresentation": int(stored.dtype.kind == "i")}
    if colour:
        usual["PlanarConfiguration"] = 0
    if frames:
        usual["NumberOfFrames"] = len(stored)
    content = {**usual, **(NAMES if names else {}), **tags}
    content.setdefault("HighBit", content["BitsStored"] - 1)
    content.setdefault("SOPInstanceUID", generate_uid())
    dataset.file_meta.MediaStorageSOPClassUID = UID(content["SOPClassUID"])
    dataset.file_meta.MediaStorageSOPInstanceUID = content["SOPInstanceUID"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in content.items():
            if keyword not in without:
                setattr(dataset, keyword, value)
        if private:
            dataset.private_block(0x0041, "Zwiebelwerk", create=True).add_new(1, "LO", "Zwiebel^Ottokar")
        data = stored.transpose(2, 0, 1) if colour and content["PlanarConfiguration"] == 1 else stored
        data = data.astype(data.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<"))
        dataset.PixelData = data.tobytes() + bytes(data.nbytes % 2)
        dataset["PixelData"].VR = "OW" if bits > 8 or UID(syntax).is_implicit_VR else "OB"
        if compress:
            dataset.compress(UID(compress), generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    return path


AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
UPWARD = (0.0, 0.0, 2.0)


def short(numbers: Sequence[float]) -> list[float]:
    """Numbers as headers hold them, in 16 characters at most."""
    return [round(float(number), 9) for number in numbers]


def places(count: int, origin: Sequence[float], step: Sequence[float]) -> list[list[float]]:
    """Positions of slices in a row."""
    return [short([start + place * side for start, side in zip(origin, step, strict=True)]) for place in range(count)]


def write_series(folder: Path, stored: np.ndarray, *, orientation: Sequence[float] = AXIAL, origin: Sequence[float] = (0.0, 0.0, 0.0),
                 step: Sequence[float] = UPWARD, spacing: tuple[float, float] = (1.0, 1.0), name: str = "{:04d}.dcm",
                 each: dict[int, dict[str, Any]] | None = None, series: str = "1.2.3.4", **tags: Any) -> list[Path]:
    """Stored values (slices, rows, columns) as one file each; `each` changes the tags of single slices, `origin` and `step` in LPS mm."""
    paths = []
    for place, position in enumerate(places(len(stored), origin, step)):
        content = {"ImagePositionPatient": position, "ImageOrientationPatient": short(orientation), "PixelSpacing": short(spacing),
                   "SeriesInstanceUID": series, "RescaleSlope": 1, "RescaleIntercept": 0, "InstanceNumber": len(stored) - place,
                   **tags, **(each or {}).get(place, {})}
        paths.append(write_dicom(folder / name.format(place), content.pop("pixels", stored[place]), **content))
    return paths


def item(**tags: Any) -> Dataset:
    """A dataset of these tags, as sequences hold them."""
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def write_frames(path: Path, stored: np.ndarray, *, orientation: Sequence[float] = AXIAL, origin: Sequence[float] = (0.0, 0.0, 0.0),
                 step: Sequence[float] = UPWARD, spacing: tuple[float, float] = (1.0, 1.0), order: Sequence[int] | None = None,
                 factors: Sequence[tuple[float, float]] | None = None, **tags: Any) -> Path:
    """Stored values (frames, rows, columns) as one enhanced CT; `order` is that of the frames, `factors` slope and intercept of each."""
    positions = places(len(stored), origin, step)
    order = list(range(len(stored))) if order is None else list(order)
    shared = item(PlaneOrientationSequence=[item(ImageOrientationPatient=short(orientation))],
                  PixelMeasuresSequence=[item(PixelSpacing=short(spacing))])
    if factors is None:
        shared.PixelValueTransformationSequence = [item(RescaleSlope=1, RescaleIntercept=0)]
    each = []
    for place in order:
        each.append(item(PlanePositionSequence=[item(ImagePositionPatient=positions[place])]))
        if factors is not None:
            each[-1].PixelValueTransformationSequence = [item(RescaleSlope=factors[place][0], RescaleIntercept=factors[place][1])]
    return write_dicom(path, stored[order], frames=True, **{
        "SOPClassUID": ENHANCED_CT, "SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each, **tags})


def lut(entries: list[int], first: int, depth: int) -> Any:
    """An item of a sequence of LUTs."""
    item = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        item.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries), first, depth])
        item.add_new(0x00283006, "US", entries)
    return item


def wheel_files() -> list[Path]:
    """The files that come with pydicom's wheel and bear the mark of DICOM; nothing is downloaded."""
    folder = Path(pydicom.__file__).parent / "data"
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[128:132] == b"DICM")
