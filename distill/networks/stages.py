"""A student's trunk cut into stages, so that a map from elsewhere can go on through its later ones (DRD).

Owns: finding the cuts by torch.fx and the pieces between them. Does not own: what is fed in (deep.py). A cut is a value that all of the
answer depends on alone; a stage ends at the last cut of each map size. Pieces share the student's layers and are no modules of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from distill.networks.models import Model
from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class Stages:
    """The pieces of a trunk: pixels to the first map, map to map, last map to pooled features (B, D); shapes (c, h, w) of the maps."""

    pieces: tuple[fx.GraphModule, ...]
    shapes: tuple[tuple[int, int, int], ...]

    def maps(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """The map at the end of each stage and the pooled features, of pixels (B, 3, h, w)."""
        values = [pixels]
        for piece in self.pieces:
            values.append(piece(values[-1]))
        return values[1:-1], values[-1]

    def onward(self, stage: int, value: Tensor) -> Tensor:
        """Pooled features of a map that takes the place of the one that ends `stage`."""
        for piece in self.pieces[stage + 1:]:
            value = piece(value)
        return value


class _Trunk(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.trunk(pixels)


def _tracer() -> fx.Tracer:
    """Traces as timm does: some of its layers and functions stay whole."""
    from timm.models import get_notrace_functions, get_notrace_modules

    tracer = fx.Tracer(autowrap_functions=tuple(function for function in get_notrace_functions() if callable(function)))
    whole = tuple(get_notrace_modules())
    own = tracer.is_leaf_module
    setattr(tracer, "is_leaf_module", lambda module, name: isinstance(module, whole) or own(module, name))  # noqa: B010
    return tracer


def cut_stages(model: Model, count: int) -> Stages:
    """The deepest `count` stages of a student; UserError when torch.fx cannot follow it or it has fewer."""
    trunk, spec, training = _Trunk(model), model.spec, model.training
    try:
        model.train()  # what is drawn only in training must stand in the trace
        graph = _tracer().trace(trunk)
        model.eval()
        shapes = _shapes(fx.GraphModule(trunk, graph), torch.zeros(2, 3, spec.height, spec.width))
    except Exception as error:  # tracing fails in many types
        raise UserError(f"the stages of {spec.arch} cannot be found ({type(error).__name__} while tracing); use --method rd, or a student "
                        "such as mobilenetv3, efficientnet-lite0 or resnet18", USAGE) from None
    finally:
        model.train(training)
    ends: dict[tuple[int, ...], fx.Node] = {}
    for node in _cuts(graph):
        if len(shapes.get(node.name, ())) == 4 and min(shapes[node.name][2:]) > 1:
            ends[shapes[node.name][2:]] = node  # the last one of its size stays
    chosen = list(ends.values())[-count:]
    if len(chosen) < count:
        raise UserError(f"{spec.arch} at {spec.height}x{spec.width} has {len(chosen)} stages of more than one place, --stages asks for "
                        f"{count}; ask for fewer, or use --method rd", USAGE)
    nodes = list(graph.nodes)
    edges = [nodes[0], *chosen, next(iter(nodes[-1].all_input_nodes))]
    pieces = tuple(_piece(trunk, first, last) for first, last in pairwise(edges))
    return Stages(pieces, tuple((shapes[node.name][1], shapes[node.name][2], shapes[node.name][3]) for node in chosen))


def _shapes(graph: fx.GraphModule, example: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of every value that is one tensor, by the name of its node."""
    with torch.no_grad():
        ShapeProp(graph).propagate(example)  # type: ignore[no-untyped-call]
    metas = {node.name: node.meta.get("tensor_meta") for node in graph.graph.nodes}
    return {name: tuple(meta.shape) for name, meta in metas.items() if hasattr(meta, "shape")}


def _cuts(graph: fx.Graph) -> list[fx.Node]:
    """Nodes without which nothing of the input reaches the output, in order."""
    nodes = list(graph.nodes)
    return [node for node in nodes[1:-1] if nodes[0] not in _needed(nodes[-1], node)]


def _needed(last: fx.Node, first: fx.Node) -> set[fx.Node]:
    """All that `last` is computed from without looking behind `first`, `last` among them."""
    needed, waiting = {last}, [last]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node is not first and node not in needed:
                needed.add(node)
                waiting.append(node)
    return needed


def _piece(trunk: nn.Module, first: fx.Node, last: fx.Node) -> fx.GraphModule:
    """The part of the trunk from the value of `first` to the value of `last`."""
    needed, graph = _needed(last, first), fx.Graph()
    copies = {first: graph.placeholder("value")}
    for node in first.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(copies[last])
    return fx.GraphModule(trunk, graph)
