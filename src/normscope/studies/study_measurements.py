"""Measurements that claims need and training does not make: each once for a run, written into its record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from normscope.data.batches import Batches
from normscope.data.dataset import Dataset
from normscope.models.blocks import FormulaBlock, PreActivationBlock
from normscope.probes.propagation import Blocks, path_variances
from normscope.records.measurements import PROPAGATION, measured_in, store_measurement
from normscope.records.store import writer
from normscope.studies.directory import StudyDirectory
from normscope.studies.grid import build_for
from normscope.studies.spec import RunSpec

BATCHES = 3
BATCH_SIZE = 128


def measure(study: StudyDirectory, specs: Sequence[RunSpec], dataset: Dataset) -> int:
    """Measure what the records of these runs lack, and return how many runs were measured.

    Runs without a record, or that another process has at this moment, are left for the next time.

    Raises:
        StorageError: if a record cannot be written.
    """
    return sum(_measure(study, spec, dataset) for spec in specs if spec.block in ("pre-activation", "formula"))


def _measure(study: StudyDirectory, spec: RunSpec, dataset: Dataset) -> bool:
    run = study.run(spec)
    if not run.record.exists():
        return False
    with run.locked() as ours:
        if not ours:
            return False
        with writer(run.record, "run") as store:
            if measured_in(store, PROPAGATION):
                return False
            store_measurement(store, PROPAGATION, propagation(spec, dataset))
    return True


def propagation(spec: RunSpec, dataset: Dataset) -> dict[str, np.ndarray]:
    """Variances of skip and branch of every residual block before the first step, in fp32 on the CPU, in train mode.

    Blocks in which something follows the addition have no such paths, and are left out.
    """
    model = build_for(dataset, spec)
    blocks: Blocks = {
        name: (module, module.conv2)
        for name, module in model.named_modules()
        if isinstance(module, PreActivationBlock | FormulaBlock)
    }
    batches = Batches(dataset, BATCH_SIZE, torch.device("cpu"), crop_padding=0, horizontal_flip=False)
    images = (images for images, _ in islice(batches.train(spec.seed, 1), BATCHES))
    return path_variances(model.train(), images, blocks)
