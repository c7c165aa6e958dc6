"""Models whose forward looks at its layers: they are neither folded nor converted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.mend import convert, fold


class Pair(nn.Module):
    """A convolution and a normalization; subclasses say how they are called."""

    def __init__(self, conv: nn.Module | None = None, bn: nn.Module | None = None):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 8, 3)
        self.bn = bn or nn.BatchNorm2d(8)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2.0)
        nn.init.normal_(self.bn.weight)
        nn.init.normal_(self.bn.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class AsksForTheClass(Pair):
    def forward(self, x):
        for layer in (self.conv, self.bn):
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                x = torch.relu(x)
        return x


class AsksForTheBias(Pair):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False))

    def forward(self, x):
        y = super().forward(x)
        return y if self.conv.bias is None else torch.relu(y)


class AsksForTheWidth(Pair):
    def forward(self, x):
        return super().forward(x)[:, : self.bn.num_features]


class Trains(Pair):
    def forward(self, x):
        self.bn.train()
        return super().forward(x)


class Decays(Pair):
    def forward(self, x):
        return super().forward(x) + sum(p.square().sum() for p in self.parameters())


class ScaledConv(nn.Conv2d):
    def forward(self, input, scale=1.0):
        return super().forward(input) * scale


class CallsWithAScale(Pair):
    def __init__(self):
        super().__init__(ScaledConv(3, 8, 3))

    def forward(self, x):
        return self.bn(self.conv(x, scale=3.0))


class OptionalReLU(nn.BatchNorm2d):
    def forward(self, input, act=False):
        y = super().forward(input)
        return torch.relu(y) if act else y


class CallsWithAnActivation(Pair):
    def __init__(self):
        super().__init__(bn=OptionalReLU(8))

    def forward(self, x):
        return self.bn(self.conv(x), act=True)


class NotForOne(nn.BatchNorm2d):
    def forward(self, input):
        return input if input.shape[0] == 1 else super().forward(input)


class NotForPixels(nn.BatchNorm2d):
    def forward(self, input):
        return input if input.shape[-2:] == (1, 1) else super().forward(input)


class OnlyLarge(nn.BatchNorm2d):
    def forward(self, input):
        y = super().forward(input)
        return torch.relu(y) if input.shape[-1] > 16 else y


class AttendsWith(Pair):
    """PyTorch's attention reads the weights of its out_proj itself, and the forward calls it."""

    def __init__(self):
        super().__init__(bn=nn.BatchNorm1d(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = torch.flatten(self.conv(x), 1)
        return self.bn(self.attention.out_proj(y)) + self.attention(y, y, y)[0]


class Keeps(Pair):
    def forward(self, x):
        self.seen = {"last": [self.conv(x)]}
        return self.bn(self.seen["last"][0])


class HasAnotherMethod(Pair):
    def embed(self, x):
        return torch.relu(self.conv(x))


class AsksForTheGradMode(Pair):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) if torch.is_grad_enabled() else self.bn(y) + y


LOOKING = [
    AttendsWith, Keeps, HasAnotherMethod, AsksForTheGradMode,
    AsksForTheClass, AsksForTheBias, AsksForTheWidth, Trains, Decays, CallsWithAScale,
    CallsWithAnActivation,
    *(lambda kind=kind: Pair(bn=kind(8)) for kind in (NotForOne, NotForPixels, OnlyLarge)),
]  # fmt: skip


@pytest.mark.parametrize("make", LOOKING)
def test_a_forward_that_looks_at_its_layers_is_not_folded(make):
    torch.manual_seed(0)
    with pytest.raises(InputError):
        fold(make().eval())


class HasAMethodWithBoth(Pair):
    def embed(self, x):
        return torch.relu(self.bn(self.conv(x)))

    def widths(self):
        return self.conv.out_channels, self.conv.weight.shape


class CallsAMethod(Pair):
    def embed(self, x):
        return self.conv(x)

    def forward(self, x):
        return self.bn(self.embed(x))


@pytest.mark.parametrize(
    "make",
    [Pair, HasAMethodWithBoth, CallsAMethod, lambda: nn.Sequential(*Pair().children(), nn.ReLU())],
)
def test_the_same_layers_in_a_forward_that_does_not_are_folded(make):
    torch.manual_seed(0)
    model = make().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    folded = fold(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), model(x))


@pytest.mark.parametrize("target", ["sync", "group"])
def test_convert_leaves_a_model_that_asks_for_the_class(target):
    torch.manual_seed(0)
    model = AsksForTheClass().eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    with pytest.raises(InputError, match="would take another way"):
        convert(model, "batch", target)
    assert type(model.bn) is nn.BatchNorm2d
    assert torch.equal(model(x), before)
    assert type(convert(Pair(), "batch", "sync").bn) is nn.SyncBatchNorm
