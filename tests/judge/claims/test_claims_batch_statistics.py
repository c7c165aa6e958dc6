"""Claims on batch statistics: measured numbers against a slow reference, and verdicts."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from claim_runs import jitter, run
from torch import nn
from torch.nn import functional as F

from normscope.data import sources
from normscope.judge.claims import claims
from normscope.judge.evidence.cells import Evidence
from normscope.mend import recalibrate
from normscope.records.run import load_run
from normscope.studies.directory import StudyDirectory
from normscope.studies.grid import lay_out
from normscope.studies.measurements import batch_statistics_measurement as batch_statistics_room
from normscope.studies.measurements import evaluation_measurement as evaluation_room
from normscope.studies.measurements.batch_statistics_measurement import (
    batch_moments,
    batch_statistics,
)
from normscope.studies.measurements.evaluation_measurement import evaluation
from normscope.studies.measurements.run_context import RunContext
from normscope.studies.runner import RunTask, execute
from normscope.studies.spec import RunSpec
from normscope.studies.study_measurements import measure
from normscope.studies.study_plans import GridPlan
from planting import plant

SETTINGS = {
    "data": "digits", "classes": ("3", "8"), "widths": (4, 8), "blocks_per_stage": 1, "epochs": 2,
    "seeds": 1,
    "learning_rates": (0.1,), "device": "cpu", "precision": "fp32", "fusion": "off",
}  # fmt: skip


ROUNDING = 2e-5
"""What float32 may change of a mean, or of the logarithm of a standard deviation, in standard
deviations of the channel,
in whatever order a processor adds: a sum of 36 products is off by at most
36 x 2^-24 of the sum of their sizes (Higham 2002, section 3.1), which is 2 to 5 standard deviations
in these layers,
and their inputs are off by about half as much. The spreads are 250 times larger."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of tiny networks, measured: its folder, its runs, and what was measured."""
    study = StudyDirectory.create(tmp_path_factory.mktemp("measured"))
    grid = lay_out(GridPlan(SETTINGS).options({}), {"batch_size": (8, 32)})
    for spec in grid.specs:
        assert (
            execute(RunTask(spec, study.run(spec).path), lambda progress: None).status == "finished"
        )
    made = measure(study, grid.specs, grid.dataset).made
    return study.path, [load_run(study.run(spec).path) for spec in grid.specs], made


def context(trained, norm, batch_size=32):
    """One of the runs under measurement, with its record."""
    (own,) = (one for one in trained[1] if (one.norm, one.spec["batch_size"]) == (norm, batch_size))
    spec = RunSpec.from_json((own.directory / "spec.json").read_text())
    dataset = sources.load("digits", classes=("3", "8"))
    return RunContext(spec, dataset, StudyDirectory.find(trained[0]).run(spec)), own


def test_moments_of_batches_are_those_of_a_slow_computation_and_leave_no_trace():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), layer, nn.ReLU(inplace=True)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [torch.randn(5, 2, 6, 6) + shift for shift in (0.0, 1.0, -2.0)]
    (given, made) = batch_moments(model, batches, {"bn": layer}, training=True)["bn"]
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        inputs = [model[0](batch).double().transpose(0, 1).flatten(1).numpy() for batch in batches]
    means = np.array([values.mean(1) for values in inputs])
    pooled = np.concatenate(inputs, axis=1)
    np.testing.assert_allclose(given.mean, means, rtol=1e-6)
    np.testing.assert_allclose(given.pooled()[0], pooled.mean(1), rtol=1e-6)
    np.testing.assert_allclose(given.pooled()[1], pooled.var(1), rtol=1e-6)
    np.testing.assert_allclose(given.spread(), means.std(0, ddof=1) / pooled.std(1), rtol=1e-6)
    np.testing.assert_allclose(
        made.mean, np.zeros((3, 3)), atol=1e-6, err_msg="the bias, before the in-place ReLU"
    )
    np.testing.assert_allclose(made.var, np.ones((3, 3)), rtol=1e-3)


def test_a_constant_channel_has_no_spread():
    identity = nn.Identity()
    images = torch.randn(4, 2, 3, 3)
    images[:, 0] = 1.0
    (given, made) = batch_moments(
        nn.Sequential(identity), [images, images**3], {"0": identity}, training=True
    )["0"]
    assert np.isnan(given.spread()[0])
    assert np.isfinite(given.spread()[1])
    assert np.array_equal(given.mean, made.mean), "an identity gives what it gets"


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_batch_statistics_are_those_of_a_slow_computation(trained, norm, monkeypatch):
    """The first two places, by hand: the stem's normalization reads a convolution of the images."""
    monkeypatch.setattr(batch_statistics_room, "BATCHES", 5)
    given, _ = context(trained, norm)
    found = batch_statistics(given)
    model = given.trained()
    epochs = (given.batches(augmented=True).train(0, epoch) for epoch in (1, 2, 3))
    whole = [images for epoch in epochs for images, _ in epoch if len(images) == 32][:5]
    model.double()
    with torch.no_grad():
        inputs = [[x := model.stem[0](images.double())] for images in whole]
        for own_inputs in inputs:
            x = own_inputs[0]
            if norm == "batch":
                bn = model.stem[1]
                x = F.batch_norm(x, None, None, bn.weight, bn.bias, training=True, eps=bn.eps)
            own_inputs.append(model.layer1[0].conv1(F.relu(x)))
    for place, tensors in enumerate(zip(*inputs, strict=True)):
        values = [tensor.transpose(0, 1).flatten(1).numpy() for tensor in tensors]
        every = np.concatenate(values, axis=1)
        means = np.array([part.mean(1) for part in values])
        expected = {"before": means.std(0, ddof=1) / every.std(1)}
        logs = np.abs(np.log(np.array([part.std(1) for part in values]) / every.std(1)))
        expected["batch_sd"] = np.median(logs, axis=0)
        from_all = np.abs(means - every.mean(1)) / every.std(1)
        expected["batch_mean"] = np.median(from_all, axis=0)
        if norm == "batch":
            layer = (model.stem[1], model.layer1[0].bn1)[place]
            distance = np.abs(layer.running_mean.numpy() - every.mean(1)) / every.std(1)
            ratio = np.abs(0.5 * np.log(layer.running_var.numpy() / every.var(1)))
            expected |= {"running_mean": distance, "running_sd": ratio}
        here = found["place"] == place
        for name, reference in expected.items():
            np.testing.assert_allclose(
                found[name][here], reference, rtol=0, atol=ROUNDING, err_msg=name
            )
            assert reference.max() > 100 * ROUNDING, "a difference would be seen"
    assert len(np.unique(found["place"])) == 6
    assert ("running_mean" in found) == (norm == "batch")


def test_what_is_true_by_construction_is_so(trained):
    """In train mode nothing of the variation is left after a layer; in eval mode all of it."""
    batch, none = (batch_statistics(context(trained, norm)[0]) for norm in ("batch", "none"))
    assert np.nanmax(batch["after"]) < 1e-5 < np.nanmin(batch["before"])
    np.testing.assert_allclose(batch["after_in_eval"], batch["before_in_eval"], rtol=1e-3)
    for where in ("before", "after", "before_in_eval", "after_in_eval"):
        np.testing.assert_array_equal(
            none[where], none["before"], err_msg="without normalization all are one tensor"
        )


def test_evaluation_is_that_of_a_slow_loop(trained, monkeypatch):
    monkeypatch.setattr(evaluation_room, "BATCHES", 3)
    given, own = context(trained, "batch", 8)
    found = evaluation(given)
    assert found["size"].tolist() == sorted([1, 2, 8, 128, len(given.dataset.test_labels)])
    images, labels = (torch.cat(parts) for parts in zip(*given.batches(64).test(), strict=True))

    def accuracy(model, order, size):
        guesses = [model(images[part]).argmax(1) for part in order.split(size)]
        return float((torch.cat(guesses) == labels[order]).double().mean())

    order = torch.from_numpy(np.random.default_rng([0, 1]).permutation(len(labels)))
    with torch.no_grad():
        assert (
            accuracy(given.trained(), order, 50) == found["running"] == own.final("test_accuracy")
        )
        for size, measured in zip(found["size"].tolist(), found["batch"], strict=True):
            assert accuracy(given.trained().train(), order, size) == pytest.approx(
                measured, abs=2.01 / len(labels)
            )
        epochs = (given.batches(128, augmented=True).train(0, epoch) for epoch in (1, 2, 3))
        batches = [batch for epoch in epochs for batch in epoch if len(batch[1]) == 128][:3]
        again = accuracy(recalibrate(given.trained(), batches), order, 50)
    assert again == pytest.approx(found["recalibrated"][0], abs=2.01 / len(labels))


def test_a_study_is_measured_each_run_for_what_its_norm_has(trained):
    _, runs, made = trained
    of_batch_norm = {"evaluation", "corruption"}
    every = {"batch-statistics", "initialization", "weights"}
    assert made == dict.fromkeys(every, 4) | dict.fromkeys(of_batch_norm, 2)
    assert all(
        set(own.measured) == every | (of_batch_norm if own.norm == "batch" else set())
        for own in runs
    )


def test_a_run_whose_weights_are_gone_is_left_without_and_the_claim_names_it(trained, tmp_path):
    given, own = context(trained, "batch")
    place = tmp_path / "runs" / own.directory.name
    shutil.copytree(own.directory, place)
    (tmp_path / "normscope.json").write_text('{"format": "normscope study", "version": 1}')
    forget(place / "record.sqlite")
    (place / "weights.pt").unlink()
    found = measure(StudyDirectory.find(tmp_path), [given.spec], given.dataset)
    assert set(found.made) == {"initialization"}, "what needs no weights"
    assert "weights.pt cannot be read" in found.left_out[place.name]
    verdict = judged("C901", [load_run(place)])
    assert verdict.outcome == "cannot tell"
    assert f"batch-statistics of 1 run ({place.name}), whose weights.pt is gone" in verdict.needs
    shutil.copy(own.directory / "weights.pt", place)
    needs = judged("C901", [load_run(place)]).needs
    assert '`normscope study` of a file with measure = ["batch-statistics"] makes it' in needs
    assert measure(StudyDirectory.find(tmp_path), [given.spec], given.dataset).made == {
        "batch-statistics": 1, "evaluation": 1, "weights": 1, "corruption": 1,
    }  # fmt: skip


def forget(record):
    """Take the measurements out of a record."""
    plant(record, "DELETE FROM arrays WHERE layer LIKE 'measured:%'")


def judged(code, runs):
    return next(claim for claim in claims() if claim.code == code).judge(Evidence(runs))


def with_statistics(norm, seed, before, running=None):
    """A run with one channel at the first place, which C801 leaves out, and five at the second."""
    noise = np.exp(0.05 * np.random.default_rng([seed, len(norm)]).standard_normal(6))
    place = np.array([0, 1, 1, 1, 1, 1])
    arrays = {
        "place": place,
        "before": np.where(place == 0, 9.0, before) * noise,
        "after": 0 * noise,
    }
    arrays |= {
        "before_in_eval": arrays["before"],
        "batch_sd": arrays["before"],
        "batch_mean": arrays["before"],
    }
    if running is not None:
        arrays |= {
            "running_mean": np.full(6, running) * noise,
            "running_sd": np.full(6, running) * noise,
        }
    return dataclasses.replace(run(norm, seed), measured={"batch-statistics": arrays})


def with_evaluation(seed, running, recalibrated, batch, **spec):
    values = {"running": running, "recalibrated": recalibrated}
    arrays = {
        name: np.array([value + jitter(seed + k, 0.0005)])
        for k, (name, value) in enumerate(values.items())
    }
    arrays |= {
        "size": np.array([1, 2, 8, 128, 1000]),
        "batch": np.array([np.nan, 0.3, batch, 0.9, 0.9]) + jitter(seed + 5, 0.0005) * np.arange(5),
    }
    return dataclasses.replace(
        run("batch", seed, final=running, **spec), measured={"evaluation": arrays}
    )


def statistics(batch, none, running, seeds=4):
    return [one for seed in range(seeds) for one in (
        with_statistics("batch", seed, batch, running),
        with_statistics("none", seed, none))]  # fmt: skip


def sizes(running, recalibrated):
    """Accuracies at batch size 2; at 128 all are 0.9."""
    found = {2: (running, recalibrated), 128: (0.9, 0.9)}
    return [
        with_evaluation(s, *pair, 0.5, batch_size=size)
        for s in range(4)
        for size, pair in found.items()
    ]


PLANTED = {  # code: (runs for which it holds, runs for which it does not, effect of the first)
    "C801": (statistics(0.02, 0.06, 0.005), statistics(0.06, 0.02, 0.005), 1 / 3),
    "C901": (statistics(0.02, 0.02, 0.002), statistics(0.02, 0.02, 0.2), 0.002 / 0.02),
    "C902": (
        [with_evaluation(seed, 0.95, 0.95, 0.75) for seed in range(4)],
        [with_evaluation(seed, 0.95, 0.95, 0.95) for seed in range(4)],
        15.0,
    ),
    "C903": (
        [with_evaluation(seed, 0.95, 0.95, 0.8) for seed in range(4)],
        [with_evaluation(seed, 0.85, 0.85, 0.8) for seed in range(4)],
        5.0,
    ),
    "C1303": (sizes(0.6, 0.85), sizes(0.85, 0.6), 25.0),
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_measurement_is_found_and_so_is_its_opposite(code):
    good, bad, effect = PLANTED[code]
    holds, fails = judged(code, good), judged(code, bad)
    assert (holds.outcome, fails.outcome, holds.n) == ("supported", "contradicted", 4), (
        holds,
        fails,
    )
    assert holds.effect == pytest.approx(effect, rel=0.1)
    assert holds.interval[0] < holds.effect < holds.interval[1]
    assert (holds.improvement, fails.improvement) == (1.0, 0.0)


@pytest.mark.parametrize("code", PLANTED)
def test_equal_readings_are_no_difference(code):
    runs = {
        "C801": statistics(0.02, 0.0201, 0.02, seeds=9), "C901": statistics(0.02, 0.02, 0.0202),
        "C902": [with_evaluation(seed, 0.9, 0.9, 0.9) for seed in range(4)],
        "C903": [with_evaluation(seed, 0.9, 0.9, 0.9) for seed in range(12)],
        "C1303": sizes(0.9, 0.9),
    }[code]  # fmt: skip
    assert judged(code, runs).outcome == "no difference"


def test_what_images_without_augmentation_lose_is_not_the_small_batch_s():
    """Two points are lost in one batch of all images, where nothing is noisy: they are no part of
    the verdict, and stand beside it.
    """
    found = judged("C902", [with_evaluation(seed, 0.92, 0.92, 0.86) for seed in range(4)])
    assert found.effect == pytest.approx(4, abs=0.3)
    beside = {reading.label: reading.effect for reading in found.also}
    assert beside["eval mode against batches of 8"] == pytest.approx(6, abs=0.3)
    assert beside["eval mode against the largest"] == pytest.approx(2, abs=0.3)
    assert found.notes == ("The large batches have 1000 images.",)


def test_only_runs_of_settings_that_were_measured_are_called_for():
    measured = [with_statistics("batch", seed, 0.02, 0.02) for seed in range(2)]
    forgotten = dataclasses.replace(run("batch", 2), measured={})
    elsewhere = [
        dataclasses.replace(run("batch", seed, learning_rate=1.0), measured={}) for seed in range(3)
    ]
    needs = judged("C901", [*measured, forgotten, *elsewhere]).needs
    assert needs.startswith(
        "the measurement batch-statistics of 1 run (batch-2), whose weights.pt is gone"
    )
    assert needs.endswith("1 more seed of both arms: n = 2 is too few for a test")
    assert "of 3 runs (batch-0-1.0 and 2 more)" in judged("C901", elsewhere).needs


def test_what_stands_beside_the_deciding_quantity():
    also = {reading.label: reading for reading in judged("C902", PLANTED["C902"][0]).also}
    assert also["batches of 1"].effect is None, "refused there: one value in a channel"
    assert also["batches of 2"].effect == pytest.approx(60, abs=1)
    assert also["eval mode against the largest"].effect == pytest.approx(5, abs=1)


def test_of_a_network_that_did_not_learn_nothing_is_said():
    found = judged("C902", [with_evaluation(seed, 0.12, 0.12, 0.1) for seed in range(4)])
    assert (found.outcome, found.effect) == ("cannot tell", None)
    assert "a setting at which batch learns" in found.needs
