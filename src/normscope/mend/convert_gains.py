"""Gains stored as w or as their distance from one (1 + w), converted both ways."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope.arguments import judged
from normscope.errors import InputError, NormscopeWarning, lookup
from normscope.mend.convert import exchange, refuse_kept
from normscope.mend.folding import named
from normscope.mend.forward_paths import is_row_norm
from normscope.mend.gains import (
    NARROW,
    NEUTRAL,
    Convention,
    Gain,
    InFloat32,
    NotAffineError,
    agree,
    gain_convention,
    in_float32,
    inputs_for,
    outcome,
    random_copy,
)
from normscope.mend.traced_paths import UntraceableError, traced_paths
from normscope.user_models.norm_behavior import USUAL_EPS
from normscope.user_models.norm_layers import gain_of, recognize


class OnePlusRMSNorm(nn.RMSNorm):
    """nn.RMSNorm that multiplies by 1 + weight, computed in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        gain = _one_plus(self.weight)
        return F.rms_norm(x.to(gain.dtype), self.normalized_shape, gain, self.eps).to(x.dtype)


class OnePlusLayerNorm(nn.LayerNorm):
    """nn.LayerNorm that multiplies by 1 + weight, computed in float32 at least."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize the last axis."""
        gain = _one_plus(self.weight)
        bias = None if self.bias is None else self.bias.to(gain.dtype)
        return F.layer_norm(input.to(gain.dtype), self.normalized_shape, gain, bias, self.eps).to(
            input.dtype
        )


CLASSES: dict[Convention, tuple[type[nn.Module], ...]] = {
    "w": (nn.RMSNorm, nn.LayerNorm),
    "1 + w": (OnePlusRMSNorm, OnePlusLayerNorm),
}


@judged
def convert_gains(
    source: nn.Module | Mapping[str, Any],
    convention: Convention,
    *,
    model: nn.Module | None = None,
    stored: Convention | None = None,
) -> Any:
    """Store the gains of layer and RMS normalization in the other convention; the function of the
    network stays.

    Which convention a layer has is found by trying it. Values are computed in float64 and rounded
    to their type, as the layers themselves do; where 16 bits lose something that float32 would
    keep, a warning names the gains: call `gains_to_float32` first.

    Args:
        source: a model, whose layers are replaced in place by PyTorch's, or by `OnePlusRMSNorm` and
            `OnePlusLayerNorm`; or a state_dict, of which a converted copy is made.
        convention: "w", where normalized values are multiplied by the gain, or "1 + w".
        model: for a state_dict, a model with its names.
        stored: the convention of a state_dict, where it was not written for the code of `model`.

    Returns:
        The model (its replacement, if it is such a layer itself), or the new state_dict.

    Raises:
        InputError: if there is no gain to convert, a layer does something else with it, one that is
            to be replaced would lose what its class does, or the state_dict lacks a gain. Nothing
            is changed then.
    """
    lookup("convention", convention, {str(name): name for name in NEUTRAL})
    network = source if isinstance(source, nn.Module) else model
    if network is None:
        raise InputError("Give a model that has the names of the state_dict: model=…")
    gains = _gains(network)
    found = {name: stored or gain.convention for name, gain in gains.items()}
    wanted = {name: gain for name, gain in gains.items() if found[name] != convention}
    if not wanted:
        raise InputError(
            f"No gain is to be converted: {len(gains)} of them, all stored as {convention!r}."
            if gains
            else "The model has no layer or RMS normalization with a gain."
        )
    if isinstance(source, nn.Module):
        return _replace(source, wanted, convention)
    missing = [key for name, gain in wanted.items() if (key := _key(name, gain)) not in source]
    if missing:
        raise InputError(f"The state_dict has no {missing[0]!r}: give a model that has its names.")
    keys = {_key(name, gain): source[_key(name, gain)] for name, gain in wanted.items()}
    made = {key: _converted(value, convention) for key, value in keys.items()}
    _warn_of_rounding(keys, made)
    return {key: made.get(key, value) for key, value in source.items()}


def _gains(model: nn.Module) -> dict[str, Gain]:
    gains = {}
    for name, norm in model.named_modules():
        gain = gain_of(norm) if is_row_norm(norm) else None
        if gain is not None and not any(gain is buffer for buffer in norm._buffers.values()):
            try:
                gains[name] = gain_convention(norm)
            except NotAffineError as error:
                raise InputError(f"{named(name, norm)} is not converted: {error}.") from error
    return gains


def _key(name: str, gain: Gain) -> str:
    return f"{name}.{gain.name}" if name else gain.name


def _converted(value: Tensor, convention: Convention) -> Tensor:
    shift = -1.0 if convention == "1 + w" else 1.0
    return (value.detach().double() + shift).to(value.dtype)


def _warn_of_rounding(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    rounded = [
        name
        for name, value in before.items()
        if value.dtype in NARROW
        and not bool(((value.double() - after[name].double()).abs() == 1).all())
    ]
    if rounded:
        warnings.warn(
            f"{len(rounded)} gains are rounded to their type of 16 bits, {rounded[0]!r} the first "
            "of them: call gains_to_float32 first to keep their values.",
            NormscopeWarning,
            stacklevel=3,
        )


def _replace(model: nn.Module, gains: dict[str, Gain], convention: Convention) -> nn.Module:
    layers = {name: model.get_submodule(name) for name in gains}
    refuse_kept(model, layers)
    _refuse_read(model, layers)
    new = {old: _replacement(name, old, gains[name], convention) for name, old in layers.items()}
    parameters = {_key(n, g): layers[n]._parameters[g.name] for n, g in gains.items()}
    model = exchange(model, layers, new)
    unique = {id(p): (key, p) for key, p in parameters.items() if p is not None}
    before = {key: p.detach().clone() for key, p in unique.values()}
    for _, parameter in unique.values():
        parameter.data = _converted(parameter, convention)
    _warn_of_rounding(before, {key: p.detach() for key, p in unique.values()})
    return model


def _refuse_read(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Make sure that nothing else reads the gains, as far as the forward can be traced.

    Raises:
        InputError: if something does.
    """
    read = {name for name in layers if _inside_of_torchs(model, name)}
    with suppress(UntraceableError):
        read = read.union(*(path.read for path in traced_paths(model))) - {""}
    replaced = set(layers.values())
    held = {id(p) for m in model.modules() if m not in replaced for p in m._parameters.values()}
    for name, layer in layers.items():
        if name in read or any(id(p) in held for p in layer.parameters()):
            raise InputError(
                f"{named(name, layer)} is not converted: something else reads its gain or bias too."
            )


def _inside_of_torchs(model: nn.Module, name: str) -> bool:
    """Tell whether a layer is a part of a module of PyTorch's that may read its weights itself, as
    TransformerEncoderLayer does.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    own = type(parent).__module__.startswith("torch.nn.modules.")
    return own and not isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict)


@torch.no_grad()
def _replacement(name: str, old: nn.Module, gain: Gain, convention: Convention) -> nn.Module:
    """The layer of the other convention that computes what the old one does, with the parameters of
    the old one, not converted yet.

    Raises:
        InputError: if none does.
    """
    own = next(
        base for base in type(old).__mro__ if "forward" in vars(base) and base is not InFloat32
    )
    if len(inspect.signature(own.forward).parameters) != 2:  # self and the input
        raise InputError(f"{named(name, old)} is not converted: it takes further arguments.")
    tried, layer = random_copy(old), recognize(old)
    eps = layer.eps if layer is not None else None
    for cls in CLASSES[convention]:
        for guess in dict.fromkeys((eps, *USUAL_EPS)):
            new = _made(cls, guess, tried, gain)
            if new is None:
                continue
            new.weight = nn.Parameter(_converted(new.weight, convention), requires_grad=False)
            if all(agree(outcome(tried, x), outcome(new, x)) for x in inputs_for(tried, gain)):
                return _made(cls, guess, old, gain)  # type: ignore[return-value]
    raise InputError(
        f"{named(name, old)} is not converted: no class with gains {convention!r} does the same."
    )


def _made(cls: type[nn.Module], eps: float | None, old: nn.Module, gain: Gain) -> Any:
    """A layer of a class with the parameters of the old one; None if it has no place for a bias."""
    weight = old._parameters[gain.name]
    bias = old._parameters[gain.bias] if gain.bias is not None else None
    is_rms = issubclass(cls, nn.RMSNorm)
    if (is_rms and bias is not None) or (eps is None and not is_rms):
        return None
    options = {} if is_rms else {"bias": bias is not None}
    new: Any = cls(weight.numel(), eps=eps, **options)  # type: ignore[union-attr, call-arg]
    new.weight = weight
    if bias is not None:
        new.bias = bias
    if isinstance(old, InFloat32):
        new.__class__ = in_float32(cls)
    return new.train(old.training)


def _one_plus(weight: Tensor) -> Tensor:
    return 1 + (weight.float() if weight.dtype in NARROW else weight)
