import sqlite3

import numpy as np
import pytest

from normscope.errors import InputError, RecordError, StorageError
from normscope.records.schema import FORMAT_VERSION
from normscope.records.store import reader, writer
from planting import plant
from warm_processes import run_python


@pytest.fixture
def path(tmp_path):
    with writer(tmp_path / "record.sqlite", "run") as store, store.transaction():
        store.set_meta(spec={"norm": "batch"}, status="finished")
        store.add_epoch(1, {"loss": 2.5, "accuracy": 0.5})
        store.add_epoch(2, {"loss": float("inf"), "accuracy": 0.75, "late": 1.0})
        store.add_array("bn1", "mean", np.arange(3.0), first_step=7, epoch=1)
        store.add_array("bn1", "mean", np.arange(3.0) + 1, first_step=9, last_step=11)
        store.add_array("bn2", "mean", np.arange(2.0), first_step=8)
        store.add_event("first_non_finite", 12, epoch=2, layer="bn1", detail={"tensor": "output"})
        store.set_resume_state(2, b"state")
    return tmp_path / "record.sqlite"


def test_everything_that_is_written_is_read(path):
    with reader(path, "run") as store:
        assert store.meta() == {"kind": "run", "spec": {"norm": "batch"}, "status": "finished"}
        epochs = store.epochs()
        np.testing.assert_array_equal(epochs["epoch"], [1, 2])
        np.testing.assert_array_equal(epochs["loss"], [2.5, np.nan])
        np.testing.assert_array_equal(epochs["late"], [np.nan, 1])
        blocks = [
            (layer, first, last, epoch, array.tolist())
            for layer, _, first, last, epoch, array in store.arrays("bn1")
        ]
        assert blocks == [("bn1", 7, 7, 1, [0, 1, 2]), ("bn1", 9, 11, None, [1, 2, 3])]
        assert [layer for layer, *_ in store.arrays(statistic="mean")] == ["bn1", "bn2", "bn1"]
        (event,) = store.events("first_non_finite")
        assert event == {
            "step": 12, "epoch": 2, "kind": "first_non_finite", "layer": "bn1",
            "detail": {"tensor": "output"},
        }  # fmt: skip
        assert store.resume_state() == (2, b"state")


def test_a_transaction_that_fails_leaves_nothing(path):
    with writer(path, "run") as store:
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.add_epoch(3, {"loss": 1.0})
            _ = 1 / 0
        assert len(store.epochs()["epoch"]) == 2
        with store.transaction():
            store.add_epoch(3, {"loss": 1.0})
        assert len(store.epochs()["epoch"]) == 3


def test_dropping_the_resume_state_gives_its_space_back(path):
    with writer(path, "run") as store:
        with store.transaction():
            store.set_resume_state(2, bytes(1_000_000))
        large = path.stat().st_size
        with store.transaction():
            store.drop_resume_state()
        store.compact()
        assert store.resume_state() is None
    assert path.stat().st_size < large - 900_000


def test_a_killed_writer_leaves_whole_epochs(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from normscope.records.store import writer
store = writer(Path(sys.argv[1]), "run")
with store.transaction():
    store.add_epoch(1, {"loss": 1.0})
with store.transaction():
    store.add_epoch(2, {"loss": 2.0})
    store.set_resume_state(2, bytes(8_000_000))  # more than the page cache holds back
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "record.sqlite"
    ended = run_python("-c", script, path)
    assert ended.returncode == -9
    assert path.with_name(
        "record.sqlite-journal"
    ).exists()  # a reader must roll back what the writer left
    for opened in (reader(path, "run"), writer(path, "run")):
        with opened as store:
            assert store.epochs()["epoch"].tolist() == [1]
            assert store.resume_state() is None


def test_a_full_disk_is_a_storage_error_and_keeps_what_was_there(path):
    with writer(path, "run") as store:
        pages = store.connection.execute("PRAGMA page_count").fetchone()[0]
        store.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with (
            pytest.raises(StorageError, match=r"record\.sqlite: database or disk is full"),
            store.transaction(),
        ):
            store.add_epoch(3, {"loss": 1.0})
            store.set_resume_state(3, bytes(1_000_000))
    with reader(path) as store:
        assert len(store.epochs()["epoch"]) == 2
        assert store.resume_state() == (2, b"state")


def test_a_reader_cannot_write(path):
    with reader(path) as store, pytest.raises(StorageError), store.transaction():
        store.set_meta(status="failed")


def _not_sqlite(path):
    path.write_bytes(b"PK\x03\x04 something else" * 100)


def _empty(path):
    path.write_bytes(b"")


def _foreign_sqlite(path):
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE meta (key, value)")
    connection.commit()
    connection.close()


def _truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _alter(*statements):
    return lambda path: plant(path, *statements)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_not_sqlite, "not a normscope record"),
        (_empty, "not a normscope record"),
        (_foreign_sqlite, "not a normscope record"),
        (_truncated, "not a normscope record|cannot be read|damaged"),
        (
            _alter(f"PRAGMA user_version = {FORMAT_VERSION + 1}"),
            "record of format 3; this normscope reads formats 1 and 2",
        ),
        (_alter("DROP TABLE epochs"), "tables are not those of a record"),
        (
            _alter("DROP TABLE arrays", "CREATE VIEW arrays AS SELECT * FROM meta"),
            "tables are not those of a record",
        ),
        (_alter("UPDATE meta SET value = 'NaN]' WHERE key = 'spec'"), "not JSON"),
        (
            _alter("UPDATE meta SET value = '\"recording\"' WHERE key = 'kind'"),
            "of a recording, not of a run",
        ),
        (_alter("UPDATE epochs SET value = 'text'"), "no number"),
        (_alter("UPDATE arrays SET shape = '[999999999]'"), "ask for"),
        (_alter("UPDATE arrays SET first_step = 'soon'"), "no step"),
        (_alter("UPDATE events SET detail = '{'"), "not JSON"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(path, damage, message):
    damage(path)
    with pytest.raises(RecordError, match=message) as caught, reader(path, "run") as store:
        store.meta(), store.epochs(), list(store.arrays()), store.events()
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no record at"):
        reader(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


def test_opening_for_writing_does_not_touch_a_foreign_file(tmp_path):
    path = tmp_path / "thesis.sqlite"
    _foreign_sqlite_at(path)
    before = path.read_bytes()
    with pytest.raises(RecordError):
        writer(path, "run")
    assert path.read_bytes() == before


def _foreign_sqlite_at(path):
    path.touch()
    _foreign_sqlite(path)
