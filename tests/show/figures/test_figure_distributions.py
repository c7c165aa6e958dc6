from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from figure_checks import assert_within_page, by_gid, texts
from figure_runs import describe

from normscope.show.figures import activation_distributions as distributions


def drawn(runs, tmp_path):
    figure = distributions.draw(runs, tmp_path / "activation_distributions.png")
    assert_within_page(figure)
    return figure


def grid(run, norms=("batch", "none"), rates=(0.1,), seeds=3, **how):
    return [
        run(norm, rate, seed, **how) for seed in range(seeds) for rate in rates for norm in norms
    ]


def test_rows_are_tensors_and_norms_and_columns_are_epochs(run, tmp_path):
    runs = grid(run)
    figure = drawn(runs, tmp_path)
    panels = iter(figure.axes)
    for tensor in ("block_output", "before_activation", "normalized"):
        for norm in ("batch", "none"):
            for epoch in (1, 3, 5):
                axis = next(panels)
                assert axis.get_title(loc="left").startswith(f"{norm}, epoch {epoch}\n")
                own = [r.captures[tensor, epoch] for r in runs if r.norm == norm]
                expected = np.mean([distributions.without_zeros(d) for d in own], axis=0)
                np.testing.assert_allclose(by_gid(axis, "mean")[0].get_data().values, expected)
                assert len(by_gid(axis, "seed")) == 3
                assert bool(by_gid(axis, "N(0, 1)")) == (tensor != "block_output")
                title = axis.get_title(loc="left").replace("−", "-")
                assert float(title.split("mean ")[1].split(",")[0]) == pytest.approx(
                    np.mean([d.mean for d in own]), abs=0.005
                )
                assert float(title.split("std ")[1].split(",")[0]) == pytest.approx(
                    np.mean([d.std for d in own]), abs=0.005
                )
    assert next(panels, None) is None


def test_the_spike_of_zeros_does_not_set_the_axis(run, tmp_path):
    figure = drawn(grid(run, norms=("batch",)), tmp_path)
    axis = figure.axes[0]
    zeros = np.mean([r.captures["block_output", 1].zeros for r in grid(run, norms=("batch",))])
    assert zeros / 0.125 > 3  # what its bin would be
    assert axis.get_ylim()[1] < 0.6
    assert by_gid(axis, "zeros")[0].get_ydata()[1] == axis.get_ylim()[1]
    assert f"{100 * zeros:.1f}% exact zeros" in texts(figure)


def test_without_zeros_takes_exactly_the_zeros_away():
    values = np.array([0.0, 0.0, 0.0, 0.05, -0.05, 1.0, 7.0, -7.0])
    density = distributions.without_zeros(describe(values))
    assert density[40] == pytest.approx(1 / (8 * 0.125))  # 0.05 alone
    assert density.sum() * 0.125 == pytest.approx(3 / 8)


def test_the_rate_is_the_best_of_the_first_norm(run, tmp_path):
    runs = grid(run, rates=(0.01, 0.1, 1.0))
    for r in runs:
        r.epochs["test_accuracy"][-1] = (
            0.9 if (r.norm, r.learning_rate) in (("batch", 1.0), ("none", 0.01)) else 0.5
        )
    assert distributions.shown_rate(runs) == 1.0
    assert any(
        "Learning rate 1, where batch ends with the highest accuracy." in text
        for text in texts(drawn(runs, tmp_path))
    )


def test_missing_captures_are_said_to_be_missing(run, tmp_path):
    runs = grid(run)
    runs[1] = run("none", 0.1, 0, status="diverged", done=2)
    runs[3] = run("none", 0.1, 1, status="diverged", done=2)
    runs[5] = run("none", 0.1, 2, status="diverged", done=3)
    titles = [axis.get_title(loc="left") for axis in drawn(runs, tmp_path).axes[3:6]]
    assert titles[0].startswith("none, epoch 1\nmean")
    assert titles[1].startswith("none, epoch 3  (n = 1 of 3)\nmean")
    assert titles[2] == "none, epoch 5  (n = 0 of 3)\nnot captured"


def test_values_that_are_not_finite_are_counted(run, tmp_path):
    runs = grid(run, seeds=1, captured=(1,), epochs=1)
    broken = {("block_output", 1): describe(np.full(100, np.nan))}
    partly = {("block_output", 1): describe(np.array([1.0, 2.0, 3.0, np.inf]))}
    runs = [
        dataclasses.replace(runs[0], captures=broken),
        dataclasses.replace(runs[1], captures=partly),
    ]
    first, second = drawn(runs, tmp_path).axes
    assert (
        first.get_title(loc="left")
        == "batch, epoch 1  (n = 0 of 1), 100.0% not finite\nno finite value"
    )
    assert second.get_title(loc="left").startswith(
        "none, epoch 1, 25.0% not finite\nmean 2.00, std 0.82"
    )


def test_nothing_captured_at_all(run, tmp_path):
    assert "No activations were captured." in texts(drawn(grid(run, captured=()), tmp_path))


def test_many_epochs_and_norms_are_cut_to_a_readable_page(run, tmp_path):
    norms = ("batch", "none", "group", "layer")
    figure = drawn(grid(run, norms, seeds=1, epochs=30, captured=tuple(range(1, 31))), tmp_path)
    assert len(figure.axes) == 2 * 4 * distributions.MAX_COLUMNS
    assert "batch, epoch 1\n" in figure.axes[0].get_title(loc="left")
    assert "batch, epoch 30\n" in figure.axes[distributions.MAX_COLUMNS - 1].get_title(loc="left")
    assert any("5 of the 30 captured epochs." in text for text in texts(figure))


def test_small_and_large_moments_keep_their_digits(run, tmp_path):
    rng = np.random.default_rng(0)
    (one,) = grid(run, norms=("batch",), seeds=1, epochs=2, captured=(1, 2))
    narrow, wide = describe(rng.normal(0, 0.0012, 1000)), describe(rng.normal(0, 3e6, 1000))
    one = dataclasses.replace(
        one, captures={("block_output", 1): narrow, ("block_output", 2): wide}
    )
    first, second = (axis.get_title(loc="left") for axis in drawn([one], tmp_path).axes)
    assert f"std {narrow.std:.4f}," in first
    assert f"std {wide.std:.2e}," in second
    assert "100.0% beyond ±5" in second
