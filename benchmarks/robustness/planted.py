"""Images with a word planted wherever a name can stand, and the search for it in every byte of a folder.

Owns: `dicom_set`, `nifti_set`, `picture_set`, `search` and what it looks into. Does not own: which commands are run on them, the page
(privacy.py).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import hashlib
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

WORD = "ZZYXNAME"
CT = "1.2.840.10008.5.1.4.1.1.2"
# Texts of a header that may name somebody, or a place, or hold a note.
TEXTS = ("PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName",
         "PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers", "PatientComments", "EthnicGroup", "Occupation",
         "AdditionalPatientHistory", "MedicalRecordLocator", "MilitaryRank", "CountryOfResidence", "ReferringPhysicianName",
         "ReferringPhysicianAddress", "PerformingPhysicianName", "RequestingPhysician", "OperatorsName", "PhysiciansOfRecord",
         "NameOfPhysiciansReadingStudy", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
         "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments", "DeviceSerialNumber",
         "AdmissionID", "RequestedProcedureDescription", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "BodyPartExamined",
         "ViewPosition", "Laterality", "DerivationDescription", "ContrastBolusAgent", "AcquisitionDeviceProcessingDescription")
ROOT = "1.2.826.0.1.3680043.9.4242"
UIDS = {"StudyInstanceUID": f"{ROOT}.81", "SeriesInstanceUID": f"{ROOT}.82", "FrameOfReferenceUID": f"{ROOT}.83",
        "SOPInstanceUID": f"{ROOT}.84", "DeviceUID": f"{ROOT}.85"}
DATES = {"PatientBirthDate": "19431127", "StudyDate": "20190223", "AcquisitionDateTime": "20190223114753.123456", "StudyTime": "114753.123"}
NIFTI_FIELDS = ("descrip", "aux_file", "intent_name", "db_name")
HASHES = (hashlib.md5, hashlib.sha1, hashlib.sha256)
HEX = re.compile(rb"[0-9a-f]{32,}")
HELD = re.compile(rb"[A-Za-z0-9+/]{40,}={0,2}")  # what may be base64


@dataclass(frozen=True)
class Searched:
    """What a search looked at and found: files, bytes with all that was unpacked, and (file, what stands there)."""

    files: int
    bytes: int
    hits: tuple[tuple[str, str], ...]


def picture(row: int, place: int, side: int = 32) -> Any:
    """Grey levels (side, side) of a class, uint16, no two alike."""
    noise = np.random.default_rng([row, place]).integers(0, 900, (side, side))
    return (500 + 2000 * place + noise).astype(np.uint16)


def dicom_set(root: Path, each: int = 14) -> Path:
    """A folder of two classes of DICOM files with the word in every text of the header, private tags, sequences, names of files."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    for place, name in enumerate("ab"):
        for row in range(each):
            data = Dataset()
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            data.file_meta.SourceApplicationEntityTitle = f"{WORD}AE"
            data.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(CT)
            data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"{UIDS['SOPInstanceUID']}.{place + 1}{row + 1:02}")
            patient = place * each + row // 2
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for number, keyword in enumerate(TEXTS):
                    setattr(data, keyword, f"{WORD}{number:02}" + (f"P{patient}" if keyword == "PatientID" else ""))
                for keyword, value in UIDS.items():
                    setattr(data, keyword, f"{value}.{patient + 1}" if keyword != "SOPInstanceUID" else f"{value}.{place + 1}{row + 1:02}")
                for keyword, value in DATES.items():
                    setattr(data, keyword, value)
                data.PatientAge, data.PatientSex = "047Y", "F"
                item = Dataset()
                item.PatientID, item.TypeOfPatientID = f"{WORD}SEQ1", "TEXT"
                data.OtherPatientIDsSequence = [item]
                step, code = Dataset(), Dataset()
                step.ScheduledProcedureStepDescription, code.CodeMeaning = f"{WORD}SEQ2", f"{WORD}SEQ3"
                step.ScheduledProtocolCodeSequence = [code]
                data.RequestAttributesSequence = [step]
                block = data.private_block(0x0041, f"{WORD}PRIVATE", create=True)
                block.add_new(1, "LO", f"{WORD}PRIVATE1")
                block.add_new(2, "UN", f"{WORD}PRIVATE2".encode())
                data.SOPClassUID, data.Modality = CT, "CT"
                data.Rows = data.Columns = 32
                data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
                data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
                data.PixelData = picture(row, place).tobytes()
                data["PixelData"].VR = "OW"
                path = root / f"{WORD}ROOT" / name / f"{WORD}FOLDER" / f"{WORD}FILE_{row}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                data.preamble = f"{WORD}PREAMBLE".encode().ljust(128, b"\0")
                data.save_as(path, enforce_file_format=True)
    return root / f"{WORD}ROOT"


def nifti_set(root: Path, each: int = 14) -> Path:
    """A table of NIfTI volumes with the word in every text of the header, an extension, names of files, cells; its path."""
    import nibabel

    folder = root / f"{WORD}ROOT"
    (folder / f"{WORD}FOLDER").mkdir(parents=True)
    lines = [f"image,label,patient,comment,{WORD.lower()}_column"]
    for place, name in enumerate("ab"):
        for row in range(each):
            levels = np.stack([picture(100 * row + depth, place) for depth in range(6)], axis=-1).astype(np.int16)
            image: Any = nibabel.Nifti1Image(levels, np.eye(4))
            for number, field in enumerate(NIFTI_FIELDS):
                image.header[field] = f"{WORD}N{number}".encode()
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", f"{WORD}EXTENSION".encode()))
            path = folder / f"{WORD}FOLDER" / f"{WORD}FILE_{name}{row}.nii.gz"
            nibabel.save(image, path)
            lines.append(f"{path.relative_to(folder)},{name},{WORD}P{place * each + row // 2},{WORD}COMMENT,{WORD}CELL")
    (folder / f"{WORD}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / f"{WORD}.csv"


def picture_set(root: Path, each: int = 14) -> Path:
    """A folder of two classes of PNG, JPEG and TIFF files with the word in text chunks, EXIF, comments, tags, names of files."""
    for place, name in enumerate("ab"):
        folder = root / f"{WORD}ROOT" / name / f"{WORD}FOLDER"
        folder.mkdir(parents=True)
        for row in range(each):
            image = Image.fromarray((picture(row, place) >> 4).astype(np.uint8))
            exif, note = Image.Exif(), PngImagePlugin.PngInfo()
            exif[270], exif[315], exif[0x9C9C] = f"{WORD}EXIF1", f"{WORD}EXIF2", f"{WORD}EXIF3".encode("utf-16-le")
            note.add_text("Patient", f"{WORD}TEXT1")
            note.add_text("Comment", f"{WORD}TEXT2", zip=True)
            note.add_itxt("Author", f"{WORD}TEXT3")
            path = folder / f"{WORD}FILE_{row}"
            if row % 3 == 0:
                image.save(path.with_suffix(".png"), pnginfo=note, exif=exif)
            elif row % 3 == 1:
                image.save(path.with_suffix(".jpg"), exif=exif, comment=f"{WORD}COMMENT".encode(), quality=95)
            else:
                image.save(path.with_suffix(".tif"), description=f"{WORD}TIFF1", artist=f"{WORD}TIFF2")
    return root / f"{WORD}ROOT"


def secrets() -> list[str]:
    """The word, planted numbers that are no words, and what a hash without a key would be of a planted value."""
    values = [f"{WORD}{number:02}" for number in range(len(TEXTS))] + [f"{WORD}01P{patient}" for patient in range(40)]
    values += [f"{uid}.{patient + 1}" for uid in UIDS.values() for patient in range(40)]
    return [WORD, ROOT, *DATES.values(), *(kind(value.encode()).hexdigest() for kind in HASHES for value in values)]


def parts(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """A file's bytes and what is packed in them: members of archives, gzip, texts of pictures, pictures and texts in base64."""
    yield data
    if depth > 3:
        return
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from parts(archive.read(name), depth + 1)
    elif data[:2] == b"\x1f\x8b":
        with contextlib.suppress(OSError, EOFError, zlib.error):
            yield from parts(gzip.decompress(data), depth + 1)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            yield repr((image.info, dict(image.getexif()))).encode()
            yield image.tobytes()
    elif data[4:5] != b"\0":  # text rather than tensors
        for run in HELD.findall(data):
            with contextlib.suppress(binascii.Error, ValueError):
                yield from parts(base64.b64decode(run + b"=" * (-len(run) % 4)), depth + 1)


def _cut(runs: list[bytes]) -> Iterator[bytes]:
    """All that could be a hash in runs of hexadecimal digits."""
    for run in runs:
        for length in {kind().digest_size * 2 for kind in HASHES}:
            yield from (run[start:start + length] for start in range(len(run) - length + 1))


def search(paths: Sequence[Path], wanted: Sequence[str]) -> Searched:
    """Look for texts, in any case, one or two bytes a letter, in names and every byte of files, and in what is packed in them."""
    hashes = {secret.encode() for secret in wanted if HEX.fullmatch(secret.encode())}
    words = {secret.lower().encode(): secret for secret in wanted if secret.encode() not in hashes}
    files = [path for root in paths for path in [root, *sorted(root.rglob("*"))]]
    count = size = 0
    hits: dict[tuple[str, str], None] = {}
    for path in files:
        named = str(path.relative_to(next(root for root in paths if root in (path, *path.parents)).parent))
        pieces = [named.encode("utf-8", "surrogateescape")]
        if path.is_file():
            count += 1
            pieces += parts(path.read_bytes())
        for piece in pieces:
            size += len(piece)
            for form in (piece.lower(), piece.replace(b"\0", b"").lower()):  # the other half of a letter of two bytes is zero
                hits |= {(named, words[word]): None for word in words if word in form}
                hits |= {(named, run.decode()): None for run in hashes.intersection(_cut(HEX.findall(form)))}
    return Searched(count, size, tuple(hits))
