"""Trainings in which other optimizers than the one whose steps count change the layers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from normscope.commands.watch import watch

EVERYTHING = {"every": 1, "histograms_every": 1, "gradients_every": 1, "stream": True}
STEPS = 3


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2))


def learn(model, step):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    F.cross_entropy(model(x), torch.arange(5) % 2).backward()


def of_matrices_and_gains(model):
    gains = list(model[1].parameters())
    matrices = [*model[0].parameters(), *model[3].parameters()]
    return torch.optim.SGD(matrices, 0.1), torch.optim.AdamW(gains, 0.1)


def train_in_order(model, optimizers, call=None):
    """Take a step of each optimizer in turn; return the gains, and their gradients, as used."""
    used, gradients, call = [], [], call or model
    for step in range(STEPS):
        used.append(model[1].weight.detach().clone())
        learn(call, step)
        gradients.append(model[1].weight.grad.clone())
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    return used, gradients


def train_in_backward(model):
    """Let each parameter's optimizer step, and drop its gradient, when the gradient is there."""
    used, gradients = [], []

    def step_of(parameter):
        if parameter is model[1].weight:
            gradients.append(parameter.grad.clone())
        torch.optim.SGD([parameter], 0.1).step()
        parameter.grad = None

    for parameter in [*model.parameters()][1:]:
        parameter.register_post_accumulate_grad_hook(step_of)
    first = torch.optim.SGD([model[0].weight], 0.1)
    yield first

    def last_step(parameter):
        first.step()
        first.zero_grad()

    model[0].weight.register_post_accumulate_grad_hook(last_step)
    for step in range(STEPS):
        used.append(model[1].weight.detach().clone())
        learn(model, step)
    yield used, gradients


def assert_recorded(recording, model, used, gradients):
    values = [*used, model[1].weight.detach()]
    changes = [(b - a).square().mean().sqrt() for a, b in itertools.pairwise(values)]
    ratios = [c / a.square().mean().sqrt() for c, a in zip(changes, values, strict=False)]
    for name, expected in (
        ("weight", torch.stack(used)),
        ("weight_gradient", torch.stack(gradients)),
        ("update_ratio", torch.stack(ratios)),
    ):
        steps, recorded = recording.query("1", name)
        assert list(steps) == [1, 2, 3], name
        np.testing.assert_allclose(recorded, expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("counted", ["matrices", "gains", "none"])
@pytest.mark.parametrize("first", ["matrices", "gains"])
def test_a_gain_is_recorded_as_it_was_used_whoever_steps_first(counted, first):
    model = small_net()
    matrices, gains = of_matrices_and_gains(model)
    given = {"matrices": matrices, "gains": gains, "none": None}[counted]
    order = (matrices, gains) if first == "matrices" else (gains, matrices)
    with watch(model, optimizer=given, **EVERYTHING) as watcher:
        used, gradients = train_in_order(model, order)
    assert_recorded(watcher.recording, model, used, gradients)


@pytest.mark.parametrize("given", [True, False])
def test_optimizers_that_step_inside_the_backward(given):
    model = small_net()
    training = train_in_backward(model)
    first = next(training)
    with watch(model, optimizer=first if given else None, **EVERYTHING) as watcher:
        used, gradients = next(training)
    assert_recorded(watcher.recording, model, used, gradients)


def test_gradients_that_come_behind_the_counted_optimizer_are_said_to_be_missing():
    model = small_net()
    training = train_in_backward(model)
    next(training)
    last_layer = torch.optim.SGD([model[3].bias], 0.1)
    model[3].bias.register_post_accumulate_grad_hook(lambda _: last_layer.step())
    with watch(model, optimizer=last_layer, **EVERYTHING) as watcher:
        next(training)
    said = "inside the backward behind the one whose steps count"
    assert any(said in note for note in watcher.recording.notes)


def test_a_probe_of_a_compiled_model_comes_before_any_update():
    eager, model, means = small_net(), small_net(), []
    see = eager[1].register_forward_pre_hook(lambda _, args: means.append(args[0].mean(0).detach()))
    train_in_order(eager, of_matrices_and_gains(eager))
    see.remove()
    optimizers = of_matrices_and_gains(model)
    with watch(model, optimizer=optimizers[1], **EVERYTHING) as watcher:
        train_in_order(model, optimizers, torch.compile(model, backend="eager"))
    _, recorded = watcher.recording.query("1", "batch_mean")
    np.testing.assert_allclose(recorded, torch.stack(means), rtol=1e-5, atol=1e-6)


def test_parameters_of_a_functional_call_have_no_update_and_it_is_said():
    model = small_net()
    given = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(given.values(), 0.1)
    with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
        learn(lambda x: functional_call(model, given, (x,)), 0)
        optimizer.step()
    assert any("parameters that are not their own" in note for note in watcher.recording.notes)
    assert "weight" in watcher.recording.statistics("1")
    assert "update_ratio" not in watcher.recording.statistics("1")
