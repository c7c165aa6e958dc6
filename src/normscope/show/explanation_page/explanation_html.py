"""Builds explanation.html: the network's numbers, test images and the scripts, in one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from normscope.judge.rules import rules
from normscope.records.files import write_text
from normscope.show.palette import style_sheet
from normscope.show.report.build import MARK, as_json, asset, content_policy, filled, refuse_foreign

SCRIPTS = ("network.js", "plots.js", "explanation.js")

FAULTS = (
    "statistics-never-updated",
    "inverted-momentum",
    "eps-too-large",
    "batch-too-small",
    "class-ordered-batches",
    "low-precision-statistics",
)
"""Names of the rules whose faults the page makes (section 7)."""


@dataclass(frozen=True, eq=False)
class ConvolutionAndNorm:
    """A 3x3 convolution without bias and the batch normalization behind it, float32."""

    stride: int
    kernel: np.ndarray  # [outputs, inputs, 3, 3]
    weight: np.ndarray  # [outputs], as all below
    bias: np.ndarray
    mean: np.ndarray  # running
    variance: np.ndarray  # running
    eps: float


@dataclass(frozen=True, eq=False)
class PageNetwork:
    """A trained network and the images on which the page runs it."""

    layers: tuple[ConvolutionAndNorm, ...]
    classifier_weight: np.ndarray  # float32 [classes, features]
    classifier_bias: np.ndarray  # float32 [classes]
    momentum: float
    images: np.ndarray  # uint8 [N, S, S, colours]: of the test split
    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]
    data_mean: Sequence[float]  # per colour, of pixels in [0, 1]
    data_std: Sequence[float]
    source: str  # what it was trained on, in a phrase
    seed: int
    made: Mapping[str, str]  # how, term by term


def write_page(network: PageNetwork, path: Path) -> None:
    """Write the page, replacing an earlier one.

    Raises:
        InputError: if `path` is something else than a page of normscope; it is left as it is.
        StorageError: if it cannot be written.
    """
    refuse_foreign(path)
    write_text(path, page(network))


def page(network: PageNetwork) -> str:
    """Return the whole page as text."""
    style = style_sheet() + _asset("explanation.css")
    script = "".join(map(_asset, SCRIPTS))
    parts = {
        "TITLE": html.escape(f"Batch normalization on {network.source}: explained by running it"),
        "MARK": MARK,
        "POLICY": content_policy([script], style),
        "STYLE": style,
        "DATA": as_json(_content(network)),
        "SCRIPT": script,
    }
    return filled(_asset("explanation.html"), parts)


def _content(network: PageNetwork) -> dict[str, Any]:
    """Return what explanation.js reads."""
    known = {rule.name: rule for rule in rules()}
    return {
        "network": {
            "layers": [_layer(layer) for layer in network.layers],
            "classifier": {
                "weight": _base64(network.classifier_weight, "<f4"),
                "bias": _base64(network.classifier_bias, "<f4"),
            },
        },
        "images": {
            "pixels": _base64(network.images, "u1"),
            "side": network.images.shape[1],
            "colours": network.images.shape[3],
            "labels": network.labels.tolist(),
            "mean": list(network.data_mean),
            "std": list(network.data_std),
        },
        "classes": list(network.classes),
        "momentum": network.momentum,
        "seed": network.seed,
        "source": network.source,
        "channel": int(np.abs(network.layers[0].mean).argmax()),
        "made": list(network.made.items()),
        "rules": {
            name: {"code": known[name].code, "name": name, "remedy": known[name].remedy}
            for name in FAULTS
        },
    }


def _layer(layer: ConvolutionAndNorm) -> dict[str, Any]:
    vectors = {
        field.name: _base64(getattr(layer, field.name), "<f4")
        for field in fields(layer)
        if field.name in ("weight", "bias", "mean", "variance")
    }
    return {
        "convolution": {
            "weight": _base64(layer.kernel, "<f4"),
            "outputs": len(layer.kernel),
            "stride": layer.stride,
        },
        "norm": {**vectors, "eps": layer.eps},
    }


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def _asset(name: str) -> str:
    return asset(name, "normscope.show.explanation_page")
