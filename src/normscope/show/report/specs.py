"""Vega-Lite specs: constants of ours. The page feeds `rows`; names and labels are values in them.

Colours, dashes, widths and opacities are columns without a scale, so a label never has to be part
of a spec. Colours are CSS variables: the page is light or dark, or on paper, without a second spec.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

ROWS: Spec = {"name": "rows"}
FOCUS: Spec = {"name": "focus"}

_WORDS: Spec = {
    "labelColor": "var(--muted)", "titleColor": "var(--muted)", "titleFontWeight": "normal",
}  # fmt: skip

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_WORDS, "gridColor": "var(--grid)", "domainColor": "var(--line)",
        "tickColor": "var(--line)", "labelFontSize": 11, "titleFontSize": 11, "labelLimit": 150,
    },
    "legend": _WORDS,
}  # fmt: skip

_COLUMNS = {
    "color": ("colour", "nominal"), "fill": ("colour", "nominal"), "stroke": ("colour", "nominal"),
    "strokeDash": ("dash", "nominal"), "strokeWidth": ("width", "quantitative"),
    "opacity": ("opacity", "quantitative"), "shape": ("shape", "nominal"),
}  # fmt: skip

_LINE: Spec = {"type": "line", "clip": True}
_DOT: Spec = {"type": "point", "filled": True}
_CROSS: Spec = {"type": "point", "shape": "cross", "angle": 45, "filled": True, "size": 70}
_WHOLE: Spec = {
    "grid": False, "tickMinStep": 1, "format": "d",
    "labelExpr": "datum.value % 1 ? '' : datum.label",  # Vega may put ticks at halves all the same
}  # fmt: skip


def _styled(*channels: str) -> Spec:
    """Encodings of channels whose values are columns of the same meaning, drawn as they are."""
    return {name: _field(*_COLUMNS[name], scale=None, legend=None) for name in channels}


def _field(name: str, kind: str = "quantitative", **more: Any) -> Spec:
    return {"field": name, "type": kind, **more}


def _y(title: str, **scale: Any) -> Spec:
    scale = {"zero": False, "nice": True, **scale}
    return _field("y", title=title, scale=scale, axis={"tickCount": 5, "format": "~r"})


def _layer(mark: Spec, encoding: Spec, only: str = "", data: Spec = ROWS) -> Spec:
    """One layer of marks: of all rows, or of those for which an expression holds."""
    picked = {"transform": [{"filter": only}]} if only else {}
    return {"data": data, **picked, "mark": mark, "encoding": encoding}


def _with_signal(name: str, value: Any, height: int, body: Spec) -> Spec:
    """A spec with one number or range that the page sets."""
    return {"height": height, "params": [{"name": name, "value": value}], **body}


def curves(unit: str) -> Spec:
    """Return lines over epochs, one per series, with a name at the end of those that have a label;
    a diverged run ends in a cross, and `focus` is pointed at.
    """
    axis = {**_WHOLE, "tickCount": 6, "format": "d"}
    across = _field(
        "x", title="epoch", scale={"zero": False, "nice": False, "padding": 6}, axis=axis
    )
    style = _styled("color", "strokeWidth", "strokeDash", "opacity")
    line = _layer(
        {**_LINE, "strokeJoin": "round"},
        {**style, "detail": _field("series", "nominal")},
        "!datum.band",
    )
    band = _layer(
        {"type": "area", "clip": True, "opacity": 0.22},
        {"y2": {"field": "y2"}, **_styled("fill"), "detail": _field("series", "nominal")},
        "datum.band",
    )
    dots = _layer({**_DOT, "size": 46}, _styled("color", "shape", "opacity"), "datum.dot")
    ends = _layer(_CROSS, _styled("color"), "datum.end")
    beside = {"type": "text", "align": "left", "dx": 6, "dy": {"expr": "datum.nudge"}}
    names = _layer({**beside, "color": "var(--ink)", "limit": 150},
                   {"text": _field("label", "nominal")}, "datum.label")  # fmt: skip
    ring = {"type": "point", "filled": False, "size": 60, "strokeWidth": 2}
    points = _layer(ring, _styled("color", "shape"), data=FOCUS)
    return {
        "height": 250,
        "encoding": {"x": across, "y": _y(unit)},
        "layer": [band, line, dots, ends, names, points],
    }


def densities(near_normal: bool) -> Spec:
    """Return every seed as a thin line and their mean as a filled area, with N(0, 1) dashed where
    that means something.
    """
    body: Spec = {
        "x": _field("x", scale={"domain": [-5, 5]}, title="activation value"),
        "y": _y("density", zero=True, nice=False, domainMax={"expr": "top"}),
    }
    filled = {"type": "area", "clip": True, "opacity": 0.25, "interpolate": "step"}
    area = _layer(filled, {**body, **_styled("fill")}, "datum.mean")
    style = {**_styled("color", "strokeWidth", "opacity"), "detail": {"field": "series"}}
    line = _layer({**_LINE, "interpolate": "step"}, {**body, **style})
    normal = {
        "data": {"sequence": {"start": -5, "stop": 5.05, "step": 0.1, "as": "x"}},
        "transform": [{"calculate": "exp(-datum.x * datum.x / 2) / sqrt(2 * PI)", "as": "y"}],
        "mark": {**_LINE, "strokeDash": [4, 3], "strokeWidth": 1, "color": "var(--ink)"},
        "encoding": body,
    }
    return _with_signal("top", 1, 175, {"layer": [area, line, *([normal] if near_normal else [])]})


def rates(title: str = "learning rate", levels: bool = False) -> Spec:
    """Return final accuracy over learning rates (a logarithmic axis) or, with `levels`, over the
    values of another setting, x being the place in the list `levels`.

    A point for every seed, a line through the means; a lane beneath holds the runs that diverged.
    Arms are set side by side by the pixels of the column `shift`.
    """
    if levels:
        axis = {"labelAngle": 0, "labelExpr": "levels[datum.value]"}
        x = _field("x", "ordinal", title=title, scale={"padding": 0.6}, axis=axis)
    else:
        axis = {"values": {"expr": "rates"}, "format": "~g", "grid": False}
        x = _field("x", title=title, scale={"type": "log", "nice": False, "padding": 30}, axis=axis)
    above = [{"expr": "height - lane"}, 0]
    y = _y("final test accuracy (%)", domain=[0, 100], nice=False, range=above)
    beside = {"xOffset": {"expr": "datum.shift"}}
    dot = {**_DOT, "size": 46, **beside}
    point = _layer(dot, {"x": x, "y": y, **_styled("color", "shape", "opacity")},
                   "datum.kind == 'seed'")  # fmt: skip
    style = {**_styled("color", "strokeDash"), "detail": {"field": "series"}}
    mean = _layer({"type": "line", "strokeWidth": 2, **beside}, {"x": x, "y": y, **style},
                  "datum.kind == 'mean'")  # fmt: skip
    low = {"value": {"expr": "height - 10"}}
    diverged = _layer({**_CROSS, **beside}, {"x": x, "y": low, **_styled("color")},
                      "datum.kind == 'diverged'")  # fmt: skip
    words = {"type": "text", "text": {"expr": "lane ? 'diverged' : ''"}, "align": "left",
             "color": "var(--muted)"}  # fmt: skip
    lane = {"data": {"values": [{}]}, "mark": words, "encoding": {"x": {"value": 2}, "y": low}}
    rule = {"data": {"values": [{}]}, "mark": {"type": "rule", "color": "var(--line)"},
            "encoding": {"y": {"value": {"expr": "height - lane"}}}}  # fmt: skip
    params = [{"name": "lane", "value": 0}, {"name": "levels" if levels else "rates", "value": []}]
    return {"height": 300, "params": params, "layer": [mean, point, diverged, rule, lane]}


def trajectories() -> Spec:
    """Return a line over the steps for each channel, with the band of its batches where there is
    one. `lit` is the channel that is lit (-1: none), `now` the step whose distributions are shown.
    """
    axis = {**_WHOLE, "tickCount": 4, "format": "~s"}
    x = _field("x", title="step", scale={"zero": False, "nice": False, "padding": 2}, axis=axis)
    y = {**_y(""), "title": None, "axis": {"tickCount": 4, "format": "~r"}}
    series = {"detail": _field("series", "nominal")}
    band = _layer(
        {"type": "area", "clip": True},
        {**series, "y2": {"field": "y2"}, **_styled("fill", "stroke"),
         "opacity": _if_lit(0.45, 0.13, 0.05), "strokeWidth": {"value": 0.6}},
        "datum.band",
    )  # fmt: skip
    line = _layer(
        {**_LINE, "strokeJoin": "round"},
        {**series, **_styled("color", "strokeDash"), "opacity": _if_lit(1, 0.8, 0.18),
         "strokeWidth": _if_lit(2.4, 1.1, 0.8)},
        "!datum.band",
    )  # fmt: skip
    dots = _layer(_DOT, {**_styled("color"), "opacity": _if_lit(1, 0.8, 0.18)}, "datum.dot")
    cursor = {
        "data": {"values": [{}]}, "mark": {"type": "rule", "color": "var(--muted)"},
        "encoding": {"x": {"datum": {"expr": "now"}, "type": "quantitative"},
                     "y": {"value": 0}, "y2": {"value": {"expr": "height"}}},
    }  # fmt: skip
    params = [{"name": "lit", "value": -1}, {"name": "now", "value": 0}]
    both = {"x": x, "y": y}
    return {"height": 120, "params": params, "encoding": both, "layer": [band, line, dots, cursor]}


def _if_lit(lit: float, no_other_is: float, another_is: float) -> Spec:
    """A value of a mark that depends on the channel that is lit."""
    return {
        "condition": [
            {"test": "lit === datum.channel", "value": lit},
            {"test": "lit < 0", "value": no_other_is},
        ],
        "value": another_is,
    }


def heatmap(title: str, scheme: str = "viridis", log: bool = False) -> Spec:
    """Return layers by time; a cell reaches from one record to the next. The legend names both ends
    of the scale and its middle.
    """
    colours = {"scheme": scheme, "domain": {"expr": "span"}, **({"type": "log"} if log else {})}
    middle = "sqrt(span[0] * span[1])" if log else "(span[0] + span[1]) / 2"
    legend = {
        "title": f"{title}, log scale" if log else title, "orient": "top", "format": ".2~r",
        "gradientLength": {"expr": "clamp(width - 10, 60, 160)"},
        "values": {"expr": f"[span[0], {middle}, span[1]]"},
    }  # fmt: skip
    axis, scale = {"grid": False, "format": "~s", "tickCount": 4}, {"nice": False, "zero": False}
    # by number, as a name could be one that JavaScript takes for something else (__proto__)
    y = _field("layer", "ordinal", title=None, scale={"domain": {"expr": "layers"}},
               axis={"offset": 9, "labelExpr": "names[datum.value]"})  # fmt: skip
    x = _field("x", title="step", axis=axis, scale=scale)
    cells = _layer(
        {"type": "rect", "cursor": "pointer"},
        {"x": x, "x2": {"field": "x2"}, "y": y,
         "color": _field("y", scale=colours, legend=legend)},
    )  # fmt: skip
    chosen = _layer(
        {"type": "rect", "filled": False, "stroke": "var(--ink)", "strokeWidth": 2, "fill": None},
        {"x": {"value": -1}, "x2": {"value": {"expr": "width + 1"}}, "y": y},
        "datum.layer === chosen && datum.first",
    )
    bracket = {"x": {"value": -7}, "x2": {"value": -4}, "y": y, **_styled("fill")}
    stages = _layer({"type": "rect"}, bracket, "indexof(layers, datum.layer) >= 0",
                    {"name": "stages"})  # fmt: skip
    params = [
        {"name": "span", "value": [1, 2]}, {"name": "chosen", "value": -1},
        {"name": "layers", "value": []}, {"name": "names", "value": []},
    ]  # fmt: skip
    return {"height": 200, "params": params, "layer": [cells, chosen, stages]}
