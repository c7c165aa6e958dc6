"""Watched runs: the same bits, and one whole recording even if the process is killed."""

import dataclasses
import io

import pytest
import torch
from killed_runs import kill_and_resume
from rich.console import Console

from normscope import fused
from normscope.commands.compare import CompareOptions, compare
from normscope.errors import InputError, StorageError
from normscope.records.recording import Recording
from normscope.records.recording_parts import FilePart
from normscope.studies import runner
from normscope.studies.grid import lay_out
from normscope.studies.run_recording import ByEpoch
from normscope.studies.runner import RunTask, execute
from normscope.studies.spec import Recipe

OPTIONS = CompareOptions(
    classes=("3", "8"), norms=("batch", "none", "group"), learning_rates=(0.1,), seeds=1, epochs=3,
    device="cpu",
    precision="fp32", fusion="off", recipe=Recipe(widths=(8, 8, 8), blocks_per_stage=1,
                                                  batch_size=64),
)  # fmt: skip
STEPS = 5  # of an epoch: 287 images


def ignore(_):
    pass


@pytest.fixture(scope="module")
def specs():
    return {spec.norm: spec for spec in lay_out(OPTIONS).specs}


@pytest.fixture(scope="module")
def watched(specs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("watched")
    assert execute(RunTask(specs["batch"], directory, watch=True), ignore).status == "finished"
    return directory


def weights(directory):
    return torch.load(directory / "weights.pt", weights_only=True)


def same_weights(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def contents(directory):
    """Everything in a recording that does not depend on the clock."""
    recording = Recording.load(directory / "recording.sqlite")
    values = {
        (layer, statistic): [array.tobytes() for array in recording.query(layer, statistic)]
        for layer in recording.layers
        for statistic in recording.statistics(layer)
    }
    header = dataclasses.asdict(recording.header)
    steps = header.pop("cost")["steps"]
    return values, recording.marks, recording.notes, recording.non_finite, header, steps


@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_a_watched_run_ends_with_the_bits_of_an_unwatched_one(specs, norm, tmp_path):
    for name, watch in (("plain", False), ("watched", True)):
        assert (
            execute(RunTask(specs[norm], tmp_path / name, watch=watch), ignore).status == "finished"
        )
    assert same_weights(tmp_path / "plain", tmp_path / "watched")
    assert not (tmp_path / "plain" / "recording.sqlite").exists()
    assert Recording.load(tmp_path / "watched" / "recording.sqlite").complete


@pytest.mark.skipif(fused.availability() is not None, reason="no compiler")
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_watched_fused_run_ends_with_the_bits_of_an_unwatched_one(
    specs, norm, tmp_path, monkeypatch
):
    monkeypatch.setattr(fused, "LEAST_NUMBERS", 1)
    spec = dataclasses.replace(specs[norm], fusion=True, epochs=1, capture_epochs=())
    for name, watch in (("plain", False), ("watched", True)):
        assert execute(RunTask(spec, tmp_path / name, watch=watch), ignore).status == "finished"
    assert same_weights(tmp_path / "plain", tmp_path / "watched")
    recording = Recording.load(tmp_path / "watched" / "recording.sqlite")
    assert {info.activation for info in recording.layers.values()} == {"relu"}


def test_only_training_steps_are_recorded_and_epochs_are_marked(watched):
    recording = Recording.load(watched / "recording.sqlite")
    assert recording.cost.steps == 3 * STEPS
    assert recording.epochs == {1: 0, 2: STEPS, 3: 2 * STEPS}
    assert len(recording.layers) == 9
    for layer in recording.layers:
        steps, training = recording.query(layer, "training")
        assert training.all()
        assert steps.tolist() == list(range(1, 3 * STEPS + 1))
        assert recording.query(layer, "num_batches_tracked")[1].ravel().tolist() == steps.tolist()
        # the first and the last epoch at every step, the one between them once
        assert recording.query(layer, "histogram")[0].tolist() == [
            1,
            2,
            3,
            4,
            5,
            6,
            11,
            12,
            13,
            14,
            15,
        ]


def test_intervals_by_epoch():
    interval = ByEpoch(steps_per_epoch=100, epochs=4, per_epoch=2, per_shown_epoch=10)
    due = [step for step in range(1, 401) if interval(step)]
    assert due == [*range(1, 101, 10), 101, 151, 201, 251, *range(301, 401, 10)]


MOMENTS = {
    "first step": "kill_at_step(1, 0)",
    "in the second epoch, behind a flush": "flush_at_step(2, 1), kill_at_step(2, 3)",
    "between the recording and the epoch": "kill_in_transaction(2)",
    "after an epoch": "kill_after_epoch(2)",
    "before the status": "kill_before(run_record.Store, 'drop_resume_state')",
}


def test_killed_and_resumed_a_run_has_the_recording_of_an_uninterrupted_one(
    specs, watched, tmp_path
):
    kill_and_resume(specs["batch"], MOMENTS, tmp_path, watch=True)
    expected = contents(watched)
    for index, moment in enumerate(MOMENTS):
        assert same_weights(watched, tmp_path / str(index)), moment
        assert contents(tmp_path / str(index)) == expected, moment


def test_the_residual_stream_is_recorded_where_it_is_asked_for(specs, watched, tmp_path):
    task = RunTask(specs["batch"], tmp_path / "run", watch=True, stream=True)
    assert execute(task, ignore).status == "finished"
    recording = Recording.load(tmp_path / "run" / "recording.sqlite")
    assert any("stream" in recording.statistics(layer) for layer in recording.layers)
    assert same_weights(watched, tmp_path / "run")


def test_a_residual_stream_without_a_recording_is_refused():
    with pytest.raises(InputError, match="give --watch, too"):
        lay_out(dataclasses.replace(OPTIONS, stream=True))


def test_a_finished_run_without_a_recording_is_trained_again_for_it(specs, watched, tmp_path):
    assert not execute(RunTask(specs["batch"], tmp_path), ignore).note
    record = (tmp_path / "record.sqlite").read_bytes()
    result = execute(RunTask(specs["batch"], tmp_path, watch=True), ignore)
    assert (result.status, result.note) == (
        "finished",
        "trained again to the same weights for its recording",
    )
    assert contents(tmp_path) == contents(watched)
    assert (tmp_path / "record.sqlite").read_bytes() == record
    assert not execute(RunTask(specs["batch"], tmp_path, watch=True), ignore).note


def test_a_recording_of_other_weights_is_not_kept(specs, watched, tmp_path):
    execute(RunTask(specs["batch"], tmp_path), ignore)
    other = weights(tmp_path)
    bits = other["layer1.0.bn1.weight"].view(torch.int32)
    bits[0] += 1
    torch.save(other, tmp_path / "weights.pt")
    result = execute(RunTask(specs["batch"], tmp_path, watch=True), ignore)
    assert result.status == "finished"
    assert "other weights (layer1.0.bn1.weight)" in result.note
    assert [item.name for item in tmp_path.iterdir() if "recording" in item.name] == []


def test_a_run_that_was_begun_unwatched_is_recorded_when_it_is_over(
    specs, watched, tmp_path, monkeypatch
):
    def stop(self, epoch):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.ProgressCallback, "on_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(RunTask(specs["batch"], tmp_path), ignore)
    monkeypatch.undo()
    result = execute(RunTask(specs["batch"], tmp_path, watch=True), ignore)
    assert "trained again" in result.note
    assert contents(tmp_path) == contents(watched)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_ends_the_recording_and_not_the_run(
    specs, watched, tmp_path, monkeypatch, writes
):
    original, left = FilePart.write, [writes]

    def write(self, batch):
        if not left[0]:
            raise StorageError("Cannot write recording.sqlite: database or disk is full.")
        left[0] -= 1
        original(self, batch)

    monkeypatch.setattr(FilePart, "write", write)
    with pytest.warns(UserWarning, match="The recording stopped") as told:
        result = execute(RunTask(specs["batch"], tmp_path, watch=True), ignore)
    assert len(told) == 1
    assert result.status == "finished"
    assert "not recorded" in result.note
    assert same_weights(watched, tmp_path)
    monkeypatch.undo()
    assert "trained again" in execute(RunTask(specs["batch"], tmp_path, watch=True), ignore).note
    assert contents(tmp_path) == contents(watched)


def test_compare_says_that_it_trains_again_for_a_recording(tmp_path, blank_figures):
    options = dataclasses.replace(
        OPTIONS, norms=("batch",), epochs=1, capture_epochs=(), jobs=1, out=tmp_path
    )
    texts = []
    for watch in (False, True, True):
        told = io.StringIO()
        compare(dataclasses.replace(options, watch=watch), console=Console(file=told, width=200))
        texts.append(told.getvalue())
    first, again, last = texts
    assert "recording" not in first
    assert (
        "1 of 1 runs are finished without a recording: they are trained again, to the same weights"
        in again
    )
    assert "trained again to the same weights for its recording" in again
    assert "1 of 1 runs are finished already" in last
