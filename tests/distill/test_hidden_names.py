"""Names of files that may name a patient: hidden in every result, listed beside it, and rd-export finds the images all the same."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import write_dicom
from drawn import class_folders
from runs import killed_in_epoch, refused, run, settings, tree

from benchmarks.robustness.planted import TEXTS, WORD, dicom_set, nifti_set, picture_set, search, secrets
from distill.commands import distill
from distill.data.hiding import hidden_keys
from distill.data.intake import images_for
from distill.settings.hidden import kept_command, kept_settings, names_file
from export.commands import export
from export.config import ExportSettings
from runtimes.commands.flags import parse, record
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_manifest
from runtimes.files.spreadsheet import read_table

pytestmark = pytest.mark.usefixtures("in_empty_folder")
QUICK: dict[str, Any] = {"epochs": 1, "bootstrap": 2, "bank": Path("banks/own")}


def outputs(folder: Path) -> list[Path]:
    """All that runs wrote, but for the inputs and the lists of names."""
    return [path for path in sorted(folder.iterdir()) if path.name not in ("in", "ward") and not path.name.endswith(".names.csv")]


def test_the_search_sees_a_word_however_it_is_packed(tmp_path: Path) -> None:
    word = f"{WORD}07"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", f"before {word} behind")
    chunk = io.BytesIO()
    from PIL import Image, PngImagePlugin

    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", word, zip=True)
    Image.new("L", (4, 4)).save(chunk, "PNG", pnginfo=note)
    held = {"plain": b"\0\1" + word.lower().encode(), "wide": word.encode("utf-16-le"), "wider": b"\0" + word.encode("utf-16-be"),
            "zip": packed.getvalue(), "gzip": gzip.compress(word.encode()), "chunk": chunk.getvalue(),
            "page": b"<img src='data:image/png;base64," + base64.b64encode(chunk.getvalue()) + b"'>",
            "hash": hashlib.sha256(f"{WORD}01P3".encode()).hexdigest().encode()}
    for name, data in held.items():
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(data)
    seen = search([tmp_path / "out"], secrets())
    assert {Path(file).name for file, _ in seen.hits} == set(held)
    assert seen.files == len(held)
    (tmp_path / f"x{WORD}").mkdir()
    assert search([tmp_path / f"x{WORD}"], [WORD]).hits != ()
    assert len(TEXTS) >= 20


@pytest.mark.parametrize("kind", ["dicom", "nifti", "pictures"])
def test_a_word_planted_wherever_a_name_can_stand_is_in_no_byte_of_any_result(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    make = {"dicom": dicom_set, "nifti": nifti_set, "pictures": picture_set}[kind]
    data = make(tmp_path / "in")
    if kind == "dicom":
        broken = data / "a" / f"{WORD}FOLDER" / f"{WORD}BROKEN.dcm"
        broken.write_bytes(next(data.glob("a/*/*.dcm")).read_bytes()[:900])
    own: dict[str, Any] = {**QUICK, "data": str(data), "skip_bad_images": True, **({"hide_names": "always"} if kind == "pictures" else {})}
    for name, change in (("vanilla", {"method": "vanilla"}), ("rd", {})):
        out = tmp_path / "ward" / WORD / name if name == "rd" else tmp_path / name
        typed = f"rd-distill --data={data} --out {out} --bank=banks/own"
        assert distill(settings(**own, **change, out=out), typed) == 0
    assert export(ExportSettings(student_dir=tmp_path / "vanilla", out=tmp_path / "artifact", samples=5, golden_images=8), "rd-export") == 0
    said = "".join(capfd.readouterr())
    if kind == "dicom":
        header = [text for text in secrets() if text != WORD]
        assert not [text for text in header if text.lower() in said.lower()], "the terminal names files, and no text of a header"
    shutil.move(tmp_path / "ward" / WORD / "rd", tmp_path / "rd")
    places = outputs(tmp_path)
    assert {"vanilla", "rd", "artifact", "banks"} <= {path.name for path in places}
    seen = search(places, secrets())
    assert seen.hits == ()
    assert seen.files > 30
    assert search([names_file(tmp_path / "vanilla")], [WORD]).hits != (), "the list beside it is where names are"
    rows = read_table(names_file(tmp_path / "vanilla"))
    listed = {row["key"]: row["path"] for row in rows}
    assert listed["<data>"] == str(data)
    keys = [row["key"] for row in read_table(tmp_path / "vanilla" / "split.csv")]
    assert set(keys) == set(listed) - {"<data>"}
    assert all(hashlib.sha256(Path(listed[key]).read_bytes()).hexdigest().startswith(key.removeprefix("image-")) for key in keys)
    assert stat.S_IMODE(names_file(tmp_path / "vanilla").stat().st_mode) == 0o600
    assert keys == [row["key"] for row in read_table(tmp_path / "rd" / "split.csv")], "two runs pair by their keys"
    (tmp_path / "rd" / "metrics.json").write_text(f"{{\"note\": \"{WORD}33\"}}")
    assert search(places, secrets()).hits == (("rd/metrics.json", WORD),)


def test_export_finds_the_images_beside_the_student_and_says_what_is_missing_without_the_list(tmp_path: Path) -> None:
    data = dicom_set(tmp_path / "in")
    assert run(**QUICK, data=str(data), method="vanilla") == 0
    manifest = read_manifest(Path("student"), "student")
    images = images_for(manifest, folder=Path("student"))
    assert images.keys == tuple(row["key"] for row in read_table(Path("student/split.csv")))
    assert images.digest == manifest["parents"]["images"]
    inside = data / "artifact"
    with pytest.raises(UserError, match="lies inside the student's images"):
        export(ExportSettings(out=inside), "")
    shutil.move("student", "elsewhere")
    moved = ExportSettings(student_dir=Path("elsewhere"), out=Path("artifact"), samples=5, golden_images=8)
    with pytest.raises(UserError, match=r"elsewhere\.names\.csv, which says it, is not there; .*name them with --data"):
        export(moved, "")
    assert images_for(manifest, str(data), Path("elsewhere")).keys == images.keys
    shutil.move("student.names.csv", "elsewhere.names.csv")
    assert export(moved, "") == 0
    for text in ("key,path\n", "key,path\n<data>\n", "no list", "\xff"):
        Path("elsewhere.names.csv").write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=r"elsewhere\.names\.csv"):
            images_for(manifest, folder=Path("elsewhere"))


def test_pictures_keep_their_names_and_every_set_can_be_hidden_or_shown(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "in" / "set", {"a": 14, "b": 14})
    assert run(**QUICK, data=str(data), method="vanilla", out=Path("shown")) == 0
    assert not names_file(Path("shown")).exists()
    assert {row["key"] for row in read_table(Path("shown/split.csv"))} == {f"{name}/{row}.png" for name in "ab" for row in range(14)}
    assert read_manifest(Path("shown"), "student")["settings"]["data"] == str(data)
    assert run(**QUICK, data=str(data), method="vanilla", out=Path("hidden"), hide_names="always") == 0
    assert (Path("shown") / "model.safetensors").read_bytes() == (Path("hidden") / "model.safetensors").read_bytes()
    assert [row["split"] for row in read_table(Path("shown/split.csv"))] == [row["split"] for row in read_table(Path("hidden/split.csv"))]
    files = dicom_set(tmp_path / "in" / "dicom")
    assert run(**QUICK | {"bank": None}, data=str(files), method="vanilla", out=Path("never"), hide_names="never") == 0
    assert not names_file(Path("never")).exists()
    assert WORD in (Path("never") / "split.csv").read_text()


def test_an_interrupted_run_of_hidden_names_ends_as_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {**QUICK, "epochs": 2, "data": str(dicom_set(tmp_path / "in")), "method": "vanilla"}
    assert run(**own, out=Path("whole")) == 0
    killed_in_epoch(monkeypatch, 2, **own, out=Path("broken"))
    assert run(**own, out=Path("broken"), resume=True) == 0
    whole, broken = tree(Path("whole")), tree(Path("broken"))
    same = ("model.safetensors", "predictions.csv", "split.csv", "metrics.json")
    assert {name: whole[name] for name in same} == {name: broken[name] for name in same}
    before = tree(Path("broken"))
    Path("broken.partial").mkdir()  # as after a kill between the folder's last rename and the end
    assert run(**own, out=Path("broken"), resume=True) == 0
    assert tree(Path("broken")) == before
    other = class_folders(tmp_path / "in" / "other", {"a": 14, "b": 14})
    assert "not empty" in refused(USAGE, **{**own, "data": str(other)}, out=Path("broken"), resume=True)


def test_from_python_names_are_hidden_in_what_is_saved(tmp_path: Path) -> None:
    from distill import distil

    data = dicom_set(tmp_path / "in")
    result = distil(data, student="test_efficientnet", method="vanilla", size=32, epochs=1, min_steps=0, batch=8, bootstrap=2, device="cpu",
                    quiet=True)
    result.save("kept")
    assert search([Path("kept")], secrets()).hits == ()
    assert read_manifest(Path("kept"), "student")["command"].startswith("distil(data='<data>', ")
    assert images_for(read_manifest(Path("kept"), "student"), folder=Path("kept")).keys == tuple(
        row["key"] for row in read_table(Path("kept/split.csv")))


def test_unlabelled_images_are_hidden_and_found_again(tmp_path: Path) -> None:
    data, more = dicom_set(tmp_path / "in"), tmp_path / "in" / f"{WORD}MORE"
    more.mkdir()
    for place in range(3):
        levels = np.random.default_rng(place).integers(0, 4000, (32, 32)).astype(np.uint16)
        write_dicom(more / f"{WORD}{place}.dcm", levels, PatientID=f"U{place}")
    assert run(**QUICK, data=str(data), unlabelled=more, method="vanilla") == 0
    assert search([Path("student")], [WORD]).hits == ()
    images = images_for(read_manifest(Path("student"), "student"), folder=Path("student"))
    assert images.facts["unlabelled"] == 3
    assert images.keys == tuple(row["key"] for row in read_table(Path("student/split.csv")))
    names_file(Path("student")).unlink()
    again = images_for(read_manifest(Path("student"), "student"), str(data), Path("student"))
    assert (len(again), again.facts["unlabelled"]) == (len(images) - 3, 0)


def test_what_is_no_list_of_ours_is_not_written_over(tmp_path: Path) -> None:
    data = dicom_set(tmp_path / "in")
    Path("student.names.csv").write_text("my own notes\n")
    assert "student.names.csv" in refused(USAGE, **QUICK, data=str(data), method="vanilla")
    assert Path("student.names.csv").read_text() == "my own notes\n"
    Path("student.names.csv").unlink()
    assert run(**QUICK, data=str(data), method="vanilla") == 0
    assert run(**QUICK, data=str(data), method="vanilla", overwrite=True) == 0


def test_keys_are_as_many_as_images_and_say_which_hash() -> None:
    hashes = [hashlib.sha256(bytes([row])).hexdigest() for row in (1, 2, 1, 3, 1)]
    keys = hidden_keys(hashes)
    assert len(set(keys)) == 5
    assert [key[6:22] for key in keys] == [digest[:16] for digest in hashes]


def test_what_is_kept_of_settings_can_be_typed_and_holds_no_folder(tmp_path: Path) -> None:
    from distill.settings.distill import DistillSettings

    (tmp_path / "net").mkdir()
    typed = settings(data=f"/x/{WORD}/set", out=Path(f"/x/{WORD}/student"), unlabelled=Path(f"/x/{WORD}"), bank=Path(f"{WORD}/bank"),
                     teacher=f"hf:{tmp_path}/net", flip=False, latency_table=None, max_params="0.5M", volume_window=(0.0, 80.0))
    kept = kept_settings(record(typed))
    assert (kept["data"], kept["unlabelled"], kept["out"], kept["bank"], kept["teacher"]) == (
        "<data>", "<unlabelled>", "student", "bank", "hf:net")
    assert kept_settings({"teacher": "hf:facebook/dinov2-small"}) == {"teacher": "hf:facebook/dinov2-small"}
    import shlex

    again = parse(DistillSettings, shlex.split(kept_command(record(typed), "rd-distill ..."))[1:], "rd-distill")
    assert record(again) == kept
    assert kept_command({**record(typed)}, "distil(data='x')").startswith("distil(data='<data>', ")
