"""The numbers of an explanation against float64 recomputations that share no code with it."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from printed_arithmetic import results_of
from torch.nn import functional as F

from normscope.data.device_batches import Batches
from normscope.errors import InputError
from normscope.records.explanation import ORDERS
from normscope.show.arithmetic import followed_value, memory_steps, step_groups
from normscope.studies.explain_layer import choose_layer, explain_layer
from normscope.studies.grid import build_for, lay_out
from normscope.studies.measurements.evaluation_measurement import (
    BATCH_SIZES,
    REPEATS,
    _orders,
    accuracies_without_eval,
)


@pytest.fixture(scope="module")
def study(asked, tmp_path_factory):
    """(spec, data set) of the tiny study in fp32."""
    grid = lay_out(asked(tmp_path_factory.mktemp("unused"), precision="fp32").study)
    return grid.specs[0], grid.dataset


@pytest.fixture(scope="module")
def network(study):
    """A network whose buffers and affine parameters are not the initial ones."""
    spec, dataset = study
    model = build_for(dataset, spec)
    generator = torch.Generator().manual_seed(5)
    images = images_for_testing(spec, dataset)[0]
    with torch.no_grad():
        for _ in range(3):
            model.train()(images[torch.randperm(len(images), generator=generator)[:40]])
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.add_(0.3 * torch.randn(module.weight.shape, generator=generator))
                module.bias.add_(0.3 * torch.randn(module.bias.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def forgotten(network, study):
    spec, dataset = study
    return accuracies_without_eval(network, dataset, spec)


def images_for_testing(spec, dataset):
    batches = Batches(dataset, 1000, torch.device("cpu"), crop_padding=0, horizontal_flip=False)
    return next(iter(batches.test()))


def explain(network, study, forgotten, layer, channel=None):
    spec, dataset = study
    choice = choose_layer(network, layer, "batch", channel)
    return explain_layer(
        network,
        choice,
        dataset,
        spec,
        channel=channel,
        forgotten=forgotten,
        meta={"spec": dataclasses.asdict(spec)},
    )


def test_every_step_equals_a_recomputation_from_the_convolution_on(network, study, forgotten):
    """The stem's normalization: its input is one convolution of the images, which is redone in
    float64 here.
    """
    spec, dataset = study
    explanation = explain(network, study, forgotten, "stem.1")
    batches = Batches(
        dataset,
        spec.batch_size,
        torch.device("cpu"),
        crop_padding=spec.crop_padding,
        horizontal_flip=False,
    )
    images, labels = next(iter(batches.train(spec.seed, spec.epochs + 1)))
    x = F.conv2d(images.double(), network.stem[0].weight.double(), padding=1).detach()
    np.testing.assert_allclose(explanation.x, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(explanation.labels, labels)

    x = explanation.x.astype(np.float64).transpose(1, 0, 2, 3).reshape(explanation.x.shape[1], -1)
    m = x.shape[1]
    np.testing.assert_allclose(explanation.mean, x.mean(1), rtol=1e-11)
    np.testing.assert_allclose(explanation.var, x.var(1), rtol=1e-11)
    np.testing.assert_allclose(explanation.unbiased_var, x.var(1, ddof=1), rtol=1e-11)
    assert explanation.count == m

    layer = copy.deepcopy(network.stem[1]).double()
    given = torch.from_numpy(explanation.x).double()
    in_eval_mode = layer.eval()(given).detach().numpy()
    before = layer.running_mean.numpy().copy(), layer.running_var.numpy().copy()
    in_train_mode = layer.train()(given).detach().numpy()
    for index in range(len(explanation.mean)):
        channel = explanation.channel(index)
        np.testing.assert_allclose(channel.output, in_train_mode[:, index], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            channel.eval_output, in_eval_mode[:, index], rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            channel.running_before, [part[index] for part in before], rtol=1e-12
        )
    np.testing.assert_allclose(explanation.running_after.mean, layer.running_mean, rtol=1e-12)
    np.testing.assert_allclose(explanation.running_after.var, layer.running_var, rtol=1e-12)
    assert explanation.chosen == np.abs(x.mean(1)).argmax()
    assert 0 < explanation.disagreement < 1e-4


def test_the_images_are_those_of_the_batch(network, study, forgotten):
    spec, dataset = study
    explanation = explain(network, study, forgotten, None)
    batches = Batches(
        dataset,
        spec.batch_size,
        torch.device("cpu"),
        crop_padding=spec.crop_padding,
        horizontal_flip=False,
    )
    images, _ = next(iter(batches.train(spec.seed, spec.epochs + 1)))
    back = (images[: len(explanation.images), 0] * dataset.std[0] + dataset.mean[0]) * 255
    np.testing.assert_array_equal(explanation.images[..., 0], back.round())
    assert explanation.images.max() > 100


@pytest.mark.parametrize("channel", range(4))
def test_every_line_of_the_arithmetic_holds_as_it_is_printed(network, study, forgotten, channel):
    explanation = explain(network, study, forgotten, "layer1.0.bn1", channel)
    worked = explanation.channel(channel)
    results = results_of(step_groups(explanation))
    place = followed_value(explanation)
    assert len(results) == 10
    assert results["mean"] == pytest.approx(worked.mean, rel=1e-4)
    assert results["variance, biased"] == pytest.approx(worked.x.var(), rel=1e-4)
    assert results["variance, unbiased"] == pytest.approx(worked.x.var(ddof=1), rel=1e-4)
    assert results["output"] == pytest.approx(worked.output[place], rel=1e-4)
    assert results["output in eval mode"] == pytest.approx(worked.eval_output[place], rel=1e-4)
    assert results["running mean"] == pytest.approx(
        explanation.running_after.mean[channel], rel=1e-4
    )
    assert results["running variance"] == pytest.approx(
        explanation.running_after.var[channel], rel=1e-4
    )


def test_momentum_none_is_the_average_over_all_batches(network, study, forgotten):
    averaging = copy.deepcopy(network)
    averaging.layer1[0].bn1.momentum = None
    explanation = explain(averaging, study, forgotten, "layer1.0.bn1")
    seen = explanation.batches_before
    assert seen == 3
    expected = (seen * explanation.running_before.mean + explanation.mean) / (seen + 1)
    np.testing.assert_allclose(explanation.running_after.mean, expected, rtol=1e-12)
    assert "0.75 · " in memory_steps(explanation)[0].numbers


def test_a_layer_without_affine_parameters_and_memory(network, study, forgotten):
    bare = copy.deepcopy(network)
    bare.layer1[0].bn1 = torch.nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    explanation = explain(bare, study, forgotten, "layer1.0.bn1")
    worked = explanation.channel(0)
    assert (
        explanation.weight
        is explanation.bias
        is explanation.running_before
        is explanation.running_after
        is None
    )
    np.testing.assert_allclose(
        worked.output, (worked.x - worked.x.mean()) / np.sqrt(worked.x.var() + 1e-5)
    )
    np.testing.assert_array_equal(worked.output, worked.eval_output)
    assert memory_steps(explanation) == []


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).double().mean())


def test_accuracies_without_eval_equal_a_plain_loop(network, study, forgotten):
    spec, dataset = study
    images, labels = images_for_testing(spec, dataset)
    assert forgotten.images == len(labels)
    assert forgotten.batch_sizes == tuple(sorted((*BATCH_SIZES, len(labels))))
    with torch.no_grad():
        assert forgotten.eval_accuracy == accuracy(network(images), labels)
        for (place, repeat), order in _orders(labels, spec.seed):
            for size in (8, 128, len(labels)):
                model = copy.deepcopy(network).train()
                logits = torch.cat(
                    [model(images[order[k : k + size]]) for k in range(0, len(order), size)]
                )
                column = forgotten.batch_sizes.index(size)
                assert forgotten.during[place, column, repeat] == pytest.approx(
                    accuracy(logits, labels[order])
                )
                after = accuracy(model.eval()(images), labels)
                assert forgotten.afterwards[place, column, repeat] == pytest.approx(after)


def test_one_image_in_train_mode_is_instance_normalization(network, study, forgotten):
    spec, dataset = study
    images, labels = images_for_testing(spec, dataset)
    model = copy.deepcopy(network)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                instance = torch.nn.InstanceNorm2d(child.num_features, affine=True)
                instance.load_state_dict({"weight": child.weight, "bias": child.bias})
                setattr(module, name, instance)
    with torch.no_grad():
        expected = accuracy(model(images), labels)
    np.testing.assert_allclose(forgotten.during[:, 0, 0], expected, atol=1.5 / len(labels))
    assert np.isnan(forgotten.during[:, 0, 1:]).all()


def test_measuring_leaves_the_model_as_it_was(network, study):
    spec, dataset = study
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    told = []
    accuracies_without_eval(network, dataset, spec, lambda done, total: told.append((done, total)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert told == [(k + 1, 2 * REPEATS) for k in range(2 * REPEATS)]


def test_orders_are_permutations_and_class_ordered_ones_are_sorted():
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    seen = dict(_orders(labels, 3))
    assert set(seen) == {
        (place, repeat) for place in range(len(ORDERS)) for repeat in range(REPEATS)
    }
    assert all(sorted(order.tolist()) == list(range(9)) for order in seen.values())
    assert all(
        torch.equal(labels[seen[1, repeat]], labels.sort().values) for repeat in range(REPEATS)
    )
    assert len({tuple(order.tolist()) for order in seen.values()}) == 2 * REPEATS


def test_batch_sizes_that_pytorch_refuses_are_left_out(study, asked, tmp_path):
    """Four stages leave one position of an 8x8 image: a batch, or an epoch's last, of one image has
    no variance.
    """
    spec, dataset = study
    spec = dataclasses.replace(spec, widths=(2, 2, 2, 2))
    keep = 41
    dataset = dataclasses.replace(
        dataset, test_images=dataset.test_images[:keep], test_labels=dataset.test_labels[:keep]
    )
    model = build_for(dataset, spec).eval()
    measured = accuracies_without_eval(model, dataset, spec)
    images = images_for_testing(spec, dataset)[0]
    for column, size in enumerate(measured.batch_sizes):
        last = images[: keep % size or size]
        if np.isnan(measured.during[0, column]).all():
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                copy.deepcopy(model).train()(last)
        else:
            copy.deepcopy(model).train()(last)
    assert np.isnan(measured.during).all(axis=(0, 2)).tolist() == [True, True, True, False, False]


def test_a_forward_of_its_own_is_not_explained(network):
    class Doubling(torch.nn.BatchNorm2d):
        def forward(self, input):
            return 2 * super().forward(input)

    changed = copy.deepcopy(network)
    changed.layer1[0].bn1 = Doubling(4)
    with pytest.raises(InputError, match="'layer1.0.bn1' is a Doubling"):
        choose_layer(changed, None, "mine:Doubling", None)


def test_a_pattern_takes_the_first_match_and_names_the_others(network):
    choice = choose_layer(network, "*.bn2", "batch", None)
    assert choice.name == "layer1.0.bn2"
    assert choice.others == ("layer2.0.bn2",)
    assert choose_layer(network, "layer1*", "batch", 3).name == "layer1.0.bn1"
    assert choose_layer(network, None, "batch", None).name == network.landmarks.first_normalization
