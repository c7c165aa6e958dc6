from __future__ import annotations

import itertools

import numpy as np
from figure_checks import assert_within_page, by_gid, texts

from normscope.show.figures import learning_rate_figure as learning_rates

RATES = (0.01, 0.1, 1.0)


def grid(run):
    return [
        run(norm, rate, seed) for seed in range(3) for rate in RATES for norm in ("batch", "none")
    ]


def drawn(runs, compared, tmp_path):
    figure = learning_rates.draw(compared(runs), runs, tmp_path / "learning_rates.png")
    assert_within_page(figure)
    return figure


def test_points_are_the_finals_and_the_line_their_means(run, compared, tmp_path):
    runs = grid(run)
    figure = drawn(runs, compared, tmp_path)
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    for norm in ("batch", "none"):
        finals = {
            rate: [
                100 * r.column("test_accuracy")[-1]
                for r in runs
                if (r.norm, r.learning_rate) == (norm, rate)
            ]
            for rate in RATES
        }
        (points,), (mean,) = by_gid(axis, f"{norm} seeds"), by_gid(axis, f"{norm} mean")
        np.testing.assert_allclose(
            sorted(points.get_ydata()), sorted(itertools.chain(*finals.values()))
        )
        np.testing.assert_allclose(mean.get_ydata(), [np.mean(finals[rate]) for rate in RATES])
        np.testing.assert_allclose(np.log10(mean.get_xdata()), np.log10(RATES), atol=0.1)
    np.testing.assert_allclose(by_gid(axis, "chance")[0].get_ydata(), 10)
    assert "No run diverged." in texts(figure)


def test_diverged_runs_are_counted_beneath_and_have_no_point(run, compared, tmp_path):
    runs = [
        run("none", 1.0, r.seed, status="diverged", done=2)
        if (r.norm, r.learning_rate) == ("none", 1.0) and r.seed != 1
        else r
        for r in grid(run)
    ]
    accuracy, strip = drawn(runs, compared, tmp_path).axes
    (points,), (mean,) = by_gid(accuracy, "none seeds"), by_gid(accuracy, "none mean")
    assert len(points.get_ydata()) == 7
    survivor = next(r for r in runs if (r.norm, r.learning_rate, r.seed) == ("none", 1.0, 1))
    np.testing.assert_allclose(mean.get_ydata()[-1], 100 * survivor.column("test_accuracy")[-1])
    assert by_gid(strip, "none diverged at 1")[0].get_text() == "✕ 2 of 3"
    assert by_gid(strip, "batch diverged at 1")[0].get_text() == "–"
    assert strip.get_xlim() == accuracy.get_xlim()


def test_a_norm_without_any_finished_run(run, compared, tmp_path):
    runs = [
        run(norm, rate, 0, status="interrupted", done=1)
        for rate in RATES
        for norm in ("batch", "none")
    ]
    runs[1] = run("none", 0.01, 0, status="diverged", done=1)
    figure = drawn(runs, compared, tmp_path)
    assert len(by_gid(figure.axes[0], "none seeds")[0].get_ydata()) == 0
    assert any(
        "batch: 3 interrupted of 3 runs; none: 2 interrupted" in text for text in texts(figure)
    )


def test_many_close_rates_widen_the_page(run, compared, tmp_path):
    rates = np.round(np.geomspace(0.01, 1, 12), 3).tolist()
    runs = [
        run(norm, rate, 0, status="diverged", done=1)
        for rate in rates
        for norm in ("batch", "none")
    ]
    assert drawn(runs, compared, tmp_path).get_figwidth() > 7.5
