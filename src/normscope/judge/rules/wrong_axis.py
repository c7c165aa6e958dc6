"""NS512: normalization over another axis than the features."""

from __future__ import annotations

from collections.abc import Iterator

from normscope.judge.findings import Finding
from normscope.judge.rule import Rule
from normscope.records.examination import Layer

FLAT, VARIED = 2.0, 5.0


class WrongAxis(Rule):
    """The layer takes time, or width, for the feature axis.

    A batch or instance normalization on [N, L, C] with L = C channels: what feeds it (a linear
    layer, an embedding, a recurrent layer) puts features last, or the spread is flat along axis 1
    (ratio below 2) and varies along the last (above 5). A batch or instance normalization behind a
    view or reshape that mixes features and positions where axes should have been transposed. A
    LayerNorm over the last axis alone of a convolution's [N, C, H, W]: it normalizes rows of
    pixels.
    """

    code = "NS512"
    name = "wrong-axis"
    severity = "warning"
    kinds = ("batch", "instance", "layer", "rms")
    why = "Shapes fit, nothing raises, and every time step gets its own gain while features are mixed."
    remedy = "Transpose to [N, C, L] around the layer; for a LayerNorm over channels move them to the last axis."
    fine = "Features and positions of one size whose statistics happen to look that way."
    reference = "https://github.com/xieyulai/LSTM-for-Human-Activity-Recognition-using-2D-Pose_Pytorch/issues/2"
    causes = ("D4",)
    replaces = ("D11",)
    needs = "batches"

    def find_in(self, layer: Layer, seen: object) -> Iterator[Finding]:
        """What feeds the layer, and along which axis its input varies."""
        place, measured = layer.place, layer.measured
        if place is None:
            return
        shape = place.input_shape
        if layer.kind in ("layer", "rms"):
            if layer.foreign:  # it may move axes inside
                return
            if (
                len(shape) == 4
                and layer.normalized_dims == 1
                and place.fed_by == "conv"
                and not place.axes_moved
            ):
                yield self.found(
                    layer.name, "The layer normalizes rows of pixels.", shape=str(shape), axis=3
                )
            return
        if place.features_scattered and not place.features_last:
            message = "A reshape has mixed features and positions: axis 1 has the features' size and holds other things."
            yield self.found(layer.name, message, shape=str(shape), fed_by=place.fed_by)
            return
        if len(shape) != 3 or shape[1] != shape[2]:
            return
        if place.features_last:
            message = "What feeds the layer has its features on the last axis; the layer takes axis 1 for them."
            yield self.found(layer.name, message, shape=str(shape), fed_by=place.fed_by)
        elif measured is not None and len(measured.axis_spread) == 2:
            first, last = measured.axis_spread
            if first < FLAT and last > VARIED:
                message = "The input varies along the last axis as features do; the layer takes axis 1 for them."
                yield self.found(
                    layer.name, message, along_axis_1=first, along_last_axis=last, limit=VARIED
                )
