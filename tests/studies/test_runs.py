"""Runs from their specs, on three digits and a narrow network: an epoch takes a moment."""

import dataclasses
import json
import math
import os
import subprocess

import numpy as np
import pytest
import torch
from killed_runs import kill_and_resume
from run_cases import OPTIONS, assert_same_bits, contents, ignore, weights

from normscope import fused
from normscope.errors import StorageError
from normscope.records.run import EPOCH_COLUMNS, load_run, status_of
from normscope.studies import runner
from normscope.studies.directory import RunDirectory
from normscope.studies.executors import execute_all
from normscope.studies.executors.local import ProcessExecutor
from normscope.studies.grid import lay_out
from normscope.studies.runner import RunResult, RunTask, execute
from training_here import TrainsHere
from warm_processes import run_python


@pytest.fixture(scope="module")
def spec():
    return lay_out(OPTIONS).specs[0]


@pytest.fixture(scope="module")
def finished(spec, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    assert execute(RunTask(spec, directory), ignore) == RunResult("finished")
    return directory


def test_a_run_leaves_its_spec_its_record_and_its_weights(finished, spec):
    assert json.loads((finished / "spec.json").read_text()) == json.loads(spec.to_json())
    run = load_run(finished)
    assert run.status == "finished"
    assert run.spec == json.loads(spec.to_json())
    assert set(EPOCH_COLUMNS) <= set(run.epochs) | {
        f"last_layer_gradient{s}" for s in ("", "_mean")
    }
    assert run.column("step").tolist() == [4, 8, 12]
    kernels = {n[: -len(".weight")]: w for n, w in weights(finished).items() if w.ndim > 1}
    norms = {n[len("weight_norm.") :]: c for n, c in run.epochs.items() if "weight_norm." in n}
    assert {n: c[-1] for n, c in norms.items()} == {
        n: pytest.approx(float(w.norm()), rel=1e-6) for n, w in kernels.items()
    }
    logs = [math.log(norms[name][-1]) for name, w in kernels.items() if w.ndim == 4]
    assert run.final("convolution_norm") == pytest.approx(math.exp(sum(logs) / len(logs)))
    assert {key for key, _ in run.captures} == {"block_output", "before_activation", "normalized"}
    assert {epoch for _, epoch in run.captures} == {1, 3}
    assert run.meta["parameters"] == sum(
        v.numel() for k, v in weights(finished).items() if "running" not in k and "num" not in k
    )
    assert run.meta["batches"] == {"train": 4, "test": 1}
    assert run.meta["environment"]["versions"]["torch"] == torch.__version__


def test_the_final_accuracy_is_that_of_the_saved_weights(finished, spec):
    from normscope.data import sources
    from normscope.data.device_batches import Batches
    from normscope.studies.grid import build_for

    dataset = sources.load("digits", classes=spec.classes)
    model = build_for(dataset, spec)
    model.load_state_dict(weights(finished))
    model.eval()
    batches = Batches(dataset, 64, torch.device("cpu"), crop_padding=0, horizontal_flip=False)
    with torch.no_grad():
        right = torch.cat(
            [(model(images).argmax(1) == labels) for images, labels in batches.test()]
        )
    assert load_run(finished).final("test_accuracy") == pytest.approx(
        right.double().mean().item(), abs=1e-12
    )


def test_captures_are_what_the_final_network_gives(finished, spec):
    """The last capture against a forward without hooks, on the same images."""
    from normscope.data import sources
    from normscope.data.device_batches import Batches
    from normscope.studies.grid import build_for

    dataset = sources.load("digits", classes=spec.classes)
    model = build_for(dataset, spec).to(memory_format=torch.channels_last)
    model.load_state_dict(weights(finished))
    model.eval()
    batches = Batches(
        dataset, spec.batch_size, torch.device("cpu"), crop_padding=0, horizontal_flip=False
    )
    with torch.no_grad():
        images = torch.cat([images for images, _ in batches.test(3)])
        block = model.layer1[0]
        stem = model.stem(images)
        normalized = block.bn1(block.conv1(stem))
        before = block.bn2(block.conv2(normalized.relu())) + stem
    captures = load_run(finished).captures
    for name, expected in {
        "normalized": normalized, "before_activation": before, "block_output": before.relu(),
    }.items():  # fmt: skip
        found = captures[name, 3]
        assert found.n == expected.numel()
        assert found.mean == pytest.approx(expected.double().mean().item(), abs=1e-5)
        assert found.std == pytest.approx(expected.double().std(correction=0).item(), rel=1e-4)
    assert captures["block_output", 3].zeros > 0.05
    assert captures["block_output", 3].quantiles[0] == 0


def test_a_finished_run_is_not_trained_again(finished, spec, monkeypatch):
    monkeypatch.setattr(runner, "train", lambda *a, **k: pytest.fail("trained again"))
    before = (finished / "record.sqlite").read_bytes()
    assert execute(RunTask(spec, finished), ignore) == RunResult("finished")
    assert (finished / "record.sqlite").read_bytes() == before


def test_a_locked_run_is_busy(spec, tmp_path):
    with RunDirectory(tmp_path).locked() as ours:
        assert ours
        script = "import sys; from pathlib import Path\n"
        script += "from normscope.studies.directory import RunDirectory\n"
        script += "with RunDirectory(Path(sys.argv[1])).locked() as ours: print(ours)"
        told = run_python("-c", script, tmp_path)
        assert told.stdout.strip() == "False"


MOMENTS = {
    "first step": "kill_at_step(1, 0)",
    "in the second epoch": "kill_at_step(2, 2)",
    "inside a transaction": "kill_in_transaction(2)",
    "after an epoch's transaction": "kill_after_epoch(2)",
    "before the weights": "kill_before(run_record, 'written_aside')",
    "before the status": "kill_before(run_record.Store, 'drop_resume_state')",
    "after the status": "kill_before(run_record.Store, 'compact')",
}


def test_killed_at_any_moment_and_resumed_a_run_ends_with_the_same_bits(finished, spec, tmp_path):
    kill_and_resume(spec, MOMENTS, tmp_path)
    for index, moment in enumerate(MOMENTS):
        assert_same_bits(tmp_path / str(index), finished, moment)


@pytest.mark.skipif(
    fused.availability() is not None, reason=f"nothing is fused here: {fused.availability()}"
)
def test_a_fused_bf16_run_resumes_with_the_same_bits_and_is_another_run_than_an_unfused_one(
    spec, tmp_path
):
    wide = dataclasses.replace(
        spec, widths=(32, 32, 32), epochs=2, capture_epochs=(), precision="bf16", fusion=True
    )
    unfused = dataclasses.replace(wide, fusion=False)
    assert execute(RunTask(wide, tmp_path / "whole"), ignore).status == "finished"
    assert execute(RunTask(unfused, tmp_path / "unfused"), ignore).status == "finished"
    assert wide.id != unfused.id
    assert load_run(tmp_path / "unfused").meta["not_fused"] == "switched off"
    assert contents(tmp_path / "whole")[0] != contents(tmp_path / "unfused")[0], "nothing was fused"
    kill_and_resume(wide, {"in the second epoch": "kill_at_step(2, 2)"}, tmp_path)
    assert_same_bits(tmp_path / "0", tmp_path / "whole")


def test_diverged_is_a_result(spec, tmp_path):
    wild = dataclasses.replace(spec, learning_rate=1e30, norm="none", capture_epochs=(1,))
    assert execute(RunTask(wild, tmp_path), ignore) == RunResult("diverged")
    run = load_run(tmp_path)
    assert run.status == "diverged"
    assert 1 <= run.meta["diverged_step"] <= 4
    assert run.column("first_non_finite_step")[-1] == run.meta["diverged_step"]
    assert np.isnan(run.column("train_loss")[-1])
    assert not run.captures
    assert run.final("test_accuracy") is None


def test_a_run_that_fails_says_why_and_is_tried_again(spec, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("the norm of nothing\nand more")

    monkeypatch.setattr(runner, "train", broken)
    assert execute(RunTask(spec, tmp_path), ignore) == RunResult(
        "failed", "ZeroDivisionError: the norm of nothing"
    )
    failed = load_run(tmp_path)
    assert failed.status == "failed"
    assert "in broken" in failed.meta["traceback"]
    monkeypatch.undo()
    assert execute(RunTask(spec, tmp_path), ignore) == RunResult("finished")
    assert load_run(tmp_path).meta["error"] is None


def test_data_that_changed_is_noticed(spec, tmp_path):
    stale = dataclasses.replace(spec, data_fingerprint="other")
    result = execute(RunTask(stale, tmp_path), ignore)
    assert result.status == "failed"
    assert "data changed" in str(result.error)
    failed = load_run(tmp_path)  # a run that fails in its preparation is a run nevertheless
    assert (failed.status, failed.spec["data_fingerprint"]) == ("failed", "other")


def test_a_run_that_was_killed_before_it_said_anything_is_no_run_yet(spec, tmp_path):
    (
        tmp_path / "record.sqlite"
    ).touch()  # what SQLite leaves when it is killed before its first transaction
    assert status_of(tmp_path) is None
    assert execute(RunTask(spec, tmp_path), ignore) == RunResult("finished")


def test_leftovers_of_a_killed_process_are_cleared_away(spec, tmp_path):
    (tmp_path / ".weights-1a2b3c.pt").touch()
    execute(RunTask(spec, tmp_path), ignore)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "record.sqlite",
        "run.lock",
        "spec.json",
        "weights.pt",
    ]


def test_data_that_changes_in_one_process_is_read_again(spec, tmp_path, monkeypatch):
    loads = []
    original = runner.sources.load
    monkeypatch.setattr(
        runner.sources, "load", lambda *a, **k: loads.append(1) or original(*a, **k)
    )
    for fingerprint in ("one", "two"):
        execute(
            RunTask(
                dataclasses.replace(spec, data_fingerprint=fingerprint), tmp_path / fingerprint
            ),
            ignore,
        )
    assert len(loads) == 2


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_disk_that_is_really_full_is_a_storage_error(spec, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], check=False
    ).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        result = execute(RunTask(spec, disk / "run"), ignore)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (result.status, result.storage_failed) == ("failed", True)
    assert "Cannot write" in str(result.error)


def test_a_full_disk_stops_the_study_and_keeps_what_is_finished(
    finished, spec, tmp_path, monkeypatch
):
    def full(*_):
        raise StorageError("Cannot write record.sqlite: database or disk is full.")

    monkeypatch.setattr(runner.StoreEpochs, "on_epoch", full)
    tasks = [RunTask(spec, finished), RunTask(spec, tmp_path / "a"), RunTask(spec, tmp_path / "b")]
    ended = []
    with pytest.raises(StorageError, match="disk is full"):
        execute_all(tasks, TrainsHere(), ignore, lambda task, result: ended.append(result.status))
    assert ended == ["finished"]
    assert not (tmp_path / "b").exists()
    assert load_run(finished).status == "finished"


def test_processes_train_the_same_bits_and_report(finished, spec, tmp_path):
    messages, ended = [], {}
    tasks = [RunTask(dataclasses.replace(spec, seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    execute_all(
        tasks,
        ProcessExecutor(2),
        messages.append,
        lambda task, result: ended.update({task.directory.name: result}),
    )
    assert ended == {"0": RunResult("finished"), "1": RunResult("finished")}
    assert contents(tmp_path / "0") == contents(finished)
    assert {(message.run, message.epochs_done) for message in messages} >= {("0", 3), ("1", 3)}
    assert not np.array_equal(
        load_run(tmp_path / "1").column("train_loss"), load_run(finished).column("train_loss")
    )


def test_a_run_that_another_process_trains_is_waited_for(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("normscope.studies.executors.SECONDS_BETWEEN_TRIES", 0.01)
    answers = iter([RunResult("busy"), RunResult("busy"), RunResult("finished")])

    class Scripted:
        def run(self, tasks, report):
            for task in tasks:
                yield task, next(answers)

    ended = []
    execute_all(
        [RunTask(spec, tmp_path)],
        Scripted(),
        ignore,
        lambda task, result: ended.append(result.status),
    )
    assert ended == ["finished"]
