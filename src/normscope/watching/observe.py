"""What one call of one layer contributes to a step's rows.

Free at any step: the batch statistics that the layer saved for backward, and its parameters and buffers. Whatever needs
a pass over activations (histograms, moments that the layer did not save) happens at histogram steps only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from normscope.records.recording_header import BINS, FRAME, SAMPLE_LEVELS, SAMPLE_MOMENTS, LayerInfo
from normscope.watching.row_buffers import Column, column
from normscope.watching.tensor_statistics import (
    Moments,
    bin_counts,
    by_channel,
    channel_moments,
    extremes,
    normalize,
    sample_distribution,
    sample_images,
    sample_quantiles,
    saved_moments,
    spread,
)
from normscope.watching.watched_layers import histogram_channels

# The kinds whose layers save statistics for backward, where PyTorch's own operations make them.
_SAVING_KINDS = frozenset({"batch", "instance", "group", "layer"})

# Added to the variance of an unnormalized activation, so that a constant channel has a standard
# deviation to bin by.
_ACTIVATION_EPS = 1e-12


@dataclass(slots=True)
class Call:
    """The measurements of one call, on the device. Each part goes into the row of its group."""

    layer: str
    channel_stride: int = 1  # what is per channel is kept of every so many
    n: int = 0  # values per channel
    training: bool = True
    probe: Tensor | None = (
        None  # not finite where the layer's input is not: looked at for every step
    )
    parts: dict[str, list[tuple[Column, Tensor]]] = field(default_factory=dict)
    gradient_norms: dict[str, Tensor] = field(default_factory=dict)
    node: Node | None = None  # of the output, while it is being traced

    def add(self, group: str, statistic: str, value: Tensor, shape: tuple[int, ...]) -> None:
        """Put a value into the step's row of a group."""
        if len(shape) == 1 and self.channel_stride > 1:
            value = value[:: self.channel_stride]
            shape = tuple(value.shape)
        self.parts.setdefault(group, []).append((column(self.layer, statistic, shape), value))


def first_tensor(value: Any) -> Tensor | None:
    """The first floating tensor in what a module was given or returned."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return None
    for item in value:
        if (found := first_tensor(item)) is not None:
            return found
    return None


class Observer:
    """Measures the calls of one layer."""

    def __init__(self, info: LayerInfo):
        self.info = info

    def observe(
        self,
        call: Call,
        module: nn.Module,
        given: Tensor | None,
        output: Tensor,
        *,
        moments: bool,
        histogram_step: int | None,
    ) -> None:
        """Fill a call from one forward of the module.

        Args:
            call: where the measurements go.
            module: the layer.
            given: the tensor that it was given, where there is one.
            output: the tensor that it returned.
            moments: whether the step records moments.
            histogram_step: the number of the step, where it records histograms.
        """
        info = self.info
        watched = output if info.kind == "activation" or given is None else given
        axis, trailing = self._channel_axis(module, watched)
        if info.channels is None:
            info.channels = watched.shape[axis]
        saved = self.observe_node(call, module, output.grad_fn, watched.numel(), moments=moments)
        if (
            histogram_step is not None
            and watched.numel()
            and (given is not None or info.kind == "activation")
        ):
            with torch.no_grad():
                self._add_histograms(
                    call, module, watched.detach(), saved, histogram_step, (axis, trailing)
                )

    def observe_node(
        self, call: Call, module: nn.Module, node: Node | None, numel: int, *, moments: bool
    ) -> Moments | None:
        """Fill a call from what autograd keeps of it: the output's node. Returns the layer's own
        statistics.
        """
        info = self.info
        saved = self._saved(node) if info.kind in _SAVING_KINDS else None
        if saved is not None:
            call.probe = saved.mean if info.kind == "batch" else saved.mean.sum()
        if moments:
            call.training = module.training
            call.n = numel // max(1, info.channels or 1)
            if saved is not None:
                self._add_moments(call, saved)
        return saved

    def _channel_axis(self, module: Any, watched: Tensor) -> tuple[int, int]:
        """(axis, number of trailing dimensions) of the channels; see `by_channel`."""
        if self.info.kind in ("layer", "rms"):
            shape = getattr(module, "normalized_shape", None)
            return -1, 1 if shape is None else len(shape)
        last = self.info.kind == "activation" and (
            (watched.dim() == 3 and not isinstance(module, nn.modules.conv._ConvNd))
            or watched.dim() < 2
        )
        return (-1, 1) if last else (1, 1)

    def _saved(self, node: Node | None) -> Moments | None:
        """The layer's own statistics as [C] for batch norm, as [samples, G] for the others."""
        saved = saved_moments(node)
        if saved is None or self.info.kind == "batch":
            return saved
        groups = {"group": self.info.groups, "instance": self.info.channels}.get(self.info.kind, 1)
        if not groups or saved.mean.numel() % groups:
            return None
        return Moments(saved.mean.reshape(-1, groups), saved.invstd.reshape(-1, groups))

    def _add_moments(self, call: Call, saved: Moments) -> None:
        if self.info.kind == "batch":
            shape = tuple(saved.mean.shape)
            call.add("moments", "batch_mean", saved.mean, shape)
            call.add("moments", "batch_invstd", saved.invstd, shape)
            return
        shape = (len(SAMPLE_MOMENTS), saved.mean.shape[1])
        call.add("moments", "sample_mean", sample_distribution(saved.mean), shape)
        call.add("moments", "sample_std", sample_distribution(saved.invstd.reciprocal()), shape)

    def _add_histograms(
        self,
        call: Call,
        module: Any,
        watched: Tensor,
        saved: Moments | None,
        step: int,
        layout: tuple[int, int],
    ) -> None:
        sample = sample_images(watched, call.n, step)
        values = _float(by_channel(sample, layout[0], trailing=layout[1]))
        used = self._channel_statistics(module, saved)
        if used is None or not module.training:
            mean, variance = channel_moments(by_channel(watched, layout[0], trailing=layout[1]))
            call.add("frames", "batch_mean", mean, tuple(mean.shape))
            call.add("frames", "batch_var", variance, tuple(mean.shape))
            used = used or Moments(mean, (variance + self._eps()).rsqrt())
        if self.info.kind == "activation":
            std = used.invstd.reciprocal()
            self._add_histogram(call, "output_histogram", values, used, weight=std, bias=used.mean)
            return
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if self.info.kind == "batch" or self._uses_running_statistics(module):
            self._add_histogram(call, "histogram", values, used, weight=weight, bias=bias)
            return
        self._add_histogram(call, "histogram", values, used, weight=None, bias=None)
        normalized = by_channel(
            normalize(self.info.kind, module, sample), layout[0], trailing=layout[1]
        )
        self._add_histogram(call, "output_histogram", normalized, None, weight=weight, bias=bias)
        self._add_sample_statistics(call, values, sample, saved)

    def _channel_statistics(self, module: Any, saved: Moments | None) -> Moments | None:
        """The per-channel statistics with which the layer normalized, where it has such."""
        if self._uses_running_statistics(module):
            return Moments(module.running_mean, (module.running_var + self._eps()).rsqrt())
        return saved if self.info.kind == "batch" else None

    def _uses_running_statistics(self, module: Any) -> bool:
        running = isinstance(getattr(module, "running_mean", None), Tensor)
        return self.info.kind in ("batch", "instance") and running and not module.training

    def _eps(self) -> float:
        return _ACTIVATION_EPS if self.info.eps is None else self.info.eps

    def _add_histogram(
        self, call: Call, name: str, values: Tensor, used: Moments | None, *, weight: Any, bias: Any
    ) -> None:
        """Bin a sample, normalized by the statistics that were used, and keep it with its frame
        (see FRAME).
        """
        channels = values.shape[1]
        zeros = torch.zeros(channels, device=values.device)
        mean = zeros if used is None else used.mean
        invstd = zeros + 1 if used is None else used.invstd
        weight = weight.reshape(-1) if isinstance(weight, Tensor) else zeros + 1
        bias = bias.reshape(-1) if isinstance(bias, Tensor) else zeros
        rows = [_float(row) for row in (mean, invstd, weight, bias)]
        if chosen := histogram_channels(channels, self.info.histogram_limit):
            self.info.histogram_channels = chosen
            count = len(chosen)
            index = torch.arange(count, device=values.device) * channels // count
            values, rows = (
                values.index_select(1, index),
                [row.index_select(0, index) for row in rows],
            )
        mean, invstd, weight, bias = rows
        normalized = (values - spread(mean, values)) * spread(invstd, values)
        frame = torch.stack([mean, invstd.reciprocal(), weight, bias, *extremes(values)])
        call.add("frames", f"{name}_frame", frame, (len(FRAME), len(mean)))
        call.add("histograms", name, bin_counts(normalized), (len(mean), BINS + 2))

    def _add_sample_statistics(
        self, call: Call, values: Tensor, sample: Tensor, saved: Moments | None
    ) -> None:
        """The distribution over the sampled images of the statistics that the layer takes from
        each.
        """
        std = self._per_sample_std(values, sample)
        mean = None
        if self.info.kind != "rms":
            mean = self._groups(values, sample).mean(-1)
        for name, statistic in (("sample_mean", mean), ("sample_std", std)):
            if statistic is None:
                continue
            groups = statistic.shape[1]
            call.add(
                "frames",
                f"{name}_quantiles",
                sample_quantiles(statistic),
                (len(SAMPLE_LEVELS), groups),
            )
            if saved is None:
                call.add(
                    "frames", name, sample_distribution(statistic), (len(SAMPLE_MOMENTS), groups)
                )

    def _per_sample_std(self, values: Tensor, sample: Tensor) -> Tensor:
        grouped = self._groups(values, sample)
        square = (
            grouped.square().mean(-1) if self.info.kind == "rms" else grouped.var(-1, correction=0)
        )
        eps = torch.finfo(sample.dtype).eps if self.info.eps is None else self.info.eps
        return (square + eps).sqrt()

    def _groups(self, values: Tensor, sample: Tensor) -> Tensor:
        """[samples, G, values] of what the layer normalizes together."""
        if self.info.kind in ("layer", "rms"):
            return values.unsqueeze(1)
        groups = sample.shape[1] if self.info.kind == "instance" else self.info.groups
        return _float(sample).reshape(len(sample), groups or 1, -1)


def _float(values: Tensor) -> Tensor:
    """In float32, or float64 where it was that."""
    values = values.detach()
    return values if values.dtype == torch.float64 else values.float()
