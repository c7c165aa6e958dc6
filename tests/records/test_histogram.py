"""`Histogram`: one tensor's bins and several channels', with and without infinite ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normscope.records.histogram import Histogram


def test_density_of_channels_integrates_to_what_lies_in_finite_bins():
    edges = np.array([[-np.inf, 0.0, 1.0, 3.0, np.inf], [0.0, 1.0, 2.0, 3.0, 4.0]])
    histogram = Histogram(edges=edges, counts=np.array([[1, 2, 4, 3], [0, 0, 0, 0]]))
    assert histogram.n == 10
    assert histogram.density[0].tolist() == [0, 0.2, 0.2, 0]
    assert np.isnan(histogram.density[1]).all()


def test_moments_are_the_measured_ones_or_those_of_the_bins():
    edges, counts = np.linspace(0, 1, 11), np.ones(10)
    mean, std = Histogram(edges=edges, counts=counts).moments
    assert (mean, std) == (pytest.approx(0.5), pytest.approx(1 / math.sqrt(12)))
    assert Histogram(edges=edges, counts=counts, mean=3.0, std=2.0).moments == (3.0, 2.0)
    assert np.isnan(Histogram(edges=edges, counts=0 * counts).moments).all()
