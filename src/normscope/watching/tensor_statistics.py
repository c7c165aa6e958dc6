"""Tensor functions of watching: saved statistics, moments, histograms. No state, no waiting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.records.recording_header import BIN_LIMIT, BINS, SAMPLE_LEVELS
from normscope.user_models.norm_behavior import Moments
from normscope.user_models.wrappers import local_values

# A histogram sees at least about this many values of a channel, and at most a sixteenth of the
# batch beyond that.
SAMPLE_VALUES = 1024
SAMPLE_STRIDE = 16

FUSED_NODE = "BatchNormAddReLUBackward"
"""Batch normalization fused with an addition and a ReLU (`normscope.fused`), in autograd's graph:
its node stands for up to three operations, and says which in `relu` and `has_residual`, where the
residual is its second input.
"""

TINY = 1e-30

# Autograd's names of the operations that save a mean and an inverse standard deviation as their
# results 1 and 2: native, cuDNN's and MIOpen's batch norm, group norm and layer norm; and fused
# batch norm.
_SAVING_NODES = ("BatchNormBackward0", "GroupNormBackward0", "LayerNormBackward0", FUSED_NODE)

# Whether a node tells of its own saved tensors that hooks have packed them. Where it does not, only
# the moment at which they are saved shows it, and they must be read then.
TELLS_OF_HOOKS = hasattr(
    getattr(getattr(torch._C, "_autograd", None), "SavedTensor", None), "unpack_hook"
)

_active_saved_tensor_hooks = getattr(
    getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None
)


def saved_moments(node: Any) -> Moments | None:
    """Return the statistics behind the output of this `grad_fn`, as saved for backward.

    For batch norm they are [C], for group norm [N, G], for layer norm [N, ..., 1]; float32 also
    under bf16 autocast. They cost nothing: the layer computed them. None where there are none:
    without gradients, in eval mode, and under saved-tensor hooks (checkpointing, offloading), which
    an access would run.
    """
    name = type(node).__name__
    if name == "ViewBackward0":  # instance norm is a batch norm of N*C channels, reshaped
        node = node.next_functions[0][0]
        name = type(node).__name__
    if name == "SyncBatchNormBackward":
        return _synchronized_moments(node)
    if not name.endswith(_SAVING_NODES) or not _is_free(node):
        return None
    try:
        mean, invstd = node._saved_result1, node._saved_result2
    except RuntimeError:  # a backward inside the forward has freed them
        return None
    if mean is None or not mean.numel():
        return None
    mean, invstd = local_values(mean), local_values(invstd)
    return None if mean is None or invstd is None else Moments(mean, invstd)


def path_to_moments(node: Any, source: Any, most: int = 64) -> tuple[int, ...] | None:
    """Return the way from an output's node back to the first that saved statistics, None without.

    Args:
        node: the `grad_fn` of a layer's output.
        source: that of its input, behind which the layer has nothing.
        most: how many nodes are looked at.

    Returns:
        Indices into `next_functions`, one for each node on the way; see `node_at`.
    """
    paths: list[tuple[Any, tuple[int, ...]]] = [(node, ())]
    visited = {None, source}
    for at, path in paths:
        if at in visited:
            continue
        visited.add(at)
        if saved_moments(at) is not None:
            return path
        if len(paths) < most:
            following: Any = getattr(at, "next_functions", ())
            paths += [(before, (*path, index)) for index, (before, _) in enumerate(following)]
    return None


def node_at(node: Any, path: tuple[int, ...]) -> Any:
    """Return the node at the end of a `path_to_moments`, None where the graph ends before."""
    for index in path:
        following = getattr(node, "next_functions", ())
        node = following[index][0] if index < len(following) else None
    return node


def _is_free(node: Any) -> bool:
    """Tell if no saved-tensor hook runs when a node's statistics are read; it packs all alike."""
    if TELLS_OF_HOOKS:
        return node._raw_saved_result1.unpack_hook is None
    return type(node).__name__ == FUSED_NODE or (
        hasattr(type(node), "_saved_result1") and _no_hooks_now()
    )


def _no_hooks_now() -> bool:
    return _active_saved_tensor_hooks is not None and _active_saved_tensor_hooks(True) is None


def _synchronized_moments(node: Any) -> Moments | None:
    """Return SyncBatchNorm's statistics, which are those of all processes: it saves (input, weight,
    mean, invstd, count).
    """
    try:
        raws = node._raw_saved_tensors if TELLS_OF_HOOKS else ()
        packed = any(raw.unpack_hook is not None for raw in raws)
        if packed or not (TELLS_OF_HOOKS or _no_hooks_now()):
            return None
        saved = node.saved_tensors
    except RuntimeError:  # freed
        return None
    return Moments(saved[2].flatten(), saved[3].flatten()) if len(saved) == 5 else None


def by_channel(values: Tensor, axis: int, *, trailing: int = 1) -> Tensor:
    """Return a tensor as [M, C] or [N, C, L], where possible without a copy.

    Args:
        values: any floating tensor.
        axis: 1 for [N, C, ...]; -1 where the channels are the last `trailing` dimensions,
            flattened.
        trailing: number of dimensions that make up the channels when axis is -1.
    """
    if axis == -1:
        return values.reshape(-1, values.shape[-trailing:].numel())
    if values.dim() == 2:
        return values
    last = values.movedim(1, -1)
    if last.is_contiguous():  # channels_last
        return last.reshape(-1, values.shape[1])
    return values.flatten(2)


def channel_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance [C] of [M, C] or [N, C, L], in float32 or better.

    Two passes of sums, which are pairwise: as exact as `torch.var_mean`, and three times faster on
    the CPU.
    """
    values = values if values.dtype == torch.float64 else values.float()
    dims = tuple(d for d in range(values.dim()) if d != 1)
    n = values.numel() // values.shape[1]
    mean = values.sum(dims) / n
    centred = values - spread(mean, values)
    return mean, centred.square_().sum(dims) / n


def value_moments(values: Tensor) -> Tensor:
    """Return [4, C] of [M, C] or [N, C, L]: mean, standard deviation, skewness and kurtosis, the
    last two 0 for a constant channel.
    """
    mean, variance = channel_moments(values)
    std = variance.sqrt()
    scaled = (values - spread(mean, values)) / spread(std.clamp_min(TINY), values)
    dims, square = tuple(d for d in range(values.dim()) if d != 1), scaled.square()
    return torch.stack([mean, std, (square * scaled).mean(dims), square.square().mean(dims)])


def spread(per_channel: Tensor, values: Tensor) -> Tensor:
    """Return [C] in a shape that broadcasts along dimension 1 of [M, C] or [N, C, L]."""
    return per_channel if values.dim() == 2 else per_channel.unsqueeze(1)


def sample_images(values: Tensor, n: int, step: int) -> Tensor:
    """Return images `values[k::stride]`, k going round with the step: never a random sample.

    A stride inside an image would see few of its columns. `n` is the number of values per channel
    of the whole batch.
    """
    stride = max(1, min(SAMPLE_STRIDE, values.shape[0], n // SAMPLE_VALUES))
    scattered = step * 0x9E3779B1 >> 16  # steps that are recorded are often multiples of the stride
    return values[scattered % stride :: stride]


def bin_counts(normalized: Tensor) -> Tensor:
    """Return int32 [C * (BINS + 2)]: per channel of [M, C] or [N, C, L], the counts under, in and
    over the bins.

    NaN counts as over: what is not finite is reported elsewhere.
    """
    channels, width = normalized.shape[1], BINS + 2
    positions = normalized.mul(BINS / (2 * BIN_LIMIT)).add_(BINS / 2 + 1)
    indices = positions.nan_to_num_(nan=width).clamp_(0, width - 1).to(torch.int64)
    indices += spread(torch.arange(channels, device=indices.device) * width, normalized)
    counts = torch.zeros(channels * width, dtype=torch.int32, device=indices.device)
    ones = torch.ones((), dtype=torch.int32, device=indices.device).expand(indices.numel())
    return counts.scatter_add_(0, indices.flatten(), ones)


def extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return minimum and maximum [C] of [M, C] or [N, C, L]."""
    dims = tuple(d for d in range(values.dim()) if d != 1)
    return values.amin(dims), values.amax(dims)


def sample_distribution(statistic: Tensor) -> Tensor:
    """Return [4, G] of a per-sample statistic [N, G]: mean, deviation, minimum, maximum."""
    std, mean = torch.std_mean(statistic, 0, correction=0)
    return torch.stack([mean, std, statistic.amin(0), statistic.amax(0)])


def sample_quantiles(statistic: Tensor) -> Tensor:
    """Return [9, G] of a per-sample statistic [N, G]: quantiles at SAMPLE_LEVELS, nearest rank."""
    ordered = statistic.sort(0).values
    return torch.stack([ordered[round(level * (len(ordered) - 1))] for level in SAMPLE_LEVELS])


def normalize(kind: str, module: nn.Module, values: Tensor) -> Tensor:
    """Return the value that a per-sample layer normalized, without weight and bias."""
    values = values.float() if values.dtype != torch.float64 else values
    settings: Any = module
    if kind == "group":
        return F.group_norm(values, settings.num_groups, eps=settings.eps)
    if kind == "instance":
        return F.instance_norm(values, eps=settings.eps)
    if kind == "layer":
        return F.layer_norm(values, _normalized_shape(module), eps=settings.eps)
    return F.rms_norm(values, _normalized_shape(module), eps=getattr(settings, "eps", None))


def _normalized_shape(module: Any) -> list[int]:
    """Return the shape over which a layer or RMS norm normalizes, else its weight's."""
    shape = getattr(module, "normalized_shape", None)
    return list(module.weight.shape if shape is None else shape)


def vector_norm(gradient: Tensor) -> Tensor:
    """Return the L2 norm, a scalar, summed in float32 at least."""
    dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(gradient, dtype=dtype)


def is_fused(node: Any) -> bool:
    """Tell whether a node of the graph is a fused layer."""
    return node is not None and node.name() == FUSED_NODE


def gradient_behind_normalization(
    node: Any, x: Tensor, grad_inputs: tuple[Any, ...], gradient: Tensor,
    weight: Tensor | None, bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """Return the gradient at the output of the normalization itself, before the addition and the
    ReLU: [N, C, H, W].

    Args:
        node: the fused layer.
        x: its input.
        grad_inputs: the gradients that its backward made.
        gradient: the gradient at its output.
        weight: of the normalization, float32 [C], as in the forward; None for 1.
        bias: the same; None for 0.
    """
    if node.has_residual:
        return grad_inputs[1]  # the addition hands the same gradient to both of its terms
    if not node.relu:
        return gradient
    shape = (1, -1, *(1,) * (x.dim() - 2))
    with torch.no_grad():
        normalized = (x - node._saved_result1.view(shape)) * node._saved_result2.view(shape)
        if weight is not None:
            normalized = normalized * weight.view(shape)
        if bias is not None:
            normalized = normalized + bias.view(shape)
        return gradient * (normalized > 0)
