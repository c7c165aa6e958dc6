"""Claims and studies: where runs, verdicts and what shows them meet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from normscope.errors import InputError, RecordError, StorageError, one_of
from normscope.judge.claims import by_subject, judge_all
from normscope.judge.verdicts import Verdict
from normscope.records.files import write_json, write_text
from normscope.records.run import ENDED, RunRecord, load_run, run_folders
from normscope.show.report.pages import report_after, runs_html
from normscope.show.sinks.replay import chosen_sinks, study_logs
from normscope.show.terminal import telling
from normscope.show.verdict_text import open_questions, verdict_page, verdict_table
from normscope.studies.directory import StudyDirectory
from normscope.studies.study import (
    ClaimsOptions,
    StudyOptions,
    StudyPlan,
    checked_values,
    parse_sweeps,
)
from normscope.studies.study_files import find_study

FIGURES = "claims"


@dataclass(frozen=True, eq=False)
class ClaimsResult:
    """What was judged: the folder with the results, the runs, and a verdict for each claim and
    subject.
    """

    directory: Path
    runs: tuple[RunRecord, ...]
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """What claims.json holds."""
        return {"claims": [verdict.to_json() for verdict in self.verdicts]}

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        """The runs that ended with an error."""
        return tuple(run for run in self.runs if run.status == "failed")

    def _repr_html_(self) -> str:
        return runs_html(self.runs, self.directory)


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
    runs = [run for path in options.directories for run in _load(StudyDirectory.find(path))]
    if not runs:
        raise InputError(
            f"There is no run in {', '.join(str(path) for path in options.directories)}."
        )
    _check_named(options, sorted({run.norm for run in runs}))
    return _judge(
        runs,
        options.out or options.directories[0],
        console or Console(),
        options.norm,
        options.reference,
    )


def _check_named(options: ClaimsOptions, known: Sequence[str]) -> None:
    """A normalization that was asked for and that no run has is a slip; the usual ones may be
    missing.

    Raises:
        InputError: for such a one.
    """
    for name in ("norm", "reference"):
        given = getattr(options, name)
        if given != getattr(ClaimsOptions, name) and given not in known:
            raise InputError(
                f"{one_of('normalization', given, known)} These are the ones that the runs have."
            )


def study(
    name: str | Path = "quick",
    *,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    console: Console | None = None,
    **settings: Any,
) -> ClaimsResult:
    """Train the runs of a study and judge the claims on them.

    Args:
        name: a built-in study, or a TOML file.
        sweep: {knob: values} to vary as well.
        console: where to print; None prints to standard output.
        settings: fields of `StudyOptions`: data, data_dir, seeds, epochs, jobs, device, precision,
            fusion, graph, watch, executor, address, allow_code, tensorboard, wandb, out.

    Raises:
        InputError: for a study, settings or data that cannot be used, or where no Ray answers at
            the address.
        StorageError: if the folder cannot be written. Finished epochs are kept.
    """
    for path in ("out", "data_dir", "tensorboard"):
        if settings.get(path) is not None:
            settings[path] = Path(settings[path])
    known = {field.name for field in dataclasses.fields(StudyOptions)} - {"study", "sweep"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            f"Unknown setting {unknown[0]!r} of a study. Known: {', '.join(sorted(known))}."
        )
    swept = {knob: checked_values(knob, list(values)) for knob, values in (sweep or {}).items()}
    return run_study(StudyOptions(study=str(name), **settings), console, swept)


def run_study(
    options: StudyOptions,
    console: Console | None = None,
    sweep: Mapping[str, tuple[Any, ...]] | None = None,
) -> ClaimsResult:
    """`study`, with its settings as one object; `sweep` adds to the options' own."""
    from normscope.commands.compare import (
        tasks_of,
        train_all,
    )  # imports torch, which judging does without

    console = console or Console()
    plan = find_study(options.study, allow_code=options.allow_code)
    plan = plan.swept({**parse_sweeps(options.sweep), **(sweep or {})})
    grids, wanted, shared = _grids(plan, options)
    runs = sum(len(grid.specs) for grid in grids)
    sinks = chosen_sinks(options.tensorboard, options.wandb, options.directory)
    with _executor(options) as executor, study_logs(options.directory, sinks, console) as logs:
        directory = StudyDirectory.create(options.directory)
        console.print(
            f"Study {plan.name}: {runs} runs, into {directory.path}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        for grid in grids:
            train_all(
                tasks_of(grid, directory, shared, console), grid, directory, console, executor, logs
            )
            _measure(directory, grid, wanted, console)
        names = {spec.name for grid in grids for spec in grid.specs}
        result = _judge(_load(directory, names), directory.path, console)
        logs.figures(sorted((directory.path / FIGURES).glob("*.png")))
    if result.failed:
        names = ", ".join(run.directory.name for run in result.failed)
        told = f"Failed, and in no verdict: {names}. The same command tries them again."
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    if (page := report_after(directory.path)) is not None:
        console.print(
            f"Everything on one page: {page}", highlight=False, markup=False, soft_wrap=True
        )
    return result


@contextmanager
def _executor(options: StudyOptions) -> Iterator[Any]:
    """Where the runs are trained, reached before anything is written; None for this machine."""
    if options.executor == "local":
        yield None
        return
    from normscope.studies.executors.ray import RayExecutor

    with closing(RayExecutor(options.address or "auto", options.jobs)) as executor:
        yield executor


def _measure(
    directory: StudyDirectory, grid: Any, wanted: Mapping[str, Collection[str]], console: Console
) -> None:
    """Make the measurements that these runs lack, and say which were made and which could not be."""
    from normscope.studies.study_measurements import measure

    with telling(console, "Measuring") as say:
        found = measure(directory, grid.specs, grid.dataset, wanted, say)
    made = [f"{name} of {runs} run{'s' if runs > 1 else ''}" for name, runs in found.made.items()]
    lines = [f"Measured beside training: {', '.join(made)}."] if made else []
    if found.left_out:
        why = next(iter(found.left_out.values()))
        runs = f"{len(found.left_out)} run{'s' if len(found.left_out) > 1 else ''}"
        lines.append(
            f"Not measured in {runs}; claims that need it will name them. The first: {why}"
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _grids(plan: StudyPlan, options: StudyOptions) -> tuple[list[Any], dict[str, set[str]], Any]:
    """The study's grids, each run in one of them only and one grid for each number of epochs.

    With them, {run id: what is measured of it} and the first grid's options, of which those of the
    machine are shared.
    """
    from normscope.studies.grid import lay_out
    from normscope.studies.study_measurements import BY_DEFAULT

    asked = [grid.options(options.overrides()) for grid in plan.grids]
    laid_out = [lay_out(own, grid.sweep) for own, grid in zip(asked, plan.grids, strict=True)]
    by_epochs: dict[tuple[str, int], dict[str, Any]] = {}
    wanted: dict[str, set[str]] = {}
    for grid, own in zip(laid_out, plan.grids, strict=True):
        for spec in grid.specs:
            wanted.setdefault(spec.id, set()).update(
                BY_DEFAULT if own.measure is None else own.measure
            )
            by_epochs.setdefault((spec.data_fingerprint, spec.epochs), {}).setdefault(
                spec.id, (spec, grid)
            )
    merged = []
    for members in by_epochs.values():
        ordered = sorted(
            members.values(), key=lambda member: member[0].seed
        )  # early stops leave whole seeds
        first = ordered[0][1]
        merged.append(dataclasses.replace(first, specs=tuple(spec for spec, _ in ordered)))
    return merged, wanted, asked[0]


def _load(study: StudyDirectory, names: set[str] | None = None) -> list[RunRecord]:
    """The runs of a study that have a record, in order of their folders; of `names` only, if given."""
    runs = []
    for folder in run_folders(study.path):
        if names is not None and folder.name not in names:
            continue
        try:
            runs.append(load_run(folder))
        except RecordError as error:
            raise RecordError(f"{error} Remove its folder to go on without that run.") from error
    return runs


def _judge(
    runs: Sequence[RunRecord],
    out: Path,
    console: Console,
    norm: str = "batch",
    reference: str = "none",
) -> ClaimsResult:
    runs = _once(runs)
    verdicts = tuple(judge_all(runs, norm, reference))
    result = ClaimsResult(out, runs, verdicts)
    for subject in dict.fromkeys(verdict.subject for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.subject == subject]
        console.print(verdict_table(own))
        console.print(
            open_questions(own), style="dim", highlight=False, markup=False, soft_wrap=True
        )
    _write(result)
    console.print(
        f"Written to {out}: claims.json, claims.md, figures in {FIGURES}/",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return result


def _once(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Each run once, though several folders may hold it; the ended one of two."""
    found: dict[str, RunRecord] = {}
    for run in runs:
        name = run.directory.name  # it ends with the run's id
        if name not in found or found[name].status not in ENDED:
            found[name] = run
    return tuple(found.values())


def _write(result: ClaimsResult) -> None:
    from normscope.show.figures.claims_figure import (
        draw,
    )  # matplotlib takes as long as all of the judging

    folder = result.directory / FIGURES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder {folder}: {error.strerror or error}."
        ) from error
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
