"""`watch(check=True)` from end to end: each fault of a loop, once, with its step; or raised."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import normscope
from normscope.commands import loop_check
from normscope.errors import CheckError, NormscopeWarning
from normscope.judge.check_report import judge


def net(**norm) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, **norm),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, **norm),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def batch(seed=0, n=16, scale=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=generator) * scale, torch.randint(
        0, 3, (n,), generator=generator
    )


def learn(model, optimizer, number=0, scale=1.0, parts=1) -> None:
    optimizer.zero_grad()
    for part in range(parts):
        x, y = batch(number * parts + part, scale=scale)
        F.cross_entropy(model(x), y).backward()
    optimizer.step()


def watched(step, *, steps=12, model=None, with_optimizer=True, check=True, lr=0.05):
    """(the watcher after a loop of `step(model, optimizer, number)`, numbers from 1; what was
    warned of).
    """
    model = net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given = optimizer if with_optimizer else None
        watcher = normscope.watch(
            model, optimizer=given, every=1, gradients_every=1, histograms_every=4, check=check
        )
        for number in range(1, steps + 1):
            step(model, optimizer, number)
        watcher.close(quiet=True)
    return watcher, [str(entry.message) for entry in caught if str(entry.message).startswith("NS")]


def in_eval_no_grad(model) -> None:
    with torch.no_grad():
        model(batch(99)[0])


# -- faults


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_statistics_that_move_without_gradients(with_optimizer):
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        if number == 4:
            in_eval_no_grad(model)

    watcher, said = watched(step, with_optimizer=with_optimizer)
    assert len(said) == 1
    assert said[0].startswith("NS802 moved-without-gradients: ")
    assert "first_step 5" in said[0]
    assert "1, 4" in said[0]
    assert [(finding.code, finding.layer) for finding in watcher.findings] == [
        ("NS802", "1"),
        ("NS802", "4"),
    ]


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_training_in_eval_mode(with_optimizer):
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        if number == 5:
            model.eval()

    watcher, said = watched(step, with_optimizer=with_optimizer)
    assert {finding.code for finding in watcher.findings} == {"NS803"}
    assert len(said) == 1
    if with_optimizer:
        assert watcher.findings[0].evidence["first_step"] == 6


def test_several_updates_in_a_step():
    def step(model, optimizer, number):
        model(batch(number + 50)[0])  # an output that nothing is done with
        learn(model, optimizer, number)

    watcher, said = watched(step)
    assert {finding.code for finding in watcher.findings} == {"NS801"}
    assert len(said) == 1
    assert watcher.findings[0].evidence["updates_per_step"] == 2


def test_a_forward_that_is_repeated_in_backward():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    watcher, said = watched(learn, model=Checkpointed())
    assert {finding.code for finding in watcher.findings} == {"NS801"}
    assert "repeats the forward in backward" in said[0]


@pytest.mark.parametrize("before_the_first_step", [True, False])
def test_a_frozen_layer_that_drifts(before_the_first_step):
    model = net()
    model[1].eval()

    def step(model, optimizer, number):
        if number == (1 if before_the_first_step else 4):
            model.train()
        learn(model, optimizer, number)

    watcher, said = watched(step, model=model)
    drift = [finding for finding in watcher.findings if finding.code == "NS804"]
    assert [finding.layer for finding in drift] == ["1"]
    assert drift[0].evidence["step"] == (1 if before_the_first_step else 4)
    assert len(said) == 1


def test_the_first_value_that_is_not_finite():
    def step(model, optimizer, number):
        learn(model, optimizer, number, scale=float("inf") if number == 5 else 1.0)

    watcher, said = watched(step)
    found = [finding for finding in watcher.findings if finding.code == "NS805"]
    assert [finding.layer for finding in found] == ["1"]
    assert found[0].evidence["step"] == 5
    assert sum(text.startswith("NS805") for text in said) == 1


def test_statistics_that_lag():
    def step(model, optimizer, number):
        if number > 40:
            with torch.no_grad():
                model[0].bias += 0.3
        learn(model, optimizer, number)

    watcher, said = watched(step, steps=80, model=net(momentum=0.02))
    assert "NS808" in {finding.code for finding in watcher.findings}
    assert any("NS808" in text and "step 80" in text for text in said)


def test_a_fault_of_the_record_is_said_at_the_next_flush(monkeypatch):
    monkeypatch.setattr("normscope.watching.recorder.FLUSH_SECONDS", -1.0)
    monkeypatch.setattr("normscope.commands.loop_check.SHARE", float("inf"))
    seen = {}

    def step(model, optimizer, number):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learn(model, optimizer, number, scale=float("nan") if number == 3 else 1.0)
        seen[number] = [str(entry.message)[:5] for entry in caught]

    watched(step, steps=5)
    assert seen == {1: [], 2: [], 3: ["NS805"], 4: [], 5: []}


# -- raising


def test_raising_leaves_model_and_recording_whole(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    path = tmp_path / "r.sqlite"
    watcher = normscope.watch(model, optimizer=optimizer, path=path, every=1, check="raise")
    learn(model, optimizer, 1)
    learn(model, optimizer, 2)
    in_eval_no_grad(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckError, match="NS802"):
        learn(model, optimizer, 3)
    assert watcher.active
    assert watcher.step == 3
    assert not torch.equal(before["0.weight"], model[0].weight)  # the step itself was done
    learn(model, optimizer, 4)  # said once
    watcher.close(quiet=True)
    assert list(normscope.Recording.load(path).query("1", "batch_mean")[0]) == [1, 2, 3, 4]


def test_raising_without_an_optimizer():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    watcher = normscope.watch(model, check="raise")
    for number in range(2):
        learn(model, optimizer, number)
    in_eval_no_grad(model)
    with pytest.raises(CheckError, match="NS802"):
        learn(model, optimizer, 3)
    watcher.close(quiet=True)


def test_what_only_the_record_shows_is_raised_by_close(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    path = tmp_path / "r.sqlite"
    watcher = normscope.watch(model, optimizer=optimizer, path=path, every=1, check="raise")
    learn(model, optimizer, 1, scale=float("inf"))
    with pytest.raises(CheckError, match="NS805") as caught:
        watcher.close(quiet=True)
    assert "0 normalization layers" not in str(caught.value)  # it says how many were looked at
    assert not watcher.active
    watcher.close()
    recording = normscope.Recording.load(path)
    assert recording.complete
    assert recording.non_finite[0]["step"] == 1


def test_an_error_of_the_body_is_not_hidden():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def body():
        with normscope.watch(model, optimizer=optimizer, every=1, check="raise"):
            learn(model, optimizer, 1, scale=float("inf"))
            raise KeyError("the body's own")

    with (
        pytest.warns(NormscopeWarning, match="NS805"),
        pytest.raises(KeyError, match="the body's own"),
    ):
        body()


# -- normal loops


def test_a_plain_loop_with_validation_gets_nothing():
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        if number % 10 == 0:
            model.eval()
            in_eval_no_grad(model)
            model.train()

    for with_optimizer in (True, False):
        watcher, said = watched(step, steps=60, with_optimizer=with_optimizer)
        assert (watcher.findings, said) == ([], [])


def test_gradient_accumulation_is_an_info():
    for with_optimizer in (True, False):
        watcher, said = watched(
            lambda *now: learn(*now, parts=4), steps=20, with_optimizer=with_optimizer
        )
        assert said == []
        assert {(finding.code, finding.severity) for finding in watcher.findings} == {
            ("NS806", "info")
        }


def test_a_scaler_that_skips_steps_gets_nothing():
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**60
    )  # overflows at first, and is halved each time

    def step(model, optimizer, number):
        optimizer.zero_grad()
        x, y = batch(number)
        scaler.scale(F.cross_entropy(model(x), y) * 1e30).backward()
        scaler.step(optimizer)
        scaler.update()

    watcher, said = watched(step, steps=60, lr=1e-32)
    assert watcher.step < 60
    assert [finding for finding in watcher.findings if finding.severity != "info"] == []
    assert said == []


def test_statistics_frozen_on_purpose_get_nothing():
    def step(model, optimizer, number):
        model.train()
        if number > 20:  # in the last epochs
            model[1].eval()
            model[4].eval()
        learn(model, optimizer, number)

    watcher, said = watched(step, steps=40)
    assert (watcher.findings, said) == ([], [])


def test_a_layer_that_is_used_several_times_gets_nothing():
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.first(x.flatten(1))
            for _ in range(3):
                x = torch.relu(self.norm(x))
            return self.head(x)

    watcher, said = watched(learn, model=Unrolled(), steps=20)
    assert (watcher.findings, said) == ([], [])


def test_copies_and_pickles_of_a_judged_model_are_free_of_it():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with normscope.watch(model, optimizer=optimizer, check="raise"):
        learn(model, optimizer, 1)
        average = copy.deepcopy(model)
        torch.save(model, io.BytesIO())
        pickle.dumps(model)
        for number in range(2, 5):
            in_eval_no_grad(average)  # the copy's statistics move, not the model's
            learn(model, optimizer, number)


def test_a_judged_run_has_the_same_bits_and_lets_the_model_go():
    states = []
    for check in (None, False, True):
        model = copy.deepcopy(net())  # a copy, of which the tests' own fixture keeps nothing
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        if check is not None:
            watcher = normscope.watch(model, optimizer=optimizer, check=check)
        for number in range(4):
            learn(model, optimizer, number)
        states.append([value.clone() for value in model.state_dict().values()])
    for other in states[1:]:
        assert all(torch.equal(one, two) for one, two in zip(states[0], other, strict=True))
    del model, optimizer
    gc.collect()
    assert not watcher.active


def test_a_resumed_training_gets_nothing(tmp_path):
    path = tmp_path / "r.sqlite"
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    said = []
    for after in (None, 20):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with normscope.watch(
                model, optimizer=optimizer, path=path, after=after, check=True
            ) as watcher:
                for number in range(20):
                    learn(model, optimizer, number)
            said += [str(entry.message) for entry in caught]
        assert watcher.findings == []
    assert said == []
    assert watcher.step == 40


# -- what judging costs


def test_steps_that_cannot_be_afforded_are_judged_at_the_end(monkeypatch):
    monkeypatch.setattr(loop_check, "SHARE", 1e-9)  # the first judging pays for no other
    judged = []
    monkeypatch.setattr(
        loop_check, "judge", lambda exam, **chosen: judged.append(exam) or judge(exam, **chosen)
    )
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with warnings.catch_warnings(), loop_check.LoopCheck(model, optimizer) as loop:
        warnings.simplefilter("ignore")
        for number in range(1, 31):
            learn(model, optimizer, number)
            if number == 20:
                in_eval_no_grad(model)
        assert loop.findings == []
    assert [exam.history.steps for exam in judged] == [*range(2, 11), 30]
    assert [(finding.code, finding.layer) for finding in loop.findings] == [
        ("NS802", "1"),
        ("NS802", "4"),
    ]


class PassedBy(nn.Module):
    """An adapter that trains a copy of a layer, and calls the original."""

    def __init__(self, original):
        super().__init__()
        self.copy = copy.deepcopy(original)
        self.original = original.requires_grad_(False)
        self.calls_copy = False

    def forward(self, x):
        return (self.copy if self.calls_copy else self.original)(x)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("called", [False, True])
def test_a_trained_copy_that_the_forward_passes_by(optimizer, called):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), PassedBy(nn.LayerNorm(8)), nn.Linear(8, 2))
    model[1].calls_copy = called
    trained = optimizer([p for p in model.parameters() if p.requires_grad], 0.05, weight_decay=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watcher = normscope.watch(model, optimizer=trained, check=True)
        for _ in range(55):
            model(torch.randn(8, 8)).square().mean().backward()
            trained.step()
            trained.zero_grad()
        watcher.close()
    found = {f.layer: f.message for f in watcher.findings if f.code == "NS809"}
    assert list(found) == ([] if called else ["1.copy"])
    assert all("no gradient ever reached it" in message for message in found.values())


@pytest.mark.parametrize(("frozen", "code"), [("all", "NS804"), ("gains", None), ("eval", None)])
def test_statistics_of_a_frozen_part_move(frozen, code):
    model = net()
    for module in list(model)[:-1]:
        if frozen != "gains" or isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
        if frozen == "eval" and isinstance(module, nn.BatchNorm2d):
            module.eval()
    watcher, _ = watched(learn, model=model)
    found = [f for f in watcher.findings if f.code == "NS804"]
    assert [f.layer for f in found] == (["1", "4"] if code else [])
    assert all(f.severity == "warning" for f in found)
