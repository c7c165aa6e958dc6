"""Pages of panels laid out in inches so that no text meets another: title, legend, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from normscope.show.figures.style import DPI, INK, LARGE, NORMAL, REFERENCE, SMALL, new_figure

MARGIN = 0.15
LEADING = 1.35  # distance of lines of text, in font sizes
_RENDERER = RendererAgg(1, 1, DPI)  # measures text as it is drawn, hinting included
_HANDLE, _HANDLE_PAD, _COLUMN_GAP = 3.0, 0.6, 2.0  # legend: font sizes


@dataclass(frozen=True)
class Row:
    """A row of panels. All lengths in inches."""

    height: float
    heading: str = ""  # a line of its own above the row, wrapped to the page
    heading_bold: bool = True
    note: str = ""  # under the heading, smaller
    above: float = 0.1  # room for the panels' own titles
    below: float = 0.3  # room for tick labels, and for the axis label where there is one


@dataclass(frozen=True)
class Frame:
    """Title, legend and footer around the panels."""

    title: str
    footer: str
    subtitle: str = ""
    legends: Sequence[Sequence[Artist]] = ()  # each begins on a line of its own
    result: str = ""  # what was found, above the title
    result_colour: str = INK


@dataclass(frozen=True)
class _Line:
    top: float  # inches from the page's upper edge
    text: str
    size: float
    weight: str
    colour: str


class _Flow:
    """A cursor that goes down the page, collecting lines of text."""

    def __init__(self, width: float):
        self.width, self.top = width, MARGIN
        self.lines: list[_Line] = []

    def write(self, text: str, size: float, *, bold: bool = False, colour: str = INK) -> None:
        for line in wrap(text, self.width - 2 * MARGIN, size, bold=bold):
            self.lines.append(_Line(self.top, line, size, "bold" if bold else "normal", colour))
            self.top += LEADING * size / 72

    def skip(self, height: float) -> float:
        """Leave room, and return where it begins."""
        top, self.top = self.top, self.top + height
        return top


def lay_out(
    rows: Sequence[Row],
    columns: int,
    frame: Frame,
    *,
    width: float,
    left: float = 0.85,
    gap: float = 0.85,
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with rows x columns of empty axes.

    Lengths are in inches: the width of the page (the height follows), the room for the axis labels
    of the first column, and the gap between columns, which are all of one width.
    """
    flow, legend_tops, panel_tops = _Flow(width), [], []
    flow.write(frame.result, LARGE, bold=True, colour=frame.result_colour)
    flow.write(frame.title, LARGE, bold=not frame.result)
    flow.write(frame.subtitle, SMALL + 0.5, colour=REFERENCE)
    flow.skip(0.05)
    for handles in frame.legends:
        lines = -(-len(handles) // _legend_columns(handles, width))
        legend_tops.append(flow.skip(lines * 1.6 * NORMAL / 72))
    flow.skip(0.05)
    for row in rows:
        flow.write(row.heading, NORMAL + 1, bold=row.heading_bold)
        flow.write(row.note, SMALL + 0.5, colour=REFERENCE)
        panel_tops.append(flow.skip(row.above + row.height + row.below) + row.above)
    flow.skip(0.08)
    flow.write(frame.footer, SMALL - 1, colour=REFERENCE)
    height = flow.top + MARGIN - 0.05

    figure = new_figure(width, height)
    for line in flow.lines:
        figure.text(
            MARGIN / width, 1 - line.top / height, line.text, va="top", size=line.size,
            weight=line.weight, color=line.colour,
        )  # fmt: skip
    for handles, top in zip(frame.legends, legend_tops, strict=True):
        _add_legend(figure, handles, top)
    panel = (width - left - MARGIN - (columns - 1) * gap) / columns
    lefts = [left + k * (panel + gap) for k in range(columns)]
    boxes = [
        [
            (x / width, 1 - (top + row.height) / height, panel / width, row.height / height)
            for x in lefts
        ]
        for row, top in zip(rows, panel_tops, strict=True)
    ]
    return figure, [[figure.add_axes(box) for box in row] for row in boxes]


def _add_legend(figure: Figure, handles: Sequence[Artist], top: float) -> None:
    width, height = figure.get_size_inches()
    figure.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=(MARGIN / width, 1 - top / height),
        ncols=_legend_columns(handles, width), frameon=False, borderaxespad=0, borderpad=0,
        fontsize=NORMAL, handlelength=_HANDLE, handletextpad=_HANDLE_PAD,
        columnspacing=_COLUMN_GAP, labelspacing=0.4,
    )  # fmt: skip


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a line of text, in inches."""
    weight = "bold" if bold else "normal"
    properties = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return _RENDERER.get_text_width_height_descent(text, properties, ismath=False)[0] / DPI


def wrap(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Return lines of at most `width` inches, broken at spaces; a longer word anywhere."""

    def fits(line: str) -> bool:
        return text_width(line, size, bold=bold) <= width

    lines: list[str] = []
    line = ""
    for word in text.split(" ") if text else ():
        longer = f"{line} {word}" if line else word
        if fits(longer):
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while not fits(line):
            most = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or fits(line[:n]))
            lines.append(line[:most])
            line = line[most:]
    return [*lines, line] if line else lines


def _legend_columns(handles: Sequence[Artist], width: float) -> int:
    """The number of entries that stand side by side on the page."""
    widest = max(text_width(str(handle.get_label()), NORMAL) for handle in handles)
    entry = widest + (_HANDLE + _HANDLE_PAD + _COLUMN_GAP) * NORMAL / 72
    return max(1, min(len(handles), int((width - 2 * MARGIN) / entry)))
