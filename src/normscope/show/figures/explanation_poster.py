"""explanation.png: one batch normalization layer on one batch, from its input to the price of forgetting eval()."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normscope.records.explanation import Explanation
from normscope.show.arithmetic import describe_layer, seen, step_groups
from normscope.show.figures import explanation_piles as piles
from normscope.show.figures.explanation_accuracy import draw_accuracies
from normscope.show.figures.explanation_panels import (
    draw_batch_means,
    draw_modes,
    draw_ridges,
    draw_steps,
    draw_updates,
)
from normscope.show.figures.page import MARGIN, Frame, Row, lay_out
from normscope.show.figures.provenance import epochs_of
from normscope.show.figures.style import house_style, save

WIDTH = 13.0


@house_style()
def draw(explanation: Explanation, path: Path) -> Figure:
    """Draw an explanation and write the figure.

    From top to bottom: the batch as piles of channel maps before and after the normalization, the
    distributions of every channel, the arithmetic of the chosen channel with its numbers, what
    train and eval mode make of it, and the accuracies with eval() forgotten.

    Args:
        explanation: the record of one layer.
        path: where the figure goes, in the format of its suffix.

    Raises:
        StorageError: if it cannot be written.
    """
    frame = Frame(
        f"Batch normalization, worked through: {explanation.layer} of {explanation.meta['spec']['model']}",
        _footer(explanation),
        subtitle=_subtitle(explanation),
    )
    figure, axes = lay_out(_rows(explanation), 1, frame, width=WIDTH, left=MARGIN)
    before, ridges, arithmetic, modes = (row[0] for row in axes)
    piles.draw(before, explanation)
    for axis, kind in zip(
        _split(ridges, (1, 1, 1), 0.47, 0.35), ("x", "normalized", "output"), strict=True
    ):
        draw_ridges(axis, explanation, kind)
    text, mean, var = _split(arithmetic, (6.9, 2.45, 2.45), 0.0, 0.47)
    draw_steps(text, step_groups(explanation))
    draw_updates(mean, explanation, "mean")
    draw_updates(var, explanation, "var")
    outputs, means, during, afterwards = _split(modes, (2.6, 2.6, 3.1, 2.2), 0.72, 0.74)
    draw_modes(outputs, explanation)
    draw_batch_means(means, explanation)
    draw_accuracies(during, afterwards, explanation)
    save(figure, path)
    return figure


def _rows(explanation: Explanation) -> list[Row]:
    n, channels, height, width = explanation.x.shape
    chosen = explanation.chosen
    steps = sum(map(len, step_groups(explanation)))
    return [
        Row(
            piles.HEIGHT,
            f"1  The input x is a tensor [N, C, H, W] = [{n}, {channels}, {height}, {width}]. One channel of all "
            f"images, rows and columns is pooled: {explanation.count:,} values, one mean, one variance",
            above=0.08,
            below=0.1,
        ),
        Row(
            2.35,
            "2  Every channel before, normalized, and scaled by weight and shifted by bias",
            above=0.3,
            below=0.45,
        ),
        Row(
            0.31 * steps,
            f"3  The numbers of channel {chosen}, line by line, and what the layer remembers of the batch",
            above=0.3,
            below=0.8,
        ),
        Row(2.3, "4  Train mode, eval mode, and eval() forgotten", above=0.42, below=0.95),
    ]


def _split(axis: Axes, widths: Sequence[float], left: float, gap: float) -> list[Axes]:
    """Axes side by side in place of one that spans the page, their widths in proportion; lengths in
    inches.
    """
    figure = axis.figure
    assert isinstance(figure, Figure)
    box, inch = axis.get_position(), 1 / figure.get_figwidth()
    axis.remove()
    unit = (box.width - inch * (left + gap * (len(widths) - 1))) / sum(widths)
    made, start = [], box.x0 + left * inch
    for width in widths:
        made.append(figure.add_axes((start, box.y0, width * unit, box.height)))
        start += width * unit + gap * inch
    return made


def _subtitle(explanation: Explanation) -> str:
    spec = explanation.meta["spec"]
    return (
        f"{describe_layer(explanation)}. One training batch of {spec['data']} after {epochs_of(spec['epochs'])} of "
        f"training{seen(explanation)}."
    )


def _footer(explanation: Explanation) -> str:
    meta, spec = explanation.meta, explanation.meta["spec"]
    data, environment = meta.get("data", {}), meta.get("environment", {})
    hardware, versions = environment.get("hardware", {}), environment.get("versions", {})
    forgotten = explanation.forgotten
    return " ".join(
        (
            f"n = 1 trained network (seed {spec['seed']}, learning rate {spec['learning_rate']:g}).",
            f"Accuracies: {forgotten.images:,} test images, {forgotten.during.shape[2]} orders of them (at batch "
            "size 1, where the order plays no part in train mode, one).",
            f"Data: {data.get('source', 'not recorded')}.",
            f"Hardware: {hardware.get('device_name', 'not recorded')}, {spec.get('precision')}; the layer itself in "
            "float32, its arithmetic in float64.",
            "Versions: "
            + ", ".join(f"{name}\u00a0{versions.get(name, '?')}" for name in ("torch", "normscope"))
            + ".",
        )
    )
