"""Faults of gains: their values, who trains them, and what a layer's own forward makes of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.commands.check import check, check_state_dict
from normscope.commands.watch import watch
from normscope.examining.examine import examine_state
from normscope.judge.difference import Difference


class UpcastRMS(nn.Module):
    """As Llama's: computed in fp32, multiplied in the input's type."""

    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(features)), eps

    def forward(self, hidden):
        h = hidden.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * h.to(hidden.dtype)


class DistanceRMS(nn.Module):
    """As Gemma's: the weight is the gain's distance from one."""

    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(features)), eps

    def normalized(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        return (self.normalized(x.float()) * (1.0 + self.weight.float())).type_as(x)


class LostDistanceRMS(DistanceRMS):
    def forward(self, x):
        return (self.normalized(x.float()) * self.weight.float()).type_as(x)


class LateDistanceRMS(DistanceRMS):
    def forward(self, x):
        return self.normalized(x.float()).type_as(x) * (1 + self.weight)


class NarrowRMS(nn.Module):
    """Everything in the input's own type."""

    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(features)), eps

    def forward(self, x):
        return self.weight * (x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + self.eps))


class SquaresLN(nn.Module):
    """The variance as E[x^2] - E[x]^2."""

    def __init__(self, features, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias, self.eps = nn.Parameter(torch.zeros(features)), eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = ((x * x).mean(-1, keepdim=True) - mean * mean).clamp_min(0)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias


class CentredLN(SquaresLN):
    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x * self.weight + self.bias


class RootRMS(NarrowRMS):
    """eps behind the root."""

    def forward(self, x):
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)


class BiasLeftOut(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, None, self.eps)


class Reader(nn.Module):
    """Two blocks and a last normalization over tokens."""

    def __init__(self, norm, width=16):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.norms, self.mix = nn.ModuleList([norm(width), norm(width)]), nn.ModuleList()
        self.mix.extend(nn.Linear(width, width) for _ in range(2))
        self.norm_out, self.head = norm(width), nn.Linear(width, 11)

    def forward(self, ids):
        x = self.embed(ids)
        for norm, mix in zip(self.norms, self.mix, strict=True):
            x = x + F.gelu(mix(norm(x)))
        return self.head(self.norm_out(x))


def trained(norm, start: float | None = None) -> Reader:
    """A reader whose weights look trained: gains around their start, biases around zero."""
    torch.manual_seed(0)
    model = Reader(norm)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p += 0.1 * torch.randn(len(p))
    return model.eval()


def ids(count: int = 3) -> list[torch.Tensor]:
    return [
        torch.randint(0, 11, (16, 9), generator=torch.Generator().manual_seed(k))
        for k in range(count)
    ]


def alarms(report) -> dict[str, str]:
    """{code: the first layer} of what is more than an info."""
    found = [finding for finding in report if finding.severity != "info"]
    return {finding.code: finding.layer for finding in reversed(found)}


NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "llama": UpcastRMS, "gemma": DistanceRMS}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


# -- values


@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_healthy_model_and_its_checkpoint_are_left_alone(norm, dtype):
    model = trained(norm).to(dtype)
    assert not alarms(check(model, ids()))
    state = {f"_orig_mod.module.{name}": value for name, value in model.state_dict().items()}
    assert not alarms(check_state_dict(state, model))
    assert not alarms(check(model, ids(), other=state))


@every_norm
@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda state: state["norms.1.weight"].fill_(float("inf")), "NS101"),
        (lambda state: state.pop("norms.1.weight"), "NS704"),
        (lambda state: state["norms.1.weight"].copy_(state["norms.0.weight"]), "NS705"),
        (lambda state: state.update({"norms.1.weight": torch.ones(3)}), "NS704"),
    ],
)
def test_values_of_gains(norm, spoil, code):
    model = trained(norm)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if "norms.0.bias" in state:  # a doubled layer has both
        state["norms.1.bias"] = state["norms.0.bias"].clone()
    spoil(state)
    assert code in alarms(check_state_dict(state, model))


def test_dead_gains_are_told_from_distances_from_one():
    for norm in (nn.LayerNorm, UpcastRMS):
        state = trained(norm).state_dict()
        state["norms.1.weight"].zero_()
        assert alarms(check_state_dict(state)) == {"NS403": "norms.1"}
    state = trained(DistanceRMS).state_dict()
    state["norms.1.weight"].zero_()
    assert not alarms(check_state_dict(state))


@every_norm
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model."])
def test_a_prefix_that_kept_a_checkpoint_from_loading(norm, prefix):
    state = {prefix + name: value for name, value in trained(norm).state_dict().items()}
    torch.manual_seed(1)
    new = Reader(norm).eval()
    new.load_state_dict(state, strict=False)
    report = check(new, ids(), other=state, select=["NS701"])
    assert [finding.layer for finding in report] == ["norms.0", "norms.1", "norm_out"]
    assert all(f"prefix {prefix!r}" in finding.message for finding in report)


def test_gains_apart_between_two_models():
    one, other = trained(UpcastRMS), trained(UpcastRMS)
    with torch.no_grad():
        other.norms[1].weight += 0.3
    assert alarms(check(one, ids(), other=other)) == {"NS703": "", "NS701": "norms.1"}
    assert not alarms(check(one, ids(), other=copy.deepcopy(one)))


def shifted(model: nn.Module, by: float) -> dict[str, torch.Tensor]:
    return {
        name: value + by if name.startswith(("norms", "norm_out")) else value
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_offset_of_one_is_named_as_a_convention(dtype):
    model = trained(DistanceRMS).to(dtype)
    record = examine_state(shifted(model, 1.0), other=model.state_dict())
    assert record.pair is not None
    text = " ".join(Difference(record.pair).text().split())
    assert "3 layers differ by exactly one" in text
    right = Reader(UpcastRMS).eval()
    right.load_state_dict(shifted(trained(DistanceRMS), 1.0))
    assert not alarms(check(right, ids(), other=trained(DistanceRMS)))


# -- who trains them


def loop(model, optimizers, steps=55) -> dict[str, str]:
    with watch(model, optimizer=optimizers, check=True) as watcher:
        model.train()
        for x in ids(1) * steps:
            F.cross_entropy(model(x[:, :-1]).float().flatten(0, 1), x[:, 1:].flatten()).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    return alarms(watcher.findings)


def adam(parameters, rate=3e-4):
    return torch.optim.AdamW(list(parameters), rate, weight_decay=0.0)


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
@pytest.mark.parametrize(
    ("norm", "dtype", "make"),
    [
        (nn.LayerNorm, torch.bfloat16, adam),
        (UpcastRMS, torch.bfloat16, adam),
        (nn.RMSNorm, torch.float16, lambda ps: torch.optim.Adam(list(ps), 5e-5)),
        (nn.RMSNorm, torch.bfloat16, lambda ps: torch.optim.SGD(list(ps), 1e-3, momentum=0.5)),
    ],
)
def test_gains_stuck_in_low_precision(norm, dtype, make):
    model = Reader(norm).to(dtype)
    optimizer = make(model.parameters())
    if dtype is torch.bfloat16:
        assert loop(model, [optimizer])["NS809"] == "norms.0"
        assert all(bool((model.norms[k].weight == 1).all()) for k in range(2))
    if type(optimizer) is torch.optim.SGD:  # its step is known where there are gradients
        F.cross_entropy(model(ids()[0]).float()[:, 0], ids()[0][:, 0]).backward()
    assert alarms(check(model, optimizer=optimizer))["NS407"] == "norms.0"


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
def test_gains_that_move_or_are_meant_to_stand():
    model = Reader(UpcastRMS)
    assert "NS809" not in loop(model, [adam(model.parameters())])
    half = Reader(UpcastRMS).bfloat16()
    assert not alarms(check(half, optimizer=adam(half.parameters(), 1e-2)))
    warm = adam(half.parameters(), 1e-2)
    torch.optim.lr_scheduler.LambdaLR(warm, lambda step: step / 1000)
    assert not alarms(check(half, optimizer=warm))
    masters = copy.deepcopy(half).float()
    assert not alarms(check(half, optimizer=adam(masters.parameters())))
    for norm in (half.norms[0], half.norms[1], half.norm_out):
        norm.requires_grad_(False)
    optimizer = adam(p for p in half.parameters() if p.requires_grad)
    assert not loop(half, [optimizer])
    assert not alarms(check(half, optimizer=optimizer))
    head = Reader(nn.LayerNorm)  # everything needs gradients, the head alone is trained
    assert not loop(head, [adam(head.head.parameters(), 1e-2)])


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
@pytest.mark.parametrize("left_out", ["norms", "norm_out"])
def test_gains_in_none_of_several_optimizers(left_out):
    model = Reader(nn.RMSNorm)
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith(left_out)]
    matrices = [p for _, p in named if p.ndim == 2]
    both = [torch.optim.Muon(matrices, 1e-3), adam((p for _, p in named if p.ndim != 2), 1e-2)]
    name = "norms.0" if left_out == "norms" else left_out
    assert alarms(check(model, optimizer=both)) == {"NS401": name}
    assert loop(model, both) == {"NS809": name}


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
def test_a_part_that_was_left_in_eval_mode():
    def make() -> nn.Module:
        body = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU())
        model = nn.ModuleDict({"body": body.eval(), "head": nn.Linear(8, 2)})
        model.forward = lambda x: model["head"](model["body"](x))  # type: ignore[method-assign]
        return model

    def run(model: nn.Module) -> dict[str, str]:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        with watch(model, optimizer=optimizer, check=True) as watcher:
            for step in range(20):
                x = torch.randn(16, 16, generator=torch.Generator().manual_seed(step))
                model(x).square().mean().backward()
                optimizer.step()
        return alarms(watcher.findings)

    left = make()
    assert left.training
    assert run(left) == {"NS803": "body.1"}
    assert alarms(check(make()))["NS306"] == "body.1"
    frozen = make()
    frozen["body"].requires_grad_(False)
    assert not run(frozen)
    only_the_layer = make()
    only_the_layer["body"].train()
    only_the_layer["body"][1].eval()
    assert not run(only_the_layer)


@pytest.mark.parametrize("trained_", [True, False])
def test_statistics_that_are_fixed_at_those_of_a_new_layer(trained_):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in (("weight", 1.0), ("running_var", 1.0), ("running_mean", 0.0)):
                self.register_buffer(name, torch.full((6,), value))
            self.eps = 1e-5

        def forward(self, x):
            return (x - self.running_mean) * self.weight * (self.running_var + self.eps).rsqrt()

    model = nn.Sequential(nn.Linear(4, 6), Fixed(), nn.Linear(6, 2))
    if trained_:
        model(torch.randn(8, 4)).square().mean().backward()
    assert alarms(check(model)) == ({"NS103": "1"} if trained_ else {})


# -- a layer's own forward


def scaled(norm, dtype, size: float, offset: float = 0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), norm(32), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight *= size
        model[0].bias += offset
    x = [
        torch.randn(64, 32, generator=torch.Generator().manual_seed(k)).to(dtype) for k in range(2)
    ]
    return model.to(dtype).eval(), x


@pytest.mark.parametrize("norm", [NarrowRMS, SquaresLN, CentredLN, RootRMS])
def test_squares_that_leave_half_precision(norm):
    found = alarms(check(*scaled(norm, torch.float16, 1000)))
    assert found.keys() & {"NS515", "NS508", "NS509"}
    assert alarms(check(*scaled(norm, torch.float16, 1))) == {"NS515": "1"}  # rounded to 16 bits
    assert alarms(check(*scaled(norm, torch.bfloat16, 1))) == {"NS515": "1"}
    assert "NS515" not in alarms(check(*scaled(norm, torch.float32, 1)))


@pytest.mark.parametrize("norm", [UpcastRMS, DistanceRMS, nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 1000), (torch.bfloat16, 1)])
def test_what_computes_in_fp32_is_left_alone(norm, dtype, size):
    assert not alarms(check(*scaled(norm, dtype, size)))


def test_one_plus_weight_in_16_bits_and_an_offset_that_cancels():
    assert alarms(check(*scaled(LateDistanceRMS, torch.bfloat16, 1))) == {"NS515": "1"}
    assert not alarms(check(*scaled(LateDistanceRMS, torch.float32, 1)))
    assert alarms(check(*scaled(SquaresLN, torch.float32, 1, 3000.0))) == {"NS515": "1"}
    assert not alarms(check(*scaled(CentredLN, torch.float32, 1, 3000.0)))


def test_inputs_near_the_range_of_half_precision():
    model, x = scaled(nn.LayerNorm, torch.float32, 1e5)
    assert [f.severity for f in check(model, x, select=["NS110"])] == ["info"]
    assert alarms(check(model, x, export=True)) == {"NS110": "1"}
    model, x = scaled(nn.RMSNorm, torch.float32, 1e3)
    assert not alarms(check(model, x))
    assert alarms(check(model, x, export=True)) == {"NS110": "1"}
    assert not alarms(check(*scaled(nn.RMSNorm, torch.float32, 1), export=True))


@pytest.mark.parametrize(
    ("norm", "source", "code"),
    [
        (LostDistanceRMS, DistanceRMS, "NS516"),
        (UpcastRMS, DistanceRMS, "NS516"),
        (nn.RMSNorm, DistanceRMS, "NS408"),
        (DistanceRMS, UpcastRMS, "NS516"),
        (UpcastRMS, UpcastRMS, ""),
        (DistanceRMS, DistanceRMS, ""),
    ],
)
def test_one_plus_weight_lost_or_doubled(norm, source, code):
    model = trained(norm)
    state = trained(source).state_dict()
    for name in ("norms.0.weight", "norms.1.weight", "norm_out.weight"):
        state[name] = (state[name] - state[name].mean().round()) * 0.3 + state[name].mean().round()
    model.load_state_dict(state)
    found = alarms(check(model, ids()))
    assert code in found if code else not found


def test_a_bias_left_out_and_an_eps_behind_the_root():
    assert alarms(check(trained(BiasLeftOut), ids())) == {"NS516": "norms.0"}
    model, x = scaled(lambda n: RootRMS(n, eps=1e-3), torch.float32, 1)
    assert [f.severity for f in check(model, x, select=["NS516"])] == ["info"]
    small = scaled(lambda n: RootRMS(n, eps=1e-3), torch.float32, 0.02)
    with torch.no_grad():
        small[0][0].bias.zero_()
    assert "NS516" in alarms(check(*small))


def test_weights_decayed_to_zero_and_distances_that_may_be():
    for norm, found in ((nn.LayerNorm, True), (UpcastRMS, True), (DistanceRMS, False)):
        model = trained(norm)
        with torch.no_grad():
            model.norms[0].weight.copy_(0.03 * torch.rand(16))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
        report = check(model, ids(), optimizer=optimizer)
        assert ("NS408" in alarms(report)) is found
        assert any(finding.code == "NS402" for finding in report) is found


def test_a_models_layers_are_known_in_a_checkpoint_whatever_their_names():
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"first": nn.Linear(4, 6), "before": nn.RMSNorm(6)})

    model, state = make(), make().state_dict()
    state["before.weight"] = torch.linspace(0.5, 1.5, 6)
    assert alarms(check(model, other=state)) == {"NS701": "before"}


class GammaLN(nn.Module):
    """A library's own names for weight and bias."""

    def __init__(self, features):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta, self.eps = nn.Parameter(torch.zeros(features)), 1e-5

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta, self.eps)


def test_gains_of_other_names():
    model = trained(GammaLN)
    assert not alarms(check(model, ids()))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert alarms(check(Reader(GammaLN), ids(), other=state))["NS701"] == "norms.0"
    assert alarms(check_state_dict({**state, "norms.1.gamma": torch.zeros(16)}))["NS403"]
    half = Reader(GammaLN).bfloat16()
    assert alarms(check(half, optimizer=adam(half.parameters()))) == {"NS407": "norms.0"}
    del state["norms.1.gamma"]
    assert alarms(check_state_dict(state, model)) == {"NS704": "norms.1"}
