"""Explanations of layers that take every token by itself: its whole input, and its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import erf

CENTRED = {"layer": True, "rms": False}
"""{kind that has statistics: whether it subtracts the mean}."""

BENT: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tanh": np.tanh, "erf": erf}
"""{kind without statistics: its function}."""

CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "3 · x": lambda x: 3 * x,
    "x + 1": lambda x: x + 1,
}
"""Changes of a token that a normalization may undo."""


@dataclass(frozen=True, eq=False)
class TokenExplanation:
    """One layer on one batch. `x` is float32 [N, ..., T, C]; vectors are float64 [C]."""

    layer: str
    layer_type: str
    kind: str  # of CENTRED or BENT
    eps: float  # 0 where there are no statistics
    alpha: float  # of tanh and erf
    shift: float  # of erf
    x: np.ndarray
    gain: np.ndarray | None  # what is multiplied by: 1 + weight where the layer has it so
    gain_is_offset: bool
    bias: np.ndarray | None
    token: tuple[int, ...]  # the one whose numbers are worked through
    channel: int  # and the value of it
    names: tuple[str, ...]  # of the first sample's tokens
    disagreement: float  # largest difference between this arithmetic and PyTorch's own layer
    between_modes: float  # largest difference between its outputs in train and in eval mode
    alone: float  # largest difference of the first sample's outputs, alone and in the batch
    meta: dict[str, Any]

    @property
    def width(self) -> int:
        """Values of a token."""
        return self.x.shape[-1]

    @property
    def tokens(self) -> int:
        """Tokens in the batch, each with statistics of its own."""
        return self.x.size // self.width

    @cached_property
    def values(self) -> np.ndarray:
        """The chosen token, float64 [C]."""
        return self.x[self.token].astype(np.float64)

    def name_of(self, index: int) -> str:
        """A token of the first sample: its number, and of text its byte."""
        name = self.names[index]
        return name if name == str(index) else f"{index} {name}"

    def subtracted(self, x: np.ndarray) -> np.ndarray:
        """What is subtracted from each token: its mean, or 0."""
        mean = x.mean(-1, keepdims=True)
        return mean if CENTRED.get(self.kind) else np.zeros_like(mean)

    def divided(self, x: np.ndarray) -> np.ndarray:
        """What is divided by before eps and the root: the mean square of what is left."""
        return np.square(x - self.subtracted(x)).mean(-1, keepdims=True)

    def normalized(self, x: np.ndarray, eps: float | None = None) -> np.ndarray:
        """The layer's function of tokens [..., C] in float64, before gain and bias."""
        x = x.astype(np.float64)
        if self.kind in BENT:
            return BENT[self.kind](self.alpha * x + self.shift)
        eps = self.eps if eps is None else eps
        return (x - self.subtracted(x)) / np.sqrt(self.divided(x) + eps)

    def output(self, x: np.ndarray) -> np.ndarray:
        """What the layer gives for tokens [..., C]."""
        scaled = self.normalized(x) * (1.0 if self.gain is None else self.gain)
        return scaled + (0.0 if self.bias is None else self.bias)

    def moved(self, change: str, eps: float | None = None) -> float:
        """Return the largest difference that a change of every token makes before gain and bias."""
        x = self.x.astype(np.float64)
        return float(
            np.abs(self.normalized(CHANGES[change](x), eps) - self.normalized(x, eps)).max()
        )

    @property
    def eps_matters(self) -> bool:
        """Whether leaving out eps can be asked: there are statistics, and none of them is 0."""
        return self.kind in CENTRED and bool(self.divided(self.x.astype(np.float64)).min() > 0)
