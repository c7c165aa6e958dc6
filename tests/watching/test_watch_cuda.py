"""Watching on a GPU: nothing waits for it inside a step, and the run is the same."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from watch_cases import images, seeded, sgd, small_resnet

from normscope.commands.watch import watch

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no CUDA device"
)

EVERYTHING = {"every": 1, "histograms_every": 2, "gradients_every": 2}


@pytest.fixture
def deterministic():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def steps(model, optimizer, batches):
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def on_gpu(n):
    return [tuple(part.cuda() for part in images(seed)) for seed in range(n)]


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_no_step_waits_for_the_gpu(monkeypatch, with_optimizer):
    monkeypatch.setattr("normscope.watching.row_buffers.BLOCK_ROWS", 4)
    model = seeded(small_resnet).cuda()
    optimizer = sgd(model, fused=True)
    batches = on_gpu(20)
    steps(model, optimizer, batches[:2])
    with watch(model, optimizer=optimizer if with_optimizer else None, **EVERYTHING) as watcher:
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps(model, optimizer, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert watcher.active, "the recording stopped"
        assert list(watcher.recording.query("stem.1", "batch_mean")[0]) == list(range(1, 21))


def test_a_run_is_bitwise_the_same(deterministic):
    results = []
    for watched in (False, True):
        model = seeded(small_resnet).cuda()
        optimizer = sgd(model)
        watcher = watch(model, optimizer=optimizer, **EVERYTHING) if watched else None
        steps(model, optimizer, on_gpu(5))
        if watcher is not None:
            watcher.close()
        results.append(list(model.state_dict().values()))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_values_are_those_of_the_cpu():
    recordings = []
    for device in ("cpu", "cuda"):
        model = seeded(small_resnet).to(device)
        with watch(model, every=1, histograms_every=1) as watcher:
            x, y = (part.to(device) for part in images())
            F.cross_entropy(model(x), y).backward()
            recordings.append(watcher.recording)
    for statistic in ("batch_mean", "batch_var", "running_mean", "weight"):
        one, two = (recording.query("stem.1", statistic)[1] for recording in recordings)
        assert np.allclose(one, two, atol=1e-3), statistic
    one, two = (recording.query("stem.1", "histogram")[1].astype(int) for recording in recordings)
    assert np.abs(one - two).sum() <= 0.02 * one.sum()
