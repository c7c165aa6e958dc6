"""What the library is called with that cannot be: one line, before work begins."""

import sys
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

import normscope
from normscope import mend
from normscope.arguments import judged
from normscope.errors import InputError
from normscope.testing import assert_normalization_ok


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


ANY = (5, 3.5, b"x", [1], {"a": 1}, object())
CALLS = {
    "report": lambda x: normscope.report(x),
    "report out": lambda x: normscope.report(".", out=x),
    "claims": lambda x: normscope.claims(x),
    "claims out": lambda x: normscope.claims("x", out=x),
    "export": lambda x: normscope.export(x),
    "compare": lambda x: normscope.compare(x),
    "compare out": lambda x: normscope.compare(out=x),
    "study": lambda x: normscope.study(x),
    "study out": lambda x: normscope.study(out=x),
    "inspect": lambda x: normscope.inspect(x),
    "explain": lambda x: normscope.explain(x),
    "Recording.load": lambda x: normscope.Recording.load(x),
    "watch": lambda x: normscope.watch(x),
    "watch path": lambda x: normscope.watch(model(), path=x),
    "check": lambda x: normscope.check(x),
    "check optimizer": lambda x: normscope.check(model(), optimizer=x),
    "check_loader": lambda x: normscope.check_loader(x),
    "check_state_dict": lambda x: normscope.check_state_dict(x),
    "TensorBoard": lambda x: normscope.TensorBoard(x),
    "mend.freeze": lambda x: mend.freeze(x),
    "mend.fold": lambda x: mend.fold(x),
    "mend.convert": lambda x: mend.convert(x, "batch", "group"),
    "mend.recalibrate": lambda x: mend.recalibrate(x, [torch.ones(3, 3)]),
    "export to": lambda x: normscope.export(".", to=x),
    "assert_normalization_ok": lambda x: assert_normalization_ok(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_wrong_type(call):
    for value in ANY:
        with pytest.raises(InputError) as caught:
            call(value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [5, 3.5, object()])
def test_one_thing_where_several_are_taken(value):
    for call in (
        lambda: normscope.check(model(), select=value),
        lambda: normscope.check(model(), value),
        lambda: normscope.watch(model(), layers=value),
        lambda: normscope.watch(model(), sinks=value),
        lambda: normscope.study(sweep=value),
    ):
        with pytest.raises(InputError):
            call()


@pytest.mark.parametrize("name", ["a\0b", "n" * 5000, "n" * 256])
def test_a_path_that_can_be_none(name):
    paths = ("report", "claims", "export", "Recording.load", "watch path", "compare out", "study")
    for call in (*paths, "TensorBoard", "study out", "report out"):
        with pytest.raises(InputError) as caught:
            CALLS[call](name)
        assert len(str(caught.value)) < 400


TENSOR = torch.ones(3, 3)
OTHERS = {
    "check world_size": (lambda x: normscope.check(model(), world_size=x), ("2", 2.0, TENSOR)),
    "check export": (lambda x: normscope.check(model(), export=x), (1, "yes", TENSOR)),
    "check_loader devices": (lambda x: normscope.check_loader([[1]], devices=x), ("2", None)),
    "check_loader no devices": (lambda x: normscope.check_loader([[1]], devices=x), (0, -1)),
    "check_state_dict model": (
        lambda x: normscope.check_state_dict(model().state_dict(), x), (5, "x", {}, TENSOR)),
    "assert level": (lambda x: assert_normalization_ok(model(), level=x), ("x", None, TENSOR)),
    "select": (
        lambda x: normscope.check(model(), select=x),
        ([TENSOR], torch.tensor(1), count(), map(int, "x"), [""])),
    "layers": (lambda x: normscope.watch(model(), layers=x), (torch.tensor(1), count())),
    "sinks": (lambda x: normscope.watch(model(), sinks=x), (torch.tensor(1), count(), [TENSOR])),
    "watch check": (lambda x: normscope.watch(model(), check=x), ("x", 2, TENSOR)),
    "budget": (lambda x: normscope.watch(model(), budget=x), (10**5000, TENSOR, -1)),
    "every": (lambda x: normscope.watch(model(), every=x), (-(10**5000), TENSOR, 2.5)),
    "compare seeds": (lambda x: normscope.compare(seeds=x), ("\udcff", TENSOR, 1.5)),
    "compare out": (lambda x: normscope.compare(out=x), (TENSOR, torch.optim.SGD([TENSOR], 1))),
    "console": (lambda x: normscope.claims("x", console=x), (5, TENSOR)),
    "sweep": (lambda x: normscope.study(sweep=x), ({"depth": 1}, {"depth": count()}, TENSOR)),
    "convention": (lambda x: mend.convert_gains(model(), x), (5, None, [], TENSOR)),
    "decay": (lambda x: mend.weight_decay_groups(model(), x), ("1", float("nan"), TENSOR)),
    "recalibrate": (
        lambda x: mend.recalibrate(model(), [TENSOR], variance=x), ("x", None, TENSOR)),
    "unfreeze": (lambda x: mend.unfreeze(x), (5, None, TENSOR)),
    "statistic": (
        lambda x: normscope.Recording([]).query("1", x), (5, None, ["a"], TENSOR)),
    "first": (
        lambda x: normscope.Recording([]).query("1", "mean", first=x), ("1", TENSOR)),
}  # fmt: skip


@pytest.mark.parametrize("argument", OTHERS)
def test_other_arguments(argument):
    call, values = OTHERS[argument]
    for value in values:
        with pytest.raises(InputError) as caught:
            call(value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_numbers_of_numpy_are_numbers():
    report = normscope.check(model(), world_size=np.int64(2), export=np.bool_(False))
    assert not report.errors
    assert mend.weight_decay_groups(model(), np.float32(0.5))[0]["weight_decay"] == 0.5


def test_arguments_are_judged_where_pytorch_was_loaded_later(monkeypatch):
    with monkeypatch.context() as before:
        before.delitem(sys.modules, "torch")

        @judged
        def takes(model: "nn.Module"):
            return model

        with pytest.raises(InputError, match="must be of type Module, not int"):
            takes(5)
    given = model()
    assert takes(given) is given
