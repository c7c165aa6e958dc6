"""Subclasses' own forwards: what comes behind a normalization, and whether a fold keeps it all."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from normscope.mend.forward_paths import UntraceableError, trace_all

SCALES = (1e-3, 1.0, 1e3, 1e6)
TOLERANCE = 1e-9  # of float64: a statistic, an eps or a term that is left out changes far more


def behind_normalization(norm: nn.Module) -> nn.Module | None:
    """Return the forward without its call of F.batch_norm, as a module; nn.Identity where tracing
    does not find one such call. A guess, for `keeps_function` to judge.

    None for a forward that cannot be traced, or does different things by the sizes or values of
    its input: no trial could tell.
    """
    try:
        ways = list(trace_all(norm))
    except UntraceableError:
        return None
    if len(ways) != 1:
        return None
    graph = ways[0].graph
    calls = [node for node in graph.nodes if node.target in (F.batch_norm, torch.batch_norm)]
    if len(calls) != 1:
        return nn.Identity()
    calls[0].replace_all_uses_with(next(iter(graph.nodes)))  # the input
    graph.erase_node(calls[0])
    behind = fx.GraphModule(ways[0].model, graph, f"{type(norm).__name__}WithoutNormalization")
    behind.graph.eliminate_dead_code()
    behind.recompile()
    behind.delete_all_unused_submodules()
    return behind.eval()


@torch.no_grad()
def keeps_function(
    weighted: nn.Module,
    norm: nn.Module,
    replacement: nn.Module,
    fold: Callable[[nn.Module, nn.Module], None],
) -> bool:
    """Tell whether the folded layer and the replacement compute what layer and normalization do.

    They are tried on copies in float64 with random weights and statistics, so that nothing is
    equal by chance, on random inputs of even and odd sizes and of scales from 0.001 to a million.
    """
    layer, normalization, rest = copy.deepcopy((weighted, norm, replacement))
    generator = torch.Generator().manual_seed(0)
    for module in (layer.double(), normalization.double(), rest.double()):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.double)
                tensor.copy_(noise + 0.25)
    inputs = [scale * x for scale in SCALES for x in _inputs(weighted, generator)]
    try:
        expected = [normalization(layer(x)) for x in inputs]
        fold(layer, normalization)
        return all(map(_agree, expected, (rest(layer(x)) for x in inputs)))
    except Exception:  # a subclass that takes other inputs, or whose weights are no parameters
        return False


def _inputs(weighted: nn.Module, generator: torch.Generator) -> list[Tensor]:
    if isinstance(weighted, nn.Linear):
        shapes = [(1, weighted.in_features), (3, weighted.in_features)]
    else:
        sizes = zip(weighted.kernel_size, weighted.dilation, strict=True)  # type: ignore[arg-type]
        least = [dilation * (size - 1) + 1 for size, dilation in sizes]
        tried = ((1, 0), (2, 1), (2, 2), (2, 5), (1, 32))  # samples, and positions beyond the first
        shapes = [(n, weighted.in_channels, *(size + more for size in least)) for n, more in tried]
    device = next(weighted.parameters()).device
    return [
        torch.randn(shape, generator=generator, dtype=torch.double).to(device)  # type: ignore[arg-type]
        for shape in shapes
    ]


def _agree(expected: Tensor, folded: Tensor) -> bool:
    same = expected.shape == folded.shape
    return same and bool((expected - folded).norm() <= TOLERANCE * expected.norm())
