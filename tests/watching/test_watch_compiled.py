"""Compiled models: the run and its graphs stay as they are, and layers are measured by a probe."""

import functools
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from normscope.commands.watch import watch
from normscope.errors import NormscopeWarning
from normscope.watching.probe_forward import FREE, SHARE, Allowance

EVERYTHING = {"every": 1, "histograms_every": 1, "gradients_every": 1}
STEPS = 5


class Chain(nn.Module):
    """nn.Sequential, with a forward that Dynamo takes as its own frame."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def network(dropout=0.0):
    torch.manual_seed(0)
    block = Chain(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.GELU(), nn.Dropout(dropout))
    return Chain(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), block, nn.Flatten(), nn.Linear(96, 5)
    )


def compiled(model, way, backend="aot_eager"):
    """Give the model to torch.compile; return what the loop calls."""
    options = {"backend": backend, "fullgraph": True}
    if way == "eager":
        return model
    if way == "wrapped":
        return torch.compile(model, **options)
    if way == "in a function":
        return torch.compile(lambda x: model(x), **options)
    if way == "in place":
        model.compile(**options)
    elif way == "a block in place":
        model.layers[3].compile(**options)
    elif way == "a block wrapped":
        model.layers[3] = torch.compile(model.layers[3], **options)
    return model


def trained(way, *, watched=None, optimizer_given=True, dropout=0.0, autocast=False):
    """Train a few steps, with a validation between.

    Returns:
        losses, state, what Dynamo counted, and the recording of a watched one.
    """
    torch.compiler.reset()
    counters.clear()
    model = network(dropout)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    options = EVERYTHING | {"optimizer": optimizer if optimizer_given else None}
    watcher = watch(model, **options) if watched == "before" else None
    call = compiled(model, way)
    if watched == "after":
        target = model if way == "in a function" else call
        watcher = watch(target, **options)
    draw = torch.Generator().manual_seed(1)
    torch.manual_seed(5)
    losses = []
    for step in range(STEPS):
        if step == 2:
            model.eval()
            with torch.no_grad():
                call(torch.randn(8, 3, 8, 8, generator=draw) + 50)
            model.train()
        x, y = torch.randn(8, 3, 8, 8, generator=draw), torch.randint(0, 5, (8,), generator=draw)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = call(x)
        loss = F.cross_entropy(output.float(), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    counted = dict(counters["stats"]), dict(counters["graph_break"])
    recording = None
    if watcher is not None:
        recording = watcher.recording
        watcher.close(quiet=True)
    state = [value.clone() for value in model.state_dict().values()]
    torch.compiler.reset()
    return losses, state, counted, recording


@functools.cache
def unwatched(way):
    return trained(way, dropout=0.3, autocast=True)


def assert_equal_runs(one, other):
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    assert one[2] == other[2], "the graphs"


def sequential_graphs(watched):
    """Train an nn.Sequential that is compiled in place, with a part of its own and without."""
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    own = Chain(nn.Linear(6, 6), nn.LayerNorm(6))
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Sequential(own, nn.Tanh()))
    watcher = watch(model, **EVERYTHING) if watched == "before" else None
    model.compile(backend="eager")
    watcher = watch(model, **EVERYTHING) if watched == "after" else watcher
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(8, 4) + torch.arange(8.0)[:, None]).sum().backward()
        optimizer.step()
    recording = watcher.recording if watcher is not None else None
    if watcher is not None:
        watcher.close(quiet=True)
    return dict(counters["stats"]), recording


@pytest.mark.parametrize("watched", ["before", "after"])
def test_of_a_sequential_compiled_in_place_no_more_is_compiled(watched):
    plain, _ = sequential_graphs(None)
    graphs, recording = sequential_graphs(watched)
    assert graphs == plain
    assert plain["unique_graphs"] == 1
    for layer in ("1", "2.0.layers.1"):
        assert {"batch_mean", "sample_std"} & set(recording.statistics(layer))


@pytest.fixture(autouse=True)
def quietly():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*model is compiled", category=NormscopeWarning)
        yield


def whole_steps(*, watched, optimizer_given=True):
    """Train with a compiled function that makes whole steps, the optimizer's among them."""
    torch.compiler.reset()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    given = optimizer if optimizer_given else None
    watcher = watch(model, optimizer=given, check=True, **EVERYTHING) if watched else None

    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    call, draw = torch.compile(step, backend="aot_eager"), torch.Generator().manual_seed(1)
    for _ in range(3):
        call(torch.randn(8, 3, 8, 8, generator=draw), torch.randint(0, 5, (8,), generator=draw))
    if watcher is not None:
        watcher.close(quiet=True)
    return list(model.state_dict().values()), watcher and watcher.recording


@pytest.mark.parametrize("optimizer_given", [True, False])
def test_the_optimizers_step_may_be_compiled_too(optimizer_given):
    plain, _ = whole_steps(watched=False)
    state, recording = whole_steps(watched=True, optimizer_given=optimizer_given)
    assert all(torch.equal(one, other) for one, other in zip(plain, state, strict=True))
    assert recording.query("layers.1", "batch_mean")[0].tolist() == [1, 2, 3]
    assert not any("cannot be called" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("way", "watched"),
    [
        ("wrapped", "before"),
        ("wrapped", "after"),
        ("in place", "after"),
        ("a block in place", "before"),
        ("a block wrapped", "after"),
        ("in a function", "after"),
    ],
)
def test_a_compiled_training_stays_as_it_is_and_is_recorded(way, watched):
    watched_run = trained(way, watched=watched, dropout=0.3, autocast=True)
    assert_equal_runs(watched_run, unwatched(way))
    assert watched_run[2][1] == {}
    recording = watched_run[3]
    every = list(range(1, STEPS + 1))
    for layer in recording.layers:
        statistics = {"batch_mean", "sample_std"} & set(recording.statistics(layer))
        assert statistics
        for name in (*statistics, "histogram", "weight", "weight_gradient"):
            assert list(recording.query(layer, name)[0]) == every, (layer, name)
    assert any("forward of the uncompiled model" in note for note in recording.notes)


def test_without_an_optimizer_the_steps_are_those_of_the_one_that_steps():
    recording = trained("wrapped", watched="before", optimizer_given=False)[3]
    assert list(recording.query("layers.1", "batch_mean")[0]) == list(range(1, STEPS + 1))
    assert recording.header.unit == "optimizer step"


def test_a_probe_measures_what_the_same_eager_training_does():
    """With arithmetic that is the eager one, the recordings are equal."""
    probed, eager = (
        trained(way, watched="before", autocast=True)[3] for way in ("in place", "eager")
    )
    assert list(probed.layers) == list(eager.layers)
    missing = {"input_gradient_norm", "output_gradient_norm"}
    for layer in eager.layers:
        assert set(eager.statistics(layer)) - set(probed.statistics(layer)) == missing
        for statistic in set(probed.statistics(layer)):
            one, other = probed.query(layer, statistic), eager.query(layer, statistic)
            assert np.array_equal(one[0], other[0]), (layer, statistic)
            np.testing.assert_array_equal(one[1], other[1], err_msg=f"{layer} {statistic}")


def test_what_a_forward_leaves_behind_is_put_back():
    class Counting(Chain):
        def forward(self, x):
            self.seen = x.mean()
            return super().forward(x)

    torch.compiler.reset()
    model = Counting(*network().layers)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
        call = torch.compile(model, backend="aot_eager")
        call(torch.ones(2, 3, 8, 8)).sum().backward()
        kept, tracked = model.seen, model.layers[1].num_batches_tracked.clone()
        optimizer.step()
        assert model.seen is kept
        assert model.layers[1].num_batches_tracked == tracked == 1
        assert list(watcher.recording.query("layers.1", "batch_mean")[0]) == [1]
    torch.compiler.reset()


def test_a_model_that_cannot_be_called_again_is_said_and_the_training_goes_on():
    failing = [True]

    class Once(Chain):
        def forward(self, x):
            if not torch.compiler.is_compiling() and failing:
                raise RuntimeError("compiled only")
            return super().forward(x)

    torch.compiler.reset()
    model = Once(*network().layers)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watcher = watch(model, optimizer=optimizer, **EVERYTHING)
    call = torch.compile(model, backend="aot_eager")
    call(torch.ones(2, 3, 8, 8)).sum().backward()
    with pytest.warns(NormscopeWarning, match="cannot be called once more.*compiled only"):
        optimizer.step()
    assert watcher.active
    assert list(watcher.recording.query("layers.1", "weight_gradient")[0]) == [1]
    failing.clear()  # what failed once is tried again
    call(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert list(watcher.recording.query("layers.1", "batch_mean")[0]) == [2]
    watcher.close(quiet=True)
    torch.compiler.reset()


def test_an_unused_layer_of_an_eager_model_is_no_compiled_one():
    model = network()
    model.unused = nn.BatchNorm2d(3)
    watcher = watch(model, **EVERYTHING)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        model(torch.ones(2, 3, 8, 8)).sum().backward()
        optimizer.step()
    assert watcher.step == 3
    assert watcher.recording.header.unit == "forward"
    with pytest.warns(NormscopeWarning, match="1 of 3 layers were not called"):
        watcher.close(quiet=True)


def test_probes_take_their_share_of_the_time_and_no_more():
    now = [0.0]
    allowance, probes = Allowance(lambda: now[0]), 0
    for _ in range(10_000):
        now[0] += 0.1  # a step
        if allowance.suffices():
            with allowance.spending():
                now[0] += 0.05
            probes += 1
    assert probes > FREE + 100
    assert probes * 0.05 <= (SHARE + 0.001) * now[0]


@pytest.mark.filterwarnings("ignore:The model is compiled")
def test_a_block_that_is_compiled_after_a_few_eager_steps_is_probed():
    torch.compiler.reset()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
        for step in range(6):
            if step == 2:
                model.layers[3].compile(backend="aot_eager", fullgraph=True)
            model(torch.randn(4, 3, 8, 8)).sum().backward()
            optimizer.step()
    steps, _ = watcher.recording.query("layers.3.layers.1", "sample_std")
    assert steps.tolist() == [1, 2, 4, 5, 6], "at its first compiled step nothing was kept"
