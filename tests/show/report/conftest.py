"""A study on disk, and a browser that reports whatever a page does wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_pages import opening, settle
from report_records import write_recording, write_study

from normscope.records.run import RECORDING_NAME
from normscope.show.report.pages import report


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """Two norms, two learning rates, two seeds; one watched run of each norm."""
    folder = write_study(tmp_path_factory.mktemp("studies") / "study", rates=(0.01, 0.1))
    for run in ("run2", "run6"):
        write_recording(folder / "runs" / run / RECORDING_NAME)
    return folder


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    """Debian's chromium, driven by Playwright."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright (pip install playwright)"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("browser tests need chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tab(chromium, tmp_path_factory):
    """Opens an empty tab. A page that stays keeps the process of all tabs with files: one of its
    own would start, and compile Vega, for each, which is a third of what a page costs.
    """
    context = chromium.new_context()
    kept = tmp_path_factory.mktemp("kept") / "kept.html"
    kept.write_text("<!doctype html>")
    context.new_page().goto(kept.as_uri())

    def new_tab(width: int = 1280, scheme: str = "light"):
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        return page

    yield new_tab
    context.close()


@pytest.fixture
def open_page(tab):
    """Opens a file in a tab that is the test's own."""
    with opening(tab) as visit:
        yield visit


@pytest.fixture(scope="session")
def study_path(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return report(study, out=folder / "report.html", command="normscope compare")


@pytest.fixture(scope="module")
def shared_page(tab, study_path):
    """The page of `study` with every chart drawn, loaded once for the tests of a module."""
    with opening(tab) as visit:
        yield visit(study_path, drawn=True)


AS_OPENED = """JSON.stringify([
    Object.entries(state).filter(([name]) => !name.endsWith("Chosen"))
        .map(([name, value]) => [name, value instanceof Set ? [...value] : value]),
    document.querySelectorAll("details[open]").length, location.hash, tooltip.hidden,
])"""


@pytest.fixture
def page(shared_page):
    """`shared_page` as it was opened, all of it drawn: loaded again only where the last test left
    it changed.
    """
    page = shared_page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="screen", color_scheme="light")
    page.mouse.move(1, 1)
    page.evaluate("window.asOpened ??= " + AS_OPENED)
    if page.evaluate("asOpened !== " + AS_OPENED):
        page.evaluate("history.replaceState(null, '', location.pathname)")
        page.reload()
        page.wait_for_selector("#made-by")
        page.evaluate("window.asOpened = " + AS_OPENED)
    page.evaluate("""() => {  // Tab begins at the top again
        const top = document.createElement("span");
        top.tabIndex = -1;
        document.body.prepend(top);
        top.focus();
        top.remove();
        scrollTo(0, 0);
    }""")
    settle(page)
    return page
