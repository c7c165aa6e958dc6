"""The figure of a claim, by its data."""

import dataclasses

import pytest
from figure_checks import assert_within_page, by_gid, texts

from normscope.judge.claims import judge_all
from normscope.judge.verdicts import EffectEstimate, Source, Verdict
from normscope.show.figures.claims_figure import draw


def verdict(**changes) -> Verdict:
    made = Verdict(
        code="C201",
        name="higher-accuracy",
        statement="With batch normalization the network ends with more.",
        source=Source("a paper", "https://example.org"),
        subject="small-resnet on digits, 5 epochs",
        outcome="supported",
        quantity="test accuracy in percent",
        unit="points",
        arms=("batch", "none"),
        effect=5.0,
        interval=(3.0, 7.0),
        n=3,
        p=0.01,
        test="paired t",
        margin=0.5,
        improvement=1.0,
        values={"batch": {0: 95.0, 1: 96.0, 2: 97.0}, "none": {0: 90.0, 1: 91.0, 2: 92.0}},
        settings=(
            EffectEstimate("lr 0.1", "points", 6.0, (1.0, 11.0), 3, outcome="supported"),
            EffectEstimate("lr 1, batch size 16", "points", 4.0, None, 2, outcome="cannot tell"),
        ),
    )
    return dataclasses.replace(made, **changes)


def test_values_and_intervals_are_those_of_the_verdict(run, tmp_path, real_files):
    figure = draw(verdict(), [run()], tmp_path / "claim.png")
    values, effects = figure.axes
    assert list(by_gid(values, "batch values")[0].get_ydata()) == [95.0, 96.0, 97.0]
    assert list(by_gid(values, "none mean")[0].get_ydata()) == [91.0]
    assert list(by_gid(values, "seed 1")[0].get_ydata()) == [96.0, 91.0]
    assert list(by_gid(effects, "all settings interval")[0].get_xdata()) == [3.0, 7.0]
    assert list(by_gid(effects, "lr 0.1 effect")[0].get_xdata()) == [6.0]
    assert not by_gid(effects, "lr 1, batch size 16 interval")
    low, high = effects.get_xlim()
    assert low < -0.5
    assert high > 11
    assert (tmp_path / "claim.png").stat().st_size > 10_000
    assert_within_page(figure)
    assert "Supported (provisional): +5 [+3, +7] points" in texts(figure)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "unit": "times",
            "neutral": 1.0,
            "margin": 1.1,
            "effect": 1.5,
            "interval": (1.2, 1.9),
            "settings": (),
        },
        {
            "unit": "times",
            "neutral": 1.0,
            "margin": 1.1,
            "effect": 1e-3,
            "interval": (1e-8, 1e3),
            "settings": (),
            "values": {"batch": {0: 1e-9, 1: 1.0}, "none": {0: 2.0, 1: 3.0}},
        },
        {
            "effect": 0.0,
            "interval": None,
            "outcome": "cannot tell",
            "needs": "2 more seeds of both arms",
            "n": 1,
            "values": {"batch": {0: 90.0}, "none": {0: 90.0}},
            "settings": (),
        },
        {
            "arms": ("my_module:" + "very_" * 12 + "long", "$x_1$ & <none>"),
            "values": {
                "my_module:" + "very_" * 12 + "long": {0: 3.0, 1: 3.1},
                "$x_1$ & <none>": {0: 1.0},
            },
        },
    ],
)
def test_nothing_is_cut_off_or_overlaps(changes, run, tmp_path):
    assert_within_page(draw(verdict(**changes), [run()], tmp_path / "claim.png"))


def test_every_verdict_with_values_can_be_drawn(run, tmp_path):
    runs = [
        run(norm, rate, seed)
        for norm in ("batch", "none")
        for rate in (0.01, 0.1, 1.0)
        for seed in range(3)
    ]
    found = [verdict for verdict in judge_all(runs) if verdict.values]
    assert len(found) > 8
    for one in found[::2]:
        figure = draw(one, runs, tmp_path / "claim.png")
        assert_within_page(figure)
        shown = by_gid(figure.axes[0], "batch values")[0].get_ydata()
        assert list(shown) == pytest.approx(list(one.values["batch"].values()))
