"""Inside one layer: what the page is given of it."""

import numpy as np
import pytest
from report_pages import column, curve, decode, payload_of
from report_records import write_recording, write_study

from normscope import Recording
from normscope.judge.layer_measures import active_share
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.records.run import RECORDING_NAME
from normscope.show.report.inside_layer import HIGH, LINE, LOW
from normscope.show.report.layer_views import stages
from normscope.show.report.pages import report


def views_of(path):
    return {view["name"]: view for view in payload_of(path)["views"]}


def values(encoded):
    """The values of a column that was sent in few bytes."""
    return encoded["low"] + encoded["scale"] * decode(encoded).astype(float)


def write_means(path, steps: int, kept: bool):
    """A layer of two channels whose batch means swing by 1 and 2 about 0 and 10."""
    info = LayerInfo("bn", "BatchNorm2d", "batch", 2, tracks=kept)
    header = Header("Net", "optimizer step", {}, [info], {}, "cpu", complete=True)
    at = np.arange(1, steps + 1)
    swing = np.where(at % 2, 1.0, -1.0)[:, None]
    means = (np.array([0.0, 10.0]) + swing * np.array([1.0, 2.0])).astype("<f4")
    series = {("bn", "batch_mean"): means}
    if kept:
        series[("bn", "running_mean")] = np.tile(np.array([0.0, 10.0], "<f4"), (steps, 1))
    FilePart(path, header).write(Batch(header, [(at, series)], []))
    return path


class TestMeans:
    def parts(self, path):
        view = views_of(report(path))["mean"]
        points = view["table"]["points"]
        rows = values(view["table"]["curve"]).reshape(-1, points)
        keys = zip(column(view, "channel").tolist(), column(view, "part").tolist(), strict=True)
        return dict(zip(keys, rows, strict=True)), points

    def test_the_band_is_what_batches_reached_between_the_points(self, tmp_path):
        parts, points = self.parts(write_means(tmp_path / "r.sqlite", 1000, kept=True))
        assert 0 < points < 500
        for channel, (middle, reach) in enumerate(((0, 1), (10, 2))):
            assert np.allclose(parts[channel, LINE], middle, atol=1e-3)
            assert np.allclose(parts[channel, LOW], middle - reach, atol=1e-3)
            assert np.allclose(parts[channel, HIGH], middle + reach, atol=1e-3)

    def test_of_few_records_each_is_shown_itself(self, tmp_path):
        parts, _ = self.parts(write_means(tmp_path / "r.sqlite", 3, kept=True))
        assert np.allclose(parts[0, LOW], parts[0, HIGH])

    def test_a_layer_that_keeps_no_mean_has_the_batches_as_its_line(self, tmp_path):
        parts, _ = self.parts(write_means(tmp_path / "r.sqlite", 1000, kept=False))
        assert set(np.round(parts[1, LINE])) <= {8, 12}
        assert np.allclose(parts[1, HIGH], 12, atol=1e-3)


def test_the_captions_have_what_was_sampled_and_the_share_of_the_overview(tmp_path):
    path = write_recording(tmp_path / "r.sqlite")
    facts = payload_of(report(path))["facts"]
    assert [fact["layer"] for fact in facts] == [0, 1]
    steps, shares = active_share(Recording.load(path), "stem.bn")
    assert facts[0]["steps"] == steps.tolist() == [1, 15, 30]
    assert facts[0]["share"] == pytest.approx(shares, abs=1e-4)
    assert facts[0]["recorded"] == 3
    assert facts[0]["sampled"] == [int((np.hanning(26) * 100).astype("u2").sum())] * 3
    assert facts[0]["region"] == [[0.0, None]]  # as far as the axis goes
    assert facts[0]["normalizes"]


def test_every_recorded_step_is_on_the_slider_as_far_as_the_budget_goes(tmp_path):
    small = views_of(report(write_recording(tmp_path / "s.sqlite")))["ridges"]
    assert set(column(small, "step").tolist()) == {1, 15, 30}
    assert curve(small).size == 3 * 4 * 2 * small["table"]["points"]


def test_the_page_begins_with_the_layer_that_was_inspected(tmp_path):
    study = write_study(tmp_path / "study", norms=("batch",), seeds=(0,), epochs=2)
    write_recording(study / "runs" / "run0" / RECORDING_NAME)
    assert payload_of(report(study))["first_layer"] == 0
    (study / "inspection.json").write_text('{"layers": ["layer1.bn"]}')
    assert payload_of(report(study))["first_layer"] == 1
    (study / "inspection.json").write_text('{"layers": ["not there"]}')
    assert payload_of(report(study))["first_layer"] == 0


RESNET = ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.1.bn1", "layer2.0.bn1", "layer2.1.bn1"]
LLAMA = [f"model.layers.{k}.{name}" for k in range(3) for name in ("first", "second")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (RESNET, ["", "layer1", "layer1", "layer1", "layer2", "layer2"]),
        ([*LLAMA, "model.norm"], [f"model.layers.{k}" for k in (0, 0, 1, 1, 2, 2)] + [""]),
        (["0", "1", "2"], ["", "", ""]),
        (["a.bn", "b.bn"], ["", ""]),  # stages of one layer are none
        (["__proto__.a", "__proto__.b", "c.a", "c.b"], ["__proto__", "__proto__", "c", "c"]),
        ([], []),
    ],
)
def test_stages_are_the_outermost_modules_that_hold_several_layers(names, expected):
    found = {stage["layer"]: stage["stage"] for stage in stages(names)}
    assert [found.get(index, "") for index in range(len(names))] == expected
