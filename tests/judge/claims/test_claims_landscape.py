"""The loss landscape and noisy batch norm: measured on real runs, judged on planted ones."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from claim_runs import jitter, run
from torch.nn import functional as F

from normscope.judge.claims import claims
from normscope.judge.evidence.cells import Evidence
from normscope.models.registry import build
from normscope.records import measurements as names
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import lay_out
from normscope.studies.measurements.batch_statistics_measurement import movement
from normscope.studies.measurements.landscape_measurement import POINTS, RATES, SHARES, landscape
from normscope.studies.measurements.run_context import RunContext
from normscope.studies.study_plans import GridPlan, find_study
from normscope.training.loop import Callback, train
from normscope.training.plan import Batches, ResumeState

SETTINGS = {
    "data": "digits", "classes": ("3", "8"), "widths": (4, 8), "blocks_per_stage": 1, "epochs": 2,
    "seeds": 1,
    "learning_rates": (0.1,), "batch_size": 32, "device": "cpu", "precision": "fp32",
    "norms": ("batch", "none", "noisy-batch"),
}  # fmt: skip


@pytest.fixture(scope="module")
def subjects():
    grid = lay_out(GridPlan(SETTINGS).options({}))
    return {spec.norm: RunContext(spec, grid.dataset, RunDirectory(Path())) for spec in grid.specs}


class Keep(Callback):
    """The weights after every epoch."""

    def __init__(self):
        self.states = []

    def on_epoch(self, epoch):
        self.states.append(ResumeState.from_bytes(epoch.state.to_bytes()))


def test_the_landscape_of_a_run_is_that_of_steps_by_hand(subjects):
    context = subjects["batch"]
    found = landscape(context)
    steps = context.batches().train_batches * 2
    assert found["step"].tolist() == sorted({round(steps * k / POINTS) for k in range(POINTS + 1)})
    assert (
        found["rate_losses"].shape
        == found["rate_changes"].shape
        == (len(found["step"]), len(RATES))
    )
    np.testing.assert_allclose(
        found["relative_distances"], np.outer(found["weights"], SHARES), rtol=1e-12
    )
    np.testing.assert_allclose(
        found["rate_distances"], 0.1 * np.outer(found["gradient"], RATES), rtol=1e-12
    )
    model = context.fresh()
    images, labels = next(iter(context.batches().train(0, 1)))
    F.cross_entropy(model(images), labels).backward()
    norm = np.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
    assert found["gradient"][0] == pytest.approx(norm, rel=1e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad  # one step at the run's rate
        loss = F.cross_entropy(model(images), labels)
    assert found["rate_losses"][0, 1] == pytest.approx(float(loss), rel=1e-4)
    np.testing.assert_array_equal(
        found["loss"], landscape(context)["loss"], err_msg="the same every time"
    )


@pytest.mark.filterwarnings("error")
def test_a_training_that_diverges_is_seen_as_far_as_it_went(subjects):
    context = dataclasses.replace(
        subjects["none"],
        spec=dataclasses.replace(subjects["none"].spec, learning_rate=1e6, epochs=3),
    )
    found = landscape(context)
    assert 1 < len(found["step"]) < POINTS + 1
    assert np.isfinite(found["loss"][0])
    assert not np.isfinite(found["rate_losses"][-1]).any()
    assert np.isnan(movement(context)["movement"]).any()


@pytest.mark.parametrize("norm", ["batch", "noisy-batch"])
def test_looking_on_the_way_changes_no_bit_of_the_training(subjects, norm):
    from normscope.studies.measurements import landscape_measurement as room

    context, ends = subjects[norm], []
    for looks in (False, True):
        model = context.fresh()
        batch = next(iter(context.batches().train(0, 1)))
        context.retrain(model, *([room._Looking(context, model, batch)] if looks else []))
        ends.append(model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_a_noisy_run_that_goes_on_ends_with_the_same_bits(subjects):
    context = subjects["noisy-batch"]

    def trained(resume=None):
        kept, model = Keep(), context.fresh()
        batches: Batches = context.batches(augmented=True)
        train(model, batches, context.spec, callbacks=[kept], resume=resume)
        return kept.states

    first, last = trained()
    (again,) = trained(first)
    assert all(torch.equal(value, again.model[name]) for name, value in last.model.items())


def test_noise_moves_distributions_and_batch_normalization_holds_them(subjects):
    found = {norm: movement(context) for norm, context in subjects.items()}
    medians = {norm: np.nanmedian(arrays["movement"]) for norm, arrays in found.items()}
    assert medians["batch"] < medians["none"] < medians["noisy-batch"]
    assert medians["batch"] < 0.05
    # a difference of two uniform means, in deviations of what leaves the layer; factors add a
    # little
    assert medians["noisy-batch"] == pytest.approx(np.sqrt(2 / 12) / 1.13, abs=0.1)
    shapes = {arrays["movement"].shape for arrays in found.values()}
    assert shapes == {arrays["place"].shape for arrays in found.values()}
    assert len(shapes) == 1, "the same places in every arm"


def test_built_in_studies_measure_what_their_claims_read():
    assert all(names.LANDSCAPE in (grid.measure or ()) for grid in find_study("landscape").grids)
    (grid,) = find_study("covariate-shift").grids
    assert names.MOVEMENT in (grid.measure or ())
    assert set(grid.settings["norms"]) == {"batch", "noisy-batch", "none"}
    for norm in grid.settings["norms"]:
        build("small-resnet", norm=norm, in_channels=1, num_classes=2, image_size=8)


def planted(norm, seed, size=1.0, gradient=1.0, **arrays):
    """A run on a parabola of this curvature, whose gradient is of this norm everywhere."""
    own = run(norm, seed, final=0.9 + jitter(seed + len(norm)))
    curvature = size * np.exp(jitter(seed + len(norm), 0.05))
    ones = np.ones(3)
    lines = {}
    for kind, lengths in (
        ("rate", 0.1 * gradient * np.array(RATES)),
        ("relative", 5 * np.array(SHARES)),
    ):
        distances = np.outer(ones, lengths)
        lines |= {
            f"{kind}_distances": distances, f"{kind}_changes": curvature * distances,
            f"{kind}_losses": 1 - curvature * distances,
        }  # fmt: skip
    found = {
        "step": np.arange(3.0),
        "loss": ones,
        "gradient": gradient * ones,
        "weights": 5 * ones,
        **lines,
        **arrays,
    }
    return dataclasses.replace(own, measured={names.LANDSCAPE: found})


def verdict(code, runs):
    (claim,) = (claim for claim in claims() if claim.code == code)
    return claim.judge(Evidence(runs))


def both(seeds=4, batch=None, none=None):
    pairs = (("batch", batch or {}), ("none", none or {}))
    return [planted(norm, seed, **given) for seed in range(seeds) for norm, given in pairs]


@pytest.mark.parametrize("code", [f"C100{number}" for number in range(1, 7)])
@pytest.mark.parametrize(
    ("size", "outcome"), [(0.3, "supported"), (3.0, "contradicted"), (1.0, "no difference")]
)
def test_verdicts_on_a_landscape(code, size, outcome):
    found = verdict(code, both(batch={"size": size}))
    assert (found.outcome, found.n) == (outcome, 4)
    assert found.effect == pytest.approx(size, rel=0.15)


def test_distances_in_weights_have_verdicts_and_the_papers_their_own():
    """A gradient of twice the norm: twice as far and a larger range by the paper's way, the same
    landscape by ours.
    """
    runs = both(batch={"gradient": 2.0})
    assert verdict("C1001", runs).outcome == "no difference"
    smaller = verdict("C1002", runs)
    assert smaller.outcome == "supported", "the same change is a smaller share"
    assert [round(reading.effect, 1) for reading in smaller.also] == [1.0]
    assert verdict("C1003", runs).outcome == "no difference"
    for code, effect in (("C1004", 2), ("C1005", 2), ("C1006", 1)):
        assert verdict(code, runs).effect == pytest.approx(effect, rel=0.1), "as in the paper"


@pytest.mark.parametrize("code", ["C1001", "C1002", "C1003"])
def test_what_cannot_be_read_says_what_is_missing(code):
    runs = [dataclasses.replace(one, measured={}) for one in both()]
    found = verdict(code, runs)
    assert found.outcome == "cannot tell"
    assert "the measurement landscape of 8 runs" in found.needs
    asked = '`normscope study` of a file with measure = ["landscape"] makes it'
    assert found.needs.endswith(asked), "without any weights"
    assert "normscope study landscape" in verdict(code, []).needs
    assert verdict(code, both(2)).outcome == "cannot tell"
    blown = both(
        none={
            "relative_losses": np.full((3, 4), np.nan),
            "relative_changes": np.full((3, 4), np.inf),
        }
    )
    assert verdict(code, blown).outcome == "cannot tell", "no number, no verdict"
    assert (
        found_needs(code, blown)
        == "a setting at which every run gives a number: not none seed 0 and 3 more"
    )
    ended = both(none={"planned": np.array([13])})
    assert found_needs(code, ended).startswith("a setting at which every run gives a number"), (
        "it diverged on the way"
    )
    one = [*both()[:-1], both(none={"planned": np.array([13])})[-1]]
    assert found_needs(code, one).endswith(": not none seed 3"), "the others do not stand for it"
    assert verdict(code, one).notes == ()
    idle = [
        dataclasses.replace(run(one.norm, one.seed, final=0.1), measured=one.measured)
        for one in both()
    ]
    assert found_needs(code, idle).startswith("a setting at which batch and none learn")
    flat = both(none={"gradient": 0.0})
    assert verdict(code, flat).outcome == "cannot tell", "without a gradient there is no direction"


def found_needs(code, runs):
    found = verdict(code, runs)
    assert found.outcome == "cannot tell"
    return found.needs


def shifted(seeds=5, noisy=0.96, batch=0.96, none=0.9, moves=(0.36, 0.002, 0.05), noise=0.002):
    """Three arms with these accuracies, and movements of noisy-batch, batch and none."""
    runs = []
    arms = zip(("noisy-batch", "batch", "none"), (noisy, batch, none), moves, strict=True)
    for number, (norm, final, moved) in enumerate(arms):
        for seed in range(seeds):
            own = run(norm, seed, final=0.9)
            own.epochs["train_accuracy"] = (
                own.epochs["test_accuracy"] * (final + jitter(10 * seed + number, noise)) / 0.9
            )
            arrays = {
                "place": np.zeros(3),
                "movement": moved * np.exp(jitter(seed + number, 0.1)) * np.ones(3),
            }
            runs.append(dataclasses.replace(own, measured={names.MOVEMENT: arrays}))
    return runs


def test_noise_that_does_no_harm_supports_the_claim_and_its_parts_are_shown():
    found = verdict("C1102", shifted())
    assert (found.outcome, found.n, found.needs) == ("supported", 5, "")
    assert found.effect == pytest.approx(0, abs=0.3)
    assert [reading.outcome for reading in found.also] == ["supported"] * 3 + [None] * 2
    assert found.also[4].effect == 0, "test accuracy stands beside and decides nothing"
    assert found.also[0].effect == pytest.approx(7.2, rel=0.3)
    assert found.also[2].effect == pytest.approx(6, abs=0.5)
    assert verdict("C1101", shifted()).outcome == "supported"


def test_better_than_batch_normalization_is_as_good():
    assert verdict("C1102", shifted(noisy=0.98)).outcome == "supported"


def test_noise_that_does_harm_contradicts_it():
    found = verdict("C1102", shifted(noisy=0.93))
    assert (found.outcome, found.needs) == ("contradicted", "")


def test_a_little_worse_is_neither():
    """Significantly worse than batch normalization, by about the margin: no number of stars makes
    that a verdict.
    """
    found = verdict("C1102", shifted(noisy=0.95))
    assert found.outcome == "cannot tell"
    assert found.p < 0.05


def test_noise_that_moves_nothing_says_nothing():
    found = verdict("C1102", shifted(moves=(0.03, 0.002, 0.05)))
    assert found.outcome == "cannot tell"
    assert "moves distributions more" in found.needs
    assert verdict("C1101", shifted(moves=(0.03, 0.002, 0.05))).outcome == "contradicted"
    still = verdict("C1102", shifted(noisy=0.8, moves=(0.03, 0.002, 0.05)))
    assert still.outcome == "cannot tell", "worse, but not for moving"


def test_where_normalization_is_no_help_there_is_nothing_to_explain():
    found = verdict("C1102", shifted(none=0.96))
    assert found.outcome == "cannot tell"
    assert "a setting at which normalization helps" in found.needs


def test_missing_arms_and_measurements_are_named():
    runs = shifted()
    found = verdict("C1102", [one for one in runs if one.norm != "noisy-batch"])
    assert (found.outcome, found.n) == ("cannot tell", 0)
    assert "normscope study covariate-shift" in found.needs
    bare = [dataclasses.replace(one, measured={}) for one in runs]
    found = verdict("C1102", bare)
    assert found.outcome == "cannot tell"
    assert "the measurement movement of" in found.needs
    few = verdict("C1102", shifted(2))
    assert few.outcome == "cannot tell"
    assert "more seed" in few.needs
    unsure = verdict("C1102", shifted(noisy=0.95, none=0.92, noise=0.03))
    assert unsure.outcome == "cannot tell"
    assert "as good as with normalization: " in unsure.needs, (
        "each open part with what would settle it"
    )
    without_none = verdict("C1102", [one for one in runs if one.norm != "none"])
    assert without_none.outcome == "cannot tell"
    assert "none" in without_none.needs
