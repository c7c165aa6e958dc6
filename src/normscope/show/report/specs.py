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

_AS_IT_IS: Spec = {"scale": None, "legend": None}


def _own(*channels: str) -> Spec:
    """Encodings of channels whose values are columns of the same meaning, drawn as they are."""
    columns = {
        "color": ("colour", "nominal"),
        "fill": ("colour", "nominal"),
        "stroke": ("colour", "nominal"),
        "strokeDash": ("dash", "nominal"),
    }
    columns |= {"strokeWidth": ("width", "quantitative"), "opacity": ("opacity", "quantitative")}
    columns |= {"shape": ("shape", "nominal")}
    return {
        name: {"field": columns[name][0], "type": columns[name][1], **_AS_IT_IS}
        for name in channels
    }


def _y(title: str, **scale: Any) -> Spec:
    return {
        "field": "y",
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": True, **scale},
        "axis": {"tickCount": 5, "format": "~r"},
    }


def curves(unit: str, x: str = "epoch") -> Spec:
    """Lines over epochs or steps, one for each series; a diverged run ends in a cross, `focus` is
    pointed at.
    """
    encoding = {
        "x": {
            "field": "x",
            "type": "quantitative",
            "title": x,
            "scale": {"zero": False, "nice": False, "padding": 6},
            "axis": {
                "grid": False,
                "tickMinStep": 1,
                "format": "~s" if x == "step" else "d",
                "tickCount": 6,
            },
        },
        "y": _y(unit),
    }
    line = {
        "data": ROWS,
        "mark": {"type": "line", "clip": True, "strokeJoin": "round"},
        "encoding": {
            **_own("color", "strokeWidth", "strokeDash", "opacity"),
            "detail": {"field": "series", "type": "nominal"},
        },
    }
    points = {
        "data": FOCUS,
        "mark": {"type": "point", "filled": False, "size": 60, "strokeWidth": 2},
        "encoding": _own("color", "shape"),
    }
    ends = {
        "data": ROWS,
        "transform": [{"filter": "datum.end"}],
        "mark": {"type": "point", "shape": "cross", "angle": 45, "filled": True, "size": 70},
        "encoding": _own("color"),
    }
    return {"height": 250, "encoding": encoding, "layer": [line, ends, points]}


def densities(near_normal: bool) -> Spec:
    """Every seed as a thin line, their mean as a filled area; N(0, 1) dashed where it means
    something.
    """
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domain": [-5, 5]},
        "title": "activation value",
    }
    y = _y("density", zero=True, nice=False, domainMax={"expr": "top"})
    body: Spec = {"x": x, "y": y}
    area = {
        "data": ROWS,
        "transform": [{"filter": "datum.mean"}],
        "mark": {"type": "area", "clip": True, "opacity": 0.25, "interpolate": "step"},
        "encoding": {**body, **_own("fill")},
    }
    line = {
        "data": ROWS,
        "mark": {"type": "line", "clip": True, "interpolate": "step"},
        "encoding": {
            **body,
            **_own("color", "strokeWidth", "opacity"),
            "detail": {"field": "series"},
        },
    }
    normal = {
        "data": {"sequence": {"start": -5, "stop": 5.05, "step": 0.1, "as": "x"}},
        "transform": [{"calculate": "exp(-datum.x * datum.x / 2) / sqrt(2 * PI)", "as": "y"}],
        "mark": {
            "type": "line",
            "clip": True,
            "strokeDash": [4, 3],
            "strokeWidth": 1,
            "color": "var(--ink)",
        },
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
    x: Spec = {
        "x": {
            "field": "x",
            "type": "ordinal",
            "title": title,
            "axis": {"labelAngle": 0},
            "scale": {"padding": 0.6},
        },
        "xOffset": {"field": "arm", "type": "ordinal"},
    }
    y: Spec = {"y": _y("final test accuracy (%)", domain=[0, 100], nice=False)}
    point = {
        "data": ROWS,
        "transform": [{"filter": "datum.kind == 'seed'"}],
        "mark": {"type": "point", "filled": True, "size": 46},
        "encoding": {**x, **y, **_own("color", "shape", "opacity")},
    }
    mean = {
        "data": ROWS,
        "transform": [{"filter": "datum.kind == 'mean'"}],
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {**x, **y, **_own("color", "strokeDash"), "detail": {"field": "series"}},
    }
    diverged = {
        "data": ROWS,
        "transform": [{"filter": "datum.kind == 'diverged'"}],
        "mark": {"type": "point", "shape": "cross", "angle": 45, "filled": True, "size": 70},
        "encoding": {**x, "y": {"value": {"expr": "height"}}, **_own("color")},
    }
    return {"height": 300, "layer": [mean, point, diverged]}


def heatmap(title: str, scheme: str = "viridis", log: bool = False) -> Spec:
    """Layers by time; a cell reaches from one record to the next."""
    return {
        "height": 200,
        "data": ROWS,
        "params": [{"name": "span", "value": [1, 2]}],
        "mark": {"type": "rect", "cursor": "pointer"},
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": "step",
                "axis": {"grid": False, "format": "~s"},
                "scale": {"nice": False, "zero": False},
            },
            "x2": {"field": "x2"},
            "y": {"field": "name", "type": "ordinal", "sort": {"field": "layer"}, "title": None},
            "color": {
                "field": "y",
                "type": "quantitative",
                "scale": {
                    "scheme": scheme,
                    "domain": {"expr": "span"},
                    **({"type": "log"} if log else {}),
                },
                "legend": {
                    "title": title,
                    "orient": "top",
                    "format": "~r",
                    "gradientLength": 160,
                    "tickCount": 3,
                },
            },
        },
    }


def ridges(title: str) -> Spec:
    """One density per channel, shifted upwards by its place: `base` is the channel's line, `y` the
    curve above it.
    """
    x = {
        "field": "x",
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "domain": {"expr": "span"}},
    }
    return {
        "height": 340,
        "data": ROWS,
        "params": [{"name": "span", "value": [-1, 1]}],
        "mark": {"type": "area", "clip": True, "strokeWidth": 0.8, "fillOpacity": 0.35},
        "encoding": {
            "x": x,
            "y": {
                "field": "y", "type": "quantitative", "title": "channel",
                "axis": {"grid": False, "tickMinStep": 1, "format": "d"}, "scale": {"reverse": False},
            },
            "y2": {"field": "base"},
            **_own("fill", "stroke"),
            "detail": {"field": "series"},
        },
    }  # fmt: skip
