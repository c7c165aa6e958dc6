"""Runs of a worker that does not see the study's folder. Nothing here needs Ray."""

import os
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from run_cases import OPTIONS, ignore

from normscope.errors import StorageError
from normscope.records.run import load_run
from normscope.studies.directory import RunDirectory
from normscope.studies.executors import ray_worker
from normscope.studies.executors.ray_worker import (
    FolderNotShared,
    RunRequest,
    perform,
    read_files,
    write_files,
)
from normscope.studies.grid import lay_out
from normscope.studies.runner import RunResult, RunTask, execute, record_failure


@pytest.fixture(scope="module")
def spec():
    return lay_out(OPTIONS).specs[0]


def test_a_worker_that_does_not_see_the_token_does_nothing(spec, tmp_path):
    task = RunTask(spec, tmp_path / "runs" / "run")
    assert list(perform(RunRequest(task, tmp_path / "token"))) == [FolderNotShared()]
    assert not task.directory.exists()


def test_an_error_outside_of_the_run_reaches_whoever_listens(spec, tmp_path, monkeypatch):
    def broken(*_):
        raise MemoryError("none left")

    monkeypatch.setattr(ray_worker, "execute", broken)
    (tmp_path / "token").touch()
    with pytest.raises(MemoryError, match="none left"):
        list(perform(RunRequest(RunTask(spec, tmp_path / "run"), tmp_path / "token")))


def test_a_worker_waits_for_a_lock_that_is_about_to_be_let_go(spec, tmp_path, monkeypatch):
    (tmp_path / "token").touch()
    results = iter([RunResult("busy"), RunResult("busy"), RunResult("finished")])
    monkeypatch.setattr(ray_worker, "execute", lambda *_: next(results))
    monkeypatch.setattr(ray_worker, "SECONDS_BETWEEN_TRIES", 0.001)
    request = RunRequest(RunTask(spec, tmp_path / "run"), tmp_path / "token", patience=10.0)
    assert list(perform(request)) == [RunResult("finished")]


def test_a_full_disk_of_a_worker_is_not_the_studys(spec, tmp_path, monkeypatch):
    full = RunResult(
        "failed", "Cannot write record.sqlite: database or disk is full.", storage_failed=True
    )
    monkeypatch.setattr(ray_worker, "execute", lambda *_: full)
    *_, result = perform(RunRequest(RunTask(spec, tmp_path / "run"), tmp_path / "token", files={}))
    assert (result.status, result.error, result.storage_failed) == ("failed", full.error, False)


def test_the_journal_of_a_killed_writer_is_not_rolled_back_into_what_comes(tmp_path):
    for place, value in (("here", "old"), ("there", "new")):
        (tmp_path / place).mkdir()
        with sqlite3.connect(tmp_path / place / "record.sqlite") as connection:
            connection.execute("CREATE TABLE t (v)")
            connection.execute("INSERT INTO t VALUES (?)", (value,))
        connection.close()
    (tmp_path / "here" / "record.sqlite-journal").write_bytes(
        b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504)
    )
    write_files(read_files(tmp_path / "there"), tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["record.sqlite"]
    with sqlite3.connect(tmp_path / "here" / "record.sqlite") as connection:
        assert connection.execute("SELECT v FROM t").fetchall() == [("new",)]
    connection.close()


def test_what_came_back_and_cannot_be_kept_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write to"):
        write_files({"spec.json": b"{}"}, tmp_path / "file" / "run")


def test_the_record_is_written_last(tmp_path, monkeypatch):
    written = []
    original = ray_worker.written_aside
    monkeypatch.setattr(
        ray_worker, "written_aside", lambda path: written.append(path.name) or original(path)
    )
    write_files(
        {"record.sqlite": b"r", "weights.pt": b"w", "spec.json": b"s", "../evil": b"e"},
        tmp_path / "run",
    )
    assert written == ["spec.json", "weights.pt", "record.sqlite"]
    assert not (tmp_path / "evil").exists()


def test_folders_of_killed_workers_are_removed_and_others_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("old", "used", "young"):
        with RunDirectory(tmp_path / f"normscope-ray-{name}").locked():
            pass
    for name in ("old", "used"):
        os.utime(tmp_path / f"normscope-ray-{name}", (time.time() - 100,) * 2)
    with (
        RunDirectory(tmp_path / "normscope-ray-used").locked(),
        ray_worker._temporary_folder() as folder,
    ):
        assert folder.is_dir()
        assert {path.name for path in tmp_path.iterdir()} == {
            "normscope-ray-used", "normscope-ray-young", folder.name,
        }  # fmt: skip
    assert not Path(folder).exists()


def test_a_failure_that_is_recorded_from_outside_leaves_the_run_its_threads(spec, tmp_path):
    task = RunTask(spec, tmp_path / "run")
    task.directory.mkdir()
    assert record_failure(task, "its worker died") == RunResult("failed", "its worker died")
    failed = load_run(task.directory)
    assert (failed.status, failed.meta["error"], failed.spec["norm"]) == (
        "failed",
        "its worker died",
        "batch",
    )
    assert "threads" not in failed.meta
    assert execute(task, ignore) == RunResult("finished")
    assert load_run(task.directory).meta["error"] is None
