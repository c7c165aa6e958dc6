"""A served page in a real browser: what lands appears, where the reader is stays, and a restart is
survived.
"""

import os

import pytest
from filelock import FileLock
from live_server import add_epoch, serving, until
from report_pages import rows, settle
from report_records import write_recording, write_run, write_study

from normscope.records.progress import LOCK_NAME, write_plan
from normscope.records.run import RECORD_NAME, RECORDING_NAME


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", epochs=4, done=2, status="interrupted")


@pytest.fixture(scope="module")
def live_tab(chromium):
    """One tab for all tests: another would compile Vega again."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture
def visit(live_tab):
    """Opens an address; the test fails on a script error, a console message that is not of a lost
    server, or a request to any other place.
    """
    wrong, base = [], []
    page = live_tab
    listeners = {
        "pageerror": lambda error: wrong.append(f"error: {error}"),
        "console": lambda message: "ERR_" in message.text or wrong.append(message.text),
        "request": lambda request: (
            request.url.startswith((*base, "blob:")) or wrong.append(request.url)
        ),
    }

    def open_page(address):
        base.append(address.split("?")[0])
        for event, listener in listeners.items():
            page.on(event, listener)
        page.goto(address)
        page.wait_for_selector("#made-by")
        page.get_by_text("Live: new epochs").wait_for()
        return page

    yield open_page
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    page.evaluate("location.replace('about:blank')")  # from within: the tab keeps its process
    page.wait_for_url("about:blank")
    assert not wrong


def epochs_of(page, seed=0):
    return [
        row["x"]
        for row in rows(page, "train_loss")
        if row["name"] == f"batch, learning rate 0.1, seed {seed}"
    ]


def test_a_new_epoch_appears_without_reload(visit, study):
    with serving(study) as (app, address):
        page = visit(address)
        page.evaluate("window.sameDocument = true")
        settle(page)
        drawn = page.locator("#view-train_loss .mark-line path").first.get_attribute("d")
        add_epoch(study / "runs" / "run0", 3, 0.25)
        until(lambda: page.evaluate("page.runs[0].epochs === 3"))
        assert epochs_of(page) == [1, 2, 3]
        assert rows(page, "train_loss")[2]["y"] == 0.25
        settle(page)
        assert page.locator("#view-train_loss .mark-line path").first.get_attribute("d") != drawn
        add_epoch(study / "runs" / "run0", 4, 0.2, status="finished")
        until(lambda: page.evaluate("page.runs[0].status === 'finished'"))
        assert "0: 90.0%" in page.locator("#summary").inner_text()
        assert page.evaluate("window.sameDocument")
        assert app.sources["study"].builds <= 4


def test_what_the_reader_chose_stays(visit, study):
    with serving(study) as (_, address):
        page = visit(address)
        page.get_by_role("checkbox", name="none", exact=True).uncheck()
        page.get_by_role("slider", name="Smoothing").fill("0.5")
        page.get_by_role("slider", name="Epoch").fill("0")
        page.evaluate("toggleRun(1)")
        page.get_by_role("checkbox", name="1", exact=True).focus()
        page.locator("#view-test_loss").scroll_into_view_if_needed()
        top = "document.getElementById('view-test_loss').getBoundingClientRect().top"
        settle(page)  # what is above as well
        before = page.evaluate(top)
        write_run(study / "runs" / "a-first", "group", 0.1, 0, epochs=4)  # the others' places move
        until(lambda: page.evaluate("page.runs.length === 5"))
        labels = "[...state.selected].map((run) => page.runs[run].label)"
        assert page.evaluate(labels) == ["batch, learning rate 0.1, seed 1"]
        assert page.evaluate("[...state.hiddenArms].map((arm) => page.arms[arm].label)") == ["none"]
        assert not page.get_by_role("checkbox", name="none", exact=True).is_checked()
        assert page.get_by_role("checkbox", name="group", exact=True).is_checked()
        assert page.get_by_role("slider", name="Smoothing").input_value() == "0.5"
        assert page.evaluate("capturedEpochs()[state.epoch]") == 1
        assert page.evaluate("document.activeElement.closest('label').textContent") == "1"
        settle(page)
        assert abs(page.evaluate(top) - before) < 50  # what is read stays where it is


def test_a_study_that_has_nothing_yet_grows_into_a_page(visit, tmp_path):
    study = write_study(tmp_path / "study", norms=())
    with serving(study) as (_, address):
        page = visit(address)
        assert "no run to show so far" in page.locator("main").inner_text()
        write_run(study / "runs" / "run0", "batch", 0.1, 0, epochs=1, status="interrupted")
        page.locator("#view-train_loss svg").wait_for()
        assert "0: interrupted, epoch 1 of 1" in page.locator("#summary").inner_text()
        write_recording(study / "runs" / "run0" / RECORDING_NAME)
        page.locator("#view-overview_std svg").wait_for()
        assert page.locator("#layer h2").inner_text() == "Inside one layer: stem.bn"
        (study / "runs" / "run0" / RECORD_NAME).write_bytes(b"no record")
        page.get_by_text("Not shown:").wait_for()
        assert page.evaluate("charts.length") == 0


def test_the_page_goes_on_when_the_server_is_back(visit, study):
    with serving(study) as (_, address):
        port = int(address.split(":")[2].split("/")[0])
        page = visit(address)
    page.get_by_text("The server does not answer").wait_for()
    add_epoch(study / "runs" / "run0", 3)
    with serving(study, port):
        page.get_by_text("Live: new epochs").wait_for()
        until(lambda: page.evaluate("page.runs[0].epochs === 3"))
        assert epochs_of(page) == [1, 2, 3]


def test_a_page_out_of_sight_holds_no_connection(visit, study):
    with serving(study) as (app, address):
        page = visit(address)
        until(lambda: app.sources["study"].viewers == 1)
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); "
        hide += "document.dispatchEvent(new Event('visibilitychange'))"
        page.evaluate(hide % "true")
        until(lambda: app.sources["study"].viewers == 0)
        add_epoch(study / "runs" / "run0", 3)
        page.evaluate(hide % "false")
        until(lambda: page.evaluate("page.runs[0].epochs === 3"))


def test_the_page_says_how_far_the_study_is(visit, tmp_path):
    study = write_study(
        tmp_path / "study", norms=("batch",), seeds=(0,), epochs=3, done=2, status="interrupted"
    )
    write_plan(study, [f"run{k}" for k in range(9)])
    with serving(study) as (_, address):
        page = visit(address)
        page.get_by_text("Waiting: 0 of 9 runs done, none in training now.").wait_for()
        with FileLock(study / "runs" / "run0" / LOCK_NAME):
            page.get_by_text("Training: 0 of 9 runs done, 1 in training.").wait_for()
            assert "0: still training, epoch 2 of 3" in page.locator("#summary").inner_text()
        page.get_by_text("none in training now").wait_for()  # killed: no file has changed
        add_epoch(study / "runs" / "run0", 3, status="finished")
        page.get_by_text("Waiting: 1 of 9 runs done, none in training now.").wait_for()
        write_plan(study, ["run0"])
        page.get_by_text("Finished: 1 of 1 run done.").wait_for()


def test_the_list_leads_to_each_study(visit, chromium, tmp_path):
    for name in ("one", "below/two"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_study(tmp_path / name, norms=("batch",), epochs=1)
    os.utime(tmp_path / "one" / "runs" / "run0" / RECORD_NAME, (1e9, 1e9))
    os.utime(tmp_path / "one" / "runs" / "run1" / RECORD_NAME, (1e9, 1e9))
    with serving(tmp_path) as (_, address):
        page = chromium.new_page()
        page.goto(address)
        assert page.locator("td.name").all_inner_texts() == ["below/two", "one"]
        page.get_by_role("link", name="below/two").click()
        page.get_by_text("Live: new epochs").wait_for()
        page.close()
