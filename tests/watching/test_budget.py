"""What a recording may weigh, and what it says of what it leaves out."""

import sqlite3
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import normscope
from normscope.errors import InputError, NormscopeWarning


def wide(layers=4, channels=2000):
    return nn.Sequential(*(nn.BatchNorm1d(channels) for _ in range(layers)))


def train(model, optimizer, steps, at=0):
    for step in range(at, at + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, model[0].num_features, generator=generator)
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def watched(path, model, steps, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with normscope.watch(model, optimizer=optimizer, path=path, **options) as watcher:
        train(model, optimizer, steps)
        watcher.flush()
    return normscope.Recording.load(path)


@pytest.mark.parametrize("budget", [2.0, 20.0])
def test_a_wide_network_stays_within_its_budget_and_says_what_it_leaves_out(tmp_path, budget):
    recording = watched(tmp_path / "r.sqlite", wide(), 60, budget=budget)
    assert (tmp_path / "r.sqlite").stat().st_size < 0.25e6 * budget
    text = recording.summary()
    assert f"Left out for the budget of {budget:g} MB per 10,000 steps" in text
    assert "channels of 4 layers" in text
    assert "watch(budget=None) records all." in text
    info = recording.layers["0"]
    values = recording.query("0", "batch_mean")[1]
    assert info.channel_stride > 1
    assert values.shape[1] == -(-2000 // info.channel_stride)
    frame = recording.to_dataframe("0", "batch_mean")
    assert set(frame.channel) == set(range(0, 2000, info.channel_stride))


def test_recorded_channels_are_those_of_the_whole_record(tmp_path):
    torch.manual_seed(0)
    model = wide(2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    some = watched(tmp_path / "some.sqlite", model, 3, budget=1.0)
    model.load_state_dict(state)
    every = watched(tmp_path / "all.sqlite", model, 3, budget=None)
    stride = some.layers["1"].channel_stride
    assert every.layers["1"].channel_stride == 1
    for name in ("batch_mean", "batch_var", "running_mean", "weight", "weight_gradient"):
        steps, values = some.query("1", name)
        all_steps, all_values = every.query("1", name)
        kept = all_values[np.isin(all_steps, steps)]
        assert np.array_equal(values, kept[:, ::stride]), name


def test_a_narrow_network_keeps_every_record(tmp_path):
    model = nn.Sequential(*(nn.BatchNorm1d(32) for _ in range(5)))
    limited = watched(tmp_path / "a.sqlite", model, 80)
    free = watched(tmp_path / "b.sqlite", model, 80, budget=None)
    for layer in limited.layers:
        for name in limited.statistics(layer):
            assert np.array_equal(limited.query(layer, name)[0], free.query(layer, name)[0])
    assert "Left out" not in limited.summary()


def test_what_is_not_finite_in_a_channel_that_is_not_recorded_is_found(tmp_path):
    model = wide(1)
    with normscope.watch(model, path=tmp_path / "r.sqlite", budget=1.0) as watcher:
        x = torch.randn(4, 2000)
        x[0, 1001] = float("nan")
        model(x).sum().backward()
        found = watcher.recording.non_finite
    assert watcher.recording.layers["0"].channel_stride > 1
    assert [row["channels"] for row in found if row["statistic"] == "input"] == [[1001]]


def test_a_resumed_recording_keeps_its_plan(tmp_path):
    def steps_of(path):
        recording = normscope.Recording.load(path)
        return {
            name: recording.query("0", name)[0].tolist() for name in recording.statistics("0")
        }, recording.header

    whole = watched(tmp_path / "whole.sqlite", wide(), 60, budget=1.0).header
    path, model = tmp_path / "r.sqlite", wide()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with normscope.watch(model, optimizer=optimizer, path=path, budget=1.0):
        train(model, optimizer, 25)
    with normscope.watch(model, optimizer=optimizer, path=path, after=25):  # another budget
        train(model, optimizer, 35, at=25)
    resumed, header = steps_of(path)
    assert header.budget == 1.0
    assert header.left_out == whole.left_out != {}
    assert resumed == steps_of(tmp_path / "whole.sqlite")[0]


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), "20", True])
def test_a_budget_that_is_none(budget):
    with pytest.raises(InputError, match="budget(=.* is no size| must be of type float)"):
        normscope.watch(wide(1, 4), budget=budget)


def test_a_recording_that_stopped_says_when_and_why(tmp_path):
    model = wide(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watcher = normscope.watch(
        model, optimizer=optimizer, path=tmp_path / "r.sqlite", every=lambda n: n < 4 or 1 / 0
    )
    with pytest.warns(NormscopeWarning, match="The recording stopped at step 4"):
        train(model, optimizer, 5)
    recording = normscope.Recording.load(tmp_path / "r.sqlite")
    assert list(recording.query("0", "weight")[0]) == [1, 2, 3], "what waited is written"
    text = recording.summary()
    assert "The recording stopped at step 4. ZeroDivisionError: division by zero" in text
    assert "was not closed" not in text
    assert not watcher.active


def test_nothing_stands_out_only_where_something_was_looked_at():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with normscope.watch(wide(2, 4)) as watcher:
            text = watcher.recording.summary()
        assert "Nothing stands out" not in text
        assert "Not one step was recorded" in text
        model = nn.ModuleList([nn.BatchNorm1d(4), nn.BatchNorm1d(4)])
        model.forward = lambda x: model[0](x)
        with normscope.watch(model) as watcher:
            model(torch.randn(8, 4)).sum().backward()
        text = watcher.recording.summary()
    assert "Nothing stands out" not in text
    assert "1 of 2 layers were not called in any recorded step (1)" in text


def test_reading_opens_a_file_a_few_times_whatever_the_layers(tmp_path, monkeypatch):
    import os

    recording = watched(tmp_path / "r.sqlite", wide(6, 4), 5)
    os.utime(tmp_path / "r.sqlite", (1, 1))  # written long ago
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(a) or connect(*a, **k))
    for layer in recording.layers:
        for name in recording.statistics(layer):
            recording.query(layer, name)
        recording.distribution(layer)
    recording.summary()
    recording.report(tmp_path / "page.html")
    normscope.check(wide(6, 4), recording=recording)
    assert len(opened) <= 8


def test_a_recording_that_was_read_shows_what_is_written_later(tmp_path):
    model = wide(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with normscope.watch(model, optimizer=optimizer, path=tmp_path / "r.sqlite") as watcher:
        train(model, optimizer, 2)
        watcher.flush()
        recording = normscope.Recording.load(tmp_path / "r.sqlite")
        assert list(recording.query("0", "weight")[0]) == [1, 2]
        train(model, optimizer, 2, at=2)
        watcher.flush()
        assert list(recording.query("0", "weight")[0]) == [1, 2, 3, 4]
        assert recording.cost.steps == 4
