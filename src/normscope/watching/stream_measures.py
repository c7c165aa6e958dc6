"""What is measured of a residual stream and of an attention, on bounded samples without chance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SEQUENCES, TOKENS = 4, 64
"""Of a batch so many sequences (or images), of each so many tokens (or pixels), evenly spaced from
the first."""

HEADS, QUERIES = 4, 32
"""Of so many heads and of each so many queries the logits to all keys are computed."""

TINY = 1e-30


def _evenly(count: int, most: int) -> list[int]:
    """Return at most so many indices below `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def sampled_tokens(values: Tensor, axis: int) -> Tensor:
    """Return a sample of tokens, float32 [S, T, C].

    Args:
        values: [N, ..., C], or [N, C, ...] with `axis` 1; of [N, C] the batch is one sequence.
        axis: of the channels, 1 or -1.
    """
    values = values.detach()
    values = values[None] if values.dim() == 2 else values[_evenly(len(values), SEQUENCES)]
    tokens = (values.movedim(1, -1) if axis == 1 and values.dim() > 3 else values).flatten(1, -2)
    return tokens[:, _evenly(tokens.shape[1], TOKENS)].float()


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
    queries, keys, width = query.shape[-2], key.shape[-2], query.shape[-1]
    heads, at = _heads(query, key), _evenly(queries, QUERIES)
    chosen = query.detach()[..., at, :].flatten(0, -3) if query.dim() > 2 else query[None, at, :]
    others = key.detach().flatten(0, -3) if key.dim() > 2 else key[None]
    index = torch.tensor(heads, device=query.device)
    q, k = chosen[index[:, 0]].float(), others[index[:, 1]].float()
    logits = q @ k.transpose(-1, -2) * (1 / math.sqrt(width) if scale is None else scale)
    seen = torch.ones_like(logits, dtype=torch.bool)
    if causal:
        rows = torch.tensor(at, device=query.device)[:, None]
        seen = seen & (torch.arange(keys, device=query.device) <= rows)
    added = torch.zeros_like(logits)
    if mask is not None:
        full = mask.detach().expand(*query.shape[:-1], keys).flatten(0, -3)[index[:, 0]][:, at]
        seen = seen & (full if full.dtype == torch.bool else full > torch.finfo(full.dtype).min / 2)
        added = added if full.dtype == torch.bool else full.float()
    return _of_logits(logits, logits + added, seen)


def _heads(query: Tensor, key: Tensor) -> list[tuple[int, int]]:
    """Return flat indices (of the query's head, of its key's) of a few heads of the batch."""
    total, per = math.prod(query.shape[:-2]), query.shape[-3] if query.dim() > 2 else 1
    key_heads = key.shape[-3] if key.dim() > 2 else 1
    chosen = _evenly(total, HEADS)
    return [(h, h // per * key_heads + h % per * key_heads // per) for h in chosen]


def _of_logits(logits: Tensor, masked: Tensor, seen: Tensor) -> Tensor:
    largest = logits.masked_fill(~seen, -torch.inf).max().nan_to_num(nan=torch.nan, neginf=0.0)
    count = seen.sum(-1)
    chance = masked.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    entropy = -torch.special.xlogy(chance, chance).sum(-1)
    several = count > 1
    share = torch.where(several, entropy / count.clamp_min(2).log(), 0.0)
    return torch.stack([largest, share.sum() / several.sum().clamp_min(1)])


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
