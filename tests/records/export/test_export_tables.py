"""Exports read back as what was recorded, to the bit, in both formats, whatever the names."""

import csv
import json
import math
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_records import write_recording, write_run, write_study
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from normscope import Recording
from normscope.commands.export import export
from normscope.escapes import for_csv
from normscope.records.export import recording_tables, run_tables
from normscope.records.export.columns import Table
from normscope.records.recording_header import FRAME, SAMPLE_MOMENTS
from normscope.records.run import EPOCH_COLUMNS, load_run

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20
)

TABLES = [
    each
    for module in (run_tables, recording_tables)
    for each in vars(module).values()
    if isinstance(each, Table)
]


def read(folder, table, kind):
    """Rows of a table as {column: value}; of CSV, read by the standard library and typed by the
    column.
    """
    if kind == "parquet":
        return pq.read_table(folder / f"{table}.parquet").to_pylist()
    types = {
        column.name: column.type for each in TABLES if each.name == table for column in each.columns
    }  # the settings of `runs` are compared as text
    with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return [
            {name: typed(text, types.get(name)) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def typed(text, kind):
    if kind is None or pa.types.is_string(kind):
        plain = text.removeprefix("'")
        return (plain if for_csv(plain) == text else text) or None
    if text == "":
        return None
    if pa.types.is_list(kind):
        return json.loads(text)
    if pa.types.is_boolean(kind):
        return text == "true"
    return int(text) if pa.types.is_integer(kind) else float(text)


def bits(value):
    return value if value is None else struct.pack("<d", math.nan if math.isnan(value) else value)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(name="=1+1")
@example(name='a,"b"\n\r\n;\'')
@example(name="+cmd|' /C calc'!A0")
@example(name=" \t")
@given(name=NAMES)
def test_names_and_numbers_read_back(kind, name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    study = write_study(folder / "study")
    run = write_run(study / "runs" / "run0", name, status="failed", error=name)
    write_recording(run / "recording.sqlite", name, name)
    files = {path.stem for path in export(study, kind, folder / "out").files}
    assert files == {table.name for table in TABLES}

    record, recording = load_run(run), Recording.load(run / "recording.sqlite")
    (row,) = read(folder / "out", "runs", kind)
    assert (row["run"], row["norm"], row["error"], row["source"]) == ("run0", name, name, name)
    classes = row["classes"] if kind == "parquet" else json.loads(row["classes"])
    assert (classes, row["status"], row["parameters"]) == ([name, 'a,"b"'], "failed", 10)

    epochs = read(folder / "out", "epochs", kind)
    assert [bits(row["train_loss"]) for row in epochs] == [
        None if math.isnan(value) else bits(value) for value in record.column("train_loss").tolist()
    ]
    assert [row["step"] for row in epochs] == record.column("step").tolist()
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4, 5, 6, 7]
    assert all(float(row["of_a_newer_version"]) == 0.5 for row in epochs)

    ((tensor, epoch), captured), (capture,) = (
        *record.captures.items(),
        read(folder / "out", "captures", kind),
    )
    assert (
        (capture["tensor"], capture["epoch"], capture["values"])
        == (tensor, epoch, captured.n)
        == (name, 1, 66)
    )
    assert capture["std"] == captured.std
    assert [
        capture[key] for key in capture if key.startswith("quantile")
    ] == captured.quantiles.tolist()
    bins = read(folder / "out", "capture_bins", kind)
    assert [row["count"] for row in bins] == captured.counts.tolist()
    assert [row["low"] for row in bins] == [-math.inf, *range(-5, 6)]
    assert [row["high"] for row in bins] == [*range(-5, 6), math.inf]
    assert {row["tensor"] for row in bins} == {name}

    measured = read(folder / "out", "measurements", kind)
    assert [(r["statistic"], r["index"], r["value"]) for r in measured] == [
        ("skip", 0, 0.1), ("skip", 1, 2.0), ("branch", 0, 1 / 3), ("branch", 1, math.inf),
    ]  # fmt: skip
    same_as_recorded(recording, name, lambda table: read(folder / "out", table, kind))


def same_as_recorded(recording, name, table):
    statistics = table("statistics")
    assert {row["layer"] for row in statistics} == {name}
    steps, means = recording.query(name, "batch_mean")
    rows = [row for row in statistics if row["statistic"] == "batch_mean"]
    assert [(row["step"], row["channel"]) for row in rows] == [
        (step, c) for step in steps for c in (0, 1)
    ]
    assert [bits(row["value"]) for row in rows] == [bits(value) for value in means.ravel().tolist()]
    counters = [row for row in statistics if row["statistic"] == "num_batches_tracked"]
    assert [(row["channel"], row["value"]) for row in counters] == [
        (None, 1.0),
        (None, 2.0),
        (None, 5.0),
    ]
    samples = [row for row in statistics if row["statistic"] == "sample_mean"]
    assert [row["row"] for row in samples[:4]] == [SAMPLE_MOMENTS[0]] * 2 + [SAMPLE_MOMENTS[1]] * 2
    assert [row["value"] for row in samples] == recording.query(name, "sample_mean")[
        1
    ].ravel().tolist()

    histograms = table("histograms")
    assert [row["counts"] for row in histograms] == recording.query(name, "histogram")[1][
        0
    ].tolist()
    frame = np.array([[row[key] for row in histograms] for key in FRAME], "<f4")
    assert np.array_equal(frame, recording.query(name, "histogram_frame")[1][0])

    mark, found = table("events")
    assert json.loads(mark["detail"]) == {
        key: value for key, value in recording.marks[0].items() if key != "step"
    }
    assert (found["kind"], found["layer"], found["step"]) == ("non_finite", name, 2)
    (layer,), (whole,) = table("layers"), table("recordings")
    assert (layer["layer"], layer["eps"], layer["affine"], layer["groups"]) == (
        name,
        1e-5,
        True,
        None,
    )
    assert (whole["recording"], whole["model"], whole["complete"]) == ("run0", "Net", False)


def test_parquet_carries_units_and_meanings(tmp_path):
    export(write_study(tmp_path / "study", "batch"), "parquet", tmp_path)
    schema = pq.read_schema(tmp_path / "epochs.parquet")
    assert schema.metadata[b"normscope.table"] == b"epochs"
    loss = schema.field("train_loss").metadata
    assert (loss[b"unit"], loss[b"description"]) == (b"nats", EPOCH_COLUMNS["train_loss"].encode())
    assert schema.field("seconds").metadata[b"unit"] == b"s"
    assert "last_layer_gradient_std" in schema.names


def test_every_column_is_documented(request, site_script):
    text = (request.config.rootpath / "docs" / "exporting.md").read_text(encoding="utf-8")
    assert site_script("generated").tables_page() in text, (
        "python docs/site/generated.py tables prints the tables of docs/exporting.md"
    )
