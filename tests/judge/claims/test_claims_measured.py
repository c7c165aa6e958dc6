"""Measurements beside training: against a slow computation, theory, and as claims read them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from claim_runs import run
from torch import nn

from normscope.errors import InputError
from normscope.judge.claims import claims
from normscope.judge.evidence.cells import Evidence
from normscope.records import measurements
from normscope.records.files import write_json
from normscope.records.measurements import load_measurements
from normscope.records.store import reader, writer
from normscope.studies.directory import RunDirectory, StudyDirectory
from normscope.studies.grid import lay_out
from normscope.studies.measurements.initialization_measurement import path_variances, propagation
from normscope.studies.measurements.run_context import RunContext
from normscope.studies.study_measurements import MEASUREMENTS, measure
from normscope.studies.study_plans import GridPlan

PLAN = GridPlan(
    {"data": "digits", "seeds": 1, "epochs": 1, "learning_rates": (0.01,),
     "block": "pre-activation",
     "blocks_per_stage": 4, "device": "cpu", "classes": ("0", "1", "2", "3")},
    {"initialization": ("he",)},
)  # fmt: skip


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.branch(x) + 2 * x


def test_variances_are_those_of_the_paths():
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    batches = [torch.randn(size, 3, 4, 4) for size in (5, 8)]
    found = path_variances(
        model, batches, {str(k): (block, block.branch) for k, block in enumerate(model)}
    )
    expected = {"skip": np.zeros(2), "branch": np.zeros(2)}
    with torch.no_grad():
        for x in batches:
            for place, block in enumerate(model):
                for name, tensor in (("skip", 2 * x), ("branch", block.branch(x))):
                    channels = tensor.double().transpose(0, 1).flatten(1).numpy()
                    expected[name][place] += channels.var(axis=1).mean() / 2
                x = block(x)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


def test_growth_is_linear_with_batch_normalization_and_exponential_without():
    """De & Smith 2020, section 3, in the stage before any downsampling."""
    grid = lay_out(PLAN.options({}), PLAN.sweep)
    found = {
        spec.norm: propagation(RunContext(spec, grid.dataset, RunDirectory(Path())))
        for spec in grid.specs
    }
    with_bn, without = (found[norm]["skip"][:4] for norm in ("batch", "none"))
    steps = np.diff(with_bn)
    assert steps.max() < 2 * steps.min(), "equal steps: linear"
    assert found["batch"]["branch"][:4].mean() == pytest.approx(1 - 1 / np.pi, abs=0.12)
    assert without[3] / without[0] > 5
    ratio = found["none"]["branch"][:4] / without
    assert ratio.min() > 0.4, "about as large as the skip, block after block"


def begun(place):
    """A study in which the first of two runs has a record."""
    grid = lay_out(PLAN.options({}), PLAN.sweep)
    write_json(place / "normscope.json", {"format": "normscope study", "version": 1})
    study = StudyDirectory.find(place)
    first = study.run(grid.specs[0])
    first.path.mkdir(parents=True)
    writer(first.record, "run").close()
    return study, grid


def test_every_measurement_has_one_name():
    assert tuple(MEASUREMENTS) == measurements.KNOWN
    assert all(row.name == name for name, row in MEASUREMENTS.items())
    with pytest.raises(InputError, match="Did you mean 'propagation'"):
        GridPlan(measure=("propagatoin",))


def test_what_a_grid_does_not_ask_for_is_not_measured(tmp_path):
    study, grid = begun(tmp_path)
    assert not measure(study, grid.specs, grid.dataset, {spec.id: () for spec in grid.specs}).made


def test_a_measurement_is_made_once_and_only_where_there_is_a_record(tmp_path):
    study, grid = begun(tmp_path)
    first = study.run(grid.specs[0])
    told = []
    made = {"propagation": 1, "initialization": 1}
    assert measure(study, grid.specs, grid.dataset, say=told.append).made == made
    assert told == ["propagation, 1 of 2", "initialization, 2 of 2"]
    assert not measure(study, grid.specs, grid.dataset).made
    with reader(first.record, "run") as store:
        found = load_measurements(store)
    assert set(found) == set(made)
    assert found["propagation"]["skip"].shape == found["propagation"]["branch"].shape == (12,)


@pytest.mark.parametrize(
    ("batch", "none", "outcome"), [(0.3, 1.0, "supported"), (1.0, 0.3, "contradicted")]
)
def test_the_claim_reads_them(batch, none, outcome):
    runs = []
    for seed in range(4):
        for norm, ratio in (("batch", batch), ("none", none)):
            skip = np.array([1.0, 2.0, 4.0])
            branch = (
                skip
                * ratio
                * np.exp(0.05 * np.random.default_rng([seed, len(norm)]).standard_normal(3))
            )
            own = run(norm, seed, block="pre-activation", initialization="he")
            runs.append(
                dataclasses.replace(own, measured={"propagation": {"skip": skip, "branch": branch}})
            )
    (claim,) = (claim for claim in claims() if claim.code == "C1201")
    found = claim.judge(Evidence(runs))
    assert (found.outcome, found.n) == (outcome, 4)
    assert found.effect == pytest.approx(batch / none, rel=0.1)
    other_way = [
        dataclasses.replace(one,
                            spec=one.spec | {"initialization": "default"},
                            measured={"propagation": {"skip": np.full(3, 9.0),
                                                      "branch": np.full(3, 9.0)}})
        for one in runs
    ]  # fmt: skip
    with_others = claim.judge(Evidence(runs + other_way))
    assert [reading.effect for reading in with_others.also] == [
        reading.effect for reading in found.also
    ]
    assert found.notes[0].startswith(
        "batch: variance of the skip path 1 in the first and 4 in the last of 3 blocks"
    )
    assert claim.judge(Evidence([run("batch", 0)])).outcome == "cannot tell"
