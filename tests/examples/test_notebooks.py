"""The examples run as notebooks, from the first cell to the last, and say what they teach."""

import base64
import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


SHORTER = {"with_and_without_bn": ("epochs=6", "epochs=4")}
"""{example: (a text in it, what stands in its place here)}."""

BEGIN = """
%reset -f
import os, sys
os.chdir({folder!r})
sys.path.append({tests!r})
from normscope.studies import pipeline
from training_here import TrainsHere
pipeline.ProcessExecutor = TrainsHere
%reset -f
"""
"""What stands before each example in the kernel that they share: loading torch takes longer than
most of them.
"""


def cells_of(name: str) -> list[nbformat.NotebookNode]:
    cells = jupytext.read(EXAMPLES / f"{name}.py").cells
    if name in SHORTER:
        assert sum(cell.source.count(SHORTER[name][0]) for cell in cells) == 1
        for cell in cells:
            cell.source = cell.source.replace(*SHORTER[name])
    return cells


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, list[nbformat.NotebookNode]]:
    """{example: the outputs of its cells}, each run from an empty namespace, in a folder of its
    own.
    """
    cells = {name: cells_of(name) for name in NAMES}
    whole = nbformat.v4.new_notebook()
    for name, own in cells.items():
        folder, tests = str(tmp_path_factory.mktemp(name)), str(Path(__file__).parents[1])
        begin = BEGIN.format(folder=folder, tests=tests)
        whole.cells += [nbformat.v4.new_code_cell(begin.strip()), *own]
    NotebookClient(whole, timeout=240, kernel_name="python3").execute()
    return {
        name: [output for cell in own for output in cell.get("outputs", [])]
        for name, own in cells.items()
    }


def printed(outputs: list[nbformat.NotebookNode]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def images(outputs: list[nbformat.NotebookNode]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in:\n{text}"
    return float(found[1])


def test_with_and_without_bn(outputs):
    text = printed(outputs["with_and_without_bn"])
    accuracy = {
        (norm, float(rate)): float(percent)
        for norm, rate, percent in re.findall(
            r"(batch|none) +learning rate (\S+) +accuracy (\S+)%  \(n = 2\)", text
        )
    }
    assert len(accuracy) == 4
    assert accuracy["batch", 0.3] > 90
    assert accuracy["batch", 0.01] > accuracy["none", 0.01] + 30
    assert images(outputs["with_and_without_bn"]) == 2
    assert "C201 higher-accuracy: cannot tell (n = 2)" in text


def test_inside_one_batchnorm(outputs):
    text = printed(outputs["inside_one_batchnorm"])
    assert images(outputs["inside_one_batchnorm"]) == 3
    assert number(r"own running mean: (\S+)", text) < 1e-5
    assert number(r"output mean - bias: +(\S+)", text) < 1e-5
    assert number(r"output std / \|weight\|: +(\S+)", text) == pytest.approx(1, abs=1e-3)


def test_watch_your_own_model(outputs):
    text = printed(outputs["watch_your_own_model"])
    assert "same bits: True" in text
    assert "Sequential: 2 layers, 75 steps (optimizer steps)" in text
    assert "'recordings.csv', 'layers.csv', 'statistics.csv', 'histograms.csv'" in text
    assert re.search(r"recording.report.html: \d.\d MB", text)


def test_find_what_is_broken(outputs):
    text = printed(outputs["find_what_is_broken"])
    before, after = map(float, re.findall(r"(\S+)% before, (\S+)% now", text)[0])
    assert after > 95 > 90 > before
    assert "NS104 statistics-stuck" in text
    assert "gone: ['NS104', 'NS501', 'NS502']" in text
    assert text.rstrip().count("0 errors, 0 warnings") == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_notebook_is_the_example_with_its_outputs(name):
    ours = jupytext.read(EXAMPLES / f"{name}.py")
    path = EXAMPLES / "notebooks" / f"{name}.ipynb"
    theirs = nbformat.read(path, as_version=4)
    told = f"{name}.ipynb is behind its example: make notebooks"
    assert [(cell.cell_type, cell.source) for cell in ours.cells] == [
        (c.cell_type, c.source) for c in theirs.cells
    ], told
    outputs = [output for cell in theirs.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("text/html" in output.get("data", {}) for output in outputs), "a page or its still"
    assert path.stat().st_size < 1e6
    text = path.read_text(encoding="utf-8")
    assert "iframe" not in text
    assert "OWNER" not in text
    assert not re.findall(r"(?<![\w.<:/])/(?:tmp|home|root|usr|opt|Users|mnt|var)/[\w.]+", text)


def test_what_is_stored_of_an_output_is_small_and_names_no_folder():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    picture = base64.b64encode(png.getvalue()).decode()
    frame = f'<iframe title="T" srcdoc="x">{"y" * 10**6}</iframe>'
    page = f'{frame}<details><img src="data:image/png;base64,{picture}"></details>'
    data = {"text/html": page, "text/plain": "Result(directory=...)", "image/png": picture}
    kept = load_maker().stored({"data": data}, "/somewhere")["data"]
    assert "the interactive page appears here" in kept["text/html"]
    assert kept["text/plain"] == "Result"
    still = re.search(r"base64,([^\"]+)", kept["text/html"])
    assert still
    for encoded in (still[1], kept["image/png"]):
        assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (800, 450)
    told = load_maker().stored({"text": "wrote /somewhere/else/file"}, "/somewhere")
    assert told["text"] == "wrote else/file"


def load_maker():
    spec = importlib.util.spec_from_file_location("maker", EXAMPLES / "notebooks/make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_the_first_code_cell_installs_normscope_where_it_is_missing(name, tmp_path, monkeypatch):
    first = next(
        cell for cell in jupytext.read(EXAMPLES / f"{name}.py").cells if cell.cell_type == "code"
    )
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        exec(first.source, {})  # noqa: S102
        assert called == [], "it is there"
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(FileNotFoundError, match="Put the wheel"):
            exec(first.source, {})  # noqa: S102
        Path("normscope-0.1.0-py3-none-any.whl").touch()
        exec(first.source, {})  # noqa: S102
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    assert called == [[*install, "normscope-0.1.0-py3-none-any.whl"]]
