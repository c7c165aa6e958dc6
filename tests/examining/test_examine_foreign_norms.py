"""`check` measures layers by what they do, and never takes its own faults for the model's."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from norm_zoo import CASES, CHANNELS, Case, channels_first, sets, varied, with_gains
from normscope.errors import InputError, NormscopeWarning
from normscope.examining import channel_meter, forward
from normscope.examining.examine import examine


class Net(nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        self.norm, self._call = with_gains(case.build()), case.call
        self.head = nn.Linear(CHANNELS**3, 3)

    def forward(self, x):
        y = self._call(self.norm, x)
        return self.head((y[0] if isinstance(y, tuple) else y).flatten(1))


def examined(model: nn.Module, batches):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NormscopeWarning)
        return examine(model, batches)


# Behind an activation in eval mode nothing that autograd keeps tells the axis of a square map:
# there the class's own axis stands.
@pytest.mark.parametrize(
    "name", [n for n in CASES if n != "batch norm channels last with activation"]
)
def test_the_layer_is_measured_over_its_own_axis(name):
    case = CASES[name]
    batches = [varied(seed) for seed in range(3)]
    (layer,) = examined(Net(case), batches).layers
    measured = layer.measured
    assert measured is not None
    assert measured.batches == 3
    x = torch.cat(batches)
    if case.kind == "batch":
        exact = channels_first(x, case.axis).mean(1).numpy()
        assert np.abs(measured.mean - exact).max() < 1e-5 * max(1, np.abs(exact).max())
        return
    exact = np.quantile(sets(x, case).var(-1, correction=0).numpy(), (0.05, 0.5, 0.95))
    assert measured.set_var == pytest.approx(tuple(exact), rel=1e-4)


def test_group_norm_subclasses_are_no_fault_of_the_model():
    """They were: the question for the axis of a LayerNorm was asked of them."""
    for name in ("group norm of one group", "group norm in float32", "group norm with activation"):
        examined(Net(CASES[name]), [varied()])


def test_a_fault_of_a_measurement_is_named_as_such(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(channel_meter, "_set_moments", broken)
    model = Net(CASES["group norm in float32"])
    with pytest.warns(
        NormscopeWarning, match="norm could not be measured.*ZeroDivisionError: ours"
    ):
        (layer,) = examine(model, [varied()]).layers
    assert layer.measured is None


def test_a_fault_of_the_trace_is_named_as_such(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(forward, "trace", broken)
    with pytest.warns(NormscopeWarning, match="cannot be traced.*ZeroDivisionError: ours"):
        (layer,) = examine(Net(CASES["group norm in float32"]), [varied()]).layers
    assert layer.measured is not None


def test_what_the_model_raises_itself_is_the_models():
    class Failing(Net):
        def forward(self, x):
            raise RuntimeError("mine")

    with pytest.raises(InputError, match="fails on batch 0 in eval mode: RuntimeError: mine"):
        examine(Failing(CASES["group norm in float32"]), [varied()])
