"""The bases of the rules: a rule is named for a fault and looks for it in an Examination.

Bases for one kind of fact (`ForwardRule`, `HistoryRule`, ...) hand that fact over; where it was not
gathered the rule is not asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from normscope.judge.docstrings import RuleText, kebab_case, rule_text
from normscope.judge.findings import Finding, NotEvaluated, Severity
from normscope.records.examination import (
    BATCH_KINDS,
    ROUNDING,
    Examination,
    History,
    Layer,
    LayerHistory,
    Optimizer,
)

Results = Iterator[Finding | NotEvaluated]

BATCH = ("batch",)
SAMPLE_KINDS = ("instance", "group", "layer", "rms")
EVERY_KIND = ("batch", *SAMPLE_KINDS)

FAR_MEAN, FAR_LOG_VAR = 0.25, 0.35
"""Statistics further apart than this differ: in standard deviations, and in the log of variances.
Far above what the noise of a running average makes.
"""


@dataclass(frozen=True)
class Need:
    """A fact that a rule needs: where it is in an Examination, and its name in a report."""

    field: str
    words: str
    option: str = ""  # of the command, or the argument of `check`, that gives it
    reported: bool = True  # a report on a model says that it is missing


BATCHES = Need("forward", "a few batches", "--data")
OPTIMIZER = Need("optimizer", "the optimizer", "optimizer=")
LOADER = Need("loader", "the training loader", "loader=")
HISTORY = Need("history", "a recording", "recording=")
OTHER = Need("pair", "another model or state_dict", reported=False)
KEYS = Need("keys", "a state_dict and its model", reported=False)

THE_MODEL = "the model itself, which a checkpoint does not hold"
MISSING_IN = {"model": "", "state_dict": THE_MODEL}
"""{what was looked at: what is missing for a rule that needs more, "" for the fact by its name}."""

OPTIONS = {need.words: need.option for need in (BATCHES, OPTIMIZER, LOADER, HISTORY)} | {
    THE_MODEL: "MODULE:FACTORY"
}


class Rule:
    """A rule. It reads an Examination and nothing else: it runs no model and imports no torch.

    Its docstring is what the page of rules shows: see `docstrings.rule_text`.
    """

    registry: ClassVar[dict[str, type[Rule]]] = {}  # {code: the rule}

    code: ClassVar[str]
    name: ClassVar[str]  # that of the class, in kebab case: the fault
    severity: ClassVar[Severity]  # the most severe that it gives
    kinds: ClassVar[tuple[str, ...]] = BATCH  # kinds of layer that it is about; (): any model
    needs: ClassVar[Need | None] = None
    remedy: ClassVar[str]
    mend: ClassVar[str] = ""  # the function of normscope that applies it
    reference: ClassVar[str]

    def __init_subclass__(
        cls, *, code: str = "", severity: Severity = "warning", kinds: tuple[str, ...] | None = None
    ) -> None:
        """Register a rule; bases of rules have no code."""
        super().__init_subclass__()
        if kinds is not None:
            cls.kinds = kinds
        if code:
            cls.code, cls.severity = code, severity
            cls.name = kebab_case(cls.__name__)
            Rule.registry[code] = cls

    @classmethod
    def text(cls) -> RuleText:
        """Return the parts of the docstring."""
        return rule_text(cls.__doc__ or "")

    def results(self, exam: Examination) -> Results:
        """Yield the findings, or what is missing to decide; nothing if the rule does not apply."""
        if not self.applies(exam):
            return
        if self.needs is None or getattr(exam, self.needs.field) is not None:
            yield from self.check(exam)
        elif self.needs.reported and exam.source in MISSING_IN:
            yield self.not_evaluated(MISSING_IN[exam.source] or self.needs.words)

    def applies(self, exam: Examination) -> bool:
        """Tell whether the model has what the rule is about."""
        return not self.kinds or bool(exam.of_kind(*self.kinds))

    def check(self, exam: Examination) -> Results:
        """Yield what the rule has to say; here, layer by layer."""
        for layer in exam.of_kind(*self.kinds):
            yield from self.check_layer(layer, exam)

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        """Yield what the rule has to say of one layer."""
        raise NotImplementedError

    def finding(
        self, layer: str, message: str, evidence: dict[str, Any], severity: Severity | None = None,
        *, cause: str = "", remedy: str = "",
    ) -> Finding:  # fmt: skip
        """Make a finding of this rule.

        Args:
            layer: its name, "" for the whole model.
            message: what is wrong, in one sentence.
            evidence: what was measured, by name, beside the limits.
            severity: the rule's if None.
            cause: a key; layers with one key are reported as one fault. A rule with several
                messages of one severity needs it.
            remedy: in place of the rule's.
        """
        plain = {name: _plain(value) for name, value in evidence.items()}
        severity, remedy = severity or self.severity, remedy or self.remedy
        return Finding(self.code, self.name, severity, layer, message, plain, remedy, cause)

    def not_evaluated(self, missing: str) -> NotEvaluated:
        """Say what the rule lacks to decide."""
        return NotEvaluated(self.code, self.name, missing)


class FactRule(Rule):
    """A rule about one fact, for which its subclasses have a `check_<field>(fact, exam)`."""

    def check(self, exam: Examination) -> Results:
        assert self.needs is not None
        fact = getattr(exam, self.needs.field)
        yield from getattr(self, f"check_{self.needs.field}")(fact, exam)


class MeasuredRule(Rule):
    """A rule about what the batches showed at single layers, of those that ran:
    `check_measured(layer, measured, exam)`.
    """

    needs = BATCHES
    shown: ClassVar[str] = "measured"  # the part of a layer that is handed over

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if (part := getattr(layer, self.shown)) is not None:
            yield from getattr(self, f"check_{self.shown}")(layer, part, exam)


class PlaceRule(MeasuredRule):
    """A rule about where a layer stands in the network, as a forward showed it:
    `check_place(layer, place, exam)`.
    """

    shown = "place"


class ForwardRule(FactRule):
    """A rule about the outputs of the model on the batches: `check_forward`."""

    needs = BATCHES


class OptimizerRule(FactRule):
    """A rule about the optimizer and the parameters of layers."""

    needs = OPTIMIZER
    kinds = EVERY_KIND

    def check_optimizer(self, optimizer: Optimizer, exam: Examination) -> Results:
        """Yield what the rule has to say; here, layer by layer."""
        yield from Rule.check(self, exam)


class LoaderRule(FactRule):
    """A rule about a training loader, with or without a model that needs it: `check_loader`."""

    needs = LOADER
    kinds = ()

    def applies(self, exam: Examination) -> bool:
        return exam.source == "loader" or uses_batch_statistics(exam)


class PairRule(FactRule):
    """A rule about two models that should agree: `check_pair`."""

    needs = OTHER
    kinds = ()


class HistoryRule(FactRule):
    """A rule about a training, what a recording or a watched loop showed: `check_steps`."""

    needs = HISTORY
    kinds = ()

    def applies(self, exam: Examination) -> bool:
        return exam.history is not None or bool(exam.of_kind(*BATCH_KINDS))

    def check_history(self, history: History, exam: Examination) -> Results:
        """Yield what the rule has to say; here, layer by layer."""
        for layer in history.layers:
            yield from self.check_steps(layer, history)

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        """Yield what the rule has to say of one layer's training."""
        raise NotImplementedError


def count(mask: np.ndarray) -> int:
    """Return how many channels a mask marks."""
    return int(np.count_nonzero(mask))


def high(values: np.ndarray | None, level: float = 0.95) -> float:
    """Return a quantile over the channels that are finite; NaN without any."""
    if values is None:
        return math.nan
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, level)) if len(finite) else math.nan


def uses_batch_statistics(exam: Examination) -> bool:
    """Tell whether a batch normalization of the model uses batch statistics in train mode."""
    return any(layer.live for layer in exam.of_kind("batch"))


def deliberately_frozen(layer: Layer, exam: Examination) -> bool:
    """Tell whether the layer's statistics stand still by intention: it is in eval mode inside a
    model in train mode, or they are fixed for good.
    """
    return not layer.live or in_eval_mode_alone(layer, exam)


def in_eval_mode_alone(layer: Layer, exam: Examination) -> bool:
    """Tell whether the layer is in eval mode inside a model in train mode."""
    return bool(exam.training) and layer.training is False


def half_unit(weight: np.ndarray, dtype: str) -> np.ndarray:
    """Return half a unit in the last place of each weight, on its side towards zero."""
    mantissa, exponent = np.frexp(np.abs(weight))
    power = np.ldexp(1.0, exponent - 1)  # the largest power of two that is not above |weight|
    half = power * ROUNDING.get(dtype, 0.0)
    return np.where(mantissa == 0.5, half / 2, half)


def multiplies_by_one_more(layer: Layer) -> bool:
    """Tell whether a forward showed that the layer multiplies by 1 + weight."""
    return _gain_offset(layer) == 1


def multiplies_by_weight(layer: Layer) -> bool:
    """Tell whether the layer multiplies by its weight: PyTorch's class, or as a forward showed."""
    return not layer.foreign or _gain_offset(layer) == 0


def _gain_offset(layer: Layer) -> int | None:
    """Return 0 or 1, which the layer adds to its weight, as a forward showed it."""
    gain = layer.measured.gain if layer.measured is not None else None
    if gain is None or layer.weight is None or gain.shape != layer.weight.shape:
        return None
    size = max(float(np.abs(gain).max()), 1e-3)
    fits = [o for o in (0, 1) if float(np.abs(gain - layer.weight - o).max()) < 0.05 * size]
    return fits[0] if len(fits) == 1 else None


def query_and_key(name: str) -> str:
    """Return a layer's name with one word for query and key, "" where it says neither: the two of
    one attention (q_norm and k_norm, norm_added_q and norm_added_k) have one such name.
    """
    scope, _, own = name.rpartition(".")
    words = re.split("(_|(?<=[a-z])(?=[A-Z]))", own)
    shared = ["qk" if word.lower() in ("q", "k", "query", "key") else word for word in words]
    return f"{scope}.{''.join(shared)}" if shared != words else ""


def never_ran(layer: Layer, exam: Examination) -> bool:
    """Tell whether batches were run, and the layer was not called."""
    return exam.forward is not None and layer.place is None and layer.measured is None


def _plain(value: Any) -> Any:
    """A number rounded to four digits, as evidence is read by people; anything else as it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value
