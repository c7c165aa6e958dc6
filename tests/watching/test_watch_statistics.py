"""The tensor functions behind watching, against float64 and by property."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normscope.records.recording_header import BIN_LIMIT, BINS, SAMPLE_LEVELS
from normscope.watching.tensor_statistics import (
    bin_counts,
    by_channel,
    channel_moments,
    sample_distribution,
    sample_quantiles,
    saved_moments,
)


def tensors(max_side=6):
    sides = st.integers(1, max_side)
    return st.tuples(
        st.lists(sides, min_size=1, max_size=3),
        sides,
        sides,
        st.floats(-100, 100),
        st.booleans(),
        st.integers(0, 99),
    ).map(_tensor)


def _tensor(drawn):
    space, n, channels, offset, channels_last, seed = drawn
    x = torch.randn(n, channels, *space, generator=torch.Generator().manual_seed(seed)) + offset
    if channels_last and len(space) == 2:
        x = x.contiguous(memory_format=torch.channels_last)
    return x


@settings(deadline=None, max_examples=40)
@given(tensors())
def test_moments_are_exact_in_any_layout(x):
    mean, variance = channel_moments(by_channel(x, 1))
    exact = x.double().transpose(0, 1).flatten(1)
    std = exact.std(1, correction=0)
    ulp = torch.from_numpy(np.spacing(exact.mean(1).abs().float().numpy()))
    assert torch.all((mean - exact.mean(1)).abs() <= 1e-5 * std + 4 * ulp)
    assert torch.all(
        (variance - std.square()).abs() <= 1e-5 * (std.square() + 1e-5) + 4 * ulp * (std + ulp)
    )


@settings(deadline=None, max_examples=40)
@given(tensors())
def test_channels_stay_together(x):
    values = by_channel(x, 1)
    for channel in range(x.shape[1]):
        assert torch.equal(
            values[:, channel].flatten().sort().values, x[:, channel].flatten().sort().values
        )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(allow_nan=True, width=32), min_size=1, max_size=50))
def test_every_value_is_counted_once(values):
    counts = bin_counts(torch.tensor(values).reshape(-1, 1)).numpy()
    assert counts.sum() == len(values)
    assert counts[0] == sum(value < -BIN_LIMIT for value in values)
    assert counts[-1] == sum(not value < BIN_LIMIT for value in values)


def test_bins_are_those_of_numpy():
    values = np.linspace(-4.9, 4.9, 1001).astype(np.float32)
    counts = bin_counts(torch.from_numpy(values).reshape(-1, 1)).numpy()
    expected, _ = np.histogram(values, np.linspace(-BIN_LIMIT, BIN_LIMIT, BINS + 1))
    assert np.abs(counts[1:-1] - expected).sum() <= 2


def test_distributions_of_per_sample_statistics():
    values = torch.randn(101, 3, dtype=torch.float64)
    mean, std, low, high = sample_distribution(values)
    assert torch.allclose(mean, values.mean(0))
    assert torch.allclose(std, values.std(0, correction=0))
    assert torch.equal(torch.stack([low, high]), torch.stack([values.amin(0), values.amax(0)]))
    expected = np.quantile(values.numpy(), SAMPLE_LEVELS, axis=0, method="nearest")
    assert np.allclose(sample_quantiles(values), expected)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)], ids=repr
)
def test_saved_statistics_are_missing_where_reading_them_would_run_code(norm):
    x = torch.randn(3, 4, 2, 2, requires_grad=True)
    unpacked = []
    assert saved_moments(norm(x).grad_fn) is not None
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(1) or t):
        packed = norm(x)
        assert saved_moments(packed.grad_fn) is None
    assert saved_moments(packed.grad_fn) is None, "the hooks stay with the node"
    assert not unpacked
    with torch.no_grad():
        assert saved_moments(norm(x).grad_fn) is None
    used = norm(x)
    used.sum().backward()
    assert saved_moments(used.grad_fn) is None, "freed"


def test_synchronized_batch_norm_saves_the_statistics_of_all_processes():
    class SyncBatchNorm(torch.autograd.Function):
        """What the function of this name saves; the function itself needs a GPU."""

        @staticmethod
        def forward(ctx, x, weight, mean, invstd, count):
            ctx.save_for_backward(x, weight, mean, invstd, count)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None, None, None, None

    x = torch.randn(5, 3, requires_grad=True)
    arguments = torch.ones(3), torch.arange(3.0), torch.full((3,), 2.0), torch.tensor([5])
    saved = saved_moments(SyncBatchNorm.apply(x, *arguments).grad_fn)
    assert saved is not None
    assert torch.equal(saved.mean, arguments[1])
    assert torch.equal(saved.invstd, arguments[2])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        assert saved_moments(SyncBatchNorm.apply(x, *arguments).grad_fn) is None
