"""Whether steps are captured in a CUDA graph: asked for, refused, and told in the record."""

import dataclasses

import pytest
import torch

from normscope import cli
from normscope.commands.study import StudyOptions
from normscope.errors import InputError, NormscopeError
from normscope.records.run import load_run
from normscope.studies import grid, runner
from normscope.studies.grid import check_graph, graph_unavailable_reason, lay_out
from normscope.studies.options import GridOptions
from normscope.studies.runner import RunResult, RunTask, execute
from normscope.studies.spec import Recipe
from normscope.training.loop import Outcome

OPTIONS = GridOptions(
    classes=("3", "8"), norms=("batch",), learning_rates=(0.1,), seeds=1, epochs=1, device="cpu",
    precision="fp32",
    fusion="off", capture_epochs=(), recipe=Recipe(widths=(4, 8, 8), blocks_per_stage=1),
)  # fmt: skip
HERE = "it is made for cuda, not for cpu"


def test_a_graph_that_cannot_be_had_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "--device", "cpu", "--graph", "on"])
    assert ended.value.code == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .endswith(f"A CUDA graph cannot be had here: {HERE} (--graph).")
    )


@pytest.mark.parametrize(
    ("choice", "device", "norm", "watch", "reason"),
    [
        ("auto", "cuda", "batch", False, None),
        ("on", "cuda", "batch", False, None),
        ("off", "cuda", "batch", False, "switched off"),
        ("auto", "cpu", "batch", False, HERE),
        ("auto", "mps", "batch", False, "not for mps"),
        ("auto", "cuda", "batch", True, "watched"),
        ("auto", "cuda", "my:norm", False, "Python code in my:norm"),
        ("on", "cuda", "my:norm", False, None),
    ],
)
def test_what_stands_against_a_graph(choice, device, norm, watch, reason):
    found = graph_unavailable_reason(choice, device, norm, watch)
    assert found is None if reason is None else reason in found


def test_a_watched_run_is_refused_only_where_a_graph_is_asked_for():
    check_graph("auto", "cuda", watch=True)
    with pytest.raises(InputError, match="a watched run looks into its steps"):
        check_graph("on", "cuda", watch=True)
    with pytest.raises(InputError, match="Unknown graph 'yes'"):
        check_graph("yes", "cuda", watch=False)


def test_the_choice_is_no_part_of_a_runs_identity():
    assert lay_out(OPTIONS).specs == lay_out(dataclasses.replace(OPTIONS, graph="off")).specs


def test_a_study_hands_the_choice_on():
    assert StudyOptions(study="quick", graph="off").overrides()["graph"] == "off"
    assert "graph" not in StudyOptions(study="quick").overrides()


@pytest.mark.parametrize(("graph", "told"), [("auto", HERE), ("off", "switched off")])
def test_the_record_tells_why_nothing_was_captured(tmp_path, graph, told):
    (spec,) = lay_out(OPTIONS).specs
    assert execute(RunTask(spec, tmp_path, graph=graph), lambda _: None) == RunResult("finished")
    assert load_run(tmp_path).meta["not_captured"] == told


def on_cuda(monkeypatch, tmp_path, outcome, **task):
    """Execute a run that believes to be on CUDA; `outcome` stands for its training. Returns what
    training was told.
    """
    (spec,) = lay_out(OPTIONS).specs
    told = []
    really = runner.train

    def train(*arguments, not_captured, **others):
        told.append(not_captured)
        really(*arguments, not_captured="no CUDA here", **others)
        return outcome

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(
        runner,
        "graph_unavailable_reason",
        lambda choice, _, *rest: grid.graph_unavailable_reason(choice, "cuda", *rest),
    )
    return execute(RunTask(spec, tmp_path, **task), lambda _: None), told


def test_a_graph_that_was_asked_for_and_not_had_is_told(monkeypatch, tmp_path):
    result, told = on_cuda(
        monkeypatch, tmp_path, Outcome("finished", not_captured="it waits"), graph="on"
    )
    assert told == [None]
    assert result == RunResult("finished", note="not captured in a CUDA graph: it waits")
    assert load_run(tmp_path).meta["not_captured"] == "it waits"


def test_a_run_whose_steps_were_replayed_says_nothing(monkeypatch, tmp_path):
    result, told = on_cuda(monkeypatch, tmp_path, Outcome("finished"))
    assert (result, told) == (RunResult("finished"), [None])
    assert load_run(tmp_path).meta["not_captured"] is None


def test_a_watched_run_is_trained_from_python(monkeypatch, tmp_path):
    _, told = on_cuda(monkeypatch, tmp_path, Outcome("finished"), watch=True)
    assert told == ["a watched run looks into its steps from Python"]


def test_a_capture_that_fails_is_a_run_that_failed_with_its_remedy(monkeypatch, tmp_path):
    def train(*_, **__):
        raise NormscopeError(
            "A step cannot be captured in a CUDA graph (why); train with --graph off."
        )

    monkeypatch.setattr(runner, "train", train)
    (spec,) = lay_out(OPTIONS).specs
    result = execute(RunTask(spec, tmp_path), lambda _: None)
    assert result.status == "failed"
    assert "train with --graph off" in str(result.error)
    assert load_run(tmp_path).status == "failed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_on_cuda_a_run_is_captured_and_a_watched_one_has_the_same_bits(tmp_path):
    (spec,) = lay_out(dataclasses.replace(OPTIONS, device="cuda", epochs=3)).specs
    assert execute(RunTask(spec, tmp_path / "a"), lambda _: None) == RunResult("finished")
    assert execute(RunTask(spec, tmp_path / "b", watch=True), lambda _: None) == RunResult(
        "finished"
    )
    ours, theirs = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in "ab")
    assert all(torch.equal(ours[name].cpu(), theirs[name].cpu()) for name in ours)
    assert load_run(tmp_path / "a").meta["not_captured"] is None
