"""Verdicts in words: the table on the terminal, and the Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.escapes import for_line, for_terminal
from normscope.escapes import for_markdown as plain
from normscope.judge.headline import Conclusions, counts_text
from normscope.judge.verdicts import MARK, EffectEstimate, Verdict, effect_text, family_sentence
from normscope.words import e_text, p_text, plural

STYLES = {
    "supported": "green",
    "contradicted": "red",
    "negligible": "yellow",
    "no difference": "yellow",
    "cannot tell": "dim",
}


def say_conclusions(console: Console, conclusions: Conclusions) -> None:
    """Print the headlines and the counts of verdicts, wrapped between words."""
    for paragraph in conclusions.paragraphs():
        console.print()
        console.print(Text(for_terminal(paragraph), style="bold"))
    if conclusions.counts:
        console.print(Text(f"Claims: {counts_text(conclusions.counts)}"))
    for family in filter(None, (each.family for each in conclusions.headlines)):
        console.print(Text(family, style="dim"))
    if note := next((each.note for each in conclusions.headlines if each.note), ""):
        console.print(Text(note, style="dim"))
    console.print()


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return one row per claim, of one subject; those without runs are only counted, as the open
    questions say what they need.
    """
    title = Text(for_line(verdicts[0].subject))
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left",
        caption_justify="left",
    )  # fmt: skip
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("effect [95%]")
    table.add_column("n", justify="right", no_wrap=True)
    shown = [verdict for verdict in verdicts if verdict.values or not verdict.needs]
    if left := len(verdicts) - len(shown):
        table.caption = f"{plural(left, 'more claim')} cannot be judged from these runs."
    for verdict in shown:
        table.add_row(
            Text(f"{verdict.code} {verdict.name}"),
            Text(verdict.words + _mark(verdict), style=STYLES[verdict.outcome]),
            Text(effect_text(verdict.effect, verdict.unit, verdict.interval)),
            str(verdict.n),
        )
    return table


def open_questions(verdicts: Sequence[Verdict]) -> str:
    """Return what would settle the open claims, a line per kind of answer; "" where none is."""
    codes: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.needs:
            codes.setdefault(verdict.needs, []).append(verdict.code)
    lines = [f"  {', '.join(of_these)}: {needs}" for needs, of_these in codes.items()]
    return "\n".join(["What would settle the open ones:", *lines]) if lines else ""


def verdict_page(verdicts: Sequence[Verdict], figures: dict[tuple[str, str], str]) -> str:
    """Return the Markdown page.

    Args:
        verdicts: of one subject or several.
        figures: {(subject, code): path of the figure, relative to the page}.
    """
    parts = ["# Claims, judged from runs"]
    for subject in dict.fromkeys(verdict.subject for verdict in verdicts):
        chosen = [verdict for verdict in verdicts if verdict.subject == subject]
        parts += [f"## {plain(subject)}", _overview(chosen)]
        parts += [
            _section(verdict, figures.get((subject, verdict.code)))
            for verdict in chosen
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
            f"**{verdict.words}**{_mark(verdict)}",
            plain(effect_text(verdict.effect, verdict.unit, verdict.interval)),
            str(verdict.n),
            plain(verdict.needs),
        )
        lines.append(f"| {' | '.join(cells)} |")
    sentence = family_sentence(verdicts)
    return "\n".join([*lines, *(["", sentence] if sentence else [])])


def _mark(verdict: Verdict) -> str:
    return f" {MARK}" if verdict.stands else ""


def _section(verdict: Verdict, figure: str | None) -> str:
    first, second = (plain(arm) for arm in verdict.arms)
    ratio = verdict.unit == "times"
    margin = f"×{verdict.margin:g}" if ratio else f"{verdict.margin:g} {verdict.unit}"
    effect = effect_text(verdict.effect, verdict.unit, verdict.interval)
    better = f"Probability that a value of {first} is better than one of {second}"
    points = [
        f"Quantity: {plain(verdict.quantity)}; {first} {'over' if ratio else 'minus'} {second}.",
        f"Effect: {effect}, n = {verdict.n}, {e_text(verdict.e)}; up to {margin} counts as none.",
        *([f"{fixed_n_text(verdict)}."] if verdict.p is not None else []),
        *([f"{better}: {better_text(verdict)}."] if verdict.improvement is not None else []),
        *([f"What would settle it: {plain(verdict.needs)}."] if verdict.needs else []),
        *(f"{plain(arm)} by seed: {_seeds(values)}." for arm, values in verdict.values.items()),
        *(f"At {_estimate(estimate)}" for estimate in verdict.settings),
        *(f"Beside it, {_estimate(each)}" for each in verdict.also if each.effect is not None),
        *map(plain, verdict.notes),
    ]
    lines = [
        f"### {verdict.code} {verdict.name}: {verdict.words}",
        "",
        f"> {verdict.statement}",
        "",
        f"[{verdict.source.title}]({verdict.source.link})",
        "",
        *(f"- {point}" for point in points),
        *(["", f"![{verdict.code}]({figure})"] if figure is not None else []),
    ]
    return "\n".join(lines)


def fixed_n_text(verdict: Verdict) -> str:
    """Return what a test says for which the number of seeds was decided beforehand."""
    ends = effect_text(verdict.effect, verdict.unit, verdict.fixed_interval)
    return f"For n = {verdict.n} decided beforehand: {ends}, {p_text(verdict.p)} ({verdict.test})"


def _estimate(estimate: EffectEstimate) -> str:
    outcome = f": {estimate.outcome}" if estimate.outcome else ""
    effect = effect_text(estimate.effect, estimate.unit, estimate.interval)
    return f"{plain(estimate.label)}{outcome}, {effect}, n = {estimate.n}, {e_text(estimate.e)}."


def better_text(verdict: Verdict) -> str:
    """Probability that a run of the first arm is better, with its interval; "" if unknown."""
    if verdict.improvement is None:
        return ""
    interval = verdict.improvement_interval
    ends = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return f"{verdict.improvement:.2f}{ends}"


def _seeds(values: Mapping[int, float]) -> str:
    return ", ".join(f"{seed}: {value:.4g}" for seed, value in sorted(values.items()))
