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


def train(model, path, *, shift=0.0, extra=False, steps=12, seed=1) -> None:
    generator = torch.Generator().manual_seed(seed)
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


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_ranks_whose_statistics_part(tmp_path, monkeypatch, shift, momentum):
    """Shares of the data differ by chance, of which a large momentum keeps more, or by a shift."""
    for rank in (0, 1):
        monkeypatch.setattr(attaching, "_process", lambda rank=rank: (rank, 2))
        model = net()
        model[1].momentum = momentum
        train(model, tmp_path / "r.sqlite", shift=shift * rank, seed=rank)
    found = normscope.check(model, recording=normscope.Recording.load(tmp_path / "r.sqlite"))
    apart = "The processes' running statistics are apart."
    assert (apart in {finding.message for finding in found}) is (shift > 0)


class OwnNorm(nn.Module):
    """An RMS normalization of a library's own, with a bias."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-6

    def forward(self, x):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x * scale * self.gamma + self.beta


@pytest.mark.parametrize("part", ["weight", "bias", "nothing"])
@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm, OwnNorm])
def test_ranks_whose_copies_of_gains_part(tmp_path, monkeypatch, norm, part):
    """Gradients of one rank alone were changed (no all-reduce, or a clip before it)."""
    for rank in (0, 1):
        monkeypatch.setattr(attaching, "_process", lambda rank=rank: (rank, 2))
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), norm(8), nn.Linear(8, 2))
        names = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}.get(part, ())
        held = {n: p for n, p in model[1].named_parameters() if n in names}
        for parameter in held.values() if rank else ():
            parameter.register_hook(lambda gradient: gradient * 0.5)
        train(model, tmp_path / "r.sqlite")
    findings = normscope.check(model, recording=normscope.Recording.load(tmp_path / "r.sqlite"))
    found = [f for f in findings if f.code == "NS807"]
    assert [(f.layer, "weight and bias" in f.message) for f in found] == [("1", True)] * bool(held)
