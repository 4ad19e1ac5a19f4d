"""Wrong DICOM files of one image, typed at rd-verify --image: tags, pixels, syntaxes, objects that are no images, reports on them.

Owns: SCAN_CASES, drawing such files with pydicom. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py), files of
other people (robustness/dicom.py). Every header holds a patient's name, and no answer may.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.cases.case import VANILLA, Case, Check, Make, both, picture, text
from benchmarks.robustness.cases.folders import copied

SHOW = "rd-verify artifact --image a.dcm"
REPORT = SHOW + " --dicom-sr sr.dcm"
NAME = "Zwiebel^Ottokar"
CT, PLAIN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
RLE, JPEG, JPEG_2000, HTJ2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"
PYLIBJPEG = ("pylibjpeg",)  # with whom its plug-ins go: a plug-in that is named and missing ends pydicom's own import
UIDS = {"StudyInstanceUID": "1.2.826.0.1.99", "SeriesInstanceUID": "1.2.826.0.1.99.1", "SOPInstanceUID": "1.2.826.0.1.99.1.1"}


def drawn(path: Path, *, without: tuple[str, ...] = (), syntax: str = PLAIN, frame: bytes | None = None, levels: Any = None,
          edit: Callable[[Any], None] | None = None, **tags: Any) -> None:
    """Save a noisy 8-bit grey image of 64x64 pixels that any model of grey bytes takes, with these tags over the usual ones.

    frame: bytes in place of its pixels, encapsulated; edit: a change of the dataset before it is written.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8) if levels is None else levels
    bits = 8 * pixels.dtype.itemsize
    dataset, meta = Dataset(), FileMetaDataset()
    content = {"SOPClassUID": CT, **UIDS, "Modality": "CT", "PatientName": NAME, "PatientID": "ZW-4711", "SamplesPerPixel": 1,
               "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[0], "Columns": pixels.shape[1], "BitsAllocated": bits,
               "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0, "PixelData": pixels.tobytes(), **tags}
    if frame is not None:
        content["PixelData"] = encapsulate([frame])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on what is wrong here on purpose
        for keyword, value in content.items():
            if keyword not in without:
                setattr(dataset, keyword, value)
        if "PixelData" in dataset:
            dataset["PixelData"].VR = "OB" if bits == 8 or frame is not None else "OW"
            dataset["PixelData"].is_undefined_length = frame is not None
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(content["SOPClassUID"]), UID(UIDS["SOPInstanceUID"])
        if "TransferSyntaxUID" not in without:
            meta.TransferSyntaxUID = UID(syntax)
        dataset.file_meta = meta
        if edit is not None:
            edit(dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.preamble = bytes(128)
        known = "TransferSyntaxUID" in meta and not meta.TransferSyntaxUID.is_private
        encoded: dict[str, Any] = {} if known else {"implicit_vr": False, "little_endian": True}
        dataset.save_as(path, enforce_file_format=False, **encoded)


def scan(**how: Any) -> Make:
    """The artifact, and one such file."""

    def make(folder: Path, finished: Path) -> None:
        copied("artifact")(folder, finished)
        drawn(folder / "a.dcm", **how)

    return make


def element(keyword: str, vr: str, value: Any) -> Callable[[Any], None]:
    """A change: the tag holds another kind of value than the standard says."""

    def edit(dataset: Any) -> None:
        from pydicom.dataelem import DataElement
        from pydicom.tag import Tag

        dataset[keyword] = DataElement(Tag(keyword), vr, value, validation_mode=0)

    return edit


def cut(share: float) -> Make:
    """The file up to a share of its bytes."""

    def make(folder: Path, finished: Path) -> None:
        scan()(folder, finished)
        data = (folder / "a.dcm").read_bytes()
        (folder / "a.dcm").write_bytes(data[:int(share * len(data))])

    return make


def nameless(folder: Path) -> str:
    """Wrong when a result was left behind."""
    left = sorted(path.name for path in folder.iterdir() if path.name in ("sr.dcm", "t.json"))
    return f"left {', '.join(left)}" if left else ""


def packed(syntax: str) -> bytes:
    """The beginning of a codestream of 64x64 pixels: enough for its header to be read."""
    if syntax == JPEG:
        return b"\xff\xd8\xff\xc3\x00\x0b\x08\x00\x40\x00\x40\x01\x01\x11\x00" + bytes(40) + b"\xff\xd9"
    sizes = b"".join(number.to_bytes(4, "big") for number in (64, 64, 0, 0, 64, 64, 0, 0))
    return b"\xff\x4f\xff\x51\x00\x29\x00\x00" + sizes + b"\x00\x01\x07\x01\x01" + bytes(40) + b"\xff\xd9"


def bomb() -> bytes:
    """Runs of RLE out of two bytes each that would become 2 GB."""
    return (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\x07" * (8 << 20)


def series(change: Callable[[Path], None]) -> Make:
    """Two classes of DICOM files, one of them changed."""

    def make(folder: Path, finished: Path) -> None:
        for place, name in enumerate("ab"):
            for index in range(12):
                levels = np.random.default_rng(100 * place + index).integers(0, 255, (40, 40)).astype(np.uint8)
                drawn(folder / "data" / name / f"{index:02d}.dcm", levels=levels, PatientID=f"P{place}{index}",
                      StudyInstanceUID=f"1.2.826.0.1.{place}.{index}")
        change(folder / "data" / "a" / "03.dcm")

    return make


def case(name: str, typed: str, code: int, word: str, make: Make, check: Check = nameless, hidden: tuple[str, ...] = ()) -> Case:
    """A case whose answer may not hold the patient's name."""
    return Case(f"DICOM: {name}", typed, code, word, make, check, hidden, secrets=("Zwiebel", "ZW-4711"))


def objects(sop_class: str, modality: str, **how: Any) -> Make:
    """A DICOM object that is no image."""
    return scan(SOPClassUID=sop_class, Modality=modality, **how)


SCAN_CASES: tuple[Case, ...] = (
    # tags that are missing
    *(case(f"no {tag}", SHOW, 1, tag, scan(without=(tag,))) for tag in (
        "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
        "TransferSyntaxUID")),
    case("half a window", SHOW, 1, "WindowWidth", scan(WindowCenter="40")),
    case("a slope without an intercept", SHOW, 1, "RescaleIntercept", scan(RescaleSlope="2")),
    # values of another kind than the tag's
    case("Rows is a text", SHOW, 1, "Rows", scan(edit=element("Rows", "LO", NAME))),
    case("Rows is a sequence", SHOW, 1, "Rows", scan(edit=element("Rows", "SQ", []))),
    case("Columns is two numbers", SHOW, 1, "Columns", scan(edit=element("Columns", "US", [64, 64]))),
    case("BitsStored above BitsAllocated", SHOW, 1, "12 bits in 8", scan(BitsStored=12, HighBit=11)),
    case("HighBit that does not fit", SHOW, 1, "HighBit", scan(HighBit=3)),
    case("NumberOfFrames is a name", SHOW, 1, "NumberOfFrames", scan(edit=element("NumberOfFrames", "LO", NAME))),
    case("WindowCenter is a name", SHOW, 1, "WindowCenter", scan(WindowWidth="80", edit=element("WindowCenter", "LO", NAME))),
    case("a window of width 0", SHOW, 1, "WindowWidth", scan(WindowCenter="40", WindowWidth="0")),
    case("a slope of 0", SHOW, 1, "RescaleSlope", scan(RescaleSlope="0", RescaleIntercept="0")),
    case("a photometric interpretation that is a name", SHOW, 1, "PhotometricInterpretation",
         scan(edit=element("PhotometricInterpretation", "LO", NAME))),
    case("pixels nine times as tall as wide", SHOW, 1, "PixelSpacing", scan(PixelSpacing=["9", "1"])),
    case("a palette without its colours", SHOW, 1, "Palette", scan(PhotometricInterpretation="PALETTE COLOR")),
    # syntaxes
    case("a video (MPEG2)", SHOW, 1, "MPEG2", scan(syntax="1.2.840.10008.1.2.4.100", frame=bytes(200))),
    case("a video (HEVC)", SHOW, 1, "HEVC", scan(syntax="1.2.840.10008.1.2.4.107", frame=bytes(200))),
    case("pixels at the end of a link (JPIP)", SHOW, 1, "JPIP", scan(syntax="1.2.840.10008.1.2.4.94", frame=bytes(200))),
    case("a syntax of a maker's own", SHOW, 1, "no known kind", scan(syntax="1.2.826.0.1.4711", frame=bytes(200))),
    case("deflated", SHOW, 1, "Deflated", scan(syntax="1.2.840.10008.1.2.1.99")),
    case("lossless JPEG without its packages", SHOW, 5, "pylibjpeg-libjpeg", scan(syntax=JPEG, frame=packed(JPEG)), hidden=PYLIBJPEG),
    case("JPEG 2000 without its packages", SHOW, 5, "pylibjpeg-openjpeg", scan(syntax=JPEG_2000, frame=packed(JPEG_2000)),
         hidden=PYLIBJPEG),
    case("HTJ2K without its packages", SHOW, 5, "pylibjpeg-openjpeg", scan(syntax=HTJ2K, frame=packed(HTJ2K)), hidden=PYLIBJPEG),
    case("without pydicom", SHOW, 5, "rd-distill[dicom]", scan(), hidden=("pydicom",)),
    case("a JPEG of another size than the header's", SHOW, 1, "64x64", scan(syntax=JPEG, frame=packed(JPEG), Rows=128)),
    case("no JPEG where one should be", SHOW, 1, "no JPEG", scan(syntax=JPEG, frame=bytes(300))),
    case("a JPEG 2000 of a header alone", SHOW, 1, "damaged", scan(syntax=JPEG_2000, frame=packed(JPEG_2000))),
    case("RLE that would be 1 GB", SHOW, 1, "far more", scan(syntax=RLE, frame=bomb(), levels=np.zeros((4096, 4096), np.uint8))),
    # pixels
    case("no pixel data", SHOW, 1, "no pixel data", scan(without=("PixelData",))),
    case("pixel data of no bytes", SHOW, 1, "0 bytes", scan(PixelData=b"")),
    case("fewer pixels than the header says", SHOW, 1, "asks for", scan(Rows=512)),
    case("65535 x 65535 pixels", SHOW, 1, "65535", scan(Rows=65535, Columns=65535)),
    case("numbers with a point (Float Pixel Data)", SHOW, 1, "float", scan(without=("PixelData",), FloatPixelData=bytes(64 * 64 * 4))),
    case("12 bits for a model of 8", SHOW, 1, "uint16", scan(levels=np.random.default_rng(0).integers(0, 4095, (64, 64)).astype(np.uint16),
                                                            BitsStored=12, HighBit=11)),
    case("one grey level", SHOW, 1, "single value", scan(levels=np.full((64, 64), 9, np.uint8))),
    case("three frames", SHOW, 1, "3 frames", scan(NumberOfFrames=3, PixelData=bytes(3 * 64 * 64))),
    case("cut off in its header", SHOW, 1, "a.dcm", cut(0.05)),
    case("cut off in its pixels", SHOW, 1, "a.dcm", cut(0.5)),
    case("a text named .dcm", SHOW, 1, "no DICM", both(copied("artifact"), text("a.dcm", NAME * 40))),
    case("an empty file", SHOW, 1, "empty", both(copied("artifact"), text("a.dcm", b""))),
    # objects that are no images
    case("a segmentation", SHOW, 1, "Segmentation", objects("1.2.840.10008.5.1.4.1.1.66.4", "SEG")),
    case("a segmentation of a class that is not known yet", SHOW, 1, "segmentation", objects("1.2.826.0.1.4711", "SEG")),
    case("a report", SHOW, 1, "SR", objects("1.2.840.10008.5.1.4.1.1.88.33", "SR", without=("PixelData",))),
    case("a dose", SHOW, 1, "Dose", objects("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE")),
    case("a presentation state", SHOW, 1, "Presentation State", objects("1.2.840.10008.5.1.4.1.1.11.1", "PR", without=("PixelData",))),
    case("a list of key images", SHOW, 1, "Key Object", objects("1.2.840.10008.5.1.4.1.1.88.59", "KO", without=("PixelData",))),
    case("a PDF", SHOW, 1, "Encapsulated", objects("1.2.840.10008.5.1.4.1.1.104.1", "DOC", without=("PixelData",))),
    case("an index of a disk", SHOW, 1, "Directory", objects("1.2.840.10008.1.3.10", "OT", without=("PixelData",))),
    # reports on an image
    *(case(f"report: no {tag}", REPORT, 1, tag, scan(without=(tag,))) for tag in UIDS),
    case("report: StudyInstanceUID is a name", REPORT, 1, "StudyInstanceUID", scan(edit=element("StudyInstanceUID", "LO", NAME))),
    case("report: PatientSex is a name", REPORT, 1, "PatientSex", scan(edit=element("PatientSex", "LO", NAME))),
    case("report: StudyDate is a name", REPORT, 1, "StudyDate", scan(edit=element("StudyDate", "LO", NAME))),
    case("report: without highdicom", REPORT, 5, "rd-distill[dicom-out]", scan(), hidden=("highdicom",)),
    case("report: on a PNG", "rd-verify artifact --image a.png --dicom-sr sr.dcm", 2, "whose image",
         both(copied("artifact"), lambda folder, _: picture(folder / "a.png"))),
    case("report: in no folder", SHOW + " --dicom-sr nowhere/sr.dcm", 2, "no folder", scan()),
    case("report: over the image", SHOW + " --dicom-sr a.dcm --overwrite", 2, "--image", scan()),
    case("report: over somebody's file", SHOW + " --dicom-sr b.dcm --overwrite", 2, "replaces only",
         both(scan(), lambda folder, _: drawn(folder / "b.dcm"))),
    case("trace: over somebody's file", SHOW + " --trace mine.json --overwrite", 2, "replaces only", both(scan(), text("mine.json", "{}"))),
    case("trace: there already", SHOW + " --trace mine.json", 2, "--overwrite", both(scan(), text("mine.json", "{}"))),
    case("trace: of no image", "rd-verify artifact --trace t.json", 2, "--image", copied("artifact")),
    case("an image that is not there", "rd-verify artifact --image gone.dcm", 1, "gone.dcm", copied("artifact")),
    # in a folder to train on
    case("in training: a report among images", VANILLA, 1, "03.dcm",
         series(lambda path: drawn(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR", without=("PixelData",)))),
    case("in training: no Rows in one", VANILLA, 1, "Rows", series(lambda path: drawn(path, without=("Rows",)))),
    case("in training: 16 bits among 8", VANILLA, 1, "16-bit",
         series(lambda path: drawn(path, levels=np.random.default_rng(1).integers(0, 4095, (40, 40)).astype(np.uint16)))),
)
