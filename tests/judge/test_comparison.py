import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.judge.comparison import epochs_to_reach, gradient_variation, summarize
from normscope.records.run import RunRecord

NAN = float("nan")


def run(norm, seed, accuracy, *, rate=0.1, status="finished", gradient=None, **meta):
    accuracy = np.array(accuracy, dtype=float)
    epochs = {
        "epoch": np.arange(1.0, len(accuracy) + 1),
        "test_accuracy": accuracy,
        "train_loss": 1 - accuracy,
        "seconds": np.full(len(accuracy), 2.0),
        "stem_gradient": np.array(gradient or [1.0] * len(accuracy)),
    }
    spec = {
        "norm": norm,
        "learning_rate": rate,
        "seed": seed,
        "epochs": 4,
        "data": "digits",
        "model": "small-resnet",
    }
    return RunRecord(Path(f"{norm}-{rate}-{seed}"), spec, status, epochs, {}, meta)


@pytest.mark.parametrize(
    ("accuracy", "threshold", "expected"),
    [
        ([0.2, 0.4, 0.6, 0.8], 0.5, 2.5),
        ([0.2, 0.4, 0.6, 0.8], 0.6, 3.0),
        ([0.9, 0.1, 0.9], 0.5, 1.0),  # there after the first epoch; what was before is not known
        ([0.2, 0.4], 0.5, None),
        ([], 0.5, None),
        ([0.2, 0.9], None, None),
        ([NAN, 0.9], 0.5, 2.0),
    ],
)
def test_epochs_to_reach(accuracy, threshold, expected):
    assert epochs_to_reach(np.array(accuracy), threshold) == (
        None if expected is None else pytest.approx(expected)
    )


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_the_epochs_to_reach_lie_in_the_epoch_that_first_does(accuracy, threshold):
    epochs = epochs_to_reach(np.array(accuracy), threshold)
    reached = [index for index, value in enumerate(accuracy) if value >= threshold]
    if not reached:
        assert epochs is None
    else:
        assert epochs is not None
        assert max(1, reached[0]) <= epochs <= reached[0] + 1


def test_groups_leave_diverged_runs_out_and_count_them():
    runs = [
        run("batch", 0, [0.5, 0.8, 0.9, 1.0]),
        run("batch", 1, [0.5, 0.6, 0.7, 0.8]),
        run("none", 0, [0.1, 0.2, 0.3, 0.9], gradient=[1.0, 2.0, 3.0, 4.0]),
        run("none", 1, [0.1, NAN], status="diverged", diverged_step=7),
    ]
    summary = summarize(runs, ("batch", "none"), (0.1,))
    assert summary.threshold == {0.1: pytest.approx(0.95 * 0.9)}
    batch, none = summary.groups
    assert (batch.n, batch.diverged, none.n, none.diverged) == (2, 0, 1, 1)
    assert batch.test_accuracy_mean == pytest.approx(0.9)
    assert batch.test_accuracy_std == pytest.approx(np.std([1.0, 0.8], ddof=1))
    assert none.test_accuracy_mean == pytest.approx(0.9)
    assert none.test_accuracy_std is None
    # one of batch's runs never gets to 0.855: its time is censored, and the mean with it
    assert (batch.epochs_to_threshold, batch.reached_threshold) == (None, 1)
    assert none.epochs_to_threshold == pytest.approx(3 + (0.855 - 0.3) / 0.6)
    assert none.gradient_norm_variation == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2.5)
    diverged = summary.runs[3]
    assert (diverged.status, diverged.test_accuracy, diverged.diverged_step) == (
        "diverged",
        None,
        7,
    )


def test_thresholds_are_those_of_the_first_norm_at_each_rate():
    runs = [
        run("none", 0, [0.4], rate=0.1),
        run("batch", 0, [1.0], rate=0.1),
        run("none", 0, [0.2], rate=1.0),  # of ten classes: next to guessing, so no threshold
    ]
    summary = summarize(runs, ("none", "batch"), (0.1, 1.0))
    assert summary.threshold == {0.1: pytest.approx(0.38), 1.0: None}
    assert [(group.norm, group.learning_rate, group.n) for group in summary.groups] == [
        ("none", 0.1, 1), ("batch", 0.1, 1), ("none", 1.0, 1), ("batch", 1.0, 0),
    ]  # fmt: skip


def test_a_study_without_a_finished_run_has_nulls_and_no_nan():
    runs = [
        run("batch", 0, [], status="interrupted"),
        run("none", 0, [NAN], status="diverged", diverged_step=1),
    ]
    text = json.dumps(summarize(runs, ("batch", "none"), (0.1,)).to_json(), allow_nan=False)
    summary = json.loads(text)
    assert summary["threshold"] == {"0.1": None}
    assert [entry["status"] for entry in summary["runs"]] == ["interrupted", "diverged"]
    assert summary["groups"][0]["test_accuracy_mean"] is None


def test_the_variation_of_a_gradient_needs_two_finite_epochs():
    assert gradient_variation(run("batch", 0, [0.5])) is None
    assert gradient_variation(run("batch", 0, [0.5, 0.6], gradient=[1.0, NAN])) is None
    assert gradient_variation(run("batch", 0, [0.5, 0.6], gradient=[0.0, 0.0])) is None
    assert gradient_variation(run("batch", 0, [0.5, 0.6], gradient=[1.0, 3.0])) == pytest.approx(
        np.sqrt(2) / 2
    )
