"""Names of others, on a terminal, in a log, in Markdown, in a spreadsheet and on a page."""

import csv
import html.parser
import io
import re

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from normscope import escapes
from normscope.commands.check import check_state_dict
from normscope.judge.inspection import COLUMNS, to_csv
from normscope.records.export.columns import TEXT, WHOLE, Table, column
from normscope.records.export.folder import write_tables
from normscope.show.terminal import say

NASTY = (
    "\x1b]0;title\x07\x1b[2J", "\u202egnp.exe", "a\n::error title=x::y", "  ::warning::x",
    "##[error]x",     "[/]", "[bold]x", "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "[x](http://e.vil)",
    "http://e.vil", "www.e.vil", "![x](y)", "<script>", "|", "`", "\ud800", "\0", "\u2028",
    "a\u200bb",     "%0A::error::", "</title>",
)  # fmt: skip
texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=[]), max_size=40),
    st.lists(st.sampled_from([*NASTY, "x", " ", "\n"]), max_size=6).map("".join),
)
HARMLESS = re.compile(
    "[^\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]*"
)


def is_quiet(text):
    """Whether a terminal and a log only show it."""
    lines = text.splitlines()
    return HARMLESS.fullmatch(text) and not any(
        line.lstrip().startswith("::") or "##[" in line for line in lines
    )


@given(texts)
@example("::" * 3)
@example("# ##[x")
def test_for_the_terminal_and_a_line(text):
    assert is_quiet(escapes.for_terminal(text))
    assert is_quiet(escapes.for_line(text))
    assert len(escapes.for_line(text).splitlines()) <= 1


@given(st.text("abc_.0123 é漢", max_size=30))
def test_what_is_harmless_stays(text):
    assert escapes.for_terminal(text) == escapes.for_line(text) == text
    assert escapes.for_csv(text) == text
    assert escapes.for_html(text) == text


@given(texts)
def test_for_an_annotation(text):
    for in_property in (False, True):
        escaped = escapes.for_annotation(text, in_property=in_property)
        assert "\n" not in escaped
        assert "\r" not in escaped
        assert not in_property or not set(":,") & set(escaped)
        decoded = escaped.replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",")
        assert HARMLESS.fullmatch(decoded)


@given(texts)
def test_for_markdown(text):
    escaped = escapes.for_markdown(text)
    assert len(escaped.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(\\\\)*[`*\[\]|]", escaped)
    assert "://" not in escaped
    assert "www." not in escaped.lower()
    assert "<" not in escaped


@given(texts)
def test_for_a_page(text):
    seen = []

    class Parser(html.parser.HTMLParser):
        def handle_data(self, data):
            seen.append(data)

        def handle_starttag(self, tag, attributes):
            seen.append((tag, len(attributes)))

    parser = Parser()
    parser.feed(f'<b title="{escapes.for_html(text)}">{escapes.for_html(text)}</b>')
    parser.close()
    assert seen[0] == ("b", 1)
    assert all(isinstance(each, str) for each in seen[1:])
    escapes.for_html(text).encode("utf-8")


@pytest.mark.parametrize("name", NASTY)
def test_a_checkpoint_with_such_a_name(name):
    import torch

    bad = {f"{name}.running_mean": torch.zeros(3), f"{name}.running_var": -torch.ones(3)}
    report = check_state_dict(bad)
    assert report.errors
    assert is_quiet(report.text())
    commands = report.github().splitlines()
    assert len(commands) == len(report.groups)
    assert all(re.match(r"::(error|warning|notice) title=NS", line) for line in commands)
    report.html().encode()


@pytest.mark.parametrize("name", NASTY)
def test_a_text_that_is_said(name):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60)
    say(console, f"run {name}")
    assert is_quiet(console.file.getvalue())  # type: ignore[attr-defined]


FORMULAS = [name for name in NASTY if name.startswith(tuple("=+-@\t\r＝"))]


def test_cells_of_an_export(tmp_path):
    columns = (column("name", TEXT, "a name"), column("number", WHOLE, "a number"))
    table = Table("names", "a name", columns)
    batch = table.batch({"name": [*FORMULAS, None, "plain"], "number": [-1] * (len(FORMULAS) + 2)})
    (path,) = write_tables(tmp_path, "csv", [(table, batch)])
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"'{name}" for name in FORMULAS] + ["", "plain"]
    assert {row["number"] for row in rows} == {"-1"}
    (parquet,) = write_tables(tmp_path, "parquet", [(table, batch)])
    assert pa.parquet.read_table(parquet)["name"].to_pylist()[0] == FORMULAS[0]


def test_cells_of_an_inspection():
    row = dict.fromkeys(COLUMNS) | {"layer": "=HYPERLINK(1)", "weight": -0.5}
    (read,) = csv.DictReader(io.StringIO(to_csv([row])))
    assert (read["layer"], read["weight"]) == ("'=HYPERLINK(1)", "-0.5")
