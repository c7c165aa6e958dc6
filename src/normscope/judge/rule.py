"""What a rule is: a small class that is named for a fault, says why it hurts, and looks for it in an Examination."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from normscope.judge.findings import Finding, Severity, Undecided
from normscope.records.examination import Examination, Layer

NEEDS = {
    "batches": "a few batches",
    "optimizer": "the optimizer",
    "loader": "the training loader",
    "history": "a recording",
}
"""What a rule may lack, as the report says it. Without a second model, rules about two of them do
not apply.
"""


class Rule:
    """Base of the rules. The docstring of a rule says what it detects; its attributes say the rest.

    A rule reads the record that it is given and nothing else: it runs no model and does not import
    torch.
    """

    code: ClassVar[str]
    name: ClassVar[str]  # kebab case, the fault
    severity: ClassVar[Severity]  # the most severe that it gives
    why: ClassVar[str]
    remedy: ClassVar[str]
    fine: ClassVar[str]  # when what it finds is meant
    reference: ClassVar[str]
    causes: ClassVar[tuple[str, ...]]  # root causes that it shows
    replaces: ClassVar[tuple[str, ...]] = ()  # codes of the first catalogue
    mend: ClassVar[str] = ""  # the function that mends it
    needs: ClassVar[str] = ""  # a key of NEEDS, "other" or "keys"
    kinds: ClassVar[tuple[str, ...]] = (
        "batch",
    )  # kinds of layer that it is about; empty: any model

    def applies(self, seen: Examination) -> bool:
        """The model has what the rule is about."""
        if self.needs == "history":
            return seen.history is not None or bool(seen.of_kind("batch", "instance"))
        return not self.kinds or bool(seen.of_kind(*self.kinds))

    def has_what_it_needs(self, seen: Examination) -> bool:
        """The facts were gathered."""
        facts = {
            "batches": seen.forward,
            "optimizer": seen.optimizer,
            "loader": seen.loader,
            "other": seen.pair,
            "history": seen.history,
            "keys": seen.keys,
        }
        return not self.needs or facts.get(self.needs) is not None

    def find(self, seen: Examination) -> Iterator[Finding | Undecided]:
        """The findings. Rules about single layers override `find_in` instead."""
        for layer in seen.of_kind(*self.kinds):
            yield from self.find_in(layer, seen)

    def find_in(self, layer: Layer, seen: Examination) -> Iterator[Finding | Undecided]:
        """The findings in one layer."""
        raise NotImplementedError

    def found(
        self,
        layer: str,
        message: str,
        severity: Severity | None = None,
        *,
        remedy: str = "",
        **evidence: Any,
    ) -> Finding:
        """A finding of this rule. Layers with one cause share the message word for word; numbers
        are evidence.
        """
        plain = {name: _plain(value) for name, value in evidence.items()}
        return Finding(
            self.code,
            self.name,
            severity or self.severity,
            layer,
            message,
            plain,
            remedy or self.remedy,
        )

    def undecided(self, missing: str) -> Undecided:
        """The rule cannot tell for want of this."""
        return Undecided(self.code, self.name, missing)


def count(mask: np.ndarray) -> int:
    """How many channels a mask marks."""
    return int(np.count_nonzero(mask))


def high(values: np.ndarray | None, level: float = 0.95) -> float:
    """The quantile over the channels that are finite; NaN without any."""
    if values is None:
        return math.nan
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, level)) if len(finite) else math.nan


def has_live_batch_norm(seen: Examination) -> bool:
    """Some batch normalization of the model uses batch statistics in train mode."""
    return any(layer.live for layer in seen.of_kind("batch"))


def deliberately_frozen(layer: Layer, seen: Examination) -> bool:
    """The layer's statistics stand still by intention: in eval mode inside a model in train mode,
    or fixed for good.
    """
    return not layer.live or (bool(seen.training) and layer.training is False)


def _plain(value: Any) -> Any:
    """Numbers rounded to four digits, as evidence is read by people; the rest as it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value
