from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError
from normscope.models.batch_norm import RunningStatistics, batch_norm, batch_norm_backward, steps_of

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
def test_outputs_buffers_and_gradients_equal_torchs(case: Case):
    layer = case.layer()
    *earlier, last = case.batches()
    for batch in earlier:  # so that eval mode and the cumulative average have something behind them
        remembered = steps_of(layer, batch).running_after
        layer(batch)
        if remembered is not None:
            assert_equal(remembered.mean, layer.running_mean)
            assert_equal(remembered.var, layer.running_var)
            assert remembered.batches == layer.num_batches_tracked
    layer.train(case.training)
    x = last.clone().requires_grad_()
    steps = steps_of(layer, last)
    output = layer(x)
    grad_output = torch.randn(output.shape, generator=case.generator, dtype=torch.float64)
    output.backward(grad_output)

    assert_equal(steps.output, output.detach())
    gradients = batch_norm_backward(steps, grad_output)
    # Two values of a channel keep next to nothing of their gradient: what cancels is as large as s
    # = 1 / std.
    assert_equal(gradients.input, x.grad, scale=steps.inverse_std.max().item())
    assert_equal(gradients.weight, layer.weight.grad if case.affine else None)
    assert_equal(gradients.bias, layer.bias.grad if case.affine else None)
    assert (steps.running_after is None) == (not case.tracking)
    if steps.running_after is not None:
        assert_equal(steps.running_after.mean, layer.running_mean)
        assert_equal(steps.running_after.var, layer.running_var)
        assert steps.running_after.batches == layer.num_batches_tracked


class HandDerived(torch.autograd.Function):
    """The definition with its own backward, for gradcheck, which compares that with finite
    differences.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, running: RunningStatistics | None, training: bool
    ) -> Tensor:
        return batch_norm(x, weight, bias, running, training=training).output

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.arguments = inputs

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        x, weight, bias, running, training = ctx.arguments
        gradients = batch_norm_backward(
            batch_norm(x, weight, bias, running, training=training), grad_output
        )
        return gradients.input, gradients.weight, gradients.bias, None, None


@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4), (2, 3, 2, 2), (2, 1, 2, 1, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_the_backward_pass_stands_gradcheck(shape, training):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, mean, var = (
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in (shape, *[shape[1]] * 4)
    )
    running = RunningStatistics(mean.detach(), var.detach().exp())
    for remembered in (running, None):
        assert torch.autograd.gradcheck(
            lambda *tensors, remembered=remembered: HandDerived.apply(
                *tensors, remembered, training
            ),
            (x, weight, bias),
        )


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4, 5)])
def test_every_step_is_what_it_says(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 7
    weight, bias = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([0.0, 1.0, -3.0]).double()
    running = RunningStatistics(torch.zeros(3).double(), torch.ones(3).double(), 4)
    steps = batch_norm(x, weight, bias, running, training=True, momentum=0.25, eps=1e-3)
    for channel in range(3):
        values = x[:, channel].flatten().tolist()
        m = len(values)
        mean = sum(values) / m
        squares = sum((value - mean) ** 2 for value in values)
        std = (squares / m + 1e-3) ** 0.5
        assert steps.count == m
        assert steps.mean[channel].item() == pytest.approx(mean, rel=1e-12)
        assert steps.var[channel].item() == pytest.approx(squares / m, rel=1e-12)
        assert steps.inverse_std[channel].item() == pytest.approx(1 / std, rel=1e-12)
        assert steps.centred[:, channel].flatten().tolist() == pytest.approx(
            [v - mean for v in values], abs=1e-12
        )
        assert steps.normalized[:, channel].flatten().tolist() == pytest.approx(
            [(value - mean) / std for value in values], abs=1e-12
        )
        assert steps.unbiased_var is not None
        assert steps.unbiased_var[channel].item() == pytest.approx(squares / (m - 1), rel=1e-12)
        assert steps.running_after is not None
        assert steps.running_after.mean[channel].item() == pytest.approx(0.25 * mean, rel=1e-12)
        assert steps.running_after.var[channel].item() == pytest.approx(
            0.75 + 0.25 * squares / (m - 1), rel=1e-12
        )
    assert steps.uses_batch_statistics
    assert steps.running_before is running
    assert not running.mean.any()
    assert steps.axes == tuple(axis for axis in range(len(shape)) if axis != 1)


def test_eval_mode_uses_and_keeps_the_running_statistics():
    running = RunningStatistics(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0]), 3)
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    steps = batch_norm(x, running=running, training=False, eps=0.0)
    assert steps.normalized.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert steps.running_after is running
    assert not steps.uses_batch_statistics
    assert steps.unbiased_var is None


def test_a_layer_with_a_weight_and_no_bias():
    layer = nn.BatchNorm2d(3, dtype=torch.float64)
    layer.register_parameter("bias", None)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    steps = steps_of(layer, x, training=True)
    with torch.no_grad():
        assert_equal(steps.output, layer(x))
    gradients = batch_norm_backward(steps, torch.ones_like(x))
    assert gradients.bias is None
    assert gradients.weight is not None


def test_looking_at_a_layer_does_not_change_it():
    layer = nn.BatchNorm1d(2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    steps = steps_of(layer, torch.randn(5, 2))
    assert steps.uses_batch_statistics
    assert not steps_of(layer, torch.randn(5, 2), training=False).uses_batch_statistics
    assert layer.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_steps_stay_true_while_the_layer_is_trained_on():
    layer = nn.BatchNorm1d(2)
    x = torch.randn(5, 2)
    steps = steps_of(layer, x)
    output = layer(x).detach()
    with torch.no_grad():
        layer.weight.fill_(9.0)
    assert steps.running_before is not None
    assert not steps.running_before.mean.any()
    torch.testing.assert_close(steps.output, output)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(1, 3),
            r"A batch of shape \(1, 3\) has one value per channel, and so no variance\.",
        ),
        (torch.zeros(1, 3, 1, 1), r"one value per channel"),
        (torch.zeros(3), r"shape \(3,\); expected \(N, C, \.\.\.\)\."),
    ],
)
def test_what_has_no_variance_is_refused(x, message):
    with pytest.raises(InputError, match=message):
        batch_norm(x, training=True)


def test_one_value_per_channel_is_fine_with_running_statistics():
    running = RunningStatistics(torch.zeros(3), torch.ones(3))
    assert batch_norm(
        torch.ones(1, 3), running=running, training=False, eps=0.0
    ).output.tolist() == [[1.0, 1.0, 1.0]]
