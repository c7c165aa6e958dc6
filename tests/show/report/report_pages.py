"""What a page holds: its content, the numbers of its views, and what a browser draws of them."""

import base64
import json
import re

import numpy as np


def payload_of(path):
    return json.loads(re.search(r'id="payload">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def settle(page):
    """Wait until every chart of a page shows what it should, also where nobody looks.

    Whoever reads what was drawn calls this first: a chart has marks of its last state before.
    """
    page.evaluate("drawRestSoon(0)")
    page.wait_for_selector("body[data-drawn=all]")


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
