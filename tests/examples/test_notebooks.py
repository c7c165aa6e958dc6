"""The examples run as notebooks, from the first cell to the last, and say what they teach."""

import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def executed(name: str, folder: Path) -> tuple[nbformat.NotebookNode, str]:
    """The notebook after its cells have run in a kernel of its own, and all that they printed."""
    notebook = jupytext.read(EXAMPLES / f"{name}.py")
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return notebook, "".join(output.text for output in outputs if output.output_type == "stream")


def images(notebook: nbformat.NotebookNode) -> int:
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in:\n{text}"
    return float(found[1])


def test_with_and_without_bn(tmp_path):
    notebook, text = executed("with_and_without_bn", tmp_path)
    accuracy = {
        (norm, float(rate)): float(percent)
        for norm, rate, percent in re.findall(
            r"(batch|none) +learning rate (\S+) +accuracy (\S+)%  \(n = 2\)", text
        )
    }
    assert len(accuracy) == 4
    assert accuracy["batch", 0.3] > 90
    assert accuracy["batch", 0.01] > accuracy["none", 0.01] + 30
    assert images(notebook) == 2
    assert "C201 higher-accuracy: cannot tell (n = 2)" in text


def test_inside_one_batchnorm(tmp_path):
    notebook, text = executed("inside_one_batchnorm", tmp_path)
    assert images(notebook) == 3
    assert number(r"own running mean: (\S+)", text) < 1e-5
    assert number(r"output mean - bias: +(\S+)", text) < 1e-5
    assert number(r"output std / \|weight\|: +(\S+)", text) == pytest.approx(1, abs=1e-3)


def test_watch_your_own_model(tmp_path):
    _, text = executed("watch_your_own_model", tmp_path)
    assert "same bits: True" in text
    assert "Sequential: 2 layers, 75 steps (optimizer steps)" in text
    assert "'recordings.csv', 'layers.csv', 'statistics.csv', 'histograms.csv'" in text
    assert re.search(r"recording.report.html: \d.\d MB", text)


def test_find_what_is_broken(tmp_path):
    _, text = executed("find_what_is_broken", tmp_path)
    before, after = map(float, re.findall(r"(\S+)% before, (\S+)% now", text)[0])
    assert after > 95 > 90 > before
    assert "NS104 statistics-stuck" in text
    assert "gone: ['NS104', 'NS501', 'NS502']" in text
    assert text.rstrip().count("0 errors, 0 warnings") == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_for_colab_is_the_example(name):
    ours = jupytext.read(EXAMPLES / f"{name}.py")
    theirs = nbformat.read(EXAMPLES / "notebooks" / f"{name}.ipynb", as_version=4)
    again = f"jupytext --to ipynb --output examples/notebooks/{name}.ipynb examples/{name}.py"
    told = f"{name}.ipynb is behind its example: {again}"
    assert [(cell.cell_type, cell.source) for cell in ours.cells] == [
        (c.cell_type, c.source) for c in theirs.cells
    ], told
    assert not any(cell.get("outputs") for cell in theirs.cells)
    assert f"blob/main/examples/notebooks/{name}.ipynb" in ours.cells[0].source


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
        exec(first.source, {})  # noqa: S102
        Path("normscope-0.1.0-py3-none-any.whl").touch()
        exec(first.source, {})  # noqa: S102
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    assert [command[:-1] for command in called] == [install, install]
    assert re.fullmatch(r"git\+https://github\.com/[\w-]+/[\w-]+", called[0][-1])
    assert called[1][-1] == "normscope-0.1.0-py3-none-any.whl", "the wheel that is at hand"
