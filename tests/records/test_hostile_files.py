"""Files that somebody sent: what is in the place of a record, and what is in it."""

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from normscope.errors import InputError, RecordError, StorageError
from normscope.records.files import this_process, written_aside
from normscope.records.recording import Recording
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.records.regular_files import decode_json, read_json
from normscope.records.run import load_run, run_folders
from normscope.records.store import reader, writer
from normscope.show.report.report_data import load_report_data
from planting import plant

sys.path.insert(0, str(Path(__file__).parents[1] / "show" / "report"))

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "cifar10-first"


@pytest.fixture
def study(tmp_path):
    """Four runs of an earlier version, copied."""
    return Path(shutil.copytree(RESULTS, tmp_path / "study"))


def test_records_of_the_first_version_are_read_and_written_on(study):
    folder = run_folders(study)[0]
    before = load_run(folder)
    with writer(folder / "record.sqlite", "run") as store, store.transaction():
        store.add_array("measured:x", "y", np.ones(2), first_step=0)
        store.set_meta(error=None)
    with reader(folder / "record.sqlite") as store:
        assert store.connection.execute("PRAGMA user_version").fetchone() == (1,)
    after = load_run(folder)
    assert after.spec == before.spec
    assert all((after.epochs[name] == column).all() or np.isnan(column).any()
               for name, column in before.epochs.items())  # fmt: skip


def test_a_copied_folder_and_a_record_in_another_runs_are_named_and_not_counted(study):
    first, second, *_ = run_folders(study)
    shutil.copytree(first, first.with_name(f"{first.name} copy"))
    shutil.copy(first / "record.sqlite", second / "record.sqlite")
    data = load_report_data([study])
    assert len(data.runs) == 3
    assert len(data.problems) == 2
    assert all(f"is the record of the run {first.name}" in text for text in data.problems)


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_waited_for(suffix, kind, tmp_path):
    path = tmp_path / "record.sqlite"
    with writer(path, "run"):
        pass
    place = tmp_path / f"record.sqlite{suffix}"
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero")
    for opened in (reader, writer):
        with pytest.raises((InputError, StorageError), match=f"it is a {kind}, not a file"):
            opened(path, "run")


def test_a_journal_that_names_another_file_is_refused(tmp_path):
    """SQLite would remove that file when it rolls the journal back."""
    path = tmp_path / "record.sqlite"
    with writer(path, "run"):
        pass
    (tmp_path / "record.sqlite-journal").write_bytes(
        bytes(512) + b"/tmp/x" + bytes(8) + bytes.fromhex("d9d505f920a163d7")
    )
    with pytest.raises(RecordError, match="no journal of a normscope record"):
        reader(path)


def test_reading_has_a_budget_that_an_option_raises(tmp_path, monkeypatch):
    path = tmp_path / "record.sqlite"
    with writer(path, "run") as store, store.transaction():
        store.add_array("a", "b", np.zeros(3_000_000), first_step=1)
    monkeypatch.setenv("NORMSCOPE_READ_MB", "5")
    message = "takes more than 5 MB of memory.*NORMSCOPE_READ_MB"
    with pytest.raises(RecordError, match=message), reader(path) as store:
        list(store.arrays())
    monkeypatch.setenv("NORMSCOPE_READ_MB", "50")
    with reader(path) as store:
        assert len(list(store.arrays())) == 1
    monkeypatch.setenv("NORMSCOPE_READ_MB", "much")
    with pytest.raises(InputError, match="expected a number of megabytes"):
        reader(path)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON epochs BEGIN UPDATE epochs SET value = 0.99; END",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE epochs ADD COLUMN big AS (zeroblob(1000000000))",
        "CREATE TABLE more (a)",
        "CREATE INDEX more ON epochs (value)",
    ],
)
def test_a_schema_of_somebody_else_is_refused_before_it_runs(statement, tmp_path):
    path = tmp_path / "record.sqlite"
    with writer(path, "run"):
        pass
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.close()
    for opened in (reader, writer):
        with pytest.raises(RecordError, match="its tables are not those of a record"):
            opened(path, "run")


@pytest.fixture
def recording(tmp_path):
    """Two blocks of one layer: of the steps 1 to 3 and 4 to 6."""
    path = tmp_path / "r.sqlite"
    header = Header("Net", "forward", {}, [LayerInfo("bn", "BatchNorm1d", "batch", 2)], {}, "cpu")
    part = FilePart(path, header)
    for first in (1, 4):
        arrays = {("bn", name): np.full((3, 2), first, np.float32) for name in ("weight", "bias")}
        part.write(Batch(header, [(np.arange(first, first + 3), arrays)]))
    return path


def damage(path, statement):
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


def test_a_damaged_block_is_named_by_its_steps_and_the_rest_is_read(recording, tmp_path):
    damage(recording, "UPDATE arrays SET data = zeroblob(24) WHERE id = 3")
    found = Recording.load(recording)
    with pytest.raises(RecordError, match=r"r\.sqlite is damaged at steps 4 to 6; the rest can be"):
        found.query("bn", "weight")
    assert found.query("bn", "weight", last=3)[0].tolist() == [1, 2, 3]
    data = load_report_data([], [recording])
    assert "is damaged at steps 4 to 6; the rest can be read" in data.problems[0]
    (shown,) = data.watched
    assert not shown.recording.complete
    assert shown.recording.query("bn", "weight")[0].tolist() == [1, 2, 3]
    assert shown.recording.query("bn", "bias")[0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM arrays WHERE id = 2",
        "DELETE FROM counts",
        "DELETE FROM meta WHERE key = 'non_finite'",
        "UPDATE meta SET value = replace(value, '\"Net\"', '\"Not\"')",
    ],
)
def test_what_is_missing_or_changed_in_a_description_is_seen(statement, recording):
    damage(recording, statement)
    with pytest.raises(RecordError, match="is damaged"):
        Recording.load(recording)


@pytest.mark.parametrize(
    "statement", ["UPDATE blocks SET steps = zeroblob(24)", "UPDATE arrays SET layer = 'bm'"]
)
def test_no_value_is_read_where_it_cannot_be_told_whose_it_is(statement, recording):
    damage(recording, statement)
    with pytest.raises(InputError, match="is damaged|Unknown"):
        Recording.load(recording).query("bn", "weight")


@pytest.mark.parametrize("value", ["9e999", "-9e999"])
def test_an_epoch_that_is_not_finite_or_not_there(value, study):
    record = run_folders(study)[0] / "record.sqlite"
    plant(record, f"UPDATE epochs SET value = {value} WHERE name = 'test_loss'")
    with pytest.raises(RecordError, match="no number"):
        load_run(record.parent)
    plant(
        record,
        "UPDATE epochs SET value = 1",
        "UPDATE epochs SET epoch = 4611686018427387904 WHERE epoch = 2",
    )
    with pytest.raises(RecordError, match="comes after 1 epochs"):
        load_run(record.parent)


def test_what_a_dead_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    machine = this_process().partition("-")[0]
    dead = tmp_path / f".table-{machine}-999999999-abcd1234.json"
    living = tmp_path / f".table-{machine}-{os.getppid()}-abcd1234.json"
    ours = tmp_path / f".table-{this_process()}-abcd1234.json"  # of an earlier one of our number
    other = tmp_path / f".tables-{machine}-999999999-abcd1234.json"
    for path in (dead, living, ours, other):
        path.touch()
    with written_aside(tmp_path / "table.json") as aside:
        aside.write_text("1")
        with written_aside(tmp_path / "table.json") as second:
            second.write_text("2")
        assert aside.exists()
    assert sorted(tmp_path.iterdir()) == sorted([living, other, tmp_path / "table.json"])


@pytest.mark.parametrize("text", ["[" * 70 + "]" * 70, "NaN", "1e999", '"\\ud800"', '{"a": '])
def test_json_that_is_refused(text):
    with pytest.raises(ValueError, match="."):
        decode_json(text)
    assert decode_json(json.dumps(["\U0001f600", 1e300])) == ["\U0001f600", 1e300]


def test_json_of_many_bytes_is_not_read(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="at most 67 MB are read"):
        read_json(tmp_path / "large.json")
