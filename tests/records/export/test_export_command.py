"""`normscope export`: damage is named and the rest exported; what is not normscope's is never
overwritten.
"""

import json
import resource
import sqlite3

import pyarrow.parquet as pq
import pytest
from export_records import write_recording, write_run, write_study

from normscope.cli import main
from normscope.commands.export import export
from normscope.errors import InputError, RecordError, StorageError
from normscope.records.export import folder as export_folder
from normscope.records.store import writer


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, arguments)])
    return ended.value.code


def test_a_study_is_exported_into_its_own_folder(tmp_path, capsys):
    study = write_study(tmp_path / "study", "batch", "none")
    assert run(study, "--to", "csv") == 0
    assert (
        "runs.csv, epochs.csv, captures.csv, capture_bins.csv, measurements.csv"
        in capsys.readouterr().out
    )
    assert run(study) == 0
    assert pq.read_table(study / "export" / "runs.parquet").column("norm").to_pylist() == [
        "batch",
        "none",
    ]
    assert (study / "export" / "runs.csv").is_file()
    assert not [path for path in (study / "export").iterdir() if path.name.startswith(".")]


def test_a_recording_is_exported_beside_itself(tmp_path):
    assert run(write_recording(tmp_path / "mine.sqlite")) == 0
    names = {path.name for path in (tmp_path / "mine.export").iterdir()}
    assert names == {
        "recordings.parquet", "layers.parquet", "events.parquet", "statistics.parquet",
        "histograms.parquet",
        "normscope-export.json",
    }  # fmt: skip


def test_damage_is_named_and_the_others_exported(tmp_path, capsys):
    study = write_study(tmp_path / "study", "good", "torn", "odd")
    write_recording(study / "runs" / "good" / "recording.sqlite")
    (study / "runs" / "torn" / "record.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 2000)
    with sqlite3.connect(study / "runs" / "odd" / "record.sqlite") as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'error'", [json.dumps("\ud800")])
    connection.close()
    write_recording(study / "runs" / "odd" / "recording.sqlite")
    with sqlite3.connect(study / "runs" / "odd" / "recording.sqlite") as connection:
        connection.execute("UPDATE arrays SET data = x'00' WHERE statistic = 'batch_mean'")
    connection.close()
    assert run(study) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert all(line.startswith("normscope: not exported: ") for line in told)
    assert [
        "torn" in told[2],
        "odd/record.sqlite" in told[0],
        "odd/recording.sqlite" in told[1],
    ] == [True] * 3
    assert pq.read_table(study / "export" / "runs.parquet").column("run").to_pylist() == ["good"]
    assert set(
        pq.read_table(study / "export" / "layers.parquet").column("recording").to_pylist()
    ) == {"good"}


def test_a_foreign_file_is_never_overwritten(tmp_path, capsys):
    study = write_study(tmp_path / "study", "batch")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "epochs.csv").write_text("mine")
    assert run(study, "--to", "csv", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "epochs.csv was not written by normscope export" in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["epochs.csv"]
    assert (tmp_path / "out" / "epochs.csv").read_text() == "mine"


def test_an_export_that_somebody_edited_is_theirs(tmp_path):
    study = write_study(tmp_path / "study", "batch")
    export(study, "csv", tmp_path / "out")
    export(study, "csv", tmp_path / "out")  # its own files it replaces
    with (tmp_path / "out" / "runs.csv").open("a") as file:
        file.write("a line of mine\n")
    with pytest.raises(InputError, match=r"runs.csv .*has changed since"):
        export(study, "csv", tmp_path / "out")


def test_a_new_export_replaces_all_of_the_old_one(tmp_path):
    study = write_study(tmp_path / "study", "batch")
    recording = write_recording(study / "runs" / "batch" / "recording.sqlite")
    export(study, "parquet")
    export(study, "csv")
    recording.unlink()
    write_run(study / "runs" / "none", "none")
    export(study, "parquet")
    names = {path.name for path in (study / "export").iterdir()}
    assert "statistics.parquet" not in names
    assert "statistics.csv" in names
    assert pq.read_table(study / "export" / "runs.parquet").num_rows == 2


def test_a_changed_table_without_rows_is_kept(tmp_path):
    study = write_study(tmp_path / "study", "batch")
    recording = write_recording(study / "runs" / "batch" / "recording.sqlite")
    export(study, "csv")
    with (study / "export" / "events.csv").open("a") as file:
        file.write("a line of mine\n")
    recording.unlink()
    export(study, "csv")
    export(study, "csv")
    names = {path.name for path in (study / "export").iterdir()}
    assert "events.csv" in names
    assert "statistics.csv" not in names


def test_a_full_disk_leaves_the_earlier_export(tmp_path, monkeypatch):
    study = write_study(tmp_path / "study", "batch")
    export(study)
    before = {path.name: path.read_bytes() for path in (study / "export").iterdir()}
    write_run(study / "runs" / "none", "none")

    def full(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_folder.pyarrow.parquet.ParquetWriter, "write_table", full)
    with pytest.raises(StorageError, match="No space left on device"):
        export(study)
    assert {path.name: path.read_bytes() for path in (study / "export").iterdir()} == before


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_disk_that_fills_up_on_the_way_is_one_line(kind, tmp_path):
    """Whichever write it is: pyarrow's writers cannot be closed after some."""
    study = write_study(tmp_path / "study", "batch")
    export(study, kind)
    largest = max(path.stat().st_size for path in (study / "export").iterdir())
    before = {path.name: path.read_bytes() for path in (study / "export").iterdir()}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, largest - 1, largest // 20):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            with pytest.raises(StorageError, match="File too large"):
                export(study, kind)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        after = {path.name: path.read_bytes() for path in (study / "export").iterdir()}
        assert after == before


def test_bad_input_is_one_line(tmp_path):
    for path, told in [
        (tmp_path / "nowhere", "There is nothing at"),
        (tmp_path, "is not a study folder"),
        (write_study(tmp_path / "empty"), "There is no run in"),
    ]:
        with pytest.raises(InputError, match=told):
            export(path)
    with pytest.raises(InputError, match="Unknown format of an export 'xlsx'"):
        export(tmp_path / "empty", "xlsx")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        export(write_study(tmp_path / "study", "batch"), out=write_recording(tmp_path / "r.sqlite"))
    (tmp_path / "torn.sqlite").write_text("no record")
    with pytest.raises(RecordError, match=r"torn.sqlite is not a normscope record"):
        export(tmp_path / "torn.sqlite")


def test_a_recording_without_a_step_has_its_layers(tmp_path):
    path = write_recording(tmp_path / "r.sqlite")
    with writer(path, "recording") as store, store.transaction():
        store.drop_after(0)
    assert {file.stem for file in export(path).files} == {"recordings", "layers", "events"}
