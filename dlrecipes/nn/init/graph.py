"""Which activation follows each layer, and where residual branches end: read from a model's graph, else its order."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn

from dlrecipes.nn.init.gain import WEIGHTED
from dlrecipes.nn.init.probe import call_model, leaf_order
from dlrecipes.nn.init.rule import NO_ACTIVATION, Activation, activation_of, function_activation

__all__ = ["NORMS", "Branch", "Followers", "find_followers"]

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
)
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_ENDS = ("softmax", "log_softmax", "matmul", "bmm", "einsum", "scaled_dot_product_attention")


class Branch(NamedTuple):
    """A residual branch.

    Attributes:
        layers: names of its layers with weights, in order.
        end: name of the last norm, or else of the last layer with weights, in front of the sum.
    """

    layers: tuple[str, ...]
    end: str


class Followers(NamedTuple):
    """What was found out about a model.

    Attributes:
        activation: of each layer with weights, by name.
        branches: of a traced model.
        found_by: ``"graph"``: traced by ``torch.fx``; ``"execution"``: the order of calls for a batch; ``"modules"``:
            the order in which modules were defined.
        why: the error of tracing; empty for a traced model.
    """

    activation: dict[str, Activation]
    branches: tuple[Branch, ...]
    found_by: Literal["graph", "execution", "modules"]
    why: str


class _Tracer(fx.Tracer):
    """Keeps layers and norms whole, also those of other libraries: padding that depends on sizes cannot be traced."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*WEIGHTED, *NORMS)) or super().is_leaf_module(m, module_qualified_name)


def find_followers(model: nn.Module, batch: Any = None) -> Followers:
    """The activation that follows each layer with weights, through norms, sums, pooling and the like.

    Args:
        model: any; it is traced by ``torch.fx`` if it can be.
        batch: for a model that cannot: its input, a tuple of inputs, or a dict of them by name.
    """
    if isinstance(model, WEIGHTED):  # a tracer looks into its root
        return Followers({"": NO_ACTIVATION}, (), "graph", "")
    modules = dict(model.named_modules())
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever a forward does with what is no tensor
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        called = [node for node in graph.nodes if isinstance(_module(node, modules), WEIGHTED)]
        activation: dict[str, Activation] = {}
        for node in called:
            activation.setdefault(str(node.target), _follows(node, modules))
        return Followers(activation, tuple(_branches(graph, modules)), "graph", "")
    if batch is not None:
        order = [name for name, _ in leaf_order(model, lambda: call_model(model, batch))]
        return Followers(_next_in(order, modules), (), "execution", why)
    return Followers(_next_in(list(modules), modules), (), "modules", why)


def _module(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules[str(node.target)] if node.op == "call_module" else None


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> Activation | None:
    module = _module(node, modules)
    if module is not None:
        inner = getattr(module, "act", None) if isinstance(module, NORMS) else module  # timm's BatchNormAct2d
        return activation_of(inner) if isinstance(inner, nn.Module) else None
    if node.op not in ("call_function", "call_method"):
        return None
    found = function_activation(node.target, node.args, node.kwargs)
    if found == Activation("sigmoid"):  # x · sigmoid(x), written out
        source = node.args[0]
        if any(user.target in _PRODUCTS and set(user.all_input_nodes) == {source, node} for user in node.users):
            return Activation("silu")
    return found


def _follows(node: fx.Node, modules: dict[str, nn.Module]) -> Activation:
    """The nearest activation downstream that is reached without another layer with weights between."""
    queue, seen = deque(node.users), set(node.users)
    while queue:
        user = queue.popleft()
        found = _activation(user, modules)
        if found is not None:
            return found
        module = _module(user, modules)
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if isinstance(module, (*WEIGHTED, nn.MultiheadAttention, nn.Softmax)) or name in _ENDS:
            continue
        fresh = [further for further in user.users if further not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return NO_ACTIVATION


def _next_in(order: list[str], modules: dict[str, nn.Module]) -> dict[str, Activation]:
    """By the order of modules: the first activation before the next layer with weights."""
    found: dict[str, Activation] = {}
    waiting: str | None = None
    for name in order:
        module = modules[name]
        if isinstance(module, WEIGHTED):
            found.setdefault(name, NO_ACTIVATION)
            waiting = name
        elif waiting is not None and (activation := activation_of(module)) is not None:
            if found[waiting] == NO_ACTIVATION:
                found[waiting] = activation
            waiting = None
    return found


def _branches(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[Branch]:
    """Sums of a path with layers and a shortcut: the same signal as it was, or through one layer at most."""
    above: dict[fx.Node, set[fx.Node]] = {}
    number = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        above[node] = {node}.union(*(above[source] for source in node.all_input_nodes))
        sources = node.all_input_nodes
        if node.target not in _ADDS or len(sources) != 2:
            continue
        common = above[sources[0]] & above[sources[1]]
        if not common:
            continue
        own = [_weighted(above[source] - common, modules, number) for source in sources]
        short, long = sorted((0, 1), key=lambda side: len(own[side]))
        inner = above[sources[long]] - common
        if len(own[short]) > 1 or len(own[short]) == len(own[long]) or any(n.target in _ADDS for n in inner):
            continue
        end = _nearest_above(sources[long], lambda n: isinstance(_module(n, modules), (*WEIGHTED, *NORMS)))
        if end is not None and end in inner:
            yield Branch(tuple(str(layer.target) for layer in own[long]), str(end.target))


def _weighted(nodes: set[fx.Node], modules: dict[str, nn.Module], number: dict[fx.Node, int]) -> list[fx.Node]:
    return sorted((n for n in nodes if isinstance(_module(n, modules), WEIGHTED)), key=number.__getitem__)


def _nearest_above(node: fx.Node, wanted: Callable[[fx.Node], bool]) -> fx.Node | None:
    queue = deque([node])
    while queue:
        candidate = queue.popleft()
        if wanted(candidate):
            return candidate
        queue.extend(candidate.all_input_nodes)
    return None
