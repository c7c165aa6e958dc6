"""Names of layers in every output of `check` and in a figure: shown, and nothing else."""

import io
import json
import re
from pathlib import Path

import torch
from rich.console import Console
from trials import amount, attempt_all, generator

from normscope.commands.check import check_state_dict
from normscope.show.figures.style import house_style, label_of, name_rows, new_figure, save
from normscope.show.terminal import say

PARTS = (
    "\x1b[2J", "\x1b]0;t\x07", "\x9b1m", "\r", "\n", "\t", "\0", "\x7f", "\u202e", "\u2066",
    "\u061c",
    "\u200b", "\ufeff", "\u2028", "\ud800", "\udfff", "\U000e0041", "::error::", "##[group]", "%0A",
    "=1+1", "@SUM(1)", "[/]", "[link=x]", "[bold", "$x$", "$", r"\frac{", "^{", "</script>", "<!--",
    "]]>", "&#0;", "__proto__", "constructor", "![x](http://e.vil)", "|", "`", "a", ".", " ", "é",
    "漢",
    "x" * 300,
)  # fmt: skip
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def name_of(number):
    random = generator("names", number)
    return "".join(random.choice(PARTS) for _ in range(random.choice([1, 2, 3, 8])))


def shown(number):
    name = name_of(number)
    values = {"running_mean": torch.zeros(3), "running_var": -torch.ones(3)}
    report = check_state_dict({f"{name}.{key}": value for key, value in values.items()})
    assert report.errors
    text = f"{report.text()}\n{report.listing()}"
    assert not UNSEEN.search(text)
    for line in text.splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    commands = report.github().split("\n")
    assert len(commands) == len(report.groups)
    assert all(re.match("::(error|warning|notice) title=NS", line) for line in commands)
    for written in (report.json(), report.sarif()):
        assert json.loads(written)
        written.encode()
    report.html().encode()
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    say(console, f"run {name}")
    assert not UNSEEN.search(console.file.getvalue())  # type: ignore[attr-defined]
    with house_style():
        figure = new_figure(2, 2)
        figure.suptitle(label_of(name))
        name_rows(figure.add_subplot(), [name])
        save(figure, Path(f"{number}.png"))


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempt_all("names", shown, range(amount(15))).assert_good()
