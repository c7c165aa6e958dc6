"""The queries behind the overviews of a recording: one measure of every layer over the steps.

Every step that is sent was recorded: nothing is averaged over time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from normscope.judge import layer_measures as measures
from normscope.judge.activation_regions import SHARE
from normscope.records.recording_header import CONSTANT_STD
from normscope.show.report.page_tables import Table, exact, indices
from normscope.show.report.report_data import ReportData, Watched

OVERVIEW_STEPS = 40

OVERVIEWS = (
    # name, measure, title, note, unit, colour scheme, log
    (
        "overview_std", measures.input_std, "Spread",
        "Median over channels of the batch standard deviation of the layer's input.",
        "std", "viridis", True,
    ),
    (
        "overview_mean", measures.input_mean, "Mean",
        "Root mean square over channels of the batch mean of the layer's input.",
        "|mean|", "viridis", False,
    ),
    (
        "overview_gap", measures.running_gap, "Gap between batch and running statistics",
        "Median over channels of |running mean − batch mean|, in batch standard deviations. Where "
        "it is large, eval mode sees other values than training.", "gap (std)", "magma", False,
    ),
    (
        "overview_gradient", measures.output_gradient, "Gradient",
        "L2 norm of the loss gradient at the layer's output.", "L2 norm", "viridis", True,
    ),
    (
        "overview_weight", measures.weight_size, "Weight",
        "Median over channels of |weight|.", "|weight|", "viridis", False,
    ),
    (
        "overview_active", measures.active_share, "Active region",
        "Share of the layer's outputs in the active region of the next activation, where its slope "
        f"is at least {SHARE:.0%} of its largest: above zero for ReLU.", "share", "cividis", False,
    ),
    (
        "overview_positive", measures.positive_share, "Outputs above zero",
        "Layers without a known activation behind them: share of the outputs above zero.",
        "share", "cividis", False,
    ),
    (
        "overview_dead", measures.dead_channels, "Dead channels",
        "Share of channels without any sampled output in the active region of the next activation.",
        "share", "magma", False,
    ),
    (
        "overview_stream", measures.stream_size, "Residual stream",
        "Root mean square of the residual sum beside the layer, by depth.", "RMS", "viridis", True,
    ),
    (
        "overview_share", measures.stream_share, "Largest channel of the stream",
        "Its share in the sum of squares of the residual sum.", "share", "magma", False,
    ),
    (
        "overview_cosine", measures.token_cosine, "Cosine between tokens",
        "Mean over pairs of tokens of a sequence: near 1, all tokens are alike.",
        "cosine", "cividis", False,
    ),
    (
        "overview_logit", measures.largest_logit, "Largest attention logit",
        "Largest product of a query and a key, scaled, behind their normalization.",
        "logit", "magma", False,
    ),
    (
        "overview_constant", measures.constant_channels, "Constant channels",
        f"Share of channels whose input varies by at most {CONSTANT_STD:g} of the layer's median "
        "standard deviation.", "share", "magma", False,
    ),
)  # fmt: skip

IF_ZERO = {
    "overview_dead": "No dead channels in any layer at the steps shown.",
    "overview_constant": "No constant channels in any layer at the steps shown.",
}
"""{view: what it says in place of a figure where every value is 0}."""

Query = Callable[[ReportData], Table | None]


def layer_names(data: ReportData) -> list[str]:
    """Return every watched layer once, in the order of the models: the page's list of layers."""
    return list(dict.fromkeys(name for item in data.watched for name in item.recording.layers))


def overview(measure: measures.Measure, log: bool) -> Query:
    """Return the query of one overview: a curve over the steps for each recording and layer."""

    def query(data: ReportData) -> Table | None:
        curves: list[tuple[tuple[int, int], np.ndarray, np.ndarray]] = []
        for *key, item, layer in watched_layers(data):
            steps, values = item.measure(measure, layer)
            keep = np.isfinite(values) & ((values > 0) | (not log))
            if keep.any():
                curves.append(((key[0], key[1]), steps[keep], values[keep]))
        if not curves:
            return None
        points = min(OVERVIEW_STEPS, max(len(steps) for _, steps, _ in curves))
        keys, values, axes = [], [], {}
        for key, steps, own in curves:
            chosen = thinned(len(steps), points)
            keys.append((*key, axes.setdefault(tuple(steps[chosen].tolist()), len(axes))))
            values.append(own[chosen])
        columns = indices(keys, "recording", "layer", "axis")
        return Table(columns, exact(np.concatenate(values)), points, tuple(axes))

    return query


@functools.cache
def thinned(count: int, points: int) -> np.ndarray:
    """Return the indices [points] of so many of `count` records, evenly spaced, the first and the
    last among them; of fewer records some repeat.
    """
    return np.linspace(0, count - 1, points).round().astype(int)


def stages(names: Sequence[str]) -> list[dict[str, str | int]]:
    """Return the layers that are in a stage of the network, {layer, stage, number of the stage}.

    Stages are modules: those of the outermost level at which several hold several layers.
    """
    paths = [name.split(".")[:-1] for name in names]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        heads = [".".join(path[:depth]) if len(path) >= depth else "" for path in paths]
        runs = [list(run) for _, run in itertools.groupby(range(len(names)), heads.__getitem__)]
        held = [run for run in runs if heads[run[0]] and len(run) > 1]
        if len(held) > 1:
            return [
                {"layer": index, "stage": heads[index], "number": number}
                for number, run in enumerate(held)
                for index in run
            ]
    return []


def watched_layers(data: ReportData) -> Iterator[tuple[int, int, Watched, str]]:
    """Yield (index of the recording, index of the layer, recording, layer) of all watched."""
    positions = {layer: index for index, layer in enumerate(layer_names(data))}
    for number, item in enumerate(data.watched):
        for layer in item.recording.layers:
            yield number, positions[layer], item, layer
