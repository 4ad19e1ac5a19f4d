"""What every command of the workshop begins with: the device asked for, the images named, one line on them.

Owns: choose_device, read_images, images_for, data_of, describe, data_name. Does not own: forms of data (data.py), settings (settings).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.data.image_set import ImageSet
from distill.data.loading import load_images
from distill.data.scan import BadImages
from distill.progress import track
from distill.settings.data import DataOptions
from distill.settings.group import from_record
from distill.settings.hidden import true_settings
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.schema import check, maybe, object_of, text
from runtimes.files.spreadsheet import write_table
from runtimes.images.volumes import VolumeSpec
from runtimes.images.windows import window_named

ALONGSIDE = object_of({}, {"out": text(65536), "unlabelled": maybe(text(65536))}, others=True)  # what a record says beside its data


def choose_device(name: str) -> str:
    """The torch device asked for; a missing one is exit code 5, `auto` is a GPU when there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name} is unknown; expected cpu, cuda, cuda:N or auto", USAGE)
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if index >= count:
            raise UserError(f"--device {name}: PyTorch sees {count} CUDA devices; use --device cpu", MISSING)
    return name


def read_images(options: DataOptions, listing: Path | None, *, unlabelled: Path | None = None, earlier: bool = False,
                examine: bool = True) -> ImageSet:
    """The images that the options name, checked file by file; bad ones are all listed in a CSV beside `listing`, where it is given.

    unlabelled: a folder of further images. earlier: as versions without --keep-together and --uncertain read them. examine: whether what
    is wrong with the set as a whole is looked for, too.
    """
    try:
        with track("data") as update:
            return load_images(options.data, task=options.task, label=options.label, seed=options.split_seed, unlabelled=unlabelled,
                               skip_bad_images=options.skip_bad_images, phantom_images=options.phantom_images,
                               phantom_size=options.phantom_size, volume=volume_spec(options),
                               windows=[window_named(name) for name in options.windows], uncertain=options.uncertain,
                               keep_together=options.keep_together, hide_names=options.hide_names, earlier=earlier,
                               series=options.dicom == "series", examine=examine, progress=update)
    except BadImages as error:
        if listing is None:
            raise
        listed = _listing_of(listing)
        listed.parent.mkdir(parents=True, exist_ok=True)
        write_table(listed, [{"path": problem.path.encode("utf-8", "backslashreplace").decode(), "reason": problem.reason,
                              "detail": problem.detail} for problem in error.problems])
        raise UserError(f"{error}; all of them are listed in {listed}", error.exit_code) from None


def _listing_of(out: Path) -> Path:
    """The file beside --out that lists bad images: a new one, or one that an earlier run wrote."""
    for number in itertools.count(1):
        path = Path(f"{out}.bad-images{'' if number == 1 else f'-{number}'}.csv")
        if not os.path.lexists(path):
            return path
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and path.open("rb").readline().rstrip() == b"path,reason,detail":
                return path
    raise AssertionError("numbers do not end")


def volume_spec(options: DataOptions) -> VolumeSpec:
    """How volumes are cut and scaled, should the data hold any; the number of slices may still be open."""
    cut = VolumeSpec(options.slices or 0, options.axis, fill=options.volume_fill, spacing_mm=options.volume_spacing,
                     size=options.volume_size)
    return cut if options.volume_window is None else replace(cut, scaling="window", window=options.volume_window)


def images_for(manifest: dict[str, Any], data: str | None = None, folder: Path | None = None) -> ImageSet:
    """The same images and split a student folder was made from, or another --data read in the same way.

    Only what the manifest says of data is read: its other settings may be those of any version. folder: where the student is, beside
    which a list says where images lie whose names are hidden.
    """
    check(manifest, object_of({"settings": ALONGSIDE}, others=True), "manifest.json", "make the folder again")
    record = {**manifest["settings"], **({"data": data} if data else {})}
    try:
        record = true_settings(record, folder)
    except UserError:
        if not data:
            raise
        record["unlabelled"] = None  # images that only train; where they lay went with the list
    earlier = "keep_together" not in record
    options = from_record(DataOptions, {"keep_together": "group", "hide_names": "never", **record})
    unlabelled = record.get("unlabelled")
    return read_images(options, Path(record.get("out") or "student"), unlabelled=Path(unlabelled) if unlabelled else None, earlier=earlier,
                       examine=False)


def data_of(manifest: dict[str, Any], folder: Path) -> str | None:
    """Where the images of a student lie, None where it is not known; of hidden names by the list beside its folder."""
    try:
        settings = true_settings(manifest.get("settings") or {}, folder)
    except UserError:  # told where the images are read, or never missed where --data names others
        return None
    return None if settings.get("data") is None or manifest.get("synthetic") else str(settings["data"])


def data_name(images: ImageSet) -> str:
    """What results call the data: the last part of --data, and that it is synthetic when it is; a hash where names are hidden."""
    return f"data-{images.digest[:8]}" if images.names else _typed_name(images)


def _typed_name(images: ImageSet) -> str:
    name = Path(str(images.facts.get("data", "images"))).name
    return f"{name} (synthetic head CT)" if images.synthetic else name


def describe(images: ImageSet) -> str:
    """One line on the data: what, task, classes, sizes of the splits."""
    counts = {split: len(images.rows(split)) for split in ("train", "val", "test")}
    kind = "findings" if images.task == "multilabel" else "classes"
    hidden = int((~images.labelled).sum())
    skipped = sum(images.facts.get("skipped", {}).values())
    return (f"{_typed_name(images)}, {images.task} ({images.facts.get('task_from', '--task')}), "
            f"{len(images.classes)} {kind}: {counts['train']:,} / {counts['val']:,} / {counts['test']:,} "
            + ("images" if images.volume is None else f"volumes of {images.volume.slices} {images.volume.axis} slices at most")
            + (f", {hidden:,} of them unlabelled" if hidden else "") + (f", {skipped} skipped" if skipped else "")
            + (", names of files hidden in results" if images.names else ""))
