"""A recording never harms a training, and one with a hole is never complete."""

import math
import os
import signal
import sqlite3
import warnings

import pytest
import torch
from torch import nn

import normscope
from normscope import Recording
from normscope.errors import InputError, NormscopeWarning
from normscope.records import store
from normscope.records.recording_parts import FilePart


class Loop:
    """A small training that is watched; `steps` trains on, and forgets no warning."""

    def __init__(self, **settings):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.watcher = normscope.watch(self.model, optimizer=self.optimizer, **settings)

    def steps(self, count):
        for _ in range(count):
            self.optimizer.zero_grad()
            self.model(torch.randn(8, 4)).square().sum().backward()
            self.optimizer.step()


def assert_stopped(path, caught, steps):
    """The recording holds the steps of its last whole flush, says that it stopped, and one warning
    has said so.
    """
    ours = [str(w.message) for w in caught if issubclass(w.category, NormscopeWarning)]
    assert len(ours) == 1, ours
    assert "The recording stopped" in ours[0]
    if path is not None:
        recording = Recording.load(path)
        assert not recording.complete
        assert recording.query("1", "batch_mean")[0].tolist() == list(range(1, steps + 1))


@pytest.fixture
def failing(monkeypatch):
    """Make writes fail: give it a list, and each write pops an error from it."""
    errors = []
    write = FilePart.write

    def fails(self, batch):
        if errors and (error := errors.pop(0)) is not None:
            raise error
        write(self, batch)

    monkeypatch.setattr(FilePart, "write", fails)
    return errors


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), KeyboardInterrupt(), MemoryError(), SystemExit(3)]
)
def test_a_write_that_fails_once_leaves_no_hole(error, failing, tmp_path):
    path = tmp_path / "r.sqlite"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = Loop(path=path)
        loop.steps(3)
        loop.watcher.flush()
        loop.steps(2)
        failing.append(error)
        loop.watcher.flush()
        assert not loop.watcher.active
        loop.watcher.mark(epoch=2)
        loop.steps(2)
        loop.watcher.flush()
        loop.watcher.close()
    assert_stopped(path, caught, 3)
    assert "No space" in Recording.load(path).stopped or not isinstance(error, OSError)


def test_a_database_that_somebody_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    path = tmp_path / "r.sqlite"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = Loop(path=path)
        loop.steps(2)
        loop.watcher.flush()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        loop.steps(1)
        loop.watcher.flush()
        other.execute("ROLLBACK")
        other.close()
        loop.steps(1)
        loop.watcher.close()
    assert_stopped(path, caught, 2)


@pytest.mark.parametrize("how", ["removed", "replaced", "a folder"])
def test_a_file_that_is_not_there_any_more_is_not_made_anew(how, tmp_path):
    path = tmp_path / "r.sqlite"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = Loop(path=path)
        loop.steps(2)
        loop.watcher.flush()
        path.rename(tmp_path / "moved.sqlite")
        if how == "a folder":
            path.mkdir()
        if how == "replaced":
            normscope.watch(nn.BatchNorm1d(3), path=path).close(quiet=True)
        before = path.read_bytes() if how == "replaced" else None
        loop.steps(2)
        loop.watcher.close()
    assert_stopped(tmp_path / "moved.sqlite", caught, 2)
    assert before is None or path.read_bytes() == before
    assert how != "removed" or not path.exists()


def test_a_loop_that_changes_its_folder_records_into_one_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    loop = Loop(path="r.sqlite")
    loop.steps(2)
    os.chdir("elsewhere")
    loop.steps(2)
    loop.watcher.close(quiet=True)
    recording = Recording.load(tmp_path / "r.sqlite")
    assert recording.complete
    assert recording.query("1", "batch_mean")[0].tolist() == [1, 2, 3, 4]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_marks_that_json_has_no_number_for(tmp_path):
    loop = Loop(path=tmp_path / "r.sqlite")
    loop.watcher.mark(loss=math.nan, best=-math.inf, epoch=1)
    loop.steps(1)
    loop.watcher.close(quiet=True)
    (mark,) = Recording.load(tmp_path / "r.sqlite").marks
    assert mark == {"step": 0, "loss": "nan", "best": "-inf", "epoch": 1}
    with pytest.raises(InputError, match="is closed"):
        loop.watcher.mark(epoch=2)


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        ("half \ud83d", "half \\ud83d"),
        (os.fsdecode(b"f\xff.png"), "f\\udcff.png"),
        ("\ud83d\ude00", "\\ud83d\\ude00"),
        ("whole \U0001f600", "whole \U0001f600"),
        (10**4000, hex(10**4000)),
        (-(2**70), hex(-(2**70))),
        (2**62, 2**62),
    ],
)
def test_whatever_is_marked_can_be_read(label, kept, tmp_path):
    loop = Loop(path=tmp_path / "r.sqlite")
    loop.watcher.mark(a=label)
    loop.steps(1)
    loop.watcher.close(quiet=True)
    recording = Recording.load(tmp_path / "r.sqlite")
    assert recording.complete
    assert recording.marks == [{"step": 0, "a": kept}]


def test_more_than_readers_take_is_not_written(tmp_path):
    """It would make the whole recording unreadable."""
    loop = Loop(path=tmp_path / "r.sqlite")
    loop.steps(2)
    loop.watcher.flush()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.watcher.mark(a="x" * (9 << 20))
        loop.steps(1)
        loop.watcher.close(quiet=True)
    assert_stopped(tmp_path / "r.sqlite", caught, 2)


def test_layers_whose_names_no_encoding_has(tmp_path):
    model = nn.Sequential()
    model.add_module("a\ud800", nn.BatchNorm1d(4))
    watcher = normscope.watch(model, path=tmp_path / "r.sqlite")
    model(torch.randn(8, 4))
    watcher.close(quiet=True)
    recording = Recording.load(tmp_path / "r.sqlite")
    assert list(recording.layers) == ["a\\ud800"]
    assert recording.query("a\\ud800", "batch_mean")[0].tolist() == [1]


class Sink:
    def __init__(self, does):
        self.does, self.calls = does, 0

    def flushed(self, recording):
        self.calls += 1
        self.does()

    def close(self):
        self.does()


def raises(error):
    def does():
        raise error

    return does


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_sink_that_ends_programs_is_ended(error, tmp_path):
    sink = Sink(raises(error))
    loop = Loop(path=tmp_path / "r.sqlite", sinks=[sink])
    loop.steps(1)
    with pytest.warns(NormscopeWarning, match="Listener Sink failed and was disabled"):
        loop.watcher.flush()
    loop.steps(1)
    loop.watcher.close(quiet=True)
    assert sink.calls == 1
    assert Recording.load(tmp_path / "r.sqlite").complete


def test_ctrl_c_in_a_sink_reaches_the_program(tmp_path):
    sink = Sink(lambda: signal.raise_signal(signal.SIGINT))
    loop = Loop(path=tmp_path / "r.sqlite", sinks=[sink])
    loop.steps(1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.watcher.flush()
    assert signal.getsignal(signal.SIGINT) is before
    sink.does = lambda: None
    loop.steps(1)
    loop.watcher.close(quiet=True)
    recording = Recording.load(tmp_path / "r.sqlite")
    assert recording.complete
    assert recording.query("1", "batch_mean")[0].tolist() == [1, 2]


@pytest.mark.parametrize("when", range(1, 9))
def test_ctrl_c_inside_a_write_comes_when_it_is_whole(when, tmp_path, monkeypatch):
    """Pressed before each of a write's statements."""
    loop = Loop(path=tmp_path / "r.sqlite")
    loop.steps(2)
    seen, connect = [], sqlite3.connect

    def traced(*arguments, **settings):
        connection = connect(*arguments, **settings)

        def count(statement):
            seen.append(statement)
            if len(seen) == when:
                os.kill(os.getpid(), signal.SIGINT)

        connection.set_trace_callback(count)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    with pytest.raises(KeyboardInterrupt):
        loop.watcher.flush()
    assert len(seen) > when
    monkeypatch.setattr(sqlite3, "connect", connect)
    loop.steps(1)
    loop.watcher.close(quiet=True)
    recording = Recording.load(tmp_path / "r.sqlite")
    assert recording.complete
    assert recording.query("1", "batch_mean")[0].tolist() == [1, 2, 3]


def test_closing_needs_no_standard_error(tmp_path, monkeypatch):
    loop = Loop(path=tmp_path / "r.sqlite")
    loop.steps(1)
    with open(os.devnull, "w") as closed:  # noqa: PTH123
        pass
    monkeypatch.setattr("sys.stderr", closed)
    loop.watcher.close()
    assert Recording.load(tmp_path / "r.sqlite").complete
