"""Terminal, figures, page, sinks and CSV say the same of one recording: dead, constant, active."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from report_pages import curve, payload_of
from rich.console import Console

from normscope import Recording
from normscope.judge.inspection import channel_table, regions_of, to_csv
from normscope.judge.timeline import Timeline
from normscope.records.recording import rank_path
from normscope.records.recording_header import BINS, Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.show.figures import (
    activation_regions_figure,
    recording_distributions,
    recording_overview,
)
from normscope.show.inspection_text import show
from normscope.show.report.pages import report
from normscope.show.sinks.sink import write_recording

STEPS, LAST_OF_FIRST_EPOCH = 20, 10
STD = np.array([1.0, 1e-6, 2.0, 1.0])  # channel 1 is constant
BIAS = np.array([-9.0, 3.0, 0.25, 0.0])  # channel 0 is dead for a ReLU, channel 1 is not


def write(path: Path, activation: str | None, rank: int = 0, bias=BIAS, of: int = 1) -> Path:
    """A recording of one layer whose channels are a dead one, a constant one and two usual ones."""
    info = LayerInfo("bn", "BatchNorm2d", "batch", 4, affine=True, activation=activation)
    header = Header("Net", "optimizer step", {}, [info], {}, "cpu", complete=True)
    header.rank, header.world_size = rank, of
    header.cost.steps = STEPS
    at = np.arange(1, STEPS + 1)
    one = np.ones((STEPS, 4), "<f4")
    counts = np.zeros((STEPS, 4, BINS + 2), "<u2")
    counts[:, :, 10:50] = 100 * np.hanning(40)
    z_low, z_high = -2.5, 2.0
    frame = np.stack(
        [0 * one, one * STD, one, one * bias, one * STD * z_low, one * STD * z_high], axis=1
    )
    series = {
        ("bn", "batch_mean"): 0 * one, ("bn", "batch_var"): one * STD**2, ("bn", "weight"): one,
        ("bn", "bias"): one * bias, ("bn", "values_per_channel"): one[:, 0] * 64,
        ("bn", "histogram"): counts, ("bn", "histogram_frame"): frame.astype("<f4"),
    }  # fmt: skip
    marks = [
        {"kind": "mark", "step": step, "detail": {"epoch": epoch}}
        for epoch, step in ((1, 0), (2, LAST_OF_FIRST_EPOCH))
    ]
    FilePart(rank_path(path, rank), header).write(Batch(header, [(at, series)], marks))
    return path


class _Memory:
    """A log that keeps what it is given."""

    last = 0

    def __init__(self):
        self.scalars = {}

    def write(self, step, scalars, histograms):
        self.scalars |= {(step, tag): value for tag, value in scalars.items()}


def on_the_page(path: Path, name: str) -> np.ndarray:
    """The values over the steps; empty where the page has no such view."""
    views = {view["name"]: view for view in payload_of(report(path))["views"]}
    return curve(views[name]) if name in views else np.empty(0)


@pytest.fixture
def recorded(tmp_path) -> Recording:
    return Recording.load(write(tmp_path / "r.sqlite", "relu"))


def test_dead_and_constant_channels(recorded, tmp_path):
    path = recorded.parts[0].path
    dead, constant = 1 / 4, 1 / 4
    assert np.allclose(on_the_page(path, "overview_dead"), dead)
    assert np.allclose(on_the_page(path, "overview_constant"), constant)

    figure = recording_overview.draw({"batch": recorded}, tmp_path / "overview.png")
    panels = [axis for axis in figure.axes if axis.collections and axis.get_gid() != "scale"]
    assert np.allclose(panels[2].collections[0].get_array(), dead)

    log = _Memory()
    write_recording(recorded, log)
    assert {log.scalars[step, "dead_channels/bn"] for step in range(1, STEPS + 1)} == {dead}
    assert {log.scalars[step, "constant_channels/bn"] for step in range(1, STEPS + 1)} == {constant}

    rows = regions_of({"batch": [recorded]})
    assert {row["dead_channels"] / row["channels"] for row in rows} == {dead}
    csv = channel_table(recorded, ["bn"])
    assert [row["channel"] for row in csv if row["active_share"] == 0] == [0]
    assert "1 of 4 channels hardly vary in the batch (1)" in recorded.summary()


def test_the_share_in_the_active_region(recorded, tmp_path):
    path = recorded.parts[0].path
    rows = channel_table(recorded, ["bn"])
    shares = np.array([row["active_share"] for row in rows])
    assert shares[:2].tolist() == [0, 1]
    assert (shares[2:] > 0.3).all()
    assert (shares[2:] < 0.7).all()
    csv = [line.split(",")[-1] for line in to_csv(rows).splitlines()[1:]]
    assert np.allclose([float(value) for value in csv], shares, rtol=1e-5)

    (_, last) = regions_of({"batch": [recorded]})
    assert last["active"] == pytest.approx(shares.mean(), abs=1e-9)

    figure = recording_distributions.draw(recorded, "bn", tmp_path / "d.png")
    written = [text.get_text() for text in figure.axes[1].texts if text.get_text().endswith("%")]
    assert written == [f"{100 * share:.0f}%" for share in shares]

    figure = activation_regions_figure.draw({"batch": [recorded]}, ["bn"], tmp_path / "a.png")
    drawn = {line.get_gid(): line.get_xdata() for line in figure.axes[1].lines}
    assert np.allclose(drawn["batch last"], last["active"])

    console = Console(file=io.StringIO(), width=100)
    numbers = {"activation_regions": [last | {"seed": 0}], "runs": []}
    show(numbers, recorded, ["bn"], console)
    text = console.file.getvalue()
    assert f"{100 * last['active']:.1f}%" in text
    assert all(f"{100 * share:.1f}%" in text for share in shares)

    shown = on_the_page(path, "overview_active")
    assert np.allclose(shown, last["active"], atol=5e-3)  # bins of the record, not of the epoch
    log = _Memory()
    write_recording(recorded, log)
    sent = [log.scalars[step, "active_outputs/bn"] for step in range(1, STEPS + 1)]
    assert np.allclose(sent, shown[0], atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid"])
def test_the_same_of_another_activation(activation, tmp_path):
    path = write(tmp_path / "r.sqlite", activation)
    recording = Recording.load(path)
    shares = [row["active_share"] for row in channel_table(recording, ["bn"])]
    assert np.allclose(on_the_page(path, "overview_active"), np.mean(shares), atol=5e-3)
    dead = regions_of({"batch": [recording]})[-1]["dead_channels"] / 4
    assert np.allclose(on_the_page(path, "overview_dead"), dead)


def test_without_a_known_activation_nothing_is_called_active_or_dead(tmp_path):
    path = write(tmp_path / "r.sqlite", None)
    recording = Recording.load(path)
    assert not len(on_the_page(path, "overview_active"))
    assert not len(on_the_page(path, "overview_dead"))
    assert 0.4 < on_the_page(path, "overview_positive")[0] < 0.7
    assert regions_of({"batch": [recording]}) == []
    assert {row["active_share"] for row in channel_table(recording, ["bn"])} == {None}


def test_a_channel_that_lives_on_another_process_is_not_dead(tmp_path):
    path = write(tmp_path / "r.sqlite", "relu", of=2)
    write(path, "relu", rank=1, bias=BIAS + 9, of=2)
    recording = Recording.load(path)
    assert recording.ranks == [0, 1]
    assert np.allclose(on_the_page(path, "overview_dead"), 0)
    (_, last) = regions_of({"batch": [recording]})
    assert last["dead_channels"] == 0
    assert np.allclose(on_the_page(path, "overview_active"), last["active"], atol=5e-3)


def test_time_is_that_of_the_epochs(recorded):
    assert Timeline.of(recorded).span(2) == (LAST_OF_FIRST_EPOCH + 1, STEPS)
