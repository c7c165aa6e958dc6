"""Checking a model on a GPU."""

import pytest
import torch
from torch import nn

from normscope.user_models.batch_reader import read_batches, remix

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no CUDA device"
)


def test_batches_with_targets_are_mixed_on_a_gpu():
    """Targets stay on the CPU, inputs are where the model is."""
    model = nn.Linear(3, 2).cuda()
    batches = read_batches([(torch.randn(4, 3), torch.arange(4) + 4 * k) for k in range(2)], model)
    mixed, order = remix(batches)
    assert torch.equal(torch.cat([batch.target for batch in mixed]), order)
    given = torch.cat([batch.args[0] for batch in batches])
    assert torch.equal(torch.cat([batch.args[0] for batch in mixed]), given[order.cuda()])
