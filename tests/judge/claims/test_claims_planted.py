"""Every claim finds an effect planted in hand-made runs, and its opposite, or cannot tell."""

import dataclasses

import numpy as np
import pytest
from claim_runs import arms, describe, jitter, run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from normscope.errors import InputError
from normscope.judge.claim_kinds import TransformerClaim
from normscope.judge.claims import claims, judge_all
from normscope.judge.claims.distributions import between, to_normal
from normscope.judge.evidence.cells import Evidence
from normscope.judge.statistics import variation_interval


def verdict(code, runs, **options):
    return next(claim for claim in claims() if claim.code == code).judge(Evidence(runs, **options))


def captured(seed, start, end, shift=0.0):
    """Captures at two epochs: normal values of these spreads, a ReLU for the block output."""
    rng = np.random.default_rng(seed)
    found = {}
    for epoch, spread in ((1, start), (10, end)):
        values = rng.normal(shift, spread, 4000)
        found |= {
            ("normalized", epoch): describe(values),
            ("before_activation", epoch): describe(values),
        }
        found["block_output", epoch] = describe(np.maximum(values, 0))
    return found


def with_captures(batch, none, seeds=4, **spec):
    return [
        run(
            norm, seed, captures=captured(10 * seed + k, *spreads), final=0.9 + jitter(seed), **spec
        )
        for seed in range(seeds)
        for k, (norm, spreads) in enumerate((("batch", batch), ("none", none)))
    ]


def over(knob, finals, seeds=4, **spec):
    """{norm: {value: final accuracy}} as runs; None is a diverged one."""
    return [
        run(norm, seed, status="diverged" if final is None else "finished",
            final=(final or 0.1) + jitter(seed + 7 * k), **spec | {knob: value})
        for seed in range(seeds)
        for k, (norm, values) in enumerate(finals.items())
        for value, final in values.items()
    ]  # fmt: skip


RATES = {0.01: 0.9, 0.1: 0.9, 1.0: 0.9}
NARROW = {0.01: 0.6, 0.1: 0.9, 1.0: None}

PLANTED = {  # code: runs for which it holds, runs for which it does not
    "C101": (arms(batch={"speed": 2.0}, none={"speed": 0.3}),
             arms(batch={"speed": 0.3}, none={"speed": 2.0})),
    "C201": (arms(batch={"final": 0.95}), arms(batch={"final": 0.80})),
    "C202": (
        over("learning_rate", {"batch": {0.1: 0.95, 1.0: 0.2}, "none": {0.1: 0.3, 1.0: 0.9}}),
        over("learning_rate", {"batch": {0.1: 0.9, 1.0: 0.2}, "none": {0.1: 0.3, 1.0: 0.95}}),
    ),
    "C401": (with_captures((1, 1), (3, 3)), with_captures((3, 3), (1, 1))),
    "C403": (with_captures((1, 1.2), (1, 4)), with_captures((1, 4), (1, 1.2))),
    "C404": (with_captures((1, 1), (1, 4)), with_captures((1, 4), (1, 1))),
    "C601": (
        over("initialization_scale",
             {"batch": {0.1: 0.9, 1.0: 0.91}, "none": {0.1: None, 1.0: 0.9}}),
        over("initialization_scale",
             {"batch": {0.1: None, 1.0: 0.91}, "none": {0.1: 0.9, 1.0: 0.91}}),
    ),
    "C701": (
        with_captures((1, 1), (5, 5), activation="tanh"),
        with_captures((5, 5), (1, 1), activation="tanh"),
    ),
    "C1301": (
        over("batch_size", {"batch": {2: 0.5, 128: 0.9}, "group": {2: 0.88, 128: 0.9}}),
        over("batch_size", {"batch": {2: 0.88, 128: 0.9}, "group": {2: 0.5, 128: 0.9}}),
    ),
    "C1302": (
        over("batch_size", {"batch": {2: 0.5, 128: 0.9}, "layer": {2: 0.88, 128: 0.9}}),
        over("batch_size", {"batch": {2: 0.88, 128: 0.9}, "layer": {2: 0.5, 128: 0.9}}),
    ),
    "C1401": (
        over("block", {"batch": {None: 0.95, "pre-activation": 0.97, "after-activation": 0.8}}),
        over("block", {"batch": {"post-activation": 0.85, "after-activation": 0.9}}),
    ),
    "C207": (
        over("blocks_per_stage", {"batch": {None: 0.9, 8: 0.89}, "none": {2: 0.9, 8: 0.4}}),
        over("blocks_per_stage", {"batch": {2: 0.9, 8: 0.4}, "none": {2: 0.9, 8: 0.89}}),
    ),
    "C1701": (over("train", {"batch": {"norms": 0.5, "classifier": 0.1}}),
              over("train", {"batch": {"norms": 0.15, "classifier": 0.9}})),
    "C1702": (over("train", {"batch": {"norms": 0.5, "classifier": 0.4, "all": 0.3}}),
              over("train", {"batch": {"norms": 0.5, "classifier": 0.9, "all": 0.9}})),
}  # fmt: skip

for code, (better, worse) in {
    "C205": ("batch", "skipinit"),
    "C206": ("skipinit", "none"),
    "C1601": ("ghost-batch", "batch"),
}.items():
    PLANTED[code] = tuple(
        over("batch_size", {better: {128: one}, worse: {128: other}})
        for one, other in ((0.95, 0.9), (0.9, 0.95))
    )


def with_norms_of_weights(**exponents):
    """{norm: exponent of the learning rate in the norm of the weights}."""
    runs = over("learning_rate", {norm: {0.01: 0.9, 0.1: 0.9} for norm in exponents})
    return [
        dataclasses.replace(one, epochs=one.epochs | {"convolution_norm": np.full(
            10, 3 * one.learning_rate ** (exponents[one.norm] + jitter(one.seed, 0.01)))})
        for one in runs
    ]  # fmt: skip


PLANTED["C1503"] = (
    with_norms_of_weights(batch=0.3, none=0.0), with_norms_of_weights(batch=0.0, none=0.3)
)  # fmt: skip


def test_the_exponent_of_the_effective_rate_is_one_minus_twice_that_of_the_norm():
    assert verdict("C1503", PLANTED["C1503"][0]).effect == pytest.approx(-0.6, abs=0.03)
    dead = [
        one if one.learning_rate < 0.1 or one.norm == "batch" else run("none", one.seed, final=0.1)
        for one in PLANTED["C1503"][0]
    ]
    assert verdict("C1503", dead).effect is None, "one rate at which it learned has no slope"


def test_exponents_are_read_at_the_rates_at_which_both_arms_learn():
    """At a rate of 1 batch norm alone learns, and there its weights grow much more."""
    alone = [
        dataclasses.replace(
            run(norm, seed, final=final, learning_rate=1.0),
            epochs=run().epochs | {"convolution_norm": np.full(10, 1000.0)},
        )
        for seed in range(4)
        for norm, final in (("batch", 0.9), ("none", 0.1))
    ]
    assert verdict("C1503", PLANTED["C1503"][0] + alone).effect == pytest.approx(-0.6, abs=0.03)


def test_claims_about_whole_networks_leave_out_those_that_are_trained_in_part():
    whole = over(
        "train", {norm: {"all": final} for norm, final in (("batch", 0.95), ("none", 0.9))}
    )
    part = over("train", {"batch": {"norms": 0.3}, "none": {"classifier": 0.9}})
    assert verdict("C201", whole + part).effect == verdict("C201", whole).effect


PLANTED["C501"] = PLANTED["C502"] = (
    over("learning_rate", {"batch": RATES, "none": NARROW}),
    over("learning_rate", {"batch": NARROW, "none": RATES}),
)


def test_a_rate_is_allowed_if_the_network_learns_at_it_however_well():
    """At the highest rate it trains, far below its best: not tolerated, and yet allowed."""
    runs = over("learning_rate", {"batch": {**RATES, 1.0: 0.6}, "none": {**RATES, 1.0: 0.1}})
    found = verdict("C502", runs)
    assert (found.outcome, found.effect) == ("supported", pytest.approx(1.0))
    assert found.also[0].effect == pytest.approx(0.0)


def gradients(batch, none):
    """Runs whose gradients differ, with a spread over seeds."""
    return [
        run(
            norm,
            seed,
            **{name: value * np.exp(jitter(seed + k, 0.05)) for name, value in given.items()},
        )
        for seed in range(4)
        for k, (norm, given) in enumerate((("batch", batch), ("none", none)))
    ]


PLANTED["C503"] = tuple([dataclasses.replace(one,
                                             spec=one.spec | {"batch_size": 16}) for one in runs]
                        for runs in PLANTED["C502"])  # fmt: skip
PLANTED["C301"] = (
    gradients({"noise": 0.2}, {"noise": 0.6}),
    gradients({"noise": 0.6}, {"noise": 0.2}),
)


def with_column(runs, norm, **columns):
    return [
        dataclasses.replace(one,
                            epochs=one.epochs | {name: change(one) for name,
                                                 change in columns.items()})
        if one.norm == norm else one
        for one in runs
    ]  # fmt: skip


def erratic(norm):
    def change(one):
        return np.geomspace(1.0, 9.0 + 0.3 * one.seed, 10)

    return with_column(arms(), norm, stem_gradient=change)


PLANTED["C302"] = erratic("none"), erratic("batch")


FAILING = {"final": 0.11}
BY_SIGN = {
    "C203": (arms(8, none=FAILING), arms(8, batch=FAILING)),
    "C204": (arms(8, batch={"final": 0.95}), arms(8, none={"final": 0.95})),
}


@pytest.mark.parametrize("code", BY_SIGN)
def test_what_is_decided_by_signs_takes_seven_seeds(code):
    holds, fails = (verdict(code, runs) for runs in BY_SIGN[code])
    assert (holds.outcome, fails.outcome) == ("supported", "contradicted")
    assert (holds.effect, fails.effect) == (100, -100)
    assert 0 < holds.interval[0] < holds.interval[1] == 100
    six = verdict(code, [one for one in BY_SIGN[code][0] if one.seed < 6])
    assert (six.outcome, six.needs) == ("cannot tell", "1 more seed, if they go on like these")


def test_of_arms_that_learn_alike_the_seeds_say_nothing_of_which_learns_more_often():
    found = verdict("C203", arms(8))
    assert (found.outcome, found.e) == ("cannot tell", None)
    assert found.needs == "seeds at which the arms differ: here there is none"


def test_one_seed_that_fails_leaves_a_mean_open_and_not_the_order_of_the_runs():
    """The landscape study of the referee: better in five seeds of five, one of them failed."""
    finals = (
        [98.6, 98.6, 98.0, 99.4, 98.6, 98.5, 98.7],
        [90.1, 81.7, 73.5, 85.6, 39.2, 88.0, 86.0],
    )
    runs = [
        run(norm, seed, final=final / 100)
        for norm, values in zip(("batch", "none"), finals, strict=True)
        for seed, final in enumerate(values)
    ]
    assert verdict("C201", runs).outcome == "cannot tell"
    assert verdict("C204", runs).outcome == "supported"
    assert verdict("C201", runs).improvement == 1.0
    assert verdict("C201", runs).improvement_interval[0] > 0.5


@pytest.mark.parametrize("finals", [(0.18, 0.11), (0.9, 0.11), (0.11, 0.9)])
def test_an_accuracy_is_judged_where_both_arms_learn(finals):
    """At guessing a difference of three points is none of accuracy, however sure it is."""
    batch, none = finals
    found = verdict("C201", arms(6, batch={"final": batch}, none={"final": none}))
    assert (found.outcome, found.effect) == ("cannot tell", None)
    assert found.needs.startswith("a setting at which batch and none learn")


def test_of_two_networks_at_guessing_neither_is_the_more_accurate_one():
    """Nine seeds of nine at 12% against 10% of ten classes; a rate at which one learns counts."""
    dead = over("learning_rate", {"batch": {1.0: 0.12}, "none": {1.0: 0.1}}, seeds=9)
    at_chance = verdict("C204", dead)
    assert (at_chance.outcome, at_chance.effect) == ("cannot tell", None)
    assert at_chance.needs.startswith("a setting at which batch and none learn")
    found = verdict(
        "C204", dead + over("learning_rate", {"batch": {0.1: 0.1}, "none": {0.1: 0.9}}, seeds=9)
    )
    assert (found.outcome, found.values["none"][0] > 80) == ("contradicted", True)


def test_a_rate_at_which_one_arm_is_dead_is_not_averaged_into_the_accuracy():
    runs = over("learning_rate", {"batch": {0.1: 0.92, 1.0: 0.9}, "none": {0.1: 0.9, 1.0: 0.11}})
    found = verdict("C201", runs)
    assert found.effect == pytest.approx(2, abs=0.5)
    assert found.notes[0] == "Left out, as the network did not learn there: lr 1 (none)."


def test_a_setting_of_the_other_sign_is_named_before_it_is_significant():
    runs = [
        run(norm, seed, final=0.7 + shift + jitter(11 * seed + k, 0.015), learning_rate=rate)
        for seed in range(6)
        for k, norm in enumerate(("batch", "none"))
        for rate, shift in ((0.01, 0.19 * (k == 0)), (0.1, 0.02 * (k == 1)))
    ]
    found = verdict("C201", runs)
    assert [reading.outcome for reading in found.settings] == ["supported", "cannot tell"]
    assert found.words == "supported (on average; the sign turns at lr 0.1)"


def test_an_effect_inside_the_margin_is_negligible_and_its_sign_is_said():
    runs = [
        run(norm, seed, final=0.9 + 0.002 * (norm == "batch") + jitter(seed + 9 * k, 1e-5))
        for seed in range(6)
        for k, norm in enumerate(("batch", "none"))
    ]
    fine = [dataclasses.replace(one, meta={}) for one in runs]  # no step of 1 in 1,000 images
    found = verdict("C201", fine)
    assert (found.outcome, found.words) == ("negligible", "negligible (above 0)")


def test_an_effect_is_planted_for_every_claim():
    measured = {
        "C1201",
        "C801",
        "C901",
        "C902",
        "C903",
        "C1303",
    }  # in _measured.py, _batch_statistics.py
    measured |= {f"C100{number}" for number in range(1, 7)}  # in test_claims_landscape.py
    measured |= {"C1101", "C1102"}
    measured |= {
        "C305",
        "C405",
        "C904",
        "C905",
        "C906",
        "C1501",
        "C1502",
        "C1504",
    }  # test_claims_initialization.py
    others = {claim.code for claim in claims() if not isinstance(claim, TransformerClaim)}
    assert others == set(PLANTED) | set(BY_SIGN) | measured  # C20xx: test_claims_transformers.py


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_effect_is_found_and_so_is_its_opposite(code):
    holds, fails = (verdict(code, runs) for runs in PLANTED[code])
    assert (holds.outcome, fails.outcome) == ("supported", "contradicted"), (holds, fails)
    assert holds.n == 4
    assert holds.interval[0] < holds.effect < holds.interval[1]
    assert not holds.interval[0] <= holds.neutral <= holds.interval[1]
    assert (holds.improvement, fails.improvement) == (1.0, 0.0)
    assert all(set(values) == {0, 1, 2, 3} for values in holds.values.values())
    assert holds.needs == ""


@pytest.mark.parametrize("code", PLANTED)
def test_without_its_runs_a_claim_says_which_it_needs(code):
    found = verdict(code, [run("batch", seed, status="interrupted") for seed in range(3)])
    assert found.outcome == "cannot tell"
    assert found.effect is None
    assert "runs with" in found.needs


@pytest.mark.parametrize("code", PLANTED)
def test_one_seed_is_never_enough(code):
    found = verdict(code, [one for one in PLANTED[code][0] if one.seed == 0])
    assert found.outcome == "cannot tell"
    assert "more seed" in found.needs or "runs with" in found.needs


@settings(deadline=None, max_examples=15)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_runs_does_not_matter(random):
    for code in ("C101", "C202", "C501"):
        runs = [*PLANTED["C501"][0]]
        expected = verdict(code, runs).to_json()
        random.shuffle(runs)
        assert verdict(code, runs).to_json() == expected


def test_no_difference_is_said_within_the_margin_only():
    assert verdict("C201", arms(12, batch={"final": 0.9001})).outcome == "no difference"
    noisy = [
        run(norm, seed, final=0.9 + jitter(10 * seed + k, 0.05))
        for seed in range(4)
        for k, norm in enumerate(("batch", "none"))
    ]
    assert verdict("C201", noisy).outcome == "cannot tell"


def test_a_run_that_never_gets_there_counts_as_all_epochs():
    runs = arms(none={"speed": 0.3})
    slow = next(one for one in runs if one.norm == "batch" and one.seed == 2)
    runs[runs.index(slow)] = run("batch", 2, final=0.5)
    assert verdict("C101", runs).values["batch"][2] == 10.0


def test_diverged_runs_count_as_guessing_and_are_not_left_out():
    runs = arms()
    for place, one in enumerate(runs):
        if one.norm == "none" and one.seed == 1:
            runs[place] = run("none", 1, status="diverged")
    assert verdict("C201", runs).values["none"][1] == pytest.approx(10.0)


def test_settings_that_say_the_opposite_leave_a_claim_open_and_are_named():
    runs = over("learning_rate", {"batch": {0.1: 0.90, 1.0: 0.9}, "none": {0.1: 0.95, 1.0: 0.4}})
    found = verdict("C201", runs)
    assert found.outcome == "cannot tell"
    assert "contradicted at lr 0.1" in found.needs
    assert [(reading.label, reading.outcome) for reading in found.settings] == [
        ("lr 0.1", "contradicted"), ("lr 1", "supported"),
    ]  # fmt: skip


def test_an_arms_own_rate_is_one_for_all_its_seeds():
    """Chosen for each seed by the others, rates that do as well gave 20 to 34% false verdicts."""
    finals = {0.1: (0.9, 0.8, 0.84), 1.0: (0.8, 0.9, 0.82)}
    runs = [
        run(norm, seed, final=final, learning_rate=rate)
        for norm in ("batch", "none")
        for rate, of in finals.items()
        for seed, final in enumerate(of)
    ]
    assert verdict("C202", runs).values["batch"] == pytest.approx({0: 90, 1: 80, 2: 84}, abs=0.01)


def test_a_range_of_rates_that_differs_by_a_step_of_the_grid_may_be_as_wide():
    """From 0.009 to 0.11 and from 0.011 to 0.13: every seed sees two rates and one."""
    wider, narrower = {0.01: 0.9, 0.1: 0.9, 1.0: 0.6}, {0.01: 0.6, 0.1: 0.9, 1.0: 0.6}
    found = verdict("C501", over("learning_rate", {"batch": wider, "none": narrower}, seeds=12))
    assert (found.outcome, found.effect) == ("cannot tell", pytest.approx(1.0))
    assert found.needs == "finer steps: it is read in steps of 1 decades, which is too coarse"


def test_a_seed_without_all_rates_does_not_count_for_the_sweep():
    runs = [
        one
        for one in PLANTED["C501"][0]
        if (one.norm, one.seed, one.learning_rate) != ("none", 3, 1.0)
    ]
    assert verdict("C501", runs).n == 3


def test_a_setting_that_was_just_begun_does_not_hide_the_finished_ones():
    runs = [*arms(), run("batch", 0, learning_rate=1.0), run("none", 0, learning_rate=1.0)]
    found = verdict("C201", runs)
    assert found.n == 4
    assert any("Left out" in note and "lr 1" in note for note in found.notes)


def test_what_is_varied_for_one_claim_does_not_decide_another():
    runs = arms(batch={"final": 0.95}) + arms(
        batch={"final": 0.2}, none={"final": 0.9}, initialization_scale=10.0
    )
    found = verdict("C201", runs)
    assert found.outcome == "supported"
    assert found.notes == (
        "Judged at initialization scale 1 only; other values are in this study for other claims.",
    )
    assert verdict("C601", runs).outcome == "contradicted"
    assert verdict("C601", runs).notes == ()
    only = arms(batch={"final": 0.4}, none={"final": 0.9}, initialization_scale=10.0)
    assert verdict("C201", only).outcome == "contradicted"


@pytest.mark.parametrize("code", ["C301", "C302", "C701", "C401", "C403", "C404"])
def test_gradients_and_distributions_are_judged_where_both_learn(code):
    """A network that died at a rate that is too high for it says nothing of normalization, and
    would decide a mean.
    """
    dead = [
        one for one in with_captures((1, 1), (90, 90), learning_rate=1.0) if one.norm == "batch"
    ]
    dead += [run("none", seed, final=0.11, gradient=1e-9, learning_rate=1.0) for seed in range(4)]
    alive = with_captures((1, 1.2), (3, 9))
    found, alone = verdict(code, alive + dead), verdict(code, alive)
    assert (found.effect, found.n) == (alone.effect, alone.n)
    assert found.notes[0] == "Left out, as the network did not learn there: lr 1 (none)."
    nowhere = verdict(code, dead)
    assert (nowhere.outcome, nowhere.effect) == ("cannot tell", None)
    assert nowhere.needs == "a setting at which batch and none learn: here none not"


def test_of_a_setting_at_which_both_learn_a_seed_that_did_not_is_counted_out():
    runs = [
        run("none", 0, final=0.11, gradient=1e-9) if (one.norm, one.seed) == ("none", 0) else one
        for one in arms(5)
    ]
    found = verdict("C301", runs)
    assert found.n == 4
    assert found.notes == (
        "1 of 5 seeds of none give no value, 1 of them did not learn: the verdict is on the "
        "others.",
    )
    assert verdict("C201", runs).n == 5


def test_what_stands_beside_a_verdict_is_of_the_same_settings():
    dead = [
        run(norm, seed, final=0.11, learning_rate=1.0)
        for seed in range(4)
        for norm in ("batch", "none")
    ]
    alive = arms(batch={"speed": 2.0})
    alone, both = verdict("C101", alive), verdict("C101", alive + dead)
    assert [reading.effect for reading in both.also] == [reading.effect for reading in alone.also]


def test_the_step_of_a_grid_is_that_of_the_setting():
    """Other runs of the study, in steps that are finer, do not make these finer."""
    coarse = over("learning_rate", {"batch": RATES, "none": RATES}, batch_size=16)
    other = [run("batch", 0, learning_rate=rate) for rate in np.geomspace(0.01, 1.0, 20)]
    assert "in steps of 1 decades" in verdict("C503", coarse + other).needs


def test_a_run_has_an_interval_of_its_own():
    found = verdict("C302", PLANTED["C302"][0])
    own = variation_interval(PLANTED["C302"][0][0].column("stem_gradient"))
    assert found.notes[0].startswith(
        f"batch seed 0: {own[0]:.2f} to {own[1]:.2f} (95% interval of this run alone"
    )
    assert len(found.notes) == 2


def test_what_is_read_in_steps_as_wide_as_the_margin_is_never_no_difference():
    """Rates half a decade apart: equal readings of all seeds leave half a decade open."""
    found = verdict("C502", over("learning_rate", {"batch": RATES, "none": RATES}))
    assert found.outcome == "cannot tell"
    assert found.needs == "finer steps: it is read in steps of 1 decades, which is too coarse"
    tolerance = verdict("C501", over("learning_rate", {"batch": RATES, "none": RATES}))
    assert "batch: 4 of 4 seeds tolerate the highest rate of the study." in tolerance.notes


def test_small_batches_are_judged_apart():
    small = PLANTED["C503"][0]
    large = PLANTED["C502"][1]
    assert verdict("C503", small + large).outcome == "supported"
    assert verdict("C502", small + large).outcome == "cannot tell"
    assert verdict("C503", large).outcome == "cannot tell"


def test_an_arm_that_never_learns_does_not_depend_less_on_its_initialization():
    runs = over(
        "initialization_scale", {"batch": {0.1: 0.1, 1.0: 0.1}, "none": {0.1: 0.5, 1.0: 0.9}}
    )
    assert verdict("C601", runs).outcome == "cannot tell"


def test_the_sizes_of_batches_are_in_the_notes():
    (note,) = verdict("C1301", PLANTED["C1301"][0]).notes
    assert note.startswith("Batch sizes: 2 against 128, at one learning rate")


def test_a_run_that_gets_there_and_diverges_has_not_got_there():
    runs = arms(none={"final": 0.5})
    runs[0] = run("batch", 0, status="diverged", speed=5.0)
    assert verdict("C101", runs).values["batch"][0] == 10.0


def test_the_largest_effect_there_can_be_is_found_though_all_seeds_say_the_same():
    runs = [
        run(norm, seed, final=final, speed=50.0)
        for seed in range(4)
        for norm, final in (("batch", 0.9), ("none", 0.6))
    ]
    late = with_column(runs, "none", test_accuracy=lambda _: np.r_[np.full(9, 0.1), 0.6])
    assert verdict("C101", late).outcome == "supported"


def test_runs_that_give_no_value_are_counted_for_the_reader():
    """Stable gradients of the runs that did not diverge are no merit of their arm."""
    runs = [
        run("none", 0, status="diverged") if (one.norm, one.seed) == ("none", 0) else one
        for one in arms(5)
    ]
    found = verdict("C301", runs)
    assert found.n == 4
    assert found.notes == (
        "1 of 5 seeds of none give no value, 1 of them diverged: the verdict is on the others.",
    )
    assert verdict("C201", runs).notes == (), "there a diverged run counts as guessing"


def test_runs_that_failed_are_counted_for_the_reader():
    runs = [one for one in arms(8) if one.norm == "batch"]
    runs += [run("none", s, final=0.95, status="failed" if s % 2 else "finished") for s in range(8)]
    found = verdict("C201", runs)
    assert found.n == 4
    lost = "4 of 8 runs of none failed and count for nothing: the verdict is on the others."
    assert lost in found.notes


def test_arms_without_seeds_in_common_are_compared_unpaired():
    runs = [run("batch", s, final=0.95 + jitter(s)) for s in range(4)]
    runs += [run("none", s, final=0.85 + jitter(s)) for s in range(4, 8)]
    found = verdict("C201", runs)
    assert (found.outcome, found.test, found.n) == ("supported", "Welch t", 4)


def test_arms_with_few_seeds_in_common_show_the_values_that_were_compared():
    runs = [run("batch", s, final=0.95 + jitter(s)) for s in range(4)]
    runs += [run("none", s, final=0.85 + jitter(s)) for s in range(3, 7)]
    found = verdict("C201", runs)
    assert found.test == "Welch t"
    assert {arm: set(values) for arm, values in found.values.items()} == {
        "batch": {0, 1, 2, 3},
        "none": {3, 4, 5, 6},
    }


def test_other_arms_can_be_named_and_data_sets_are_judged_apart():
    runs = arms() + [run("group", s, final=0.8 + jitter(s + 3)) for s in range(4)]
    assert verdict("C201", runs, reference="group").outcome == "supported"
    own = [run("mine:norm", s, final=0.8 + jitter(s + 3), norm_code="c0de") for s in range(4)]
    assert verdict("C201", arms(norm_code="") + own, reference="mine:norm").outcome == "supported"
    both = runs + [run("batch", s, data="cifar10", data_fingerprint="beef") for s in range(4)]
    judged = [claim for claim in claims() if claim.concerns(Evidence(both))]
    assert len(judge_all(both)) == 2 * len(judged)
    halves = runs + [run("batch", s, data_fingerprint="beef1234567") for s in range(4)]
    assert {found.subject for found in judge_all(halves)} == {
        "small-resnet on digits, 10 epochs, data f00d",
        "small-resnet on digits, 10 epochs, data beef1234",
    }
    with pytest.raises(InputError, match="no run"):
        judge_all([])


def test_nothing_is_claimed_of_arms_that_do_not_differ():
    """A/A over whole verdicts: the share of false ones stays about the level."""
    rng = np.random.default_rng(11)
    false = 0
    for _ in range(150):
        finals = 0.9 + 0.02 * rng.standard_normal((4, 2))
        runs = [
            run(norm, s, final=finals[s, k])
            for s in range(4)
            for k, norm in enumerate(("batch", "none"))
        ]
        false += verdict("C201", runs).outcome in ("supported", "contradicted")
    assert false <= 14  # 7.5 expected


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (1.0, 1.0), (0.0, 3.0), (-2.0, 0.5)])
def test_distance_to_normal_is_that_of_the_values(mean, spread):
    values = np.random.default_rng(0).normal(mean, spread, 100_000)
    normal = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    expected = stats.wasserstein_distance(values, normal)
    assert to_normal(describe(values)) == pytest.approx(expected, abs=0.03)


def test_exact_zeros_are_a_step_and_distances_between_captures_follow_scipy():
    rng = np.random.default_rng(1)
    first, second = (
        np.maximum(rng.normal(0, 1, 50_000), 0),
        np.maximum(rng.normal(0.5, 2, 50_000), 0),
    )
    normal = stats.norm.ppf((np.arange(50_000) + 0.5) / 50_000)
    assert to_normal(describe(first)) == pytest.approx(
        stats.wasserstein_distance(first, normal), abs=0.02
    )
    assert between(describe(first), describe(second)) == pytest.approx(
        stats.wasserstein_distance(first, second), abs=0.03
    )
    assert between(describe(first), describe(first)) == 0


def test_a_default_and_its_name_are_one_setting_and_what_was_measured_counts():
    """Six seeds of one setting, three of them trained a second time under its name."""
    measured = {"evaluation": {"size": np.array([8, 1000]), "batch": np.array([0.8, 0.9])}}
    named = {"block": "post-activation", "widths": [16, 32, 64], "blocks_per_stage": 2}
    runs = arms(6, widths=None, blocks_per_stage=None)
    runs = [
        dataclasses.replace(one, measured=measured) if one.norm == "batch" else one for one in runs
    ]
    again = arms(3, **named)
    for both in (runs + again, again + runs):
        assert verdict("C201", both).n == 6
        assert verdict("C201", both).settings == ()
        assert verdict("C902", both).n == 6
