import io
import re

import pytest
from rich.console import Console

from normscope.judge.comparison import Comparison, GroupSummary
from normscope.judge.verdicts import effect_text
from normscope.records.progress import RunProgress
from normscope.show.terminal import StudyProgress, comparison_table, percent, say, telling
from normscope.words import plural


def group(
    norm="batch",
    rate=0.1,
    n=3,
    diverged=0,
    mean=0.9,
    std=0.01,
    threshold=0.85,
    epochs=2.5,
    reached=3,
):
    return GroupSummary(
        norm, rate, n, diverged, mean, std, 0.1, 1.5, 0.25, threshold, epochs, reached, 0.5
    )


def printed(thing, *, terminal=False):
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=terminal)
    if callable(thing):
        thing(console)
    else:
        console.print(thing)
    return file.getvalue()


def comparison(*groups):
    return Comparison((), groups, {}, {}, {}, {}, {})


def test_text_is_wrapped_where_a_width_is_known(monkeypatch):
    text = "of many words " * 20
    assert printed(lambda console: say(console, text)).count("\n") == 1, "a pipe keeps its lines"
    monkeypatch.setenv("COLUMNS", "40")
    file = io.StringIO()
    say(Console(file=file), text)
    assert max(map(len, file.getvalue().splitlines())) <= 40


def test_no_time_is_promised_for_all_runs():
    def progress(console):
        with StudyProgress(console, {"a": "A", "b": "B"}, {"a": 4, "b": 4}) as bars:
            bars.report(RunProgress("a", 1.0))
            bars.ended("a", "done")

    lines = printed(progress, terminal=True).splitlines()
    last = [line for line in lines if "all runs" in line][-1]
    assert "1 of 2 runs" in last
    assert len(re.findall(r"[\d-]+:[\d-]+:[\d-]+", last)) == 1, "the time so far"


def test_of_text_the_table_has_loss_and_perplexity():
    of_text = Comparison((), (group(), group("none", std=None)), {}, {"kind": "text"}, {}, {}, {})
    table = printed(comparison_table(of_text, 20))
    assert "1.500 ± 0.250" in table
    assert "4.48" in table
    assert "threshold" not in table


def test_the_table_says_what_is_missing_instead_of_a_number():
    table = printed(
        comparison_table(
            comparison(
                group(),
                group("none", n=2, diverged=1, epochs=None, reached=1, std=None),
                group("my:norm[x]", n=0, diverged=3, mean=None, std=None, epochs=None, reached=0),
            ),
            20,
        )
    )
    rows = [line.split() for line in table.splitlines()]
    assert ["batch", "0.1", "90.0%", "±", "1.0", "3", "2.5", "0.50", "0"] in rows
    assert ["none", "0.1", "90.0%", "2", ">", "20", "in", "1", "of", "2", "0.50", "1"] in rows
    assert ["my:norm[x]", "0.1", "–", "0", "–", "0.50", "3"] in rows  # markup in a name stays text


def test_percentages():
    assert percent(0.12345) == "12.3%"
    assert percent(None) == "–"


def test_progress_shows_loss_and_accuracy_and_the_end_of_each_run():
    def use(console):
        with StudyProgress(
            console, {"a": "batch  lr 0.1", "b": "[red]none"}, epochs={"a": 4, "b": 4}
        ) as progress:
            progress.report(RunProgress("a", 2.0, 0.5, 0.75, 1234.0))
            progress.report(RunProgress("b", 0.5))
            progress.ended("a", "test 80.0%")
            progress.ended("b", "diverged at step 7", good=False)

    shown = printed(use, terminal=True)
    for words in (
        "epoch 2/4",
        "loss 0.500",
        "test 75.0%",
        "1,234 img/s",
        "2 of 2 runs",
        "diverged at step 7",
    ):
        assert words in shown
    assert "[red]none" in shown

    plain = printed(use)  # a log file: no bars, one line per run
    assert plain.splitlines() == ["✓ batch  lr 0.1  test 80.0%", "✗ [red]none  diverged at step 7"]


def test_what_takes_long_tells_of_itself_now_and_then_where_there_is_no_terminal(monkeypatch):
    now = iter((0.0, 10.0, 31.0, 31.0, 40.0))
    monkeypatch.setattr("normscope.show.terminal.time.monotonic", lambda: next(now))

    def use(console):
        with telling(console, "Measuring") as say:
            for words in ("[a], 1 of 3", "[b], 2 of 3", "[c], 3 of 3"):
                say(words)

    assert printed(use) == "  Measuring [b], 2 of 3\n"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_text_is_wrapped_at_spaces_on_a_terminal_alone(width):
    text = "  NS604, NS605: what would settle a claim, in /a/folder/with-a-name/" + "x" * 50
    file = io.StringIO()
    say(Console(file=file, width=width, force_terminal=True, color_system=None), f"{text}\n{text}")
    lines = file.getvalue().splitlines()
    assert " ".join(" ".join(lines).split()) == " ".join(f"{text} {text}".split())  # no word is cut
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    assert all(line.startswith("  ") for line in lines)
    assert printed(lambda console: say(console, text)) == f"{text}\n"


def test_the_table_fits_80_columns_and_cuts_no_heading():
    file = io.StringIO()
    groups = (group(), group("none", epochs=None, reached=1))
    Console(file=file, width=80).print(comparison_table(comparison(*groups), 20))
    assert "normalization" in file.getvalue()
    assert "> 20 in 2 of 3" in file.getvalue()


def test_counts_and_effects_in_words():
    assert plural(1, "run") == "1 run"
    assert plural(1024, "batch", "batches") == "1,024 batches"
    assert effect_text(1.0, "decades") == "+1 decade"
    assert effect_text(1.0, "decades", (0.5, 1.5)) == "+1 [+0.5, +1.5] decades"
    assert effect_text(-2.25, "points") == "-2.25 points"
    assert effect_text(1.5, "times", (1.2, 1.9)) == "×1.5 [1.2, 1.9]"
    assert effect_text(None, "times") == "–"
