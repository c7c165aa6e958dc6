"""What is measured of a residual stream and of an attention, on bounded samples without chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SEQUENCES, TOKENS = 4, 64
"""Of a batch so many sequences (or images), of each so many tokens (or pixels), evenly spaced from
the first."""

HEADS, QUERIES = 4, 32
"""Of so many heads and of each so many queries the logits to all keys are computed."""

MASKED = -5e3
"""What is added to a logit to hide a key is below this: -10,000, -1e9, the dtype's least value."""

TINY = 1e-30


def _evenly(count: int, most: int, device: torch.device) -> Tensor:
    """Return at most so many indices below `count`, the first and the last among them.

    They are made on the device: a list of Python's would be copied there, for which is waited.
    """
    taken = min(count, most)
    return torch.arange(taken, device=device) * (count - 1) // max(taken - 1, 1)


def sampled_tokens(values: Tensor, axis: int) -> Tensor:
    """Return a sample of tokens, float32 [S, T, C].

    Args:
        values: [N, ..., C], or [N, C, ...] with `axis` 1; of [N, C] the batch is one sequence.
        axis: of the channels, 1 or -1.
    """
    values = values.detach()
    if values.dim() == 2:
        values = values[None]
    values = values[_evenly(len(values), SEQUENCES, values.device)]
    tokens = (values.movedim(1, -1) if axis == 1 and values.dim() > 3 else values).flatten(1, -2)
    return tokens[:, _evenly(tokens.shape[1], TOKENS, values.device)].float()


def stream_statistics(tokens: Tensor) -> Tensor:
    """Return [4] of tokens [S, T, C]: root mean square, largest absolute value, kurtosis (the
    fourth central moment over the squared variance: 3 for a normal distribution), and the largest
    channel's share of the sum of squares.
    """
    squares = tokens.square()
    centred = tokens - tokens.mean()
    variance = centred.square().mean()
    kurtosis = centred.square().square().mean() / variance.square().clamp_min(TINY)
    energy = squares.sum((0, 1))
    share = energy.max() / energy.sum().clamp_min(TINY)
    return torch.stack([squares.mean().sqrt(), tokens.abs().max(), kurtosis, share])


def token_cosine(tokens: Tensor) -> Tensor:
    """Return the mean cosine between two different tokens of a sequence, of tokens [S, T, C] with
    T > 1.

    The sum over all pairs is the squared length of the sum of the unit vectors.
    """
    unit = tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(TINY)
    count = tokens.shape[1]
    own = unit.square().sum((1, 2))
    return ((unit.sum(1).square().sum(-1) - own) / (count * (count - 1))).mean()


def attention_statistics(
    query: Tensor, key: Tensor, mask: Tensor | None, *, causal: bool, scale: float | None
) -> Tensor:
    """Return [2]: the largest logit of a query for a key it may look at, and the mean entropy of
    the attention as a share of the largest possible, ln(keys it may look at).

    Args:
        query: [..., H, Q, D], as `F.scaled_dot_product_attention` gets it.
        key: [..., K, D] with as many heads, or fewer that groups of queries share.
        mask: what is added to the logits [..., Q, K], or booleans: True may be looked at.
        causal: whether query i sees the keys up to i alone.
        scale: of the logits, 1 / sqrt(D) by default.
    """
    query, key = (x.detach() if x.dim() > 2 else x.detach()[None] for x in (query, key))
    heads, at = _sample(query)
    shared = heads[-1] * key.shape[-3] // query.shape[-3]
    q = query[*heads][:, at].float()
    k = key.expand(*query.shape[:-3], *key.shape[-3:])[*heads[:-1], shared].float()
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = torch.ones_like(logits, dtype=torch.bool)
    if causal:
        seen = torch.arange(k.shape[-2], device=q.device) <= at[:, None]
    if mask is None:
        return _of_logits(logits, logits, seen)
    mask = mask.detach().expand(*query.shape[:-1], k.shape[-2])[*heads][:, at]
    if mask.dtype == torch.bool:
        return _of_logits(logits, logits, seen & mask)
    return _of_logits(logits, logits + mask.float(), seen & (mask > MASKED))


def logit_statistics(logits: Tensor) -> Tensor:
    """Return the same of the logits [..., H, Q, K] that a softmax is given,
    with what a mask or a bias of positions has added to them.
    """
    heads, at = _sample(logits)
    chosen = logits.detach()[*heads][:, at].float()
    return _of_logits(chosen, chosen, chosen > MASKED)


def _sample(values: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return of [..., H, Q, any] the indices (..., H) of a few of all heads, and a few below Q."""
    flat = _evenly(values.shape[:-2].numel(), HEADS, values.device)
    heads: list[Tensor] = []
    for size in reversed(values.shape[:-2]):
        heads.insert(0, flat % size)
        flat = flat // size
    return tuple(heads), _evenly(values.shape[-2], QUERIES, values.device)


def _of_logits(logits: Tensor, masked: Tensor, seen: Tensor) -> Tensor:
    largest = logits.masked_fill(~seen, -torch.inf).max().nan_to_num(nan=torch.nan, neginf=0.0)
    count = seen.sum(-1)
    chance = masked.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    entropy = -torch.special.xlogy(chance, chance).sum(-1)
    several = count > 1
    share = torch.where(several, entropy / count.clamp_min(2).log(), 0.0)
    return torch.stack([largest, share.sum() / several.expand(share.shape).sum().clamp_min(1)])


def update_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Return the root mean square of a step's change of a parameter, over that of the parameter."""
    size = before.float().square().mean().sqrt()
    return (after.float() - before.float()).square().mean().sqrt() / size.clamp_min(TINY)


def channel_axis(values: Tensor, widths: set[Any], *, convolutions: bool) -> int:
    """Return the axis of a stream's channels, 1 or -1: the one as wide as a watched layer."""
    if values.dim() == 2:
        return -1
    order = (1, -1) if convolutions else (-1, 1)
    return next((axis for axis in order if values.shape[axis] in widths), order[0])
