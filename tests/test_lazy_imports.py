"""What is loaded when: nothing loads a library that it does not use. One process looks at all of
it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import normscope

SOURCE = Path(normscope.__file__).parent

RECORDING = """
import sys, tempfile
import numpy as np
from pathlib import Path
from normscope import Recording
from normscope.records.recording_header import Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart

layer = LayerInfo("bn", "BatchNorm2d", "batch", channels=2, eps=1e-5, momentum=0.1, affine=True)
header = Header("Net", "forward", {}, [layer], {}, "cpu")
values = {("bn", "weight"): np.ones((1, 2), np.float32)}
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "r.sqlite"
    FilePart(path, header).write(Batch(header, [(np.array([1]), values)]))
    recording = Recording.load(path)
    assert "bn" in recording.summary()
    assert recording.query("bn", "weight")[1].shape == (1, 2)
"""

HELP = """
import sys
from normscope.cli import main
sys.argv = ["normscope", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""


def every_module(*rooms):
    """Code that imports all modules of these rooms."""
    paths = [path for room in rooms for path in (SOURCE / room).rglob("*.py")]
    assert len(paths) > 20
    names = [
        ".".join(("normscope", *path.relative_to(SOURCE).with_suffix("").parts)) for path in paths
    ]
    return "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)


CLAIMS = {
    "help": (HELP, "torch sklearn pyarrow matplotlib scipy"),
    "judging, showing and reading": (every_module("judge", "show", "records"), "torch"),
    "a recording is read": (
        RECORDING,
        "torch matplotlib scipy normscope.show.report.build normscope.show.figures",
    ),
    "the rules": ("from normscope.judge.rules import rules; assert rules()", "torch"),
    "figures": (
        "import normscope.show.figures.comparison_figure\n"
        "import normscope.show.figures.activation_distributions\n"
        "import normscope.show.figures.learning_rate_figure\n",
        "torch matplotlib.pyplot",
    ),
    "the report's options": (
        "import normscope.commands.report",
        "torch matplotlib scipy vl_convert",
    ),
    "the server's options": (
        "import normscope.commands.serve",
        "torch starlette uvicorn scipy vl_convert",
    ),
    "the names of data sets": (
        "from normscope.data.sources import DATASETS; assert 'digits' in DATASETS",
        "torch sklearn pyarrow PIL pooch rich",
    ),
    "the executor on Ray": ("import normscope.studies.executors.ray", "ray"),
}
"""{what is done: (the code, what it may not load)}."""

CHILD = """
import json, os, sys, traceback
for name, code in json.load(sys.stdin):
    if os.fork() == 0:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        try:
            exec(code, {})
            error = ""
        except BaseException:
            error = traceback.format_exc()
        print(json.dumps([name, error, sorted(sys.modules)]), file=answers, flush=True)
        os._exit(0)
    os.wait()
"""
"""A fork for each: what one loads is not counted for the next."""


@pytest.fixture(scope="module")
def loaded():
    """{what is done: (error, the modules that were loaded)}."""
    codes = json.dumps([(name, code) for name, (code, _) in CLAIMS.items()])
    child = [sys.executable, "-c", CHILD]
    ended = subprocess.run(child, input=codes, capture_output=True, text=True, check=True)
    answers = map(json.loads, ended.stdout.splitlines())
    return {name: (error, set(modules)) for name, error, modules in answers}


@pytest.mark.parametrize("name", CLAIMS)
def test_nothing_is_loaded_that_is_not_used(loaded, name):
    error, modules = loaded[name]
    assert not error
    assert "normscope" in modules
    assert not modules & set(CLAIMS[name][1].split())
