"""Results and recordings in a notebook: the page in a sandboxed frame, and a still figure where
scripts are off.
"""

import base64
import html
import re

import numpy as np
import pytest
from report_records import HOSTILE, write_recording, write_study

from normscope import Recording
from normscope.commands.claims import ClaimsResult
from normscope.commands.compare import ComparisonResult
from normscope.commands.inspect import InspectionResult
from normscope.errors import InputError
from normscope.judge.comparison import summarize
from normscope.judge.headline import conclude
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import Batch, MemoryPart
from normscope.records.run import load_run

PNG = b"\x89PNG\r\n"


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", epochs=2)


def runs_of(study):
    return tuple(load_run(folder) for folder in sorted((study / "runs").iterdir()))


def page_in(shown):
    return html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1])


def still_in(shown):
    return base64.b64decode(re.search(r"data:image/png;base64,([\w+/=]+)", shown)[1])


def test_a_comparison_shows_its_page_and_a_still_figure(study):
    runs = runs_of(study)
    shown = ComparisonResult(study, runs, summarize(runs, ["batch", "none"], [0.1]))._repr_html_()
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    assert "allow-same-origin" not in shown
    assert page_in(shown).startswith("<!doctype html>")
    assert page_in(shown).rstrip().endswith("</html>")
    assert still_in(shown).startswith(PNG)


def test_the_figure_is_the_one_that_the_command_wrote(study):
    (study / "overview.png").write_bytes(PNG + b"written")
    shown = InspectionResult(study, runs_of(study), (), {}, {})._repr_html_()
    assert still_in(shown) == PNG + b"written"


def test_judged_runs_of_several_folders_show_themselves(study, tmp_path):
    write_recording(study / "runs" / "run0" / "recording.sqlite")
    shown = ClaimsResult(tmp_path, runs_of(study), (), conclude(runs_of(study)))._repr_html_()
    assert '"recordings":[{"name":"batch, learning rate 0.1, seed 0"' in page_in(shown)


def test_nothing_yet_is_a_page_without_a_figure(tmp_path):
    shown = ClaimsResult(tmp_path, (), (), conclude(()))._repr_html_()
    assert "Nothing to show yet" in page_in(shown)
    assert "<img" not in shown


def test_a_recording_writes_its_report_and_shows_itself(tmp_path):
    recording = Recording.load(write_recording(tmp_path / "r.sqlite"))
    path = recording.report(tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert page_in(recording._repr_html_()) == path.read_text()
    assert still_in(recording._repr_html_()).startswith(PNG)
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(InputError, match="is not a normscope report"):
        recording.report(tmp_path / "mine.html")
    with pytest.raises(InputError, match="no folder"):
        recording.report(tmp_path / "missing" / "page.html")


def test_a_recording_in_memory_and_an_empty_one(tmp_path):
    header = Header(
        "Net", "optimizer step", {}, [LayerInfo("bn", "BatchNorm2d", "batch", 2)], {}, "cpu"
    )
    part = MemoryPart(header)
    assert "Net" in page_in(Recording([part])._repr_html_())
    steps, values = np.arange(1, 4), np.ones((3, 2), "<f4")
    part.write(
        Batch(header, [(steps, {("bn", "batch_mean"): values, ("bn", "batch_var"): values})])
    )
    assert "overview_std" in page_in(Recording([part])._repr_html_())


def test_hostile_names_do_not_leave_the_frame(tmp_path):
    recording = Recording.load(write_recording(tmp_path / "r.sqlite", layers=(HOSTILE,)))
    recording.header.model = HOSTILE
    shown = recording._repr_html_()
    assert re.fullmatch(
        r"<iframe [^<>]*></iframe><details><summary>[^<>]*</summary><img [^<>]*></details>", shown
    )
    assert shown.count('"') == 2 * len(
        re.findall(r'(?:title|sandbox|style|srcdoc|alt|src)="', shown)
    )


def test_in_a_browser_the_frame_draws_and_links_stay_inside(chromium, tmp_path):
    shown = Recording.load(write_recording(tmp_path / "r.sqlite"))._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><h1>cell</h1>{shown}")
    page = chromium.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("#view-overview_std svg").wait_for()
    frame.get_by_role("link", name="How this was made").click()
    assert frame.locator("#made-by").is_visible()
    assert frame.locator("#view-overview_std").count() == 1
    assert [url for url in requests if not url.startswith(("file:", "data:", "about:"))] == []
    page.close()
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "notebook.html").as_uri())
    page.locator("summary").click()
    assert page.locator("details img").bounding_box()["height"] > 100
    context.close()
