"""Studies that vary more than the norm and the learning rate: an arm for each setting, and a view
for each knob.
"""

import json

import numpy as np
import pytest
from report_pages import column, payload_of, settle
from report_records import write_run, write_study

from normscope.records.run import load_run
from normscope.show.report.pages import report
from normscope.show.report.settings import Settings, in_words
from normscope.show.report.views import SWEPT


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two norms at three batch sizes, 128 the usual one; at that size also another activation, and
    it alone at 8.
    """
    study = write_study(tmp_path_factory.mktemp("swept") / "study", norms=())
    number = 0
    for norm in ("batch", "none"):
        for settings in (
            {"batch_size": 128, "activation": "relu"},
            {"batch_size": 8, "activation": "relu"},
            {"batch_size": 32, "activation": "relu"},
            {"batch_size": 128, "activation": "tanh"},
            {"batch_size": 8, "activation": "tanh"},
        ):
            for seed in (0, 1):
                write_run(study / "runs" / f"run{number}", norm, 0.1, seed, **settings)
                number += 1
    write_run(
        study / "runs" / "bad",
        "none",
        0.1,
        2,
        batch_size=8,
        activation="relu",
        done=2,
        status="diverged",
    )
    return study


@pytest.fixture(scope="module")
def payload(swept):
    return payload_of(report(swept))


@pytest.fixture
def placed(tmp_path):
    """Of one norm, three warm-ups in equal numbers; with the longest, every run diverged."""
    study = write_study(tmp_path / "placed", norms=())
    for number, (seed, warmup) in enumerate((s, w) for s in (0, 1) for w in (92, 0, 46)):
        ended = {"status": "diverged", "done": 2} if warmup == 92 else {}
        write_run(study / "runs" / f"run{number}", "layer", 0.1, seed, warmup=warmup, **ended)
    return study


def test_among_settings_as_frequent_the_default_is_the_usual_one(placed):
    labels = [arm["label"] for arm in payload_of(report(placed))["arms"]]
    assert sorted(labels) == ["layer", "layer, warmup 46", "layer, warmup 92"]


def test_of_one_norm_the_headline_names_its_best_and_its_worst_setting(placed):
    (headline,) = payload_of(report(placed))["conclusion"]["headlines"]
    said = headline["sentences"][0]
    assert "accuracy with layer norm at the best of 3 settings, warmup 46 (2 seeds)" in said
    assert said.endswith("; 10.0% at the worst, warmup 92.")


def test_settings_are_never_averaged_over(payload):
    labels = [arm["label"] for arm in payload["arms"]]
    assert labels[:4] == ["batch", "none", "batch, batch size 8", "none, batch size 8"]
    assert "batch, batch size 8, tanh" in labels
    assert len(labels) == 10
    assert [arm["label"] for arm in payload["arms"] if arm["usual"]] == ["batch", "none"]
    assert {row["n"] for row in payload["summary"]} == {2}
    assert len(payload["summary"]) == 10
    assert "none, batch size 8, learning rate 0.1, seed 2" in {
        run["label"] for run in payload["runs"]
    }


def test_a_swept_knob_is_an_axis_at_the_usual_value_of_the_others(swept, payload):
    views = {view["name"]: view for view in payload["views"]}
    assert {name for name in views if name.startswith("sweep_")} == {
        "sweep_batch_size",
        "sweep_activation",
    }
    view = views["sweep_batch_size"]
    assert view["table"]["levels"] == [8, 32, 128]
    runs = [payload["runs"][k] for k in column(view, "run")]
    assert len(runs) == 13  # of 21: those with tanh are another setting
    assert not any("tanh" in run["label"] for run in runs)
    assert {payload["arms"][k]["label"] for k in column(view, "line")} == {"batch", "none"}
    for run, y in zip(runs, column(view, "y"), strict=True):
        final = run["test_accuracy"]
        assert np.isnan(y) if final is None else y == np.float32(100 * final)
    assert views["sweep_activation"]["table"]["levels"] == ["relu", "tanh"]


def test_lists_and_defaults_have_words():
    assert in_words("batch_size", 8) == "batch size 8"
    assert in_words("initialization_scale", 0.1) == "initialization scale 0.1"
    assert in_words("activation", "tanh") == "tanh"
    assert in_words("widths", [16, 32]) == "widths [16, 32]"
    assert len(in_words("norm_code", "f" * 64)) < 40


def test_one_and_one_point_nought_are_one_setting(tmp_path):
    runs = [
        load_run(
            write_run(
                tmp_path / str(seed),
                "batch",
                0.1,
                seed,
                initialization_scale=scale,
                capture_epochs=[seed + 1],
            )
        )
        for seed, scale in enumerate((1, 1.0))
    ]
    assert Settings(runs).varied == []


def test_a_study_of_two_data_sets_says_so_once(tmp_path):
    for seed, (data, fingerprint) in enumerate((("digits", "aa"), ("cifar10", "bb"))):
        known = {"data": data, "data_fingerprint": fingerprint}
        write_run(tmp_path / str(seed), "batch", 0.1, seed, **known, of_a_later_version=True)
    runs = [load_run(tmp_path / str(seed)) for seed in (0, 1)]
    assert Settings(runs).varied == ["data"]


def test_every_view_of_a_knob_is_of_a_field_that_specs_have():
    from normscope.studies.spec import RunSpec

    assert set(SWEPT) <= set(RunSpec.__dataclass_fields__)


def test_in_a_browser(open_page, swept):
    page = open_page(report(swept))
    assert page.locator("#sweeps").get_by_role("heading", level=3).all_inner_texts() == [
        "Over batch size",
        "Over activation",
    ]
    settle(page)
    ticks = page.locator("#view-sweep_batch_size .role-axis-label text").all_text_contents()
    assert ticks[:3] == ["8", "32", "128"]
    assert not page.get_by_role(
        "checkbox", name="batch, tanh"
    ).is_checked()  # many arms: the usual ones first
    rows = page.evaluate(
        "SHAPES.rates(byName(charts.map(({view}) => view), 'sweep_batch_size'))[0].rows"
    )
    assert {row["level"] for row in rows} == {8, 32, 128}
    assert json.dumps(rows).count('"diverged"') == 1
    curves = {
        row["name"]
        for row in page.evaluate("SHAPES.curves(byName(page.views, 'train_loss'))[0].rows")
    }
    assert not any("tanh" in name or "batch size" in name for name in curves)
    page.get_by_role("checkbox", name="batch, tanh").check()
    curves = {
        row["name"]
        for row in page.evaluate("SHAPES.curves(byName(page.views, 'train_loss'))[0].rows")
    }
    assert "batch, tanh, learning rate 0.1, seed 1" in curves
