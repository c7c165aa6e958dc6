"""What a module was taken for, why, and what a call shows that it does."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import LayerNorm

import norm_zoo
import normscope
from normscope import check
from normscope.commands.check import CheckOptions, run_check
from normscope.errors import InputError
from normscope.examining.examine import examine
from normscope.user_models.functional_norms import functional_norms

WIDTH = 6


class Scaled(nn.Module):
    """An RMSNorm with every convention, whose names say nothing."""

    def __init__(self, start=1.0, offset=0.0, eps=1e-6, bias=None, center=False):
        super().__init__()
        self.v = nn.Parameter(start * (1 + 0.3 * torch.rand(WIDTH)))
        self.u = None if bias is None else nn.Parameter(torch.full((WIDTH,), bias))
        self.offset, self.small, self.center = offset, eps, center

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True) if self.center else x
        x = x * (x.square().mean(-1, keepdim=True) + self.small).rsqrt() * (self.offset + self.v)
        return x if self.u is None else x + self.u


class Affine(nn.Module):
    """Called a norm, and none."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        return self.gain * x


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.embed, self.norm = nn.Linear(3, WIDTH), norm
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.head(self.norm(self.embed(x)))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 5, 3, generator=generator) for _ in range(3)]


def recognized(norm, data=True):
    torch.manual_seed(0)
    (layer,) = examine(Net(norm), batches() if data else None).layers
    return layer


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("bias", [None, 0.5])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_a_call_shows_all_that_a_layer_does(offset, bias, center, eps):
    layer = recognized(Scaled(0.4, offset, eps, bias, center))
    found = layer.recognition
    assert (layer.kind, found.by, found.explained) == ("layer" if center else "rms", "name", True)
    assert (found.axis, found.centered, found.bias) == ("last", center, bias is not None)
    if bias is None:
        assert found.gain == ("1 + w" if offset else "w")
    assert found.eps == pytest.approx(eps, rel=0.05)


def test_an_eps_in_effect_beside_the_one_that_is_named():
    norm = norm_zoo.LlamaRMSNorm(WIDTH)
    norm.forward = lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * norm.weight
    assert recognized(norm).recognition.eps == pytest.approx(1e-3, rel=0.05)
    assert recognized(norm).eps == norm_zoo.EPS
    report = check(Net(norm), batches())
    assert "eps 0.001 in effect, not 1e-05" in " ".join(report.listing().split())


@pytest.mark.parametrize("width", [60, 80, 300])
def test_the_list_of_layers_is_no_wider_than_the_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    model = nn.Sequential()
    model.add_module("normalization_before_the_activation", nn.BatchNorm2d(2))
    text = check(model).listing()
    assert max(map(len, text.splitlines())) <= width
    assert "eps 1e-05" in " ".join(text.split())


@pytest.mark.parametrize("name", ["WeightlessRMSNorm", "L2Norm", "ScaleNorm", "MyLayerNorm"])
def test_a_class_that_says_its_kind_needs_no_call(name):
    norm = type(name, (nn.Module,), {"forward": lambda self, x: F.normalize(x, dim=-1)})()
    layer = recognized(norm, data=False)
    assert layer.kind == ("layer" if "Layer" in name else "rms")
    assert layer.recognition.by == "class name"


def test_one_gain_for_all_channels_says_nothing_of_their_number():
    class ScaleNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return F.normalize(x, dim=-1) * self.g * WIDTH**0.5

    for data in (None, batches()):
        report = check(nn.Sequential(nn.Linear(3, 64), ScaleNorm()), data)
        assert report.layers == 1
        assert not report.errors + report.warnings


@pytest.mark.parametrize("name", ["EvoNorm2dS0", "FilterResponseNormTlu2d", "GraphNorm"])
def test_gains_of_norms_that_no_kind_explains_are_judged_and_the_layer_is_named(name):
    norm = type(name, (Affine,), {})()
    with torch.no_grad():
        norm.gain[2] = torch.nan
    report = check(Net(norm))
    assert ("NS101", "norm") in {(f.code, f.layer) for f in report.errors}
    with torch.no_grad():
        norm.gain[2] = 1.0
    report = check(Net(norm), batches())
    assert [(f.code, f.layer) for f in report] == [("NS001", "norm")]
    assert report.layers == 1


@pytest.mark.parametrize("data", [False, True])
def test_what_is_called_a_norm_and_is_none_is_named(data):
    report = check(Net(Affine()), batches() if data else None)
    assert [(f.code, f.layer) for f in report] == [("NS001", "norm")]
    assert report.layers == 0
    assert report.recognized[0].kind == "unknown"


def test_the_same_module_under_another_name_is_nobodys_business():
    assert not check(nn.Sequential(nn.Linear(3, WIDTH), Affine()))


def test_rows_of_graphs_leave_an_instance_norm_what_its_class_says():
    class GraphInstanceNorm(nn.InstanceNorm1d):
        def forward(self, x):  # [nodes, C] of one graph
            return (x - x.mean(0)) * (x.var(0, correction=0) + self.eps).rsqrt()

    model = nn.Sequential(nn.Linear(3, WIDTH), GraphInstanceNorm(WIDTH))
    (layer,) = examine(model, [x[:, 0].repeat(4, 1) for x in batches()]).layers
    assert layer.kind == "instance"


def test_small_inputs_show_a_layer_whose_eps_has_no_name():
    class HiddenRMSNorm(nn.Module):
        def forward(self, x):
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    model = Net(HiddenRMSNorm())
    with torch.no_grad():
        model.embed.weight.mul_(1e-3)
    assert examine(model, batches()).layers[0].recognition.explained


@pytest.mark.parametrize("name", ["NormFreeNet", "WeightNormBlock", "NormalHead", "Normalize"])
def test_names_that_hold_the_word_and_mean_something_else(name):
    module = type(name, (Affine,), {})()
    assert not check(nn.Sequential(nn.Linear(3, WIDTH), module))


class AdaptiveNorm(nn.Module):
    """A norm with weights of its own, as diffusion models have."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return F.layer_norm(x, (WIDTH,)) * (1 + self.shift(x))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("norm", [AdaptiveNorm, lambda: nn.LocalResponseNorm(2)])
def test_what_no_kind_explains_is_named(norm, data):
    report = check(Net(norm()), batches() if data else None)
    assert ("NS001", "norm") in {(f.code, f.layer) for f in report}


@pytest.mark.parametrize(
    "module",
    [
        nn.Identity(), nn.Sequential(nn.LayerNorm(WIDTH)), nn.ModuleList([nn.LayerNorm(WIDTH)])[0],
        nn.Linear(WIDTH, WIDTH), nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    ],
)  # fmt: skip
def test_known_modules_and_blocks_around_a_norm_are_not_named(module):
    assert "NS001" not in check(Net(module)).codes


CALLS = {
    "F.layer_norm": lambda x: F.layer_norm(x, (WIDTH,)),
    "F.rms_norm": lambda x: F.rms_norm(x, (WIDTH,)),
    "F.group_norm": lambda x: F.group_norm(x, 1),
    "F.instance_norm": lambda x: F.instance_norm(x),
    "F.batch_norm": lambda x: F.batch_norm(x, torch.zeros(5), torch.ones(5)),
    "torch.layer_norm": lambda x: torch.layer_norm(x, (WIDTH,)),
    "LayerNorm": lambda x: nn.LayerNorm(WIDTH)(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_functions_that_a_forward_calls_are_named(call):
    report = check(Net(Calls(call)), batches())
    assert [(f.code, f.layer) for f in report.infos] == [("NS001", "norm")]
    assert re.search("F.[a-z]+_norm", report.infos[0].evidence["called"])
    assert report.recognized[0].kind == "function"


def test_functions_are_found_in_the_code_without_a_call():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer_norm = nn.LayerNorm(WIDTH)  # an attribute of that name is no function
            self.made = nn.GroupNorm(1, 5)

        def forward(self, x):
            def inside(x):
                return torch.nn.functional.rms_norm(x, (WIDTH,))

            return inside(self.layer_norm(x)) + nn.LayerNorm(WIDTH)(F.group_norm(x, 1))

    assert functional_norms(Net(Block())) == {"norm": ("LayerNorm", "F.group_norm", "F.rms_norm")}
    assert check(Net(Block())).codes.count("NS001") == 1


def test_a_layer_that_a_forward_only_asks_for_is_not_made_there():
    class Asks(nn.Linear):
        def forward(self, x):
            return -super().forward(x) if isinstance(self, nn.BatchNorm1d | LayerNorm) else x

    class Block(nn.Module):
        def forward(self, x):
            kinds = (nn.BatchNorm1d, LayerNorm)
            return x if isinstance(self, kinds) else -x

    assert functional_norms(nn.Sequential(Block(), Asks(WIDTH, WIDTH))) == {}


def test_a_wrapper_of_a_layer_with_another_path_is_known():
    class WrappedNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.BatchNorm1d(WIDTH)

        def forward(self, x):
            return self.module(x) if len(x) > 1 else F.batch_norm(x, None, None, training=True)

    assert functional_norms(Net(WrappedNorm())) == {}


class StandardizedConvolution(nn.Conv2d):
    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


def test_weights_that_are_normalized_are_no_layer():
    model = nn.Sequential(StandardizedConvolution(3, 4, 3), nn.BatchNorm2d(4)).eval()
    images = [torch.randn(8, 3, 8, 8) for _ in range(3)]
    assert not {"NS001", "NS301"} & set(check(model, images).codes)
    assert functional_norms(model) == {}


def test_the_command_lists_what_each_layer_was_taken_for(tmp_path, capsys):
    torch.save({"norm_f.weight": torch.ones(4), "1.weight": torch.ones(4), "1.bias": torch.ones(4),
                "bn.running_var": torch.ones(4), "bn.running_mean": torch.ones(4),
                "a\x1b[31m\nnorm.weight": torch.ones(3)},
               tmp_path / "x.pt")  # fmt: skip
    assert run_check(CheckOptions(str(tmp_path / "x.pt"), list=True)) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert lines[0].split() == ["layer", "class", "kind", "why", "what", "it", "does"]
    assert [line.split()[0] for line in lines[1:]] == ["norm_f", "1", "bn", r"a\x1b[31m\nnorm"]
    assert "its name says so" in lines[1]
    assert "a gain and a bias of one size" in lines[2]


def test_a_recording_of_a_norm_that_only_a_call_shows():
    torch.manual_seed(0)
    model = Net(Scaled())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with normscope.watch(model, optimizer=optimizer, every=1) as watcher:
        for x in batches():
            model(x).square().sum().backward()
            optimizer.step()
    assert list(watcher.recording.layers) == ["norm"]
    assert watcher.recording.header.layers[0].kind == "rms"


def test_watching_says_what_it_cannot_see():
    class Both(Net):
        def forward(self, x):
            return F.layer_norm(super().forward(x), (2,))

    with pytest.warns(UserWarning, match=r"not recorded: F.layer_norm in Both\."):
        normscope.watch(Both(nn.LayerNorm(WIDTH))).close(quiet=True)
    with pytest.raises(InputError, match=r"calls F\.rms_norm in norm, which nothing can hook"):
        normscope.watch(Net(Inside()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normscope.watch(Net(nn.LayerNorm(WIDTH))).close(quiet=True)


class Inside(nn.Module):
    def forward(self, x):
        return F.rms_norm(x, (WIDTH,))
