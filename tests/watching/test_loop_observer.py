"""What a loop does to the statistics: counted, reported once, raised on request, and what a
Recording adds.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normscope.commands.check import check
from normscope.commands.loop_check import LoopCheck
from normscope.commands.watch import watch
from normscope.errors import CheckError, InputError, NormscopeWarning
from normscope.judge.history import read_history
from normscope.mend import recalibrate
from normscope.records.recording import Recording
from normscope.watching.loop_observer import LoopObserver


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def step(model, optimizer, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(16, 1, 8, 8, generator=generator) * scale,
        torch.randint(0, 3, (16,), generator=generator),
    )
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def test_an_observed_run_has_the_same_bits():
    states = []
    for observed in (False, True):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        loop = LoopCheck(model, optimizer) if observed else None
        for seed in range(5):
            step(model, optimizer, seed)
        if loop is not None:
            loop.close()
            assert loop.findings == []
        states.append(model.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )


def test_counts():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    observer = LoopObserver(model, optimizer)
    for seed in range(4):
        step(model, optimizer, seed)
    with torch.no_grad():
        model(torch.zeros(2, 1, 8, 8))
    recalibrate(model, [torch.randn(8, 1, 8, 8)])
    history = observer.history()
    observer.close()
    assert history.steps == 4
    assert [(h.steps, h.updates, h.updates_without_grad, h.samples) for h in history.layers] == [
        (4, 4, 1, 2)
    ] * 2
    assert history.layers[0].first_without_grad == 5


def test_each_fault_is_said_once_or_raised():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with LoopCheck(model, optimizer) as loop, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(6):
            with torch.no_grad():
                model(torch.zeros(2, 1, 8, 8))
            step(model, optimizer, seed)
    ours = [str(w.message) for w in caught if w.category is NormscopeWarning]
    assert len(ours) == 1
    assert "NS802" in ours[0]
    assert "first_step" in ours[0]
    assert [finding.layer for finding in loop.findings] == ["1", "4"]
    with LoopCheck(model, optimizer, raises=True), pytest.raises(CheckError, match="NS802"):
        for seed in range(6):
            with torch.no_grad():
                model(torch.zeros(2, 1, 8, 8))
            step(model, optimizer, seed)


def recorded(train, **changes) -> Recording:
    model = net()
    for name, value in changes.items():
        setattr(model[1], name, value)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watcher = watch(model, optimizer=optimizer, every=1, gradients_every=1, histograms_every=10)
        train(model, optimizer)
        recording = watcher.recording
        watcher.close(quiet=True)
    return recording


def codes(recording: Recording) -> set[str]:
    return {finding.code for finding in check(net(), recording=recording, select=["NS8"])}


def test_a_healthy_recording_gets_nothing():
    def train(model, optimizer):
        for seed in range(60):
            step(model, optimizer, seed)

    recording = recorded(train)
    assert codes(recording) == set()
    layer = read_history(recording).layers[0]
    assert (layer.steps, layer.updates, layer.weight_moved, layer.gradient_zero) == (
        59,
        59,
        True,
        False,
    )
    _, means = recording.query("1", "batch_mean")
    _, var = recording.query("1", "batch_var")
    _, running = recording.query("1", "running_mean")
    expected = np.quantile(np.abs(running[7] - means[7]) / np.sqrt(var[7] + 1e-5), 0.95)
    assert layer.lag[7] == pytest.approx(expected)


def test_a_recording_shows_extra_updates():
    def train(model, optimizer):
        for seed in range(12):
            step(model, optimizer, seed)
            with torch.no_grad():
                model(torch.zeros(2, 1, 8, 8))

    assert "NS801" in codes(recorded(train))


def test_a_recording_shows_training_in_eval_mode():
    def train(model, optimizer):
        for seed in range(20):
            if seed == 8:
                model.eval()
            step(model, optimizer, seed)

    assert "NS803" in codes(recorded(train))


def test_a_recording_shows_the_first_non_finite_value():
    def train(model, optimizer):
        for seed in range(8):
            step(model, optimizer, seed, scale=1.0 if seed != 5 else float("inf"))

    recording = recorded(train)
    assert "NS805" in codes(recording)
    assert min(h.first_non_finite for h in read_history(recording).layers) == 6


def test_a_recording_shows_lag():
    def train(model, optimizer):
        for seed in range(80):
            if seed > 40:
                with torch.no_grad():
                    model[0].bias += 0.3
            step(model, optimizer, seed)

    assert "NS808" in codes(recorded(train, momentum=0.02))


def test_other_things_are_refused():
    with pytest.raises(InputError, match=r"recording must be a normscope\.Recording, not a int"):
        check(net(), recording=3)
