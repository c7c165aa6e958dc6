"""Sinks that raise anything at any of their calls: the training and the recording go on."""

import warnings

import pytest
import torch
from torch import nn
from trials import amount, generator

import normscope
from normscope.errors import NormscopeWarning

STEPS = 12


class WordlessError(Exception):
    """An error whose text is one, too."""

    def __str__(self):
        raise RuntimeError("no text")


class OwnError(BaseException):
    """No Exception."""


RAISED = (
    ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, RecursionError,
    StopIteration, AssertionError, UserWarning, OwnError, WordlessError, UnicodeError,
)  # fmt: skip


class Sink:
    """Raises at one of its calls, or from then on, in `flushed`, in `close` or in both."""

    def __init__(self, random):
        self.calls, self.at, self.lasting = 0, random.randrange(1, 6), random.random() < 0.7
        self.error = random.choice(RAISED)
        self.where = random.choice([("flushed",), ("close",), ("flushed", "close")])

    def flushed(self, recording):
        recording.query("1", "batch_mean")
        self._called("flushed")

    def close(self):
        self._called("close")

    def _called(self, what):
        self.calls += 1
        due = self.calls == self.at or (self.lasting and self.calls > self.at)
        if due and what in self.where:
            raise self.error


def trained(sinks, random=None):
    """State after some steps, and the recording of a watched training."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    draw = torch.Generator().manual_seed(1)
    watcher = None
    if sinks:
        options = {"every": 1, "histograms_every": 2, "check": random.random() < 0.3}
        watcher = normscope.watch(model, optimizer=optimizer, sinks=sinks, **options)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(8, 4, generator=draw)).square().sum().backward()
        optimizer.step()
        if watcher is not None and step in (3, 5, 7):
            watcher.mark() if step == 5 else watcher.flush()
    if watcher is not None:
        watcher.close(quiet=True)
    return list(model.state_dict().values()), watcher and watcher.recording


@pytest.fixture(scope="module")
def plain():
    return trained([])[0]


def test_sinks_harm_no_training(plain):
    for number in range(amount(10)):
        random = generator("sinks", number)
        sinks = [Sink(random) for _ in range(random.choice([1, 1, 2, 3]))]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state, recording = trained(sinks, random)
        assert all(torch.equal(a, b) for a, b in zip(plain, state, strict=True)), number
        said = [each for each in caught if issubclass(each.category, NormscopeWarning)]
        assert len(said) <= len(sinks), f"{number}: one warning a sink"
        assert len(recording.query("1", "batch_mean")[0]) == STEPS, number
