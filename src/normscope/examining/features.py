"""Where the features of a convolution or a linear layer go while axes are moved, on the way to a normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normscope.examining.operations import CONVOLUTIONS, FEATURES_LAST, OTHER_AXES
from normscope.user_models.batch_reader import tensors_in

KEEPS = ("activation", "dropout", "view")
"""Kinds of operations that leave every value where it is."""


class Features:
    """Carries, beside the tensors of a forward, which feature of its source each value belongs to.

    A source is a convolution or something that puts its features last; the numbers of its features
    go through the same views, permutations and reshapes as the values do.
    """

    def __init__(self):
        self._numbers: dict[
            int, Tensor
        ] = {}  # {id of a tensor: the feature of each of its values, int16}
        self._sizes: dict[int, int] = {}  # {id of a tensor: features of its source}

    def follow(
        self, func: Callable[..., Any], name: str, kind: str, inputs: Any, outputs: list[Tensor]
    ) -> None:
        """One operation: `func(*args, **kwargs)` with inputs (args, kwargs) has made the outputs."""
        if name in CONVOLUTIONS:
            digits = [character for character in name if character.isdigit()]
            if digits:
                self._begin(outputs[0], -1 - int(digits[0]))
        elif kind in FEATURES_LAST:
            self._begin(outputs[0], -1)
        elif kind in KEEPS:
            self.keep(inputs, outputs)
        elif name in OTHER_AXES:
            self._move(func, inputs[0], inputs[1], outputs)

    def keep(self, inputs: Any, outputs: list[Tensor]) -> None:
        """The outputs hold the values of the first input, each in its place."""
        first = next(tensors_in(inputs), None)
        for made in outputs:
            if first is not None and id(first) in self._numbers and made.shape == first.shape:
                self._enter(made, self._numbers[id(first)], self._sizes[id(first)])

    def scattered(self, x: Tensor) -> bool:
        """Axis 1 has as many entries as the source has features, and yet its entries are not the
        features.
        """
        numbers = self._numbers.get(id(x))
        if numbers is None or x.ndim < 2 or x.shape[1] != self._sizes[id(x)] or x.shape[1] < 2:
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
        self._enter(made, numbers.reshape(shape).expand(made.shape).contiguous(), size)

    def _move(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[Tensor],
    ):
        if not args or not isinstance(args[0], Tensor) or id(args[0]) not in self._numbers:
            return
        size = self._sizes[id(args[0])]
        try:
            moved = list(tensors_in(func(self._numbers[id(args[0])], *args[1:], **kwargs)))
        except (
            RuntimeError,
            TypeError,
            IndexError,
        ):  # not made for whole numbers on the CPU: no longer followed
            return
        for made, numbers in zip(outputs, moved, strict=False):
            if made.shape == numbers.shape:
                self._enter(made, numbers, size)

    def _enter(self, made: Tensor, numbers: Tensor, size: int) -> None:
        self._numbers[id(made)], self._sizes[id(made)] = numbers, size
