"""The site: what is made for it, and that a link which leads nowhere fails it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import normscope
from normscope.cli import COMMANDS
from normscope.judge.claims import claims
from normscope.judge.rules import rules


@pytest.fixture(scope="module")
def site(site_script: Callable[[str], ModuleType]) -> ModuleType:
    return site_script("build")


@pytest.fixture(scope="module")
def staged(site: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("site") / "source"
    site.stage(source)
    return source


def test_every_rule_claim_and_command_has_its_place(staged: Path):
    for rule in rules():
        text = (staged / f"docs/rules/{rule.code}.md").read_text()
        assert text.startswith(f"# {rule.code} {rule.name}\n")
        assert rule.reference in text
    for claim in claims():
        text = (staged / f"docs/claims/{claim.code}.md").read_text()
        assert claim.statement in text
        assert claim.source.link in text
    commands = (staged / "docs/command-line.md").read_text()
    assert all(f"\n## {name}\n" in commands for name in COMMANDS)
    assert "--fail-on" in commands


def test_nothing_of_a_split_page_is_lost(staged: Path):
    text = (staged / "docs/claims.md").read_text()
    assert "## Not judged" in text
    assert "C101" not in text.split("```{toctree}")[0]


def test_links_to_a_rule_lead_to_its_page(staged: Path):
    assert "(rules/NS104.md)" in (staged / "docs/checks.md").read_text()
    assert not [page for page in staged.rglob("*.md") if "checks.md#ns" in page.read_text()]


def test_every_page_is_in_the_sidebar(staged: Path):
    entries = re.findall(r"^(docs/[\w-]+)$", (staged / "README.md").read_text(), re.MULTILINE)
    pages = {f"docs/{path.stem}" for path in (staged / "docs").glob("*.md")}
    assert set(entries) == pages - {"docs/README"} | {"docs/api"}


def test_every_public_name_is_in_the_api():
    text = (Path(__file__).parents[1] / "docs/site/api.rst").read_text()
    named = set(re.findall(r":: normscope\.(\w+)", text))
    assert set(normscope.__all__) - {"__version__"} <= named


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("<a href='there.html#at'>", None),
        ("<a href='https://example.org/'>", None),
        ("<a href='there.html#no'>", "there.html#no has no such place"),
        ("<a href='../not.html'>", "../not.html leads nowhere"),
        ("<img src='not%20here.png'>", "not%20here.png leads nowhere"),
        ("<script src='https://cdn.example.org/x.js'>", "x.js is fetched from elsewhere"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(site: ModuleType, tmp_path: Path, page, problem):
    (tmp_path / "there.html").write_text("<p id='at'>")
    (tmp_path / "page.html").write_text(page)
    found = site.broken_links(tmp_path)
    assert found == [] if problem is None else len(found) == 1 and found[0].endswith(problem)


@pytest.mark.parametrize("target", ["other.md", "other.md#a-title", "missing.md", "other.md#none"])
def test_a_small_site_is_built_and_a_broken_link_fails_it(site: ModuleType, tmp_path: Path, target):
    pytest.importorskip("sphinx", reason="the dependency group docs is not installed")
    source = tmp_path / "source"
    source.mkdir()
    toctree = site.toctree("Part", ["other"])
    (source / "README.md").write_text(f"# Home\n\n[a link]({target})\n{toctree}")
    (source / "other.md").write_text("# Other\n\n## A title\n\nNS404 is a word to search.\n")
    wrong = site.render(source, tmp_path / "html")
    if target in ("other.md", "other.md#a-title"):
        assert wrong == []
        assert "ns404" in (tmp_path / "html/searchindex.js").read_text()
        assert (tmp_path / "html/index.html").read_text().count("other.html") >= 2
    else:
        assert wrong
