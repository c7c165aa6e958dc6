"""Folding: the same function in float64, or a refusal that names the layer."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

import normscope
from normscope.errors import InputError, NormscopeWarning
from normscope.mend import fold

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def prepared(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64, with statistics and weights that no layer could be without."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                if tensor is not None:
                    tensor.data.normal_(0.5, 1, generator=generator)
            if module.running_var is not None:
                module.running_var.uniform_(0.3, 3, generator=generator)
    return model


def agree(model: nn.Module, folded: nn.Module, *inputs: torch.Tensor) -> bool:
    before, after = copy.deepcopy(model).eval()(*inputs), folded(*inputs)
    return torch.allclose(before, after, rtol=1e-9, atol=1e-9)


def norms_in(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm | FrozenBatchNorm) for module in model.modules())


def conv_norm(conv=None, norm=None) -> nn.Sequential:
    return nn.Sequential(conv or nn.Conv2d(3, 8, 3), norm or nn.BatchNorm2d(8), nn.ReLU())


# -- what is folded


@settings(deadline=None, max_examples=40)
@given(
    dims=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
    affine=st.booleans(),
    stride=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "circular"]),
    with_batches=st.booleans(),
)
def test_every_convolution_folds(
    dims, transposed, groups, widths, bias, affine, stride, mode, with_batches
):
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    options = {} if transposed else {"padding_mode": mode}
    conv = getattr(nn, name)(
        widths[0] * groups, widths[1] * groups, 2,
        stride=stride, padding=1, groups=groups, bias=bias, **options,
    )  # fmt: skip
    norm = getattr(nn, f"BatchNorm{dims}d")(widths[1] * groups, eps=0.1, affine=affine)
    model = prepared(nn.Sequential(conv, norm))
    x = torch.randn(3, widths[0] * groups, *[5] * dims, dtype=torch.double)
    folded = fold(model, [x] if with_batches else None)
    assert norms_in(folded) == 0
    assert agree(model, folded, x)


class ActivatedNorm(nn.BatchNorm2d):
    """As timm's BatchNormAct2d, written on top of PyTorch's forward."""

    def __init__(self, width: int):
        super().__init__(width)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(super().forward(x))


class FunctionalNorm(nn.BatchNorm2d):
    def forward(self, x):
        if self.training:
            raise RuntimeError("not in this test")
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
        )
        return F.leaky_relu(x) + 1


class SamePadding(nn.Conv2d):
    def forward(self, x):
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Renamed(nn.Conv2d):
    """A subclass that changes nothing."""


class CenteredConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class ScaledConv(nn.Conv2d):
    """Overrides what PyTorch's forward calls, and not the forward."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 2 * weight, bias)


class FrozenBatchNorm(nn.Module):
    """As torchvision's and detectron2's: buffers and arithmetic."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        generator = torch.Generator().manual_seed(0)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width, generator=generator) + 0.5)

    def forward(self, x):
        w, b, rv, rm = (
            tensor.reshape(1, -1, 1, 1)
            for tensor in (self.weight, self.bias, self.running_var, self.running_mean)
        )
        scale = w * (rv + self.eps).rsqrt()
        return x * scale + (b - rm * scale)


@pytest.mark.parametrize(
    ("conv", "norm"),
    [
        (None, ActivatedNorm(8)),
        (None, FunctionalNorm(8)),
        (SamePadding(3, 8, 2, stride=2), None),
        (Renamed(3, 8, 3), None),
        (CenteredConv(3, 8, 3), None),
        (ScaledConv(3, 8, 3), None),
        (SamePadding(3, 8, 2, stride=2), ActivatedNorm(8)),
        (None, FrozenBatchNorm(8, eps=1e-3)),
        (None, nn.SyncBatchNorm(8)),
        (None, nn.BatchNorm2d(8, momentum=None)),
        (None, nn.BatchNorm2d(8).requires_grad_(False)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_forward_of_its_own_that_is_understood_folds(conv, norm):
    model = prepared(conv_norm(conv, norm))
    for folded in (fold(model), fold(model, [X, X[:, :, :7, :7]])):
        assert norms_in(folded) == 0
        assert agree(model, folded, X)
        assert agree(model, folded, X[:, :, :7, :7])


class Head(nn.Module):
    """A linear layer whose rank the forward fixes."""

    def __init__(self):
        super().__init__()
        self.stem, self.linear, self.norm = conv_norm(), nn.Linear(8, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.linear(self.stem(x).mean((2, 3))))


class Viewing(Head):
    def forward(self, x):
        x = self.stem(x).amax((2, 3), keepdim=True)
        return self.norm(self.linear(x.view(x.size(0), -1)))


def test_a_linear_layer_folds_where_it_gets_two_dimensions():
    mlp = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    rows, steps = torch.randn(4, 5).double(), torch.randn(4, 8, 5).double()
    model = prepared(mlp)
    folded = fold(model, [rows])
    assert norms_in(folded) == 0
    assert agree(model, folded, rows)
    with pytest.raises(InputError, match=r"'1' \(BatchNorm1d\).*only batches show"):
        fold(model)
    with pytest.raises(InputError, match=r"'1' \(BatchNorm1d\).*\[N, L, C\]"):
        fold(model, [steps])
    unaffine = prepared(
        nn.Sequential(nn.Flatten(), nn.Linear(5, 8), nn.BatchNorm1d(8, affine=False))
    )
    assert agree(unaffine, fold(unaffine), rows)
    for make in (Head, Viewing):
        model = prepared(make())
        assert norms_in(fold(model)) == 0
        assert agree(model, fold(model), X)


class ConvolutionWithStatistics(nn.Module):
    """Statistics of its own beside a pair that folds."""

    def __init__(self):
        super().__init__()
        self.body = conv_norm()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x):
        return self.body(x) - self.running_mean[:, None, None]


def test_statistics_beside_a_convolution_are_no_layer():
    model = prepared(nn.Sequential(nn.Conv2d(3, 3, 1), ConvolutionWithStatistics()))
    assert norms_in(fold(model)) == 0
    assert agree(model, fold(model), X)


def test_layers_held_in_lists_under_two_names_and_in_wrappers_fold():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.steps = [self.conv, self.norm]
            self.same = nn.ModuleDict({"norm": self.norm})

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return x

    model = prepared(Listed())
    for wrapped in (model, nn.DataParallel(model), torch.compile(model)):
        folded = fold(wrapped)
        assert norms_in(folded) == 0
        assert agree(model, folded, X)


def test_bf16_folds_in_its_own_type():
    model = prepared(conv_norm()).float()
    model[0].bfloat16()
    folded = fold(model, [X.bfloat16()])
    assert folded[0].weight.dtype == torch.bfloat16
    expected = model.eval()(X.bfloat16()).float()
    assert (folded(X.bfloat16()).float() - expected).norm() < 0.02 * expected.norm()


def test_the_model_is_unchanged_and_the_fold_can_be_copied():
    model = prepared(conv_norm(norm=ActivatedNorm(8))).train()
    state = copy.deepcopy(model.state_dict())
    folded = copy.deepcopy(fold(model, [X]))
    assert model.training
    assert not any(module._forward_hooks for module in folded.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert agree(model, folded, X)


def test_tied_weights_stay_right():
    model = prepared(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))
    model[2].weight = model[0].weight
    folded = fold(model)
    assert norms_in(folded) == 0
    assert agree(model, folded, X)


# -- what stays as it is: the model has to compute the same


class Net(nn.Module):
    """A convolution, a normalization, and a forward of the test's."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)
        self.good = conv_norm(nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))


class Skip(Net):
    def forward(self, x):
        x = self.conv(x)
        return self.good(self.norm(x) + x)


class Between(Net):
    def forward(self, x):
        return self.good(self.norm(F.relu(self.conv(x))))


class InPlace(Net):
    def forward(self, x):
        x = self.conv(x)
        x.relu_()
        return self.good(self.norm(x))


class Twice(Net):
    def forward(self, x):
        return self.good(self.norm(self.conv(x)) + self.norm(self.conv(x * 2)))


class ReadWeight(Net):
    def forward(self, x):
        return self.good(self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight))


class ReadStatistics(Net):
    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.good(x + self.norm.running_mean[:, None, None])


class Feature(Net):
    def forward(self, x):
        x = self.conv(x)
        return torch.cat([self.good(self.norm(x)), x], 1)


class Branch(Net):
    """One way through the forward reads the convolution's output elsewhere."""

    def forward(self, x):
        x = self.conv(x)
        y = self.norm(x)
        if x.mean() > 0:
            y = y + x
        return self.good(y)


class Indexed(Net):
    """An untraceable forward that runs parts of an nn.Sequential."""

    def forward(self, x):
        x = self.good(self.norm(F.relu(self.conv(x)))) * float(x.mean() < 1e9)
        y = self.body[0](x)
        return self.body[1](F.relu(y)) + y


class ResidualSequential(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class SequentialWithAPeek(nn.Sequential):
    def forward(self, x):
        y = self[0](x)
        return self[1](y) + y


class TensorCheck(Net):
    def forward(self, x):
        x = self.conv(x)
        return self.good(self.norm(x) + x if isinstance(x, torch.Tensor) else self.norm(x))


class OptionalArgument(Net):
    def forward(self, x, skip=None):
        x = self.conv(x)
        return self.good(self.norm(x) + x if skip is None else self.norm(x))


class AliasCheck(Net):
    """Asks by a name of its own for the type."""

    def forward(self, x):
        x = self.conv(x)
        return self.good(self.norm(x) + x if isinstance(x, TENSORS) else self.norm(x))


class TorchCheck(Net):
    def forward(self, x):
        x = self.conv(x)
        return self.good(self.norm(x) + x if torch.is_tensor(x) else self.norm(x))


TENSORS = (torch.Tensor, list)
STAYING = [
    AliasCheck,
    TorchCheck,
    Skip,
    Between,
    InPlace,
    Twice,
    ReadWeight,
    ReadStatistics,
    Feature,
    Branch,
    TensorCheck,
]


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
@pytest.mark.parametrize("make", [*STAYING, OptionalArgument, Indexed])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_cannot_be_folded_stays(make, sign: int):
    model = prepared(make(), seed=3)
    for inputs in ([X], [X, -X], None):
        if make is Indexed and inputs is None:
            with pytest.raises(InputError, match="Give batches of its inputs"):
                fold(model)
            continue
        folded = fold(model, inputs)
        assert isinstance(folded.norm, nn.BatchNorm2d)
        assert not isinstance(folded.good[1], nn.BatchNorm2d)
        assert agree(model, folded, sign * X)


@pytest.mark.parametrize("with_batches", [False, True])
def test_sequentials_with_forwards_of_their_own(with_batches: bool):
    parts = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    batches = [X] if with_batches else None
    model = prepared(ResidualSequential(*parts))
    assert norms_in(fold(model, batches)) == 0
    assert agree(model, fold(model, batches), X)
    with pytest.raises(
        InputError, match=r"'1' \(BatchNorm2d\): the output of '0' is read elsewhere"
    ):
        fold(prepared(SequentialWithAPeek(*parts)), batches)


def test_a_partial_fold_is_said():
    model = prepared(nn.Sequential(nn.BatchNorm2d(3), *conv_norm()))
    with pytest.warns(NormscopeWarning, match=r"1 of 2 .*'0' \(BatchNorm2d\): no convolution"):
        folded = fold(model)
    assert norms_in(folded) == 1
    assert agree(model, folded, X)


# -- what is refused, by name


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class ClampedConv(nn.Conv2d):
    """Only large outputs show what it does."""

    def forward(self, x):
        return super().forward(x).clamp(max=1e5)


class ClampedFrozenNorm(FrozenBatchNorm):
    def forward(self, x):
        return super().forward(x).relu()


class FrozenNormOfAnotherEps(FrozenBatchNorm):
    def forward(self, x):
        self.eps, kept = 2 * self.eps, self.eps
        x = super().forward(x)
        self.eps = kept
        return x


class ActivatedConv(nn.Conv2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class ComputedWeight(nn.Conv2d):
    @property
    def weight(self):
        return self._parameters["weight"] * 2

    @classmethod
    def of(cls, conv: nn.Module) -> nn.Module:
        conv.__class__ = cls
        return conv


class PreActivatedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(F.relu(x))


class SkippingNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + x


class LiveNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, None, None, self.weight, self.bias, True)


class StaysInTrainMode(nn.BatchNorm2d):
    def train(self, mode: bool = True):
        return super().train(True)


class DifferentEps(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1.0)


def hooked(layer: nn.Module, kind: str = "forward_hook") -> nn.Module:
    hooks = {
        "forward_hook": lambda module, args, output: output * 2,
        "forward_pre_hook": lambda module, args: (args[0] * 2,),
    }
    getattr(layer, f"register_{kind}")(hooks[kind])
    return layer


def patched(layer: nn.Module) -> nn.Module:
    forward = layer.forward
    layer.forward = lambda x: forward(x) * 2
    return layer


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(conv())


def conv() -> nn.Module:
    """A copy, which the fixture that looks for hooks left behind does not know: here they stay."""
    return copy.deepcopy(CONV)


def norm() -> nn.Module:
    return copy.deepcopy(NORM)


CONV, NORM = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
REFUSED = {
    "standardized": ("0", lambda: conv_norm(StandardizedConv(3, 8, 3))),
    "clamped conv": ("0", lambda: conv_norm(ClampedConv(3, 8, 3))),
    "clamped frozen norm": ("1", lambda: conv_norm(norm=ClampedFrozenNorm(8))),
    "frozen norm of another eps": ("1", lambda: conv_norm(norm=FrozenNormOfAnotherEps(8))),
    "activated conv": ("0", lambda: conv_norm(ActivatedConv(3, 8, 3))),
    "computed weight": ("0", lambda: conv_norm(ComputedWeight.of(conv()))),
    "weight_norm": ("0", lambda: conv_norm(parametrizations.weight_norm(conv()))),
    "old weight_norm": ("0", lambda: conv_norm(old_weight_norm())),
    "spectral_norm": ("0", lambda: conv_norm(parametrizations.spectral_norm(conv()))),
    "old spectral_norm": ("0", lambda: conv_norm(nn.utils.spectral_norm(conv()))),
    "hook on conv": ("0", lambda: conv_norm(hooked(conv()))),
    "pre-hook on conv": ("0", lambda: conv_norm(hooked(conv(), "forward_pre_hook"))),
    "hook on norm": ("1", lambda: conv_norm(norm=hooked(norm()))),
    "pre-hook on norm": ("1", lambda: conv_norm(norm=hooked(norm(), "forward_pre_hook"))),
    "patched conv": ("0", lambda: conv_norm(patched(conv()))),
    "patched norm": ("1", lambda: conv_norm(norm=patched(norm()))),
    "pre-activated norm": ("1", lambda: conv_norm(norm=PreActivatedNorm(8))),
    "skip in the norm": ("1", lambda: conv_norm(norm=SkippingNorm(8))),
    "batch statistics": ("1", lambda: conv_norm(norm=LiveNorm(8))),
    "another eps": ("1", lambda: conv_norm(norm=DifferentEps(8))),
    "train mode": ("1", lambda: conv_norm(norm=StaysInTrainMode(8))),
    "untracked": ("1", lambda: conv_norm(norm=nn.BatchNorm2d(8, track_running_stats=False))),
    "parametrized norm": (
        "1", lambda: conv_norm(norm=parametrizations.weight_norm(norm(), dim=None)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_layers_that_are_not_understood_are_refused_by_name(kind: str):
    name, make = REFUSED[kind]
    model = prepared(make())
    cls = type(model[int(name)]).__name__
    for batches in (None, [X]):
        with pytest.raises(InputError, match=rf"'{name}' \({cls}\)"):
            fold(model, batches)


def test_statistics_set_to_none_and_lazy_layers_are_refused():
    model = conv_norm()
    model[1].running_mean = model[1].running_var = None
    with pytest.raises(InputError, match=r"'1' \(BatchNorm2d\): it has no running statistics"):
        fold(model)
    lazy = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d())
    with pytest.raises(InputError, match=r"'0' \(LazyConv2d\).*lazy"):
        fold(lazy)
    lazy(X.float())  # its hooks are gone after that
    assert norms_in(fold(lazy)) == 0


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Identity()])
def test_a_single_layer_has_nothing_to_fold(layer):
    with pytest.raises(InputError, match="no batch normalization right behind"):
        fold(layer)


def test_the_rest_folds_if_asked_for():
    model = prepared(nn.Sequential(*conv_norm(), *conv_norm(StandardizedConv(8, 8, 1))))
    with pytest.raises(InputError, match=r"'3' \(StandardizedConv\).*partial=True"):
        fold(model)
    with pytest.warns(NormscopeWarning, match="StandardizedConv"):
        folded = fold(model, partial=True)
    assert norms_in(folded) == 1
    assert agree(model, folded, X)


class Arithmetic(nn.Module):
    """Reads the weights by parameters(), which tracing takes for constants."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y * sum(p.square().sum() for p in self.conv.parameters())


def test_outputs_are_compared_where_batches_are_given():
    with pytest.raises(InputError, match="read elsewhere|would change the outputs"):
        fold(prepared(Arithmetic()), [X])


def test_bad_batches_are_refused():
    with pytest.raises(InputError, match="batches is empty"):
        fold(conv_norm(), [])
    with pytest.raises(InputError, match="The model fails on batch 0"):
        fold(conv_norm(), [torch.zeros(2, 5, 8, 8)])


def test_the_package_has_mend():
    assert normscope.mend.fold is fold
    assert "mend" in dir(normscope)
