from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from figure_checks import assert_within_page, by_gid, texts

from normscope.records.explanation import ORDERS, Explanation, Forgotten, RunningStatistics
from normscope.show.arithmetic import shown_channels, step_groups
from normscope.show.figures import explanation_poster as explanation_figure
from normscope.show.figures.explanation_poster import draw

SIZES = (1, 2, 8, 128)


def make_explanation(
    n=24, channels=5, size=6, colours=1, *, scale=1.0, shift=1.0, seed=0, **changes
) -> Explanation:
    """An explanation of made-up numbers that fit together."""
    rng = np.random.default_rng(seed)
    offsets = shift * rng.normal(size=(1, channels, 1, 1))
    x = (scale * (rng.normal(size=(n, channels, size, size)) + offsets)).astype(np.float32)
    flat = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(channels, -1)
    mean, var, unbiased = flat.mean(1), flat.var(1), flat.var(1, ddof=1)
    before = RunningStatistics(
        mean + 0.1 * scale * rng.normal(size=channels), var * rng.uniform(0.7, 1.4, channels)
    )
    after = RunningStatistics(0.9 * before.mean + 0.1 * mean, 0.9 * before.var + 0.1 * unbiased)
    during = rng.uniform(0.2, 0.9, (len(ORDERS), len(SIZES), 5))
    during[:, 0, 1:] = np.nan
    meta = {
        "run": "batch-lr0.1-seed0",
        "spec": {
            "model": "small-resnet",
            "data": "digits",
            "epochs": 5,
            "seed": 0,
            "learning_rate": 0.1,
            "classes": ["0", "1", "2"],
            "precision": "bf16",
        },
        "data": {"source": "Handwritten digits (8x8), embedded in scikit-learn"},
        "environment": {
            "hardware": {"device_name": "A processor (AMX)"},
            "versions": {"torch": "2.13"},
        },
        "other_layers": [],
    }
    explanation = Explanation(
        layer="layer1.0.bn1",
        layer_type="BatchNorm2d",
        chosen=min(2, channels - 1),
        eps=1e-5,
        momentum=0.1,
        batches_before=60,
        x=x,
        labels=rng.integers(3, size=n),
        images=rng.integers(256, size=(min(n, 8), size, size, colours)).astype(np.uint8),
        mean=mean,
        var=var,
        unbiased_var=unbiased,
        weight=rng.normal(1, 0.2, channels),
        bias=rng.normal(0, 0.2, channels),
        running_before=before,
        running_after=after,
        disagreement=1e-6,
        forgotten=Forgotten(300, 0.95, SIZES, during, np.clip(during + 0.1, 0, 1)),
        meta=meta,
    )
    return dataclasses.replace(explanation, **changes)


@pytest.fixture(scope="module")
def explanation():
    return make_explanation()


@pytest.fixture(scope="module")
def figure(explanation, tmp_path_factory):
    path = tmp_path_factory.mktemp("figure") / "explanation.png"
    drawn = draw(explanation, path)
    assert path.stat().st_size > 50_000
    assert_within_page(drawn)
    return drawn


def the(figure, gid):
    """The one artist of that gid, wherever it is."""
    (artist,) = [artist for axis in figure.axes for artist in by_gid(axis, gid)]
    return artist


def test_the_piles_are_the_maps_of_the_record(figure, explanation):
    for index in range(5):
        channel = explanation.channel(index)
        for image in range(6):
            np.testing.assert_array_equal(
                the(figure, f"x {index} image {image}").get_array(), channel.x[image]
            )
            drawn = the(figure, f"normalized {index} image {image}").get_array()
            np.testing.assert_allclose(
                drawn, (channel.x - channel.mean)[image] / np.sqrt(channel.var + 1e-5)
            )
    limits = {the(figure, f"x {index} image 0").get_clim() for index in range(5)}
    assert len(limits) == 1, "channels can only be compared on one scale"
    assert sum(limits.pop()) == 0
    np.testing.assert_array_equal(
        the(figure, "images image 3").get_array(), explanation.images[3, ..., 0]
    )


def test_distributions_before_and_after_are_those_of_the_channels(figure, explanation):
    for index in range(5):
        channel = explanation.channel(index)
        output = explanation.weight[index] * channel.normalized + explanation.bias[index]
        for name, values in (
            ("x", channel.x),
            ("normalized", channel.normalized),
            ("output", output),
        ):
            heights, edges, baseline = the(figure, f"{name} {index}").get_data()
            counts, _ = np.histogram(values, bins=edges)
            np.testing.assert_allclose((baseline - heights) * counts.max(), counts, atol=1e-9)
            assert counts.sum() > 0.99 * values.size
            np.testing.assert_allclose(
                the(figure, f"{name} mean {index}").get_xdata(), values.mean(), atol=1e-12
            )


def test_the_arithmetic_is_that_of_the_text(figure, explanation):
    shown = " ".join(texts(figure)).replace("\n", " ")
    for step in (step for group in step_groups(explanation) for step in group):
        assert step.name in shown
        assert step.formula in shown
        assert step.numbers in shown


def test_the_memory_moves_a_tenth_of_the_way(figure, explanation):
    before, after = explanation.running_before, explanation.running_after
    for statistic, batch in (("mean", explanation.mean), ("var", explanation.unbiased_var)):
        old = getattr(before, statistic)
        there = the(figure, f"{statistic} this batch").get_xdata()
        now = the(figure, f"{statistic} after the batch").get_xdata()
        np.testing.assert_allclose(there, batch - old)
        np.testing.assert_allclose(now, 0.1 * there, atol=1e-12)
        np.testing.assert_allclose(now, getattr(after, statistic) - old, atol=1e-12)


def test_both_modes_meet_on_a_line_per_batch(figure, explanation):
    channel = explanation.channel(explanation.chosen)
    line = the(figure, "modes batch")
    slope, shift = np.polyfit(line.get_xdata(), line.get_ydata(), 1)
    np.testing.assert_allclose(slope * channel.eval_output + shift, channel.output, atol=1e-9)
    pair = channel.x[2:4]
    output = (
        channel.weight * (pair - pair.mean()) / np.sqrt(pair.var() + channel.eps) + channel.bias
    )
    line = the(figure, "modes pair 2")
    slope, shift = np.polyfit(line.get_xdata(), line.get_ydata(), 1)
    np.testing.assert_allclose(slope * channel.eval_output[2:4] + shift, output, atol=1e-9)


def test_means_of_smaller_batches(figure, explanation):
    x = explanation.x[:, explanation.chosen].astype(np.float64)
    np.testing.assert_allclose(the(figure, "means 1").get_ydata(), x.mean(axis=(1, 2)))
    np.testing.assert_allclose(
        the(figure, "means 8").get_ydata(), [x[k : k + 8].mean() for k in (0, 8, 16)]
    )
    np.testing.assert_allclose(the(figure, "means 24").get_ydata(), [x.mean()])
    by_class = [x[explanation.labels == label].mean() for label in range(3)]
    np.testing.assert_allclose(the(figure, "means one\nclass").get_ydata(), by_class)
    expected = explanation.running_before.mean[explanation.chosen]
    np.testing.assert_allclose(the(figure, "running mean").get_ydata(), expected)


def test_every_accuracy_is_a_point_and_their_mean_a_line(figure, explanation):
    forgotten = explanation.forgotten
    for name, values in (("during", forgotten.during), ("afterwards", forgotten.afterwards)):
        for place, order in enumerate(ORDERS):
            points = the(figure, f"{name} {order} passes").get_ydata()
            np.testing.assert_allclose(
                points[np.isfinite(points)], 100 * values[place][np.isfinite(values[place])]
            )
            means = [100 * np.nanmean(row) for row in values[place]]
            np.testing.assert_allclose(the(figure, f"{name} {order} mean").get_ydata(), means)
        np.testing.assert_allclose(the(figure, f"{name} eval mode").get_ydata(), 95)
    assert any("n = 1 trained network" in text for text in texts(figure))
    assert any("300 test images" in text for text in texts(figure))


def refused():
    explanation = make_explanation()
    during = explanation.forgotten.during.copy()
    during[:, :2] = np.nan
    return dataclasses.replace(
        explanation,
        forgotten=dataclasses.replace(explanation.forgotten, during=during, afterwards=during),
    )


def dead_channel():
    explanation = make_explanation(channels=1, shift=0)
    zeros = np.zeros(1)
    return dataclasses.replace(
        explanation,
        x=np.zeros_like(explanation.x),
        mean=zeros,
        var=zeros,
        unbiased_var=zeros,
        running_before=RunningStatistics(zeros, zeros),
        running_after=RunningStatistics(zeros, zeros),
    )


CASES = {
    "many channels": lambda: make_explanation(channels=256, size=2, chosen=237),
    "one channel, two images": lambda: make_explanation(n=2, channels=1),
    "one image": lambda: make_explanation(n=1, channels=3),
    "colours": lambda: make_explanation(n=128, size=16, channels=16, colours=3),
    "one pixel": lambda: make_explanation(size=1),
    "huge": lambda: make_explanation(scale=3e6),
    "tiny": lambda: make_explanation(scale=3e-6),
    "far from 0": lambda: make_explanation(shift=-2e4),
    "neither affine nor memory": lambda: make_explanation(
        weight=None, bias=None, running_before=None, running_after=None
    ),
    "momentum None": lambda: make_explanation(momentum=None),
    "refused": refused,
    "dead": dead_channel,
    "awkward names": lambda: make_explanation(
        layer="$x_$.50%_{^\\frac", layer_type="A_Very_Long_Name_Of_A_Norm2d" * 2
    ),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_every_text_lies_on_the_page_and_on_no_other(make, tmp_path, monkeypatch):
    monkeypatch.setattr(explanation_figure, "save", lambda figure, _: figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_within_page(draw(make(), tmp_path / "explanation.png"))


def test_the_chosen_channel_is_among_those_shown():
    for channels in (1, 7, 8, 9, 100):
        for chosen in range(0, channels, 3):
            shown = shown_channels(channels, chosen, 8)
            assert chosen in shown
            assert shown == sorted(set(shown))
            assert len(shown) == min(channels, 8)
