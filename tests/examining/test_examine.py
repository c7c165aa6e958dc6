"""Examining leaves no trace, whatever the model does, and gathers what a slow computation in
float64 says.
"""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from normscope.errors import InputError
from normscope.examining.examine import examine, examine_loader, examine_state


class Net(nn.Module):
    """A residual block with everything that a forward may change: statistics, a counter, a cache,
    dropout.
    """

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = norm(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = norm(4)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(4, 3)
        self.calls = 0
        self.cache = torch.zeros(2)
        self.failing = ""

    def forward(self, x):
        self.calls += 1
        self.cache += 1
        self.new_attribute = 3
        torch.rand(1), np.random.rand(), random.random()
        if self.failing and len(x) == 1 and self.failing == "one":
            raise RuntimeError("no batch of one\nsecond line")
        if self.failing == "train" and self.bn1.training:
            raise RuntimeError("no train mode")
        if self.failing == "eval" and not self.bn1.training:
            raise RuntimeError("no eval mode")
        y = F.relu(self.bn1(self.stem(x)), inplace=True)
        y = F.relu(self.bn2(self.conv(self.drop(y))) + y)
        return self.fc(y.mean((2, 3)))


def pairs(k=4, n=8):
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(n, 1, 6, 6, generator=generator),
            torch.randint(0, 3, (n,), generator=generator),
        )
        for _ in range(k)
    ]


def snapshot(model):
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "plain": [
            (module.calls, module.cache.clone())
            for module in model.modules()
            if isinstance(module, Net)
        ],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": gradients,
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()),
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def assert_same(before, after):
    for name, value in before["state"].items():
        torch.testing.assert_close(after["state"][name], value, rtol=0, atol=0, equal_nan=True)
    for key in ("modes", "requires_grad", "hooks", "attributes"):
        assert before[key] == after[key], key
    for (calls, cache), (calls_after, cache_after) in zip(
        before["plain"], after["plain"], strict=True
    ):
        assert calls == calls_after
        assert torch.equal(cache, cache_after)
    for gradient, gradient_after in zip(before["gradients"], after["gradients"], strict=True):
        assert (gradient is None) == (gradient_after is None)
        assert gradient is None or torch.equal(gradient, gradient_after)
    assert torch.equal(before["random"][0], after["random"][0])
    assert np.array_equal(before["random"][1], after["random"][1])
    assert before["random"][2] == after["random"][2]


def prepared(train=True):
    torch.manual_seed(0)
    model = Net().train(train)
    model(pairs()[0][0]).sum().backward()
    model.bn2.eval()
    model.stem.requires_grad_(False)
    model.bn1.running_var[0] = float("nan")
    return model


@pytest.mark.parametrize("failing", ["", "one", "train", "eval"])
@pytest.mark.parametrize("train", [True, False])
def test_the_model_is_left_as_it_was(failing: str, train: bool):
    model = prepared(train)
    model.failing = failing
    other = prepared()
    before, before_other = snapshot(model), snapshot(other)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if failing == "eval":
        with pytest.raises(
            InputError, match="fails on batch 0 in eval mode: RuntimeError: no eval mode"
        ):
            examine(model, pairs(), optimizer=optimizer, other=other)
    else:
        record = examine(model, pairs(), optimizer=optimizer, other=other)
        assert record.training is train
        assert record.forward is not None
        assert ("no train mode" in record.forward.batch_failure) == (failing == "train")
        assert ("no batch of one" in record.forward.companions_failure) == (failing == "one")
    assert_same(before, snapshot(model))
    assert_same(before_other, snapshot(other))


def test_a_shuffling_loader_gives_the_same_order_afterwards():
    data = TensorDataset(*(torch.cat(part) for part in zip(*pairs(), strict=True)))
    loader = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(5))
    expected = next(
        iter(DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(5)))
    )[1]
    examine(Net(), loader)
    assert torch.equal(next(iter(loader))[1], expected)


def test_places_come_from_the_real_forward():
    record = examine(Net(), pairs())
    first, second = record.layers
    assert first.place is not None
    assert second.place is not None
    assert (first.place.fed_by, first.place.fed_by_module, first.place.bias_before) == (
        "conv",
        "stem",
        True,
    )
    assert first.place.sole_consumer
    assert (second.place.bias_before, second.place.dropout_before) == (False, 0.3)
    assert second.place.added_to_a_shortcut
    assert not second.place.pooled_next
    assert second.place.input_shape == (4, 4, 6, 6)


def test_pooling_right_behind_a_layer_is_seen():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert examine(model, [x for x, _ in pairs()]).layers[0].place.pooled_next


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5),
    offset=st.sampled_from([0.0, 3.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_channel_statistics_agree_with_float64(sizes: list[int], offset: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(n, 3, 4, 5, generator=generator) * 2 + offset for n in sizes]
    model = nn.Sequential(nn.BatchNorm2d(3))
    found = examine(model, batches).layers[0].measured
    slow = [batch.double() for batch in batches]
    means = torch.stack([b.mean((0, 2, 3)) for b in slow])
    variances = torch.stack([b.var((0, 2, 3)) for b in slow])
    assert np.allclose(found.mean, means.mean(0), rtol=1e-5, atol=1e-6 * (1 + offset))
    assert np.allclose(found.var, variances.mean(0), rtol=1e-4)
    whole = torch.cat(slow)
    assert np.allclose(found.eval_mean, whole.mean((0, 2, 3)), rtol=1e-5, atol=1e-6 * (1 + offset))
    assert np.allclose(found.eval_var, whole.var((0, 2, 3), correction=0), rtol=1e-4)
    assert found.values == min(sizes) * 20
    assert found.samples == min(sizes)
    samples = [b.mean((2, 3)).numpy() for b in slow]
    from scipy.stats import f_oneway

    expected = [f_oneway(*(part[:, c] for part in samples)).statistic for c in range(3)]
    assert np.allclose(found.heterogeneity, expected, rtol=1e-3)


def test_composition_matters_only_with_batch_statistics():
    model = Net().eval()
    facts = examine(model, pairs()).forward
    assert facts.companions_difference < 1e-5
    assert facts.composition_noise > 0.01
    assert examine(Net(lambda c: nn.GroupNorm(2, c)), pairs()).forward.composition_noise is None


def test_per_sample_kinds_measure_their_sets():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.GroupNorm(2, 4), nn.Flatten(), nn.LayerNorm(36 * 4), nn.RMSNorm(36 * 4)
    )
    x = torch.randn(8, 4, 6, 6) * 3
    group, layer, rms = examine(model, [x]).layers
    assert group.measured.values == 72
    assert group.measured.set_var[1] == pytest.approx(9, rel=0.2)
    assert layer.measured.values == 144
    assert layer.measured.set_var[1] == pytest.approx(1, rel=0.05)
    assert rms.measured.set_mean_square[1] == pytest.approx(1, rel=0.05)


class FrozenBatchNorm2d(nn.Module):
    """As detection libraries have it: everything is a buffer."""

    def __init__(self, n: int):
        super().__init__()
        for name, value in (
            ("weight", 1.0),
            ("bias", 0.0),
            ("running_mean", 0.5),
            ("running_var", 2.0),
        ):
            self.register_buffer(name, torch.full((n,), value))
        self.eps = 1e-5

    def forward(self, x):
        shape = (1, -1, 1, 1)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return (x - self.running_mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(
            shape
        )


class LlamaRMSNorm(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.variance_epsilon = 1e-6

    def forward(self, x):
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


def test_foreign_layers_are_told_by_what_they_hold():
    model = nn.Sequential(FrozenBatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.PReLU(2), LlamaRMSNorm(4))
    frozen, rms = examine(model).layers
    assert (frozen.kind, frozen.live, frozen.foreign, frozen.features) == ("batch", False, True, 3)
    assert (rms.kind, rms.eps, rms.features) == ("rms", 1e-6, 4)
    record = examine(model, [torch.randn(4, 3, 6, 6)])
    assert record.layers[1].place.fed_by == "activation"


def test_wrappers_are_seen_through():
    record = examine(nn.DataParallel(Net()))
    assert [layer.name for layer in record.layers] == ["bn1", "bn2"]
    assert record.wrapper == "DataParallel"


def test_dict_batches_and_masks():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(11, 6), nn.BatchNorm1d(6)

        def forward(self, input_ids, attention_mask):
            x = self.embed(input_ids) * attention_mask.unsqueeze(-1)
            return self.norm(x.transpose(1, 2)).mean(2)

    mask = (torch.arange(9) < torch.tensor([3, 9, 5, 7])[:, None]).long()
    batch = {
        "input_ids": torch.randint(0, 11, (4, 9)),
        "attention_mask": mask,
        "labels": torch.tensor([0, 1, 0, 1]),
    }
    layer = examine(Encoder(), [batch]).layers[0]
    assert layer.measured.padding == pytest.approx(1 - 24 / 36)
    assert layer.measured.padding_effect > 0.1
    assert not layer.place.features_last


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        (3, "batches must be an iterable"),
        ([torch.tensor(float("nan")).expand(2, 1, 6, 6)], "not finite"),
        (["text"], "Batch 0 is a str"),
        ([(torch.zeros(2, 1, 6, 6),) * 3], "Batch 0 is a tuple of 3"),
        ([torch.zeros(0, 1, 6, 6)], "Batch 0 has no samples"),
        ([torch.zeros(2, 5, 6, 6)], "fails on batch 0 in eval mode"),
        ([{"image": torch.zeros(2, 1, 6, 6)}], "unexpected keyword"),
    ],
)
def test_bad_batches_are_one_clear_line(batches, message: str):
    model = prepared()
    before = snapshot(model)
    with pytest.raises(InputError, match=message) as caught:
        examine(model, batches)
    assert "\n" not in str(caught.value)
    assert_same(before, snapshot(model))


def test_bad_models_are_one_clear_line():
    with pytest.raises(InputError, match=r"must be a torch.nn.Module, not a dict"):
        examine({})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="optimizer= takes a torch"):
        examine(Net(), optimizer="sgd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="other must be"):
        examine(Net(), other=3)


def test_a_script_can_be_the_other_model():
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    script = torch.jit.trace(plain, torch.zeros(2, 1, 6, 6))
    pair = examine(plain, pairs(), other=script).pair
    assert pair.output_difference < 1e-6
    with pytest.raises(InputError, match="TorchScript model cannot be examined"):
        examine(script)


def test_the_weights_around_a_layer_are_those_before_it():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    model[0].requires_grad_(False)
    assert [layer.scope_trainable for layer in examine(model).layers] == [False, True]


def test_a_pair_is_compared_layer_by_layer():
    model, other = Net().eval(), Net().eval()
    other.load_state_dict(model.state_dict())
    same = examine(model, pairs(), other=other).pair
    assert same.weight_distance == 0
    assert same.output_difference < 1e-6
    assert all(layer.statistics_equal for layer in same.layers)
    other.bn1.running_mean += 2
    moved = examine(model, pairs(), other=copy.deepcopy(other)).pair
    assert moved.layers[0].mean_distance == pytest.approx(2, rel=1e-3)
    assert moved.output_difference > 0.01


def test_a_state_dict_alone_and_against_a_model():
    state = {f"module.{name}": value for name, value in Net().state_dict().items()}
    record = examine_state({"epoch": 3, "state_dict": state}, Net())
    assert [layer.name for layer in record.layers] == ["module.bn1", "module.bn2"]
    assert record.keys.missing == ()
    with pytest.raises(InputError, match="no state_dict"):
        examine_state({"epoch": 3})


def test_the_order_of_a_loaders_labels_is_read_without_drawing():
    labels = torch.arange(10).repeat_interleave(40)
    ordered = examine_loader(DataLoader(TensorDataset(torch.zeros(400, 1), labels), 20)).loader
    assert ordered.shuffles is False
    assert ordered.labels_in_batches > 5
    mixed = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    facts = examine_loader(DataLoader(TensorDataset(torch.zeros(400, 1), mixed), 20)).loader
    assert facts.labels_in_batches == pytest.approx(1, abs=0.35)
    assert facts.label_runs == pytest.approx(1, abs=0.3)
    with pytest.raises(InputError, match="loader must be"):
        examine_loader([1, 2])


class Exported(nn.Sequential):
    """As torch.export makes them: one mode, and one batch size."""

    def train(self, mode=True):
        raise NotImplementedError("Calling train() is not supported yet.")

    def forward(self, x):
        assert len(x) == 8, "Guard failed: x.size()[0] == 8"
        return super().forward(x)


def test_a_program_with_one_mode_and_one_batch_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    program = Exported(model[0], model[1])
    data = [x for x, _ in pairs()]
    record = examine(program, data)
    assert record.layers[0].place.fed_by == "conv"
    assert "Guard failed" in record.forward.companions_failure
    pair = examine(model, data, other=program).pair
    assert pair.output_difference < 1e-6
    assert pair.other_companions_difference is None


def test_an_eval_that_raises_is_one_clear_line():
    class Broken(nn.BatchNorm2d):
        def train(self, mode=True):
            raise RuntimeError("cannot switch")

    with pytest.raises(InputError, match=r"model\.eval\(\) raises RuntimeError"):
        examine(Broken(2))
