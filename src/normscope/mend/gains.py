"""What a layer or RMS normalization does with its gain and bias, found by trying."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.mend.fold import SCALES
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
