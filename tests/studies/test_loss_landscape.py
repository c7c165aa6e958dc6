"""The landscape along the gradient: against a quadratic, where all is known; without a trace."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.models.registry import build
from normscope.studies.measurements.batch_statistics_measurement import Movement
from normscope.studies.measurements.landscape_measurement import Landscape

EIGENVALUES = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)


class Quadratic(nn.Module):
    """Half the sum of eigenvalue * weight^2, with weights that begin where they are set."""

    def __init__(self, at):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([at], dtype=torch.float64))

    def forward(self):
        return 0.5 * (EIGENVALUES * self.weight**2).sum()


@pytest.mark.parametrize("axis", range(3))
def test_along_an_axis_of_a_quadratic_everything_is_exact(axis):
    at = [0.0, 0.0, 0.0]
    at[axis] = 3.0
    curvature = EIGENVALUES[axis].item()
    found = Landscape(Quadratic(at), lambda network: network())
    assert found.start.loss == pytest.approx(0.5 * curvature * 9, rel=1e-14)
    assert (found.start.gradient, found.start.weights) == (
        pytest.approx(3 * curvature, rel=1e-14),
        3.0,
    )
    line = found.descend([0.1, 1.0, 3.0, 5.0])
    np.testing.assert_allclose(
        line.losses, 0.5 * curvature * (3 - line.distances) ** 2, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        line.changes / line.distances, curvature, rtol=1e-12, err_msg="effective beta"
    )


def test_off_the_axes_beta_is_that_of_the_gradients_direction():
    """|H g| / |g|, at every distance."""
    at = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    line = Landscape(Quadratic(at.tolist()), lambda network: network()).descend([0.01, 1.0, 10.0])
    g = EIGENVALUES * at
    np.testing.assert_allclose(
        line.changes / line.distances, ((EIGENVALUES * g).norm() / g.norm()).item(), rtol=1e-10
    )
    loss = 0.5 * (EIGENVALUES * (at - g / g.norm()) ** 2).sum()
    assert line.losses[1] == pytest.approx(loss.item(), rel=1e-12)


def network(norm="batch"):
    model = build(
        "small-resnet",
        norm=norm,
        in_channels=1,
        num_classes=4,
        image_size=8,
        widths=(4, 8, 8),
        blocks_per_stage=1,
    )
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    labels = torch.randint(4, (12,), generator=generator)
    return model, lambda network: F.cross_entropy(
        network(images.to(next(model.parameters()).dtype)), labels
    )


def test_a_step_of_gradient_descent_gets_there():
    model, loss = network()
    model.double()
    found = Landscape(model, loss)
    line = found.descend([0.1 * found.start.gradient])
    twin = copy.deepcopy(model)
    loss(twin).backward()
    before = [p.grad.clone() for p in twin.parameters()]
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    twin.zero_grad()
    value = loss(twin)
    value.backward()
    change = sum(
        (p.grad - g).square().sum() for p, g in zip(twin.parameters(), before, strict=True)
    ).sqrt()
    assert line.losses[0] == pytest.approx(value.item(), rel=1e-12)
    assert line.changes[0] == pytest.approx(change.item(), rel=1e-10)


def test_scale_of_the_weights_changes_beta_but_not_its_scale_free_form():
    """Convolutions before batch norm in float64 with eps -> 0, the classifier held fixed."""
    found = []
    for factor in (1.0, 4.0):
        model, loss = network()
        for module in model.double().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-30
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("conv" in name or name == "stem.0.weight")
            if parameter.requires_grad:
                parameter.data.mul_(factor)
        around = Landscape(model, loss)
        line = around.descend([0.01 * around.start.weights])
        found.append((line.changes[0] / line.distances[0], around.start.weights, line.losses[0]))
    (beta, weights, loss), (other_beta, other_weights, other_loss) = found
    assert other_beta == pytest.approx(beta / 16, rel=1e-9)
    assert other_beta * other_weights**2 == pytest.approx(beta * weights**2, rel=1e-9)
    assert other_loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("norm", ["batch", "noisy-batch"])
def test_looking_leaves_no_trace(norm):
    model, loss = network(norm)
    model.train()
    next(model.parameters()).requires_grad_(False)
    loss(model).backward()
    before = copy.deepcopy(model.state_dict())
    versions = [tensor._version for tensor in [*model.parameters(), *model.buffers()]]
    gradients = [
        (p.grad, None if p.grad is None else p.grad.clone(), p.requires_grad)
        for p in model.parameters()
    ]
    generator = torch.get_rng_state()
    first = Landscape(model, loss).descend([0.0, 0.1])
    second = Landscape(model, loss).descend([0.0, 0.1])
    assert (first.losses == second.losses).all(), "the same noise every time"
    assert first.changes[0] == 0, "at the start nothing has changed: the same noise along the line"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert [tensor._version for tensor in model.parameters()] == versions[: len(gradients)], (
        "no parameter is written"
    )
    for parameter, (grad, values, requires_grad) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is grad
        assert grad is None or torch.equal(grad, values)
        assert parameter.requires_grad == requires_grad
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_a_failing_loss_leaves_no_trace_either():
    model, loss = network()
    broken = False

    def failing(network):
        value = loss(network)
        if broken:
            raise ValueError("no")
        return value

    around = Landscape(model, failing)
    before = copy.deepcopy(model.state_dict())
    broken = True
    with pytest.raises(ValueError, match="no"):
        around.descend([0.1])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_without_a_gradient_there_is_no_direction():
    line = Landscape(Quadratic([0.0, 0.0, 0.0]), lambda network: network()).descend([1.0])
    assert np.isnan([line.losses, line.changes]).all()


def test_movement_is_that_of_a_slow_computation():
    layer = nn.Identity()
    batches = [
        torch.randn(5, 2, 3, 3) * scale + shift for scale, shift in ((1, 0), (2, 1), (1, -1))
    ]
    batches = [torch.cat([batch, torch.full((5, 1, 3, 3), 7.0)], 1) for batch in batches]
    moving = Movement({"place": layer})
    with moving.watching():
        for batch in batches:
            layer(batch)
        layer.eval()(batches[0])
    assert not layer._forward_hooks
    values = [batch.transpose(0, 1).flatten(1).double().numpy() for batch in batches]
    means, sds = (np.array([getattr(v, name)(1) for v in values]) for name in ("mean", "std"))
    expected = np.sqrt(
        (np.diff(means, axis=0) ** 2 + np.diff(sds, axis=0) ** 2).mean(0)[:2] / (sds**2).mean(0)[:2]
    )
    np.testing.assert_allclose(moving.of_channels()["place"][:2], expected, rtol=1e-6)
    assert np.isnan(moving.of_channels()["place"][2]), "a constant channel has no unit"


@pytest.mark.filterwarnings("error")
def test_one_step_and_a_diverged_training_have_no_movement():
    layer = nn.Identity()
    once, diverged = Movement({"place": layer}), Movement({"place": layer})
    with once.watching():
        layer(torch.randn(2, 3, 2, 2))
    with diverged.watching():
        for value in (1.0, float("inf"), float("nan")):
            layer(value * torch.randn(2, 3, 2, 2))
    assert np.isnan(once.of_channels()["place"]).all()
    assert np.isnan(diverged.of_channels()["place"]).all()
