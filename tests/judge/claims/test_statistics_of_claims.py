"""The statistics against scipy.stats, and against simulation with fixed generators."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normscope.judge.statistics import (
    LEVEL,
    holm,
    holm_estimates,
    more_seeds,
    paired,
    probability_of_improvement,
    restricted_time,
    sign_flip,
    smallest_sign_flip_p,
    variation_interval,
    welch,
)

VALUES = st.lists(
    st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3)), min_size=3, max_size=9
)


@settings(deadline=None, max_examples=40)
@given(VALUES.filter(lambda values: np.std(values) > 1e-3), st.floats(0.01, 10))
def test_paired_t_and_equivalence_are_those_of_scipy(values, margin):
    found = paired(values, margin)
    theirs = stats.ttest_1samp(values, 0)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    if found.test == "paired t":
        assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    lower = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert found.p_equivalent == pytest.approx(max(lower, upper), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    VALUES.filter(lambda values: np.std(values) > 1e-3),
    VALUES.filter(lambda values: np.std(values) > 1e-3),
)
def test_welch_is_that_of_scipy(first, second):
    found = welch(first, second, 1.0)
    theirs = stats.ttest_ind(first, second, equal_var=False)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.n == min(len(first), len(second))


@settings(deadline=None, max_examples=30)
@given(VALUES.filter(lambda values: len(values) >= 6))
def test_sign_flips_are_all_tried(values):
    means = [abs(np.dot(values, signs)) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = np.mean(np.array(means) >= abs(sum(values)) - 1e-12 * np.abs(values).sum())
    assert sign_flip(values) == pytest.approx(expected)


def test_the_smallest_sign_flip_p_is_reached_when_all_signs_agree():
    for n in (5, 6, 10, 20):
        assert sign_flip(np.arange(1, n + 1)) == smallest_sign_flip_p(n)
    assert smallest_sign_flip_p(5) > LEVEL > smallest_sign_flip_p(6)


def test_the_exact_test_decides_from_six_pairs_on_if_it_can():
    values = [1.0, 1.2, 0.9, 1.1, 1.0, 1.3]
    assert paired(values[:5], 0.1).test == "paired t"
    assert (paired(values, 0.1).test, paired(values, 0.1).p) == ("exact sign flip", 1 / 32)
    assert paired(values, 0.1, tests=2).test == "paired t", (
        "Holm over 2 would put 1/32 above the level"
    )


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.1]])
def test_too_few_pairs_have_no_interval_and_no_p(values):
    for found in (paired(values, 0.1), welch(values, [1.0, 2.0, 3.0], 0.1)):
        assert (found.interval, found.p, found.p_equivalent, found.n) == (
            None,
            None,
            None,
            len(values),
        )


def test_equal_readings_are_not_exact_ones():
    assert paired([1.0] * 4, 0.1).p is None, "no spread, nothing to test against"
    coarse = paired([1.0] * 4, 0.1, resolution=1.0)
    assert coarse.spread == pytest.approx(1 / math.sqrt(6))
    assert coarse.p == pytest.approx(2 * stats.t.sf(1 / (coarse.spread / 2), 3))


def test_nothing_is_equivalent_that_is_read_in_steps_as_wide_as_the_margin():
    for resolution, known in ((0.5, True), (1.0, False), (2.0, False)):
        assert (paired([0.0] * 5, 1.0, resolution=resolution).p_equivalent is not None) == known
        assert (
            welch([0.0] * 5, [0.0] * 5, 1.0, resolution=resolution).p_equivalent is not None
        ) == known
    assert more_seeds(paired([0.0] * 5, 1.0, resolution=1.0), 1.0) is None


def test_settings_are_adjusted_for_equivalence_too():
    estimates = [
        paired(values, 1.0) for values in ([0.1, -0.4, 0.3], [0.0, 0.1, -0.1], [2.0, 2.1, 2.2])
    ]
    adjusted = holm_estimates(estimates)
    assert [one.p for one in adjusted] == holm([one.p for one in estimates])
    assert [one.p_equivalent for one in adjusted] == holm([one.p_equivalent for one in estimates])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p_values):
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    rejected = set()
    for rank, place in enumerate(order):
        if p_values[place] * (len(p_values) - rank) > LEVEL:
            break
        rejected.add(int(place))
    assert {place for place, p in enumerate(adjusted) if p <= LEVEL} == rejected
    assert all(one >= other for one, other in zip(adjusted, p_values, strict=True))


def test_holm_leaves_out_tests_that_were_not_made():
    assert holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]


def test_variation_interval_is_vangels_and_covers():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(2000):
        low, high = variation_interval(rng.normal(1.0, 0.2, 8))
        covered += low <= 0.2 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)
    assert variation_interval([1.0, 2.0]) is None
    assert variation_interval([-1.0, 0.0, 0.5]) is None


def test_times_beyond_the_horizon_count_as_the_horizon():
    assert [restricted_time(time, 20.0) for time in (3.5, None, 25.0)] == [3.5, 20.0, 20.0]
    rng = np.random.default_rng(
        7
    )  # exponential times watched for 1: the restricted mean is 1 - 1/e
    covered = 0
    for _ in range(1000):
        times = [
            restricted_time(time if time < 1 else None, 1.0) for time in rng.exponential(1.0, 12)
        ]
        low, high = paired(times, 0.1).interval
        covered += low <= 1 - math.exp(-1) <= high
    assert covered / 1000 == pytest.approx(0.95, abs=0.03)


def test_probability_of_improvement_is_the_rank_sum_statistic_over_all_pairs():
    first, second = [3.0, 1.0, 2.0, 2.0], [2.0, 0.0, 1.0]
    assert (
        probability_of_improvement(first, second)
        == stats.mannwhitneyu(first, second).statistic / 12
    )
    assert probability_of_improvement([], second) is None


@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_arms_that_do_not_differ_are_told_apart_at_the_nominal_rate(n):
    """A/A: both arms draw from one distribution."""
    rng = np.random.default_rng(n)
    draws = rng.normal(size=(4000, n)) - rng.normal(size=(4000, n))
    p_values = np.array([paired(row, 0.0).p for row in draws])
    rate = np.mean(p_values < LEVEL)
    error = 3 * math.sqrt(LEVEL * (1 - LEVEL) / 4000)
    assert rate < LEVEL + error
    if n < 6:
        assert rate > LEVEL - error  # the exact test is coarser and may stay below


@pytest.mark.parametrize("n", [3, 5, 10])
def test_independent_arms_that_do_not_differ_are_told_apart_at_the_nominal_rate(n):
    """A/A without pairing, also where one arm has twice the seeds."""
    rng = np.random.default_rng(n)
    for second in (n, 2 * n):
        p_values = np.array(
            [welch(rng.normal(size=n), rng.normal(size=second), 0.0).p for _ in range(3000)]
        )
        assert np.mean(p_values < LEVEL) < LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 3000)


@pytest.mark.parametrize(("n", "rate"), [(3, 0.72), (5, 0.60)])
def test_an_arm_that_fails_rarely_is_called_better_as_often_as_the_page_says(n, rate):
    """Equal means: better by a tenth in nine runs of ten, worse by nine tenths in the other."""
    rng = np.random.default_rng(n)
    differences = np.where(rng.random((3000, n)) < 0.1, -0.9, 0.1) + 0.01 * rng.normal(
        size=(3000, n)
    )
    assert np.mean([paired(row, 0.0).p < LEVEL for row in differences]) == pytest.approx(
        rate, abs=0.03
    )


@pytest.mark.parametrize("n", [3, 5])
def test_equivalence_is_falsely_found_at_the_nominal_rate_at_the_margin(n):
    rng = np.random.default_rng(n)
    found = [paired(row, 1.0).p_equivalent < LEVEL for row in rng.normal(1.0, 0.05, size=(3000, n))]
    assert np.mean(found) == pytest.approx(LEVEL, abs=0.013)


def test_following_the_advice_until_there_is_a_verdict_is_worse_than_nominal():
    """What the page of claims warns of, with its number: from three seeds on, as many more as are
    named.
    """
    rng = np.random.default_rng(0)

    def ends_in_a_false_verdict():
        values = list(rng.normal(size=3))
        while len(values) <= 60:
            estimate = paired(values, 0.2)
            if min(estimate.p, estimate.p_equivalent) < LEVEL:
                return estimate.p_equivalent >= LEVEL
            more = more_seeds(estimate, 0.2)
            if more is None:
                return False
            values += list(rng.normal(size=more))
        return False

    assert 0.12 < np.mean([ends_in_a_false_verdict() for _ in range(600)]) < 0.22


def test_seeds_that_settle_it_can_be_asked_for_beyond_a_margin():
    """Apart from zero already, and not yet from the margin."""
    estimate = paired([-1.0, -1.4, -1.1, -1.6], 1.0)
    more = more_seeds(estimate, 1.0, apart_from=1.0)
    n = 4 + more
    ends = [
        estimate.effect + stats.t.ppf(0.975, k - 1) * estimate.spread / math.sqrt(k)
        for k in (n - 1, n)
    ]
    assert ends[1] < -1 <= ends[0]
    assert more_seeds(estimate, 1.0) < more


def test_more_seeds_settles_it_when_they_go_on_alike():
    values = [0.5, 1.5, -0.4]
    estimate = paired(values, 0.01)
    more = more_seeds(estimate, 0.01)
    n = 3 + more
    half = [stats.t.ppf(0.975, k - 1) * estimate.spread / math.sqrt(k) for k in (n - 1, n)]
    assert half[1] < abs(estimate.effect) <= half[0]
    assert more_seeds(paired([1.0], 0.1), 0.1) == 2
    assert more_seeds(paired([1e-9, 1.0, -1.0], 1e-6), 1e-6) is None
