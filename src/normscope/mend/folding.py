"""What every fold does: a copy, the ways through it, what changes, and outputs that agree."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError, NormscopeWarning
from normscope.mend.forward_paths import Path
from normscope.mend.observed_paths import observed_paths, outputs_of
from normscope.mend.traced_paths import UntraceableError, operations, traced_paths
from normscope.user_models.batch_reader import Batch, read_batches
from normscope.user_models.plain_layers import alteration
from normscope.user_models.wrappers import unwrapped_model


class NotUnderstoodError(InputError):
    """A layer does something that cannot be folded safely."""


@dataclass(frozen=True)
class Folding:
    """One kind of fold.

    Attributes:
        function: its name.
        what: the layers that it folds, in words, in the plural.
        nothing: what a model has none of that stays as it is.
        wanted: tells whether a module is one of them.
        plan: (model, the layer's name, the ways) to what folds it, or why it stays; raises a
            NotUnderstoodError where it cannot be folded safely.
        tolerance: a difference of outputs by this share of their norm may be rounding, whatever
            their type.
    """

    function: str
    what: str
    nothing: str
    wanted: Callable[[nn.Module], bool]
    plan: Callable[[nn.Module, str, list[Path]], Callable[[], None] | str]
    tolerance: float = 0.0

    def run(self, model: nn.Module, batches: Iterable[Any] | None, partial: bool) -> nn.Module:
        """A copy of the model in eval mode, folded.

        Raises:
            InputError: if there is no layer to fold, one is not understood, the model cannot be
                traced and there are no batches, or outputs differ by more than rounding.
        """
        folded = _copy(unwrapped_model(model)).eval()
        read = read_batches(batches, folded) if batches is not None else []
        paths = self._paths(folded, read)
        changes, left = self._sort(folded, paths, partial)
        if not changes:
            raise InputError(
                f"The model has no {self.nothing} that could be folded{_listed(left)}."
            )
        expected = [outputs_of(folded, read, number) for number in range(len(read))]
        for change in changes.values():
            change()
        _check_ways(folded, list(changes), paths)
        for number, outputs in enumerate(expected):
            _compare(number, outputs, outputs_of(folded, read, number), self.tolerance)
        if left:
            warnings.warn(
                f"{len(left)} of {len(left) + len(changes)} {self.what} are left as they are"
                f"{_listed(left)}.",
                NormscopeWarning,
                stacklevel=3,
            )
        return folded

    def _paths(self, model: nn.Module, batches: list[Batch]) -> list[Path]:
        try:
            traced = traced_paths(model)
        except UntraceableError as error:
            if not batches:
                raise InputError(
                    f"The model cannot be folded without batches: {error}. "
                    f"Give batches of its inputs: {self.function}(model, batches)."
                ) from error
            traced = []
        return traced + observed_paths(model, batches)

    def _sort(
        self, model: nn.Module, paths: list[Path], partial: bool
    ) -> tuple[dict[str, Callable[[], None]], list[str]]:
        """({layer: what folds it}, the layers that stay and why); raises for one that is not
        understood unless the fold may be partial.
        """
        changes, left, refused = {}, [], []
        for name, layer in model.named_modules():
            if not self.wanted(layer):
                continue
            try:
                plan = self.plan(model, name, paths)
                if isinstance(plan, str):
                    left.append(f"{named(name, layer)}: {plan}")
                else:
                    changes[name] = plan
            except NotUnderstoodError as error:
                refused.append(str(error))
        if refused and not partial:
            raise NotUnderstoodError(
                f"The model is not folded, for not all of it is understood{_listed(refused)}. "
                f"To fold the rest: {self.function}(model, partial=True)."
            )
        return changes, left + refused


def _check_ways(folded: nn.Module, norms: list[str], before: list[Path]) -> None:
    """Make sure that the folded model takes the same ways: a forward may ask for a layer's class or
    for its bias.

    Raises:
        InputError: if it does not.
    """
    ways = [path.operations for path in before if path.operations]
    if ways and operations(folded, norms) != ways:
        raise InputError(
            "The model cannot be folded: its forward looks at its layers (their class, bias or "
            "other attributes) and would take another way."
        )


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy, and a clear error where PyTorch cannot make one."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # computed tensors and lazy layers, or whatever a model holds
        for name, module in model.named_modules():
            if reason := alteration(module):
                raise InputError(f"{named(name, module)} cannot be copied: {reason}.") from error
        raise InputError(f"The model cannot be copied: {type(error).__name__}: {error}") from error


def _compare(number: int, before: list[Tensor], after: list[Tensor], least: float) -> None:
    """Make sure that outputs agree within the square root of their type's epsilon, or a least
    tolerance.

    Raises:
        InputError: if they do not, or there is nothing to compare.
    """
    compared = [(a, b) for a, b in zip(before, after, strict=True) if a.is_floating_point()]
    if not compared:
        raise InputError(
            f"The model's outputs for batch {number} hold no floating point tensor to compare: "
            "fold without batches."
        )
    for a, b in compared:
        tolerance = max(torch.finfo(a.dtype).eps ** 0.5, least)
        finite = a.isfinite()
        same_places = a.shape == b.shape and torch.equal(finite, b.isfinite())
        a, b = a.double(), b.double()
        error = (a - b)[finite].norm() / a[finite].norm().clamp_min(1e-30) if same_places else 1.0
        if error > tolerance:
            raise InputError(
                f"Folding would change the outputs: those of batch {number} differ by "
                f"{float(error):.2g} of their norm, where rounding explains {tolerance:.2g}."
            )


def named(name: str, layer: nn.Module) -> str:
    """Name a layer and its class, for messages."""
    return f"{name!r} ({type(layer).__name__})"


def _listed(reasons: list[str]) -> str:
    """The first reasons, to be put behind a sentence."""
    if not reasons:
        return ""
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return ": " + "; ".join(reasons[:3]) + more
