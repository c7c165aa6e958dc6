"""Gains folded into linear layers, converted between w and 1 + w, and put into float32."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from norm_zoo import (
    BiasFreeLayerNorm,
    ChannelsFirstRMSNorm,
    LlamaRMSNorm,
    OnePlusRMSNorm,
    PermutedLayerNorm,
)
from normscope.errors import InputError, NormscopeWarning
from normscope.mend import convert_gains, fold_gains, gains_to_float32

C = 6


class GemmaRMSNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.eps, self.weight = 1e-5, nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * (1.0 + self.weight.float())).type_as(x)


X = torch.randn(4, 5, C, generator=torch.Generator().manual_seed(0), dtype=torch.double)
NORMS = {
    "layer": lambda: nn.LayerNorm(C),
    "layer without bias": lambda: nn.LayerNorm(C, bias=False),
    "rms": lambda: nn.RMSNorm(C),
    "llama": lambda: LlamaRMSNorm(C),
    "gemma": lambda: GemmaRMSNorm(C),
    "rms of 1 + w": lambda: OnePlusRMSNorm(C),
    "centred without bias": lambda: BiasFreeLayerNorm(C),
}


class Conv1D(nn.Module):
    """As GPT-2's: the weight is [in, out]."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


READERS = {
    "linear": lambda: nn.Linear(C, 3),
    "no bias": lambda: nn.Linear(C, 3, bias=False),
    "matrix": lambda: Conv1D(3, C),
    "square matrix": lambda: Conv1D(C, C),
}


class Attention(nn.Module):
    """Three readers, and a residual connection around them."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm
        self.q, self.k, self.v = (nn.Linear(C, C, bias=name == "v") for name in "qkv")

    def forward(self, x):
        y = self.norm(x)
        scores = self.q(y) @ self.k(y).transpose(-1, -2)
        return x + scores.softmax(-1) @ self.v(y)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(9, C), nn.RMSNorm(C)
        self.head = nn.Linear(C, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.norm(self.embed(ids)))


class FirstToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, 3)

    def forward(self, x):
        first = min(0 for _ in x.shape)  # which cannot be traced
        return self.head(self.norm(x)[:, first])


def prepared(model: nn.Module) -> nn.Module:
    """The model in float64 with random parameters, none at its neutral value."""
    generator = torch.Generator().manual_seed(1)
    for p in model.double().parameters():
        nn.init.normal_(p, 0.3, 0.7, generator=generator)
    return model


def gains(model: nn.Module) -> list[torch.Tensor]:
    return [p for name, p in model.named_parameters() if p.ndim == 1 and name.endswith("weight")]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-6)  # some normalize in float32


# -- fold_gains


@pytest.mark.parametrize("batches", [None, [X]], ids=["traced", "batches"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("norm", NORMS)
def test_gain_and_bias_go_into_the_next_layer(norm, reader, batches):
    model = prepared(nn.Sequential(NORMS[norm](), READERS[reader]()))
    before = copy.deepcopy(model)
    folded = fold_gains(model, batches)
    assert same(folded(X), model(X))
    assert len(set(folded[0].weight.tolist())) == 1  # neutral, in whichever convention
    assert getattr(folded[0], "bias", None) is None or not folded[0].bias.any()
    assert all(map(torch.equal, model.parameters(), before.parameters()))


@pytest.mark.parametrize("batches", [None, [X]], ids=["traced", "batches"])
def test_several_readers_and_calls(batches):
    model = prepared(nn.Sequential(Attention(nn.LayerNorm(C)), Attention(LlamaRMSNorm(C))))
    folded = fold_gains(model, batches)
    assert same(folded(X), model(X))
    assert all((gain == 1).all() for gain in gains(folded))


def test_rows_that_are_chosen_are_rows():
    model = prepared(FirstToken())
    folded = fold_gains(model, [X])
    assert (folded.norm.weight == 1).all()
    assert same(folded(X), model(X))


def test_sixteen_bits_agree_within_their_rounding():
    model = prepared(Attention(nn.LayerNorm(C))).bfloat16()
    x = X.bfloat16()
    folded = fold_gains(model, [x])
    exact = copy.deepcopy(model).double()(X)
    assert folded.q.weight.dtype == torch.bfloat16
    errors = [(m(x).double() - exact).norm() / exact.norm() for m in (model, folded)]
    assert errors[1] < 2 * errors[0] + 2**-8


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(C), nn.Linear(C, C)

    def forward(self, x):
        y = self.norm(x)
        return y + self.fc(y)


class OtherInputs(Residual):
    def forward(self, x):
        return self.fc(self.norm(x)) + self.fc(x)


class ReadsTheWeight(Residual):
    def forward(self, x):
        return F.linear(self.norm(x), self.fc.weight) + self.fc(self.norm(x))


class ReadsTheGain(Residual):
    def forward(self, x):
        return self.fc(self.norm(x)) * self.norm.weight


class Transposed(Residual):
    def forward(self, x):
        return self.fc(self.norm(x).transpose(1, 2))


class Beside(Residual):
    def forward(self, x):
        return self.fc(self.norm(x))

    def features(self, x):
        return self.norm(x)


class Optional(Residual):
    def forward(self, x, features=True):
        y = self.norm(x)
        return (self.fc(y), y) if features else self.fc(y)


def test_the_way_of_the_defaults_counts_too():
    model, batch = prepared(Optional()), {"x": X, "features": False}
    with pytest.raises(InputError, match="read by something that is no linear layer"):
        fold_gains(model, [batch])


class Activated(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x).relu()


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def shared_gain() -> nn.Module:
    model = nn.Sequential(nn.RMSNorm(C), nn.Linear(C, C), nn.RMSNorm(C), nn.GELU())
    model[2].weight = model[0].weight
    return model


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 3))
    parametrize.register_parametrization(model[0], "weight", nn.Identity())
    return model


SQUARE = torch.randn(4, C, C, generator=torch.Generator().manual_seed(0), dtype=torch.double)
STAYS = {
    "residual": (Residual, "'norm' .* read by something that is no linear layer"),
    "other inputs": (OtherInputs, "'fc' runs on other inputs too"),
    "weight read": (ReadsTheWeight, "read"),
    "gain read": (ReadsTheGain, "its gain or bias is read elsewhere too"),
    "another axis": (Transposed, "read by something that is no linear layer"),
    "another method": (Beside, "Beside.features calls"),
    "no gain": (
        lambda: nn.Sequential(nn.LayerNorm(C, elementwise_affine=False), nn.Linear(C, 3)),
        "it has no gain",
    ),
    "no linear layer": (lambda: nn.Sequential(nn.Linear(C, C), nn.LayerNorm(C)), "'1' "),
    "tied gains": (shared_gain, "the weight of '0' is tied to '2'"),
    "activation behind": (lambda: nn.Sequential(Activated(C), nn.Linear(C, 3)), "not the norm"),
    "a linear layer of its own": (
        lambda: nn.Sequential(nn.LayerNorm(C), Doubling(C, 3)), "'1' .Doubling. reads it",
    ),
    "channels first": (lambda: nn.Sequential(ChannelsFirstRMSNorm(C), nn.Linear(C, 3)), "not the"),
    "a convolution": (
        lambda: nn.Sequential(nn.LayerNorm(C), nn.Conv1d(C, 3, 1)), "'1' .Conv1d. reads it",
    ),
    "two dimensions": (
        lambda: nn.Sequential(nn.LayerNorm((C, C)), nn.Linear(C, 3)), "several dimensions",
    ),
    "parametrization": (parametrized, "parametrization"),
    "an encoder of PyTorch's": (
        lambda: nn.TransformerEncoderLayer(C, 2, 8, batch_first=True, norm_first=True), "norm1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("batches", [None, [SQUARE]], ids=["traced", "batches"])
@pytest.mark.parametrize("case", STAYS)
def test_what_is_not_folded_is_named(case, batches):
    make, message = STAYS[case]
    model = prepared(make())
    with pytest.raises(InputError, match=message):
        fold_gains(model, batches)


def test_a_tied_head_stays_and_the_rest_is_folded():
    model = prepared(nn.Sequential(Tied(), nn.LayerNorm(9), nn.Linear(9, 2)))
    ids = torch.arange(8).view(2, 4)
    with pytest.warns(NormscopeWarning, match=r"1 of 2 .*'0.head' is tied to '0.embed'"):
        folded = fold_gains(model, [ids])
    assert same(folded(ids), model(ids))
    assert (folded[1].weight == 1).all()
    assert folded[0].head.weight is folded[0].embed.weight


def test_partial_folds_around_what_is_not_understood():
    model = prepared(nn.Sequential(nn.LayerNorm(C), nn.Linear(C, C), Activated(C), nn.Linear(C, 3)))
    with pytest.raises(InputError, match=r"fold_gains\(model, partial=True\)"):
        fold_gains(model)
    with pytest.warns(NormscopeWarning, match="'2'"):
        folded = fold_gains(model, partial=True)
    assert same(folded(X), model(X))
    assert (folded[0].weight == 1).all()


# -- convert_gains


@pytest.mark.parametrize("norm", NORMS)
def test_both_conventions_compute_the_same(norm):
    model = prepared(nn.Sequential(NORMS[norm](), nn.Linear(C, 3)))
    before, first = model(X), copy.deepcopy(model.state_dict())
    own = "1 + w" if "1 + w" in norm or norm == "gemma" else "w"
    other = "w" if own == "1 + w" else "1 + w"
    with pytest.raises(InputError, match="No gain is to be converted"):
        convert_gains(model, own)
    parameter = model[0].weight
    assert convert_gains(model, other) is model
    assert same(model(X), before)
    assert model[0].weight is parameter
    shift = 1 if other == "w" else -1
    torch.testing.assert_close(model[0].weight.data, first["0.weight"] + shift)
    convert_gains(model, own)
    assert same(model(X), before)
    torch.testing.assert_close(model.state_dict(), first)


def test_a_state_dict_is_converted_there_and_back():
    model = nn.Sequential(LlamaRMSNorm(C), nn.Linear(C, C), nn.LayerNorm(C)).bfloat16()
    for gain in gains(model):
        gain.data = torch.tensor([0.5, 0.75, 1.0, 1.25, 1.5, 2.0], dtype=torch.bfloat16)
    state = model.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = convert_gains(state, "1 + w", model=model)
        back = convert_gains(made, "w", model=model, stored="1 + w")
    assert made["0.weight"].tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
    assert made["1.weight"] is state["1.weight"]
    assert list(made) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_gain_that_is_a_buffer_stays():
    norm = nn.RMSNorm(C)
    del norm.weight
    norm.register_buffer("weight", torch.full((C,), 2.0))
    model = convert_gains(nn.Sequential(norm, nn.RMSNorm(C)), "1 + w")
    assert model[0] is norm
    assert (norm.weight == 2).all()
    assert (model[1].weight == 0).all()


def test_a_state_dict_for_a_model_of_the_other_convention():
    written, read = prepared(nn.Sequential(LlamaRMSNorm(C))), prepared(
        nn.Sequential(GemmaRMSNorm(C))
    )  # fmt: skip
    read.load_state_dict(convert_gains(written.state_dict(), "1 + w", model=read, stored="w"))
    assert same(written(X), read(X))


def test_a_layer_itself_and_one_that_is_rounded():
    norm = GemmaRMSNorm(C).bfloat16()
    norm.weight.data.fill_(1e-3)
    with pytest.warns(NormscopeWarning, match="gains_to_float32"):
        made = convert_gains(copy.deepcopy(norm), "w")
    assert isinstance(made, nn.RMSNorm)
    wide = gains_to_float32(norm)
    expected = wide(X.bfloat16())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = convert_gains(wide, "w")
    assert torch.equal(made(X.bfloat16()), expected)
    torch.testing.assert_close(made.weight.data, torch.full((C,), 1.001))


class Gated(nn.RMSNorm):
    """As Mamba 2's."""

    def forward(self, x, gate=None):
        return super().forward(x if gate is None else x * F.silu(gate))


class Normalizes(nn.Module):
    """Reads the layer's gain itself."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(C)

    def forward(self, x):
        return F.rms_norm(x, (C,), self.norm.weight) + self.norm(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Normalizes, "'norm' .*something else reads its gain"),
        (lambda: nn.TransformerEncoderLayer(C, 2, 8), "'norm1' .*something else reads"),
        (lambda: nn.Sequential(nn.Sequential(Activated(C))), "'0.0' .* is not converted"),
        (lambda: nn.Sequential(PermutedLayerNorm(C)), "is not converted"),
        (parametrized, "parametrization"),
        (lambda: nn.Sequential(Gated(C)), "'0' .Gated. is not converted: it takes further"),
        (lambda: nn.Sequential(nn.Linear(C, C)), "no layer or RMS normalization with a gain"),
    ],
)
def test_what_is_not_converted_is_named_and_nothing_changes(make, message):
    model = prepared(make())
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    with pytest.raises(InputError, match=message):
        convert_gains(model, "1 + w")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert classes == [type(m) for m in model.modules()]


def test_a_state_dict_needs_names():
    with pytest.raises(InputError, match="model="):
        convert_gains({}, "w")
    with pytest.raises(InputError, match=r"has no '0.weight'"):
        convert_gains({"norm.weight": torch.ones(C)}, "1 + w", model=nn.Sequential(nn.RMSNorm(C)))
    with pytest.raises(InputError, match="convention"):
        convert_gains(nn.RMSNorm(C), "one_plus")


# -- gains_to_float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "norm",
    [*NORMS.values(), lambda: nn.BatchNorm1d(5), lambda: nn.GroupNorm(1, 5)],
    ids=[*NORMS, "batch", "group"],
)
def test_normalization_is_kept_in_float32(norm, dtype):
    model = prepared(nn.Sequential(nn.Linear(C, C), norm(), nn.Linear(C, 3))).to(dtype)
    parameters, cls, keys = [*model.parameters()], type(model[1]), list(model.state_dict())
    assert gains_to_float32(model) is model
    types = {key: value.dtype for key, value in model.state_dict().items()}
    assert all(
        dtype_ == (torch.float32 if key[0] == "1" else dtype)
        for key, dtype_ in types.items() if dtype_ != torch.int64
    )  # fmt: skip
    assert [*map(id, model.parameters())] == [*map(id, parameters)]
    assert list(model.state_dict()) == keys
    assert isinstance(model[1], cls)
    y = copy.deepcopy(model)(X.to(dtype))
    assert y.dtype == dtype
    wide = copy.deepcopy(model).double()(X)
    assert (y.double() - wide).norm() < 0.05 * wide.norm()
    model(X.to(dtype)).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())


def test_gains_move_in_float32():
    def moved(model: nn.Module) -> bool:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
        before = model[0].weight.detach().clone()
        model(X.bfloat16())[..., 0].sum().backward()
        optimizer.step()
        return not torch.equal(model[0].weight, before)

    model = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 3)).bfloat16()
    assert not moved(copy.deepcopy(model))
    assert moved(gains_to_float32(model))


def test_an_optimizer_that_has_stepped_reads_its_own_state_anew():
    model = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 3)).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(X.bfloat16()).sum().backward()
        optimizer.step()
        gains_to_float32(model) if model[0].weight.dtype == torch.bfloat16 else None
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.float32


def test_what_is_not_put_into_float32_is_named():
    with pytest.raises(InputError, match="nothing to put"):
        gains_to_float32(nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 3).bfloat16()))
    model = parametrized().bfloat16()
    with pytest.raises(InputError, match="'0' .*parametrization"):
        gains_to_float32(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


class CastsToTheGain(Residual):
    """As Mamba's block."""

    def forward(self, x):
        return self.fc(self.norm(x.to(self.norm.weight.dtype)))


def test_a_forward_that_asks_for_the_type_of_a_gain_is_found_out_by_batches():
    model = CastsToTheGain().bfloat16()
    types, x = {key: value.dtype for key, value in model.state_dict().items()}, X.bfloat16()
    before = model(x)
    with pytest.raises(InputError, match="not put into float32.*dtype"):
        gains_to_float32(model, [x])
    assert {key: value.dtype for key, value in model.state_dict().items()} == types
    assert type(model.norm) is nn.LayerNorm
    assert torch.equal(model(x), before)
