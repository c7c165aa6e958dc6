"""Growth of the variance of skip paths and branches from block to block before the first step."""

from __future__ import annotations

from itertools import islice

from normscope.measuring.signal_propagation import Blocks, path_variances
from normscope.models.residual_blocks import BLOCKS, Block
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec

BATCHES = 3
BATCH_SIZE = 128


def has_paths(spec: RunSpec) -> bool:
    """Return whether blocks end with the addition, so that their output shows both paths."""
    return spec.block in BLOCKS and BLOCKS[spec.block].branch_end is not None


def propagation(context: RunContext) -> Arrays:
    """Variances of skip and branch of every residual block before the first step, in fp32 on the
    CPU, in train mode.

    Blocks in which something follows the addition have no such paths, and are left out.
    """
    model = context.fresh()
    blocks: Blocks = {
        name: (module, module.get_submodule(module.branch_end))
        for name, module in model.named_modules()
        if isinstance(module, Block) and module.branch_end is not None
    }
    batches = context.batches(BATCH_SIZE).train(context.spec.seed, 1)
    images = (images for images, _ in islice(batches, BATCHES))
    return path_variances(model.train(), images, blocks)
