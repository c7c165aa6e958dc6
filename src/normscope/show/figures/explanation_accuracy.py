"""The panels of explanation.png on test accuracy when eval() is forgotten, and after that."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from normscope.records.explanation import ORDERS, Explanation
from normscope.show.figures.style import REFERENCE, legend_below

COLOURS = {"shuffled": "#0072B2", "class-ordered": "#D55E00"}
MARKERS = {"shuffled": "o", "class-ordered": "s"}


def draw_accuracies(during: Axes, afterwards: Axes, explanation: Explanation) -> None:
    """Draw accuracy by batch size and order, every pass a point and their mean a line: in train
    mode, and in eval mode afterwards.
    """
    _panel(during, explanation, explanation.forgotten.during, "during")
    _panel(afterwards, explanation, explanation.forgotten.afterwards, "afterwards")
    during.set_title("Test accuracy, eval() forgotten:\ntrain mode", loc="left")
    remembers = explanation.running_before is not None
    moved = (
        "the running\nstatistics have moved" if remembers else "there are\nno running statistics"
    )
    afterwards.set_title(f"Then eval(): {moved}", loc="left")
    during.set_ylabel("accuracy (%)")
    afterwards.tick_params(labelleft=False)
    legend_below(during, (-0.05, -0.28), 4)


def _panel(axis: Axes, explanation: Explanation, values: np.ndarray, name: str) -> None:
    forgotten = explanation.forgotten
    sizes = np.arange(len(forgotten.batch_sizes))
    repeats = values.shape[2]
    offsets = 0.05 * np.linspace(-1, 1, repeats) if repeats > 1 else np.zeros(1)
    for k, (order, of_order) in enumerate(zip(ORDERS, 100 * values, strict=True)):
        x = sizes + 0.16 * (k - 0.5)
        style = {"color": COLOURS[order], "marker": MARKERS[order], "markeredgewidth": 0}
        axis.plot((x[:, None] + offsets).ravel(), of_order.ravel(), linestyle="", markersize=4,
                  alpha=0.6, gid=f"{name} {order} passes", **style)  # fmt: skip
        finite = [row[np.isfinite(row)] for row in of_order]
        means = [row.mean() if len(row) else np.nan for row in finite]
        axis.plot(x, means, linewidth=1.6, markersize=0, label=order, gid=f"{name} {order} mean",
                  **style)  # fmt: skip
    chance = 100 / max(len(explanation.meta["spec"]["classes"]), 1)
    axis.axhline(100 * forgotten.eval_accuracy, color="black", linewidth=1.2,
                 linestyle=(0, (4, 3)), label="eval mode", gid=f"{name} eval mode")  # fmt: skip
    axis.axhline(chance, color=REFERENCE, linewidth=0.8, linestyle=(0, (1, 2)), label="guessing",
                 gid="guessing")  # fmt: skip
    axis.set_xticks(sizes, [str(size) for size in forgotten.batch_sizes])
    axis.set_xlim(-0.5, len(sizes) - 0.5)
    axis.set_ylim(0, 103)
    axis.grid(visible=False, axis="x")
    axis.set_xlabel("batch size")
