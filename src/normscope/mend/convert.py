"""One kind of normalization replaced by another, weight and bias kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from normscope.arguments import judged
from normscope.errors import InputError, lookup
from normscope.mend.forward_paths import plain_values
from normscope.mend.freeze import Frozen, freeze
from normscope.mend.traced_paths import operations
from normscope.user_models.plain_layers import alteration, forward_override

MAX_GROUPS = 32
LEAST_PER_GROUP = 2

SOURCES: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (_BatchNorm,),
    "sync": (nn.SyncBatchNorm,),
    "instance": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    "group": (nn.GroupNorm,),
}
STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BARE = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
TRACKING = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


@judged
def convert(
    model: nn.Module, source: str, target: str | Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Replace every normalization layer of one kind by one of another, in place, and return the
    model.

    Weight and bias are the same objects as before, so an optimizer goes on with them; running
    statistics are kept where the target has them, and so is a freeze. A layer that is in several
    places stays one layer. The function of the network changes, except from "batch" to "sync":
    train on.

    Args:
        model: the model; if it is such a layer itself, its replacement is returned.
        source: "batch" (SyncBatchNorm included), "sync", "instance" or "group".
        target: "sync", "batch2d", "group", "instance", "tracked" (the same class with running
            statistics where there are none), or a function from the old layer to the new one.

    Raises:
        InputError: if a name is not known, the model has no such layer, or one of them would lose
            something: what its class does in a forward of its own, hooks, parametrizations, or
            references outside of the modules' own children; or if the forward, as far as it can be
            traced, would take another way. The model is unchanged then.
    """
    kinds = lookup("kind of normalization", source, SOURCES)
    make = lookup("target", target, TARGETS) if isinstance(target, str) else target
    layers = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    if not layers:
        raise InputError(f"The model has no {source} normalization: there is nothing to convert.")
    refuse_kept(model, layers)
    replacements = {layer: _replacement(name, layer, make) for name, layer in layers.items()}
    return exchange(model, layers, replacements)


def refuse_kept(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Make sure that layers can be replaced.

    Raises:
        InputError: if one was altered, or an attribute that is no submodule holds it.
    """
    held = {id(value) for module in model.modules() for value in plain_values(module)}
    for name, layer in layers.items():
        reason = alteration(layer)
        if id(layer) in held:
            reason = "an attribute that is no submodule holds it too, and would keep the old layer"
        if reason:
            raise InputError(f"{name!r} ({type(layer).__name__}) is not converted: {reason}.")


def exchange(
    model: nn.Module, layers: Mapping[str, nn.Module], replacements: Mapping[nn.Module, nn.Module]
) -> nn.Module:
    """Put replacements in the places of layers; return the model, or its own replacement.

    Raises:
        InputError: if the forward, as far as it can be traced, would take another way. The model is
            unchanged then.
    """
    if model in replacements:
        return replacements[model]
    before = operations(model, layers)
    _exchange(model, replacements)
    if before is not None and operations(model, layers) != before:
        _exchange(model, {new: old for old, new in replacements.items()})
        raise InputError(
            "The model is not converted: its forward looks at its layers (their class or other "
            "attributes) and would take another way."
        )
    return model


def _exchange(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in replacements:
                module._modules[name] = replacements[child]


def _replacement(name: str, old: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The new layer with the old one's weight, bias, statistics, types, device and mode.

    Raises:
        InputError: if the old layer's class does more than the new one would.
    """
    new = make(old)
    override = forward_override(old)
    if type(old).train is not nn.Module.train and not isinstance(old, Frozen):
        override = override or "its class has a train of its own"
    override = override or _further_state(old, new)
    if override and isinstance(new, BARE) and not forward_override(new):
        raise InputError(
            f"{name!r} ({type(old).__name__}) is not converted: {override}, which a bare "
            f"{type(new).__name__} would lose. Give a function that returns all that it does."
        )
    tensors = (*old._parameters.values(), *old._buffers.values())
    like = next((t for t in tensors if t is not None and t.is_floating_point()), None)
    if like is not None:
        new.to(like.device, like.dtype)
    for parameter in STATE[:2]:
        if parameter in new._parameters and parameter in old._parameters:
            new._parameters[parameter] = old._parameters[parameter]
    for buffer in STATE[2:]:
        if old._buffers.get(buffer) is not None and new._buffers.get(buffer) is not None:
            new._buffers[buffer] = old._buffers[buffer]
    new.train(old.training)
    if isinstance(old, Frozen) and new._buffers.get("running_mean") is not None:
        freeze(new, affine=False)
    return new


def _further_state(old: nn.Module, new: nn.Module) -> str:
    """Name the tensors that the old layer has beyond a norm's own and the new one does not hold."""
    kept = {id(tensor) for tensor in (*new.parameters(), *new.buffers())}
    names = [
        repr(name)
        for name, tensor in (*old.named_parameters(), *old.named_buffers())
        if name not in STATE and id(tensor) not in kept
    ]
    return f"it holds {', '.join(names)} too" if names else ""


def _width(old: nn.Module) -> int:
    return int(getattr(old, "num_features", 0) or getattr(old, "num_channels", 0))


def _settings(old: nn.Module) -> dict:
    return {"eps": getattr(old, "eps", 1e-5), "affine": getattr(old, "affine", True)}


def _group(old: nn.Module) -> nn.Module:
    """At most 32 groups of two channels or more: the largest power of two in the width."""
    width = _width(old)
    groups = math.gcd(MAX_GROUPS, width)
    while width // groups < LEAST_PER_GROUP and groups > 1:
        groups //= 2
    return nn.GroupNorm(groups, width, **_settings(old))


def _sync(old: nn.Module) -> nn.Module:
    new = nn.SyncBatchNorm(
        _width(old),
        momentum=getattr(old, "momentum", 0.1),
        track_running_stats=getattr(old, "running_mean", None) is not None,
        **_settings(old),
    )
    new.track_running_stats = getattr(old, "track_running_stats", False)
    return new


def _tracked(old: nn.Module) -> nn.Module:
    """A layer of PyTorch's class with running statistics, the old ones or, where there were none,
    those of a new layer: recalibrate afterwards.
    """
    cls = next((cls for cls in TRACKING if isinstance(old, cls)), None)
    if cls is None:
        raise InputError(f"A {type(old).__name__} has no running statistics to track.")
    momentum = getattr(old, "momentum", 0.1)
    return cls(_width(old), momentum=momentum, track_running_stats=True, **_settings(old))


TARGETS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "group": _group,
    # for any number of dimensions
    "instance": lambda old: nn.GroupNorm(_width(old), _width(old), **_settings(old)),
    "sync": _sync,
    "batch2d": lambda old: nn.BatchNorm2d(
        _width(old), momentum=getattr(old, "momentum", 0.1), **_settings(old)
    ),
    "tracked": _tracked,
}
