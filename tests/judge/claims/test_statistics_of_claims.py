"""The statistics against scipy.stats, and against simulation with fixed generators."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normscope.judge.sequential import (
    PRIOR,
    critical_t,
    e_benjamini_hochberg,
    e_value,
    sign_e_value,
    sign_interval,
)
from normscope.judge.statistics import (
    LEVEL,
    PAIRED_FROM,
    compare,
    compare_signs,
    holm,
    improvement_interval,
    more_seeds,
    paired,
    probability_of_improvement,
    restricted_time,
    sign_flip,
    variation_interval,
    welch,
)

VALUES = st.lists(
    st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3)), min_size=3, max_size=9
)


@settings(deadline=None, max_examples=40)
@given(VALUES.filter(lambda values: np.std(values) > 1e-3))
def test_the_fixed_n_test_of_pairs_is_that_of_scipy(values):
    found = paired(values)
    theirs = stats.ttest_1samp(values, 0)
    assert found.fixed_interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    if found.test == "paired t":
        assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    VALUES.filter(lambda values: np.std(values) > 1e-3),
    VALUES.filter(lambda values: np.std(values) > 1e-3),
)
def test_welch_is_that_of_scipy(first, second):
    found = welch(first, second)
    theirs = stats.ttest_ind(first, second, equal_var=False)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.fixed_interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.n == min(len(first), len(second))


@settings(deadline=None, max_examples=30)
@given(VALUES.filter(lambda values: len(values) >= 6))
def test_sign_flips_are_all_tried(values):
    means = [abs(np.dot(values, signs)) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = np.mean(np.array(means) >= abs(sum(values)) - 1e-12 * np.abs(values).sum())
    assert sign_flip(values) == pytest.approx(expected)


def test_the_smallest_sign_flip_p_is_reached_when_all_signs_agree():
    for n in (5, 6, 10, 20):
        assert sign_flip(np.arange(1, n + 1)) == 2.0 ** (1 - n)
    assert sign_flip(np.ones(5)) > LEVEL > sign_flip(np.ones(6))


def test_from_six_pairs_on_the_fixed_n_test_is_the_exact_one():
    values = [1.0, 1.2, 0.9, 1.1, 1.0, 1.3]
    assert paired(values[:5]).test == "paired t"
    assert (paired(values).test, paired(values).p) == ("exact sign flip", 1 / 32)


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.1]])
def test_too_few_pairs_have_no_interval_and_no_p(values):
    for found in (paired(values), welch(values, [1.0, 2.0, 3.0])):
        assert (found.interval, found.fixed_interval, found.p, found.e) == (None,) * 4
        assert (found.n, found.sign, found.is_inside(1e9)) == (len(values), 0, False)


def test_equal_readings_are_not_exact_ones():
    assert paired([1.0] * 4).p is None, "no spread, nothing to test against"
    coarse = paired([1.0] * 4, resolution=1.0)
    assert coarse.spread == pytest.approx(1 / math.sqrt(6))
    assert coarse.p == pytest.approx(2 * stats.t.sf(1 / (coarse.spread / 2), 3))


def test_nothing_is_inside_a_margin_that_is_read_in_steps_as_wide():
    for resolution, known in ((0.05, True), (1.0, False), (2.0, False)):
        assert paired([0.0] * 9, resolution=resolution).is_inside(1.0) == known
        assert welch([0.0] * 9, [0.0] * 9, resolution=resolution).is_inside(1.0) == known
    assert more_seeds(paired([0.0] * 5, resolution=1.0), 1.0) is None


def test_intervals_of_several_settings_hold_together():
    alone, together = paired(ASCENDING), paired(ASCENDING, tests=3)
    assert together.interval[1] - together.interval[0] > alone.interval[1] - alone.interval[0]
    assert together.fixed_interval == alone.fixed_interval
    assert evidence_at_ends(together) == pytest.approx([3 / LEVEL] * 2, rel=1e-3)


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
        low, high = paired(times).fixed_interval
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
    p_values = np.array([paired(row).p for row in draws])
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
            [welch(rng.normal(size=n), rng.normal(size=second)).p for _ in range(3000)]
        )
        assert np.mean(p_values < LEVEL) < LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 3000)


def numeric_e_value(t, n):
    """Mean over N(0, PRIOR) of the noncentral t density over the central one."""
    spread = math.sqrt(PRIOR)
    effects = np.linspace(-9 * spread, 9 * spread, 2_001)
    weights = stats.norm.pdf(effects, scale=spread)
    densities = stats.nct.pdf(t, n - 1, effects * math.sqrt(n))
    return np.trapezoid(densities * weights, effects) / stats.t.pdf(t, n - 1)


def evidence_at_ends(found):
    """The e-value against each end of an interval, by numerical integration."""
    error = found.spread / math.sqrt(found.n)
    return [numeric_e_value((found.effect - end) / error, found.n) for end in found.interval]


ASCENDING = [0.1, 0.5, 1.3, 1.4, 2.0, 2.6]


@pytest.mark.parametrize("t", [0.0, -1.0, 3.0, 8.0])
@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_e_value_is_a_mean_over_its_prior(t, n):
    assert e_value(t, n, n - 1) == pytest.approx(numeric_e_value(t, n), rel=1e-3)


def test_the_interval_holds_the_differences_whose_e_value_is_below_twenty():
    found = paired(ASCENDING)
    assert evidence_at_ends(found) == pytest.approx([1 / LEVEL] * 2, rel=1e-3)
    assert e_value(critical_t(6, 5, LEVEL), 6, 5) == pytest.approx(1 / LEVEL)
    assert (found.e > 1 / LEVEL) == (found.sign != 0)


def test_arms_of_few_seeds_are_compared_as_independent_samples():
    first, second = ({seed: seed + shift for seed in range(5)} for shift in (1.0, 0.0))
    few = [{seed: arm[seed] for seed in range(4)} for arm in (first, second)]
    assert compare(*few).test == "Welch t"
    assert compare(*few, within=True).test.startswith("none"), "the differences are all the same"
    assert compare({**first, 9: 0.0}, second).n == 5, "a seed that one arm has alone is left out"
    assert compare(first, {seed + 5: x for seed, x in second.items()}).test == "Welch t"


LOOKS = 30


def first_decisions(first, second):
    """[studies, looks from 3 seeds on]: whether the rule of `compare` decides, by its closed form.

    Of [studies, LOOKS] values of two arms.
    """
    n = np.arange(1, LOOKS + 1)

    def moments(values):
        mean = values.cumsum(1) / n
        squares = (values**2).cumsum(1) - n * mean**2
        return mean, np.maximum(squares, 0)[:, 2:] / (n - 1)[2:]

    means, variances = zip(*map(moments, (first, second, first - second)), strict=True)
    n, effect = n[2:], np.abs(means[2][:, 2:])
    shares = variances[0] / n, variances[1] / n
    freedom = (shares[0] + shares[1]) ** 2 / ((shares[0] ** 2 + shares[1] ** 2) / (n - 1))
    early = e_value(effect / np.sqrt(shares[0] + shares[1]), n, freedom)
    late = e_value(effect / np.sqrt(variances[2] / n), n, n - 1)
    return np.where(n < PAIRED_FROM, early, late) > 1 / LEVEL


def mixture(rng, shape):
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 10, 1)


DRAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t3": lambda rng, shape: rng.standard_t(3, size=shape),
    "symmetric mixture": mixture,
    "uniform": lambda rng, shape: rng.random(shape),
    "skewed, both arms": lambda rng, shape: rng.exponential(size=shape),
}


def test_the_simulated_rule_is_the_one_that_judges():
    rng = np.random.default_rng(4)
    arms = rng.normal(size=(2, 20, LOOKS)) + np.array([1.5, 0.0])[:, None, None]
    simulated = first_decisions(*arms)
    for study in range(20):
        for seeds in range(3, 12):
            found = compare(*(dict(enumerate(arm[study, :seeds])) for arm in arms))
            assert bool(found.sign) == simulated[study, seeds - 3]


@pytest.mark.parametrize("kind", DRAWS)
def test_looking_after_every_seed_up_to_thirty_gives_few_false_verdicts(kind):
    rng = np.random.default_rng(12)
    arms = (DRAWS[kind](rng, (6000, LOOKS)) for _ in range(2))
    assert first_decisions(*arms).any(1).mean() < LEVEL


@pytest.mark.parametrize("scale", [0.1, 0.5, 3.0])
def test_so_it_does_where_one_arm_is_noisier(scale):
    rng = np.random.default_rng(13)
    arms = rng.normal(size=(6000, LOOKS)), scale * rng.normal(size=(6000, LOOKS))
    assert first_decisions(*arms).any(1).mean() < LEVEL


@pytest.mark.parametrize(
    ("correlation", "rate"), [(0.95, 0.018), (-0.5, 0.03), (-0.73, 0.04), (-0.95, 0.07)]
)
def test_arms_that_a_seed_moves_against_each_other_as_the_page_says(correlation, rate):
    """At three and four seeds arms are taken for independent: these are not."""
    rng = np.random.default_rng(16)
    first, own = rng.normal(size=(2, 6000, LOOKS))
    second = correlation * first + np.sqrt(1 - correlation**2) * own
    assert first_decisions(first, second).any(1).mean() == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize(("noise", "rate"), [(0.1, 0.16), (0.03, 0.60)])
def test_an_arm_that_fails_rarely_is_called_better_as_often_as_the_page_says(noise, rate):
    """Equal means: better by a tenth in nine runs of ten, worse by nine tenths in the other."""
    rng = np.random.default_rng(14)
    shape = (4000, LOOKS)
    first = np.where(rng.random(shape) < 0.1, -0.9, 0.1) + noise * rng.normal(size=shape)
    found = first_decisions(first, noise * rng.normal(size=shape)).any(1).mean()
    assert found == pytest.approx(rate, abs=0.03)


def test_one_sided_skew_is_called_a_difference_as_often_as_the_page_says():
    rng = np.random.default_rng(15)
    first = rng.exponential(size=(4000, LOOKS)) - 1
    found = first_decisions(first, 0.05 * rng.normal(size=first.shape)).any(1).mean()
    assert found == pytest.approx(0.135, abs=0.02)


@pytest.mark.parametrize(
    ("effect", "decided"), [(1, (3, 12, 36)), (2, (14, 52, 96)), (3, (37, 89, 100))]
)
def test_effects_are_found_as_often_as_the_page_says(effect, decided):
    """In percent of studies, by n = 3, 5 and 10; in standard deviations of a seed's difference."""
    rng = np.random.default_rng(16)
    first = effect * math.sqrt(2) + rng.normal(size=(4000, LOOKS))
    by_look = np.logical_or.accumulate(first_decisions(first, rng.normal(size=first.shape)), axis=1)
    assert 100 * by_look[:, [0, 2, 7]].mean(0) == pytest.approx(decided, abs=3)


def test_a_difference_as_large_as_the_margin_is_rarely_called_smaller():
    rng = np.random.default_rng(17)
    false = 0
    for _ in range(400):
        first, second = 1.0 + 0.3 * rng.normal(size=12), 0.3 * rng.normal(size=12)
        arms = [dict(enumerate(arm)) for arm in (first, second)]
        looks = ({seed: arm[seed] for seed in range(n)} for n in range(3, 13) for arm in arms)
        false += any(compare(one, other).is_inside(1.0) for one, other in zip(looks, looks))  # noqa: B905
    assert false / 400 < LEVEL


def test_following_the_advice_until_there_is_a_verdict_keeps_the_level():
    """From three seeds on, as many more as are named, again and again."""
    rng = np.random.default_rng(0)

    def ends_in_a_false_verdict():
        arms = [list(rng.normal(size=3)) for _ in range(2)]
        while len(arms[0]) <= 60:
            estimate = compare(*(dict(enumerate(arm)) for arm in arms))
            if estimate.is_inside(0.2) or estimate.sign:
                return not estimate.is_inside(0.2)
            more = more_seeds(estimate, 0.2)
            if more is None:
                return False
            for arm in arms:
                arm += list(rng.normal(size=more))
        return False

    assert np.mean([ends_in_a_false_verdict() for _ in range(600)]) < LEVEL


def test_seeds_that_settle_it_can_be_asked_for_beyond_a_margin():
    """Apart from zero already, and not yet from the margin."""
    estimate = paired([-1.2, -1.6, -1.3, -1.8])
    more = more_seeds(estimate, 1.0, apart_from=1.0)
    n = 4 + more
    ends = [
        estimate.effect + critical_t(k, k - 1, LEVEL) * estimate.spread / math.sqrt(k)
        for k in (n - 1, n)
    ]
    assert ends[1] < -1 <= ends[0]
    assert more_seeds(estimate, 1.0) < more


def test_more_seeds_settles_it_when_they_go_on_alike():
    values = [0.5, 1.5, -0.4]
    estimate = paired(values)
    n = 3 + more_seeds(estimate, 0.01)
    half = [critical_t(k, k - 1, LEVEL) * estimate.spread / math.sqrt(k) for k in (n - 1, n)]
    assert half[1] < abs(estimate.effect) <= half[0]
    assert more_seeds(paired([1.0]), 0.1) == 2
    assert more_seeds(paired([1e-9, 1.0, -1.0]), 1e-6) is None


@pytest.mark.parametrize(("wins", "losses"), [(7, 0), (5, 2), (0, 9), (30, 10)])
def test_the_sign_bet_is_a_mean_over_its_prior(wins, losses):
    shares = (np.arange(200_000) + 0.5) / 200_000
    weights = stats.beta.pdf(shares, 0.5, 0.5)
    weights /= weights.sum()
    likelihood = np.exp(wins * np.log(shares) + losses * np.log1p(-shares))
    expected = (likelihood * weights).sum() * 2 ** (wins + losses)
    assert sign_e_value(wins, losses) == pytest.approx(expected, rel=0.01)
    for end in sign_interval(wins, losses, LEVEL):
        if 0 < end < 1:
            assert sign_e_value(wins, losses, end) == pytest.approx(1 / LEVEL, rel=1e-6)


def test_signs_keep_the_level_for_any_distribution_however_often_one_looks():
    rng = np.random.default_rng(3)
    first, second = (np.sort(rng.random((2, 3000, LOOKS)), axis=0) ** 9 for _ in range(2))
    wins = (first[0] > second[0]).cumsum(1)
    n = np.arange(1, LOOKS + 1)
    table = np.array([[sign_e_value(k, max(m - k, 0)) for k in range(LOOKS + 1)] for m in n])
    assert (table[n - 1, wins] >= 1 / LEVEL).any(1).mean() < LEVEL


def test_signs_count_the_seeds_that_differ():
    first = dict(enumerate([1.0, 2.0, 3.0, 4.0]))
    found = compare_signs(first, {**first, 3: 0.0})
    assert (found.n, found.discordant, found.effect) == (4, 1, 100)
    assert compare_signs(first, first).test == "none: no seed differs"
    assert compare_signs(first, {seed + 9: 5.0 for seed in first}).effect == -100
    always = compare_signs(dict.fromkeys(range(6), 1.0), dict.fromkeys(range(6), 0.0))
    assert (more_seeds(always, 0.25), always.p) == (1, 2 / 64)


def test_newcombes_interval_solves_his_equation_and_covers():
    low, high = improvement_interval(0.8, 12, 9)
    for end in (low, high):
        size = (12 + 9) / 2 - 1
        shape = 1 + size * ((1 - end) / (2 - end) + end / (1 + end))
        variance = end * (1 - end) * shape / (12 * 9)
        assert abs(0.8 - end) / math.sqrt(variance) == pytest.approx(stats.norm.ppf(0.975))
    assert 0.5 < improvement_interval(1.0, 5, 5)[0] < 0.9
    assert 0.1 < improvement_interval(0.0, 5, 5)[1] < 0.5
    rng = np.random.default_rng(8)
    true, covered = stats.norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(500):
        arms = rng.normal(1, 1, 6), rng.normal(0, 1, 6)
        ends = improvement_interval(probability_of_improvement(*arms), 6, 6)
        covered += ends[0] <= true <= ends[1]
    assert covered / 500 > 0.92


def test_e_values_of_a_family_stand_by_their_rank():
    assert e_benjamini_hochberg([100, 41, 21, 1], LEVEL) == [True, True, False, False]
    assert e_benjamini_hochberg([100, 41, 27, 1], LEVEL) == [True, True, True, False]
    assert e_benjamini_hochberg([], LEVEL) == []
    assert e_benjamini_hochberg([19.9], LEVEL) == [False]
