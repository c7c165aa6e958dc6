"""Vega-Lite specs: constants of ours. The page feeds `rows`; names and labels are values in them, never fields.

Colours, dashes, widths and opacities are columns without a scale, so a label never has to be part of a spec. Colours
are CSS variables: the page is light or dark, or on paper, without a second spec.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

ROWS: Spec = {"name": "rows"}
FOCUS: Spec = {"name": "focus"}

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--grid)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "labelLimit": 150,
    },
    "legend": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
    },
}

_COLUMNS = {
    "color": ("colour", "nominal"),
    "fill": ("colour", "nominal"),
    "stroke": ("colour", "nominal"),
    "strokeDash": ("dash", "nominal"),
    "strokeWidth": ("width", "quantitative"),
    "opacity": ("opacity", "quantitative"),
    "shape": ("shape", "nominal"),
}


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


_LINE: Spec = {"type": "line", "clip": True}
_CROSS: Spec = {"type": "point", "shape": "cross", "angle": 45, "filled": True, "size": 70}


def curves(unit: str, x: str = "epoch") -> Spec:
    """Lines over epochs or steps, one for each series; a diverged run ends in a cross, `focus` is
    pointed at.
    """
    ticks = {"tickMinStep": 1, "format": "~s" if x == "step" else "d", "tickCount": 6}
    across = _field(
        "x",
        title=x,
        scale={"zero": False, "nice": False, "padding": 6},
        axis={"grid": False, **ticks},
    )
    style = _styled("color", "strokeWidth", "strokeDash", "opacity")
    line = _layer(
        {**_LINE, "strokeJoin": "round"}, {**style, "detail": _field("series", "nominal")}
    )
    ends = _layer(_CROSS, _styled("color"), "datum.end")
    points = _layer(
        {"type": "point", "filled": False, "size": 60, "strokeWidth": 2},
        _styled("color", "shape"),
        data=FOCUS,
    )
    return {"height": 250, "encoding": {"x": across, "y": _y(unit)}, "layer": [line, ends, points]}


def densities(near_normal: bool) -> Spec:
    """Every seed as a thin line, their mean as a filled area; N(0, 1) dashed where it means
    something.
    """
    body: Spec = {
        "x": _field("x", scale={"domain": [-5, 5]}, title="activation value"),
        "y": _y("density", zero=True, nice=False, domainMax={"expr": "top"}),
    }
    area = _layer(
        {"type": "area", "clip": True, "opacity": 0.25, "interpolate": "step"},
        {**body, **_styled("fill")},
        "datum.mean",
    )
    style = _styled("color", "strokeWidth", "opacity")
    line = _layer(
        {**_LINE, "interpolate": "step"}, {**body, **style, "detail": {"field": "series"}}
    )
    normal = {
        "data": {"sequence": {"start": -5, "stop": 5.05, "step": 0.1, "as": "x"}},
        "transform": [{"calculate": "exp(-datum.x * datum.x / 2) / sqrt(2 * PI)", "as": "y"}],
        "mark": {**_LINE, "strokeDash": [4, 3], "strokeWidth": 1, "color": "var(--ink)"},
        "encoding": body,
    }
    return {
        "height": 175,
        "params": [{"name": "top", "value": 1}],
        "layer": [area, line, *([normal] if near_normal else [])],
    }


def rates(title: str = "learning rate") -> Spec:
    """Final accuracy over learning rates or another setting.

    A point for every seed, a line through the means, crosses for divergence.
    """
    across: Spec = {
        "x": _field("x", "ordinal", title=title, axis={"labelAngle": 0}, scale={"padding": 0.6}),
        "xOffset": _field("arm", "ordinal"),
    }
    body = {**across, "y": _y("final test accuracy (%)", domain=[0, 100], nice=False)}
    point = _layer(
        {"type": "point", "filled": True, "size": 46},
        {**body, **_styled("color", "shape", "opacity")},
        "datum.kind == 'seed'",
    )
    mean = _layer(
        {"type": "line", "strokeWidth": 2},
        {**body, **_styled("color", "strokeDash"), "detail": {"field": "series"}},
        "datum.kind == 'mean'",
    )
    top = {"value": {"expr": "height"}}
    diverged = _layer(_CROSS, {**across, "y": top, **_styled("color")}, "datum.kind == 'diverged'")
    return {"height": 300, "layer": [mean, point, diverged]}


def heatmap(title: str, scheme: str = "viridis", log: bool = False) -> Spec:
    """Layers by time; a cell reaches from one record to the next."""
    colours = {"scheme": scheme, "domain": {"expr": "span"}, **({"type": "log"} if log else {})}
    legend = {"title": title, "orient": "top", "format": "~r", "gradientLength": 160}
    encoding = {
        "x": _field(
            "x",
            title="step",
            axis={"grid": False, "format": "~s"},
            scale={"nice": False, "zero": False},
        ),
        "x2": {"field": "x2"},
        "y": _field("name", "ordinal", sort={"field": "layer"}, title=None),
        "color": _field("y", scale=colours, legend={**legend, "tickCount": 3}),
    }
    return {
        "height": 200,
        "params": [{"name": "span", "value": [1, 2]}],
        **_layer({"type": "rect", "cursor": "pointer"}, encoding),
    }


def ridges(title: str) -> Spec:
    """One density per channel, shifted upwards by its place: `base` is the channel's line, `y` the
    curve above it.
    """
    ticks = {"grid": False, "tickMinStep": 1, "format": "d"}
    encoding = {
        "x": _field("x", title=title, scale={"zero": False, "domain": {"expr": "span"}}),
        "y": _field("y", title="channel", axis=ticks, scale={"reverse": False}),
        "y2": {"field": "base"},
        **_styled("fill", "stroke"),
        "detail": {"field": "series"},
    }
    return {
        "height": 340,
        "params": [{"name": "span", "value": [-1, 1]}],
        **_layer({"type": "area", "clip": True, "strokeWidth": 0.8, "fillOpacity": 0.35}, encoding),
    }
