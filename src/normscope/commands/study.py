"""`normscope study`: grids of runs that share a folder, and the claims judged on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from normscope.arguments import given_path, judged, several
from normscope.errors import InputError, one_of
from normscope.studies.options import (
    MOST_RUNS,
    STUDIES,
    DataOptions,
    GridOptions,
    JobsOption,
    MachineOptions,
    TrainingOptions,
)
from normscope.studies.spec import within
from normscope.words import plural

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.commands.claims import ClaimsResult
    from normscope.studies.grid import Grid
    from normscope.studies.pipeline import Training
    from normscope.studies.spec import RunSpec
    from normscope.studies.study_plans import StudyPlan

_OF_THE_STUDY = "(default: the study's)"
_Count = Annotated[int | None, arg(metavar="INT", help_behavior_hint=_OF_THE_STUDY)]


@dataclass(frozen=True, kw_only=True)
class StudyOptions(MachineOptions, TrainingOptions, JobsOption, DataOptions):
    """Train a grid of runs and judge the usual claims about normalization on it.

    Built in: quick, notebook, blog, learning-rates, initialization, activation-functions,
    batch-size, placement, propagation, landscape, covariate-shift, depth, he2016, transformer,
    transformer-initialization, transformer-placement. The same command resumes where it was
    interrupted; with more seeds it trains only what is new.
    """

    study: Positional[str] = "quick"
    """Name of a built-in study, or a TOML file."""

    sweep: Annotated[tuple[str, ...], arg(metavar="KNOB=A,B,C ...", help_behavior_hint="")] = ()
    """Knobs to vary as well, for example learning_rate=0.01,0.1 initialization_scale=0.1,1,10.
    Numbers of a list, as in widths, are joined by x: widths=8x16x32,16x32x64.
    """

    data: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride]: a study has its own
        str | None, arg(metavar="STR", help_behavior_hint=_OF_THE_STUDY)
    ] = None
    """Data set: digits, cifar10 or images."""

    seeds: _Count = None
    """Number of seeds; 5 means the seeds 0 to 4."""

    epochs: _Count = None
    """Passes over the training images."""

    until_decided: bool = False
    """Add seeds one by one, to the runs of claims that are open and could still be decided, until
    none is. Verdicts hold at any number of seeds.
    """

    max_seeds: int = 20
    """With --until-decided, the most seeds."""

    claims: Annotated[tuple[str, ...], arg(metavar="CODE ...", help_behavior_hint="")] = ()
    """Train only the runs that these claims are judged on, for example C101 C201, and judge these
    claims alone (default: all)."""

    executor: Literal["local", "ray"] = "local"
    """Where runs are trained: in processes of this machine, or as tasks of a Ray cluster
    (normscope[ray]), as many at once as there is room for.
    """

    address: Annotated[
        str | None, arg(metavar="auto|HOST:PORT|local", help_behavior_hint="(default: auto)")
    ] = None
    """With --executor ray, the cluster: the one that runs on this machine (auto), another, or one
    that is started on this machine for this command (local).
    """

    allow_code: bool = False
    """Import normalizations that a study file names as module:callable. It is code: look at it
    first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor not in ("local", "ray"):
            raise InputError(one_of("executor", self.executor, ("local", "ray")))
        within("number of seeds (--max-seeds)", self.max_seeds, 1, MOST_RUNS)
        if self.address is not None and self.executor == "local":
            raise InputError(
                f"--address {self.address} is for --executor ray; the executor is local."
            )

    @property
    def directory(self) -> Path:
        """The folder of the study."""
        return self.out if self.out is not None else STUDIES / Path(self.study).stem

    def overrides(self) -> dict[str, Any]:
        """Return what the user decided, as settings of a grid; the others are the study's."""
        shared = {field.name for field in dataclasses.fields(GridOptions)}
        values = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return {
            field.name: value
            for field, value in values
            if field.name in shared and value != field.default
        }


def run_study(options: StudyOptions) -> int:
    """Run `normscope study` and return its exit status."""
    return 1 if train_study(options).failed else 0


@judged
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
        settings: fields of `StudyOptions`: data, data_dir, seeds, until_decided, max_seeds, claims,
            epochs, jobs, threads, device, precision, fusion, graph, watch, stream, executor,
            address, allow_code, tensorboard, wandb, out.

    Raises:
        InputError: for a study, settings or data that cannot be used, or where no Ray answers at
            the address.
        StorageError: if the folder cannot be written. Finished epochs are kept.
    """
    from normscope.studies.study_plans import checked_values

    for path in ("out", "data_dir", "tensorboard"):
        if settings.get(path) is not None:
            settings[path] = given_path(settings[path], path)
    known = sorted({field.name for field in dataclasses.fields(StudyOptions)} - {"study", "sweep"})
    for setting in settings:
        if setting not in known:
            raise InputError(one_of("setting of a study", setting, known))
    swept = {
        knob: checked_values(knob, list(several(f"sweep of {knob}", values)))
        for knob, values in (sweep or {}).items()
    }
    plan = str(given_path(name, "A study"))
    return train_study(StudyOptions(study=plan, **settings), console, swept)


def train_study(
    options: StudyOptions,
    console: Console | None = None,
    sweep: Mapping[str, tuple[Any, ...]] | None = None,
) -> ClaimsResult:
    """`study`, with its settings as one object; `sweep` adds to the options' own."""
    from rich.console import Console

    from normscope.commands.claims import judge_runs, load_runs
    from normscope.show.report.pages import report_after
    from normscope.show.terminal import say
    from normscope.studies.grid import lay_out, merged_by_data
    from normscope.studies.labels import describe_study
    from normscope.studies.pipeline import open_study
    from normscope.studies.study_plans import find_study, parse_sweeps
    from normscope.studies.until_decided import check_codes

    console = console or Console()
    plan = find_study(options.study, allow_code=options.allow_code)
    check_codes(options.claims)
    plan = plan.swept({**parse_sweeps(options.sweep), **(sweep or {})})
    asked = [grid.options(options.overrides()) for grid in plan.grids]
    laid_out = [lay_out(each, grid.sweep) for each, grid in zip(asked, plan.grids, strict=True)]
    plan, laid_out = _judged_on(plan, laid_out, options.claims)
    shared = asked[0]  # of the options of the machine, which all grids have in common
    with (
        _executor(options) as executor,
        open_study(options.directory, shared, console, executor) as training,
    ):
        folder = training.study.path
        say(console, describe_study(plan, laid_out, training.study, shared.jobs))
        merged, wanted = merged_by_data(laid_out), _wanted(plan, laid_out)
        names = _train(training, merged, shared, wanted, options)
        result = judge_runs(load_runs(training.study, names), folder, console, codes=options.claims)
        training.logs.figures(result.figures)
    if result.failed:
        names = ", ".join(run.directory.name for run in result.failed)
        say(console, f"Failed, and in no verdict: {names}. The same command tries them again.")
    if (page := report_after(folder)) is not None:
        say(console, f"Open {page}")
    return result


@contextmanager
def _executor(options: StudyOptions) -> Iterator[Any]:
    """Yield what trains the runs, reached before anything is written; None for this machine."""
    if options.executor == "local":
        yield None
        return
    from normscope.studies.executors.ray import RayExecutor

    with closing(RayExecutor(options.address or "auto", options.jobs)) as executor:
        yield executor


def _measure(training: Training, grid: Grid, wanted: Mapping[str, Collection[str]]) -> None:
    """Make the measurements that these runs lack, and say which those are."""
    from normscope.show.terminal import say, telling
    from normscope.studies.study_measurements import measure

    with telling(training.console, "Measuring") as tell:
        measured = measure(training.study, grid.specs, grid.dataset, wanted, tell)
    made = [f"{name} of {plural(runs, 'run')}" for name, runs in measured.made.items()]
    if made:
        say(training.console, f"Measured beside training: {', '.join(made)}.")
    if measured.left_out:
        why = next(iter(measured.left_out.values()))
        say(
            training.console,
            f"Not measured in {plural(len(measured.left_out), 'run')}; claims that need it will "
            f"name them. The first: {why}",
        )


def _train(
    training: Training,
    grids: Sequence[Grid],
    shared: GridOptions,
    wanted: Mapping[RunSpec, Collection[str]],
    options: StudyOptions,
) -> set[str]:
    """Train and measure the runs, and with --until-decided those of further seeds; return the names
    of all.
    """
    from normscope.studies.until_decided import UntilDecided, family

    new = [spec for grid in grids for spec in grid.specs]
    seeds = UntilDecided(training.study, options.claims, options.max_seeds)
    while new:
        for grid in grids:
            data = grid.specs[0].data_fingerprint
            own = tuple(spec for spec in new if spec.data_fingerprint == data)
            if own:
                part = dataclasses.replace(grid, specs=own)
                training.train(part, shared, [*seeds.trained, *new])
                _measure(training, part, {spec.id: wanted[family(spec)] for spec in own})
        seeds.trained += new
        new = seeds.next_runs(training.console) if options.until_decided else []
    return {spec.name for spec in seeds.trained}


def _judged_on(
    plan: StudyPlan, grids: Sequence[Grid], codes: Sequence[str]
) -> tuple[StudyPlan, list[Grid]]:
    """Return the part of a study that these claims are judged on; all of it without codes.

    Raises:
        InputError: if that is nothing.
    """
    from normscope.studies.until_decided import family, needed_by

    if not codes:
        return plan, list(grids)
    needed = needed_by(codes, [spec for grid in grids for spec in grid.specs])
    parts = [
        (planned, dataclasses.replace(grid, specs=specs))
        for planned, grid in zip(plan.grids, grids, strict=True)
        if (specs := tuple(spec for spec in grid.specs if family(spec) in needed))
    ]
    if not parts:
        raise InputError(f"No run of this study is of {', '.join(codes)} (--claims).")
    told = f"{plan.description} Only what is judged by {', '.join(codes)}.".lstrip()
    planned, kept = zip(*parts, strict=True)
    return dataclasses.replace(plan, grids=planned, description=told), list(kept)


def _wanted(plan: StudyPlan, grids: Sequence[Grid]) -> dict[RunSpec, set[str]]:
    """Return {run of seed 0: names of the measurements that its grids ask for, of every seed}."""
    from normscope.studies.study_measurements import BY_DEFAULT
    from normscope.studies.until_decided import family

    wanted: dict[RunSpec, set[str]] = {}
    for grid, planned in zip(grids, plan.grids, strict=True):
        for spec in grid.specs:
            names = BY_DEFAULT if planned.measure is None else planned.measure
            wanted.setdefault(family(spec), set()).update(names)
    return wanted
