"""Codestreams of other encoders, and of nobody: HTJ2K as OpenJPH writes it, RLE that would decode to gigabytes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dicoms import write_dicom
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

pytest.importorskip("openjpeg", reason="DICOM: pip install 'rd-distill[dicom]'")
import pydicom
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.rle import _rle_decode_segment
from pydicom.uid import UID, RLELossless

from runtimes.errors import UserError
from runtimes.images.decode import decode
from runtimes.images.dicom import _decodes_to_more

HTJ2K = [f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)]


def drawn(name: str) -> np.ndarray:
    """The pixels that OpenJPH was given, by the rule of fixtures/README.md."""
    rows, columns = np.mgrid[:24, :20]
    grey = (rows * columns * 7 + rows * 3) % (4096 if name == "grey12" else 65536 if name == "signed16" else 256)
    if name == "signed16":
        return ((grey * 37) % 65536 - 32768).astype(np.int16)
    if name == "colour8":
        return np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1).astype(np.uint8)
    return grey.astype(np.uint16 if name == "grey12" else np.uint8)


def holding(path: Path, stored: np.ndarray, codestream: bytes, syntax: str, **tags: object) -> Path:
    """A DICOM file of these pixels whose pixel data are this codestream."""
    dataset = pydicom.dcmread(write_dicom(path, stored, **tags))
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if stored.ndim == 3 and syntax in HTJ2K:
        dataset.PhotometricInterpretation = "YBR_RCT"
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", HTJ2K)
@pytest.mark.parametrize("name", ["grey8", "grey12", "signed16", "colour8"])
def test_htj2k_is_the_same_array_as_its_uncompressed_twin(tmp_path: Path, name: str, syntax: str) -> None:
    stored, tags = drawn(name), {"BitsStored": 12} if name == "grey12" else {}
    codestream = (ROOT / "tests" / "fixtures" / "htj2k" / f"{name}.j2c").read_bytes()
    assert b"\xff\x50" in codestream[:80]  # the marker of capabilities, which plain JPEG 2000 has none of
    twin = decode(write_dicom(tmp_path / "twin.dcm", stored, **tags))
    assert np.array_equal(decode(holding(tmp_path / "a.dcm", stored, codestream, syntax, **tags)), twin)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_htj2k_that_is_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    codestream = (ROOT / "tests" / "fixtures" / "htj2k" / "grey8.j2c").read_bytes()
    path = holding(tmp_path / "a.dcm", drawn("grey8"), codestream[:int(share * len(codestream))], HTJ2K[0])
    with pytest.raises(UserError, match=r"a\.dcm: damaged"):
        decode(path)


def test_htj2k_of_another_size_than_the_header_s_is_refused(tmp_path: Path) -> None:
    codestream = (ROOT / "tests" / "fixtures" / "htj2k" / "grey8.j2c").read_bytes()
    with pytest.raises(UserError, match="20x24"):
        decode(holding(tmp_path / "a.dcm", drawn("grey8")[:16], codestream, HTJ2K[0]))


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_the_length_of_rle_is_counted_as_it_is_decoded(segment: bytes, most: int) -> None:
    """No honest segment is refused, and none that is let through decodes to more, but for what its cut-off end lacks."""
    data = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + segment
    length = len(_rle_decode_segment(segment))
    if _decodes_to_more(data, most):
        assert length > most - 128
    else:
        assert length <= most


def test_rle_of_any_picture_is_let_through(tmp_path: Path) -> None:
    for place, pixels in enumerate((np.zeros((256, 256), np.uint16), np.arange(65536, dtype=np.uint16).reshape(256, 256),
                                    np.random.default_rng(0).integers(0, 65536, (256, 256)).astype(np.uint16))):
        pixels[0, 0] = 9  # nothing of one single value
        packed = write_dicom(tmp_path / f"{place}.dcm", pixels, compress=RLELossless)
        assert np.array_equal(decode(packed), decode(write_dicom(tmp_path / f"twin{place}.dcm", pixels)))


@pytest.mark.parametrize("overlapping", [False, True])
def test_rle_that_would_decode_to_gigabytes_is_refused_at_once(tmp_path: Path, overlapping: bool) -> None:
    """Runs of 128 bytes out of two, to 64 times what is in the file; or one such segment that stands for several."""
    pixels = np.zeros((4096, 4096, 3), np.uint8)
    run = b"\x81\x07" * (1 << 22)
    starts = [64, 64, 64] if overlapping else [64, 64 + len(run), 64 + 2 * len(run)]
    data = b"".join(number.to_bytes(4, "little") for number in (3, *starts)).ljust(64, b"\0") + run * (1 if overlapping else 3)
    path = holding(tmp_path / "a.dcm", pixels, data, RLELossless)
    assert get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1) == data
    code = ("import sys; from pathlib import Path; from runtimes.images.decode import decode\nfrom runtimes.errors import UserError\n"
            "try: decode(Path(sys.argv[1]))\nexcept UserError as error: print(error)\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))")
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=ROOT)
    message, peak_kib = done.stdout.splitlines()
    assert "far more than its 16,777,216 bytes" in message
    assert int(peak_kib) * 1024 < 400 * 2**20  # the file, and it once more as its frame; decoded it would be 1.6 GB
    assert time.monotonic() - started < 20
