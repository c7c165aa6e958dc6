"""Replayed steps have the bits of steps from Python; on the CPU recorded operators are replayed."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from recorded_graph import Recorded, Tape
from tiny import PLAN, Keep, TinyBatches, tiny_network
from torch import nn

from normscope.data import sources
from normscope.data.device_batches import Batches
from normscope.errors import NormscopeError
from normscope.models import registry
from normscope.training import graphs
from normscope.training.callbacks import GradientNorms
from normscope.training.loop import Callback, train
from normscope.training.plan import ResumeState

WANTED = {"not_captured": None}


def trained(model, batches, plan=PLAN, resume=None, callbacks=(), **choice):
    """The outcome, and all that the epochs told."""
    keep, first = Keep(), next(model.parameters())
    norms = GradientNorms({"stem": first}, batches.train_batches)
    outcome = train(
        model, batches, plan, callbacks=[norms, *callbacks, keep], resume=resume, **choice
    )
    return outcome, keep


def assert_same(one, other):
    assert one.numbers() == other.numbers()
    assert one.states == other.states


def test_replayed_steps_have_the_bits_of_steps_from_python(monkeypatch):
    plain, expected = trained(tiny_network(), TinyBatches())
    recorded = Recorded(monkeypatch)
    outcome, found = trained(tiny_network(), TinyBatches(), **WANTED)
    assert_same(found, expected)
    assert (plain.not_captured, outcome.not_captured) == ("not asked for", None)
    # whole batches: 8 of training and 4 of the test, of which WARM_UP each come from Python
    assert (recorded.captures, recorded.replays) == (2, (8 - graphs.WARM_UP) + (4 - graphs.WARM_UP))


@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_the_same_with_augmentation_mixed_precision_and_the_real_network(monkeypatch, norm):
    data = sources.load("digits", classes=("3", "8"))
    data = dataclasses.replace(
        data, train_images=data.train_images[:90], train_labels=data.train_labels[:90]
    )
    plan = dataclasses.replace(PLAN, epochs=2, precision="bf16")

    def run(**choice):
        model = registry.build(
            "small-resnet", norm=norm, in_channels=1, num_classes=2, image_size=8, widths=(8, 8, 8)
        )
        batches = Batches(data, 20, torch.device("cpu"), crop_padding=1, horizontal_flip=True)
        return trained(model.to(memory_format=torch.channels_last), batches, plan, **choice)

    _, expected = run()
    recorded = Recorded(monkeypatch)
    outcome, found = run(**WANTED)
    assert_same(found, expected)
    assert outcome.not_captured is None
    assert recorded.replays > 5


@pytest.mark.parametrize("first_replayed", [True, False])
def test_a_run_goes_on_in_the_other_way_with_the_same_bits(monkeypatch, first_replayed):
    _, expected = trained(tiny_network(), TinyBatches())
    Recorded(monkeypatch)
    ways = [WANTED, {}] if first_replayed else [{}, WANTED]
    _, begun = trained(tiny_network(), TinyBatches(), **ways[0])
    state = ResumeState.from_bytes(begun.states[1])
    _, rest = trained(tiny_network(seed=99), TinyBatches(), resume=state, **ways[1])
    assert rest.states[-1] == expected.states[-1]
    assert rest.numbers() == expected.numbers()[2:]


def test_the_stand_in_shows_what_a_graph_would_get_wrong(monkeypatch):
    """A layer that counts in Python: the count of the captured step is frozen in it."""

    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            return x * self.calls

    def network():
        return nn.Sequential(tiny_network(), Counting())

    _, expected = trained(network(), TinyBatches())
    Recorded(monkeypatch)
    _, found = trained(network(), TinyBatches(), **WANTED)
    assert found.numbers()[0] == expected.numbers()[0]
    assert found.numbers()[-1] != expected.numbers()[-1]
    with Tape(), pytest.raises(RuntimeError, match="not permitted"):
        torch.ones(1).item()


def test_a_step_that_waits_for_the_device_is_not_captured(monkeypatch):
    class Looking(nn.Module):
        def forward(self, x):
            return x if x.isfinite().all().item() else x * 0

    def network():
        return nn.Sequential(tiny_network(), Looking())

    _, expected = trained(network(), TinyBatches())
    recorded = Recorded(monkeypatch)
    outcome, found = trained(network(), TinyBatches(), **WANTED)
    assert_same(found, expected)
    assert recorded.captures == 0
    assert outcome.not_captured == "something in a step waits for the device"


def test_a_callback_that_needs_python_keeps_steps_from_being_captured(monkeypatch):
    class Hooked(Callback):
        not_captured = "hooks"

    recorded = Recorded(monkeypatch)
    outcome, _ = trained(tiny_network(), TinyBatches(), callbacks=[Hooked()], **WANTED)
    assert (outcome.not_captured, recorded.captures) == ("hooks", 0)


def test_a_run_that_is_too_short_says_so(monkeypatch):
    recorded = Recorded(monkeypatch)
    outcome, _ = trained(
        tiny_network(), TinyBatches(), dataclasses.replace(PLAN, epochs=1), **WANTED
    )
    assert recorded.captures == 0
    assert "before a capture" in str(outcome.not_captured)


def test_batches_of_another_size_are_never_replayed():
    sizes = []
    repeated = graphs.GraphReplay(sizes.append, 4, None)
    for _ in range(10):
        repeated(3)
    assert sizes == [3] * 10
    assert not repeated.captured


class Graph:
    """In the place of torch.cuda.graph: ends in an error, or not."""

    def __init__(self, graph, stream):
        self.stream = stream

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


@pytest.fixture
def doubles(monkeypatch):
    class Captured:
        def replay(self):
            return "replayed"

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Captured)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "stream")
    monkeypatch.setattr(graphs, "_abandoned", [])


def test_a_capture_that_fails_is_one_line_and_keeps_the_graph_alive(doubles):
    def broken():
        raise RuntimeError("CUDA error: operation not permitted\nmore about it")

    with pytest.raises(
        NormscopeError, match=r"\(CUDA error: operation not permitted\); train with --graph off"
    ) as told:
        graphs.capture(broken)
    assert "\n" not in str(told.value)
    assert len(graphs._abandoned) == 1


def test_memory_that_is_short_is_not_called_the_fault_of_the_capture(doubles):
    def work():
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        graphs.capture(work)


def test_a_capture_gives_what_replays_it(doubles):
    done = []
    assert graphs.capture(lambda: done.append(1))() == "replayed"
    assert (done, graphs._abandoned) == ([1], [])


@pytest.mark.parametrize(
    ("message", "waits"),
    [
        ("called a synchronizing CUDA operation", True),
        ("This may lead to unnecessary synchronization and break CUDA graph capture.", True),
        ("something", False),
    ],
)
def test_a_rehearsal_listens_to_pytorch_and_passes_on_what_else_is_said(
    monkeypatch, message, waits
):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = graphs.waits_for_device(lambda: warnings.warn(message, stacklevel=1))
    assert found == waits
    assert [str(one.message) for one in told] == ([] if waits else ["something"])
    assert modes == ["warn", 0]


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_graph_and_eager_agree(norm, precision):
    data = sources.load("digits")
    plan = dataclasses.replace(PLAN, device="cuda", precision=precision)

    def run(**choice):
        model = registry.build(
            "small-resnet", norm=norm, in_channels=1, num_classes=10, image_size=8
        ).cuda()
        batches = Batches(data, 100, torch.device("cuda"), crop_padding=1, horizontal_flip=True)
        return trained(model.to(memory_format=torch.channels_last), batches, plan, **choice)

    _, expected = run()
    outcome, found = run(**WANTED)
    assert outcome.not_captured is None
    for one, other in zip(found.numbers(), expected.numbers(), strict=True):
        assert one == other
    ours, theirs = (ResumeState.from_bytes(keep.states[-1]) for keep in (found, expected))
    for name, value in theirs.model.items():
        assert torch.equal(ours.model[name], value), name
    for key, value in theirs.optimizer["state"].items():
        assert torch.equal(
            ours.optimizer["state"][key]["momentum_buffer"], value["momentum_buffer"]
        ), key


@cuda
def test_a_real_wait_is_heard_and_a_real_graph_computes():
    with graphs.own_stream("cuda"):
        total = torch.zeros(1, device="cuda")
        assert graphs.waits_for_device(lambda: total.item())
        assert not graphs.waits_for_device(lambda: total.add_(1))
        replay = graphs.capture(lambda: total.add_(1))
        for _ in range(3):
            replay()
    assert np.isclose(total.item(), 4)
