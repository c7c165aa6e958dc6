"""Activation regions from histograms, against the activations themselves and counted values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from normscope.judge.activation_regions import (
    FUNCTIONS,
    SHARE,
    active_region,
    active_words,
    inside,
    mean_derivatives,
)
from normscope.records.histogram import Histogram
from normscope.watching import active_regions

GRID = torch.linspace(-20.0, 20.0, 40001, dtype=torch.float64)  # with 0 and every kink


def _derivative(name, values):
    points = values.detach().clone().requires_grad_()
    return torch.autograd.grad(getattr(F, name)(points).sum(), points)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_are_those_of_torch(name):
    x = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    assert np.allclose(FUNCTIONS[name](x.numpy()), getattr(F, name)(x).numpy(), atol=1e-12)


def test_every_activation_that_is_traced_has_its_numbers():
    assert FUNCTIONS.keys() == set(active_regions.FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_active_region_is_where_the_derivative_is_above_a_share_of_its_largest(name):
    x = torch.linspace(-9.9987, 9.9987, 5001, dtype=torch.float64)
    slope = _derivative(name, x).abs()
    expected = (slope > SHARE * _derivative(name, GRID).abs().max()).numpy()
    found = np.any(
        [(x.numpy() > low) & (x.numpy() < high) for low, high in active_region(name)], axis=0
    )
    # within 1e-3 of an end the two may differ
    ends = [end for interval in active_region(name) for end in interval if math.isfinite(end)]
    clear = np.all(
        [np.abs(x.numpy() - end) > 1e-3 for end in ends] or [np.full(len(x), True)], axis=0
    )
    assert np.array_equal(found[clear], expected[clear])


def test_known_ends():
    assert active_region("relu") == ((0.0, math.inf),)
    assert active_region("tanh")[0][1] == pytest.approx(math.atanh(math.sqrt(1 - SHARE)))
    assert active_region("sigmoid")[0][1] == pytest.approx(2 * math.atanh(math.sqrt(1 - SHARE)))
    assert active_words("relu") == "x > 0"
    assert active_words("tanh") == "−1.32 to 1.32"


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(["relu", "sigmoid", "tanh", "gelu"]),
    mean=st.floats(-3, 3),
    std=st.floats(0.1, 3),
    seed=st.integers(0, 99),
)
def test_regions_of_a_histogram_are_those_of_its_values(name, mean, std, seed):
    values = np.random.default_rng(seed).normal(mean, std, size=(2, 20_000))
    edges = np.linspace(values.min(1), values.max(1), 801, axis=1)
    counts = np.array(
        [np.histogram(row, bins=own)[0] for row, own in zip(values, edges, strict=True)]
    )
    histogram = Histogram(edges=edges, counts=counts)
    for low, high in [(0.0, 1.0), (-1.0, 1.0), *active_region(name)]:
        exact = np.mean((values >= low) & (values <= high), axis=1)
        assert np.allclose(inside(histogram, (low, high)), exact, atol=3e-3)
    exact = [_derivative(name, torch.from_numpy(row)).mean().item() for row in values]
    assert np.allclose(mean_derivatives(histogram, name), exact, atol=3e-3)
    found_mean, found_std = histogram.moments
    assert np.allclose(found_mean, values.mean(1), atol=2e-3 * std)
    assert np.allclose(found_std, values.std(1), rtol=1e-3)
