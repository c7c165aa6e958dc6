"""What a page holds: its content, the numbers of its views, and what a browser draws of them."""

import base64
import json
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def payload_of(path):
    return json.loads(re.search(r'id="payload">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def settle(page):
    """Wait until every chart of a page shows what it should, also where nobody looks.

    Whoever reads what was drawn calls this first: a chart has marks of its last state before.
    """
    page.evaluate("drawRestSoon(0)")
    page.wait_for_selector("body[data-drawn=all]")


@contextmanager
def opening(new_tab, ready: str = "#made-by"):
    """Gives what opens a file; fails on any console message, script error or request to a network.

    Charts are drawn as they come into sight; `drawn` waits for those out of sight as well.
    """
    wrong, pages = [], []

    def visit(path: Path, width: int = 1280, scheme: str = "light", *, drawn: bool = False):
        page = new_tab(width, scheme)
        pages.append(page)
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "blob:")) or wrong.append(request.url),
        )
        page.goto(path.as_uri())
        page.wait_for_selector(ready, timeout=60_000)
        if drawn:
            settle(page)
        return page

    yield visit
    for page in pages:
        page.close()
    assert not wrong


def rows(page, name):
    """What a view shows, as the page's own data: of its present state, drawn or not."""
    view = f"charts.find(({{view}}) => view.name === {json.dumps(name)}).view"
    return page.evaluate(f"SHAPES[{view}.shape]({view}).flatMap(({{rows}}) => [...rows])")


def start_playing(page, section):
    """Press a slider's Play; returns what the button says then, and where the slider is."""
    button = page.locator(section).get_by_role("button", name="Play")
    return button.evaluate("""(button) => {
        button.click();
        return [button.textContent, button.parentElement.querySelector("input").value];
    }""")


def column(view, name):
    return decode(view["table"]["columns"][name])


def curve(view):
    return decode(view["table"]["curve"])


def decode(encoded):
    types = {"float32": "<f4", "uint32": "<u4", "uint16": "<u2", "uint8": "<u1"}
    return np.frombuffer(base64.b64decode(encoded["data"]), types[encoded["kind"]])
