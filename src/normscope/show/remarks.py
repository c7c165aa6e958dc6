"""What stands out in a recording, in sentences: the same in the terminal and on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope.judge.findings import Finding
from normscope.judge.rules.residual_streams import STREAM_RULES
from normscope.records.examination import Examination, History, LayerHistory
from normscope.records.recording import Recording
from normscope.records.recording_header import CONSTANT_STD, HISTOGRAM_CHANNELS, LayerInfo
from normscope.words import plural

# Batch statistics are noisy: the state at the end is the median of this many records.
LAST_RECORDS = 10

# These only point at layers to look at; `normscope check` judges.
SMALL_WEIGHT = 1e-3
SURGE = 20.0  # times the first record's standard deviation; a training of digits that went well: 5
# Updates of the running statistics, in units of 1 / momentum, after which their start is forgotten.
SETTLED = 5.0
DRIFT_STDS = 1.0  # of the running mean from the batch mean, in batch standard deviations
WEAK_GRADIENT = 1e-3  # of a layer's output, against the strongest layer's

MOST_NAMED = 3

STATISTICS = (
    "batch_mean", "batch_var", "running_mean", "running_var", "weight", "bias",
    "output_gradient_norm", "num_batches_tracked", "stream", "attention", "token_cosine",
)  # fmt: skip

Values = dict[str, np.ndarray]  # {statistic: its value at the end}, of one layer


@dataclass(frozen=True)
class Remarks:
    """What is said of a recording.

    Attributes:
        seen: how many layers and steps were recorded.
        sentences: what stands out, the gravest first; empty where nothing does.
        left_out: what the recording's budget left out; empty where it recorded all.
        facts: {layer: its state at the end}, from which most of it follows.
    """

    seen: str
    sentences: tuple[str, ...]
    left_out: str
    facts: dict[str, Values]

    @classmethod
    def of(cls, recording: Recording) -> Remarks:
        """Return what is said of a recording, read once."""
        recorded = {name: recording.statistics(name) for name in recording.layers}
        recording = recording.snapshot((*STATISTICS, "training"))
        facts = {name: _facts(recording, name) for name in recording.layers}
        sentences = (*_not_looked_at(recorded), *_remarks(recording, facts))
        return cls(_seen(recording), sentences, _left_out(recording), facts)


def _seen(recording: Recording) -> str:
    cost, header = recording.cost, recording.header
    several = f", {len(recording.ranks)} of {header.world_size} processes"
    ranks = several if header.world_size > 1 else ""
    share = f"; watching took {cost.fraction:.1%} of the time" if cost.elapsed else ""
    counts = f"{plural(len(recording.layers), 'layer')}, {plural(cost.steps, 'step')}"
    return f"{counts} ({header.unit}s){ranks}{share}"


def _facts(recording: Recording, layer: str) -> Values:
    """The layer's state at the end of the recording, per channel: medians over the last records."""
    facts = {}
    for statistic in set(STATISTICS) & set(recording.statistics(layer)):
        _, values = recording.query(layer, statistic)
        if len(values):
            if statistic == "batch_var":
                facts["first_batch_var"] = values[0].astype(np.float64)
            facts[statistic] = np.median(values[-LAST_RECORDS:].astype(np.float64), axis=0)
    return facts


def _remarks(recording: Recording, facts: dict[str, Values]) -> Iterator[str]:
    if reason := recording.stopped:
        yield reason
    for row in recording.non_finite[:MOST_NAMED]:
        channels = f", channels {_few(row['channels'])}" if row["channels"] else ""
        yield (
            f"{row['layer']}: {row['statistic']} was not finite for the first time at step "
            f"{row['step']}{channels}."
        )
    for test in (_constant, _small_weights, _drifted):
        for layer, at_end in facts.items():
            if remark := test(at_end, recording.layers[layer]):
                yield f"{layer}: {remark}"
    yield from _stuck(recording)
    yield from _grown(facts)
    yield from _of_the_stream(recording, facts)
    yield from _never_in_train_mode(recording)
    yield from _weak_gradients(facts)
    yield from dict.fromkeys(note for note in recording.notes if note != reason)
    if not recording.complete and not reason:
        yield "The watcher was not closed: the training goes on, or ended without its last values."


def _is_called(statistics: Iterable[str]) -> bool:
    """Return whether a layer's statistics hold more than parameters, buffers and gradients."""
    return any(
        not re.fullmatch(r"(weight|bias)(_gradient)?|running_.*|num_.*", s) for s in statistics
    )


def _not_looked_at(recorded: Mapping[str, list[str]]) -> Iterator[str]:
    """Remark that there was no step, or that layers were not called in any recorded one."""
    idle = [name for name, statistics in recorded.items() if not _is_called(statistics)]
    if not any(recorded.values()):
        yield "Not one step was recorded, so nothing can be said of any layer."
    elif idle:
        yield (
            f"{len(idle)} of {len(recorded)} layers were not called in any recorded step "
            f"({_few(idle)}): nothing can be said of what passes through them."
        )


def _left_out(recording: Recording) -> str:
    """A line on what the recording's budget left out."""
    header = recording.header
    left = [f"{count:,} records of {kind}" for kind, count in header.left_out.items()]
    if spread := [info for info in header.layers if info.channel_stride > 1]:
        layers = plural(len(spread), "layer")
        left.append(f"channels of {layers}, of which evenly spaced ones are recorded")
    if any(0 < len(info.histogram_channels) < HISTOGRAM_CHANNELS for info in header.layers):
        left.append("histograms of some channels")
    if not left:
        return ""
    return (
        f"Left out for the budget of {header.budget:g} MB per 10,000 steps: {'; '.join(left)}. "
        "watch(budget=None) records all."
    )


def _never_in_train_mode(recording: Recording) -> Iterator[str]:
    """Remark that all layers were always in eval mode; some may be frozen by intention."""
    modes = [
        recording.query(name, "training")[1]
        for name in recording.layers
        if "training" in recording.statistics(name)
    ]
    if modes and all(len(values) > 1 and not values.any() for values in modes):
        yield (
            "every layer was in eval mode at every recorded step: batches were normalized by "
            "running statistics, which stood still. A loop that trains calls model.train()."
        )


def _constant(at_end: Values, info: LayerInfo) -> str:
    if (var := at_end.get("batch_var")) is None:
        return ""
    std = np.sqrt(var)
    constant = std <= CONSTANT_STD * np.median(std)
    return _of_channels(constant, info, "hardly vary in the batch ({}).")


def _stuck(recording: Recording) -> Iterator[str]:
    """Remark on layers whose running mean is the same in all records of train mode, unlike the
    batches' (`check` says NS104 where it is that of a new layer).
    """
    stuck = [name for name in recording.layers if _stood_still(recording, name)]
    if stuck:
        momenta = {recording.layers[name].momentum for name in stuck}
        why = " (momentum 0)" if momenta == {0} else ""
        yield (
            f"the running mean never moved in train mode{why} in {plural(len(stuck), 'layer')}: "
            f"{_few(stuck)}. Eval mode does not know the batches that went by."
        )


def _stood_still(recording: Recording, layer: str) -> bool:
    if not {"training", "running_mean", "batch_mean"} <= set(recording.statistics(layer)):
        return False
    modes, running, batches = (
        dict(zip(*recording.query(layer, name), strict=True))
        for name in ("training", "running_mean", "batch_mean")
    )
    steps = [step for step, training in modes.items() if training and step in running]
    if len(steps) < 2:
        return False
    first = running[steps[0]]
    moved = any(not np.array_equal(running[step], first, equal_nan=True) for step in steps)
    return not moved and any(not np.array_equal(batches.get(s, first), first) for s in steps)


def _grown(facts: dict[str, Values]) -> Iterator[str]:
    """Remark on the layer whose input spread out most, if it did, and how many others did."""
    spreads = {
        name: [float(np.sqrt(np.median(at_end[key]))) for key in ("first_batch_var", "batch_var")]
        for name, at_end in facts.items()
        if "batch_var" in at_end
    }
    grown = {n: last / first for n, (first, last) in spreads.items() if last > SURGE * first > 0}
    if not grown:
        return
    most = max(grown, key=lambda name: grown[name])
    first, last = spreads[most]
    others = f"; {plural(len(grown) - 1, 'other layer')} likewise" if len(grown) > 1 else ""
    yield (
        f"{most}: the spread of the input grew {grown[most]:.0f} times, from {first:.2g} to "
        f"{last:.2g} (standard deviation, median over channels){others}."
    )


def _of_the_stream(recording: Recording, facts: dict[str, Values]) -> Iterator[str]:
    """Remark, once per fault, on what the rules say of the residual stream."""
    layers = tuple(
        LayerHistory(
            name=name,
            kind=recording.layers[name].kind,
            stream=tuple(np.ravel(at_end.get("stream", ())).tolist()),
            attention=tuple(np.ravel(at_end.get("attention", ())).tolist()),
            token_cosine=next(iter(np.ravel(at_end.get("token_cosine", ())).tolist()), None),
        )
        for name, at_end in facts.items()
    )
    exam = Examination(history=History(layers=layers))
    for rule in STREAM_RULES:
        found = [each for each in rule().results(exam) if isinstance(each, Finding)]
        if found:
            others = f" ({plural(len(found) - 1, 'other layer')} likewise)" if found[1:] else ""
            yield f"{found[0].layer}: {found[0].message}{others}"


def _small_weights(at_end: Values, info: LayerInfo) -> str:
    if (weight := at_end.get("weight")) is None:
        return ""
    words = f"have a weight below {SMALL_WEIGHT:g} ({{}})."
    return _of_channels(np.abs(weight) < SMALL_WEIGHT, info, words)


def _of_channels(holds: np.ndarray, info: LayerInfo, words: str) -> str:
    """A remark on the channels for which something holds [C]; empty where it holds for none."""
    channels = np.flatnonzero(holds)
    if not len(channels):
        return ""
    return f"{len(channels)} of {len(holds)} channels {words.format(_named(info, channels))}"


def _drifted(at_end: Values, info: LayerInfo) -> str:
    if info.momentum and at_end.get("num_batches_tracked", np.inf) < SETTLED / info.momentum:
        return ""
    if not {"batch_mean", "batch_var", "running_mean"} <= at_end.keys():
        return ""
    if at_end["batch_mean"].shape != at_end["running_mean"].shape:
        return ""
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(at_end["running_mean"] - at_end["batch_mean"]) / np.sqrt(at_end["batch_var"])
    far = np.flatnonzero(away > DRIFT_STDS)
    if not len(far):
        return ""
    return (
        f"the running mean of {len(far)} of {len(away)} channels lies more than {DRIFT_STDS:g} "
        f"standard deviation from the batch mean ({_named(info, far)}): eval mode will see other "
        "values than training."
    )


def _weak_gradients(facts: dict[str, Values]) -> Iterator[str]:
    norms = {
        name: float(at_end["output_gradient_norm"])
        for name, at_end in facts.items()
        if "output_gradient_norm" in at_end
    }
    if not norms or not np.isfinite(strongest := max(norms.values())):
        return
    weak = [name for name, norm in norms.items() if norm < WEAK_GRADIENT * strongest]
    if weak:
        yield f"The gradient is a thousand times weaker than elsewhere at {_few(weak)}."


def _named(info: LayerInfo, indices: np.ndarray) -> str:
    """The numbers of a layer's channels."""
    return _few(info.channel_numbers(info.channels or int(indices[-1]) + 1)[indices])


def _few(items: Any) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:MOST_NAMED]) + (" ..." if len(items) > MOST_NAMED else "")
