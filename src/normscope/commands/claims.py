"""`normscope claims`: the usual claims about normalization, judged on runs that are there."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from normscope.arguments import given_path, judged
from normscope.commands.compare import RunsResult
from normscope.errors import InputError, RecordError, one_of
from normscope.studies.options import Folder

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.judge.headline import Conclusions
    from normscope.judge.verdicts import Verdict
    from normscope.records.run import RunRecord
    from normscope.studies.directory import StudyDirectory

FIGURES = "claims"

_COMPARED = "(default: what was compared, batch against none where there are such runs)"


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """Judge the usual claims about normalization on runs that are there, also on part of a study.

    Writes claims.json, claims.md and a figure for each claim. Nothing is trained.
    """

    directories: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="DIR ...", help_behavior_hint="(required)")
    ]
    """Folders of studies; the runs of several are judged together."""

    norm: Annotated[str | None, arg(metavar="STR", help_behavior_hint=_COMPARED)] = None
    """The normalization that claims are about."""

    reference: Annotated[str | None, arg(metavar="STR", help_behavior_hint=_COMPARED)] = None
    """The one that it is set against."""

    out: Folder = None
    """Where the results go (default: the first folder)."""

    def __post_init__(self) -> None:
        if not self.directories:
            raise InputError("No folder was given; expected the folder of a study.")
        if self.norm is not None and self.norm == (self.reference or "none"):
            raise InputError(
                f"--norm and --reference are both {self.norm!r}; expected two normalizations."
            )


@dataclass(frozen=True, eq=False)
class ClaimsResult(RunsResult):
    """The result of `claims`: the folder, the runs, and a verdict for each claim and subject."""

    verdicts: tuple[Verdict, ...]
    conclusions: Conclusions

    def to_json(self) -> dict[str, Any]:
        """Return what claims.json holds."""
        claims = [verdict.to_json() for verdict in self.verdicts]
        return self.conclusions.to_json() | {"claims": claims}

    @property
    def figures(self) -> list[Path]:
        """The figures of the claims, in order."""
        return sorted((self.directory / FIGURES).glob("*.png"))


def run_claims(options: ClaimsOptions) -> int:
    """Run `normscope claims` and return its exit status."""
    result = judge_directories(options)
    print(f"Open {result.directory / 'claims.md'}")
    return 0


@judged
def claims(
    *directories: str | Path,
    norm: str | None = None,
    reference: str | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> ClaimsResult:
    """Judge the claims on the runs of one study or several, also while they are still being
    trained.

    Args:
        directories: folders of studies.
        norm: the normalization that claims are about; None: the one that was compared, batch norm
            where there is one.
        reference: the one that it is set against; None: no normalization where there is such a run.
        out: where claims.json, claims.md and the figures go; None puts them into the first folder.
        console: where to print; None prints to standard output.

    Raises:
        InputError: if a folder is no study, or there is no run.
        RecordError: for a run whose record is damaged.
        StorageError: if the results cannot be written.
    """
    options = ClaimsOptions(
        directories=tuple(given_path(each, "A study") for each in directories),
        norm=norm,
        reference=reference,
        out=given_path(out, "out") if out is not None else None,
    )
    return judge_directories(options, console)


def judge_directories(options: ClaimsOptions, console: Console | None = None) -> ClaimsResult:
    """`claims`, with its settings as one object."""
    from rich.console import Console

    from normscope.studies.directory import StudyDirectory

    runs = [run for path in options.directories for run in load_runs(StudyDirectory.find(path))]
    if not runs:
        folders = ", ".join(str(path) for path in options.directories)
        raise InputError(f"There is no run in {folders}.")
    arms = _arms(options, runs)
    return judge_runs(runs, options.out or options.directories[0], console or Console(), arms)


def load_runs(study: StudyDirectory, names: set[str] | None = None) -> list[RunRecord]:
    """Return the runs of a study that have a record, in order of their folders.

    Args:
        study: the study.
        names: of these folders only; None: of all.

    Raises:
        RecordError: for one that is damaged, with what to do.
    """
    from normscope.records.run import load_run, run_folders

    folders = [path for path in run_folders(study.path) if names is None or path.name in names]
    try:
        return [load_run(folder) for folder in folders]
    except RecordError as error:
        raise RecordError(f"{error} Remove its folder to go on without that run.") from error


def judge_runs(
    runs: Sequence[RunRecord],
    out: Path,
    console: Console,
    arms: tuple[str, str] | None = None,
    codes: Collection[str] = (),
) -> ClaimsResult:
    """Judge the claims on these runs, print the verdicts, and write them and their figures.

    Args:
        runs: the runs; one that is there twice counts once.
        out: the folder to write to.
        console: where to print.
        arms: the normalization that claims are about and the one that it is set against; None:
            those that were compared.
        codes: of the claims; empty: every claim.

    Raises:
        StorageError: if the results cannot be written.
    """
    from normscope.judge.claims import compared, judge_all
    from normscope.judge.headline import conclude
    from normscope.show.terminal import say
    from normscope.show.verdict_text import open_questions, say_conclusions, verdict_table

    runs = _once(runs)
    arms = arms or compared(runs)
    verdicts = tuple(judge_all(runs, *arms, codes))
    result = ClaimsResult(out, runs, verdicts, conclude(runs, verdicts, arms))
    for subject in dict.fromkeys(verdict.subject for verdict in verdicts):
        of_subject = [verdict for verdict in verdicts if verdict.subject == subject]
        console.print(verdict_table(of_subject))
        say(console, open_questions(of_subject), style="dim")
    _write(result)
    say_conclusions(console, result.conclusions)
    say(console, f"Written to {out}: claims.json, claims.md, figures in {FIGURES}/")
    return result


def _arms(options: ClaimsOptions, runs: Sequence[RunRecord]) -> tuple[str, str]:
    """Return the two normalizations that are judged: as asked for, else those that were compared.

    Raises:
        InputError: for one that was asked for and that no run has.
    """
    from normscope.judge.claims import compared

    known = sorted({run.norm for run in runs})
    for asked in filter(None, (options.norm, options.reference)):
        if asked not in known:
            unknown = one_of("normalization", asked, known)
            raise InputError(f"{unknown} These are the ones that the runs have.")
    return compared(runs, options.norm, options.reference)


def _once(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Return each run once, though several folders may hold it; the ended one of two."""
    from normscope.records.run import ENDED

    by_name: dict[str, RunRecord] = {}
    for run in runs:
        name = run.directory.name  # it ends with the run's id
        if name not in by_name or by_name[name].status not in ENDED:
            by_name[name] = run
    return tuple(by_name.values())


def _write(result: ClaimsResult) -> None:
    from normscope.judge.claims import by_subject
    from normscope.records.files import storing, write_json, write_text
    from normscope.show.figures.claims_figure import draw
    from normscope.show.verdict_text import verdict_page

    folder = result.directory / FIGURES
    with storing(f"make the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    subjects = by_subject(result.runs)
    figures = {}
    for verdict in result.verdicts:
        if not verdict.values or not all(verdict.values.values()):
            continue
        suffix = f"-{_slug(verdict.subject)}" if len(subjects) > 1 else ""
        path = folder / f"{verdict.code}-{verdict.name}{suffix}.png"
        draw(verdict, subjects[verdict.subject], path)
        figures[verdict.subject, verdict.code] = f"{FIGURES}/{path.name}"
    for path in folder.glob("C*.png"):  # of an earlier judging
        if re.match(r"C\d+-", path.name) and f"{FIGURES}/{path.name}" not in figures.values():
            path.unlink(missing_ok=True)
    write_json(result.directory / "claims.json", result.to_json())
    write_text(result.directory / "claims.md", verdict_page(result.verdicts, figures))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
