"""The run that is measured, its data, and its network before, after and during the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from torch import Tensor

from normscope.data.dataset import Dataset
from normscope.data.device_batches import Batches
from normscope.errors import InputError, RecordError, first_line
from normscope.models.network import Network
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import batches_for, build_for
from normscope.studies.spec import RunSpec
from normscope.training.loop import Callback, train
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


Arrays = dict[str, np.ndarray]
"""{statistic: array}, as a measurement stands in a run's record."""


@dataclass(frozen=True)
class RunContext:
    """One run under measurement. Each call makes a new network, which a measurement may change."""

    spec: RunSpec
    dataset: Dataset
    run: RunDirectory
    progress: Callable[[float], None] = lambda share: None
    """Called with the share of a measurement that is done, 0 to 1."""

    def fresh(self) -> Network:
        """The network before its first step, in train mode, on the CPU."""
        return build_for(self.dataset, self.spec)

    def trained(self) -> Network:
        """The network with the run's final weights, in eval mode, on the CPU.

        Raises:
            RecordError: if the weights are missing or damaged. They are never executed.
        """
        return trained_network(self.run, self.spec, self.dataset)

    def batches(self, batch_size: int | None = None, *, augmented: bool = False) -> Batches:
        """Return the run's data in batches on the CPU, as it is or augmented as in training."""
        return batches_for(self.dataset, self.spec, batch_size=batch_size, augmented=augmented)

    def whole_batches(
        self, count: int, batch_size: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return so many whole training batches, augmented and the same at each call."""
        batches = self.batches(batch_size, augmented=True)
        size = min(batch_size or self.spec.batch_size, len(self.dataset.train_labels))
        epochs = (batches.train(self.spec.seed, epoch) for epoch in range(1, count + 1))
        return islice((pair for epoch in epochs for pair in epoch if len(pair[1]) == size), count)

    def retrain(self, model: Network, *callbacks: Callback) -> None:
        """Train a network from `fresh` with the run's settings and images, in fp32 on the CPU."""
        spec = replace(self.spec, device="cpu", precision="fp32")
        batches = self.batches(augmented=True)
        train(model, batches, spec, callbacks=[_EpochProgress(self), *callbacks])


class _EpochProgress(Callback):
    def __init__(self, context: RunContext):
        self._context = context

    def on_epoch_start(self, epoch: int) -> None:
        self._context.progress((epoch - 1) / self._context.spec.epochs)
