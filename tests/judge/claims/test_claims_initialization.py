"""Claims about networks before training and about corrupted images: measured, against theory."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from claim_runs import jitter, run
from torch import nn

from normscope.judge.claims import claims
from normscope.judge.evidence.cells import Evidence
from normscope.models.norms import resolve_norm
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import lay_out
from normscope.studies.measurements import initialization_measurement
from normscope.studies.measurements.initialization_measurement import (
    WIDTH,
    decay_as_rate,
    initialization,
    through_depth,
)
from normscope.studies.measurements.run_context import RunContext
from normscope.studies.study_plans import GridPlan


def verdict(code, runs):
    (claim,) = (claim for claim in claims() if claim.code == code)
    return claim.judge(Evidence(runs))


def deep(norm, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(128, 64, generator=generator)
    return through_depth(images, resolve_norm(norm), generator)


def growth(gradient):
    return math.exp(-np.polyfit(np.arange(len(gradient)), np.log(gradient), 1)[0])


def test_gradients_grow_by_the_factor_that_theory_gives():
    assert growth(deep("batch")["gradient"]) == pytest.approx(
        math.sqrt(math.pi / (math.pi - 1)), abs=0.02
    )
    assert growth(deep("none")["gradient"]) == pytest.approx(1.0, abs=0.02)


def test_hidden_vectors_become_parallel_without_normalization():
    batch, none = (deep(norm)["rank"] for norm in ("batch", "none"))
    assert none[-1] < 1.5 < none[0]
    assert batch[-1] > 3 * none[-1]


def test_the_gradient_at_a_layer_is_autograds():
    """Of the last layer: that of a sum of outputs weighted at random, through one ReLU."""
    found = deep("none")
    assert found["gradient"][-1] == pytest.approx(math.sqrt(128 * WIDTH), rel=0.02)


def test_the_measurement_draws_no_random_number_of_others(tmp_path):
    plan = GridPlan({"data": "digits", "seeds": 1, "epochs": 1, "learning_rates": (0.1,),
                     "widths": (8, 8), "blocks_per_stage": 1, "device": "cpu"})  # fmt: skip
    grid = lay_out(plan.options({}))
    found = {}
    for spec in grid.specs:
        state = torch.random.get_rng_state()
        context = RunContext(spec, grid.dataset, RunDirectory(tmp_path))
        found[spec.norm] = initialization(context)
        again = initialization(context)
        assert all(np.array_equal(found[spec.norm][name], again[name]) for name in again)
        assert torch.equal(torch.random.get_rng_state(), state)
        model = context.fresh()
        assert len(again["cosine"]) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert np.median(found["batch"]["cosine"]) < 0.01 * np.median(found["none"]["cosine"])


def test_weight_decay_is_a_rising_rate_with_batch_normalization_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(initialization_measurement, "DECAY_STEPS", 12)
    plan = GridPlan({"data": "digits", "seeds": 1, "epochs": 1, "learning_rates": (0.05,),
                     "widths": (4, 4), "blocks_per_stage": 1, "device": "cpu"})  # fmt: skip
    grid = lay_out(plan.options({}))
    share = {}
    for spec in grid.specs:
        found = decay_as_rate(RunContext(spec, grid.dataset, RunDirectory(tmp_path)))
        assert (found["moved"] > 1e-4).all(), "decay changed nothing that could be explained"
        share[spec.norm] = np.median(found["unexplained"] / found["moved"])
    assert share["batch"] < 0.05 < 0.3 < share["none"]


def planted(code, batch, none):
    def arrays(value, shake):
        value = value * math.exp(shake)
        return {
            "C305": {"initialization": {"gradient": value ** -np.arange(10.0)}},
            "C405": {"initialization": {"rank": np.array([9.0, value])}},
            "C1501": {"initialization": {"cosine": np.array([value / 2, value, value * 2])}},
            "C1502": {"weights": {"growth": np.full(3, value)}},
            "C1504": {"decay": {"unexplained": np.full(3, value), "moved": np.full(3, none)}},
        }[code]

    return [
        dataclasses.replace(run(norm, seed), measured=arrays(value, jitter(seed + k, 0.003)))
        for seed in range(4)
        for k, (norm, value) in enumerate((("batch", batch), ("none", none)))
    ]


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("C305", (1.2, 1.0)),
        ("C405", (8.0, 1.5)),
        ("C1501", (1e-5, 0.02)),
        ("C1502", (2.0, 1.2)),
        ("C1504", (0.01, 0.8)),
    ],
)
def test_a_planted_effect_is_found_and_so_is_its_opposite(code, values):
    holds, fails = (
        verdict(code, planted(code, *values)),
        verdict(code, planted(code, *values[::-1])),
    )
    assert (holds.outcome, fails.outcome, holds.n) == ("supported", "contradicted", 4)
    assert holds.effect == pytest.approx(values[0] / values[1], rel=0.02)
    missing = verdict(
        code, [dataclasses.replace(one, measured={}) for one in planted(code, *values)]
    )
    assert missing.outcome == "cannot tell"
    assert "measurement" in missing.needs


def test_a_rising_rate_that_explains_nothing_is_not_called_one_that_does():
    """Not even where it explains less still without normalization, which was called support."""
    runs = planted("C1504", 1.0, 1.0)
    found = verdict("C1504", [*runs, *(run("none", seed) for seed in range(4))])
    assert (found.outcome, found.effect) == ("no difference", pytest.approx(1.0, abs=0.01))


def corrupted(seed, running, batch, one_class):
    values = {"running": running, "batch": batch, "small": batch - 0.1, "one_class": one_class}
    arrays = {
        name: np.array([value + jitter(seed + k, 0.003)])
        for k, (name, value) in enumerate(values.items())
    }
    return dataclasses.replace(run("batch", seed), measured={"corruption": arrays})


def test_corrupted_images_help_and_harm_by_their_own_statistics():
    runs = [corrupted(seed, 0.4, 0.6, 0.2) for seed in range(5)]
    helps, harms = verdict("C904", runs), verdict("C905", runs)
    assert (helps.outcome, harms.outcome) == ("supported", "supported")
    small = verdict("C906", runs)
    assert (small.outcome, small.effect) == ("contradicted", helps.also[0].effect)
    assert (helps.effect, harms.effect) == pytest.approx((20, -20), abs=1)
    assert helps.also[0].effect == pytest.approx(10, abs=1)
    other = [corrupted(seed, 0.6, 0.4, 0.8) for seed in range(5)]
    assert verdict("C904", other).outcome == verdict("C905", other).outcome == "contradicted"
    assert verdict("C906", other).outcome == "supported"
