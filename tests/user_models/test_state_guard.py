"""What a forward may change is put back, on every kind of tensor."""

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.examining.examine import examine
from normscope.examining.state_and_loader import compare_keys
from normscope.user_models.state_guard import preserve_state


class Careless(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.log, self.cache, self.seen = [], {"a": 1}, {1}
        self.replaced = [1]
        self.register_buffer("graph", torch.eye(2).to_sparse())

    def forward(self, x):
        self.log.append(x)
        self.cache["b"] = 2
        self.seen.add(2)
        self.replaced = [2]
        self.new_tensor = x
        self.new_list = [x]
        self.register_buffer("new_buffer", x)
        self.late = nn.Linear(2, 2)
        self.graph = self.graph * 2
        return self.norm(x)


def test_everything_is_as_it_was():
    model = Careless()
    names, log, replaced, graph = set(vars(model)), model.log, model.replaced, model.graph
    with preserve_state(model):
        model(torch.randn(4, 2))
    assert set(vars(model)) == names
    assert (model.log is log, log, model.cache, model.seen) == (True, [], {"a": 1}, {1})
    assert model.replaced is replaced
    assert replaced == [1]
    assert set(model._buffers) == {"graph"}
    assert set(model._modules) == {"norm"}
    assert model.graph is graph
    assert torch.equal(graph.to_dense(), torch.eye(2))
    assert int(model.norm.num_batches_tracked) == 0


class OnDevice(torch.Tensor):
    """A tensor that says that it is on a GPU, whose values cannot be had without waiting."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = torch.device("cuda")  # pyright: ignore[reportAssignmentType]


def test_what_is_on_a_device_is_put_back_without_a_comparison(monkeypatch):
    model = nn.Module()
    for name in ("moved", "untouched"):
        model.register_buffer(name, torch.ones(2).as_subclass(OnDevice))
    monkeypatch.setattr(torch, "equal", lambda *_: pytest.fail("waits for the device"))
    with preserve_state(model):
        model.moved.mul_(3)
    assert model.moved.tolist() == [1, 1]
    assert model.untouched._version == 0, "a graph that has saved it can still be used"


def test_a_sparse_buffer_that_a_forward_writes_in_place():
    model = Careless()
    with preserve_state(model):
        model.graph.mul_(3)
    assert torch.equal(model.graph.to_dense(), torch.eye(2))


def test_a_model_without_values_is_examined():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    (layer,) = examine(model).layers
    assert (layer.kind, layer.features) == ("batch", 2)
    assert layer.running_mean is None


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
def test_models_with_sparse_buffers_are_examined(layout):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    matrix = torch.eye(2)
    model.register_buffer(
        "graph", matrix.to_sparse() if layout == "sparse_coo" else matrix.to_sparse_csr()
    )
    (layer,) = examine(model, [torch.randn(8, 2)] * 2).layers
    assert layer.measured is not None
    assert torch.equal(model.graph.to_dense(), matrix)


class Collects(nn.Module):
    """Keeps something of every call, in every kind of container."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.last, self.numbers = deque(maxlen=2), np.zeros(2)
        self.by_name, self.ordered, self.counted = defaultdict(list), OrderedDict(), Counter()
        self.raw, self.rows, self.pair = bytearray(2), [[0]], ({}, [1])
        self.table = {"a": {"b": []}}

    def forward(self, x):
        self.last.append(1)
        self.numbers += 1
        self.by_name["x"].append(1)
        self.ordered["x"] = 1
        self.counted["x"] += 1
        self.raw[0] += 1
        self.rows[0].append(1)
        self.pair[0]["x"] = 1
        self.pair[1].append(1)
        self.table["a"]["b"].append(1)
        self.added = x
        return self.norm(x)


def test_what_a_forward_collects_is_taken_away():
    model = Collects()
    kept = {name: (value, copy.deepcopy(value)) for name, value in vars(model).items()
            if not name.startswith("_")}  # fmt: skip
    assert examine(model, [torch.randn(8, 3)]).forward is not None
    assert not hasattr(model, "added")
    for name, (value, before) in kept.items():
        assert getattr(model, name) is value
        assert np.all(value == before), name


class Meter:
    def __init__(self):
        self.calls, self.log, self.mean = 0, [], torch.zeros(2)


class Indirect(nn.Module):
    """Keeps what it counts and draws from in objects of its own, and a layer where none looks."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.meter, self.space = Meter(), SimpleNamespace(n=0)
        self.parts = {"hidden": [nn.BatchNorm1d(2)], "cache": [torch.zeros(2)]}
        self.register_buffer("repeated", torch.zeros(1).expand(5))
        self.others = [torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged), self]
        with torch.inference_mode():
            self.others.append(torch.zeros(2))
        self.generators = (
            torch.Generator(), random.Random(0), np.random.default_rng(0), np.random.RandomState(0),
        )  # fmt: skip

    def forward(self, x):
        self.meter.calls += 1
        self.meter.log.append(self.meter.calls)
        self.meter.mean += x.mean(0)
        self.meter.new = self.space.n = 1
        self.parts["cache"][0].add_(1)
        self.repeated[0] = 1
        with torch.inference_mode():
            self.others[2].add_(1)
        return self.norm(self.parts["hidden"][0](x)) + self.draw()[0]

    def draw(self):
        first, second, third, fourth = self.generators
        return torch.rand(1, generator=first), second.random(), third.random(), fourth.rand()


def test_objects_of_the_models_own_are_as_they_were():
    model = Indirect()
    hidden, attributes = model.parts["hidden"][0], {"calls": 0, "log": []}
    expected = copy.deepcopy(model).draw()
    with preserve_state(model):
        model(torch.randn(8, 2))
    assert model.space.n == 0
    assert vars(model.meter) == {**attributes, "mean": model.meter.mean}
    assert not model.meter.mean.any()
    assert not any(
        part.any() for part in (model.parts["cache"][0], model.repeated, model.others[2])
    )
    assert not hidden.running_mean.any()
    assert int(hidden.num_batches_tracked) == 0
    assert model.draw() == expected


def test_objects_of_others_are_left_to_them():
    model = Indirect()
    model.shared = Fraction(1, 2)
    with preserve_state(model):
        model.shared._numerator = 3
    assert model.shared == Fraction(3, 2)


LAZY = {
    "weights": lambda: nn.Sequential(nn.LazyLinear(2), nn.BatchNorm1d(2)),
    "statistics": lambda: nn.Sequential(nn.LazyBatchNorm1d(affine=False)),
}


@pytest.mark.parametrize("batches", [None, [torch.ones(4, 2)]])
@pytest.mark.parametrize("kind", LAZY)
def test_a_lazy_model_is_one_line(kind, batches):
    model = LAZY[kind]()
    with pytest.raises(InputError, match="'0' is lazy and has no values yet"):
        examine(model, batches)
    with pytest.raises(InputError, match="'0' is lazy"):
        compare_keys({}, model)
    model(torch.ones(4, 2))  # takes its hooks off


@pytest.mark.parametrize("part", [0, 1])
def test_a_model_without_values_and_batches_is_one_line(part):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[part].to("meta")
    with pytest.raises(InputError, match=rf"on the meta device \({part}.weight\)"):
        examine(model, [torch.randn(8, 3)])
