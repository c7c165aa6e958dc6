"""A study on disk, and a browser that reports whatever a page does wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_pages import settle
from report_records import write_recording, write_study

from normscope.records.run import RECORDING_NAME


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


@pytest.fixture
def open_page(chromium):
    """Opens a file; the test fails on any console message, script error or request to a network.

    Charts are drawn as they come into sight; `drawn` waits for those out of sight as well.
    """
    wrong, contexts = [], []

    def visit(path: Path, width: int = 1280, scheme: str = "light", *, drawn: bool = False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "blob:")) or wrong.append(request.url),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("#made-by")
        if drawn:
            settle(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong
