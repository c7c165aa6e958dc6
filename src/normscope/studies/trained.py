"""The network of a finished run, as its folder holds it."""

from __future__ import annotations

from normscope.data.dataset import Dataset
from normscope.errors import InputError, RecordError, first_line
from normscope.models.landmarks import Network
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import build_for
from normscope.studies.spec import RunSpec
from normscope.user_models.tensor_files import read_torch


def trained_network(run: RunDirectory, spec: RunSpec, dataset: Dataset) -> Network:
    """The network with its final weights and buffers, on the CPU, in eval mode.

    Raises:
        RecordError: if the weights are missing or damaged, or those of another network. They are
            never executed.
    """
    model = build_for(dataset, spec)
    try:
        model.load_state_dict(read_torch(run.weights, "weights"))
    except (InputError, RuntimeError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{run.weights} cannot be read ({first_line(error)}). Remove {run.path} to train that "
            "run again."
        ) from error
    return model.eval()
