"""Layers with a forward of their own are recorded by what they do: against slow float64."""

import copy
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from norm_zoo import CASES, CHANNELS, EPS, Case, channels_first, sets, varied, with_gains
from normscope.commands.watch import watch
from normscope.errors import NormscopeWarning

EVERYTHING = {"every": 1, "histograms_every": 1, "gradients_every": 1}
STEPS = 3


class Net(nn.Module):
    """A gain for every channel, the layer, and whatever follows."""

    def __init__(self, norm: nn.Module, call=lambda norm, x: norm(x)):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 2, CHANNELS))
        self.norm = norm
        self._call = call
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x):
        x = x * self.gain
        y = self._call(self.norm, x)
        y = y[0] if isinstance(y, tuple) else y
        self.seen.append((x.detach().double(), y.detach().double()))
        return y


def train(net: Net, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    target = torch.randn(
        8, CHANNELS, CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(5)
    )
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = (net(varied(step, dtype)).float() - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def recorded(net: Net, **intervals):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NormscopeWarning)
        with watch(net, **(EVERYTHING | intervals)) as watcher:
            train(net)
            return watcher.recording


def recorded_forwards(net: nn.Module, x: Tensor, steps: int):
    with watch(net, **EVERYTHING) as watcher:
        for _ in range(steps):
            net(x).sum().backward()
        return watcher.recording


def assert_close(found, exact, rtol=2e-5):
    exact = np.asarray(exact)
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() <= rtol * max(np.abs(exact).max(), 1)


@pytest.mark.parametrize("name", CASES)
def test_what_is_recorded_is_what_the_layer_saw_and_made(name):
    case: Case = CASES[name]
    net = Net(with_gains(case.build()), case.call)
    recording = recorded(net)
    info = recording.layers["norm"]
    assert (info.kind, info.channels, info.groups) == (case.kind, CHANNELS, case.groups)
    assert len(net.seen) == STEPS
    for step, (x, y) in enumerate(net.seen):
        given, made = channels_first(x, case.axis), channels_first(y, case.axis)
        assert_close(recording.query("norm", "batch_mean")[1][step], given.mean(1))
        assert_close(recording.query("norm", "batch_var")[1][step], given.var(1, correction=0))
        for side, values in (("", given), ("output_", made)):
            frame = recording.query("norm", f"{side}histogram_frame")[1][step]
            assert_close(frame[4], values.amin(1))
            assert_close(frame[5], values.amax(1))
            assert recording.query("norm", f"{side}histogram")[1][step].sum() == x.numel()
        frame = recording.query("norm", "output_histogram_frame")[1][step]
        assert_close(frame[3], made.mean(1))
        assert_close(frame[2], made.std(1, correction=0))
        if case.kind == "batch":
            assert "sample_mean" not in recording.statistics("norm")
            continue
        values = sets(x, case)
        square = values.square().mean(-1) if case.kind == "rms" else values.var(-1, correction=0)
        std = (square + EPS).sqrt()
        expected = torch.stack([std.mean(0), std.std(0, correction=0), std.amin(0), std.amax(0)])
        assert_close(recording.query("norm", "sample_std")[1][step], expected, rtol=1e-4)
        if case.kind != "rms":
            mean = values.mean(-1)
            expected = torch.stack(
                [mean.mean(0), mean.std(0, correction=0), mean.amin(0), mean.amax(0)]
            )
            assert_close(recording.query("norm", "sample_mean")[1][step], expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_the_watched_training_has_the_bits_of_the_unwatched(name, dtype):
    case = CASES[name]
    torch.manual_seed(0)
    net = Net(with_gains(case.build()), case.call)
    other = copy.deepcopy(net)
    if dtype == torch.bfloat16:
        for each in (net, other):
            each.to(dtype) if "float32" not in name else each.gain.data.copy_(each.gain.data)
    plain = train(other, dtype)
    with watch(net, **EVERYTHING):
        watched = train(net, dtype)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    for a, b in zip(other.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert vars(other).keys() == vars(net).keys()
    assert vars(other.norm).keys() == vars(net.norm).keys()


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, c in CASES.items()
        if c.kind != "rms"
        and "arithmetic" not in n
        and "var_mean" not in n
        and n != "layer norm without bias"
    ],
)
def test_saved_statistics_are_read_at_every_step_without_a_pass_over_activations(name):
    """The first forward shows where autograd keeps them; no histogram is recorded at all."""
    case = CASES[name]
    net = Net(with_gains(case.build()), case.call)
    recording = recorded(net, histograms_every=None, gradients_every=None)
    statistic = "batch_mean" if case.kind == "batch" else "sample_mean"
    steps, found = recording.query("norm", statistic)
    assert list(steps) == [1, 2, 3]
    for step, (x, _) in enumerate(net.seen):
        if case.kind == "batch":
            expected = channels_first(x, case.axis).mean(1)
        else:
            mean = sets(x, case).mean(-1)
            expected = torch.stack(
                [mean.mean(0), mean.std(0, correction=0), mean.amin(0), mean.amax(0)]
            )
        assert_close(found[step], expected, rtol=1e-4)


class Unlike(nn.LayerNorm):
    """A layer norm in name only."""

    def forward(self, x):
        return torch.tanh(x) * x.roll(1, 1)


class UnlikeOverFive(Unlike):
    def __init__(self):
        super().__init__(5)


def test_a_layer_that_nothing_explains_is_named_and_no_number_is_made_up():
    """The map is as wide as there are channels: not even the axis can be told."""
    net = Net(Unlike(CHANNELS))
    with pytest.warns(NormscopeWarning, match="norm .Unlike. has a forward of its own"):
        recording = recorded_forwards(net, varied(), 3)
    assert not {"batch_mean", "histogram", "sample_mean"} & set(recording.statistics("norm"))
    assert {"weight", "bias", "output_gradient_norm"} <= set(recording.statistics("norm"))
    assert any("none of its activations" in note for note in recording.notes)


def test_where_sizes_tell_the_axis_input_and_output_are_recorded_and_no_more():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), UnlikeOverFive())
    x = torch.randn(8, 3, 9, 9)
    kept = []
    handle = net[1].register_forward_hook(
        lambda module, args, output: kept.append((args[0], output))
    )
    with pytest.warns(NormscopeWarning, match="input and output along the axis that has its 5"):
        recording = recorded_forwards(net, x, 4)
    handle.remove()
    for side, values in (("", kept[0][0]), ("output_", kept[0][1])):
        frame = recording.query("1", f"{side}histogram_frame")[1][0]
        assert_close(frame[4], channels_first(values, 1).amin(1))
    assert not {"sample_mean", "sample_std"} & set(recording.statistics("1"))


def test_a_layer_whose_first_batch_says_nothing_is_looked_at_again():
    """A head that starts at zero: its norm sees a constant in the first step."""
    net = Net(with_gains(CASES["layer norm by arithmetic"].build()))
    with watch(net, **EVERYTHING) as watcher:
        net(torch.zeros(8, CHANNELS, CHANNELS, CHANNELS)).sum().backward()
        train(net)
        recording = watcher.recording
    steps, _ = recording.query("norm", "sample_mean")
    assert list(steps) == [2, 3, 4]
    assert recording.layers["norm"].kind == "layer"


class Opaque(Tensor):
    """A tensor of somebody's that refuses sums, as distributed ones refuse to be mixed."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is Tensor.sum and "watch" in repr(sys._getframe(1)):
            raise RuntimeError("no sums of mine")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_one_layer_that_cannot_be_measured_leaves_the_others_recorded():
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4))
    net[1].register_forward_pre_hook(lambda module, args: args[0].as_subclass(Opaque))
    net[1].register_forward_hook(lambda module, args, output: output.as_subclass(Tensor))
    handles = [net[1]._forward_pre_hooks, net[1]._forward_hooks]
    with pytest.warns(NormscopeWarning, match="^1 cannot be measured.*no sums of mine"):
        recording = recorded_forwards(net, torch.randn(16, 4), 3)
    for table in handles:
        table.clear()
    assert list(recording.query("3", "sample_mean")[0]) == [1, 2, 3]
    assert list(recording.query("1", "weight")[0]) == [1, 2, 3]
    assert "histogram" not in recording.statistics("1")
