"""Rules about training in several processes, on recordings of real loops."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

import normscope
from normscope.watching import attach as attaching


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def train(model, path, *, shift=0.0, extra=False, steps=12) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with normscope.watch(model, optimizer=optimizer, path=path, every=1):
            for _ in range(steps):
                x, y = (
                    torch.randn(16, 4, generator=generator) + shift,
                    torch.randint(0, 2, (16,), generator=generator),
                )
                if extra:
                    model(x)
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()


def codes(model, path) -> set[str]:
    return {
        finding.code for finding in normscope.check(model, recording=normscope.Recording.load(path))
    }


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone, which is all that DistributedDataParallel needs."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("extra", [True, False])
def test_several_forwards_through_a_wrapper_that_broadcasts(process_group, tmp_path, extra):
    model = nn.parallel.DistributedDataParallel(net())
    train(model, tmp_path / "r.sqlite", extra=extra)
    assert ("NS606" in codes(model, tmp_path / "r.sqlite")) is extra
    alone = nn.parallel.DistributedDataParallel(net(), broadcast_buffers=False)
    assert "NS606" not in codes(alone, tmp_path / "r.sqlite")


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_ranks_whose_statistics_part(tmp_path, monkeypatch, shift):
    for rank in (0, 1):
        monkeypatch.setattr(attaching, "_process", lambda rank=rank: (rank, 2))
        train(net(), tmp_path / "r.sqlite", shift=shift * rank)
    assert ("NS807" in codes(net(), tmp_path / "r.sqlite")) is (shift > 0)
