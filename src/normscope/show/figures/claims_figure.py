"""A figure per claim: every seed's value in both arms, and the difference at each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from normscope.judge.verdicts import Verdict, effect_text
from normscope.records.run import RunRecord
from normscope.show.figures.page import Frame, Row, lay_out, text_width
from normscope.show.figures.provenance import footer
from normscope.show.figures.style import (
    INK,
    REFERENCE,
    SMALL,
    house_style,
    label_of,
    legend_line,
    log_ticks,
    name_rows,
    norm_styles,
    save,
)
from normscope.show.palette import colour_of
from normscope.words import e_text

VERDICT_COLOURS = {
    "supported": colour_of("good"),
    "contradicted": colour_of("warn"),
    "negligible": INK,
    "no difference": INK,
    "cannot tell": REFERENCE,
}
"""{outcome: its colour, as on the page}; none is a norm's."""

DECADES_FOR_LOG = 1.5
WIDTH = 9.0


class _Effect(NamedTuple):
    label: str
    effect: float | None
    interval: tuple[float, float] | None
    outcome: str


@house_style()
def draw(verdict: Verdict, runs: Sequence[RunRecord], path: Path) -> Figure:
    """Draw one verdict that has values, and write the figure.

    Left, the value of each seed, the same seed in both arms joined by a line. Right, the difference
    with its 95% interval: over all settings, then at each. The band is the margin inside which a
    difference counts as none.
    """
    effects = _effects(verdict)
    gap = 0.45 + max(text_width(row.label, SMALL) for row in effects)
    height = max(2.4, 0.42 * len(effects) + 0.4)
    rows, width = [Row(height, above=0.3, below=0.5)], max(WIDTH, WIDTH - 1.5 + gap)
    figure, axes = lay_out(rows, 2, _frame(verdict, effects, runs), width=width, gap=gap)
    _draw_values(axes[0][0], verdict)
    _draw_effects(axes[0][1], verdict, effects)
    return save(figure, path)


def _effects(verdict: Verdict) -> list[_Effect]:
    """The effect over all settings and at each, from top to bottom."""
    whole = "all settings" if verdict.settings else _kind(verdict).lower()
    return [
        _Effect(whole, verdict.effect, verdict.interval, verdict.outcome),
        *(
            _Effect(label_of(at.label, 34), at.effect, at.interval, at.outcome or "cannot tell")
            for at in verdict.settings
        ),
    ]


def _frame(verdict: Verdict, effects: Sequence[_Effect], runs: Sequence[RunRecord]) -> Frame:
    settle = f" To settle it: {verdict.needs}." if verdict.needs else ""
    evidence = "" if verdict.e is None else f", {e_text(verdict.e)}"
    effect = effect_text(verdict.effect, verdict.unit, verdict.interval)
    handles = [
        legend_line(color=REFERENCE, marker="o", linewidth=0.8, alpha=0.6, label="one seed"),
        legend_line(color=INK, marker="_", markersize=14, markeredgewidth=2, linestyle="",
                    label="mean"),
        *(
            legend_line(color=VERDICT_COLOURS[outcome], marker="D", linewidth=1.6,
                        label=f"{outcome}, 95% interval")
            for outcome in dict.fromkeys(row.outcome for row in effects)
        ),
        Patch(color=REFERENCE, alpha=0.15, linewidth=0, label="margin: as good as none"),
    ]  # fmt: skip
    return Frame(
        f"{verdict.code} {verdict.statement}",
        footer(runs),
        subtitle=f"n = {verdict.n}{evidence}.{settle} {verdict.subject}. "
        f"Quantity: {verdict.quantity}.",
        legends=(handles,),
        result=f"{verdict.words.capitalize()}: {effect}",
        result_colour=VERDICT_COLOURS[verdict.outcome],
    )


def _draw_values(axis: Axes, verdict: Verdict) -> None:
    """A column for each arm."""
    styles = norm_styles(verdict.arms)
    first, second = (verdict.values[arm] for arm in verdict.arms)
    for seed in sorted(set(first) & set(second)):
        axis.plot((0, 1), (first[seed], second[seed]), color=REFERENCE, linewidth=0.8, alpha=0.6,
                  gid=f"seed {seed}")  # fmt: skip
    ratio = verdict.neutral == 1
    for x, (arm, values) in enumerate(verdict.values.items()):
        shown, style = np.array(list(values.values())), styles[arm]
        axis.plot(
            np.full(len(shown), x), shown, color=style.colour, marker=style.marker, linestyle="",
            alpha=0.7, markeredgewidth=0, gid=f"{arm} values",
        )  # fmt: skip
        mean = float(np.exp(np.log(shown).mean()) if ratio else shown.mean())
        axis.plot(x, mean, color=INK, marker="_", markersize=22, markeredgewidth=2,
                  linestyle="", gid=f"{arm} mean")  # fmt: skip
    axis.set_xticks((0, 1), [label_of(arm, 18) for arm in verdict.arms])
    axis.grid(visible=False, axis="x")
    every = np.array([value for values in verdict.values.values() for value in values.values()])
    decades = float(np.log10(every.max() / every.min())) if ratio else 0.0
    if decades > DECADES_FOR_LOG:
        log_ticks(axis, "y", decades=decades)
    elif np.ptp(every) < 1e-9:
        axis.set_ylim(every[0] - 1, every[0] + 1)
    axis.set(title="Value of each seed", xlim=(-0.5, 1.5))


def _draw_effects(axis: Axes, verdict: Verdict, rows: Sequence[_Effect]) -> None:
    """A row for all settings together and one for each."""
    low, high = _margin(verdict)
    axis.axvspan(low, high, color=REFERENCE, alpha=0.15, linewidth=0, gid="margin")
    axis.axvline(verdict.neutral, color=REFERENCE, linewidth=0.8)
    ends = [low, high]
    for y, row in enumerate(rows):
        if row.effect is None:
            continue
        colour = VERDICT_COLOURS[row.outcome]
        if row.interval is not None:
            axis.plot(
                row.interval, (y, y), color=colour, linewidth=1.6, gid=f"{row.label} interval"
            )
        axis.plot(row.effect, y, color=colour, marker="D", markersize=5 if y else 7,
                  gid=f"{row.label} effect")  # fmt: skip
        ends += [row.effect, *(row.interval or ())]
    name_rows(axis, [row.label for row in rows])
    ratio = verdict.neutral == 1
    if ratio:
        limits = min(ends) / 1.15, max(ends) * 1.15
        log_ticks(axis, "x", _ratio_ticks(*limits))
        axis.set_xlim(*limits)
    else:
        pad = 0.06 * (max(ends) - min(ends))
        axis.set_xlim(min(ends) - pad, max(ends) + pad)
    first, second = (label_of(arm, 18) for arm in verdict.arms)
    compared = f"{first} / {second}" if ratio else f"{first} − {second} ({verdict.unit})"
    axis.set(title=_kind(verdict), xlabel=compared)


def _kind(verdict: Verdict) -> str:
    return "Ratio" if verdict.neutral == 1 else "Difference"


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Round ratios inside the limits, 1 among them, six at most."""
    for steps in (
        (0.8, 1, 1.25, 1.5), (0.5, 0.7, 1, 1.5, 2, 3), (0.2, 0.5, 1, 2, 5), (0.1, 0.3, 1, 3, 10),
    ):  # fmt: skip
        ticks = [tick for tick in steps if low <= tick <= high]
        if low >= steps[0] / 1.5 and high <= steps[-1] * 1.5:
            return ticks
    decades = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    every = -(-len(decades) // 6)
    return [10.0**decade for decade in decades if decade % every == 0]


def _margin(verdict: Verdict) -> tuple[float, float]:
    ratio = verdict.neutral == 1
    return 1 / verdict.margin if ratio else -verdict.margin, verdict.margin
