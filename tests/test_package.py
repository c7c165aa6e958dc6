"""The package as a whole: its public names, and that nothing in it names a place of one machine.

That imports point one way is a contract of import-linter in pyproject.toml (`make lint`).
"""

import subprocess
from pathlib import Path

import pytest

import normscope

ROOT = Path(__file__).parents[1]
TEXTS = {".py", ".md", ".toml", ".txt", ".json", ".html", ".js", ""}


def test_the_public_names_are_there():
    for name in normscope.__all__:
        assert getattr(normscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = normscope.nothing


def test_nothing_committed_names_a_place_of_one_machine():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    suspicious = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/")
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in TEXTS and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not any(place in text for place in suspicious), name
