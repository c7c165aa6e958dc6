"""A record is created whole or not at all, wherever the process that makes it is killed."""

import gc
import os
import resource
import signal
import sqlite3
import sys
import warnings

import pytest

from normscope.errors import NormscopeError
from normscope.records.recording import Recording
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.records.run import status_of
from normscope.records.store import reader, writer

SPEC = {
    "norm": "batch", "learning_rate": 0.1, "seed": 0, "epochs": 1, "data": "digits", "model": "net"
}  # fmt: skip
META = {"spec": SPEC, "status": "interrupted"}


def make_run(folder):
    with writer(folder / "record.sqlite", "run", **META) as store:
        return store.meta()


def make_recording(folder):
    path = folder / "recording.sqlite"
    header = Header("Net", "forward", {}, [LayerInfo("norm", "BatchNorm1d", "batch")], {}, "cpu")
    FilePart(path, None if path.exists() else header).write(Batch(header))


KINDS = {"run": (make_run, "record.sqlite"), "recording": (make_recording, "recording.sqlite")}


def in_child(what):
    """The exit status of a fork in which it ran: negative for a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        gc.disable()  # a collection would touch, and so copy, all that this process has loaded
        try:
            what()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step, make, folder):
    """Run a child that is killed before its step-th SQL statement or change of a folder."""
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    connect = sqlite3.connect

    def traced(*arguments, **settings):
        connection = connect(*arguments, **settings)
        connection.set_trace_callback(count)
        return connection

    def audit(event, arguments):
        if event in ("os.link", "os.remove", "os.rename", "sqlite3.connect"):
            count()

    def run():
        sqlite3.connect = traced
        sys.addaudithook(audit)
        make(folder)

    return in_child(run)


def killed_when_a_file_grows(size, make, folder):
    """Run a child that the kernel ends at the write that goes beyond a size: inside a commit."""

    def run():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        make(folder)

    return in_child(run)


def assert_whole_or_absent(path):
    if path.exists():
        with reader(path) as store:
            assert store.meta().keys() > {"kind"}
        if path.name == "record.sqlite":
            assert status_of(path.parent) == "interrupted"
        else:
            assert list(Recording.load(path).layers) == ["norm"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("killed", [killed_at, killed_when_a_file_grows])
def test_killed_at_every_step(kind, killed, tmp_path):
    make, name = KINDS[kind]
    moments = range(1, 200) if killed is killed_at else range(0, 1 << 20, 2048)
    deaths = 0
    for moment in moments:
        folder = tmp_path / str(moment)
        folder.mkdir()
        status = killed(moment, make, folder)
        assert status in (0, -signal.SIGKILL, -signal.SIGXFSZ)
        assert_whole_or_absent(folder / name)
        if status == 0:
            break
        deaths += 1
        again = folder / name
        make(folder)  # the same command goes on
        assert again.exists()
        assert_whole_or_absent(again)
        assert [entry.name for entry in folder.iterdir()] == [name]
    assert deaths > 10
    assert status == 0


def test_what_a_dead_process_left_is_not_taken_for_ones_own(tmp_path):
    """Killed before it could name its file: the next that makes the record writes its own meta."""

    def die(event, arguments):
        if event == "os.link":
            os.kill(os.getpid(), signal.SIGKILL)

    def run():
        sys.addaudithook(die)
        with writer(tmp_path / "record.sqlite", "run", spec={"norm": "none"}, status="failed"):
            pass

    assert in_child(run) == -signal.SIGKILL
    assert [entry.name for entry in tmp_path.iterdir()] == [".record.sqlite.new"]
    assert make_run(tmp_path) == {"kind": "run", **META}


def test_several_that_make_one_record_at_a_time_agree(tmp_path):
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if make_run(tmp_path)["spec"] == META["spec"] else 2)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.sqlite"]


def test_without_hard_links_it_is_renamed(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert make_run(tmp_path) == {"kind": "run", **META}
    assert make_run(tmp_path) == {"kind": "run", **META}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.sqlite"]


def test_a_folder_that_is_gone_is_said(tmp_path):
    with pytest.raises(NormscopeError, match=r"Cannot open .*[^.]record.sqlite for writing"):
        make_run(tmp_path / "gone")
