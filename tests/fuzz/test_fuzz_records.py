"""Records, recordings and explanations that disks and people have damaged.

Read, each gives what was written, or one line. What checksums cannot see, because whoever changed
the file has made them anew, must not end a reader in another way.
"""

import json
import shutil
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from mutations import dumps, mutated_bytes, mutated_json
from trials import amount, attempt_all, generator

from planting import plant

sys.path.insert(0, str(Path(__file__).parents[1] / "show" / "report"))

from report_records import write_recording, write_study

from normscope.records.explanation import (
    Explanation,
    Forgotten,
    RunningStatistics,
    load_explanation,
    store_explanation,
)
from normscope.records.recording import Recording
from normscope.records.run import load_run
from normscope.records.run_description import ADDED_KNOBS, FIRST_KNOBS
from normscope.show.report.build import page
from normscope.show.report.report_data import load_report_data


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A study of two runs, the first with a recording, and an explanation."""
    folder = tmp_path_factory.mktemp("fuzz")
    knobs = FIRST_KNOBS | ADDED_KNOBS | {"capture_epochs": [1, 3], "fusion": True}
    study = write_study(folder / "study", seeds=(0,), epochs=3, **(knobs | {"widths": [4, 8]}))
    write_recording(study / "runs" / "run0" / "recording.sqlite")
    write_explanation(folder / "explanation.sqlite")
    return folder


def write_explanation(path):
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32)
    one = np.ones(2)
    run = {"norm": "batch", "learning_rate": 0.1, "seed": 0, "epochs": 1}
    explanation = Explanation(
        layer="bn", layer_type="BatchNorm2d", chosen=1, eps=1e-5, momentum=0.1, batches_before=3,
        x=x, labels=np.arange(4), images=np.zeros((2, 3, 3, 1), np.uint8), mean=one, var=one,
        unbiased_var=one, weight=one, bias=None, disagreement=0.0,
        running_before=RunningStatistics(one, one), running_after=RunningStatistics(one, one),
        forgotten=Forgotten(4, 0.5, (1, 2), np.zeros((2, 2, 3)), np.zeros((2, 2, 3))),
        meta={
            "run": "a run", "other_layers": [],
            "spec": run | {"data": "digits", "model": "small-resnet", "classes": ["a", "b"]},
            "data": {"source": "Digits"}, "environment": {},
        },
    )  # fmt: skip
    store_explanation(explanation, path)


def read_recording(path):
    recording = Recording.load(path)
    values = [repr(recording.header), recording.marks, recording.non_finite, recording.notes]
    for layer in recording.layers:
        for name in recording.statistics(layer):
            steps, array = recording.query(layer, name)
            values.append((layer, name, steps.tolist(), array.tobytes()))
    return values


def read_run(path):
    run = load_run(path.parent)
    epochs = {name: values.tobytes() for name, values in run.epochs.items()}
    captures = {key: (h.counts.tobytes(), h.mean) for key, h in run.captures.items()}
    return run.spec, run.status, epochs, captures, run.meta, repr(run.measured)


def read_explanation(path):
    found = load_explanation(path)
    return {name: value.tobytes() if isinstance(value, np.ndarray) else repr(value)
            for name, value in vars(found).items()}  # fmt: skip


KINDS = {
    "record.sqlite": (read_run, "study/runs/run0/record.sqlite", 60),
    "recording.sqlite": (read_recording, "study/runs/run0/recording.sqlite", 60),
    "explanation.sqlite": (read_explanation, "explanation.sqlite", 40),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_seen(kind, place, tmp_path):
    read, name, small = KINDS[kind]
    content = (place / name).read_bytes()
    path = tmp_path / "runs" / kind
    path.parent.mkdir()
    expected = read(place / name)

    def attempt(number):
        path.write_bytes(mutated_bytes(content, generator(kind, number)))
        path.with_name(f"{kind}-journal").unlink(missing_ok=True)
        assert read(path) == expected, "other numbers, without a word"

    outcome = attempt_all(f"{kind}, bytes", attempt, range(amount(small)))
    outcome.assert_good()
    assert outcome.refused > outcome.tried / 3


def _statement(random):
    """Something that may be done to a record: a value that nobody expects, somewhere."""
    table, columns = random.choice([
        ("meta", ("key", "value")),
        ("epochs", ("epoch", "name", "value")),
        ("blocks", ("id", "steps")),
        ("arrays", ("layer", "statistic", "first_step", "last_step", "epoch", "block", "dtype",
                    "shape", "data")),
        ("events", ("step", "epoch", "kind", "layer", "detail")),
    ])  # fmt: skip
    column = random.choice(columns)
    value = random.choice([
        "NULL", "''", "'x'", "0", "-1", "4611686018427387904", "9e999", "-9e999", "0.5", "x''",
        "x'00ff'", "zeroblob(1000000)", "'[1e999]'", "'[4294967296,4294967296,0]'", "'[-1]'",
        "'[[]]'", "'NaN'", "'{}'", "'<f8'", "'|O'", "char(27,91,50,74)", "char(0)", "char(55296)",
        f"{column} || {column}", f"-{column}", f"substr({column}, 2)", f"CAST({column} AS BLOB)",
        "hex(randomblob(20000))", f"upper({column})",
    ])  # fmt: skip
    where = random.choice(["", f" WHERE rowid % {random.choice([2, 3, 5])} = 0"])
    if table in ("meta", "epochs"):
        where = random.choice(["", " WHERE " + columns[-2] + " > 'm'"])
    return random.choice([
        f"UPDATE OR IGNORE {table} SET {column} = {value}{where}",
        f"UPDATE OR IGNORE {table} SET {column} = {value}{where}",
        f"UPDATE OR IGNORE {table} SET {column} = {value}{where}",
        f"DELETE FROM {table}{where}",
    ])  # fmt: skip


SCHEMAS = (
    "CREATE TRIGGER t AFTER INSERT ON epochs BEGIN UPDATE epochs SET value = 1; END",
    "CREATE VIEW v AS SELECT * FROM meta",
    "DROP TABLE arrays; CREATE VIEW arrays AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT "
    "x + 1 FROM c) SELECT x AS layer FROM c",
    "CREATE TABLE more (a, b GENERATED ALWAYS AS (zeroblob(100000000)) VIRTUAL)",
    "ALTER TABLE arrays ADD COLUMN big GENERATED ALWAYS AS (zeroblob(100000000)) VIRTUAL",
    "CREATE VIRTUAL TABLE f USING fts5(a)",
    "CREATE INDEX more ON arrays (upper(layer))",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'value REAL', "
    "'value REAL AS (1.0)') WHERE name = 'epochs'",
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = hex(zeroblob(1000000)) WHERE "
    "name = 'meta'",
    "PRAGMA user_version = 1",
    "PRAGMA user_version = 77",
    "PRAGMA application_id = 3",
    "PRAGMA journal_mode = WAL",
    "WITH RECURSIVE c(x) AS (SELECT 10 UNION ALL SELECT x + 1 FROM c LIMIT 400000) INSERT INTO "
    "epochs SELECT 1, x, 0.5, 0 FROM c",
    "WITH RECURSIVE c(x) AS (SELECT 10 UNION ALL SELECT x + 1 FROM c LIMIT 400000) INSERT INTO "
    "events SELECT x, x, NULL, 'mark', '', '{}', 0 FROM c",
    "WITH RECURSIVE c(x) AS (SELECT 4 UNION ALL SELECT x + 1 FROM c LIMIT 20000) INSERT INTO "
    "epochs SELECT x, x, 0.5, 0 FROM c",
    "INSERT INTO arrays SELECT 9999, 'l', 's', 1, 1, 1, NULL, '|u1', '[150000000]', "
    "zeroblob(150000000), 0",
    "UPDATE meta SET value = '[' || hex(zeroblob(20000000)) || ']' WHERE key IN ('spec', 'header')",
    "UPDATE meta SET value = replace(hex(zeroblob(2000000)), '00', '[],') WHERE key > 'g'",
)


def shown(place, target):
    """A study's page, with its recordings, as `normscope report` has it."""
    data = load_report_data([place / "study"])
    assert len(data.runs) + len(data.problems) >= 1
    for problem in data.problems:
        assert "\n" not in problem
    return page(data)


@pytest.fixture
def copy(place, tmp_path, monkeypatch):
    """A copy of the study, and its files' content to be put back."""
    monkeypatch.setenv("NORMSCOPE_READ_MB", "100")
    shutil.copytree(place / "study", tmp_path / "study")
    folder = tmp_path / "study" / "runs" / "run0"
    return tmp_path, {
        name: (folder / name).read_bytes() for name in ("record.sqlite", "recording.sqlite")
    }


def _put_back(copy, name):
    folder, contents = copy
    path = folder / "study" / "runs" / "run0" / name
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(name + suffix).unlink(missing_ok=True)
    for each, content in contents.items():
        path.with_name(each).write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["record.sqlite", "recording.sqlite"])
def test_planted_values_are_one_line(name, copy):
    def attempt(number):
        random = generator(f"sql {name}", number)
        path = _put_back(copy, name)
        with suppress(sqlite3.Error):  # what SQLite itself refuses is not planted
            plant(path, *(_statement(random) for _ in range(random.choice([1, 1, 1, 3]))))
        shown(copy[0], path)

    attempt_all(f"{name}, SQL", attempt, range(amount(25))).assert_good()


@pytest.mark.parametrize("name", ["record.sqlite", "recording.sqlite"])
def test_planted_schemas_are_one_line(name, copy):
    """Each kind, in every run of the suite."""

    def attempt(number):
        path = _put_back(copy, name)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(SCHEMAS[number])
        connection.close()
        shown(copy[0], path)

    attempt_all(f"{name}, schemas", attempt, range(len(SCHEMAS))).assert_good()


@pytest.mark.parametrize("name", ["record.sqlite", "recording.sqlite"])
def test_descriptions_of_other_types_are_one_line(name, copy):
    def attempt(number):
        random = generator(f"meta {name}", number)
        path = _put_back(copy, name)
        connection = sqlite3.connect(path)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        connection.close()
        key = random.choice(list(meta))
        value = dumps(mutated_json(json.loads(meta[key]), random))
        plant(path, ("UPDATE meta SET value = ? WHERE key = ?", value, key))
        shown(copy[0], path)

    attempt_all(f"{name}, descriptions", attempt, range(amount(40))).assert_good()
