"""What the tests of all figures look at."""

from __future__ import annotations

import itertools

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text


def by_gid(axis: Axes, gid: str) -> list:
    return [artist for artist in axis.get_children() if artist.get_gid() == gid]


def _visible(figure: Figure) -> list[Text]:
    shown: list[Text] = []

    def walk(artist: Artist) -> None:
        if not artist.get_visible():
            return
        if isinstance(artist, Text) and artist.get_text().strip():
            shown.append(artist)
        for child in (
            _ticks_and_labels(artist) if isinstance(artist, Axis) else artist.get_children()
        ):
            walk(child)

    walk(figure)
    return shown


def _ticks_and_labels(axis: Axis) -> list[Artist]:
    """Without the ticks outside the limits: matplotlib keeps those and does not draw them."""
    low, high = sorted(axis.get_view_interval())
    return [axis.label, *(tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in _visible(figure)]


def assert_within_page(figure: Figure) -> None:
    """Every text that is seen lies on the page, and no two lie on one another."""
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    boxes = []
    for text in _visible(figure):
        box = text.get_window_extent()
        cut_off = box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
        assert not cut_off, f"cut off: {text.get_text()!r}"
        boxes.append((text.get_text(), box.padded(-1.5)))
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), f"{one!r} lies on {other!r}"
