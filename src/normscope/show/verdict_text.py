"""Verdicts in words: the table on the terminal, and the Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.judge.headline import Conclusions, counts_text
from normscope.judge.verdicts import EffectEstimate, Verdict, effect_text

STYLES = {
    "supported": "green",
    "contradicted": "red",
    "no difference": "yellow",
    "cannot tell": "dim",
}


def say_conclusions(console: Console, conclusions: Conclusions) -> None:
    """Print the headlines and the counts of verdicts, wrapped between words."""
    for paragraph in conclusions.paragraphs():
        console.print()
        console.print(Text(paragraph, style="bold"))
    if conclusions.counts:
        console.print(Text(f"Claims: {counts_text(conclusions.counts)}"))
    if note := next((each.note for each in conclusions.headlines if each.note), ""):
        console.print(Text(note, style="dim"))
    console.print()


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per claim, of one subject."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=verdicts[0].subject, title_justify="left"
    )
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("effect [95%]")
    table.add_column("n", justify="right", no_wrap=True)
    for verdict in verdicts:
        table.add_row(
            Text(f"{verdict.code} {verdict.name}"),
            Text(verdict.outcome, style=STYLES[verdict.outcome]),
            Text(effect_text(verdict.effect, verdict.unit, verdict.interval)),
            str(verdict.n),
        )
    return table


def open_questions(verdicts: Sequence[Verdict]) -> str:
    """What would settle the claims that are open, one line for each kind of answer; empty where
    none is open.
    """
    codes: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.needs:
            codes.setdefault(verdict.needs, []).append(verdict.code)
    lines = [f"  {', '.join(own)}: {needs}" for needs, own in codes.items()]
    return "\n".join(["What would settle the open ones:", *lines]) if lines else ""


def verdict_page(verdicts: Sequence[Verdict], figures: dict[tuple[str, str], str]) -> str:
    """The Markdown page.

    Args:
        verdicts: of one subject or several.
        figures: {(subject, code): path of the figure, relative to the page}.
    """
    parts = ["# Claims, judged from runs"]
    for subject in dict.fromkeys(verdict.subject for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.subject == subject]
        parts += [f"## {_plain(subject)}", _overview(own)]
        parts += [
            _section(verdict, figures.get((subject, verdict.code)))
            for verdict in own
            if verdict.values
        ]
    return "\n\n".join(parts) + "\n"


def _overview(verdicts: Sequence[Verdict]) -> str:
    lines = [
        "| claim | verdict | effect [95%] | n | what would settle it |",
        "|---|---|---|---|---|",
    ]
    for verdict in verdicts:
        cells = (
            f"{verdict.code} {verdict.name}",
            f"**{verdict.outcome}**",
            effect_text(verdict.effect, verdict.unit, verdict.interval),
            str(verdict.n),
            verdict.needs,
        )
        lines.append(f"| {' | '.join(_plain(cell) for cell in cells)} |")
    return "\n".join(lines)


def _section(verdict: Verdict, figure: str | None) -> str:
    first, second = (_plain(arm) for arm in verdict.arms)
    margin = (
        f"×{verdict.margin:g}" if verdict.unit == "times" else f"{verdict.margin:g} {verdict.unit}"
    )
    lines = [
        f"### {verdict.code} {verdict.name}: {verdict.outcome}",
        "",
        f"> {verdict.statement}",
        "",
        f"[{verdict.source.title}]({verdict.source.link})",
        "",
        f"- Quantity: {_plain(verdict.quantity)}; {first} {'over' if verdict.unit == 'times' else 'minus'} {second}.",
        f"- Effect: {effect_text(verdict.effect, verdict.unit, verdict.interval)}, n = {verdict.n}, "
        f"{_p(verdict.p)} ({verdict.test}); up to {margin} counts as none.",
    ]
    if verdict.improvement is not None:
        lines.append(
            f"- Probability that a value of {first} is better than one of {second}: {verdict.improvement:.2f}."
        )
    if verdict.needs:
        lines.append(f"- What would settle it: {_plain(verdict.needs)}.")
    lines += [
        f"- {_plain(arm)} by seed: {_seeds(values)}." for arm, values in verdict.values.items()
    ]
    lines += [f"- At {_reading(reading)}" for reading in verdict.settings]
    lines += [
        f"- Beside it, {_reading(reading)}"
        for reading in verdict.also
        if reading.effect is not None
    ]
    lines += [f"- {_plain(note)}" for note in verdict.notes]
    if figure is not None:
        lines += ["", f"![{verdict.code}]({figure})"]
    return "\n".join(lines)


def _reading(reading: EffectEstimate) -> str:
    outcome = f": {reading.outcome}" if reading.outcome else ""
    shown = effect_text(reading.effect, reading.unit, reading.interval)
    return f"{_plain(reading.label)}{outcome}, {shown}, n = {reading.n}, {_p(reading.p)}."


def _p(p: float | None) -> str:
    if p is None:
        return "no test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _seeds(values: Mapping[int, float]) -> str:
    return ", ".join(f"{seed}: {value:.4g}" for seed, value in sorted(values.items()))


def _plain(text: str) -> str:
    """A text that may hold a name of the user's, so that Markdown shows it as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
