"""One kind of normalization replaced by another, weight and bias kept."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import lookup

MAX_GROUPS = 32
LEAST_PER_GROUP = 2

SOURCES: dict[str, tuple[type[nn.Module], ...]] = {
    "batch": (_BatchNorm,),
    "sync": (nn.SyncBatchNorm,),
    "instance": (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    "group": (nn.GroupNorm,),
}


def convert(
    model: nn.Module, source: str, target: str | Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Replace every normalization layer of one kind by one of another, in place, and return the
    model.

    Weight and bias are the same objects as before, so an optimizer goes on with them; running
    statistics are kept where the target has them. The function of the network changes, except from
    "batch" to "sync": train on.

    Args:
        model: the model; if it is such a layer itself, its replacement is returned.
        source: "batch" (SyncBatchNorm included), "sync", "instance" or "group".
        target: "sync", "batch2d", "group", "instance", "tracked" (batch normalization with running
            statistics where there are none), or a function from the old layer to the new one.

    Raises:
        InputError: if a name is not known.
    """
    kinds = lookup("kind of normalization", source, SOURCES)
    make = lookup("target", target, TARGETS) if isinstance(target, str) else target
    if isinstance(model, kinds):
        return _replacement(model, make)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kinds):
                setattr(module, name, _replacement(child, make))
    return model


def _replacement(old: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    new = make(old)
    for name in ("weight", "bias"):
        parameter = old._parameters.get(name)
        if parameter is not None and name in new._parameters:
            new._parameters[name] = parameter
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        buffer = old._buffers.get(name)
        if buffer is not None and new._buffers.get(name) is not None:
            new._buffers[name] = buffer
    reference = next(
        (t for t in (*old._parameters.values(), *old._buffers.values()) if t is not None), None
    )
    if reference is not None:
        new.to(reference.device)
    return new.train(old.training)


def _width(old: nn.Module) -> int:
    return int(getattr(old, "num_features", 0) or getattr(old, "num_channels", 0))


def _settings(old: nn.Module) -> dict:
    return {"eps": getattr(old, "eps", 1e-5), "affine": getattr(old, "affine", True)}


def _group(old: nn.Module) -> nn.Module:
    """At most 32 groups of at least two channels each, as many as divide the width."""
    width = _width(old)
    groups = math.gcd(MAX_GROUPS, width)
    while width // groups < LEAST_PER_GROUP and groups > 1:
        groups //= 2
    return nn.GroupNorm(groups, width, **_settings(old))


def _instance(old: nn.Module) -> nn.Module:
    """Group normalization with one channel a group: instance normalization for any number of
    dimensions.
    """
    return nn.GroupNorm(_width(old), _width(old), **_settings(old))


def _sync(old: nn.Module) -> nn.Module:
    tracks = getattr(old, "track_running_stats", True)
    momentum = getattr(old, "momentum", 0.1)
    return nn.SyncBatchNorm(
        _width(old), momentum=momentum, track_running_stats=tracks, **_settings(old)
    )


def _batch_2d(old: nn.Module) -> nn.Module:
    return nn.BatchNorm2d(_width(old), momentum=getattr(old, "momentum", 0.1), **_settings(old))


def _tracked(old: nn.Module) -> nn.Module:
    """The same class with running statistics, those of a new layer where it had none: recalibrate
    afterwards.
    """
    cls = type(old)
    with torch.no_grad():
        return cls(
            _width(old),
            momentum=getattr(old, "momentum", 0.1),
            track_running_stats=True,
            **_settings(old),
        )  # type: ignore[call-arg]


TARGETS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "group": _group,
    "instance": _instance,
    "sync": _sync,
    "batch2d": _batch_2d,
    "tracked": _tracked,
}
