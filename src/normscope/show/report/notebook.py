"""A report inside a notebook's output: the page in a frame of its own, and a still figure where scripts are off."""

from __future__ import annotations

import base64
import html

HEIGHT = 720  # pixels; the frame's lower edge can be dragged


def framed(page: str, still: bytes | None, title: str) -> str:
    """HTML for a notebook.

    The frame is sandboxed: its script can reach neither the notebook nor its server, and only
    offers CSV files to download. Viewers that drop frames, as code hosts do, are left with the
    figure, whose text says what it shows.

    Args:
        page: the whole page.
        still: a PNG, or None.
        title: what is shown, for screen readers and in place of the figure.
    """
    frame = (
        f'<iframe title="{html.escape(title)}" sandbox="allow-scripts allow-downloads" '
        f'style="width:100%;height:{HEIGHT}px;border:1px solid #8885;resize:vertical" srcdoc="{html.escape(page)}">'
        "</iframe>"
    )
    if still is None:
        return frame
    source = f"data:image/png;base64,{base64.b64encode(still).decode('ascii')}"
    figure = f'<img alt="{html.escape(title)}" style="max-width:100%" src="{source}">'
    return f"{frame}<details><summary>The same as a still figure, for where scripts are off</summary>{figure}</details>"
