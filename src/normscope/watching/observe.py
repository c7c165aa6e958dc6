"""Measure one call of one layer, for a step's rows.

Free at any step: the batch statistics that the layer saved for backward, and its parameters and
buffers. Whatever needs a pass over activations (histograms, moments that the layer did not save)
happens at histogram steps only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from normscope.records.recording_header import BINS, FRAME, SAMPLE_LEVELS, SAMPLE_MOMENTS, LayerInfo
from normscope.user_models.batch_reader import tensors_in
from normscope.user_models.norm_behavior import Behavior, Moments, behavior_of
from normscope.user_models.norm_layers import NormLayer, machine_eps
from normscope.user_models.wrappers import local_affine
from normscope.watching.row_buffers import Column, column
from normscope.watching.tensor_statistics import (
    bin_counts,
    by_channel,
    channel_moments,
    extremes,
    node_at,
    normalize,
    path_to_moments,
    sample_distribution,
    sample_images,
    sample_quantiles,
    saved_moments,
    spread,
    value_moments,
)  # fmt: skip
from normscope.watching.watched_layers import histogram_channels

# The kinds whose layers save statistics for backward, where PyTorch's own operations make them.
_SAVING_KINDS = frozenset({"batch", "instance", "group", "layer"})

Affine = tuple[Tensor | None, Tensor | None]

# So many calls of a layer are looked at for what it does, before it is left alone.
MAX_LOOKS = 3

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
    probe: Tensor | None = None  # not finite where the layer's input is not: read for every step
    parts: dict[str, list[tuple[Column, Tensor]]] = field(default_factory=dict)
    gradient_norms: dict[str, Tensor] = field(default_factory=dict)
    used: dict[str, Tensor] = field(default_factory=dict)  # parameters, where not the layer's own
    node: Node | None = None  # of the output, while it is being traced

    def add(self, group: str, statistic: str, value: Tensor, shape: tuple[int, ...]) -> None:
        """Put a value into the step's row of a group."""
        if len(shape) == 1 and self.channel_stride > 1:
            value = value[:: self.channel_stride]
            shape = tuple(value.shape)
        self.parts.setdefault(group, []).append((column(self.layer, statistic, shape), value))


def first_tensor(value: Any) -> Tensor | None:
    """Return the first floating tensor in a module's arguments or output."""
    return next(_floating(value), None)


def input_of(args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
    """Return a module's floating input: the first of its output's shape, else the first."""
    tensors = list(_floating((args, kwargs)))
    return next((x for x in tensors if x.shape == output.shape), tensors[0] if tensors else None)


def _floating(value: Any) -> Iterator[Tensor]:
    return (tensor for tensor in tensors_in(value) if tensor.is_floating_point())


class Observer:
    """Measures the calls of one layer.

    A layer that runs PyTorch's own forward is measured as its class says. Of any other, the first
    call whose input is seen shows over which axes it normalizes; until then, and where nothing
    explains its output, only what is certain is measured.

    Args:
        info: the description of the layer, which grows while it runs.
        norm: what the layer was taken for, None for other modules.
    """

    def __init__(self, info: LayerInfo, norm: NormLayer | None):
        self.info = info
        self.norm = norm
        self.plain = norm is None or norm.plain
        self._behavior: Behavior | None = None
        self._path: tuple[int, ...] | None = () if self.plain else None
        self._looks = 0 if self.plain else MAX_LOOKS
        self._rank = 0  # dimensions of the input from which the behavior was read
        self._given_up = False

    def give_up(self, call: Call) -> None:
        """Measure no activations from now on, and drop what is left of a failed measurement."""
        self._given_up, self._path, self._looks = True, None, 0
        call.parts.clear()
        call.probe = None

    @property
    def needs_input(self) -> bool:
        """Tell whether the layer's behavior has to be read from a call yet."""
        return self._looks > 0

    @property
    def expects_statistics(self) -> bool:
        """Tell if the layer's own operation should save its batch's statistics for backward."""
        return self._path is not None and self.info.kind in ("batch", "group", "layer")

    @property
    def is_understood(self) -> bool:
        """Tell whether the layer's axes are known, or it was given up."""
        return self.plain or self._given_up or self._behavior is not None

    def is_another_layout(self, x: Tensor) -> bool:
        """Tell whether an input has other dimensions than the one that told the layer's axes."""
        return self._behavior is not None and x.dim() != self._rank

    def limits(self, watched: Tensor) -> str:
        """Return, as a sentence, what is recorded of a layer that is not understood."""
        info = self.info
        kept = "none of its activations, as their channels cannot be told"
        if self._arrangement(watched) is not None:
            kept = f"input and output along the axis that has its {info.channels} channels"
        return (
            f"{info.name} ({info.type}) has a forward of its own, and no known normalization "
            f"explains its output. Recorded are its parameters and gradients and {kept}."
        )

    def observe(
        self,
        call: Call,
        module: nn.Module,
        x: Tensor | None,
        y: Tensor,
        *,
        nodes: tuple[Node | None, Node | None],
        moments: bool,
        histogram_step: int | None,
    ) -> None:
        """Fill a call from one forward of the module.

        Args:
            call: where the measurements go.
            module: the layer.
            x: its input, where there is one.
            y: its output.
            nodes: the `grad_fn` of both, of which x and y may be a process's part.
            moments: whether the step records moments.
            histogram_step: the number of the step, where it records histograms.
        """
        if self._given_up:
            self.observe_node(call, module, None, y.numel(), moments=moments)
            return
        info = self.info
        if self.needs_input and x is not None:
            self._look(x, y, nodes)
        if x is not None and self.is_another_layout(x):
            self.observe_node(call, module, None, y.numel(), moments=moments)
            return
        watched = y if info.kind == "activation" or x is None else x
        arrangement = self._arrangement(watched)
        watched = watched if arrangement is None else arrangement.arranged(watched)
        axis, trailing = self._channel_axis(module, watched)
        if info.channels is None and (self.plain or arrangement is not None):
            info.channels = watched.shape[axis]
        saved = self.observe_node(call, module, nodes[1], watched.numel(), moments=moments)
        if histogram_step is None or not watched.numel():
            return
        if (x is None and info.kind != "activation") or not (self.plain or arrangement):
            return
        with torch.no_grad():
            sample = sample_images(watched.detach(), call.n, histogram_step)
            values = _float(by_channel(sample, axis, trailing=trailing))
            affine = _affine(module, values.shape[1]) if self.plain else None
            layout = axis, trailing
            self._add_histograms(call, module, watched.detach(), saved, values, layout, affine)
            if affine is not None:
                self._add_plain_output(call, module, values, sample, saved, layout, affine)
            elif x is not None and y.shape == x.shape:
                made = y.detach() if arrangement is None else arrangement.arranged(y.detach())
                made = sample_images(made, call.n, histogram_step)
                self._add_output(call, _float(by_channel(made, axis, trailing=trailing)))
            if affine is None and (self.plain or self._behavior is not None):
                self._add_sample_statistics(call, values, sample, saved)

    def observe_node(
        self, call: Call, module: nn.Module, node: Node | None, numel: int, *, moments: bool
    ) -> Moments | None:
        """Fill a call from its output's node; return the statistics that the layer itself saved."""
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

    def _look(self, x: Tensor, y: Tensor, nodes: tuple[Node | None, Node | None]) -> None:
        """Read from a call how the layer normalizes, and where autograd keeps its statistics.

        Reads values, for which a GPU is waited for, in the first call or a few.
        """
        if self.norm is None or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        self._looks -= 1
        path = path_to_moments(nodes[1], nodes[0])
        saved = None if path is None else saved_moments(node_at(nodes[1], path))
        proven = None if saved is None else behavior_of(self.norm, x, y, saved)
        behavior = proven or behavior_of(self.norm, x, y)
        if behavior is None:
            return
        self._looks, self._behavior, self._rank = 0, behavior, x.dim()
        self._path = path if proven else None
        self.info.kind, self.info.groups = behavior.kind, behavior.groups
        if behavior.kind not in ("layer", "rms") or self.norm.normalized_dims < 2:
            self.info.channels = x.shape[behavior.channel_axis]

    def _arrangement(self, watched: Tensor) -> Behavior | None:
        """Return the channels' axis: as the layer has shown, else the only one of their size."""
        if self.plain or self._behavior is not None or self.norm is None or watched.dim() < 2:
            return self._behavior
        axes = [axis for axis in (1, -1) if watched.shape[axis] == self.info.channels]
        one = len(axes) == 1 or (len(axes) == 2 and watched.dim() == 2)
        return Behavior(self.info.kind, axes[-1]) if one else None

    def _channel_axis(self, module: Any, watched: Tensor) -> tuple[int, int]:
        """Return (axis, number of trailing dimensions) of the channels; see `by_channel`."""
        if self.info.kind in ("layer", "rms"):
            return -1, max(self.norm.normalized_dims, 1) if self.norm is not None else 1
        if self.info.kind != "activation":
            return 1, 1
        tokens = watched.dim() == 3 and not isinstance(module, nn.modules.conv._ConvNd)
        return (-1, 1) if tokens or watched.dim() < 2 else (1, 1)

    def _saved(self, node: Node | None) -> Moments | None:
        """Return the layer's saved statistics as [C] for batch norm, else as [samples, G]."""
        saved = None if self._path is None else saved_moments(node_at(node, self._path))
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
        self, call: Call, module: Any, watched: Tensor, saved: Moments | None, values: Tensor,
        layout: tuple[int, int], affine: Affine | None,
    ) -> None:  # fmt: skip
        used = self._channel_statistics(module, saved)
        if used is None or used is not saved:
            mean, variance = channel_moments(by_channel(watched, layout[0], trailing=layout[1]))
            call.add("frames", "batch_mean", mean, tuple(mean.shape))
            call.add("frames", "batch_var", variance, tuple(mean.shape))
            used = used or Moments(mean, (variance + self._eps()).rsqrt())
        if self.info.kind == "activation":
            std = used.invstd.reciprocal()
            self._add_histogram(call, "output_histogram", values, used, weight=std, bias=used.mean)
            return
        weight = bias = None
        if affine is not None and self._is_normalized_by(module):
            weight, bias = affine  # else the output has a histogram of its own
        self._add_histogram(call, "histogram", values, used, weight=weight, bias=bias)

    def _add_plain_output(
        self, call: Call, module: Any, values: Tensor, sample: Tensor, saved: Moments | None,
        layout: tuple[int, int], affine: Affine,
    ) -> None:  # fmt: skip
        """Add the output of a layer with PyTorch's forward by its formula, as the tensor may have
        been changed in place since.
        """
        if self.info.kind == "activation" or self._is_normalized_by(module):
            return
        normalized = normalize(self.info.kind, module, sample)
        normalized = by_channel(normalized, layout[0], trailing=layout[1])
        weight, bias = affine
        self._add_histogram(call, "output_histogram", normalized, None, weight=weight, bias=bias)
        self._add_sample_statistics(call, values, sample, saved)

    def _add_output(self, call: Call, values: Tensor) -> None:
        """Add the output of a forward that is not PyTorch's, whatever its formula."""
        mean, variance = channel_moments(values)
        std = (variance + _ACTIVATION_EPS).sqrt()
        used = Moments(mean, std.reciprocal())
        self._add_histogram(call, "output_histogram", values, used, weight=std, bias=mean)

    def _is_normalized_by(self, module: Any) -> bool:
        """Tell whether the output is an affine map of each channel, so that one histogram shows
        both.
        """
        return self.info.kind == "batch" or self._uses_running_statistics(module)

    def _channel_statistics(self, module: Any, saved: Moments | None) -> Moments | None:
        """Return the per-channel statistics with which the layer normalized, if it has such."""
        if self.plain and self._uses_running_statistics(module):
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
            values, rows = values.index_select(1, index), [r.index_select(0, index) for r in rows]
        mean, invstd, weight, bias = rows
        normalized = (values - spread(mean, values)) * spread(invstd, values)
        frame = torch.stack([mean, invstd.reciprocal(), weight, bias, *extremes(values)])
        call.add("frames", f"{name}_frame", frame, (len(FRAME), len(mean)))
        moments = value_moments(values)
        call.add("frames", f"{name}_moments", moments, tuple(moments.shape))
        call.add("histograms", name, bin_counts(normalized), (len(mean), BINS + 2))

    def _add_sample_statistics(
        self, call: Call, values: Tensor, sample: Tensor, saved: Moments | None
    ) -> None:
        """Add the distribution over the sampled images of the statistics taken from each."""
        if self.info.kind == "batch":
            return
        statistics = {"sample_std": self._per_sample_std(values, sample)}
        if self.info.kind != "rms":
            mean = self._groups(values, sample).mean(-1)
            statistics = {"sample_mean": mean, **statistics}
        for name, statistic in statistics.items():
            groups, quantiles = statistic.shape[1], sample_quantiles(statistic)
            call.add("frames", f"{name}_quantiles", quantiles, (len(SAMPLE_LEVELS), groups))
            if saved is None:
                distribution = sample_distribution(statistic)
                call.add("frames", name, distribution, (len(SAMPLE_MOMENTS), groups))

    def _per_sample_std(self, values: Tensor, sample: Tensor) -> Tensor:
        grouped, rms = self._groups(values, sample), self.info.kind == "rms"
        square = grouped.square().mean(-1) if rms else grouped.var(-1, correction=0)
        eps = machine_eps(values.dtype) if self.info.eps is None else self.info.eps
        return (square + eps).sqrt()

    def _groups(self, values: Tensor, sample: Tensor) -> Tensor:
        """Return [samples, G, values], where G are the sets that are normalized together."""
        if self.info.kind in ("layer", "rms"):
            return values.unsqueeze(1)
        groups = sample.shape[1] if self.info.kind == "instance" else self.info.groups
        return _float(sample).reshape(len(sample), groups or 1, -1)


def _affine(module: nn.Module, channels: int) -> Affine | None:
    """Return weight and bias of a layer, None where this process holds them of other channels."""
    affine = local_affine(module)
    return affine if all(v is None or v.numel() == channels for v in affine) else None


def _float(values: Tensor) -> Tensor:
    """In float32, or float64 where it was that."""
    values = values.detach()
    return values if values.dtype == torch.float64 else values.float()
