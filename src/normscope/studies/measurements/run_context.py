"""What a measurement is given: one run, its data, and its network before and after the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from normscope.data.dataset import Dataset
from normscope.data.device_batches import Batches
from normscope.models.landmarks import Network
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import build_for
from normscope.studies.spec import RunSpec
from normscope.studies.trained import trained_network

Arrays = dict[str, np.ndarray]
"""{statistic: array}, as a measurement stands in a run's record."""

Advance = Callable[[float], None]
"""Told the share of a measurement that is done, 0 to 1."""


@dataclass(frozen=True)
class Subject:
    """One run under measurement. Each call makes a network of its own, so that measurements may do with it as they like."""

    spec: RunSpec
    dataset: Dataset
    run: RunDirectory
    advance: Advance = lambda share: None

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
        """The run's data in batches on the CPU, of its own batch size or another; as they are, or
        as it is trained.
        """
        return Batches(
            self.dataset,
            batch_size or self.spec.batch_size,
            torch.device("cpu"),
            crop_padding=self.spec.crop_padding if augmented else 0,
            horizontal_flip=self.spec.horizontal_flip and augmented,
        )
