"""The network of a finished run, as its folder holds it."""

from __future__ import annotations

import pickle

import torch

from normscope.data.dataset import Dataset
from normscope.errors import RecordError, first_line
from normscope.models.landmarks import Network
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import build_for
from normscope.studies.spec import RunSpec


def trained_network(run: RunDirectory, spec: RunSpec, dataset: Dataset) -> Network:
    """The network with its final weights and buffers, on the CPU, in eval mode.

    Raises:
        RecordError: if the weights are missing or damaged, or those of another network. They are
            never executed.
    """
    model = build_for(dataset, spec)
    try:
        state = torch.load(run.weights, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (
        OSError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        TypeError,
        AttributeError,
    ) as error:
        raise RecordError(
            f"{run.weights} cannot be read ({first_line(error)}). Remove {run.path} to train that "
            "run again."
        ) from error
    return model.eval()
