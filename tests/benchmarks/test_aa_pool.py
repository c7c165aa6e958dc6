"""The A/A benchmark draws two groups that differ in nothing, and counts what is false."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import aa

from normscope.records.run import RunRecord

RUNS = [
    RunRecord(
        Path(f"run{seed}"),
        {"norm": "batch", "seed": seed, "model": "m", "learning_rate": 0.1},
        "finished",
        {"epoch": np.arange(1)},
    )
    for seed in range(40)
]


@pytest.mark.parametrize("paired", [False, True])
def test_a_split_is_two_groups_of_other_runs(paired):
    drawn = list(aa.splits(RUNS, 5, 200, np.random.default_rng(0), paired=paired))
    for runs in drawn:
        assert len({run.directory for run in runs}) == 10
        seeds = {
            norm: sorted(run.seed for run in runs if run.norm == norm) for norm in ("batch", "none")
        }
        if paired:
            assert seeds["batch"] == seeds["none"] == [0, 1, 2, 3, 4]
        else:
            assert not set(seeds["batch"]) & set(seeds["none"])
    chosen = [run.directory for runs in drawn for run in runs if run.norm == "batch"]
    counts = [chosen.count(run.directory) for run in RUNS]
    assert min(counts) > 8, "every run is drawn, about 25 times into a group"
    assert {run.norm for run in RUNS} == {"batch"}, "the pool itself is left as it is"


class Verdict:
    def __init__(self, code, outcome, p=0.5):
        self.code, self.name, self.outcome, self.p = code, code.lower(), outcome, p


def test_claims_that_read_one_network_twice_are_no_part_of_it():
    (drawn,) = aa.splits(RUNS, 3, 1, np.random.default_rng(0), paired=True)
    codes = {verdict.code for verdict in aa.verdicts_between(drawn)}
    assert {"C101", "C201", "C1501"} <= codes
    assert not {"C901", "C205", "C1401", "C2006"} & codes


def test_what_was_tested_between_the_groups_is_counted():
    found = aa.Judged()
    found.add([Verdict("C1", "supported"), Verdict("C2", "cannot tell")])
    found.add([Verdict("C1", "contradicted"), Verdict("C2", "contradicted")])
    found.add([Verdict("C1", "no difference"), Verdict("C2", "cannot tell", p=None)])
    assert found.outcomes["C1", "c1"] == {"supported": 1, "contradicted": 1, "no difference": 1}
    assert found.outcomes["C2", "c2"] == {"cannot tell": 1, "contradicted": 1}
    assert found.false == [1, 2, 0]
    assert len(found.outcomes) == 2


def test_the_pool_is_one_arm_without_a_sweep():
    from normscope.studies.study_plans import read_study

    (grid,) = read_study(Path(aa.__file__).with_name("aa.toml")).grids
    assert (grid.settings["norms"], grid.sweep) == (["batch"], {})
    assert grid.settings["seeds"] >= 2 * max(aa.SIZES)


def test_what_is_ever_false_is_counted_once_for_a_study():
    found = aa.Looks()
    wrong, right = Look("C1", "supported", stands=True), Look("C1", "cannot tell")
    found.add(iter([[wrong, Look("C2", "cannot tell")], [wrong], [right]]))
    found.add(iter([[right, Look("C2", "contradicted")], [Look("C2", "no difference")]]))
    assert (found.false["C1"], found.false["C2"], found.standing, found.studies) == (1, 1, 1, 2)
    assert found.tested == {"C1", "C2"}


class Look(Verdict):
    def __init__(self, code, outcome, stands=False):
        super().__init__(code, outcome)
        self.values, self.e, self.stands = {"batch": {0: 1.0}}, 1.0, stands
