"""Tables of a study's runs: settings and endings, epochs, captured distributions, measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from normscope.errors import RecordError
from normscope.records.export.schema import NUMBER, TEXT, WHOLE, Table, column, column_of, repeated
from normscope.records.histogram import LEVELS, LIMIT, Histogram
from normscope.records.run import EPOCH_COLUMNS, RunRecord, load_run

RUN = column("run", TEXT, "the run: the name of its folder, which ends with its id")
EPOCH = column("epoch", WHOLE, "the epoch, counted from 1")
TENSOR = column(
    "tensor",
    TEXT,
    "block_output, before_activation or normalized: tensors of the network's first stage",
)

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
    (
        RUN,
        column("status", TEXT, "finished, diverged, failed or interrupted"),
        column("error", TEXT, "why it failed"),
        column("diverged_step", WHOLE, "the first step whose loss was not finite", "steps"),
        column("parameters", WHOLE, "numbers that are trained"),
        column("source", TEXT, "where the images came from"),
        column("train_images", WHOLE, "training images"),
        column("test_images", WHOLE, "test images"),
        column("device_name", TEXT, "the accelerator or processor"),
        column("threads", WHOLE, "threads that torch used"),
        column("torch", TEXT, "version of torch"),
        column("normscope", TEXT, "version of normscope"),
    ),
)
"""Followed by the run's settings, in whatever the runs of the study have."""

EPOCHS = Table(
    "epochs",
    "an epoch of a run; null where a value was not finite or not measured",
    (
        RUN,
        EPOCH,
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
        RUN,
        EPOCH,
        TENSOR,
        column("values", WHOLE, "finite values"),
        column("non_finite", WHOLE, "values that are not finite"),
        column("mean", NUMBER, "their mean", "the tensor's"),
        column("std", NUMBER, "their standard deviation (population)", "the tensor's"),
        column("zero_fraction", NUMBER, "exact zeros: what a ReLU cut off", "share"),
        *(
            column(name, NUMBER, f"the {level:.0%} quantile", "the tensor's")
            for name, level in QUANTILES.items()
        ),
    ),
)

CAPTURE_BINS = Table(
    "capture_bins",
    f"a bin of such a distribution; the outermost count what lies beyond {LIMIT:g}",
    (
        RUN,
        EPOCH,
        TENSOR,
        column("low", NUMBER, "lower end of the bin", "the tensor's"),
        column("high", NUMBER, "upper end of the bin", "the tensor's"),
        column("count", WHOLE, "values in it"),
    ),
)

MEASUREMENTS = Table(
    "measurements",
    "a number that was measured once for a run, for a claim",
    (
        RUN,
        column(
            "measurement",
            TEXT,
            "what was measured, for example propagation (variances at initialization)",
        ),
        column(
            "statistic",
            TEXT,
            "which quantity of it, for example branch: the variance of a residual branch",
        ),
        column(
            "index",
            WHOLE,
            "its place in the measured array, counted from 0 in C order; for propagation, the "
            "residual block",
        ),
        column("value", NUMBER, "the number"),
    ),
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
        if len(run.epochs["epoch"]):
            yield epochs, epochs.batch(_epochs(run))
        if run.captures:
            yield CAPTURES, CAPTURES.batch(_captures(run))
            for key, captured in run.captures.items():
                yield CAPTURE_BINS, CAPTURE_BINS.batch(_bins(run, *key, captured))
        for measurement, arrays in run.measured.items():
            for statistic, array in arrays.items():
                if array.size:
                    yield (
                        MEASUREMENTS,
                        MEASUREMENTS.batch(_measured(run, measurement, statistic, array)),
                    )


def _runs(runs: Sequence[RunRecord]) -> tuple[Table, pa.RecordBatch]:
    metas = [run.meta for run in runs]
    data = [meta.get("data", {}) for meta in metas]
    environments = [meta.get("environment", {}) for meta in metas]
    hardware = [each.get("hardware", {}) for each in environments]
    versions = [each.get("versions", {}) for each in environments]
    values = {
        "run": [run.directory.name for run in runs],
        "status": [run.status for run in runs],
        **{
            name: [meta.get(name) for meta in metas]
            for name in ("error", "diverged_step", "parameters", "threads")
        },
        **{
            name: [each.get(name) for each in data]
            for name in ("source", "train_images", "test_images")
        },
        "device_name": [each.get("device_name") for each in hardware],
        **{name: [each.get(name) for each in versions] for name in ("torch", "normscope")},
    }
    columns = []
    for name in dict.fromkeys(name for run in runs for name in run.spec):
        own = f"spec_{name}" if name in values else name
        settings = [run.spec.get(name) for run in runs]
        field, values[own] = column_of(
            own, settings, "a setting of the run: see `normscope compare --help`"
        )
        columns.append(field)
    table = RUNS.with_columns(columns)
    return table, table.batch(values)


def _epochs(run: RunRecord) -> dict[str, object]:
    columns = run.epochs
    rows = {
        name: _whole(name, values)
        if name in WHOLE_SCALARS | {"epoch"}
        else pa.array(values, NUMBER, from_pandas=True)  # NaN is how the record's null reads
        for name, values in columns.items()
    }
    return {**rows, "run": repeated(run.directory.name, len(columns["epoch"]))}


def _whole(name: str, values: np.ndarray) -> list[int | None]:
    if not all(value == int(value) for value in values[np.isfinite(values)]):
        raise RecordError(f"{name} of an epoch holds something that is no whole number.")
    return [int(value) if np.isfinite(value) else None for value in values]


def _captures(run: RunRecord) -> dict[str, object]:
    keys, captured = zip(*run.captures.items(), strict=True)
    quantiles = np.stack([each.quantiles for each in captured])
    return {
        "run": repeated(run.directory.name, len(keys)),
        "tensor": [tensor for tensor, _ in keys],
        "epoch": [epoch for _, epoch in keys],
        "values": [each.n for each in captured],
        **{
            name: [getattr(each, name) for each in captured]
            for name in ("non_finite", "mean", "std")
        },
        "zero_fraction": [each.zeros for each in captured],
        **{name: quantiles[:, index] for index, name in enumerate(QUANTILES)},
    }


def _bins(run: RunRecord, tensor: str, epoch: int, captured: Histogram) -> dict[str, object]:
    length = len(captured.counts)
    return {
        "run": repeated(run.directory.name, length),
        "epoch": repeated(epoch, length),
        "tensor": repeated(tensor, length),
        "low": captured.edges[:-1],
        "high": captured.edges[1:],
        "count": captured.counts,
    }


def _measured(
    run: RunRecord, measurement: str, statistic: str, array: np.ndarray
) -> dict[str, object]:
    return {
        "run": repeated(run.directory.name, array.size),
        "measurement": repeated(measurement, array.size),
        "statistic": repeated(statistic, array.size),
        "index": np.arange(array.size),
        "value": array.ravel().astype(np.float64),
    }
