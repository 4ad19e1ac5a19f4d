"""The methods by name: what each is, what it needs, and the file that holds it; importing this loads no torch.

Owns: MethodRow, METHODS. Does not own: what a method does (the file its row names), its settings (settings/method.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class MethodRow:
    """A method as data. module: the file with its `build` and `losses`; summary: its words in --help.

    bank: it needs a teacher's bank. probe: it is taught the logits of the teacher's linear probe. stages: it is taught maps of the
    teacher's stages. branch: a teacher branch learns beside the student. probe_when_labelled: of images that all carry a label it
    distils the probe's logits when left to itself. fades: its weights of the teacher fall to zero when left to itself. one_finding: it
    cannot teach several findings an image. same_places: student and teacher must see the same view.
    """

    module: str
    summary: str
    bank: bool = True
    probe: bool = False
    stages: bool = False
    branch: bool = False
    probe_when_labelled: bool = False
    fades: bool = False
    one_finding: bool = False
    same_places: bool = False


METHODS: dict[str, MethodRow] = {
    "rd": MethodRow("distill.methods.rd", "Reprogramming Distillation", branch=True, probe_when_labelled=True),
    "drd": MethodRow("distill.methods.drd", "rd of stages, too", branch=True, stages=True, fades=True),
    "kd": MethodRow("distill.methods.kd", "logits", probe=True),
    "dkd": MethodRow("distill.methods.dkd", "logits, decoupled", probe=True, one_finding=True),
    "dist": MethodRow("distill.methods.dist", "logits by correlation", probe=True),
    "fitnet": MethodRow("distill.methods.fitnet", "features"),
    "rkd": MethodRow("distill.methods.rkd", "relations of features"),
    "crd": MethodRow("distill.methods.crd", "features by contrast"),
    "spkd": MethodRow("distill.methods.spkd", "similarities of features"),
    "at": MethodRow("distill.methods.at", "maps", stages=True, same_places=True),
    "vanilla": MethodRow("distill.methods.vanilla", "labels alone", bank=False),
}
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[(*METHODS, "auto")]
TRIALS = ("vanilla", "kd", "rd", "drd")  # what --method auto tries, from the simple to the rich


def described() -> str:
    """All methods in one sentence, for --help."""
    return "; ".join(f"{name}: {row.summary}" for name, row in METHODS.items()) + "; auto: by trial."


def needs_bank(method: str) -> bool:
    """Whether a method, or one that auto may choose, is taught by a teacher."""
    return method not in METHODS or METHODS[method].bank
