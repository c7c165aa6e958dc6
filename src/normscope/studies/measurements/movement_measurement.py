"""Movement of the normalization layers' outputs from step to step while a run trains."""

from __future__ import annotations

import numpy as np

from normscope.measuring.distribution_movement import Movement
from normscope.studies.measurements.batch_statistics_measurement import normalization_names
from normscope.studies.measurements.run_context import Arrays, RunContext


def movement(context: RunContext) -> Arrays:
    """Per channel of all places, joined in the order of the forward pass, float64 [channels]:
    "place" and "movement".

    Places are the layers that batch normalization has in this network, whatever normalizes there,
    or an identity. The run is trained once more in fp32 on the CPU, and every step of it counts.
    """
    model = context.fresh()
    moving = Movement({name: model.get_submodule(name) for name in normalization_names(context)})
    with moving.watching():
        context.retrain(model)
    found = list(moving.of_channels().values())
    return {
        "place": np.repeat(np.arange(len(found)), [len(values) for values in found]),
        "movement": np.concatenate(found),
    }
