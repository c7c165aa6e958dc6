"""The summary of a comparison: every run, and every norm at every learning rate over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normscope.judge.evidence.quantities import learned_from
from normscope.records.run import RunRecord

THRESHOLD_SHARE = 0.95
"""The accuracy to reach: this share of the first norm's mean final accuracy at the same rate."""


@dataclass(frozen=True)
class RunSummary:
    """One run. Accuracies are fractions in [0, 1]; what is missing is None."""

    id: str
    norm: str
    learning_rate: float
    seed: int
    status: str
    epochs: int
    test_accuracy: float | None  # after the last epoch, never the best one
    train_loss: float | None
    test_loss: float | None  # in nats; of text per byte
    seconds: float | None  # of all its epochs, evaluation included
    epochs_to_threshold: float | None
    diverged_step: int | None
    error: str | None


@dataclass(frozen=True)
class GroupSummary:
    """One norm at one learning rate, over its seeds. Means leave diverged and unfinished runs out.

    `epochs_to_threshold` is the mean over the finished runs, and None where one of them never got
    there: leaving that run out would make the arm look faster than it is. `reached_threshold`
    counts those that did.
    """

    norm: str
    learning_rate: float
    n: int  # runs that finished
    diverged: int
    test_accuracy_mean: float | None
    test_accuracy_std: float | None  # of a sample (n - 1); None for n < 2
    train_loss_mean: float | None
    test_loss_mean: float | None  # in nats; of text per byte
    test_loss_std: float | None  # as that of the accuracy
    threshold: float | None
    epochs_to_threshold: float | None
    reached_threshold: int
    gradient_norm_variation: float | None  # coefficient of variation over epochs, mean over runs


@dataclass(frozen=True)
class Comparison:
    """A comparison as numbers; `to_json` is what summary.json holds."""

    runs: tuple[RunSummary, ...]
    groups: tuple[GroupSummary, ...]
    threshold: dict[float, float | None]  # per learning rate
    data: dict[str, Any]
    model: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, with null for what is missing."""
        thresholds = {str(rate): value for rate, value in self.threshold.items()}
        return asdict(self) | {"threshold": thresholds}


def summarize(
    runs: Sequence[RunRecord], norms: Sequence[str], learning_rates: Sequence[float]
) -> Comparison:
    """Summarize the runs of a grid, in its order; the first norm sets the threshold."""
    thresholds = {rate: _threshold(runs, norms[0], rate) for rate in learning_rates}
    groups = tuple(
        _group(runs, norm, rate, thresholds[rate]) for rate in learning_rates for norm in norms
    )
    meta = next((run.meta for run in runs if run.meta.get("data")), {})
    spec, environment = runs[0].spec, meta.get("environment", {})
    data = {"name": spec["data"], "fingerprint": spec.get("data_fingerprint")}
    parameters = {run.norm: run.meta["parameters"] for run in runs if "parameters" in run.meta}
    model = {"name": spec["model"], "parameters": parameters}
    return Comparison(
        runs=tuple(_run(run, thresholds[run.learning_rate]) for run in runs),
        groups=groups,
        threshold=thresholds,
        data=data | meta.get("data", {}),
        model=model | {key: spec.get(key) for key in _MODEL_FIELDS},
        hardware=environment.get("hardware", {}) | {"precision": spec.get("precision")},
        versions=environment.get("versions", {}),
    )


_MODEL_FIELDS = (
    "activation", "block", "widths", "blocks_per_stage", "initialization", "initialization_scale",
)  # fmt: skip


def epochs_to_reach(accuracy: np.ndarray, threshold: float | None) -> float | None:
    """Return the epochs until the accuracy first reaches the threshold, linear between epochs; None
    if it never does.

    Args:
        accuracy: test accuracy after each epoch, [epochs]. It is not known before the first epoch,
            so an arm that is there after one epoch took one.
        threshold: a fraction, or None where there is nothing to reach.
    """
    if threshold is None or not (accuracy >= threshold).any():
        return None
    index = int(np.argmax(accuracy >= threshold))
    if index == 0 or not np.isfinite(accuracy[index - 1]):
        return float(index + 1)
    before, after = accuracy[index - 1], accuracy[index]
    return float(index + (threshold - before) / (after - before))


def gradient_variation(run: RunRecord) -> float | None:
    """Coefficient of variation over epochs (sample std) of the stem gradient after each."""
    norms = run.column("stem_gradient")
    if len(norms) < 2 or not np.isfinite(norms).all() or norms.mean() == 0:
        return None
    return float(norms.std(ddof=1) / norms.mean())


def _of(runs: Sequence[RunRecord], norm: str, rate: float, status: str) -> list[RunRecord]:
    return [
        run for run in runs if (run.norm, run.learning_rate, run.status) == (norm, rate, status)
    ]


def _threshold(runs: Sequence[RunRecord], norm: str, rate: float) -> float | None:
    finished = _of(runs, norm, rate, "finished")
    mean = _mean([run.final("test_accuracy") for run in finished])
    if mean is None or mean < learned_from(finished[0]):
        return None  # guessing would pass it
    return THRESHOLD_SHARE * mean


def _group(
    runs: Sequence[RunRecord], norm: str, rate: float, threshold: float | None
) -> GroupSummary:
    finished = _of(runs, norm, rate, "finished")
    accuracies = [last for run in finished if (last := run.final("test_accuracy")) is not None]
    losses = [last for run in finished if (last := run.final("test_loss")) is not None]
    times = [epochs_to_reach(run.column("test_accuracy"), threshold) for run in finished]
    return GroupSummary(
        norm=norm,
        learning_rate=rate,
        n=len(finished),
        diverged=len(_of(runs, norm, rate, "diverged")),
        test_accuracy_mean=_mean(accuracies),
        test_accuracy_std=_std(accuracies),
        test_loss_mean=_mean(losses),
        test_loss_std=_std(losses),
        train_loss_mean=_mean([run.final("train_loss") for run in finished]),
        threshold=threshold,
        epochs_to_threshold=None if None in times else _mean(times),
        reached_threshold=sum(time is not None for time in times),
        gradient_norm_variation=_mean([gradient_variation(run) for run in finished]),
    )


def _run(run: RunRecord, threshold: float | None) -> RunSummary:
    seconds, finished = run.column("seconds"), run.status == "finished"
    return RunSummary(
        id=run.directory.name,
        norm=run.norm,
        learning_rate=run.learning_rate,
        seed=run.seed,
        status=run.status,
        epochs=len(run.epochs["epoch"]),
        test_accuracy=run.final("test_accuracy"),
        train_loss=run.final("train_loss"),
        test_loss=run.final("test_loss"),
        seconds=float(np.nansum(seconds)) if len(seconds) else None,
        epochs_to_threshold=epochs_to_reach(
            run.column("test_accuracy"), threshold if finished else None
        ),
        diverged_step=run.meta.get("diverged_step"),
        error=run.meta.get("error"),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _std(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample (n - 1); None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
