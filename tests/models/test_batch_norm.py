from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError
from normscope.models.batch_norm import steps_of

LAYERS: dict[int, type[_BatchNorm]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


@dataclass(frozen=True)
class Case:
    """A layer and the batches that go through it one after the other."""

    shapes: list[tuple[int, ...]]
    seed: int
    momentum: float | None
    affine: bool
    tracking: bool
    training: bool
    eps: float

    def layer(self) -> _BatchNorm:
        layer = LAYERS[len(self.shapes[0])](
            self.shapes[0][1],
            eps=self.eps,
            momentum=self.momentum,
            affine=self.affine,
            track_running_stats=self.tracking,
            dtype=torch.float64,
        )
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(generator=self.generator)
        return layer

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def batches(self) -> list[Tensor]:
        generator = self.generator
        channels = self.shapes[0][1]
        per_channel = (1, channels, *[1] * (len(self.shapes[0]) - 2))
        mean, log_std = torch.randn(2, *per_channel, generator=generator, dtype=torch.float64)
        draws = [
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes
        ]
        return [3 * mean + log_std.exp() * draw for draw in draws]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    channels = draw(st.integers(1, 5))
    spatial = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    sizes = draw(st.lists(st.integers(2, 7), min_size=1, max_size=3))
    return Case(
        shapes=[(size, channels, *spatial) for size in sizes],
        seed=draw(st.integers(0, 2**32)),
        momentum=draw(st.sampled_from([None, 0.0, 0.1, 0.7, 1.0])),
        affine=draw(st.booleans()),
        tracking=draw(st.booleans()),
        training=draw(st.booleans()),
        eps=draw(st.sampled_from([1e-5, 1e-3, 0.5])),
    )


def assert_equal(ours: Tensor | None, torchs: Tensor | None, scale: float = 1.0) -> None:
    """Equal to 1e-12 of the largest entry or of `scale`, the size of the terms that cancel; both
    absent or none.
    """
    assert (ours is None) == (torchs is None)
    if ours is not None and torchs is not None:
        assert ours.dtype == torch.float64
        assert ours.shape == torchs.shape
        assert (ours - torchs).abs().max() <= 1e-12 * max(scale, torchs.abs().max().item())


@settings(deadline=None, max_examples=150)
@given(cases())
def test_outputs_and_buffers_equal_torchs(case: Case):
    layer = case.layer()
    *earlier, last = case.batches()
    for batch in earlier:  # so that eval mode and the cumulative average have something behind them
        remembered = steps_of(layer, batch, training=True).running_after
        layer(batch)
        if remembered is not None:
            assert_equal(remembered.mean, layer.running_mean)
            assert_equal(remembered.var, layer.running_var)
            assert remembered.batches == layer.num_batches_tracked
    layer.train(case.training)
    steps = steps_of(layer, last, training=case.training)
    output = layer(last)
    assert_equal(steps.output, output.detach())
    assert (steps.running_after is None) == (not case.tracking)
    if steps.running_after is not None:
        assert_equal(steps.running_after.mean, layer.running_mean)
        assert_equal(steps.running_after.var, layer.running_var)
        assert steps.running_after.batches == layer.num_batches_tracked


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4, 5)])
def test_every_step_is_what_it_says(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 7
    cls = nn.BatchNorm1d if x.dim() == 2 else nn.BatchNorm2d
    layer = cls(3, momentum=0.25, eps=1e-3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, -1.0, 0.5]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, -3.0]))
    steps = steps_of(layer, x, training=True)
    for channel, (weight, bias) in enumerate([(2.0, 0.0), (-1.0, 1.0), (0.5, -3.0)]):
        values = x[:, channel].flatten().tolist()
        m = len(values)
        mean = sum(values) / m
        squares = sum((value - mean) ** 2 for value in values)
        std = (squares / m + 1e-3) ** 0.5
        assert steps.mean[channel].item() == pytest.approx(mean, rel=1e-12)
        assert steps.var[channel].item() == pytest.approx(squares / m, rel=1e-12)
        assert steps.output[:, channel].flatten().tolist() == pytest.approx(
            [weight * (value - mean) / std + bias for value in values], abs=1e-12
        )
        assert steps.unbiased_var is not None
        assert steps.unbiased_var[channel].item() == pytest.approx(squares / (m - 1), rel=1e-12)
        assert steps.running_after is not None
        assert steps.running_after.mean[channel].item() == pytest.approx(0.25 * mean, rel=1e-12)
        assert steps.running_after.var[channel].item() == pytest.approx(
            0.75 + 0.25 * squares / (m - 1), rel=1e-12
        )
    assert steps.running_before is not None
    assert not steps.running_before.mean.any()


def test_eval_mode_uses_and_keeps_the_running_statistics():
    layer = nn.BatchNorm1d(2, eps=0.0, affine=False)
    layer.running_mean, layer.running_var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    steps = steps_of(layer, torch.tensor([[1.0, 2.0], [3.0, 5.0]]), training=False)
    assert steps.output.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert steps.running_after is steps.running_before
    assert steps.unbiased_var is None


def test_a_layer_with_a_weight_and_no_bias():
    layer = nn.BatchNorm2d(3, dtype=torch.float64)
    layer.register_parameter("bias", None)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    steps = steps_of(layer, x, training=True)
    with torch.no_grad():
        assert_equal(steps.output, layer(x))
    assert steps.bias is None


def test_looking_at_a_layer_does_not_change_it():
    layer = nn.BatchNorm1d(2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    steps_of(layer, torch.randn(5, 2), training=True)
    steps_of(layer, torch.randn(5, 2), training=False)
    assert layer.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_steps_stay_true_while_the_layer_is_trained_on():
    layer = nn.BatchNorm1d(2)
    x = torch.randn(5, 2)
    steps = steps_of(layer, x, training=True)
    output = layer(x).detach()
    with torch.no_grad():
        layer.weight.fill_(9.0)
    assert steps.running_before is not None
    assert not steps.running_before.mean.any()
    torch.testing.assert_close(steps.output, output)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_what_has_no_variance_is_refused(shape):
    layer = nn.BatchNorm1d(3)
    with pytest.raises(InputError, match=r"shape \(1, 3.*\) has one value per channel, and so no"):
        steps_of(layer, torch.zeros(shape), training=True)
    assert steps_of(layer, torch.zeros(shape), training=False).output.shape == shape
