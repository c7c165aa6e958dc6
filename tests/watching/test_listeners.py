"""Whoever listens to a watcher is told at flushes and at close, and cannot harm a training."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normscope
from normscope.commands import watch as watching
from normscope.errors import InputError, NormscopeWarning
from normscope.records.recording_parts import MemoryPart


class Notes:
    """Writes down what it is told."""

    def __init__(self):
        self.told: list[str] = []
        self.last_steps: list[int] = []

    def flushed(self, recording):
        self.told.append("complete" if recording.complete else "flushed")
        self.last_steps.append(int(recording.query("1", "batch_mean")[0][-1]))

    def close(self):
        self.told.append("closed")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def train(model, steps=3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        x, y = (
            torch.randn(8, 4, generator=generator),
            torch.randint(0, 2, (8,), generator=generator),
        )
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return list(model.state_dict().values())


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_sink_is_told_of_data_that_are_in_the_record(tmp_path, on_disk):
    model, sink = net(), Notes()
    path = tmp_path / "r.sqlite" if on_disk else None
    with normscope.watch(model, path=path, every=1, sinks=[sink]) as watcher:
        train(model, 2)
        watcher.flush()
        train(model, 1)
    assert sink.told == ["flushed", "complete", "closed"]
    assert sink.last_steps == [2, 3]
    watcher.close()
    assert sink.told[3:] == []


def test_a_sink_is_told_when_a_block_is_full(monkeypatch):
    monkeypatch.setattr("normscope.watching.recorder.FLUSH_SECONDS", -1.0)
    model, sink = net(), Notes()
    with normscope.watch(model, every=1, sinks=[sink]):
        train(model, 3)
        assert sink.last_steps == [1, 2, 3]


@pytest.mark.parametrize("method", ["flushed", "close"])
def test_a_sink_that_fails_is_named_once_and_the_training_is_the_same(tmp_path, method):
    class Failing(Notes):
        pass

    def fail(self, *args):
        raise ConnectionError("the tracker is down")

    setattr(Failing, method, fail)
    plain, model, other = train(net()), net(), Notes()
    watcher = normscope.watch(model, path=tmp_path / "r.sqlite", every=1, sinks=[Failing(), other])
    watched = train(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watcher.flush()
        watcher.close()
    (warning,) = caught
    assert warning.category is NormscopeWarning
    assert "Listener Failing failed and was disabled" in str(warning.message)
    assert "the tracker is down" in str(warning.message)
    assert other.told[-2:] == ["complete", "closed"]
    assert all(torch.equal(one, two) for one, two in zip(plain, watched, strict=True))
    assert list(normscope.Recording.load(tmp_path / "r.sqlite").query("1", "batch_mean")[0]) == [
        1,
        2,
        3,
    ]


def test_a_sink_whose_errors_have_no_text_is_named_once():
    class WordlessError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    class Failing(Notes):
        def flushed(self, recording):
            raise WordlessError

        def close(self):
            raise WordlessError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = net()
        watcher = normscope.watch(model, every=1, sinks=[Failing()])
        train(model)
        watcher.flush()
        watcher.close()
    (warning,) = caught
    assert str(warning.message).endswith("recording continues. WordlessError")


def test_a_sink_may_ask_the_watcher():
    class Asking(Notes):
        def flushed(self, recording):
            self.told.append(str(len(watcher.recording.layers)))

    model, sink = net(), Asking()
    with normscope.watch(model, every=1, sinks=[sink]) as watcher:
        train(model, 2)
        watcher.flush()
        assert sink.told == ["1"]


def test_a_sink_hears_the_end_of_a_recording_that_is_given_up(tmp_path, monkeypatch):
    model, sink = net(), Notes()
    watcher = normscope.watch(model, every=1, sinks=[sink])
    monkeypatch.setattr(MemoryPart, "write", lambda self, batch: 1 / 0)
    train(model, 2)
    with pytest.warns(NormscopeWarning, match="The recording stopped"):
        watcher.close()
    assert sink.told == ["closed"]


def test_bad_arguments():
    with pytest.raises(InputError, match="A sink has flushed"):
        normscope.watch(net(), sinks=[print])
    with pytest.raises(InputError, match="sinks must be of type list, not Notes"):
        normscope.watch(net(), sinks=Notes())
    with pytest.raises(InputError, match="check must be of type bool or 'raise', not 'raises'"):
        normscope.watch(net(), check="raises")
    with pytest.raises(InputError, match="stream must be of type bool, not 'norms'"):
        normscope.watch(net(), stream="norms")


def test_the_public_function_documents_its_arguments():
    parameters = inspect.signature(watching.watch).parameters
    assert parameters["check"].default is False
    assert all(f"\n        {name}: " in watching.watch.__doc__ for name in parameters)
