"""What each module was taken for, why, and what a call showed that it does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from normscope.records.examination import Recognition, UnknownNorm
from normscope.user_models.functional_norms import functional_norms
from normscope.user_models.norm_behavior import Behavior, convention_of
from normscope.user_models.norm_layers import NormLayer, called_norm, gain_of, is_norm, recognize

PROBE_EPS = 1e-5
"""A layer that names no eps is tried with inputs of this mean square."""


def as_declared(module: nn.Module, name: str) -> Recognition | None:
    """Return what a module was taken for before any call."""
    layer = recognize(module, name)
    if layer is None:
        return None
    per_position = layer.kind in ("layer", "rms")
    known = layer.plain or layer.recognized_by in ("type", "registration")
    return Recognition(
        by=layer.recognized_by,
        axis=("last" if per_position else "1") if layer.plain else "",
        centered=layer.kind != "rms" if known else None,
        gain=("w" if gain_of(module) is not None else "none") if layer.plain else "",
        bias=getattr(module, "bias", None) is not None if layer.plain else None,
    )


@torch.no_grad()
def as_called(
    layer: NormLayer, module: nn.Module, way: Behavior | None, x: Tensor, y: Tensor
) -> Recognition:
    """Return what one call showed of a module with a forward of its own.

    Runs that forward on scaled inputs: call it inside `preserve_state`.
    """
    if way is not None and layer.recognized_by == "name" and _follows_scale(module, x):
        way = None
    if way is None:
        return Recognition(by=layer.recognized_by, explained=False)
    convention = convention_of(way, layer, gain_of(module), x, y)
    return Recognition(
        by=layer.recognized_by,
        explained=True,
        axis="last" if way.channel_axis == -1 else "1",
        centered=way.kind != "rms",
        gain=convention.gain if convention else "",
        bias=convention.bias if convention else None,
        eps=_eps_in_effect(layer, module, way, x, y) if way.kind in ("layer", "rms") else None,
    )


def _again(module: nn.Module, x: Tensor) -> Tensor | None:
    """Return the module's output for another input, None where it takes more than one, or fails."""
    try:
        y = module.forward(x)
    except Exception:  # somebody's forward, which may want more arguments
        return None
    return y if isinstance(y, Tensor) and y.shape == x.shape else None


def _follows_scale(module: nn.Module, x: Tensor) -> bool:
    """Tell whether an output is another one where the input is larger, as no normalization's is."""
    one, two = _again(module, x * 64), _again(module, x * 128)
    if one is None or two is None:
        return False
    return bool((two - one).norm() > 0.02 * one.norm())


def _eps_in_effect(
    layer: NormLayer, module: nn.Module, way: Behavior, x: Tensor, y: Tensor
) -> float | None:
    """Return the eps that an output shows whose input is so small that eps is half of it.

    With r the ratio of the two outputs' lengths without bias, and v the variance of the small
    input, r^2 = v / (v + eps). None where that cannot be told.
    """
    dims = tuple(range(-max(layer.normalized_dims, 1), 0))

    def square(values: Tensor) -> Tensor:
        values = way.arranged(values)
        return values.double().square().mean(dims)

    centered = way.arranged(x).double()
    if way.kind == "layer":
        centered = centered - centered.mean(dims, keepdim=True)
    variance = centered.square().mean(dims)
    if not (usual := float(variance.median())) > 0:
        return None
    scale = ((layer.eps or PROBE_EPS) / usual) ** 0.5
    outputs = [_again(module, x * factor) for factor in (0, scale, 64)]
    if any(output is None or not output.isfinite().all() for output in outputs):
        return None
    bias, small, large = (output for output in outputs if output is not None)
    ratio = square(small - bias) / square(large - bias)
    value = float((variance * scale**2 * (1 / ratio - 1)).median())
    return value if value > 1e-3 * (layer.eps or PROBE_EPS) else None


def unknown_norms(
    model: nn.Module, called: tuple[tuple[str, str], ...] | None, understood: set[str]
) -> Iterator[UnknownNorm]:
    """Yield what looks like a normalization and is no layer that is judged.

    Args:
        model: the model.
        called: (module, function) of the functional calls of a forward, None where none was run.
        understood: names of layers that are judged.
    """
    for name, module in model.named_modules():
        if name not in understood and not is_norm(module) and called_norm(module, name):
            reason = "called a normalization by its class or attribute"
            yield UnknownNorm(name=name, type=type(module).__name__, reason=reason)
    if called is None:
        calls = functional_norms(model)
        called = tuple((name, function) for name, each in calls.items() for function in each)
    for name, function in dict.fromkeys(called):
        kind = type(model.get_submodule(name)).__name__
        yield UnknownNorm(name=name, type=kind, reason=f"{function} in its forward", function=True)
