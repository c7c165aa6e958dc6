"""Measurements beside training: made once for a run and kept in its record by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normscope.records.measurement_names import KNOWN
from normscope.records.store import Store

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


def load_measurements(store: Store) -> dict[str, dict[str, np.ndarray]]:
    """{name: {statistic: array}} of every measurement that was made."""
    found = {name: measured_in(store, name) for name in KNOWN}
    return {name: arrays for name, arrays in found.items() if arrays}
