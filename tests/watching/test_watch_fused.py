"""Watching a network whose normalization layers are fused: the bits of the run, and the same record
as without.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from normscope import fused
from normscope.commands.watch import watch
from normscope.models import registry
from normscope.models.fusing import using
from normscope.watching.active_regions import followers

pytestmark = pytest.mark.skipif(
    fused.availability() is not None, reason=f"nothing is fused here: {fused.availability()}"
)


@pytest.fixture(autouse=True)
def fuse_small_tensors_too(monkeypatch):
    monkeypatch.setattr(fused, "LEAST_NUMBERS", 1)


def network():
    model = registry.build(
        "small-resnet",
        in_channels=1,
        num_classes=3,
        image_size=8,
        widths=(4, 8),
        blocks_per_stage=1,
    )
    return model.to(memory_format=torch.channels_last)


def train(model, *, fusing, watched=False, steps=4):
    """The losses, and the recording of a watched training."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    used = []

    def implementation(*arguments):
        output = fused.normalize(*arguments)
        used.append(output is not None)
        return output

    watcher = None
    if watched:
        watcher = watch(model, optimizer=optimizer, every=1, histograms_every=2, gradients_every=1)
    losses = []
    with using(implementation if fusing else None):
        for _ in range(steps):
            images = torch.randn(6, 8, 8, 1, generator=generator).permute(0, 3, 1, 2)
            labels = torch.randint(3, (6,), generator=generator)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    if watcher is not None:
        watcher.close()
    assert (len(used) > 0 and all(used)) == fusing, "a layer was not fused"
    return losses, watcher.recording if watcher is not None else None


def test_a_watched_fused_run_stays_fused_and_has_the_bits_of_an_unwatched_one():
    plain, watched = network(), network()
    expected, _ = train(plain, fusing=True)
    found, _ = train(watched, fusing=True, watched=True)
    assert found == expected
    for (name, value), other in zip(
        plain.state_dict().items(), watched.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_the_recording_of_a_fused_run_is_that_of_an_unfused_one():
    _, expected = train(network(), fusing=False, watched=True)
    _, found = train(network(), fusing=True, watched=True)
    assert list(found.layers) == list(expected.layers)
    compared = set()
    for layer in expected.layers:
        assert found.statistics(layer) == expected.statistics(layer)
        assert found.layers[layer].activation == expected.layers[layer].activation
        for statistic in expected.statistics(layer):
            steps, values = found.query(layer, statistic)
            other_steps, others = expected.query(layer, statistic)
            np.testing.assert_array_equal(steps, other_steps)
            if "histogram" in statistic:
                continue  # a value at the edge of a bin may fall on either side
            np.testing.assert_allclose(
                values, others, rtol=2e-3, atol=2e-5, err_msg=f"{layer} {statistic}"
            )
            compared.add(statistic)
    assert {"batch_mean", "output_gradient_norm", "input_gradient_norm"} <= compared, compared


def test_the_activation_behind_a_fused_layer_is_found():
    def found(fusing):
        model, nodes = network().train(), {}

        def remember(name):
            def hook(module, args, output):
                nodes[name] = output.grad_fn

            hook.reads_statistics_only = True
            return hook

        norms = {
            name: m for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)
        }
        handles = [module.register_forward_hook(remember(name)) for name, module in norms.items()]
        with using(fused.normalize if fusing else None):
            output = model(torch.randn(6, 8, 8, 1).permute(0, 3, 1, 2))
        for handle in handles:
            handle.remove()
        assert any(node.name().startswith("BatchNormAddReLU") for node in nodes.values()) == fusing
        return followers(output, nodes)

    assert found(True) == found(False)
    assert found(True)["layer2.0.shortcut.1"] == ("relu", ["addition"])
