"""A network of the user's own: its features of one vector an image, a linear head behind them, and how it is kept without its code.

Owns: StudentNetwork, OwnStudent, FeatureNet, the program (torch.export) that stands in for the code. Does not own: reading programs
safely (programs.py), the weights and the config beside one (checkpoint.py), teachers (teacher/own.py).
"""

from __future__ import annotations

import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from distill.networks.programs import image_sides, load_program
from runtimes.errors import UserError

PREFIX = "program/"  # of ModelSpec.arch
PROGRAM = "network.pt2"  # beside the weights
NAME = re.compile(r"\w[\w.-]{0,63}")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAME = 1e-4  # how far the answers of a network and of its program may lie apart, relative to the largest
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node")  # paths and names of the user's code
PoolWord = Literal["auto", "cls", "mean"]
Pool = PoolWord | Callable[[Any], Tensor]
PLACES: dict[int, tuple[int, ...]] = {2: (), 3: (1,), 4: (2, 3)}  # what is averaged, by the number of dimensions of an answer


@dataclass(frozen=True)
class StudentNetwork:
    """A student of your own: `net` as it starts, and where its features are.

    features: the name of a module inside `net` whose output are the features, or None where `net` itself answers them: vectors (B, D),
    maps (B, C, h, w) or tokens (B, T, D), of which the mean is taken. mean, std: what its pixels are normalised with. name: what
    results call it, the name of its class when not given. `net` is copied, never changed.
    """

    net: nn.Module
    features: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    name: str | None = None


def vectors(output: Any, pool: Pool, who: str) -> Tensor:
    """One vector an image, (B, D), of what a network answers; auto: maps and tokens are averaged, a pooled output of transformers taken."""
    if callable(pool):
        features = pool(output)
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise UserError(f"the pool of {who} answers {_shape(features)}, expected one vector an image: a tensor (B, D)")
        return features
    if not isinstance(output, Tensor):  # what transformers answer
        summary = getattr(output, "pooler_output", None) if pool == "auto" else None
        output = summary.flatten(1) if isinstance(summary, Tensor) else getattr(output, "last_hidden_state", output)
    if not isinstance(output, Tensor) or output.ndim not in PLACES:
        raise UserError(f"{who} answers {_shape(output)}, expected a tensor (B, D), (B, T, D) or (B, C, h, w)")
    if pool == "cls":
        if output.ndim != 3:
            raise UserError(f"{who} answers {_shape(output)}, which has no class token; expected tokens (B, T, D), or another pool")
        return output[:, 0]
    return output.mean(dim=PLACES[output.ndim]) if output.ndim > 2 else output


def _shape(output: Any) -> str:
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__


class FeatureNet(nn.Module):
    """A network and its pooling: pixels (B, 3, h, w) to features (B, D). Of a timm network the features before its classifier."""

    def __init__(self, net: nn.Module, pool: Pool = "auto", who: str = "the network") -> None:
        super().__init__()
        self.net = net
        self.pool = pool
        self.who = who
        self.places: tuple[int, ...] | None = None

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, (B, D)."""
        answer = self._answer(pixels)
        if self.places is None:
            return vectors(answer, self.pool, self.who)
        return answer.mean(dim=self.places) if self.places else answer

    def settle(self, pixels: Tensor) -> None:
        """Look once at what the network answers, so that torch.fx, which has no values, can follow the pooling, too."""
        answer = self._answer(pixels)
        if self.pool == "auto" and isinstance(answer, Tensor):
            self.places = PLACES.get(answer.ndim)

    def _answer(self, pixels: Tensor) -> Any:
        if not (hasattr(self.net, "forward_features") and hasattr(self.net, "forward_head")):
            return self.net(pixels)
        maps = self.net.forward_features(pixels)  # type: ignore[operator]
        return self.net.forward_head(maps, pre_logits=True) if self.pool == "auto" else maps  # type: ignore[operator]


class _Layer(nn.Module):
    """A network up to one of its modules, as torchvision cuts it out: pixels to what that module answers."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, pixels: Tensor) -> Tensor:
        return self.graph(pixels)["features"]  # type: ignore[no-any-return]


def up_to(net: nn.Module, layer: str, who: str) -> nn.Module:
    """A copy of a network up to one of its modules; UserError where there is none of that name, or torch.fx cannot follow the code."""
    from torchvision.models.feature_extraction import create_feature_extractor

    modules = [name for name, _ in net.named_modules() if name]
    if layer not in modules:
        tops = [name for name, _ in net.named_children()]
        more = ", ..." if len(modules) > len(tops[:12]) else ""
        raise UserError(f"{who} has no module {layer!r}; it has {', '.join(tops[:12]) or 'none within itself'}{more}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what fx remarks on code that it follows all the same
            return _Layer(create_feature_extractor(copied(net, who), {layer: "features"}, suppress_diff_warning=True))
    except UserError:
        raise
    except Exception as error:  # fx raises whatever the network's own code raises on a symbol
        raise UserError(f"{who} cannot be cut at {layer!r}: torch.fx cannot follow its code ({type(error).__name__}); give a module that "
                        "returns the features itself, and leave the layer's name out") from None


def copied(net: nn.Module, who: str) -> nn.Module:
    """A copy in eval mode on the CPU in fp32: the user's own network stays as it is."""
    try:
        return deepcopy(net).to("cpu").float().eval()
    except Exception as error:  # whatever a module holds that cannot be copied
        raise UserError(f"{who} cannot be copied ({type(error).__name__}: {_first_line(error)}); expected a module that copy.deepcopy "
                        "takes") from None


def name_of(net: Any, name: str | None, what: str) -> str:
    """What results call a network; UserError where it is none, or its name is no plain word."""
    if not isinstance(net, nn.Module):
        raise UserError(f"{what}(net=...) is {type(net).__name__}, expected a torch.nn.Module")
    called = type(net).__name__ if name is None else name
    if not isinstance(called, str) or not NAME.fullmatch(called) or called.endswith(".pt2"):
        raise UserError(f"{what}(name={called!r}) is no plain name; expected up to 64 letters, digits, _, - and .")
    return called


def levels_of(values: Any, what: str, *, positive: bool = False) -> tuple[float, float, float]:
    """Mean or std of pixels as three floats; UserError for anything else."""
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        raise UserError(f"{what} is {values!r}, expected three numbers, one a colour") from None
    if not all(abs(value) <= 1e3 and (value >= 1e-4 or not positive) for value in (red, green, blue)):
        kind = "numbers above 0" if positive else "finite numbers"
        raise UserError(f"{what} is {values!r}, expected three {kind}, of pixels from 0 to 1")
    return red, green, blue


@dataclass(frozen=True)
class OwnStudent:
    """A student network as the story takes it: its name, its body from pixels to features (B, D), what its pixels are normalised with."""

    name: str
    body: FeatureNet
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def arch(self) -> str:
        """Its architecture in a ModelSpec."""
        return PREFIX + self.name


def own_student(network: StudentNetwork) -> OwnStudent:
    """A StudentNetwork, checked, copied and cut; UserError says what does not fit."""
    name = name_of(network.net, network.name, "StudentNetwork")
    who = f"student {name}"
    if network.features is not None and not isinstance(network.features, str):
        raise UserError(f"StudentNetwork(features={network.features!r}) is no name; expected that of a module inside the network")
    net = copied(network.net, who) if network.features is None else up_to(network.net, network.features, who)
    return OwnStudent(name, FeatureNet(net, who=who), levels_of(network.mean, "StudentNetwork(mean=...)"),
                      levels_of(network.std, "StudentNetwork(std=...)", positive=True))


def tried(own: OwnStudent, height: int, width: int) -> int:
    """The width D of a student's features, once it has been run, exported, read back and compared; UserError before any work is done."""
    who = f"student {own.name}"
    pixels = torch.linspace(-2, 2, 3 * 3 * height * width).view(3, 3, height, width)
    try:
        with torch.no_grad():
            expected = own.body(pixels)
            own.body.settle(pixels)
            deepcopy(own.body).train()(pixels)  # some networks answer otherwise while they are trained
    except UserError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise UserError(f"{who} cannot take {height}x{width} pixels ({type(error).__name__}: {_first_line(error)}); give another size, or "
                        "another network") from None
    if expected.shape[0] != 3 or not expected.shape[1]:
        raise UserError(f"{who} answers features of shape {tuple(expected.shape)} for 3 images, expected (3, D)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROGRAM
        try:
            save_body(path, own.body, height, width)
            again = load_body(path, int(expected.shape[1]), height, width)
        except UserError as error:
            raise UserError(f"{who} cannot be kept without its code: {str(error).replace(str(path), 'its program')}") from None
    with torch.no_grad():
        apart = float((again(pixels) - expected).abs().max())
    if not apart <= SAME * max(1.0, float(expected.abs().max())):
        raise UserError(f"{who} answers otherwise once it is exported (features differ by {apart:.1e}); it may draw at random or keep a "
                        "state, which a student must not in eval mode")
    return int(expected.shape[1])


def save_body(path: Path, body: nn.Module, height: int, width: int) -> None:
    """Write a body as a program of torch.export, in eval mode, for any batch; UserError where torch cannot follow its code."""
    plain = deepcopy(body).to("cpu").eval()
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.contiguous()
    try:
        with _silent():
            program = torch.export.export(plain, (torch.zeros(2, 3, height, width),),
                                          dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            for node in (node for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)
                         for node in module.graph.nodes):
                for key in TRACES:
                    node.meta.pop(key, None)
            torch.export.save(program, path)
    except Exception as error:  # the exporter raises many types for what it cannot follow
        raise UserError(f"torch.export cannot follow it for a batch of any size ({type(error).__name__}: {_first_line(error)}); give a "
                        "network whose steps depend neither on the values of its images nor on their number (x.shape[0], never len(x))"
                        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter's deprecations, logs and listings are kept from the user, who is told what went wrong in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def load_body(path: Path, features: int, height: int, width: int) -> nn.Module:
    """Read a body that save_body wrote, safely; UserError unless it takes such images and answers (B, features)."""
    program = load_program(path)
    sides = image_sides(program, path)[1:]
    if sides != (height, width):
        raise UserError(f"{path} takes {sides[0]}x{sides[1]} pixels, expected {height}x{width} as the folder says")
    try:
        module = program.module(check_guards=False)
        body = fx.GraphModule(module, module.graph)  # unlike a program's own module it can be copied and set to eval mode
        with torch.no_grad():
            answer = body(torch.zeros(2, 3, height, width))
    except Exception as error:  # a program from anywhere raises anything
        raise UserError(f"{path} cannot be run ({type(error).__name__}: {_first_line(error)}); make the folder again") from None
    if not isinstance(answer, Tensor) or answer.shape != (2, features) or answer.dtype != torch.float32:
        raise UserError(f"{path} answers {_shape(answer)} for 2 images, expected (2, {features}) in float32; make the folder again")
    return body.eval()


class OwnNet(nn.Module):
    """A body that answers features (B, D) and a linear classifier behind it, seen as timm sees a network."""

    def __init__(self, body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.classifier = nn.Linear(features, outputs)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to features (B, D)."""
        return self.body(pixels)  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to scores, or as they are."""
        return features if pre_logits else self.classifier(features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to scores."""
        return self.forward_head(self.forward_features(pixels))

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.classifier


def _first_line(error: Exception) -> str:
    return next((line.strip()[:160] for line in str(error).splitlines() if line.strip()), "no reason given")
