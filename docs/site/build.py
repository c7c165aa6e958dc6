"""The site: `make site`, or `python docs/site/build.py OUT`. Offline, from the pages in docs/.

Pages are staged under OUT/source, with those that are made: one per rule and claim, the command
line from --help, the API from docstrings, and the report of each result that is committed with its
records. Sphinx turns them into OUT/html with a search that needs no server. A warning of Sphinx, or
a link that leads nowhere, fails the build; addresses outside the site are not tried.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import normscope
from normscope.cli import COMMANDS, main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STAGED = ("*.md", "docs/**/*.md", "docs/**/*.png", "examples/**/*.md", "examples/**/*.py",
          "examples/**/*.ipynb", "benchmarks/*.md",
          "docs/results/*/*.json")  # fmt: skip
SPLIT = {
    "docs/checks.md": (r"### (NS\d+) (.+)", "docs/rules"),
    "docs/claims.md": (r"## (C\d+) (.+)", "docs/claims"),
}
"""Pages of many entries, the heading of one, and the folder of its own page."""

MADE = ("docs/command-line", "docs/api")


def build(out: Path) -> list[str]:
    """Build the site under `out` and return what is wrong with it."""
    shutil.rmtree(out, ignore_errors=True)
    stage(out / "source")
    results = out / "html/docs/results"
    for folder in studies():
        (results / folder.name).mkdir(parents=True)
        normscope.report(folder, out=results / folder.name / "report.html")
    return render(out / "source", out / "html")


def render(source: Path, pages: Path) -> list[str]:
    """Make HTML of staged pages and return what is wrong with it."""
    from sphinx.cmd.build import main as sphinx

    if sphinx(["-q", "-W", "--keep-going", "-c", str(HERE), "-b", "html", str(source), str(pages)]):
        return ["Sphinx has said above what is wrong."]
    shutil.copy(pages / "README.html", pages / "index.html")
    return broken_links(pages)


def studies() -> list[Path]:
    """The results that are committed with their records."""
    return [path.parent for path in sorted((ROOT / "docs/results").glob("*/normscope.json"))]


def stage(source: Path) -> None:
    """Copy the pages to `source` and write those that are made."""
    for pattern in STAGED:
        for path in ROOT.glob(pattern):
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for page, (heading, folder) in SPLIT.items():
        split(source, page, heading, folder)
    (source / "docs/command-line.md").write_text(command_line(), encoding="utf-8")
    shutil.copy(HERE / "api.rst", source / "docs/api.rst")
    for study in studies():
        page = source / "docs/results" / study.name / "README.md"
        page.write_text(page.read_text(encoding="utf-8") + FRAME, encoding="utf-8")
    with (source / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(contents((ROOT / "docs/README.md").read_text(encoding="utf-8")))


FRAME = """
## The report

<p><a href="report.html">Open the page of these runs</a>, made from their records.</p>
<iframe src="report.html" loading="lazy" title="The report of these runs"
 style="width:100%;height:36rem;border:1px solid #8884"></iframe>
"""


def split(source: Path, page: str, heading: str, folder: str) -> None:
    """Give each entry of a staged page a page of its own, and link to those from elsewhere."""
    (source / folder).mkdir()
    parts = re.split(r"(?m)^(?=##+ )", (source / page).read_text(encoding="utf-8"))
    kept, names = [], []
    for part in parts:
        if not (entry := re.match(heading, part)):
            kept.append(part if "\n\n" in part.strip() else "")  # not the mere title of a section
            continue
        names.append(f"{Path(folder).name}/{entry[1]}")
        text = re.sub(r"\]\((?!https?:|#)", "](../", part.lstrip("#"))
        (source / folder / f"{entry[1]}.md").write_text(f"#{text}", encoding="utf-8")
    listed = toctree("", names, shown=f"#{names[0].split('/')[1].lower()}" not in "".join(kept))
    (source / page).write_text("".join(kept) + listed, encoding="utf-8")
    prefix = re.escape(Path(page).name)
    for path in source.rglob("*.md"):
        here = path == source / page
        link = rf"\]\(([\w./]*?){'' if here else prefix}#([a-z]+\d+)-[\w-]+\)"
        to = lambda found: f"]({found[1]}{Path(folder).name}/{found[2].upper()}.md)"  # noqa: E731
        path.write_text(re.sub(link, to, path.read_text("utf-8")), encoding="utf-8")


def toctree(caption: str, pages: list[str], *, shown: bool = False) -> str:
    """Return Sphinx's list of pages, for the sidebar and, if shown, for the page too."""
    options = [":maxdepth: 1" if shown else ":hidden:", *([f":caption: {caption}"] * bool(caption))]
    return "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""])


def contents(index: str) -> str:
    """Return the sidebar: the sections of docs/README.md with the pages that they link."""
    parts = []
    for section in re.split(r"(?m)^## ", index)[1:]:
        caption, text = section.split("\n", 1)
        links = re.findall(r"\]\(([^)#]+)\.md\)", text)
        pages = [link[3:] if link.startswith("../") else f"docs/{link}" for link in links]
        made = MADE if caption == "Reference" else ()
        parts.append(toctree(caption, [page for page in (*pages, *made) if page != "README"]))
    return "".join(parts)


def command_line() -> str:
    """Return the page of all commands, from their --help."""
    parts = ["# The command line\n\n`normscope COMMAND --help` prints the same.\n"]
    for command in COMMANDS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([command, "--help"])
        parts.append(f"## {command}\n\n```text\n{text.getvalue().strip()}\n```\n")
    return "\n".join(parts)


class _Page(HTMLParser):
    """The links of a page, and the places in it that links may lead to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append((tag, value))


def broken_links(folder: Path) -> list[str]:
    """Return what in the pages of a folder leads nowhere, or needs a network to be shown."""
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    ours = [path for path in sorted(map(Path, files)) if path.suffix == ".html"]
    pages = {str(path): _Page(path) for path in ours if path.name != "report.html"}
    return [problem for page in pages for problem in _problems(page, pages, files)]


def _problems(page: str, pages: dict[str, _Page], files: set[str]) -> Iterator[str]:
    for tag, link in dict.fromkeys(pages[page].links):
        parts = urlsplit(unquote(link))
        if parts.scheme or parts.netloc:
            if tag != "a" and parts.scheme != "data":
                yield f"{page}: {link} is fetched from elsewhere"
            continue
        to = posixpath.normpath(f"{posixpath.dirname(page)}/{parts.path}")
        target = to if parts.path else page
        if target not in files:
            yield f"{page}: {link} leads nowhere"
        elif target in pages and parts.fragment not in ("", *pages[target].anchors):
            yield f"{page}: {link} has no such place"


if __name__ == "__main__":
    wrong = build(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or f"Open {sys.argv[1]}/html/index.html", file=sys.stderr)
    sys.exit(bool(wrong))
