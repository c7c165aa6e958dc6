"""Loops that are unusual and right: `watch(check=True)` has nothing to say about them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

import normscope
from normscope.errors import NormscopeWarning
from normscope.mend import freeze


def net(**norm) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6, **norm),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6, **norm),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 3),
    )


def batch(seed=0, n=24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(n, 1, 8, 8, generator=generator),
        torch.randint(0, 3, (n,), generator=generator),
    )
    return x + y[:, None, None, None], y


def learn(model, optimizer, number=0) -> None:
    x, y = batch(number)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def closures():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    yield model, optimizer
    x, y = batch(n=64)
    for _ in range(8):
        optimizer.step(closure)


def two_optimizers():
    model = net()
    parameters = list(model.parameters())
    first, second = torch.optim.SGD(parameters[:-2], 0.05), torch.optim.SGD(parameters[-2:], 0.05)
    yield model, None
    for number in range(12):
        second.zero_grad()
        learn(model, first, number)
        second.step()


def recalibrated_on_the_way():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    average = AveragedModel(model)
    yield model, optimizer
    for number in range(12):
        learn(model, optimizer, number)
        average.update_parameters(model)
        if number % 5 == 4:
            update_bn([batch(50)[0], batch(51)[0]], average)
            update_bn([batch(50)[0], batch(51)[0]], model)


def warmed_up_to_a_high_learning_rate():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    yield model, optimizer
    for number in range(80):
        optimizer.param_groups[0]["lr"] = 0.3 * min(1.0, number / 50)
        learn(model, optimizer, number)


def a_slow_average():
    model = net(momentum=0.01)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    yield model, optimizer
    for number in range(80):
        learn(model, optimizer, number)


def frozen_with_the_remedy():
    model = freeze(net().train())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    yield model, optimizer
    for number in range(12):
        model.train()
        learn(model, optimizer, number)


def a_head_on_frozen_features():
    model = net().eval()
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model[-1].parameters(), 0.05)
    yield model, optimizer
    for number in range(12):
        learn(model, optimizer, number)


def generator_against_a_critic():
    generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
    critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 1))
    of_generator = torch.optim.Adam(generator.parameters(), 1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), 1e-3)
    yield generator, of_generator
    for _ in range(12):
        fake = generator(torch.randn(16, 4))
        of_critic.zero_grad()
        F.softplus(critic(fake.detach())).mean().backward()
        of_critic.step()
        of_generator.zero_grad()
        F.softplus(-critic(fake)).mean().backward()
        of_generator.step()


def with_modes(frozen, *, affine=True, drift=0.0, thaw=None):
    """A loop that keeps layers in eval mode; their inputs may drift, and one may be thawed."""
    model = net()
    for layer in frozen:
        model[layer].requires_grad_(affine)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    yield model, optimizer
    for number in range(80):
        model.train()
        if number == thaw:
            model.requires_grad_()
        for layer in frozen if thaw is None or number < thaw else ():
            model[layer].eval()
        x, y = batch(number)
        optimizer.zero_grad()
        F.cross_entropy(model(x + drift * number**2), y).backward()
        optimizer.step()


def statistics_frozen_while_inputs_drift():
    yield from with_modes((1, 4), drift=6e-4)


def one_layer_frozen_with_its_parameters():
    yield from with_modes((1,), affine=False, drift=6e-4)


def gradual_unfreezing():
    yield from with_modes((1, 4), affine=False, thaw=40)


class FrozenBatchNorm(nn.Module):
    """As torchvision has it: everything is a buffer."""

    def __init__(self, channels):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = torch.full((channels,), float(name in ("weight", "running_var")))
            self.register_buffer(name, value)
        self.eps = 1e-5

    def forward(self, x):
        arguments = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *arguments, eps=self.eps)


def a_class_without_parameters():
    model = net()
    model[1] = FrozenBatchNorm(6)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    yield model, optimizer
    for number in range(80):
        x, y = batch(number)
        optimizer.zero_grad()
        F.cross_entropy(model(x + 6e-4 * number**2), y).backward()
        optimizer.step()


def frozen_layer_normalization():
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.LayerNorm(16),
        nn.ReLU(),
        nn.LayerNorm(16),
        nn.Linear(16, 3),
    )
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    yield model, optimizer
    for number in range(80):
        learn(model, optimizer, number)


def statistics_frozen_by_a_momentum_of_zero():
    model = net(momentum=0.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    yield model, optimizer
    for number in range(12):
        x, y = batch(number)
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + F.cross_entropy(model(x + 0.1), y)).backward()
        optimizer.step()
        with torch.no_grad():
            model(x)


FROZEN = (
    statistics_frozen_while_inputs_drift,
    one_layer_frozen_with_its_parameters,
    gradual_unfreezing,
    a_class_without_parameters,
    frozen_layer_normalization,
    statistics_frozen_by_a_momentum_of_zero,
)

LOOPS = (
    closures,
    two_optimizers,
    recalibrated_on_the_way,
    warmed_up_to_a_high_learning_rate,
    a_slow_average,
    frozen_with_the_remedy,
    a_head_on_frozen_features,
    generator_against_a_critic,
    *FROZEN,
)


EVERY_STEP = {"every": 1, "gradients_every": 1, "histograms_every": 1}


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_loop_that_is_right(loop):
    running = loop()
    model, optimizer = next(running)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message="NS", category=NormscopeWarning
        )  # of faults, not of what is not kept
        watcher = normscope.watch(model, optimizer=optimizer, check=True, **EVERY_STEP)
        for _ in running:
            pass
        watcher.close(quiet=True)
    assert watcher.step > 0
    assert [finding for finding in watcher.findings if finding.severity != "info"] == []


@pytest.mark.parametrize("loop", FROZEN[1:], ids=lambda loop: loop.__name__)
def test_the_recording_alone_says_nothing_either(loop):
    running = loop()
    model, optimizer = next(running)
    with normscope.watch(model, optimizer=optimizer, **EVERY_STEP) as watcher:
        list(running)
    report = normscope.check(model, recording=watcher.recording, select=["NS8"])
    assert [finding for finding in report if finding.severity != "info"] == []


def test_a_frozen_layer_that_thaws_alone_is_still_found():
    running = with_modes((1, 4), thaw=40)  # its parameters were never frozen
    model, optimizer = next(running)
    watcher = normscope.watch(model, optimizer=optimizer, check=True, every=1)
    with pytest.warns(NormscopeWarning, match="NS804"):
        list(running)
    watcher.close(quiet=True)
    assert {finding.code for finding in watcher.findings} == {"NS804"}
