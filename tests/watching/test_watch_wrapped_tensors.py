"""Layers whose tensors are wrapped: DTensors, tensors of torch.func, parameters of one call."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from normscope.commands.watch import watch

DENSE = {"every": 1, "histograms_every": 1, "gradients_every": 1}


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.RMSNorm(6))


def whole_batch(model, x):
    with watch(model, **DENSE) as watcher:
        model(x)
    return watcher.recording


@pytest.fixture
def x():
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Layers are called inside torch.func.vmap")
def test_per_sample_gradients_are_watched_as_the_batch_that_they_are(x):
    model = Net()
    expected = whole_batch(model, x)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, sample):
        return functional_call(model, parameters, (sample,)).square().mean()

    unwatched = vmap(grad(loss), (None, 0))(parameters, x)
    with watch(model, **DENSE) as watcher:
        watched = vmap(grad(loss), (None, 0))(parameters, x)
    assert all(torch.equal(watched[name], value) for name, value in unwatched.items())
    recording = watcher.recording
    assert watcher.step == 1
    for layer in ("1", "3"):
        for name in ("batch_mean", "batch_var", "sample_std", "histogram", "output_histogram"):
            ours, theirs = (r.query(layer, name)[1] for r in (recording, expected))
            assert np.allclose(ours, theirs, atol=1e-5), (layer, name)


@pytest.mark.filterwarnings("ignore:Layers are called inside torch.func.vmap")
def test_an_ensemble_is_watched_with_all_its_members(x):
    models = [Net() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    with watch(models[0], **DENSE) as watcher:
        vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    made = torch.cat([model[1](model[0](x)).detach() for model in models]).reshape(-1, 6)
    counts = watcher.recording.distribution("1", "output").counts
    assert counts.sum() == pytest.approx(made.numel())
    assert np.allclose(watcher.recording.query("1", "values_per_channel")[1], 45)


def test_parameters_are_those_that_the_call_was_given(x):
    model = Net()
    parameters = {name: p.detach() + 1 for name, p in model.named_parameters()}
    with watch(model, **DENSE) as watcher:
        grad(lambda p: functional_call(model, p, (x,)).square().mean())(parameters)
    for name in ("1.weight", "1.bias", "3.weight"):
        layer, _, statistic = name.partition(".")
        recorded = watcher.recording.query(layer, statistic)[1][0]
        assert np.array_equal(recorded, parameters[name].numpy())


def test_parameters_whose_memory_was_freed_are_recorded_as_the_call_used_them():
    class Flat(nn.LayerNorm):
        """Has its weight in a flat tensor that is there during a forward only, as FSDP does."""

        def forward(self, x):
            self.weight.untyped_storage().resize_(16)
            with torch.no_grad():
                self.weight.copy_(torch.arange(4.0))
            return super().forward(x)

    layer = Flat(4)
    del layer._parameters["weight"], layer._parameters["bias"]
    layer.weight, layer.bias = torch.ones(4), None
    model = nn.Sequential(layer, nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model, optimizer=optimizer, **DENSE) as watcher:
        model(torch.randn(3, 4))
        layer.weight.untyped_storage().resize_(0)
        optimizer.step()
    assert watcher.recording.query("0", "weight")[1].tolist() == [[0, 1, 2, 3]]


@pytest.fixture
def mesh():
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_layers_of_dtensors_are_watched_as_those_of_tensors(mesh, x):
    from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

    torch.manual_seed(0)
    expected = whole_batch(plain := Net(), x)
    model = Net()
    model.load_state_dict(plain.state_dict())
    model = distribute_module(model, mesh)
    with watch(model, **DENSE) as watcher:
        model(distribute_tensor(x, mesh, [Shard(1)]))
    for layer in ("1", "3"):
        for name in expected.statistics(layer):
            ours, theirs = (r.query(layer, name)[1] for r in (watcher.recording, expected))
            assert np.array_equal(ours, theirs), (layer, name)
    assert Replicate() in model[1].weight.placements


def test_a_summand_is_not_taken_for_an_input(mesh):
    from torch.distributed.tensor import DTensor, Partial, Replicate

    layer = nn.LayerNorm(4)
    torch.distributed.tensor.distribute_module(layer, mesh)
    x = DTensor.from_local(torch.randn(3, 4), mesh, [Partial()])
    with pytest.warns(match="each process holds a summand"), watch(layer, **DENSE) as watcher:
        layer(x.requires_grad_())
    recording = watcher.recording
    assert "histogram" not in recording.statistics("LayerNorm")
    assert recording.query("LayerNorm", "sample_std")[1].shape == (1, 4, 1)
    assert Replicate() in layer.weight.placements
