"""A recording as a long pandas table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normscope.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from normscope.records.recording import Recording

COLUMNS = ("step", "layer", "statistic", "channel", "value")


def dataframe(recording: Recording, layer: str | None, statistic: str | None) -> pd.DataFrame:
    """What `Recording.to_dataframe` returns.

    Raises:
        InputError: if pandas is not installed, or a name is not known.
    """
    try:
        import pandas as pd
    except ImportError:
        raise InputError("to_dataframe() needs pandas: pip install pandas.") from None
    tables = []
    for name in [layer] if layer is not None else recording.layers:
        known = [quantity for quantity in recording.statistics(name) if "histogram" not in quantity]
        for quantity in known if statistic is None else [statistic]:
            if quantity in known or layer is not None:
                tables.append(pd.DataFrame(_columns(recording, name, quantity)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def _columns(recording: Recording, layer: str, statistic: str) -> dict[str, object]:
    steps, values = recording.query(layer, statistic)
    flat = values.reshape(len(steps), -1)
    channels = np.arange(flat.shape[1]) if values.ndim > 1 else np.array([-1])
    return {
        "step": np.repeat(steps, flat.shape[1]),
        "layer": layer,
        "statistic": statistic,
        "channel": np.tile(channels, len(steps)),
        "value": flat.ravel().astype(np.float64),
    }
