"""Gains of layer and RMS normalization: what a layer does with them; keeping them in float32."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.arguments import judged
from normscope.errors import InputError
from normscope.mend.fold import SCALES
from normscope.mend.forward_paths import norm_kind
from normscope.mend.observed_paths import outputs_of
from normscope.user_models.batch_reader import map_tensors, read_batches, tensors_in
from normscope.user_models.norm_layers import gain_of
from normscope.user_models.plain_layers import alteration

Convention = Literal["w", "1 + w"]
NEUTRAL: dict[Convention, float] = {"w": 1.0, "1 + w": 0.0}
"""{convention: the gain that leaves the normalized values as they are}."""

BIAS_NAMES = ("bias", "beta")
TOLERANCE = 1e-5  # of the norm: many normalize in float32, whatever they get


class NotAffineError(InputError):
    """A normalization does more than multiply its last axis by a gain and add a bias."""


@dataclass(frozen=True)
class Gain:
    """The affine part of a normalization over the last axis.

    Attributes:
        name: of the parameter that is the gain.
        bias: of the one that is added, None where there is none.
        convention: whether normalized values are multiplied by the gain, or by one more.
    """

    name: str
    bias: str | None
    convention: Convention

    def factor(self, norm: nn.Module) -> Tensor:
        """What the normalized values are multiplied by, float64 [C] or [1]."""
        return 1 - NEUTRAL[self.convention] + norm._parameters[self.name].double()  # type: ignore[union-attr]

    @torch.no_grad()
    def make_neutral(self, norm: nn.Module) -> None:
        """Give the layer parameters of its own that leave its normalized values as they are."""
        for name, value in ((self.name, NEUTRAL[self.convention]), (self.bias, 0.0)):
            if name is not None and (old := norm._parameters[name]) is not None:
                norm._parameters[name] = nn.Parameter(
                    torch.full_like(old, value), old.requires_grad
                )


def gain_convention(norm: nn.Module) -> Gain:
    """What a normalization that holds a gain does with it.

    A copy in float64 with random parameters is tried on random inputs of several numbers of
    dimensions: its outputs must be those with a neutral gain and no bias, times the gain, plus the
    bias.

    Raises:
        NotAffineError: if it was altered, or does something else.
    """
    if reason := alteration(norm):
        raise NotAffineError(reason)
    held = gain_of(norm)
    names = {name: p for name, p in norm._parameters.items() if p is not None}
    name = next((name for name, p in names.items() if p is held), None)
    if name is None:
        raise NotAffineError("its gain is no parameter of its own")
    if names[name].ndim != 1:
        raise NotAffineError("its gain has several dimensions")
    bias = next((name for name in BIAS_NAMES if name in names), None)
    for convention in NEUTRAL:
        gain = Gain(name, bias, convention)
        if _does(norm, gain):
            return gain
    raise NotAffineError(
        "its output is not the normalized last axis times a gain w or 1 + w, plus a bias"
    )


@torch.no_grad()
def _does(norm: nn.Module, gain: Gain) -> bool:
    tried = random_copy(norm)
    rest = copy.deepcopy(tried)
    gain.make_neutral(rest)
    bias: Any = 0 if gain.bias is None else tried._parameters[gain.bias]
    factor = gain.factor(tried)
    made = [(outcome(tried, x), outcome(rest, x)) for x in inputs_for(tried, gain)]
    return any(y is not None for y, _ in made) and all(
        agree(y, None if n is None else n * factor + bias) for y, n in made
    )


def random_copy(norm: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU and in eval mode whose parameters are random and differ."""
    generator = torch.Generator().manual_seed(0)
    tried = copy.deepcopy(norm).eval()
    for module in tried.modules():
        for name, p in module._parameters.items():
            if p is not None:
                values = torch.rand(p.shape, generator=generator, dtype=torch.double) + 0.25
                module._parameters[name] = nn.Parameter(values, requires_grad=False)
    return tried.double()


def inputs_for(norm: nn.Module, gain: Gain) -> Iterator[Tensor]:
    """Random inputs of several scales and numbers of dimensions, the last one normalized."""
    generator = torch.Generator().manual_seed(1)
    width = norm._parameters[gain.name].numel()  # type: ignore[union-attr]
    for shape in ((3, width), (2, 3, width), (3, width, width), (2, 3, 4, width)):
        x = torch.randn(shape, generator=generator, dtype=torch.double)
        yield from (scale * (x + 0.5) for scale in SCALES)


def outcome(norm: nn.Module, x: Tensor) -> Tensor | None:
    """What a layer makes of an input, None if it takes no such input."""
    try:
        made = norm(x)
    except Exception:  # the forward is anybody's code
        return None
    return made.double() if isinstance(made, Tensor) and made.is_floating_point() else None


def agree(a: Tensor | None, b: Tensor | None) -> bool:
    """Tell whether two outcomes are equal but for rounding."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a - b).norm() <= TOLERANCE * a.norm())


NARROW = (torch.bfloat16, torch.float16)


class InFloat32(nn.Module):
    """Mixed into a normalization's class: it computes in float32 and returns its input's type."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer's own forward on inputs in float32."""
        given = [x.dtype for x in tensors_in((args, kwargs)) if x.is_floating_point()]
        if not given or given[0] not in NARROW:
            return super().forward(*args, **kwargs)
        args, kwargs = _as(torch.float32, args), _as(torch.float32, kwargs)
        return _as(given[0], super().forward(*args, **kwargs))


@judged
def gains_to_float32(model: nn.Module, batches: Iterable[Any] | None = None) -> nn.Module:
    """Put gains, biases and running statistics of every normalization layer into float32, in place,
    and return the model. The rest keeps its type.

    A gain of 1 in bfloat16 moves only by steps of 0.0039 or more, which learning rates of today do
    not reach. The layers compute in float32 from now on and return the type of their input. Their
    class becomes a subclass of their own, so that state_dicts, copies and isinstance checks work as
    before. Parameters are the same objects; an optimizer that has stepped holds state of 16 bits
    for them: make it anew, or give it its own state_dict, which it reads in the parameters' type.
    A later `model.bfloat16()` takes all of it back.

    Args:
        model: the model.
        batches: up to 16 batches of inputs, to make sure that the forward goes on: it may ask for
            the type of a gain, as Mamba's does, and hand on another type than before.

    Raises:
        InputError: if the model has no normalization of 16 bits, one of them has hooks,
            parametrizations or a forward of its own on the instance, or a forward fails. The model
            is unchanged then.
    """
    read = read_batches(batches, model) if batches is not None else []
    layers = {
        name: module
        for name, module in model.named_modules()
        if norm_kind(module) and any(t.dtype in NARROW for t in _tensors(module))
    }
    if not layers:
        raise InputError(
            "The model has no normalization layer with tensors of 16 bits: there is nothing to put "
            "into float32."
        )
    for name, layer in layers.items():
        if reason := alteration(layer):
            raise InputError(
                f"{name!r} ({type(layer).__name__}) is not put into float32: {reason}."
            )
    for number in range(len(read)):
        outputs_of(model, read, number)
    before = [
        (layer, type(layer), {tensor: tensor.dtype for tensor in _tensors(layer)})
        for layer in layers.values()
    ]
    for layer, cls, types in before:
        wide = {tensor: torch.float32 for tensor, dtype in types.items() if dtype in NARROW}
        _change(layer, cls if issubclass(cls, InFloat32) else in_float32(cls), wide)
    try:
        for number in range(len(read)):
            outputs_of(model, read, number)
    except InputError as error:
        for layer, cls, types in before:
            _change(layer, cls, types)
        raise InputError(f"The model is not put into float32, for then: {error}") from error
    return model


def _change(layer: nn.Module, cls: type[nn.Module], types: dict[Tensor, torch.dtype]) -> None:
    """Give a layer another class, and its tensors other types."""
    module: Any = layer  # its class is changed
    module.__class__ = cls
    for tensor, dtype in types.items():
        tensor.data = tensor.data.to(dtype)
        if tensor.grad is not None:
            tensor.grad = tensor.grad.to(dtype)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _as(dtype: torch.dtype, value: Any) -> Any:
    """The value with its floating tensors in one type."""
    return map_tensors(
        lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, value
    )


@functools.cache
def in_float32(cls: type[nn.Module]) -> type[nn.Module]:
    """The class whose instances compute in float32."""
    return type(
        f"{cls.__name__}InFloat32", (InFloat32, cls), {"__doc__": f"{cls.__name__} in float32."}
    )
