"""Claims about transformers: effects planted in runs made of numbers, and a control without one."""

import dataclasses
import math
import zlib
from functools import partial

import numpy as np
import pytest
from claim_runs import EPOCHS, arms, jitter, run

from normscope.judge.claims import claims, judge_all
from normscope.judge.evidence.cells import Evidence
from normscope.judge.evidence.quantities import exponent, held_out_loss
from normscope.records.measurements import DEPTH_SIGNALS, HIDDEN_STATES

SEEDS = 6
DEPTHS = np.array([2.0, 4, 8, 16, 32])


def verdict(code, runs):
    (claim,) = (claim for claim in claims() if claim.code == code)
    return claim.judge(Evidence(runs))


def vit(seed, loss=1.0, *, norm="layer", measured=None, lowest=None, size=0.002, **spec):
    """A run that ends with a loss, jittered, and has been at `lowest` on the way."""
    made = run(norm, seed, **{"model": "vit"} | spec)
    noise = jitter(hash_of(seed, norm, *spec.values()), size)
    losses = np.linspace(2.3, loss, EPOCHS) + noise
    if lowest is not None:
        losses[EPOCHS // 2] = lowest + noise
    return dataclasses.replace(
        made, epochs=made.epochs | {"test_loss": losses}, measured=measured or {}
    )


def hash_of(*values) -> int:
    return zlib.crc32("-".join(map(str, values)).encode())


def two(first, second, seeds=SEEDS):
    return [make(seed) for seed in range(seeds) for make in (first, second)]


def warmed(post, pre):
    """Runs in which warm-up spares each placement so much."""
    return [
        vit(seed, 1.0 + spared * (not warmup), placement=placement, warmup=warmup)
        for seed in range(SEEDS)
        for placement, spared in (("post", post), ("pre", pre))
        for warmup in (0, 30)
    ]


def signals(seed, *, slope=-0.5, growth=4.0, bf16=1.0, fp32=1.0, **spec):
    rng = np.random.default_rng([seed, *spec.get("placement", "").encode()])
    noise = np.exp(0.01 * rng.standard_normal(len(DEPTHS)))
    stream = np.geomspace(1, growth, 32) * np.exp(0.01 * rng.standard_normal(32))
    values = {
        "depth": DEPTHS, "gradient": DEPTHS**slope * noise, "stream": stream,
        "moved_bf16": np.array([bf16]), "moved_fp32": np.array([fp32]),
    }  # fmt: skip
    return vit(seed, measured={DEPTH_SIGNALS: values}, **spec)


def states(seed, *, branch=1.0, ones=1.0, without=1.5, batches=1.0, **spec):
    noise = np.exp(0.01 * np.random.default_rng([seed, 7]).standard_normal())
    values = {
        "loss": np.array([1.0]), "loss_of_batches": np.array([batches * noise]),
        "loss_without": np.array([3.0, 3.0, without * noise, without * noise]),
        "branch": np.array([0.1, branch * noise, 0.2, 0.3]),
        "ones": np.full(4, ones * noise),
    }  # fmt: skip
    return vit(seed, measured={HIDDEN_STATES: values}, **spec)


def rates(with_it, without):
    """Runs that lose so much at the outer rates."""
    return [
        vit(seed, 1.0 + lost * (rate != 0.003), qk_norm=qk_norm, learning_rate=rate)
        for seed in range(SEEDS)
        for qk_norm, lost in ((True, with_it), (False, without))
        for rate in (0.001, 0.003, 0.01)
    ]


def tanh_rates(layer, dyt):
    """Runs that lose so much at the rates 0.001, 0.003 and 0.01."""
    return [
        vit(seed, 1.0 + lost, norm=norm, learning_rate=rate)
        for seed in range(SEEDS)
        for norm, losses in (("layer", layer), ("dyt", dyt))
        for rate, lost in zip((0.001, 0.003, 0.01), losses, strict=True)
    ]


def depths(layer, none):
    """Runs of which those deeper than so many blocks do not learn."""
    return [
        vit(seed, norm=norm, depth=depth, learning_rate=rate, final=0.9 if depth <= most else 0.1)
        for seed in range(SEEDS)
        for norm, most in (("layer", layer), ("none", none))
        for depth in (2, 8, 16)
        for rate in (0.001, 0.01)
    ]


def scarce(lost_by_layer, lost_by_dyt, *, dyt_learns=True, **lowest):
    """Runs that lose so much, or no less at their lowest, with an eighth of the data."""
    return [
        vit(seed, 1.0 + lost * (share < 1), norm=norm, train_share=share, epochs=round(8 / share),
            lowest=lowest.get(norm, 1.0) if share < 1 else None,
            final=0.9 if norm == "layer" or dyt_learns else 0.1)
        for seed in range(SEEDS)
        for norm, lost in (("layer", lost_by_layer), ("dyt", lost_by_dyt))
        for share in (0.125, 1.0)
    ]  # fmt: skip


def placed(make, placement, **values):
    return partial(make, placement=placement, **values)


PLANTED = {
    "C2001": (warmed(0.5, 0.0), warmed(0.0, 0.5)),
    "C2002": (
        two(placed(signals, "pre"), placed(signals, "post", slope=0.0)),
        two(placed(signals, "pre", slope=0.0), placed(signals, "post")),
    ),
    "C2003": ([signals(s, slope=-0.8) for s in range(SEEDS)],
              [signals(s, slope=-0.2) for s in range(SEEDS)]),
    "C2004": (
        two(placed(signals, "pre", growth=17), placed(signals, "post", growth=1)),
        two(placed(signals, "pre", growth=1), placed(signals, "post", growth=17)),
    ),
    "C2005": (
        two(placed(states, "pre", branch=9), placed(states, "peri", branch=1)),
        two(placed(states, "pre", branch=1), placed(states, "peri", branch=9)),
    ),
    "C2006": (two(vit, lambda s: vit(s, 1.2, norm="rms")),
              two(vit, lambda s: vit(s, 0.8, norm="rms"))),
    "C2007": ([states(s, ones=0.3, norm="rms") for s in range(SEEDS)],
              [states(s, ones=3.0, norm="rms") for s in range(SEEDS)]),
    "C2008": (two(vit, lambda s: vit(s, 1.2, norm="dyt")),
              two(vit, lambda s: vit(s, 0.8, norm="dyt"))),
    "C2009": (two(lambda s: vit(s, lowest=0.5), lambda s: vit(s, lowest=0.7, norm="dyt")),
              two(lambda s: vit(s, lowest=0.7), lambda s: vit(s, lowest=0.5, norm="dyt"))),
    "C2010": (rates(0.1, 0.8), rates(0.8, 0.1)),
    "C2011": (depths(16, 2), depths(2, 16)),
    "C2012": ([signals(s, bf16=0.0) for s in range(SEEDS)],
              [signals(s, fp32=0.0) for s in range(SEEDS)]),
    "C2013": ([states(s, norm="batch", batches=0.8) for s in range(SEEDS)],
              [states(s, norm="batch", batches=1.2) for s in range(SEEDS)]),
    "C2014": (
        two(placed(states, "pre-scaled", without=2.5), placed(states, "pre", without=1.1)),
        two(placed(states, "pre-scaled", without=1.1), placed(states, "pre", without=2.5)),
    ),
    "C2015": (scarce(0.5, 0.1), scarce(0.1, 0.5)),
    "C2017": (tanh_rates((0.5, 0.0, 0.5), (0.5, 0.4, 0.2)),
              tanh_rates((0.2, 0.3, 0.4), (0.0, 0.9, 0.9))),
    "C2016": (scarce(0.5, 0.5, layer=0.9, dyt=0.6), scarce(0.5, 0.5, layer=0.6, dyt=0.9)),
}  # fmt: skip
"""{code: runs of which the claim holds, and of which the contrary does}."""


def test_what_is_lost_over_rates_is_read_within_each_seed():
    """The noise of the best rate is in the spread of the seeds: against a mean over the seeds that
    was taken for exact, arms that did not differ had 8% false verdicts.
    """
    best = (1.0, 1.1, 0.9)
    runs = [
        vit(seed, loss, qk_norm=qk_norm, learning_rate=rate)
        for seed, lowest in enumerate(best)
        for qk_norm in (True, False)
        for rate, loss in ((0.001, 2.0), (0.003, lowest), (0.01, 2.0))
    ]
    found = verdict("C2010", runs)
    lost = {seed: (4 + lowest) / 3 - lowest for seed, lowest in enumerate(best)}
    assert found.values["True"] == pytest.approx(lost, abs=0.02)


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_effect_is_found_and_so_is_its_opposite(code):
    holds, fails = (verdict(code, runs) for runs in PLANTED[code])
    assert (holds.outcome, fails.outcome) == ("supported", "contradicted"), (holds, fails)


def test_runs_that_differ_in_their_seeds_alone_stay_undecided():
    found = verdict("C2099", [vit(seed, size=0.1) for seed in range(12)])
    assert (found.outcome, found.n, found.more_seeds) == ("cannot tell", 6, None)
    by_parity = [vit(seed, 1.0 + 0.5 * (seed % 2)) for seed in range(12)]
    assert verdict("C2099", by_parity).outcome == "supported", "a control that can fail"


def test_equal_arms_are_no_difference():
    runs = two(vit, lambda s: vit(s, norm="rms"))
    assert verdict("C2006", runs).outcome == "no difference"
    assert verdict("C2003", [signals(s) for s in range(SEEDS)]).outcome == "no difference"


def test_warmup_that_helps_both_alike_is_no_interaction():
    assert verdict("C2001", warmed(0.5, 0.5)).outcome == "no difference"


def test_a_diverged_run_counts_as_guessing_and_a_worse_loss_as_no_more():
    guess = math.log(10)
    assert held_out_loss(run("layer", 0, model="vit", status="diverged")) == pytest.approx(guess)
    assert held_out_loss(vit(0, 9.0)) == pytest.approx(guess)
    assert held_out_loss(vit(0, 9.0, lowest=1.0), best=True) == pytest.approx(1.0, abs=0.01)


def test_scarce_data_is_a_question_of_its_own():
    """The other claims are judged with all of the data, and a lower share alone is no pair."""
    runs = scarce(0.0, 0.5)
    assert verdict("C2008", runs).outcome == "no difference"
    with_less = [run for run in runs if run.spec["train_share"] < 1]
    assert verdict("C2015", with_less).outcome == "cannot tell"
    found = {each.code: each for each in judge_all(runs, "layer")}["C2015"]
    assert (found.outcome, found.n) == ("contradicted", SEEDS), "one subject"
    untaught = verdict("C2015", scarce(0.5, 0.0, dyt_learns=False))
    assert (untaught.outcome, untaught.n) == ("cannot tell", 0)
    assert "here dyt not" in untaught.needs
    assert "Loss with the smallest share, dyt, mean of 6 seeds: 1.5." in found.notes


def test_the_factor_on_embeddings_that_a_norm_has_for_itself_is_no_other_setting():
    lm = {"model": "byte-lm", "classes": [str(index) for index in range(256)]}

    def runs(scale):
        tanh = partial(vit, norm="dyt", embedding_scale=scale, **lm)
        layer = partial(vit, embedding_scale=None, **lm)
        return two(layer, lambda s: tanh(s, 1.2))

    assert verdict("C2008", runs("unit")).outcome == "supported"
    for other in ("root", None):
        assert verdict("C2008", runs(other)).n == 0, "dynamic tanh with another factor than its own"


def test_exponents_are_those_of_powers():
    assert exponent(DEPTHS, 3 * DEPTHS**-0.5) == pytest.approx(-0.5)
    assert exponent(DEPTHS, 0 * DEPTHS) is None


def test_they_are_judged_on_transformers_alone():
    codes, of_vit = ({each.code for each in judge_all(runs)} for runs in (arms(), [vit(0), vit(1)]))
    assert codes.isdisjoint(PLANTED)
    assert set(PLANTED) <= of_vit
    convolutional = {"C701", "C901", "C1101", "C1102", "C1201", "C1301", "C1302", "C1401"}
    assert convolutional <= codes
    assert convolutional.isdisjoint(of_vit)


def test_what_was_not_measured_is_asked_for():
    found = verdict("C2002", two(placed(vit, "pre"), placed(vit, "post")))
    assert found.outcome == "cannot tell"
    assert "depth-signals" in found.needs
