"""The seam at which a faster way of normalizing may take over from the modules.

The networks call `normalize` where a normalization, an addition and an activation follow one
another. By default that is done module by module; inside `using(implementation)` an implementation
is asked first. The networks know none of the implementations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor, nn


class Implementation(Protocol):
    """A way to compute activation(norm(x) + residual) in one step, for certain cases."""

    def __call__(
        self, norm: nn.Module, activation: nn.Module | None, x: Tensor, residual: Tensor | None
    ) -> Tensor | None:
        """Return the result, buffers updated, hooks served; None leaves it to the modules."""
        ...


_implementation: ContextVar[Implementation | None] = ContextVar("normalization", default=None)


@contextmanager
def using(implementation: Implementation | None) -> Iterator[None]:
    """Ask this implementation first, in this context and thread; None: module by module."""
    token = _implementation.set(implementation)
    try:
        yield
    finally:
        _implementation.reset(token)


def normalize(
    norm: nn.Module, activation: nn.Module | None, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Compute activation(norm(x) + residual), any shape; activation and residual may be missing."""
    implementation = _implementation.get()
    if implementation is not None:
        output = implementation(norm, activation, x, residual)
        if output is not None:
            return output
    output = norm(x)
    if residual is not None:
        output = output + residual
    return output if activation is None else activation(output)


class FusableSequential(nn.Sequential):
    """nn.Sequential in which a batch normalization and a ReLU behind it go through `normalize`."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Sequential."""
        output, modules = input, list(self)
        while modules:
            module = modules.pop(0)
            if isinstance(module, nn.BatchNorm2d):
                activation = modules.pop(0) if modules and isinstance(modules[0], nn.ReLU) else None
                output = normalize(module, activation, output)
            else:
                output = module(output)
        return output
