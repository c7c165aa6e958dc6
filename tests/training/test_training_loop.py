import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import PLAN, Keep, TinyBatches, tiny_network
from torch import nn
from torch.nn import functional as F

from normscope.errors import InputError, RecordError
from normscope.training.callbacks import GradientNorms
from normscope.training.loop import Callback, train
from normscope.training.optimizers import learning_rate
from normscope.training.plan import ResumeState
from normscope.training.precision import DEVICES, has_bf16, resolve_device, resolve_precision


def plain_training(model, batches, plan):
    """The notebook's loop in its plainest form: the reference for every number of an epoch."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.learning_rate, momentum=0.9, weight_decay=1e-4
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=plan.epochs)
    rows = []
    for epoch in range(1, plan.epochs + 1):
        model.train()
        losses, right, norms, last = [], 0, [], []
        for images, labels in batches.train(plan.seed, epoch):
            optimizer.zero_grad()
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            norms.append(model[0].weight.grad.double().norm().item())
            last.append(model[4].weight.grad.double().norm().item())
            optimizer.step()
            losses += [loss.item()] * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(images) for images, _ in batches.test()])
        labels = torch.cat([labels for _, labels in batches.test()])
        rows.append(
            {
                "train_loss": np.mean(losses),
                "train_accuracy": right / 10,
                "test_loss": F.cross_entropy(logits, labels).item(),
                "test_accuracy": (logits.argmax(1) == labels).double().mean().item(),
                "learning_rate": scheduler.get_last_lr()[0],
                "stem_gradient": norms[-1],
                "stem_gradient_mean": np.mean(norms),
                "stem_gradient_std": np.std(norms),
                "stem_gradient_min": np.min(norms),
                "stem_gradient_max": np.max(norms),
                "last_layer_gradient_mean": np.mean(last),
            }
        )
        scheduler.step()
    return rows


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self):
        self.found = []

    def on_start(self, model, optimizer):
        self._optimizer = optimizer

    def on_step(self, epoch, index):
        self.found.append(self._optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1] * 4 + [0.01] * 2 + [0.001] * 2),
        ({"warmup": 2}, [0.05] + [0.1] * 3 + [0.01] * 2 + [0.001] * 2),
        ({"schedule": "constant"}, [0.1] * 8),
    ],
)
def test_steps_fall_inside_epochs_and_the_last_epoch_ends_with_them(settings, expected):
    """Eight steps in epochs of three."""
    plan = replace(PLAN, **{"schedule": "steps", "iterations": 8, "epochs": 3} | settings)
    model, rates, keep = tiny_network(), Rates(), Keep()
    weight, each = model[0].weight, []

    class Norms(Callback):
        def on_backward(self, index):
            each.append(float(weight.grad.norm()))

    norms = GradientNorms({"stem": weight}, TinyBatches.train_batches)
    callbacks = [rates, norms, Norms(), keep]
    assert train(model, TinyBatches(), plan, callbacks=callbacks).status == "finished"
    assert rates.found == pytest.approx(expected, rel=1e-12)
    assert [epoch.step for epoch in keep.epochs] == [3, 6, 8]
    assert keep.epochs[-1].scalars["stem_gradient_mean"] == pytest.approx(np.mean(each[6:]))
    assert keep.epochs[-1].scalars["first_non_finite_step"] is None

    resumed, again = tiny_network(), Keep()
    state = ResumeState.from_bytes(keep.states[1])
    train(resumed, TinyBatches(), plan, callbacks=[again], resume=state)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_every_scalar_equals_the_plain_loop():
    model, reference, keep = tiny_network(), tiny_network(), Keep()
    norms = GradientNorms(
        {"stem": model[0].weight, "last_layer": model[4].weight}, TinyBatches.train_batches
    )
    assert train(model, TinyBatches(), PLAN, callbacks=[norms, keep]).status == "finished"
    expected = plain_training(reference, TinyBatches(), PLAN)
    assert len(keep.epochs) == len(expected) == 4
    for epoch, row in zip(keep.epochs, expected, strict=True):
        for name, value in row.items():
            assert epoch.scalars[name] == pytest.approx(value, rel=2e-5, abs=1e-7), (
                epoch.number,
                name,
            )
    assert [epoch.step for epoch in keep.epochs] == [3, 6, 9, 12]
    assert all(epoch.scalars["first_non_finite_step"] is None for epoch in keep.epochs)
    assert all(epoch.scalars["images_per_second"] > 0 for epoch in keep.epochs)
    for ours, theirs in zip(
        model.state_dict().values(), reference.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_going_on_gives_the_same_bits(epochs_before):
    whole, keep = tiny_network(), Keep()
    train(whole, TinyBatches(), PLAN, callbacks=[keep])
    state = ResumeState.from_bytes(keep.states[epochs_before - 1])
    resumed, rest = tiny_network(seed=99), Keep()
    train(resumed, TinyBatches(), PLAN, callbacks=[rest], resume=state)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert rest.states[-1] == keep.states[-1]
    assert [epoch.number for epoch in rest.epochs] == list(range(epochs_before + 1, 5))


def test_the_network_is_in_eval_mode_when_an_epoch_is_told_and_the_caller_sees_all_epochs():
    modes = []

    class Mode(Callback):
        def on_epoch(self, epoch):
            modes.append(model.training)

    model = tiny_network()
    train(model, TinyBatches(), PLAN, callbacks=[Mode()])
    assert modes == [False] * 4


@pytest.mark.parametrize(("poison", "step"), [(0, 5), (1, 6)])
def test_a_loss_that_is_not_finite_is_a_result_with_its_step(poison, step):
    """Weights become NaN after step `4 + poison` of training; the next loss shows it."""
    model, keep = tiny_network(), Keep()

    class Poison(Callback):
        def on_step(self, epoch, index):
            if (epoch, index) == (2, poison):
                with torch.no_grad():
                    model[4].bias.fill_(math.inf)

    outcome = train(model, TinyBatches(), PLAN, callbacks=[Poison(), keep])
    assert (outcome.status, outcome.diverged_step) == ("diverged", step)
    assert len(keep.epochs) == 2
    assert keep.epochs[-1].scalars["train_loss"] is None
    assert keep.epochs[-1].scalars["first_non_finite_step"] == step


def test_a_test_loss_that_is_not_finite_counts_as_the_last_step():
    model = tiny_network()

    class Poison(Callback):
        def on_step(self, epoch, index):
            if (epoch, index) == (1, 2):
                with torch.no_grad():
                    model[4].bias.fill_(math.nan)

    outcome = train(model, TinyBatches(), PLAN, callbacks=[Poison()])
    assert (outcome.status, outcome.diverged_step) == ("diverged", 3)


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_cosine_is_torchs(epochs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(1, epochs + 1):
        assert learning_rate("cosine", 0.3, epoch, epochs) == pytest.approx(
            scheduler.get_last_lr()[0], rel=1e-9
        )
        assert learning_rate("constant", 0.3, epoch, epochs) == 0.3
        optimizer.step()
        scheduler.step()


def test_names_of_devices_and_precisions():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in DEVICES
    with pytest.raises(InputError, match="Unknown device 'gpu'.*Known: auto, cpu, cuda, mps"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(
            InputError, match=r"'cuda' is not available to this PyTorch .* Here: .*cpu"
        ):
            resolve_device("cuda")
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("auto", "cpu") == ("bf16" if has_bf16("cpu") else "fp32")
    assert resolve_precision("auto", "mps") == "fp32"
    with pytest.raises(InputError, match="Unknown precision 'fp16'"):
        resolve_precision("fp16", "cpu")
    with pytest.raises(InputError, match="not offered on mps"):
        resolve_precision("bf16", "mps")


@pytest.mark.parametrize(
    ("native", "used", "expected"),
    [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")],
)
def test_auto_is_bf16_where_it_is_native_and_onednn_may_use_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, used: bool, expected: str
):
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: native)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: used)
    assert resolve_precision("auto", "cpu") == expected


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_resume_state_is_never_executed(capsys):
    import io
    import pickle

    hostile = io.BytesIO()
    torch.save({"epoch": Trap()}, hostile)
    for data in (
        hostile.getvalue(),
        pickle.dumps(Trap()),
        b"",
        b"nonsense",
        ResumeState(1, 2, {}, {}).to_bytes()[:99],
    ):
        with pytest.raises(RecordError, match="resume state cannot be read") as caught:
            ResumeState.from_bytes(data)
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
