"""A watcher's sinks hold what the recording holds, and the training never notices them."""

import random
import sys
import warnings

import numpy as np
import pytest
import torch
from sink_readers import scalars, tensorboard, wandb_records, wandb_rows
from torch import nn

import normscope
from normscope.errors import InputError, NormscopeWarning
from normscope.judge import layer_measures as measures


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train(model, optimizer, steps, watcher=None, flush_at=()):
    for step in steps:
        images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        if step in flush_at:
            watcher.flush()


def watched(path, sinks, steps=range(1, 25), flush_at=(8, 16), **settings):
    model, optimizer = network()
    watcher = normscope.watch(
        model, optimizer=optimizer, path=path, sinks=sinks, every=2, **settings
    )
    train(model, optimizer, steps, watcher, flush_at)
    watcher.close(quiet=True)
    return model, normscope.Recording.load(path)


def test_both_hold_what_the_recording_holds(tmp_path):
    sinks = [normscope.TensorBoard(tmp_path / "tb"), normscope.WandB("p", "offline", tmp_path)]
    _, recording = watched(tmp_path / "r.sqlite", sinks)

    for tag, measure in (
        ("gap/1", measures.running_gap),
        ("input_std/1", measures.input_std),
        ("weight_size/1", measures.weight_size),
    ):
        steps, values = measure(recording, "1")
        assert len(steps) >= 12
        told = scalars(tmp_path / "tb", tag)
        assert [step for step, _ in told] == steps.tolist()
        assert np.allclose([value for _, value in told], values, rtol=1e-6)

    histograms = tensorboard(tmp_path / "tb").Histograms("output/1")
    counted = set(recording.query("1", "histogram")[0].tolist())
    assert len(histograms) == 3, "one at each flush"
    for event in histograms:
        assert event.step in counted
        values = event.histogram_value
        own = recording.distribution("1", "output", first=event.step, last=event.step)
        assert sum(values.bucket) == pytest.approx(own.counts.sum())
        assert values.bucket_limit[-1] == pytest.approx(own.edges.max())
        assert len(values.bucket) == len(values.bucket_limit)
        at = recording.query("1", "bias", first=event.step, last=event.step)[1][0]
        assert values.sum / values.num == pytest.approx(float(at.mean()), abs=0.05), (
            "batch norm's output has mean bias"
        )

    rows = wandb_rows(tmp_path)
    assert [(row["step"], row["gap/1"]) for row in rows if "gap/1" in row] == [
        (step, pytest.approx(value, rel=1e-6)) for step, value in scalars(tmp_path / "tb", "gap/1")
    ]
    drawn = [row for row in rows if row.get("output/1/_type") == "histogram"]
    assert [row["step"] for row in drawn] == [event.step for event in histograms]
    assert np.allclose(drawn[0]["output/1/values"], histograms[0].histogram_value.bucket)
    (run,) = [record.run for record in wandb_records(tmp_path) if record.HasField("run")]
    assert (run.project, run.display_name.startswith("r-")) == ("p", True)


def test_a_training_with_sinks_has_the_same_bits(tmp_path):
    model, optimizer = network()
    train(model, optimizer, range(1, 25))
    random.seed(1), np.random.seed(1), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    class Reseeded(normscope.TensorBoard):
        def flushed(self, recording):
            state = torch.get_rng_state()
            super().flushed(recording)
            assert torch.equal(state, torch.get_rng_state())

    sinks = [Reseeded(tmp_path / "tb"), normscope.WandB("p", "offline", tmp_path)]
    same, _ = watched(tmp_path / "r.sqlite", sinks)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True)
    )
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]


def test_a_resumed_training_writes_no_step_twice(tmp_path):
    def sinks():
        return [normscope.TensorBoard(tmp_path / "tb"), normscope.WandB("p", "offline", tmp_path)]

    model, optimizer = network()
    watcher = normscope.watch(
        model, optimizer=optimizer, path=tmp_path / "r.sqlite", sinks=sinks(), every=2
    )
    train(model, optimizer, range(1, 21), watcher, flush_at=(12,))
    watcher.close(quiet=True)  # the last checkpoint was that of step 12
    model, optimizer = network()
    train(model, optimizer, range(1, 13))
    watcher = normscope.watch(
        model, optimizer=optimizer, path=tmp_path / "r.sqlite", sinks=sinks(), every=2, after=12
    )
    train(model, optimizer, range(13, 31), watcher)
    watcher.close(quiet=True)
    steps = normscope.Recording.load(tmp_path / "r.sqlite").query("1", "batch_mean")[0].tolist()
    assert [step for step, _ in scalars(tmp_path / "tb", "gap/1")] == steps
    assert [row["step"] for row in wandb_rows(tmp_path) if "gap/1" in row] == steps
    assert (
        len({record.run.run_id for record in wandb_records(tmp_path) if record.HasField("run")})
        == 1
    )

    with pytest.raises(InputError, match="holds another training already"):
        watched(tmp_path / "new.sqlite", sinks())
    assert not (tmp_path / "new.sqlite").exists()


def test_a_sink_that_fails_later_warns_once(tmp_path, monkeypatch):
    sink = normscope.TensorBoard(tmp_path / "tb")
    opened = sink.open

    def open_and_fail(*arguments, **settings):
        log = opened(*arguments, **settings)
        written = log.write
        monkeypatch.setattr(
            log,
            "write",
            lambda step, *rest: (
                written(step, *rest) if step < 10 else (_ for _ in ()).throw(OSError(28))
            ),
        )
        return log

    monkeypatch.setattr(sink, "open", open_and_fail)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _, recording = watched(tmp_path / "r.sqlite", [sink], flush_at=(8, 12, 16, 20))
    assert [str(one.message) for one in told if issubclass(one.category, NormscopeWarning)] == [
        "Listener TensorBoard failed and was disabled; recording continues. OSError: 28"
    ]
    assert recording.complete
    assert recording.query("1", "batch_mean")[0][-1] >= 23
    assert scalars(tmp_path / "tb", "gap/1")[-1][0] == 9


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("tensorboard", lambda: normscope.TensorBoard("x")),
        ("wandb", lambda: normscope.WandB("x", "offline")),
    ],
)
def test_a_missing_package_is_one_line(package, make, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"pip install 'normscope\[{package}\]'"):
        make()


def test_wandb_online_without_a_key_is_refused_before_it_could_ask(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(
        InputError, match="W&B has no API key: run `wandb login`, or set WANDB_MODE=offline"
    ):
        normscope.WandB("p")
    monkeypatch.setattr("wandb.login", _nobody_answers)
    with pytest.raises(
        InputError, match="W&B did not let us in: nobody answers. WANDB_MODE=offline keeps"
    ):
        normscope.WandB("p")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert normscope.WandB("p").mode == "offline"


def _nobody_answers(*, prompt):
    import wandb

    raise wandb.errors.AuthenticationError("nobody answers.")


def test_a_sink_serves_one_watcher_at_a_time(tmp_path):
    sink = normscope.TensorBoard(tmp_path / "tb")
    model, _ = network()
    with (
        normscope.watch(model, sinks=[sink]),
        pytest.raises(InputError, match="takes one watcher at a time"),
    ):
        normscope.watch(network()[0], sinks=[sink])
    with pytest.raises(InputError, match="without normalization|no normalization"):
        normscope.watch(nn.Linear(2, 2), sinks=[sink])
    watched(tmp_path / "r.sqlite", [sink])  # the failed call has given it back
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        normscope.TensorBoard(tmp_path / "file")
    with pytest.raises(InputError, match="Unknown mode 'ofline'"):
        normscope.WandB("p", "ofline")
