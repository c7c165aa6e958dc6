"""A model that is watched may be checked in the middle of its training: those forwards are no part
of it.
"""

import numpy as np
import pytest
import torch
from torch import nn

import normscope
from normscope.mend import recalibrate


def train(*, by_optimizer, between=None):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    watcher = normscope.watch(
        model,
        optimizer=optimizer if by_optimizer else None,
        every=1,
        histograms_every=1,
        gradients_every=1,
    )
    for step in range(4):
        images = torch.randn(8, 1, 8, 8, generator=generator)
        if step == 2 and between is not None:
            between(model)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    watcher.close(quiet=True)
    return watcher.recording


def check(model):
    generator = torch.Generator().manual_seed(2)
    normscope.check(model, [torch.randn(8, 1, 8, 8, generator=generator) for _ in range(3)])


@pytest.mark.parametrize("by_optimizer", [True, False])
def test_checking_in_the_middle_of_a_watched_training_is_not_recorded(by_optimizer):
    expected, found = (
        train(by_optimizer=by_optimizer),
        train(by_optimizer=by_optimizer, between=check),
    )
    for statistic in expected.statistics("1"):
        for ours, theirs in zip(
            found.query("1", statistic), expected.query("1", statistic), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs, err_msg=statistic)


def test_recalibrating_shows_in_the_running_statistics_alone():
    def mend(model):
        generator = torch.Generator().manual_seed(2)
        recalibrate(model, [3 + torch.randn(8, 1, 8, 8, generator=generator) for _ in range(3)])

    expected, found = train(by_optimizer=True), train(by_optimizer=True, between=mend)
    for statistic in ("batch_mean", "batch_var", "weight", "output_gradient_norm"):
        np.testing.assert_array_equal(
            found.query("1", statistic)[1], expected.query("1", statistic)[1]
        )
    assert not np.array_equal(
        found.query("1", "running_mean")[1], expected.query("1", "running_mean")[1]
    )
