"""The panels of explanation.png that show test accuracy when eval() is forgotten, and after that."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from normscope.records.explanation import ORDERS, Explanation
from normscope.show.figures.style import REFERENCE, SMALL

COLOURS = {"shuffled": "#0072B2", "class-ordered": "#D55E00"}
MARKERS = {"shuffled": "o", "class-ordered": "s"}


def draw_accuracies(during: Axes, afterwards: Axes, explanation: Explanation) -> None:
    """Accuracy by batch size and order: every pass a point, their mean a line; on the right in eval
    mode afterwards.
    """
    forgotten = explanation.forgotten
    _panel(during, explanation, forgotten.during, "during")
    _panel(afterwards, explanation, forgotten.afterwards, "afterwards")
    during.set_title("Test accuracy, eval() forgotten:\ntrain mode", loc="left")
    remembers = explanation.running_before is not None
    moved = (
        "the running\nstatistics have moved" if remembers else "there are\nno running statistics"
    )
    afterwards.set_title(f"Then eval(): {moved}", loc="left")
    during.set_ylabel("accuracy (%)")
    afterwards.tick_params(labelleft=False)
    during.legend(
        loc="upper left", bbox_to_anchor=(-0.05, -0.28), ncols=4, frameon=False, fontsize=SMALL, columnspacing=1.2,
        handletextpad=0.4, borderaxespad=0,
    )  # fmt: skip


def _panel(axis: Axes, explanation: Explanation, values: np.ndarray, name: str) -> None:
    forgotten = explanation.forgotten
    places = np.arange(len(forgotten.batch_sizes))
    for k, order in enumerate(ORDERS):
        x = places + 0.16 * (k - 0.5)
        style = {"color": COLOURS[order], "marker": MARKERS[order], "markeredgewidth": 0}
        repeats = values.shape[2]
        offsets = 0.05 * np.linspace(-1, 1, repeats) if repeats > 1 else np.zeros(1)
        axis.plot((x[:, None] + offsets).ravel(), 100 * values[k].ravel(), linestyle="", markersize=4, alpha=0.6,
                  gid=f"{name} {order} passes", **style)  # fmt: skip
        means = np.array(
            [
                row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan
                for row in values[k]
            ]
        )
        axis.plot(
            x,
            100 * means,
            linewidth=1.6,
            markersize=0,
            label=order,
            gid=f"{name} {order} mean",
            **style,
        )
    chance = 1 / max(len(explanation.meta["spec"]["classes"]), 1)
    axis.axhline(100 * forgotten.eval_accuracy, color="black", linewidth=1.2, linestyle=(0, (4, 3)), label="eval mode",
                 gid=f"{name} eval mode")  # fmt: skip
    axis.axhline(
        100 * chance,
        color=REFERENCE,
        linewidth=0.8,
        linestyle=(0, (1, 2)),
        label="guessing",
        gid="guessing",
    )
    axis.set_xticks(places, [str(size) for size in forgotten.batch_sizes])
    axis.set_xlim(-0.5, len(places) - 0.5)
    axis.set_ylim(0, 103)
    axis.grid(visible=False, axis="x")
    axis.set_xlabel("batch size")
