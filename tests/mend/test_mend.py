"""Mending against slow references, and every remedy against the finding that names it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normscope.commands.check import check
from normscope.errors import InputError
from normscope.mend import convert, fold, freeze, recalibrate, unfreeze, weight_decay_groups


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def images(sizes=(16, 16, 9), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 2, 8, 8, generator=generator) * 3 + 1 for n in sizes]


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.lists(st.integers(2, 12), min_size=1, max_size=5),
    offset=st.sampled_from([0.0, 5.0, 1e4]),
)
def test_recalibration_is_exact(sizes: list[int], offset: float):
    batches = [batch + offset for batch in images(sizes)]
    layer = nn.BatchNorm2d(2)
    recalibrate(layer, batches)
    whole = torch.cat(batches).double()
    torch.testing.assert_close(
        layer.running_mean.double(), whole.mean((0, 2, 3)), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        layer.running_var.double(), whole.var((0, 2, 3)), rtol=1e-6, atol=1e-6
    )
    recalibrate(layer, batches, variance="mean")
    mean = torch.stack([batch.double().var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(layer.running_var.double(), mean, rtol=1e-6, atol=1e-6)
    assert layer.num_batches_tracked == len(sizes)


def test_the_mean_of_variances_is_torchs_cumulative_average():
    model, reference = net().eval(), net()
    for module in reference:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    reference[3].eval()
    batches = images((16, 16, 16))
    for batch in batches:
        reference(batch)
    recalibrate(model, batches, variance="mean")
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_only_buffers_change_and_nothing_if_it_fails():
    model = net().train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    with pytest.raises(InputError, match="fails on batch 1"):
        recalibrate(model, [images()[0], torch.zeros(2, 5, 8, 8)])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    recalibrate(model, images())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {
        f"{i}.{name}"
        for i in (1, 5)
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_recalibration_says_what_it_lacks():
    with pytest.raises(InputError, match="nothing to recalibrate"):
        recalibrate(nn.Linear(2, 2), images())
    with pytest.raises(InputError, match="batches is empty"):
        recalibrate(net(), [])
    with pytest.raises(InputError, match="'pooled' or 'mean'"):
        recalibrate(net(), images(), variance="median")  # type: ignore[arg-type]


def test_a_freeze_survives_train_copies_and_state_dicts(tmp_path):
    model = freeze(net())
    state = copy.deepcopy(model.state_dict())
    for twin in (model, copy.deepcopy(model)):
        twin.train()
        assert twin[3].training
        assert not twin[1].training
        twin(images()[0])
        assert all(torch.equal(value, state[name]) for name, value in twin.state_dict().items())
        assert not twin[1].weight.requires_grad
    assert isinstance(model[1], nn.BatchNorm2d)
    net().load_state_dict(state)
    unfreeze(model)
    assert type(model[1]) is nn.BatchNorm2d
    assert model[1].training
    assert model[1].weight.requires_grad


class Custom(nn.BatchNorm2d):
    pass


def test_custom_classes_freeze_too():
    model = freeze(nn.Sequential(Custom(3)), affine=False).train()
    assert isinstance(model[0], Custom)
    assert not model[0].training
    assert model[0].weight.requires_grad


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = (
            nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(6),
        )
        self.up, self.bn3 = nn.ConvTranspose2d(6, 4, 2), nn.BatchNorm2d(4)
        self.fc, self.bn4 = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.loose = nn.BatchNorm1d(5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        return self.loose(F.relu(self.bn4(self.fc(self.bn3(self.up(x)).mean((2, 3))))))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        if x.sum() > 1e9:  # a branch on values
            x = x + 1
        return self.body(x)


@pytest.mark.parametrize(("make", "left"), [(net, 0), (Residual, 1), (Untraceable, 0)])
def test_folding_changes_no_output(make, left: int):
    torch.manual_seed(0)
    model = make()
    for batch in images() * 3:
        model(batch)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    folded = fold(model)
    x = images()[0]
    expected = model.eval()(x)
    assert ((folded(x) - expected).norm() / expected.norm()).item() < 1e-5
    assert sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in folded.modules()) == left
    assert check(model, [x], other=folded, select=["NS703"]).findings == ()


def test_a_convolution_with_two_readers_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            x = self.conv(x)
            return self.bn(x) + x

    with pytest.raises(InputError, match="no batch normalization right behind"):
        fold(Twice())


def test_decay_groups_split_every_parameter_once():
    model = nn.Sequential(net(), nn.LayerNorm(3))
    shared = nn.Linear(3, 3)
    model.extend([shared, shared])
    decayed, spared = weight_decay_groups(model, 0.1)
    ids = [id(p) for group in (decayed, spared) for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))
    assert all(p.ndim > 1 for p in decayed["params"])
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0
    assert len(weight_decay_groups(model, 0.1, decay_biases=True)[1]["params"]) == 6


def test_conversion_keeps_the_parameters():
    model = net()
    nn.init.normal_(model[1].weight)
    weight = model[1].weight
    convert(model, "batch", "group")
    assert isinstance(model[1], nn.GroupNorm)
    assert model[1].weight is weight
    assert (model[1].num_groups, model[5].num_groups) == (2, 2)
    with pytest.raises(InputError, match="Unknown target"):
        convert(model, "group", "grp")
    synced = convert(net(), "batch", "sync").eval()
    x = images()[0]
    torch.testing.assert_close(synced(x), net().eval()(x))


# -- every remedy against the finding that names it


def shifted_model() -> nn.Sequential:
    model = net().train()
    for batch in images((16,) * 6):
        model(batch + 8)
    return model.eval()


def codes(model, batches=None, **options) -> tuple[str, ...]:
    return check(model, batches, **options).codes


def test_recalibration_mends_statistics():
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x in images((16,) * 8)]
    model = shifted_model()
    assert "NS501" in codes(model, batches)
    assert "NS501" not in codes(recalibrate(model, batches), batches)


@pytest.mark.parametrize("code", ["NS101", "NS102", "NS103", "NS104", "NS105"])
def test_recalibration_mends_values(code: str):
    model = net().eval()
    for module in (model[1], model[5]):
        nn.init.normal_(module.bias)
        module.num_batches_tracked.fill_(10)
        module.running_var.fill_(2.0)
    if code == "NS101":
        model[1].running_mean[0] = float("nan")
    elif code == "NS102":
        model[1].running_var[0] = -1
    elif code in ("NS103", "NS104"):
        model[1].reset_running_stats()
        model[1].num_batches_tracked.fill_(5 if code == "NS104" else 0)
    assert code in codes(model)
    recalibrate(model, images((16,) * 60))
    assert code not in codes(model)


def test_few_batches_mend_what_is_left_of_the_initialization():
    batches = [10 * x for x in images((16,) * 8)]
    model = net().train()
    for x in batches[:3]:
        model(x)
    assert "NS105" in codes(model.eval(), batches)
    assert "NS105" not in codes(recalibrate(model, batches), batches)


def test_freezing_mends_live_statistics():
    model = net().requires_grad_(False).train()
    assert "NS304" in codes(model)
    assert "NS304" not in codes(freeze(model).train())
    model = net().train()
    model[1].eval()
    assert {"NS305", "NS306"} <= set(codes(model))
    assert {"NS305", "NS306"}.isdisjoint(codes(freeze(model).train()))
    model = net().train()
    model[1].momentum = model[5].momentum = 0.0
    assert "NS203" in codes(model)
    assert "NS203" not in codes(freeze(model).train())


def test_groups_mend_decay_and_filters():
    model = net()
    sick = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    assert "NS402" in codes(model, optimizer=sick)
    mended = torch.optim.SGD(weight_decay_groups(model, 0.1), 0.1)
    assert {"NS401", "NS402"}.isdisjoint(codes(model, optimizer=mended))
    filtered = torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], 0.1)
    assert "NS401" in codes(model, optimizer=filtered)


def test_conversion_mends_small_batches_and_missing_statistics():
    model = net().train()
    batches = images((2, 2, 2))
    assert "NS506" in codes(model, batches)
    assert "NS506" not in codes(convert(model, "batch", "group"), batches)
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)).eval()
    assert "NS210" in codes(model)
    assert "NS210" not in codes(convert(model, "batch", "tracked"))
    assert "NS602" in codes(net(), images((4,)), world_size=4)
    assert "NS602" not in codes(convert(net(), "batch", "sync"), images((4,)), world_size=4)


def test_folding_mends_an_export():
    model = net().train()
    assert "NS706" in codes(model, export=True)
    assert "NS706" not in codes(fold(model), export=True)
