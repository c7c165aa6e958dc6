"""The look of every figure: a colour, marker and line per norm, sizes, labels, and saving."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from normscope.escapes import for_terminal
from normscope.records.files import written_aside
from normscope.show.palette import HUES, colour_of

DPI = 150

SMALL, NORMAL, LARGE = 8.0, 9.0, 12.0
"""Font sizes in points."""

INK, REFERENCE = colour_of("ink"), colour_of("muted")
"""Colours of words and means; of what is no norm: thresholds, chance, reference curves."""

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # carried by matplotlib itself: the same on every machine
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.titlelocation": "left",
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": REFERENCE,
    "axes.edgecolor": colour_of("line"),
    "xtick.color": colour_of("line"),
    "ytick.color": colour_of("line"),
    "xtick.labelcolor": REFERENCE,
    "ytick.labelcolor": REFERENCE,
    "grid.color": colour_of("grid"),
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # names are shown as they are: a norm may be called "my_module:$x$"
}

_DASHES: tuple[tuple[float, ...], ...] = (
    (), (5, 1.6), (5, 1.4, 1, 1.4), (1.2, 1.2), (8, 1.4, 1, 1.4, 1, 1.4),
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_INDICES = {"batch": 0, "none": 1, "group": 2, "layer": 3, "instance": 4, "noisy-batch": 5}


@dataclass(frozen=True)
class NormStyle:
    """The look of one norm, in every figure."""

    colour: str
    dashes: tuple[float, ...]  # on, off, ... in units of the line width; empty is a solid line
    marker: str

    @property
    def line(self) -> Literal["-"] | tuple[float, tuple[float, ...]]:
        """The dashes as matplotlib's `linestyle`."""
        return (0.0, self.dashes) if self.dashes else "-"


def norm_styles(norms: Iterable[str]) -> dict[str, NormStyle]:
    """Return {norm: style}. The named norms always look the same; others follow in alphabetical
    order.

    Pairs of colour and line style are distinct for up to 35 norms.
    """
    names = set(norms)
    free = itertools.count(len(_INDICES))
    indices = {name: _INDICES[name] if name in _INDICES else next(free) for name in sorted(names)}
    return {
        name: NormStyle(
            HUES[index % len(HUES)],
            _DASHES[(index + index // len(HUES)) % len(_DASHES)],
            _MARKERS[index % len(_MARKERS)],
        )
        for name, index in indices.items()
    }


def at_setting(style: NormStyle, number: int) -> NormStyle:
    """Return a norm's style at another setting: other dashes; 0 is its own."""
    dashes = _DASHES[(_DASHES.index(style.dashes) + number) % len(_DASHES)]
    return replace(style, dashes=dashes)


@contextmanager
def house_style() -> Iterator[None]:
    """Set matplotlib's defaults and ours, whatever the user's settings are, and restore those
    afterwards.

    Also a decorator: `@house_style()`. Settings are read when a text or an axis is made, so a
    figure keeps its looks.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def label_of(norm: str, characters: int = 36) -> str:
    """Return a norm's name as a label; a long `module:callable` keeps its end, which says more."""
    norm = for_terminal(norm)
    return norm if len(norm) <= characters else "…" + norm[1 - characters :]


def legend_line(**style: Any) -> Line2D:
    """Return a legend's entry for a line or a mark."""
    return Line2D([], [], **style)


def mean_handle(norm: str, style: NormStyle) -> Line2D:
    """Return the legend's entry for a norm."""
    return legend_line(
        color=style.colour, linestyle=style.line, marker=style.marker, linewidth=2, markersize=5,
        label=label_of(norm),
    )  # fmt: skip


def legend_below(axis: Axes, anchor: tuple[float, float], columns: int) -> None:
    """Set a panel's legend below it, side by side."""
    axis.legend(
        loc="upper left", bbox_to_anchor=anchor, ncols=columns, frameon=False, fontsize=SMALL,
        columnspacing=1.2, handletextpad=0.4, borderaxespad=0,
    )  # fmt: skip


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Make the y axis rows, the first at the top, each with its name; row k is at y = k."""
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_yticks(range(len(names)), [for_terminal(name) for name in names])
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")


def say_in(axis: Axes, text: str) -> None:
    """Write why a panel is empty into its middle."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=REFERENCE)


def log_ticks(
    axis_of: Axes, which: str, ticks: list[float] | None = None, *, decades: float = 3.0
) -> None:
    """Make an axis logarithmic, with plain numbers at these ticks, or as `decades` ask for."""
    getattr(axis_of, f"set_{which}scale")("log")
    axis = getattr(axis_of, f"{which}axis")
    if ticks is None:
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if decades < 3 else (1.0,), numticks=6))
    else:
        axis.set_ticks(ticks)
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> Figure:
    """Write a figure in the format of the path's suffix, and return it; a reader sees the old file
    or the new one.

    Names in it are shown as on a terminal: matplotlib fails on half of a character.

    Raises:
        StorageError: if it cannot be written.
    """
    for text in figure.findobj(Text):
        text.set_text(for_terminal(text.get_text()))  # type: ignore[attr-defined]
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=DPI)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that knows its canvas and belongs to no pyplot state."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure
