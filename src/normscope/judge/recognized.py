"""What each layer was taken for and why, in the words of a table."""

from __future__ import annotations

from normscope.judge.findings import RecognizedRow
from normscope.records.examination import Examination, Layer

WHY = {
    "registration": "its class was registered",
    "type": "PyTorch's class",
    "running statistics": "it holds running statistics",
    "weight and epsilon": "it holds a vector and an epsilon",
    "class name": "its class says so",
    "name": "a call shows it",
    "gain and bias": "a gain and a bias of one size",
}
IN_A_FILE = {"name": "its name says so"}


def recognized_rows(exam: Examination) -> tuple[RecognizedRow, ...]:
    """Return a row for each layer, then one for each thing that looks like a layer."""
    rows = [_row(layer, exam.source) for layer in exam.layers]
    rows += [
        RecognizedRow(
            each.name, each.type, "function" if each.function else "unknown", each.reason, ""
        )
        for each in exam.unknown
    ]
    return tuple(rows)


def _row(layer: Layer, source: str) -> RecognizedRow:
    found = layer.recognition
    by = found.by if found is not None else ""
    why = (IN_A_FILE.get(by) if source == "state_dict" else None) or WHY.get(by, by)
    return RecognizedRow(layer.name, layer.type, layer.kind, why, _what(layer))


def _what(layer: Layer) -> str:
    """Say what a layer does, with what is not known left out."""
    found = layer.recognition
    if found is None:
        return ""
    if found.explained is False:
        return "no normalization explains its output"
    sizes = {"1": "channels on axis 1", "last": "over the last axis"}
    groups = f"{layer.groups} groups" if layer.groups > 1 else ""
    if layer.normalized_dims > 1:
        sizes["last"] = f"over the last {layer.normalized_dims} axes"
    centered = {True: "centred", False: "not centred", None: ""}[found.centered]
    gains = {"none": "no gain", "other": "another gain", "": ""}
    gain = gains.get(found.gain, f"gain {found.gain}")
    bias = {True: "bias", False: "no bias", None: ""}[found.bias]
    eps = _eps(layer)
    return ", ".join(filter(None, (sizes.get(found.axis), groups, centered, gain, bias, eps)))


def _eps(layer: Layer) -> str:
    shown = layer.recognition.eps if layer.recognition is not None else None
    if shown is not None and (layer.eps is None or abs(shown / layer.eps - 1) > 0.1):
        named = f", not {layer.eps:g}" if layer.eps is not None else ""
        return f"eps {shown:.2g} in effect{named}"
    return f"eps {layer.eps:.4g}" if layer.eps is not None else ""
