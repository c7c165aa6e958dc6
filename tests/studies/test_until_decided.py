"""Seeds that are added until claims are decided: only where it helps, shared, and with a reason."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from normscope.commands.study import StudyOptions, train_study
from normscope.errors import InputError
from normscope.judge.claims import judge_all
from normscope.records.progress import planned_runs
from normscope.records.run import RunRecord
from normscope.studies import until_decided as decided
from normscope.studies.grid import lay_out
from normscope.studies.study_plans import GridPlan
from normscope.studies.until_decided import UntilDecided, family, needed_by, open_claims

SETTINGS = {
    "data": "digits", "classes": ("3", "8"), "seeds": 3, "epochs": 2, "device": "cpu",
    "learning_rates": (0.1, 1.0), "norms": ("batch", "none", "group"),
}  # fmt: skip


def specs_of(settings=SETTINGS, sweep=None):
    return list(lay_out(GridPlan(settings).options({}), sweep).specs)


def record(spec, accuracy):
    columns = {"epoch": np.arange(1.0, 3), "test_accuracy": np.array([0.5, accuracy])}
    given = dataclasses.asdict(spec)
    return RunRecord(Path(spec.name), given, "finished", columns)


class Study:
    """Stands for a study whose runs get these accuracies as soon as they are asked for."""

    def __init__(self, monkeypatch, accuracy, codes, most=20):
        self.accuracy = accuracy
        monkeypatch.setattr(decided, "load_run", lambda spec: self.record(spec))
        monkeypatch.setattr(decided, "status_of", lambda spec: "finished")
        self.console = Console(record=True, width=200, file=io.StringIO())
        self.seeds = UntilDecided(self, codes, most)

    def run(self, spec):
        return type("Run", (), {"path": spec})

    def record(self, spec):
        return record(spec, self.accuracy(spec))

    def go(self, specs):
        """Train until nothing is added; return the rounds."""
        rounds = [specs]
        while rounds[-1]:
            self.seeds.trained += rounds[-1]
            rounds.append(self.seeds.next_runs(self.console))
        return rounds[:-1]


def noisy(size, scale):
    def accuracy(spec):
        draw = np.random.default_rng([spec.seed, *spec.norm.encode()]).normal()
        return 0.7 + size * (spec.norm == "batch") + scale * draw

    return accuracy


@pytest.fixture(scope="module")
def decided_study():
    """A study that has gone on until its claim was decided, and its rounds."""
    with pytest.MonkeyPatch.context() as patch:
        made = Study(patch, noisy(0.05, 0.02), ["C201"])
        return made, made.go(specs_of())


def test_seeds_are_added_until_the_claim_is_decided_and_only_for_its_runs(decided_study):
    made, rounds = decided_study
    assert 1 < len(rounds) < 12
    for number, added in enumerate(rounds[1:], 3):
        assert {spec.seed for spec in added} == {number}
        assert {spec.norm for spec in added} == {"batch", "none"}, "group norm is of no claim here"
        assert len(added) == 4
    assert "1 of 1 claims are decided" in made.console.export_text()


def test_the_verdict_after_stopping_is_that_of_all_runs(decided_study):
    made, _ = decided_study
    runs = [made.record(spec) for spec in made.seeds.trained]
    (verdict,) = (each for each in judge_all(runs) if each.code == "C201")
    assert verdict.outcome == "supported"
    (before,) = (
        each
        for each in judge_all([run for run in runs if run.seed < verdict.n - 1])
        if each.code == "C201"
    )
    assert before.outcome == "cannot tell"


def test_what_no_number_of_seeds_decides_is_given_up_with_the_reason(monkeypatch):
    made = Study(monkeypatch, noisy(0.006, 0.05), ["C201"], most=9)
    rounds = made.go(specs_of())
    told = made.console.export_text()
    assert len(rounds) <= 7
    assert "0 of 1 claims are decided; C201: " in told
    assert "9 seeds" in told or "up to 100" in told


def test_stopped_and_started_again_it_goes_the_same_way(monkeypatch, decided_study):
    _, rounds = decided_study
    again = Study(monkeypatch, noisy(0.05, 0.02), ["C201"])
    assert again.go(specs_of()) == rounds


def test_before_anything_is_trained_only_the_runs_of_the_asked_claims_are_needed():
    specs = specs_of(sweep={"block": (None, "after-activation")})
    of_block = needed_by(["C201"], specs)
    assert {spec.block for spec in of_block} == {None}
    assert {spec.norm for spec in of_block} == {"batch", "none"}
    assert {spec.norm for spec in needed_by(["C1401"], specs)} == {"batch"}
    assert needed_by([], specs) == {family(spec) for spec in specs}
    assert needed_by(["C1301"], specs) == set()


def test_claims_share_the_runs_of_a_seed():
    specs = specs_of()
    assert needed_by(["C201", "C101"], specs) == needed_by(["C201"], specs)


def test_decided_claims_are_not_asked_for_again():
    runs = [
        dataclasses.replace(record(spec, noisy(0.05, 0.001)(spec)), directory=Path(spec.name))
        for spec in specs_of({**SETTINGS, "seeds": 6})
    ]
    still = {verdict.code for verdict in open_claims(judge_all(runs), 20)}
    assert "C201" not in still
    assert {verdict.code for verdict in open_claims(judge_all(runs, codes=("C201",)), 20)} == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"claims": ("C999",)}, "C999"), ({"claims": ("C1301",)}, "No run of this study is of C1301")],
)
def test_claims_that_cannot_be_are_refused(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        train_study(
            StudyOptions(study="propagation", out=tmp_path / "out", device="cpu", **options),
            Console(quiet=True),
        )


def test_max_seeds_is_checked():
    with pytest.raises(InputError, match="max-seeds"):
        StudyOptions(max_seeds=0)


def test_the_command_adds_seeds_and_stops(monkeypatch, tmp_path, blank_figures):
    """One real study of tiny networks: a training for every seed that is asked for."""
    monkeypatch.setattr("normscope.studies.executors.usable_cores", lambda: 1)
    (tmp_path / "tiny.toml").write_text(
        "[settings]\ndata = 'digits'\nclasses = ['3', '8']\nwidths = [4, 8]\n"
        "blocks_per_stage = 1\nepochs = 1\nseeds = 2\nlearning_rates = [0.1]\n"
        "norms = ['batch', 'none', 'layer']\n"
        "device = 'cpu'\nfusion = 'off'\ncapture_epochs = []\n"
    )
    console = Console(record=True, width=200, file=io.StringIO())
    options = StudyOptions(
        study=str(tmp_path / "tiny.toml"), jobs=1, out=tmp_path / "out", until_decided=True,
        max_seeds=3, claims=("C203",),
    )  # fmt: skip
    result = train_study(options, console)
    assert len(result.runs) == 6
    assert sorted(planned_runs(tmp_path / "out")) == sorted(r.directory.name for r in result.runs)
    told = console.export_text()
    assert "Study tiny: 4 runs" in told  # and none of layer norm, of which the claim says nothing
    assert "one more seed for: C203." in told
    assert "C203: open at the 3 seeds that were allowed (--max-seeds)" in told
