"""`normscope check`: a model, a state_dict or a loader is examined and judged, also in one call."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import msgspec
import tyro

from normscope.arguments import given_path, judged
from normscope.errors import InputError, StorageError, first_line, one_of
from normscope.records.regular_files import read_toml
from normscope.studies.options import Folder, as_path
from normscope.user_models.checkpoint_files import load_checkpoint
from normscope.user_models.loading import is_checkpoint, load_batches, load_into, make_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from normscope.judge.check_report import CheckReport


def _option(metavar: str, default: str = "") -> Any:
    """Return what `--help` says of an option that is None unless it is given."""
    hint = f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Settings that pyproject.toml may hold, too."""

    data: Annotated[str | None, _option("STR")] = None
    """Batches: a data set (digits, cifar10, images) in training batches, as `normscope compare`
    makes them; a function without arguments that yields batches, as module:name; or a file of
    inputs (.npy, .pt). Give training data. Without it only what can be seen without running is
    judged.
    """

    data_dir: Folder = None
    """Folder of the data set; as for `normscope compare`."""

    batch_size: Annotated[int | None, _option("INT", "128; of a file 64")] = None
    """Samples in a batch of a data set or a file of inputs."""

    select: Annotated[tuple[str, ...] | None, _option("RULE ...", "all")] = None
    """Codes or names of the rules to ask; NS5 stands for all of NS5xx."""

    ignore: Annotated[tuple[str, ...] | None, _option("RULE ...", "none")] = None
    """Codes or names of rules not to ask."""

    fail_on: Annotated[Literal["error", "warning"] | None, _option("{error,warning}", "error")] = (
        None
    )
    """The level from which the exit status is 1."""

    format: Annotated[
        Literal["text", "json", "sarif", "github", "html"] | None,
        _option("{text,json,sarif,github,html}", "text"),
    ] = None
    """How to print."""

    world_size: Annotated[int | None, _option("INT", "1")] = None
    """Processes that train the model together."""

    export: Annotated[bool | None, _option("{True,False}", "False")] = None
    """The model is about to be exported, fused, quantized or compiled."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}.")


@dataclass(frozen=True)
class CheckOptions(CheckSettings):
    """Find the ways normalization breaks in a model: modes, statistics, settings, freezing,
    batches.

    What is not given comes from [tool.normscope.check] in pyproject.toml. Ends with 0 if there is
    nothing at or above the level of --fail-on, 1 if there is, 2 for bad input and where no
    normalization layer was recognized.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:FACTORY|CHECKPOINT")]
    """What to check: a function without arguments (or a class) that returns the model, as
    module:name; or a checkpoint (a file, an index of shards, a model's folder), of whose
    normalization layers the values are judged.
    """

    checkpoint: Annotated[Path | None, _option("FILE")] = field(default=None, kw_only=True)
    """Load this state_dict into the model first. Nothing in it is executed."""

    list: bool = field(default=False, kw_only=True)
    """Say of each layer what it was taken for and why, and what it does, before the findings."""

    output: Annotated[Path | None, _option("FILE")] = field(default=None, kw_only=True)
    """Write the report to this file and not to standard output."""


def run_check(options: CheckOptions, directory: Path | None = None) -> int:
    """Run `normscope check` and return its exit status. Settings come from the pyproject.toml in
    `directory`.

    Raises:
        InputError: for what cannot be used.
        StorageError: if the report cannot be written.
    """
    settings = read_settings(directory or Path.cwd())
    left_open = {name: each for name, each in settings.items() if getattr(options, name) is None}
    options = replace(options, **left_open)
    report = _report(options)
    _write(report, options)
    if report.saw_no_layer and not report.errors:
        print(
            f"normscope: {options.model} has no layer that is known to normalize: none was judged.",
            file=sys.stderr,
        )
        return 2
    return 1 if report.errors or (options.fail_on == "warning" and report.warnings) else 0


def _write(report: CheckReport, options: CheckOptions) -> None:
    """Print the report, or write it to --output. A page replaces nothing but another report."""
    if options.format == "html":
        from normscope.show.report.pages import check_page

        text = check_page(report, options.model, options.output)
    else:
        text = getattr(report, options.format or "text")()
        if options.list and report.recognized and options.format in (None, "text"):
            text = f"{report.listing()}\n\n{text}"
    if options.output is None:
        if text:
            print(text)
        return
    if options.format != "html":
        try:
            options.output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"Cannot write {options.output}: {error.strerror}.") from error
    print(f"{'Open' if options.format == 'html' else 'Written:'} {options.output}")


def read_settings(directory: Path) -> dict[str, Any]:
    """Return [tool.normscope.check] of the nearest pyproject.toml; {} without one.

    Raises:
        InputError: if it is no TOML, or holds a setting that is not known or of another type.
    """
    above = (folder / "pyproject.toml" for folder in (directory, *directory.parents))
    path = next((path for path in above if given_path(path).exists()), None)
    if path is None:
        return {}
    try:
        table: Any = read_toml(path)
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {first_line(error)}.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    for key in ("tool", "normscope", "check"):
        table = table.get(key, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise InputError(f"{path}: tool.normscope.check is no table.")
    read = dict(_setting(name, value, path) for name, value in table.items())
    if "data_dir" in read:
        read["data_dir"] = path.parent / read["data_dir"]
    return read


def _setting(name: str, value: Any, path: Path) -> tuple[str, Any]:
    field, kinds = name.replace("-", "_"), get_type_hints(CheckSettings)
    if field not in kinds:
        known = [kind.replace("_", "-") for kind in kinds]
        raise InputError(f"{path}: {one_of('setting of [tool.normscope.check]', name, known)}")
    try:
        converted = msgspec.convert(value, kinds[field], dec_hook=as_path)
        return field, getattr(CheckSettings(**{field: converted}), field)
    except (msgspec.ValidationError, InputError, RecursionError) as error:
        what = f"{path}: [tool.normscope.check] {name} = {_short(value)} is no value for it"
        raise InputError(f"{what}: {str(error).rstrip('.')}.") from error


def _short(value: Any) -> str:
    try:
        return repr(value)[:60]
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        return f"a {type(value).__name__}"


def _report(options: CheckOptions) -> CheckReport:
    from normscope.judge.rules import choose

    chosen: dict[str, Any] = {"select": options.select or (), "ignore": options.ignore or ()}
    choose(**chosen)
    if is_checkpoint(options.model):
        if options.data or options.checkpoint:
            raise InputError(
                "A checkpoint alone cannot be run: give the model as module:factory, and "
                "--checkpoint."
            )
        return check_state_dict(load_checkpoint(Path(options.model)), **chosen)
    model = make_model(options.model)
    keys: CheckReport | None = None
    if options.checkpoint is not None:
        state = load_checkpoint(options.checkpoint)
        keys = check_state_dict(state, model, select=["NS704"])
        load_into(model, state, options.checkpoint)
    if options.data_dir is not None and options.data is None:
        raise InputError("--data-dir is the folder of a data set: name it with --data.")
    batches = (
        load_batches(options.data, options.batch_size, options.data_dir) if options.data else None
    )
    report = check(
        model,
        batches,
        world_size=1 if options.world_size is None else options.world_size,
        export=bool(options.export),
        **chosen,
    )
    wanted = {rule.code for rule in choose(**chosen)}
    found = [finding for finding in keys or () if finding.code in wanted]
    return replace(report, findings=(*found, *report.findings)) if found else report


@judged
def check(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    recording: Any = None,
    other: Any = None,
    loader: Any = None,
    world_size: int = 1,
    export: bool = False,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> CheckReport:
    """Look for the ways in which normalization breaks in a model. The model is left bitwise as it
    was.

    Args:
        model: the model. On its own, its modules, modes, buffers and settings are judged.
        batches: training batches: tensors, (input, target) pairs or dicts. The first 16 are run
            through the model in eval mode and with batch statistics.
        optimizer: the one that trains it; several in a list.
        recording: a Recording of its training.
        other: a model, callable or state_dict that should agree with it: an average, a converted or
            a fused one.
        loader: the training loader; nothing is drawn from it.
        world_size: processes that train it together.
        export: it is about to be exported, fused, quantized or compiled.
        select: codes (also cut short: NS5) or names of the rules to ask; all if empty.
        ignore: those not to ask.

    Raises:
        InputError: if an argument is not what it should be, or the model fails in eval mode.
    """
    from normscope.examining.examine import examine
    from normscope.judge.check_report import judge
    from normscope.judge.history import read_history
    from normscope.judge.rules import choose

    choose(select, ignore)  # a misspelt code is said before the model runs
    if world_size < 1:
        raise InputError(f"world_size must be at least 1, not {world_size}.")
    history = read_history(recording) if recording is not None else None
    examination = examine(
        model,
        batches,
        optimizer=optimizer,
        other=other,
        loader=loader,
        history=history,
        world_size=world_size,
        export=export,
    )
    return judge(examination, select, ignore)


@judged
def check_state_dict(
    state: Any, model: nn.Module | None = None, *, other: Any = None, select: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> CheckReport:  # fmt: skip
    """Judge a state_dict: running statistics, gains and biases of its normalization layers, and
    whether it fits a model.

    Args:
        state: a state_dict, or a checkpoint that holds one.
        model: the model that it is for; then missing and misshapen entries are reported.
        other: a state_dict that should agree with it.
        select, ignore: as for `check`.

    Raises:
        InputError: if it is no state_dict.
    """
    from normscope.examining.examine import examine_state
    from normscope.judge.check_report import judge
    from normscope.judge.rules import choose

    choose(select, ignore)
    return judge(examine_state(state, model, other), select, ignore)


@judged
def check_loader(
    loader: Any,
    *,
    world_size: int = 1,
    devices: int = 1,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> CheckReport:
    """Judge a training loader: its last batch, its order. Nothing is drawn from it.

    Args:
        loader: a DataLoader, or anything with a batch_size.
        world_size: processes that train together.
        devices: devices over which DataParallel splits a batch.
        select, ignore: as for `check`.

    Raises:
        InputError: if it is no loader.
    """
    from normscope.examining.examine import examine_loader
    from normscope.judge.check_report import judge
    from normscope.judge.rules import choose

    choose(select, ignore)
    return judge(examine_loader(loader, world_size, devices), select, ignore)
