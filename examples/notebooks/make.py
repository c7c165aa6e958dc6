"""Run the examples as notebooks and store them with their outputs: `make notebooks`.

What is stored is small and names no place of this machine: the interactive page of a result, a
megabyte, is left out for its still figure; figures are at most 800 pixels wide.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
PIXELS = 800
FRAME = re.compile(r'<iframe title="([^"]*)".*?</iframe>', re.DOTALL)
STILL = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def make(example: Path, target: Path) -> None:
    """Run one example in a folder of its own and write the notebook."""
    notebook = jupytext.read(example)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # where the examples make theirs
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = [each for each in cell.outputs if "TqdmWarning" not in each.get("text", "")]
            cell.outputs = [stored(output, folder) for output in kept]
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, target)


def stored(output: Any, folder: str) -> Any:
    """Return an output as it is kept: without the machine's folders, pages and large figures."""
    data = output.get("data", {})
    if FRAME.search(data.get("text/html", "")):
        note = r"<p><i>\1: the interactive page appears here when you run the notebook.</i></p>"
        still = FRAME.sub(note, data["text/html"]).replace("<details>", "<details open>")
        data["text/html"] = STILL.sub(
            lambda found: f"data:image/png;base64,{small(found[1])}", still
        )
        data["text/plain"] = re.sub(r"\(.*", "", data["text/plain"], flags=re.DOTALL)
    if "image/png" in data:
        data["image/png"] = small(data["image/png"])
    for place in (folder, str(HERE.parents[1]), sys.prefix, str(Path.home())):
        for texts in (output, data):
            for name in ("text", "text/plain", "text/html"):
                if name in texts:
                    texts[name] = texts[name].replace(f"{place}/", "")
    return output


def small(png: str) -> str:
    """Return a figure at most PIXELS wide, in 64 colours, as base64."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.thumbnail((PIXELS, 4 * PIXELS))
    file = io.BytesIO()
    image.quantize(64).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


if __name__ == "__main__":
    for example in sorted(HERE.parent.glob("*.py")):
        make(example, HERE / f"{example.stem}.ipynb")
        print(f"{example.stem}.ipynb: {(HERE / f'{example.stem}.ipynb').stat().st_size:,} bytes")
