"""Measurements that claims need beside training: each once for a run, stored in its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from normscope.data.dataset import Dataset
from normscope.errors import RecordError
from normscope.records.measurements import (
    BATCH_STATISTICS,
    CORRUPTION,
    DECAY,
    DEPTH_SIGNALS,
    EVALUATION,
    HIDDEN_STATES,
    INITIALIZATION,
    LANDSCAPE,
    MOVEMENT,
    PROPAGATION,
    WEIGHTS,
    measured_in,
    store_measurement,
)
from normscope.records.store import reader, writer
from normscope.studies.directory import RunDirectory, StudyDirectory
from normscope.studies.environment import using_threads
from normscope.studies.measurements.batch_statistics_measurement import batch_statistics, movement
from normscope.studies.measurements.evaluation_measurement import (
    corruption,
    evaluation,
    is_batch_normalized,
)
from normscope.studies.measurements.initialization_measurement import (
    decay_as_rate,
    has_paths,
    initialization,
    is_of_vectors,
    propagation,
    weight_growth,
)
from normscope.studies.measurements.landscape_measurement import landscape
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.measurements.transformer_measurements import (
    depth_signals,
    hidden_states,
    is_transformer,
)
from normscope.studies.spec import RunSpec


@dataclass(frozen=True)
class Measurement:
    """One kind of measurement: a row of MEASUREMENTS."""

    name: str  # as in the record, and in a study's `measure`
    measure: Callable[[RunContext], Arrays]
    applies: Callable[[RunSpec], bool]
    trained: bool  # whether it needs the weights of a finished run
    # cheap enough for every study; the others are made where a study names them
    by_default: bool = True


def _convolutional(spec: RunSpec) -> bool:
    return not is_transformer(spec)


def _batch_normalized(spec: RunSpec) -> bool:
    return _convolutional(spec) and is_batch_normalized(spec)


MEASUREMENTS = {
    row.name: row
    for row in (
        Measurement(PROPAGATION, propagation, has_paths, trained=False),
        Measurement(BATCH_STATISTICS, batch_statistics, _convolutional, trained=True),
        Measurement(EVALUATION, evaluation, _batch_normalized, trained=True),
        Measurement(
            INITIALIZATION,
            initialization,
            lambda spec: _convolutional(spec) and is_of_vectors(spec),
            trained=False,
        ),
        Measurement(WEIGHTS, weight_growth, _convolutional, trained=True),
        Measurement(DECAY, decay_as_rate, _convolutional, trained=False, by_default=False),
        Measurement(CORRUPTION, corruption, _batch_normalized, trained=True),
        Measurement(LANDSCAPE, landscape, _convolutional, trained=False, by_default=False),
        Measurement(MOVEMENT, movement, _convolutional, trained=False, by_default=False),
        Measurement(DEPTH_SIGNALS, depth_signals, is_transformer, trained=False),
        Measurement(HIDDEN_STATES, hidden_states, is_transformer, trained=True),
    )
}
"""{name: measurement}."""

BY_DEFAULT = frozenset(name for name, row in MEASUREMENTS.items() if row.by_default)


@dataclass
class Measured:
    """The measurements made, {name: runs}, and {run: why} for runs that could not be measured."""

    made: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)


def measure(
    study: StudyDirectory,
    specs: Sequence[RunSpec],
    dataset: Dataset,
    wanted: Mapping[str, Collection[str]] | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> Measured:
    """Measure what the records of these runs, all on one data set, lack.

    Runs without a record, or that another process has at this moment, are left for the next time;
    so are runs that did not finish, where a measurement needs the trained network. A run that is
    not in `wanted`, {run id: names of measurements}, gets those that are made by default.

    Raises:
        StorageError: if a record cannot be written.
        RecordError: if a record is damaged.
    """
    todo = [
        (spec, row)
        for spec in specs
        for row in _lacking(study.run(spec), spec, (wanted or {}).get(spec.id, BY_DEFAULT))
    ]
    found = Measured()
    for number, (spec, row) in enumerate(todo, 1):
        run, position = study.run(spec), f"{row.name}, {number} of {len(todo)}"
        say(position)

        def progress(share: float, position: str = position) -> None:
            say(f"{position}, {100 * share:.0f}%")

        context = RunContext(spec, dataset, run, progress)
        with using_threads(spec.threads):
            _measure(context, row, found)
    return found


def _lacking(run: RunDirectory, spec: RunSpec, names: Collection[str]) -> list[Measurement]:
    """The measurements that this run is to have and does not."""
    rows = [row for name, row in MEASUREMENTS.items() if name in names and row.applies(spec)]
    if not rows or not run.record.exists():
        return []
    with reader(run.record, "run") as store:
        finished = store.meta().get("status") == "finished"
        return [
            row
            for row in rows
            if (finished or not row.trained) and not measured_in(store, row.name)
        ]


def _measure(context: RunContext, row: Measurement, found: Measured) -> None:
    run = context.run
    with run.locked() as ours:
        if not ours:
            return
        with writer(run.record, "run") as store:
            if measured_in(store, row.name):
                return
            try:
                arrays = row.measure(context)
            except RecordError as error:
                # its weights are gone: the claim says so, and the others go on
                found.left_out[run.path.name] = str(error)
                return
            store_measurement(store, row.name, arrays)
            found.made[row.name] += 1
