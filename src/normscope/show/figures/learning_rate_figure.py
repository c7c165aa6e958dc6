"""learning_rates.png: final accuracy against the learning rate, and where runs diverged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normscope.judge.comparison import Comparison, GroupSummary
from normscope.records.run import RunRecord
from normscope.show.figures.page import MARGIN, Frame, Row, lay_out, text_width
from normscope.show.figures.provenance import footer, subject, unfinished
from normscope.show.figures.style import (
    REFERENCE,
    SMALL,
    NormStyle,
    house_style,
    label_of,
    legend_line,
    log_ticks,
    mean_handle,
    name_rows,
    norm_styles,
    save,
)


@house_style()
def draw(comparison: Comparison, runs: Sequence[RunRecord], path: Path) -> Figure:
    """Draw final test accuracy against the learning rate and write the figure.

    Every finished run is a point, beside those of the other norms at its rate; a line joins the
    means. Runs that did not finish have no final accuracy: a strip beneath counts those that
    diverged.
    """
    norms = list(dict.fromkeys(group.norm for group in comparison.groups))
    rates = sorted(comparison.threshold)
    styles = norm_styles(norms)
    labels = [label_of(norm, 20) for norm in norms]
    left = max(0.75, 0.3 + max(text_width(label, SMALL) for label in labels))
    frame, width = _frame(comparison, runs, styles), _page_width(rates, left)
    figure, axes = lay_out(_rows(comparison), 1, frame, width=width, left=left)
    accuracy = axes[0][0]
    for (axis,) in axes:
        log_ticks(axis, "x", rates)
        axis.set_xlim(rates[0] / 2, rates[-1] * 2)
        axis.tick_params(labelbottom=axis is axes[-1][0])
    for k, norm in enumerate(norms):
        groups = [group for group in comparison.groups if group.norm == norm]
        groups.sort(key=lambda group: group.learning_rate)
        of_norm = [run for run in runs if run.norm == norm]
        _draw_norm(accuracy, groups, of_norm, styles[norm], _dodge(k, len(norms), rates))
    chance = _chance(comparison)
    if chance is not None:
        accuracy.axhline(100 * chance, color=REFERENCE, linewidth=0.8, alpha=0.6, zorder=1.5,
                         gid="chance")  # fmt: skip
    accuracy.set(ylabel="final test accuracy (%)", ylim=(-3, 103))
    if len(axes) > 1:
        _draw_strip(axes[1][0], comparison.groups, norms, labels, styles)
    axes[-1][0].set_xlabel("learning rate (norms set side by side)")
    return save(figure, path)


def _rows(comparison: Comparison) -> list[Row]:
    """The panel, and the strip beneath it if there is something to count."""
    if not any(group.diverged for group in comparison.groups):
        return [Row(3.2, above=0.15, below=0.5)]
    norms = len({group.norm for group in comparison.groups})
    return [
        Row(3.2, above=0.15, below=0.3),
        Row(0.2 * norms, "Diverged runs", heading_bold=False, above=0.05, below=0.5),
    ]


def _frame(
    comparison: Comparison, runs: Sequence[RunRecord], styles: dict[str, NormStyle]
) -> Frame:
    diverged = any(group.diverged for group in comparison.groups)
    notes = [unfinished(runs, except_for=("diverged",)), "" if diverged else "No run diverged."]
    norms = dict.fromkeys(group.norm for group in comparison.groups)
    return Frame(
        f"Accuracy over learning rates: {subject(runs)}",
        footer(runs),
        subtitle=" ".join(filter(None, notes)),
        legends=([mean_handle(norm, styles[norm]) for norm in norms], _key(_chance(comparison))),
    )


def _page_width(rates: Sequence[float], left: float) -> float:
    """Inches that leave 0.6 between the closest rates, within reason."""
    span = math.log(4 * rates[-1] / rates[0])
    closest = min((math.log(high / low) for low, high in itertools.pairwise(rates)), default=span)
    return min(max(7.5, left + MARGIN + 0.6 * span / closest), 16.0)


def _dodge(index: int, count: int, rates: Sequence[float]) -> float:
    """Factor on the learning rate that sets the norms side by side."""
    closest = min((high / low for low, high in itertools.pairwise(rates)), default=10.0)
    return float(closest ** (0.16 * ((index + 0.5) / count - 0.5)))


def _key(chance: float | None) -> list[Line2D]:
    """Legend entries of what is no norm."""
    looks = {"marker": "o", "linestyle": "", "alpha": 0.5, "markeredgewidth": 0}
    handles = [legend_line(color=REFERENCE, label="one seed (line: mean)", **looks)]
    if chance is not None:
        guessing = f"guessing ({100 * chance:.3g}%)"
        handles.append(legend_line(color=REFERENCE, linewidth=0.8, label=guessing))
    return handles


def _chance(comparison: Comparison) -> float | None:
    classes = comparison.data.get("classes")
    return 1 / len(classes) if classes else None


def _draw_norm(
    axis: Axes,
    groups: Sequence[GroupSummary],
    runs: Sequence[RunRecord],
    style: NormStyle,
    factor: float,
) -> None:
    points = [
        (run.learning_rate, final)
        for run in runs
        if (final := run.final("test_accuracy")) is not None
    ]
    means = [
        (g.learning_rate, np.nan if g.test_accuracy_mean is None else g.test_accuracy_mean)
        for g in groups
    ]
    for values, looks, name in (
        (points, {"linestyle": "", "alpha": 0.5, "markersize": 5}, "seeds"),
        (means, {"linestyle": style.line, "linewidth": 2, "markersize": 0}, "mean"),
    ):
        x, y = np.array(values).reshape(-1, 2).T
        axis.plot(
            x * factor, 100 * y, color=style.colour, marker=style.marker, markeredgewidth=0,
            gid=f"{groups[0].norm} {name}", **looks,
        )  # fmt: skip


def _draw_strip(
    axis: Axes,
    groups: Sequence[GroupSummary],
    norms: Sequence[str],
    labels: Sequence[str],
    styles: dict[str, NormStyle],
) -> None:
    """A row per norm and a column per rate: how many runs diverged, of those that ended."""
    name_rows(axis, labels)
    axis.grid(visible=False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    for group in groups:
        colour = styles[group.norm].colour if group.diverged else REFERENCE
        text = f"✕ {group.diverged} of {group.diverged + group.n}" if group.diverged else "–"
        axis.text(
            group.learning_rate, norms.index(group.norm), text, color=colour, ha="center",
            va="center", size=SMALL, gid=f"{group.norm} diverged at {group.learning_rate:g}",
        )  # fmt: skip
