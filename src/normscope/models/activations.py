"""Activation functions by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from normscope.errors import lookup

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
"""Name -> factory. None works in place: what stands before an activation can be read after it."""


def resolve_activation(name: str) -> Callable[[], nn.Module]:
    """The factory of the activation called `name`.

    Raises:
        InputError: if there is none of that name.
    """
    return lookup("activation", name, ACTIVATIONS)
