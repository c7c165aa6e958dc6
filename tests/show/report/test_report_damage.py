"""Records whose arrays are not what they should be: named, and everything else is shown."""

import numpy as np
import pytest
from report_pages import payload_of
from report_records import write_recording, write_study

from normscope.errors import InputError, RecordError
from normscope.records.recording import Recording
from normscope.records.recording_header import BINS, SHAPES, Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.records.run import RECORD_NAME, RECORDING_NAME, load_run
from normscope.records.store import writer
from normscope.show.report.build import encode
from normscope.show.report.pages import report
from normscope.show.report.report_data import load_report_data


def write_damaged(path, statistic, values, histogram_channels=()):
    """A recording that holds one array more, at three steps."""
    write_recording(path, layers=("bn",))
    layer = LayerInfo("bad", "BatchNorm2d", "batch", 4, histogram_channels=list(histogram_channels))
    layers = [*FilePart(path).header.layers, layer]
    header = Header("Net", "optimizer step", {}, layers, {}, "cpu")
    part = FilePart(path, header)
    part.write(
        Batch(
            header,
            [
                (
                    np.array([1, 2, 3]),
                    values if isinstance(values, dict) else {("bad", statistic): values},
                )
            ],
        )
    )
    return path


def wrong(shape):
    """The same with a dimension more, one fewer, and another fixed size."""
    full = tuple(4 if size is None else size for size in shape)
    yield (*full, 2)
    if full:
        yield full[:-1]
    for place, size in enumerate(shape):
        if size is not None:
            yield (*full[:place], size + 1, *full[place + 1 :])


CASES = [(statistic, shape) for statistic, expected in SHAPES.items() for shape in wrong(expected)]


@pytest.mark.parametrize(("statistic", "shape"), CASES)
def test_an_array_of_another_shape_is_damage(tmp_path, statistic, shape):
    path = write_damaged(tmp_path / "r.sqlite", statistic, np.ones((3, *shape), "<f4"))
    with pytest.raises(RecordError, match=f"damaged: {statistic} of bad has the shape"):
        Recording.load(path).query("bad", statistic)


@pytest.mark.parametrize("statistic", SHAPES)
def test_every_shape_that_is_right_is_shown(tmp_path, statistic):
    shape = tuple(4 if size is None else size for size in SHAPES[statistic])
    path = write_damaged(tmp_path / "r.sqlite", statistic, np.ones((3, *shape), "<f4"))
    assert '"problems":[]' in encode(load_report_data([], [path])).head


def test_the_damaged_one_is_named_and_the_others_are_shown(open_page, tmp_path):
    study = write_study(tmp_path / "study", epochs=2)
    write_recording(study / "runs" / "run0" / RECORDING_NAME)
    write_damaged(study / "runs" / "run2" / RECORDING_NAME, "batch_mean", np.ones((3, 4, 4), "<f4"))
    path = report(study)
    payload = payload_of(path)
    assert len(payload["problems"]) == 1
    assert "run2" in payload["problems"][0]
    assert "batch_mean of bad" in payload["problems"][0]
    assert len(payload["runs"]) == 4
    assert len(payload["recordings"]) == 1
    page = open_page(path, drawn=True)
    assert "Not shown:" in page.locator("#headline").inner_text()
    assert page.locator("#view-overview_std svg").count() == 1


@pytest.mark.parametrize(("framed", "named"), [(3, 0), (4, 2)])
def test_histograms_and_frames_of_different_channels(tmp_path, framed, named):
    arrays = {
        ("bad", "histogram"): np.ones((3, 4, BINS + 2), "<u2"),
        ("bad", "histogram_frame"): np.ones((3, 6, framed), "<f4"),
    }
    path = write_damaged(tmp_path / "r.sqlite", "histogram", arrays, range(named))
    with pytest.raises(InputError, match="histograms of 4 channels"):  # there is nothing else
        report(path, out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    study = write_study(tmp_path / "study", epochs=2)
    payload = payload_of(report(study, path))
    assert "histograms of 4 channels" in payload["problems"][0]
    assert payload["recordings"] == []


@pytest.mark.parametrize("name", ["nets.py", "model.pt", "empty.sqlite", "list.json", "x.json"])
@pytest.mark.parametrize("beside_a_study", [False, True])
def test_what_no_report_shows_is_refused(name, beside_a_study, tmp_path):
    path = tmp_path / name
    content = {
        "nets.py": b"import torch\n",
        "model.pt": b"PK\x03\x04" + bytes(99),
        "list.json": b"[1]",
    }
    path.write_bytes(content.get(name, b""))
    others = [write_study(tmp_path / "study", epochs=2)] if beside_a_study else []
    if beside_a_study and name.endswith(("json", "sqlite")):  # damaged, perhaps
        assert name in payload_of(report(*others, path))["problems"][0]
        return
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        report(*others, path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.html"))


DESCRIPTIONS = [
    {"data": "digits"},
    {"data": [1]},
    {"environment": "laptop"},
    {"environment": {"hardware": "x"}},
    {"environment": {"versions": ["torch"]}},
    {"data": {"classes": 10}},
    {"data": {"test_images": "many"}},
    {"data": None},
    {"spec": None},
    {"spec": "batch"},
]


@pytest.mark.parametrize("meta", DESCRIPTIONS, ids=str)
def test_a_run_whose_description_is_something_else_is_named(meta, tmp_path):
    study = write_study(tmp_path / "study", epochs=2)
    with writer(study / "runs" / "run0" / RECORD_NAME, "run") as store, store.transaction():
        store.set_meta(**meta)
    payload = payload_of(report(study))
    assert len(payload["runs"]) == 3
    assert "run0" in payload["problems"][0]
    assert "is damaged" in payload["problems"][0]
    assert len(payload["problems"]) == 1
    with pytest.raises(RecordError, match="is damaged"):
        load_run(study / "runs" / "run0")
