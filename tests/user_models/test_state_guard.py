"""What a forward may change is put back, on every kind of tensor."""

import copy
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.examining.examine import examine
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


@pytest.mark.parametrize("part", [0, 1])
def test_a_model_without_values_and_batches_is_one_line(part):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[part].to("meta")
    with pytest.raises(InputError, match=rf"on the meta device \({part}.weight\)"):
        examine(model, [torch.randn(8, 3)])
