"""The wheel, built and installed away from the checkout: commands, the report's files, types."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
import normscope
assert Path(normscope.__file__).is_relative_to(sys.argv[1]), normscope.__file__
import normscope.commands.compare
small = dict(seeds=1, epochs=1, widths=[4, 4, 4], blocks_per_stage=1, fusion="off", jobs=1)
rates = dict(data="digits", norms=["batch"], learning_rates=[0.1])
result = normscope.compare(device="cpu", watch=True, out="study", **rates, **small)
page = normscope.report("study").read_text(encoding="utf-8")
found = {"vega": "vega" in page, "payload": '"recordings"' in page}
print(json.dumps({"runs": len(result.runs), **found}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed into, and the wheel."""
    pytest.importorskip("build", reason="the package build is not installed")
    pytest.importorskip("hatchling", reason="the package hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("normscope-*.whl")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, "--target", folder / "site", wheel], check=True)
    return folder / "site", wheel


def run(site, folder, *command):
    """A command with the installed package first and the checkout nowhere on the path."""
    # an editable install is a .pth file: -S leaves those out, and the dependencies come by their
    # folder
    paths = [str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_in_the_wheel(installed):
    names = zipfile.ZipFile(installed[1]).namelist()
    for asset in ("page.html", "page.css", "page.js", "charts.js", "decode.js", "rows.js"):
        assert f"normscope/show/report/{asset}" in names
    assert "normscope/py.typed" in names
    tracked = subprocess.run(
        ["git", "ls-files", "src/normscope"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert {Path(name).relative_to("src").as_posix() for name in tracked} <= set(names)
    assert not [
        name
        for name in names
        if name.startswith(("tests", "docs", "examples")) or name.endswith(".pyc")
    ]


def test_the_command_of_the_wheel_helps(installed, tmp_path):
    script = "from normscope.cli import main; import sys; sys.argv[0] = 'normscope'; main()"
    helped = run(installed[0], tmp_path, "-c", script, "--help")
    for command in (
        "compare",
        "inspect",
        "explain",
        "study",
        "claims",
        "check",
        "report",
        "export",
    ):
        assert command in helped
    assert (installed[0] / "bin" / "normscope").is_file() or (
        installed[0] / "Scripts" / "normscope.exe"
    ).is_file()
    name, version = run(installed[0], tmp_path, "-c", script, "--version").split()
    assert installed[1].name.startswith(f"{name}-{version}-py3")


def test_the_wheel_trains_and_builds_the_page(installed, tmp_path):
    told = run(installed[0], tmp_path, "-c", SCRIPT, str(installed[0]))
    last = told.strip().splitlines()[-1]
    assert '"runs": 1' in last
    assert '"vega": true, "payload": true' in last
    assert (tmp_path / "study" / "report.html").stat().st_size > 800_000, "Vega is inside"
