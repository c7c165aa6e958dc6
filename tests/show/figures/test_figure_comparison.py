from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from figure_checks import assert_within_page, by_gid, texts

from normscope.show.figures import comparison_figure as comparison


def grid(run, norms=("batch", "none"), rates=(0.1,), seeds=3, **how):
    return [
        run(norm, rate, seed, **how) for seed in range(seeds) for rate in rates for norm in norms
    ]


def drawn(runs, compared, tmp_path):
    figure = comparison.draw(compared(runs), runs, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 0
    assert [item.name for item in tmp_path.iterdir()] == ["comparison.png"]
    assert_within_page(figure)
    return figure


def test_lines_are_the_runs_and_their_means(run, compared, tmp_path):
    runs = grid(run, rates=(0.01, 0.1))
    figure = drawn(runs, compared, tmp_path)
    assert len(figure.axes) == 6
    for place, axis in enumerate(figure.axes):
        rate = (0.01, 0.1)[place // 3]
        column, scale = (("train_loss", 1), ("test_accuracy", 100), ("stem_gradient", 1))[place % 3]
        for norm in ("batch", "none"):
            own = [r for r in runs if (r.norm, r.learning_rate) == (norm, rate)]
            for one in own:
                (line,) = by_gid(axis, f"{norm} seed {one.seed}")
                np.testing.assert_allclose(line.get_ydata(), scale * one.column(column))
            (mean,) = by_gid(axis, f"{norm} mean")
            np.testing.assert_allclose(
                mean.get_ydata(), scale * sum(r.column(column) for r in own) / 3
            )
            np.testing.assert_array_equal(mean.get_xdata(), [1, 2, 3, 4, 5])
            assert mean.get_linewidth() > 2 * line.get_linewidth()


def test_the_accuracy_panels_share_their_axis_and_show_the_threshold(run, compared, tmp_path):
    runs = grid(run, rates=(0.01, 0.1))
    first, second = (drawn(runs, compared, tmp_path).axes[k] for k in (1, 4))
    assert first.get_ylim() == second.get_ylim()
    for axis, rate in ((first, 0.01), (second, 0.1)):
        finals = [
            r.column("test_accuracy")[-1]
            for r in runs
            if (r.norm, r.learning_rate) == ("batch", rate)
        ]
        (line,) = by_gid(axis, "threshold")
        np.testing.assert_allclose(line.get_ydata(), 95 * np.mean(finals))


def test_a_diverged_run_ends_in_a_cross_and_is_left_out_of_the_mean_and_the_limits(
    run, compared, tmp_path
):
    runs = grid(run)
    wild = run("none", 0.1, 2, status="diverged", done=3)
    wild.epochs["train_loss"][:] = [1e3, 1e6, np.nan]
    runs[-1] = wild
    figure = drawn(runs, compared, tmp_path)
    axis = figure.axes[0]
    (mean,) = by_gid(axis, "none mean")
    np.testing.assert_allclose(
        mean.get_ydata(), (runs[1].column("train_loss") + runs[3].column("train_loss")) / 2
    )
    (cross,) = by_gid(axis, "none seed 2 diverged")
    assert cross.get_marker() == "x"
    assert cross.get_xdata()[0] == 2  # the last finite loss
    assert axis.get_ylim()[1] < 10
    assert axis.get_ylim()[0] < cross.get_ydata()[0] <= axis.get_ylim()[1]
    assert "none: 1 diverged of 3 runs (left out of means)." in texts(figure)
    assert "diverged: loss became NaN or infinite" in texts(figure)


def test_crosses_of_runs_that_never_had_a_finite_loss_are_at_the_top(run, compared, tmp_path):
    runs = grid(run, status="diverged", done=1)
    figure = drawn(runs, compared, tmp_path)
    (cross,) = by_gid(figure.axes[0], "batch seed 0 diverged")
    assert cross.get_ydata()[0] == figure.axes[0].get_ylim()[1]
    assert not by_gid(figure.axes[0], "batch mean")
    assert "no finite value" in texts(figure)
    assert not by_gid(figure.axes[1], "threshold")


def test_an_interrupted_run_is_drawn_as_far_as_it_goes(run, compared, tmp_path):
    runs = [
        run("batch", 0.1, 0),
        run("none", 0.1, 0),
        run("batch", 0.1, 1, status="interrupted", done=3),
        run("none", 0.1, 1, status="interrupted", done=0),
    ]
    figure = drawn(runs, compared, tmp_path)
    (line,) = by_gid(figure.axes[1], "batch seed 1")
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    (mean,) = by_gid(figure.axes[1], "batch mean")
    np.testing.assert_allclose(mean.get_ydata(), 100 * runs[0].column("test_accuracy"))
    assert (
        "batch: 1 interrupted of 2 runs; none: 1 interrupted "
        "of 2 runs (left out of means)." in texts(figure)
    )


@pytest.mark.parametrize(("smallest", "scale"), [(0.1, "linear"), (0.01, "log")])
def test_an_axis_is_logarithmic_beyond_one_and_a_half_decades(
    run, compared, tmp_path, smallest, scale
):
    runs = grid(run, seeds=1)
    for one in runs:
        one.epochs["stem_gradient"] = np.array([1.0, 0.5, 0.3, 0.2, smallest])
    runs[1].epochs["stem_gradient"][2] = (
        0.0  # a dead network: nothing that a logarithmic axis has a place for
    )
    figure = drawn(runs, compared, tmp_path)
    axis = figure.axes[2]
    assert axis.get_yscale() == scale
    assert ("log scale" in axis.get_ylabel()) == (scale == "log")
    (line,) = by_gid(axis, "none seed 0")
    assert line.get_ydata()[2] == (0.0 if scale == "linear" else axis.get_ylim()[0])
    assert figure.axes[1].get_yscale() == "linear"


def test_one_epoch_has_one_tick_and_visible_points(run, compared, tmp_path):
    figure = drawn(grid(run, seeds=1, epochs=1, captured=()), compared, tmp_path)
    (line,) = by_gid(figure.axes[0], "batch seed 0")
    assert line.get_marker() not in ("", "None")
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]


def test_nothing_trained_yet(run, compared, tmp_path):
    figure = drawn(grid(run, status="interrupted", done=0), compared, tmp_path)
    assert "no finite value" in texts(figure)


def test_the_footer_says_what_it_was_measured_on(run, compared, tmp_path):
    runs = grid(run)
    runs[-1] = dataclasses.replace(runs[-1], meta={})
    runs[0].meta["environment"]["versions"]["torch"] = "2.10.0"
    footer = " ".join(texts(drawn(runs, compared, tmp_path)))
    for part in (
        "n = 3 seeds",
        "Handwritten digits (8x8), embedded in scikit-learn, 1,438 training and 359 test images",
        "A processor (AMX), bf16",
        "torch\xa02.10.0",
        "torch\xa02.13.0",
        "normscope\xa00.1.0",
    ):
        assert part in footer
