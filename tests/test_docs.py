"""The Python blocks of the pages in docs/ run, from the first to the last in one namespace."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
# docs/checks.md is made from the rules, whose tests run its examples.
PAGES = [path for path in sorted(DOCS.glob("*.md"))
         if path.name != "checks.md" and "```python" in path.read_text()]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "docs"}
    for block in BLOCK.finditer(page.read_text()):
        code = compile(block["code"], page.name, "exec")
        if not block["why"]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(code, space)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target


def test_the_index_names_every_page():
    index = (DOCS / "README.md").read_text()
    assert all(f"({page.name})" in index for page in DOCS.glob("*.md") if page.name != "README.md")
