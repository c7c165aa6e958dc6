"""`normscope claims`: the usual claims about normalization, judged on runs that are there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from normscope.commands.results import RunsResult
from normscope.errors import InputError, RecordError, StorageError, one_of
from normscope.studies.options import Folder

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.judge.verdicts import Verdict
    from normscope.records.run import RunRecord
    from normscope.studies.directory import StudyDirectory

FIGURES = "claims"


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """Judge the usual claims about normalization on runs that are there, also on part of a study.

    Writes claims.json, claims.md and a figure for each claim. Nothing is trained.
    """

    directories: Positional[tuple[Path, ...]]
    """Folders of studies; the runs of several are judged together."""

    norm: str = "batch"
    """The normalization that claims are about."""

    reference: str = "none"
    """The one that it is set against."""

    out: Folder = None
    """Where the results go (default: the first folder)."""

    def __post_init__(self) -> None:
        if not self.directories:
            raise InputError("No folder was given; expected the folder of a study.")
        if self.norm == self.reference:
            raise InputError(
                f"--norm and --reference are both {self.norm!r}; expected two normalizations."
            )


@dataclass(frozen=True, eq=False)
class ClaimsResult(RunsResult):
    """The result of `claims`: the folder, the runs, and a verdict for each claim and subject."""

    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what claims.json holds."""
        return {"claims": [verdict.to_json() for verdict in self.verdicts]}

    @property
    def figures(self) -> list[Path]:
        """The figures of the claims, in order."""
        return sorted((self.directory / FIGURES).glob("*.png"))


def run_claims(options: ClaimsOptions) -> int:
    """Run `normscope claims` and return its exit status."""
    judge_directories(options)
    return 0


def claims(
    *directories: str | Path,
    norm: str = "batch",
    reference: str = "none",
    out: str | Path | None = None,
    console: Console | None = None,
) -> ClaimsResult:
    """Judge the claims on the runs of one study or several, also while they are still being
    trained.

    Args:
        directories: folders of studies.
        norm: the normalization that claims are about.
        reference: the one that it is set against.
        out: where claims.json, claims.md and the figures go; None puts them into the first folder.
        console: where to print; None prints to standard output.

    Raises:
        InputError: if a folder is no study, or there is no run.
        RecordError: for a run whose record is damaged.
        StorageError: if the results cannot be written.
    """
    options = ClaimsOptions(
        directories=tuple(Path(each) for each in directories),
        norm=norm,
        reference=reference,
        out=Path(out) if out is not None else None,
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
    _check_norms(options, sorted({run.norm for run in runs}))
    out = options.out or options.directories[0]
    return judge_runs(runs, out, console or Console(), options.norm, options.reference)


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
    norm: str = "batch",
    reference: str = "none",
) -> ClaimsResult:
    """Judge the claims on these runs, print the verdicts, and write them and their figures.

    Args:
        runs: the runs; one that is there twice counts once.
        out: the folder to write to.
        console: where to print.
        norm: the normalization that claims are about.
        reference: the one that it is set against.

    Raises:
        StorageError: if the results cannot be written.
    """
    from normscope.judge.claims import judge_all
    from normscope.show.terminal import say
    from normscope.show.verdict_text import open_questions, verdict_table

    runs = _once(runs)
    verdicts = tuple(judge_all(runs, norm, reference))
    result = ClaimsResult(out, runs, verdicts)
    for subject in dict.fromkeys(verdict.subject for verdict in verdicts):
        of_subject = [verdict for verdict in verdicts if verdict.subject == subject]
        console.print(verdict_table(of_subject))
        say(console, open_questions(of_subject), style="dim")
    _write(result)
    say(console, f"Written to {out}: claims.json, claims.md, figures in {FIGURES}/")
    return result


def _check_norms(options: ClaimsOptions, known: Sequence[str]) -> None:
    """Refuse a normalization that was asked for and that no run has; the usual ones may be missing.

    Raises:
        InputError: for such a one.
    """
    for name in ("norm", "reference"):
        asked = getattr(options, name)
        if asked != getattr(ClaimsOptions, name) and asked not in known:
            unknown = one_of("normalization", asked, known)
            raise InputError(f"{unknown} These are the ones that the runs have.")


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
    from normscope.records.files import write_json, write_text
    from normscope.show.figures.claims_figure import draw
    from normscope.show.verdict_text import verdict_page

    folder = result.directory / FIGURES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"Cannot make the folder {folder}: {reason}.") from error
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
