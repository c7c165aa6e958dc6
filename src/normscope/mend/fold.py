"""Batch normalization folded into the convolution or linear layer before it, for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from normscope.arguments import judged
from normscope.mend.folding import Folding, NotUnderstoodError, named
from normscope.mend.forward_paths import WEIGHTED, Path, is_batch_norm, method_without
from normscope.mend.traced_paths import UntraceableError, trace_all
from normscope.user_models.plain_layers import alteration, forward_override


@judged
def fold(
    model: nn.Module, batches: Iterable[Any] | None = None, *, partial: bool = False
) -> nn.Module:
    """A copy of the model in eval mode, with batch normalization folded into what comes right
    before it.

    W' = W g / sqrt(v + eps), b' = b + (c - m) g / sqrt(v + eps), with the weight g, the bias c and
    the running statistics m and v, computed in float64. A folded normalization becomes nn.Identity,
    or, if its class does something more behind the normalization (an activation, as in timm's
    BatchNormAct2d), a module of just that.

    A layer is folded only if in every way through the forward both layers run once, nothing else
    reads the convolution's output or their weights, and neither has hooks or parametrizations. A
    subclass's own forward must keep its function in the fold, which is tried on random inputs. The
    ways are found by symbolic tracing (torch.fx) with optional arguments at their defaults;
    convolutions are taken to get batches. What has no convolution or linear layer right before it
    stays as it is, and a warning says so. Data parallel and compiled wrappers are taken off.

    Tracing patches nn.Module: run no model in another thread meanwhile.

    Args:
        model: the model; it is not changed.
        batches: up to 16 batches of inputs. The ways that they take through the forward count too,
            and are enough for a model that cannot be traced. The outputs before and after are
            compared.
        partial: fold what can be folded and warn of layers that are not understood, in place of
            refusing the model.

    Raises:
        InputError: if there is no layer to fold, one is not understood, the model cannot be
            traced and there are no batches, or outputs differ by more than rounding.
    """
    return BATCH_NORM.run(model, batches, partial)


def _plan(model: nn.Module, name: str, paths: list[Path]) -> Callable[[], None] | str:
    """What folds a normalization, or why it stays."""
    norm, weighted = model.get_submodule(name), _source(model, name, paths)
    if weighted:
        for each in (name, weighted):
            layer = model.get_submodule(each)
            if altered := alteration(layer):
                raise NotUnderstoodError(f"{named(each, layer)}: {altered}")
        if norm.training:
            raise NotUnderstoodError(f"{named(name, norm)}: it stays in train mode after eval()")
    reason = _why_it_stays(name, norm, weighted, paths)
    return reason if reason else _folding(model, name, weighted, paths)


def _source(model: nn.Module, name: str, paths: list[Path]) -> str:
    """The layer whose output a normalization gets on every way; empty if there is none."""
    sources = {path.source(name) for path in paths if path.calls[name]}
    source = sources.pop() if len(sources) == 1 else ""
    return source if isinstance(model.get_submodule(source), WEIGHTED) else ""


def _why_it_stays(name: str, norm: nn.Module, weighted: str, paths: list[Path]) -> str:
    """Return why a normalization stays, whatever its class; empty if it can be folded."""
    if not any(path.calls[name] for path in paths):
        return "the forward does not call it"
    if not weighted:
        return "no convolution or linear layer comes right before it"
    for path in paths:
        if path.calls[name] != path.calls[weighted]:
            return f"{weighted!r} runs without it"
        if path.calls[name] > 1:
            return "it runs more than once"
        if path.others[weighted] or path.readers(weighted) != {name}:
            return f"the output of {weighted!r} is read elsewhere too"
        if name in path.trained:
            return "the forward puts it into train mode"
        if {name, weighted} & path.read:
            return f"the weights of {weighted!r} or its own are read elsewhere too"
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it has no running statistics"
    return ""


def _folding(model: nn.Module, name: str, source: str, paths: list[Path]) -> Callable[[], None]:
    """What folds a normalization into the layer before it, if both are understood.

    Raises:
        NotUnderstoodError: if one is not.
    """
    norm, weighted = model.get_submodule(name), model.get_submodule(source)
    _check_axis(name, norm, weighted, {path.ranks.get(name) for path in paths if path.calls[name]})
    changes = forward_override(weighted), forward_override(norm)
    replacement = behind_normalization(norm) if changes[1] else nn.Identity()
    names = named(source, weighted), named(name, norm)
    for layer, label, change in zip((source, name), names, changes, strict=True):
        if change and any(layer in path.argued for path in paths):
            raise NotUnderstoodError(f"{label}: {change}, and it is called with further arguments")
    if method := method_without(model, source, name):
        raise NotUnderstoodError(f"{names[0]}: {method} calls it without the normalization")
    if replacement is None:
        raise NotUnderstoodError(f"{names[1]}: {changes[1]}, with more than one way through it")
    reasons = [f"{n}: {change}" for n, change in zip(names, changes, strict=True) if change]
    if reasons and not keeps_function(weighted, norm, replacement, _scale):
        raise NotUnderstoodError(f"{' and '.join(reasons)}, and a fold would change what it does")
    module: Any = norm  # its class is changed

    def fold_pair() -> None:
        _scale(weighted, norm)
        # In place, so that lists and attributes that hold the layer have the replacement too.
        module.__class__, module.__dict__ = type(replacement), vars(replacement)

    return fold_pair


def _check_axis(name: str, norm: nn.Module, weighted: nn.Module, ranks: set[int | None]) -> None:
    """Make sure that axis 1, which is normalized, is that of the weighted layer's outputs."""
    if isinstance(weighted, nn.Linear):
        width, allowed = weighted.out_features, {2}
        why = "behind a linear layer it can be folded only for inputs [N, C], and not for [N, L, C]"
    else:
        assert isinstance(weighted, _ConvNd)
        width, allowed = weighted.out_channels, {len(weighted.kernel_size) + 2, None}
        why = "the convolution before it gets inputs without an axis of samples"
    ranks = ranks - {None} or {None}  # what batches show holds for ways that tracing cannot tell
    if ranks == {None} and None not in allowed:
        why += "; which it gets, only batches show: fold(model, batches)"
    if not ranks <= allowed or (width,) != norm.running_mean.shape:
        raise NotUnderstoodError(f"{named(name, norm)}: {why}")


@torch.no_grad()
def _scale(weighted: nn.Module, norm: Any) -> None:
    """Scale and shift the weights as the normalization does their output."""
    assert isinstance(weighted, _ConvNd | nn.Linear)
    weight, bias = weighted.weight, weighted.bias
    gain, offset = getattr(norm, "weight", None), getattr(norm, "bias", None)
    scale = (norm.running_var.double() + getattr(norm, "eps", 1e-5)).rsqrt()
    scale = scale if gain is None else scale * gain.double()
    shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean
    shift = shift * scale if offset is None else shift * scale + offset.double()
    if isinstance(weighted, _ConvTransposeNd):  # [in, out per group, ...]: groups along the inputs
        per_input = scale.view(weighted.groups, 1, -1).expand(
            -1, len(weight) // weighted.groups, -1
        )
        factor = per_input.reshape(len(weight), -1)
    else:
        factor = scale[:, None]
    factor = factor.reshape(*factor.shape, *[1] * (weight.ndim - 2))
    weighted.weight = nn.Parameter(
        (weight.double() * factor).to(weight.dtype), weight.requires_grad
    )
    requires_grad = weight.requires_grad if bias is None else bias.requires_grad
    dtype = weight.dtype if bias is None else bias.dtype
    weighted.bias = nn.Parameter(shift.to(dtype), requires_grad)


BATCH_NORM = Folding(
    function="fold",
    what="batch normalization layers",
    nothing="batch normalization right behind a convolution or a linear layer",
    wanted=is_batch_norm,
    plan=_plan,
)


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
