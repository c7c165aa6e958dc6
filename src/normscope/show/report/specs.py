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


def curves(unit: str, x: str = "epoch") -> Spec:
    """Return lines over epochs or steps, one per series; a diverged run ends in a cross, and
    `focus` is pointed at.
    """
    axis = {**_WHOLE, "tickCount": 6, "format": "~s" if x == "step" else "d"}
    across = _field("x", title=x, scale={"zero": False, "nice": False, "padding": 6}, axis=axis)
    style = _styled("color", "strokeWidth", "strokeDash", "opacity")
    line = _layer(
        {**_LINE, "strokeJoin": "round"}, {**style, "detail": _field("series", "nominal")}
    )
    ends = _layer(_CROSS, _styled("color"), "datum.end")
    ring = {"type": "point", "filled": False, "size": 60, "strokeWidth": 2}
    points = _layer(ring, _styled("color", "shape"), data=FOCUS)
    return {"height": 250, "encoding": {"x": across, "y": _y(unit)}, "layer": [line, ends, points]}


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


def rates(title: str = "learning rate") -> Spec:
    """Return final accuracy over learning rates or another setting.

    A point for every seed, a line through the means, crosses for divergence.
    """
    across: Spec = {
        "x": _field("x", "ordinal", title=title, axis={"labelAngle": 0}, scale={"padding": 0.6}),
        "xOffset": _field("arm", "ordinal"),
    }
    body = {**across, "y": _y("final test accuracy (%)", domain=[0, 100], nice=False)}
    dot = {"type": "point", "filled": True, "size": 46}
    point = _layer(dot, {**body, **_styled("color", "shape", "opacity")}, "datum.kind == 'seed'")
    style = {**_styled("color", "strokeDash"), "detail": {"field": "series"}}
    mean = _layer({"type": "line", "strokeWidth": 2}, {**body, **style}, "datum.kind == 'mean'")
    top = {"value": {"expr": "height"}}
    diverged = _layer(_CROSS, {**across, "y": top, **_styled("color")}, "datum.kind == 'diverged'")
    return {"height": 300, "layer": [mean, point, diverged]}


def heatmap(title: str, scheme: str = "viridis", log: bool = False) -> Spec:
    """Return layers by time; a cell reaches from one record to the next. The legend names both ends
    of the scale and its middle.
    """
    colours = {"scheme": scheme, "domain": {"expr": "span"}, **({"type": "log"} if log else {})}
    middle = "sqrt(span[0] * span[1])" if log else "(span[0] + span[1]) / 2"
    legend = {
        "title": f"{title}, log scale" if log else title, "orient": "top", "format": ".2~r",
        "gradientLength": 160, "values": {"expr": f"[span[0], {middle}, span[1]]"},
    }  # fmt: skip
    axis, scale = {"grid": False, "format": "~s"}, {"nice": False, "zero": False}
    encoding = {
        "x": _field("x", title="step", axis=axis, scale=scale),
        "x2": {"field": "x2"},
        "y": _field("name", "ordinal", sort={"field": "layer"}, title=None),
        "color": _field("y", scale=colours, legend=legend),
    }
    return _with_signal(
        "span", [1, 2], 200, _layer({"type": "rect", "cursor": "pointer"}, encoding)
    )


def ridges(title: str) -> Spec:
    """Return one density per channel, shifted upwards by its number: `base` is the channel's line,
    `y` the curve above it.
    """
    encoding = {
        "x": _field("x", title=title, scale={"zero": False, "domain": {"expr": "span"}}),
        "y": _field("y", title="channel", axis=_WHOLE, scale={"reverse": False}),
        "y2": {"field": "base"},
        **_styled("fill", "stroke"),
        "detail": {"field": "series"},
    }
    mark = {"type": "area", "clip": True, "strokeWidth": 0.8, "fillOpacity": 0.35}
    return _with_signal("span", [-1, 1], 340, _layer(mark, encoding))
