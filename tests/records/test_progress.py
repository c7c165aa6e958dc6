"""How far a study is: planned, ended and in training, from its files and the locks of its runs."""

import subprocess
import sys

import pytest
from filelock import FileLock

from normscope.records.progress import (
    LOCK_NAME,
    PLAN_NAME,
    Progress,
    is_training,
    planned_runs,
    read_progress,
    write_plan,
)
from normscope.records.run import RECORD_NAME, RUNS
from normscope.records.store import writer
from normscope.studies.directory import RunDirectory


def begun(study, name, status="interrupted"):
    folder = study / RUNS / name
    folder.mkdir(parents=True)
    with writer(folder / RECORD_NAME, "run") as store, store.transaction():
        store.set_meta(status=status)
    return folder


def test_a_run_is_in_training_as_long_as_its_lock_is_held(tmp_path):
    run = begun(tmp_path, "a")
    assert not is_training(run)  # no lock yet
    with RunDirectory(run).locked() as ours:
        assert ours
        assert is_training(run)
    assert not is_training(run)
    assert (run / LOCK_NAME).exists()  # a lock that is left lying is not a training


def test_a_process_that_was_killed_trains_no_more(tmp_path):
    run = begun(tmp_path, "a")
    code = (
        "import sys, time; from filelock import FileLock;"
        "lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(run / LOCK_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert is_training(run)
        process.kill()
        process.wait()
        assert not is_training(run)


def test_looking_leaves_the_lock_to_whoever_trains(tmp_path):
    run = begun(tmp_path, "a")
    (run / LOCK_NAME).touch()
    is_training(run)
    with RunDirectory(run).locked() as ours:
        assert ours


def test_the_numbers_are_of_what_was_planned(tmp_path):
    begun(tmp_path, "a", "finished")
    begun(tmp_path, "b", "diverged")
    begun(tmp_path, "other", "finished")  # of an earlier command
    training = begun(tmp_path, "c")
    write_plan(tmp_path, ["a", "b", "c", "d"])
    with FileLock(training / LOCK_NAME):
        assert read_progress(tmp_path) == Progress(planned=4, ended=2, training=1)
    assert read_progress(tmp_path) == Progress(planned=4, ended=2, training=0)
    (tmp_path / PLAN_NAME).unlink()  # a study of an earlier version
    assert read_progress(tmp_path) == Progress(planned=4, ended=3, training=0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"runs": 3}', "null", "[" * 100_000])
def test_a_plan_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / PLAN_NAME).write_text(text)
    assert planned_runs(tmp_path) == []


def test_a_damaged_record_is_a_run_that_has_not_ended(tmp_path):
    begun(tmp_path, "a", "finished")
    (begun(tmp_path, "b") / RECORD_NAME).write_bytes(b"no record")
    assert read_progress(tmp_path) == Progress(planned=2, ended=1, training=0, damaged=1)


@pytest.mark.parametrize(
    ("progress", "state", "text"),
    [
        (Progress(51, 12, 2), "training", "Training: 12 of 51 runs done, 2 in training."),
        (Progress(51, 12, 0), "waiting", "Waiting: 12 of 51 runs done, none in training now."),
        (Progress(51, 51, 0), "finished", "Finished: 51 of 51 runs done."),
        (Progress(1, 1, 0), "finished", "Finished: 1 of 1 run done."),
        (Progress(0, 0, 0), "waiting", "Waiting: no run has begun."),
    ],
)
def test_the_state_in_a_sentence(progress, state, text):
    assert (progress.state, progress.text) == (state, text)
