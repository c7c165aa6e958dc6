"""Batch normalization folded into the convolution or linear layer before it, for inference."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from normscope.errors import InputError, NormscopeWarning, check_type
from normscope.mend.forward_paths import (
    Path,
    UntraceableError,
    is_batch_norm,
    operations,
    traced_paths,
)
from normscope.mend.observed_paths import observed_paths, outputs_of
from normscope.mend.other_readers import method_without
from normscope.mend.own_forwards import behind_normalization, keeps_function
from normscope.user_models.batch_reader import Batch, read_batches
from normscope.user_models.plain_layers import alteration, forward_override
from normscope.user_models.wrappers import unwrapped_model


class NotUnderstoodError(InputError):
    """A layer does something that cannot be folded safely."""


class _Pair(NamedTuple):
    """A normalization to fold: the layer it goes into, and what replaces it."""

    weighted: nn.Module
    norm: nn.Module
    replacement: nn.Module


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
    check_type("model", model, nn.Module)
    folded = _copy(unwrapped_model(model)).eval()
    read = read_batches(batches, folded) if batches is not None else []
    paths = _paths(folded, read)
    pairs, left = _sort(folded, paths, partial)
    if not pairs:
        raise InputError(
            "The model has no batch normalization right behind a convolution or a linear layer "
            f"that could be folded{_listed(left)}."
        )
    expected = [outputs_of(folded, read, number) for number in range(len(read))]
    names = [
        name for name, module in folded.named_modules() if any(module is p.norm for p in pairs)
    ]
    for weighted, norm, replacement in pairs:
        _scale(weighted, norm)
        # In place, so that lists and attributes that hold the layer have the replacement too.
        norm.__class__, norm.__dict__ = type(replacement), vars(replacement)
    _check_ways(folded, names, paths)
    for number, outputs in enumerate(expected):
        _compare(number, outputs, outputs_of(folded, read, number))
    if left:
        warnings.warn(
            f"{len(left)} of {len(left) + len(pairs)} batch normalization layers are left as they "
            f"are{_listed(left)}.",
            NormscopeWarning,
            stacklevel=2,
        )
    return folded


def _check_ways(folded: nn.Module, norms: list[str], before: list[Path]) -> None:
    """Make sure that the folded model takes the same ways: a forward may ask for a layer's class or
    for its bias.

    Raises:
        InputError: if it does not.
    """
    ways = [path.operations for path in before if path.operations]
    if ways and operations(folded, norms) != ways:
        raise InputError(
            "The model cannot be folded: its forward looks at its layers (their class, bias or "
            "other attributes) and would take another way."
        )


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy, and a clear error where PyTorch cannot make one."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # computed tensors and lazy layers, or whatever a model holds
        for name, module in model.named_modules():
            if reason := alteration(module):
                raise InputError(f"{_named(name, module)} cannot be copied: {reason}.") from error
        raise InputError(f"The model cannot be copied: {type(error).__name__}: {error}") from error


def _paths(model: nn.Module, batches: list[Batch]) -> list[Path]:
    try:
        traced = traced_paths(model)
    except UntraceableError as error:
        if not batches:
            raise InputError(
                f"The model cannot be folded without batches: {error}. "
                "Give batches of its inputs: fold(model, batches)."
            ) from error
        traced = []
    return traced + observed_paths(model, batches)


def _sort(model: nn.Module, paths: list[Path], partial: bool) -> tuple[list[_Pair], list[str]]:
    """(the pairs to fold, the layers that stay and why); raises for a layer that is not understood
    unless the fold may be partial.
    """
    pairs, left, refused = [], [], []
    for name, norm in model.named_modules():
        if not is_batch_norm(norm):
            continue
        try:
            weighted = _source(name, paths)
            if weighted:
                _refuse_altered(model, name, weighted)
            reason = _why_it_stays(name, norm, weighted, paths)
            if reason:
                left.append(f"{_named(name, norm)}: {reason}")
            else:
                pairs.append(_pair(model, name, weighted, paths))
        except NotUnderstoodError as error:
            refused.append(str(error))
    if refused and not partial:
        raise NotUnderstoodError(
            f"The model is not folded, for not all of it is understood{_listed(refused)}. "
            "To fold the rest: fold(model, partial=True)."
        )
    return pairs, left + refused


def _source(name: str, paths: list[Path]) -> str:
    """The layer whose output a normalization gets on every way; empty if there is none."""
    sources = {path.sources.get(name, "") for path in paths if path.calls[name]}
    return sources.pop() if len(sources) == 1 else ""


def _refuse_altered(model: nn.Module, *names: str) -> None:
    """Make sure that nothing was done to these layers that their classes do not show."""
    for name in names:
        layer = model.get_submodule(name)
        reason = alteration(layer)
        if layer.training and is_batch_norm(layer):
            reason = "it stays in train mode after eval()"
        if reason:
            raise NotUnderstoodError(f"{_named(name, layer)}: {reason}")


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
        if path.others[weighted]:
            return f"the output of {weighted!r} is read elsewhere too"
        if name in path.trained:
            return "the forward puts it into train mode"
        if {name, weighted} & path.read:
            return f"the weights of {weighted!r} or its own are read elsewhere too"
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it has no running statistics"
    return ""


def _pair(model: nn.Module, name: str, source: str, paths: list[Path]) -> _Pair:
    """The pair of a normalization and the layer before it, if both are understood.

    Raises:
        NotUnderstoodError: if one is not.
    """
    norm, weighted = model.get_submodule(name), model.get_submodule(source)
    _check_axis(name, norm, weighted, {path.ranks.get(name) for path in paths if path.calls[name]})
    changes = forward_override(weighted), forward_override(norm)
    replacement = behind_normalization(norm) if changes[1] else nn.Identity()
    names = _named(source, weighted), _named(name, norm)
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
    return _Pair(weighted, norm, replacement)


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
        raise NotUnderstoodError(f"{_named(name, norm)}: {why}")


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


def _compare(number: int, before: list[Tensor], after: list[Tensor]) -> None:
    """Make sure that outputs agree within the square root of their type's epsilon.

    Raises:
        InputError: if they do not, or there is nothing to compare.
    """
    compared = [(a, b) for a, b in zip(before, after, strict=True) if a.is_floating_point()]
    if not compared:
        raise InputError(
            f"The model's outputs for batch {number} hold no floating point tensor to compare: "
            "fold without batches."
        )
    for a, b in compared:
        tolerance = torch.finfo(a.dtype).eps ** 0.5
        finite = a.isfinite()
        same_places = a.shape == b.shape and torch.equal(finite, b.isfinite())
        a, b = a.double(), b.double()
        error = (a - b)[finite].norm() / a[finite].norm().clamp_min(1e-30) if same_places else 1.0
        if error > tolerance:
            raise InputError(
                f"Folding would change the outputs: those of batch {number} differ by "
                f"{float(error):.2g} of their norm, where rounding explains {tolerance:.2g}."
            )


def _named(name: str, layer: nn.Module) -> str:
    return f"{name!r} ({type(layer).__name__})"


def _listed(reasons: list[str]) -> str:
    """The first reasons, to be put behind a sentence."""
    if not reasons:
        return ""
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return ": " + "; ".join(reasons[:3]) + more
