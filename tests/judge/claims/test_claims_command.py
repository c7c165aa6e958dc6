"""`normscope study` and `normscope claims`: what is refused, in one line, and runs that fail."""

import json

import pytest

from normscope.cli import main
from normscope.records.run import load_run

MARKER = '{"format": "normscope study", "version": 1}'

FAILING = """
from torch import nn

class Norm(nn.Identity):
    def forward(self, x):
        if self.training:
            raise ValueError("this norm is broken")
        return x

def norm(channels):
    return Norm()
"""

STUDY = """
[settings]
data = "digits"
classes = ["3", "8"]
widths = [4]
blocks_per_stage = 1
epochs = 1
seeds = 1
learning_rates = [0.1]
device = "cpu"
fusion = "off"
norms = ["batch", "none", "broken_norm:norm"]
"""


def run(*arguments):
    """Exit status of a command, in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["study", "quik"], "Did you mean 'quick'"),
        (["study", "{place}/missing.toml"], "cannot be read"),
        (["study", "{place}/empty.toml"], "it is empty"),
        (["study", "{place}/unknown.toml"], "Did you mean 'epochs'"),
        (["study", "{place}/no-norm.toml"], "expected at least one"),
        (["study", "{place}/no-rate.toml"], "expected at least one"),
        (["study", "{place}/no-seed.toml"], "number of seeds is 0"),
        (["study", "{place}/twice.toml"], "as a setting and as a sweep"),
        (["study", "{place}/impossible.toml"], "bird-plane"),
        (["study", "quick", "--sweep", "batch_size="], "not of the form"),
        (["study", "quick", "--sweep", "batch_size=0,8"], "batch size is 0"),
        (["study", "quick", "--sweep", "activation=relu,reluu"], "Did you mean 'relu'"),
        (["study", "quick", "--seeds", "0"], "number of seeds is 0"),
        (["study", "quick", "--data", "digit"], "Did you mean 'digits'"),
        (["study", "quick", "--out", "{place}"], "not a normscope study"),
        (["claims", "{place}"], "not a normscope study"),
        (["claims", "{place}/nowhere"], "There is no folder"),
        (["claims", "{place}/empty.toml"], "There is no folder"),
        (["claims", "{place}/study"], "There is no run in"),
        (["claims"], "No folder was given"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, told, tmp_path, capsys):
    for name, text in {
        "empty": "", "unknown": "[settings]\nepoch = 3", "no-norm": "[settings]\nnorms = []",
        "no-rate": "[settings]\nlearning_rates = []",
        "no-seed": "[settings]\nseeds = 0",
        "twice": "[settings]\nnorms = ['batch']\n[sweep]\nnorm = ['batch', 'none']",
        "impossible": "[settings]\nmodel = 'bird-plane'\nblock = 'formula'\ndevice = 'cpu'",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "normscope.json").write_text(MARKER)
    if "--out" not in arguments and arguments[0] == "study":
        arguments = [*arguments, "--out", "{place}/out"]
    assert run(*(argument.format(place=tmp_path) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A study with a norm that fails in training: its folder, its exit status, and what it said."""
    place = tmp_path_factory.mktemp("failing")
    (place / "broken_norm.py").write_text(FAILING)
    (place / "own.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        patch.setattr("normscope.studies.executors.usable_cores", lambda: 1)
        command = [
            "study",
            place / "own.toml",
            "--allow-code",
            "--jobs",
            "1",
            "--out",
            place / "out",
        ]
        status = run(*command)
    return place / "out", status


def test_a_run_that_fails_is_recorded_and_the_others_finish(failed):
    out, status = failed
    assert status == 1
    runs = {run.norm: run for run in map(load_run, sorted((out / "runs").iterdir()))}
    assert {norm: run.status for norm, run in runs.items()} == {
        "batch": "finished", "none": "finished", "broken_norm:norm": "failed",
    }  # fmt: skip
    assert runs["broken_norm:norm"].meta["error"] == "ValueError: this norm is broken"
    written = json.loads((out / "claims.json").read_text())["claims"]
    (learning,) = (entry for entry in written if entry["code"] == "C203")
    assert (learning["verdict"], learning["n"]) == ("cannot tell", 1)


def test_a_failed_run_is_in_no_verdict(failed, tmp_path):
    assert run("claims", failed[0], "--norm", "broken_norm:norm", "--out", tmp_path) == 0
    written = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert {entry["verdict"] for entry in written} == {"cannot tell"}
    assert all(entry["needs"] for entry in written)


def test_a_normalization_that_no_run_has_is_a_slip(failed, capsys):
    assert run("claims", failed[0], "--norm", "bach") == 2
    told = capsys.readouterr().err
    assert "Did you mean 'batch'" in told
    assert len(told.strip().splitlines()) == 1
