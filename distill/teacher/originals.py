"""The original that a teacher folder's adapters stand on, kept in the folder, so that the next task begins where the first one did.

Owns: what is kept of an original and making it a Teacher again, whatever kind it was of. Does not own: where its tensors lie
(networks/tasks.py), opening a teacher for training (adaptation/adaptable.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distill.networks.encoders import TransformersNet
from distill.networks.models import Model, ModelSpec
from distill.networks.nets import build_net, classifier_of
from distill.networks.solid import SolidNet
from distill.networks.tasks import AGAIN, digest_of
from distill.teacher.teacher import Teacher
from distill.teacher.teachers import FolderNet
from distill.teacher.timm_network import PooledNet
from runtimes.artifact.trained import ORIGINAL
from runtimes.errors import UserError
from runtimes.files.schema import check
from runtimes.images.spec import ImageSpec


@dataclass(frozen=True)
class Original:
    """A teacher as it was before any adapter; net_hash: of its whole network, its own classifier included; public: its name outside."""

    teacher: Teacher
    net_hash: str
    public: str


def body_of(net: nn.Module) -> nn.Module:
    """The network of a teacher that shows its layers, as a model holds it."""
    if isinstance(net, FolderNet):
        return net.model.net
    return net.net if isinstance(net, PooledNet) else net


def record_original(original: Original, spec: ModelSpec) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a folder keeps of an original, and its tensors by digest; its classifier, which no task uses, is left out.

    spec: of the network that adapters are put into.
    """
    teacher, body = original.teacher, body_of(original.teacher.net)
    head = classifier_of(body)[-1]
    beginning = next(name for name, module in body.named_modules() if module is head) + "."
    state = {name: tensor for name, tensor in body.state_dict().items() if not name.startswith(beginning)}
    digests = {name: digest_of(tensor) for name, tensor in state.items()}
    plain = ModelSpec(spec.arch, spec.height, spec.width, "binary", ("no", "yes"), spec.arguments, slices=spec.slices if spec.solid else 0)
    record = {"name": teacher.name, "public": original.public, "hash": teacher.hash, "net_hash": original.net_hash,
              "licence": teacher.licence, "pooling": teacher.pooling, "channels": teacher.channels, "assumed": teacher.assumed,
              "folder": isinstance(teacher.net, FolderNet), "model": plain.as_dict(), "image": teacher.image_spec.as_dict()}
    return {"teacher": record, "tensors": digests}, {digests[name]: tensor for name, tensor in state.items()}


def open_original(record: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Original:
    """The original that a folder kept, frozen; UserError where its record or tensors make no network. where: what an error calls it."""
    check(record, ORIGINAL, where, AGAIN)
    try:
        spec = ModelSpec.from_dict(record["model"])
        net = build_net(spec.arch, spec.height, spec.width, spec.outputs, **spec.arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}; {AGAIN}") from None
    head = classifier_of(net)[-1]
    beginning = next(name for name, module in net.named_modules() if module is head) + "."
    try:
        image_spec = ImageSpec.from_dict(record["image"])
        different = net.load_state_dict(dict(state), strict=False)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: the original does not fit {spec.arch} ({str(error).splitlines()[0]}); {AGAIN}") from None
    if different.unexpected_keys or any(not name.startswith(beginning) for name in different.missing_keys):
        raise UserError(f"{where}: the original does not fit {spec.arch} ({len(different.missing_keys)} missing, "
                        f"{len(different.unexpected_keys)} unexpected tensors); {AGAIN}")
    if record["folder"]:
        net = FolderNet(Model(spec, net))
    elif isinstance(net, TransformersNet | SolidNet):
        net.classifier = nn.Identity()  # as a teacher answers features
    else:
        net = PooledNet(net)
    teacher = Teacher(record["name"], net.eval().requires_grad_(False), image_spec, record["hash"], record["licence"],
                      dict(spec.arguments), record["pooling"], spec.arch, record["channels"], record["assumed"])
    return Original(teacher, record["net_hash"], record["public"])
