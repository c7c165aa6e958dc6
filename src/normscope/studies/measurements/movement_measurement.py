"""How far what leaves the normalization layers moves from step to step while a run trains."""

from __future__ import annotations

import numpy as np

from normscope.measuring.distribution_movement import Movement
from normscope.studies.measurements.batch_statistics_measurement import places
from normscope.studies.measurements.retraining import retrain
from normscope.studies.measurements.run_context import Arrays, Subject


def movement(subject: Subject) -> Arrays:
    """Per channel of all places, joined in the order of the forward pass, float64 [channels]:
    "place" and "movement".

    Places are the layers that batch normalization has in this network, whatever normalizes there,
    or an identity. The run is trained once more in fp32 on the CPU, and every step of it counts.
    """
    model = subject.fresh()
    moving = Movement({name: model.get_submodule(name) for name in places(subject)})
    with moving.watching():
        retrain(subject, model, [])
    found = list(moving.of_channels().values())
    return {
        "place": np.repeat(np.arange(len(found)), [len(values) for values in found]),
        "movement": np.concatenate(found),
    }
