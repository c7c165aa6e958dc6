"""Judging and showing never need torch, and nothing names a place of one machine.

That imports point one way is a contract of import-linter in pyproject.toml (`make lint`).
"""

import subprocess
import sys
from pathlib import Path

import pytest

import normscope

SOURCE = Path(normscope.__file__).parent


def files():
    return sorted(SOURCE.rglob("*.py"))


def test_judging_and_showing_never_import_torch():
    rooms = ("judge", "show", "records")
    modules = [
        ".".join(("normscope", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in files()
        if path.relative_to(SOURCE).parts[0] in rooms
    ]
    script = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    script += "sys.exit('torch is imported' if 'torch' in sys.modules else 0)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_never_imports_torch():
    script = "import sys\nsys.argv = ['normscope', '--help']\nfrom normscope.cli import main\n"
    script += "try: main()\nexcept SystemExit as end: code = end.code\n"
    script += "slow = {'torch', 'sklearn', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules)\n"
    script += "sys.exit(f'{slow} imported' if slow else code)"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_the_public_names_are_there():
    for name in normscope.__all__:
        assert getattr(normscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = normscope.nothing


def test_nothing_committed_names_a_place_of_one_machine():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    suspicious = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/")
    for name in filter(None, tracked.stdout.split("\0")):
        path = Path(__file__).parents[1] / name
        if (
            path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".html", ".js", ""}
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not any(place in text for place in suspicious), name
