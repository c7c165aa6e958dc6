"""Tables of a study's runs: settings and endings, epochs, captured distributions, measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from normscope.errors import RecordError
from normscope.records.export.columns import NUMBER, WHOLE, Table, column, column_of, columns
from normscope.records.histogram import LEVELS, LIMIT
from normscope.records.run import EPOCH_COLUMNS, RunRecord, load_run

RUN = "run | text | | the run: the name of its folder, which ends with its id"
EPOCH = "epoch | whole | | the epoch, counted from 1"
TENSOR = """
    tensor | text | | block_output, before_activation or normalized: tensors of the network's first
        stage
"""

WHOLE_SCALARS = frozenset({"step", "first_non_finite_step"})
"""The scalars of an epoch that are whole numbers."""

UNITS = {
    "train_loss": "nats", "test_loss": "nats", "train_accuracy": "share", "test_accuracy": "share",
    "step": "steps", "train_seconds": "s", "seconds": "s", "images_per_second": "images/s",
    "first_non_finite_step": "steps",
}  # fmt: skip
"""Units of an epoch's scalars; gradient norms and learning rates have none."""

QUANTILES = {f"quantile_{level:.2f}": level for level in LEVELS}

RUNS = Table(
    "runs",
    "a run; a column for each of its settings follows these, named as in spec.json: `norm`, "
    "`seed` and so on",
    columns(f"""
    {RUN}
    status        | text  |       | finished, diverged, failed or interrupted
    error         | text  |       | why it failed
    diverged_step | whole | steps | the first step whose loss was not finite
    parameters    | whole |       | numbers that are trained
    source        | text  |       | where the images came from
    train_images  | whole |       | training images
    test_images   | whole |       | test images
    device_name   | text  |       | the accelerator or processor
    threads       | whole |       | threads that torch used
    torch         | text  |       | version of torch
    normscope     | text  |       | version of normscope
    """),
)
"""Followed by the run's settings, in whatever the runs of the study have."""

EPOCHS = Table(
    "epochs",
    "an epoch of a run; null where a value was not finite or not measured",
    (
        *columns(f"{RUN}\n{EPOCH}"),
        *(
            column(name, WHOLE if name in WHOLE_SCALARS else NUMBER, meaning, UNITS.get(name, ""))
            for name, meaning in EPOCH_COLUMNS.items()
        ),
    ),
)

CAPTURES = Table(
    "captures",
    "a tensor's distribution over three test batches after an epoch of a run",
    (
        *columns(f"""
        {RUN}
        {EPOCH}
        {TENSOR}
        values        | whole  |              | finite values
        non_finite    | whole  |              | values that are not finite
        mean          | number | the tensor's | their mean
        std           | number | the tensor's | their standard deviation (population)
        zero_fraction | number | share        | exact zeros: what a ReLU cut off
        """),
        *(
            column(name, NUMBER, f"the {level:.0%} quantile", "the tensor's")
            for name, level in QUANTILES.items()
        ),
    ),
)

CAPTURE_BINS = Table(
    "capture_bins",
    f"a bin of such a distribution; the outermost count what lies beyond {LIMIT:g}",
    columns(f"""
    {RUN}
    {EPOCH}
    {TENSOR}
    low   | number | the tensor's | lower end of the bin
    high  | number | the tensor's | upper end of the bin
    count | whole  |              | values in it
    """),
)

MEASUREMENTS = Table(
    "measurements",
    "a number that was measured once for a run, for a claim",
    columns(f"""
    {RUN}
    measurement | text   | | what was measured, for example propagation (variances at
        initialization)
    statistic   | text   | | which quantity of it, for example branch: the variance of a residual
        branch
    index       | whole  | | its place in the measured array, counted from 0 in C order; for
        propagation, the residual block
    value       | number | | the number
    """),
)


def read_run(directory: Path) -> RunRecord:
    """A run's folder, read whole and found to make tables.

    Raises:
        RecordError: if its record is damaged.
    """
    run = load_run(directory)
    for _ in run_batches([run]):
        pass
    return run


def run_batches(runs: Sequence[RunRecord]) -> Iterator[tuple[Table, pa.RecordBatch]]:
    """(table, rows) of all runs; a table without a row is left out."""
    if not runs:
        return
    yield _runs(runs)
    names = dict.fromkeys(name for run in runs for name in run.epochs)
    extra = [name for name in names if name not in EPOCHS.schema.names]
    epochs = EPOCHS.with_columns([column(name, NUMBER, "a scalar of the epoch") for name in extra])
    for run in runs:
        for table, values in _values(run, epochs):
            yield table, table.batch({"run": run.directory.name} | values)


def _values(run: RunRecord, epochs: Table) -> Iterator[tuple[Table, dict[str, Any]]]:
    """(table, {column: values}) of a run, without its name."""
    if len(run.epochs["epoch"]):
        yield epochs, _epochs(run)
    if run.captures:
        yield CAPTURES, _captures(run)
    for (tensor, epoch), captured in run.captures.items():
        edges, what = captured.edges, {"epoch": epoch, "tensor": tensor}
        yield CAPTURE_BINS, what | {"low": edges[:-1], "high": edges[1:], "count": captured.counts}
    for measurement, arrays in run.measured.items():
        for statistic, array in arrays.items():
            if array.size:
                what = {"measurement": measurement, "statistic": statistic}
                values = {"index": np.arange(array.size), "value": array.ravel().astype(np.float64)}
                yield MEASUREMENTS, what | values


def _runs(runs: Sequence[RunRecord]) -> tuple[Table, pa.RecordBatch]:
    metas = [run.meta for run in runs]
    environments = [meta.get("environment", {}) for meta in metas]
    parts = {
        ("error", "diverged_step", "parameters", "threads"): metas,
        ("source", "train_images", "test_images"): [meta.get("data", {}) for meta in metas],
        ("device_name",): [each.get("hardware", {}) for each in environments],
        ("torch", "normscope"): [each.get("versions", {}) for each in environments],
    }
    values = {
        "run": [run.directory.name for run in runs],
        "status": [run.status for run in runs],
        **{name: [part.get(name) for part in of] for names, of in parts.items() for name in names},
    }
    settings = []
    for name in dict.fromkeys(name for run in runs for name in run.spec):
        own = f"spec_{name}" if name in values else name
        given = [run.spec.get(name) for run in runs]
        meaning = "a setting of the run: see `normscope compare --help`"
        field, values[own] = column_of(own, given, meaning)
        settings.append(field)
    table = RUNS.with_columns(settings)
    return table, table.batch(values)


def _epochs(run: RunRecord) -> dict[str, Any]:
    return {
        name: _whole(name, values)
        if name in WHOLE_SCALARS | {"epoch"}
        else pa.array(values, NUMBER, from_pandas=True)  # NaN is how the record's null reads
        for name, values in run.epochs.items()
    }


def _whole(name: str, values: np.ndarray) -> list[int | None]:
    if not all(value == int(value) for value in values[np.isfinite(values)]):
        raise RecordError(f"{name} of an epoch holds something that is no whole number.")
    return [int(value) if np.isfinite(value) else None for value in values]


def _captures(run: RunRecord) -> dict[str, Any]:
    keys, captured = zip(*run.captures.items(), strict=True)
    quantiles = np.stack([each.quantiles for each in captured])
    measured = {"values": "n", "zero_fraction": "zeros"}
    measured |= {name: name for name in ("non_finite", "mean", "std")}
    return {
        "tensor": [tensor for tensor, _ in keys],
        "epoch": [epoch for _, epoch in keys],
        **{name: [getattr(each, of) for each in captured] for name, of in measured.items()},
        **{name: quantiles[:, index] for index, name in enumerate(QUANTILES)},
    }
