"""A figure per claim: every seed's value in both arms, and the difference between them at each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from normscope.judge.verdicts import Verdict
from normscope.records.run import RunRecord
from normscope.show.figures.page import Frame, Row, lay_out, text_width
from normscope.show.figures.provenance import footer
from normscope.show.figures.style import (
    REFERENCE,
    SMALL,
    house_style,
    label_of,
    legend_line,
    log_ticks,
    norm_styles,
    save,
)

VERDICT_COLOURS = {
    "supported": "#009E73",
    "contradicted": "#D55E00",
    "no difference": "#0072B2",
    "cannot tell": REFERENCE,
}
DECADES_FOR_LOG = 1.5
WIDTH = 9.0


@house_style()
def draw(verdict: Verdict, runs: Sequence[RunRecord], path: Path) -> Figure:
    """Draw one verdict that has values, and write the figure.

    Left, the value of each seed, the same seed in both arms joined by a line. Right, the difference
    with its 95% interval: over all settings, then at each. The band is the margin inside which
    there is no difference.

    Args:
        verdict: with values.
        runs: those that it was judged on, for the footer.
        path: where the figure goes, in the format of its suffix.

    Raises:
        StorageError: if it cannot be written.
    """
    rows = _rows(verdict)
    labels = [label for label, *_ in rows]
    gap = 0.45 + max(text_width(label, SMALL) for label in labels)
    height = max(2.4, 0.42 * len(rows) + 0.4)
    figure, axes = lay_out(
        [Row(height, above=0.3, below=0.5)],
        2,
        _frame(verdict, runs),
        width=max(WIDTH, WIDTH - 1.5 + gap),
        gap=gap,
    )
    _draw_values(axes[0][0], verdict)
    _draw_effects(axes[0][1], verdict, rows)
    save(figure, path)
    return figure


_Effect = tuple[str, float | None, tuple[float, float] | None, str]


def _rows(verdict: Verdict) -> list[_Effect]:
    """(label, effect, interval, outcome) from top to bottom."""
    whole = "all settings" if verdict.settings else _kind(verdict).lower()
    found: list[_Effect] = [(whole, verdict.effect, verdict.interval, verdict.outcome)]
    found += [
        (
            label_of(reading.label, 34),
            reading.effect,
            reading.interval,
            reading.outcome or "cannot tell",
        )
        for reading in verdict.settings
    ]
    return found


def _frame(verdict: Verdict, runs: Sequence[RunRecord]) -> Frame:
    settle = f" To settle it: {verdict.needs}." if verdict.needs else ""
    p = "" if verdict.p is None else f", p = {verdict.p:.2g} ({verdict.test})"
    outcomes = dict.fromkeys(outcome for *_, outcome in _rows(verdict))
    dot = legend_line(color=REFERENCE, marker="o", linewidth=0.8, alpha=0.6, label="one seed")
    mean = legend_line(
        color="black", marker="_", markersize=14, markeredgewidth=2, linestyle="", label="mean"
    )
    handles = [
        dot,
        mean,
        *(
            legend_line(
                color=VERDICT_COLOURS[name],
                marker="D",
                linewidth=1.6,
                label=f"{name}, 95% interval",
            )
            for name in outcomes
        ),
        Patch(color=REFERENCE, alpha=0.15, linewidth=0, label="margin: no difference"),
    ]
    return Frame(
        f"{verdict.code} {verdict.statement}",
        footer(runs),
        subtitle=f"{verdict.outcome.capitalize()}: n = {verdict.n}{p}.{settle} {verdict.subject}. "
        f"Quantity: {verdict.quantity}.",
        legends=(handles,),
    )


def _draw_values(axis: Axes, verdict: Verdict) -> None:
    """A column for each arm."""
    styles = norm_styles(verdict.arms)
    first, second = (verdict.values[arm] for arm in verdict.arms)
    for seed in sorted(set(first) & set(second)):
        axis.plot(
            (0, 1),
            (first[seed], second[seed]),
            color=REFERENCE,
            linewidth=0.8,
            alpha=0.6,
            gid=f"seed {seed}",
        )
    for place, (arm, values) in enumerate(verdict.values.items()):
        shown = np.array(list(values.values()))
        style = styles[arm]
        axis.plot(
            np.full(len(shown), place), shown, color=style.colour, marker=style.marker, linestyle="", alpha=0.7,
            markeredgewidth=0, gid=f"{arm} values",
        )  # fmt: skip
        mean = float(np.exp(np.log(shown).mean()) if verdict.neutral == 1 else shown.mean())
        axis.plot(
            place,
            mean,
            color="black",
            marker="_",
            markersize=22,
            markeredgewidth=2,
            linestyle="",
            gid=f"{arm} mean",
        )
    axis.set_xlim(-0.5, 1.5)
    axis.set_xticks((0, 1), [label_of(arm, 18) for arm in verdict.arms])
    axis.grid(visible=False, axis="x")
    every = np.array([value for values in verdict.values.values() for value in values.values()])
    if verdict.neutral == 1 and every.max() / every.min() > 10**DECADES_FOR_LOG:
        log_ticks(axis, "y", decades=float(np.log10(every.max() / every.min())))
    elif np.ptp(every) < 1e-9:
        axis.set_ylim(every[0] - 1, every[0] + 1)
    axis.set_title("Value of each seed", loc="left")


def _draw_effects(axis: Axes, verdict: Verdict, rows: Sequence[_Effect]) -> None:
    """A row for all settings together and one for each."""
    low, high = _margin(verdict)
    axis.axvspan(low, high, color=REFERENCE, alpha=0.15, linewidth=0, gid="margin")
    axis.axvline(verdict.neutral, color=REFERENCE, linewidth=0.8)
    ends = [low, high]
    for place, (label, effect, interval, outcome) in enumerate(rows):
        if effect is None:
            continue
        colour = VERDICT_COLOURS[outcome]
        if interval is not None:
            axis.plot(
                interval, (place, place), color=colour, linewidth=1.6, gid=f"{label} interval"
            )
        axis.plot(
            effect,
            place,
            color=colour,
            marker="D",
            markersize=7 if place == 0 else 5,
            gid=f"{label} effect",
        )
        ends += [effect, *(interval or ())]
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    if verdict.neutral == 1:
        limits = min(ends) / 1.15, max(ends) * 1.15
        log_ticks(axis, "x", _ratio_ticks(*limits))
        axis.set_xlim(*limits)
    else:
        pad = 0.06 * (max(ends) - min(ends))
        axis.set_xlim(min(ends) - pad, max(ends) + pad)
    first, second = (label_of(arm, 18) for arm in verdict.arms)
    sign = "/" if verdict.neutral == 1 else "−"
    axis.set_xlabel(
        f"{first} {sign} {second}" + ("" if verdict.neutral == 1 else f" ({verdict.unit})")
    )
    axis.set_title(_kind(verdict), loc="left")


def _kind(verdict: Verdict) -> str:
    return "Ratio" if verdict.neutral == 1 else "Difference"


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Round ratios inside the limits, 1 among them, six at most."""
    for steps in (
        (0.8, 1, 1.25, 1.5),
        (0.5, 0.7, 1, 1.5, 2, 3),
        (0.2, 0.5, 1, 2, 5),
        (0.1, 0.3, 1, 3, 10),
    ):
        ticks = [tick for tick in steps if low <= tick <= high]
        if low >= steps[0] / 1.5 and high <= steps[-1] * 1.5:
            return ticks
    decades = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    every = -(-len(decades) // 6)
    return [10.0**decade for decade in decades if decade % every == 0]


def _margin(verdict: Verdict) -> tuple[float, float]:
    return (
        (1 / verdict.margin, verdict.margin)
        if verdict.neutral == 1
        else (-verdict.margin, verdict.margin)
    )
