"""What is measured beside training, once for a run, and kept in its record under a name of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from normscope.records.run import RECORD_NAME
from normscope.records.store import Store, reader

PREFIX = "measured:"


def store_measurement(store: Store, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write {statistic: array} of a measurement, in a transaction of its own.

    Raises:
        StorageError: if it cannot be written.
    """
    with store.transaction():
        for statistic, array in arrays.items():
            store.add_array(f"{PREFIX}{name}", statistic, array, first_step=0)


def measured_in(store: Store, name: str) -> dict[str, np.ndarray]:
    """{statistic: array} of a measurement; empty where it was not made."""
    return {statistic: array for _, statistic, _, _, _, array in store.arrays(f"{PREFIX}{name}")}


def load_measurement(directory: Path, name: str) -> dict[str, np.ndarray]:
    """The same of a run's folder; empty also where there is no record.

    Raises:
        RecordError: if the record is damaged.
    """
    if not (directory / RECORD_NAME).is_file():
        return {}
    with reader(directory / RECORD_NAME, "run") as store:
        return measured_in(store, name)
