"""Follow the features of a convolution or a linear layer while axes are moved, up to a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normscope.examining.operations import CONVOLUTIONS, FEATURES_LAST
from normscope.user_models.batch_reader import tensors_in

KEEPS = ("activation", "dropout", "view")
"""Kinds of operations that leave every value where it is."""


class Features:
    """The feature of its source that each value of a forward's tensors belongs to.

    A source is a convolution or something that puts its features last; the numbers of its features
    go through the same views, permutations and reshapes as the values do.
    """

    def __init__(self):
        # {id of a tensor: the feature of each of its values, features of its source}
        self._numbers: dict[int, tuple[Tensor, int]] = {}

    def follow(
        self, func: Callable[..., Any], name: str, kind: str, inputs: Any, outputs: list[Tensor]
    ) -> None:
        """Follow `func(*args, **kwargs)`, where inputs are (args, kwargs)."""
        if name in CONVOLUTIONS:
            digits = [character for character in name if character.isdigit()]
            if digits:
                self._begin(outputs[0], -1 - int(digits[0]))
        elif kind in FEATURES_LAST:
            self._begin(outputs[0], -1)
        elif kind in KEEPS:
            self.keep(inputs, outputs)
        elif kind == "axes":
            self._move(func, inputs[0], inputs[1], outputs)

    def keep(self, inputs: Any, outputs: list[Tensor]) -> None:
        """Note that the outputs hold the values of the first input, each where it was."""
        first = next(tensors_in(inputs), None)
        for made in outputs:
            if first is not None and id(first) in self._numbers and made.shape == first.shape:
                self._numbers[id(made)] = self._numbers[id(first)]

    def scattered(self, x: Tensor) -> bool:
        """Tell whether axis 1 has as many entries as the source features, and other ones than
        these.
        """
        numbers, size = self._numbers.get(id(x), (None, 0))
        if numbers is None or x.ndim < 2 or x.shape[1] != size or size < 2:
            return False
        rows = numbers.transpose(0, 1).reshape(x.shape[1], -1)
        return not bool((rows == rows[:, :1]).all())

    def _begin(self, made: Tensor, axis: int) -> None:
        if made.ndim < -axis or made.numel() == 0:
            return
        size = made.shape[axis]
        shape = [1] * made.ndim
        shape[axis] = size
        numbers = torch.arange(size, dtype=torch.int16 if size < 2**15 else torch.int32)
        numbers = numbers.reshape(shape).expand(made.shape).contiguous()
        self._numbers[id(made)] = numbers, size

    def _move(
        self, func: Callable[..., Any], args: Any, kwargs: Any, outputs: list[Tensor]
    ) -> None:
        if not args or not isinstance(args[0], Tensor) or id(args[0]) not in self._numbers:
            return
        numbers, size = self._numbers[id(args[0])]
        try:
            moved = list(tensors_in(func(numbers, *args[1:], **kwargs)))
        except (RuntimeError, TypeError, IndexError):
            return  # not made for whole numbers on the CPU: no longer followed
        for made, at in zip(outputs, moved, strict=False):
            if made.shape == at.shape:
                self._numbers[id(made)] = at, size
