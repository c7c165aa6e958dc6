"""Gains, biases and running statistics in float32 inside a model of 16 bits."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError, check_type
from normscope.mend.forward_paths import norm_kind
from normscope.mend.observed_paths import outputs_of
from normscope.user_models.batch_reader import map_tensors, read_batches, tensors_in
from normscope.user_models.plain_layers import alteration

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
    check_type("model", model, nn.Module)
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
