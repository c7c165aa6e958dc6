"""The sinks that a command writes to, and `normscope export --to tensorboard` (or wandb)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from normscope.errors import NormscopeError
from normscope.records.recording import Recording
from normscope.records.run import run_folders
from normscope.show.sinks.runs import StudyLogs
from normscope.show.sinks.sink import Sink
from normscope.show.sinks.tensorboard_sink import TensorBoard
from normscope.show.sinks.wandb_sink import WandB
from normscope.show.sinks.watched import write_recording
from normscope.show.terminal import say


def chosen_sinks(tensorboard: Path | None, wandb: str | None, study: Path) -> list[Sink]:
    """Return the sinks that were asked for; W&B keeps its files in the study's folder.

    Raises:
        InputError: if a package is missing, or a place cannot be used.
    """
    sinks: list[Sink] = []
    if tensorboard is not None:
        sinks.append(TensorBoard(tensorboard))
    if wandb is not None:
        sinks.append(WandB(wandb, directory=study))
    return sinks


def study_logs(study: Path, sinks: list[Sink], console: Console) -> StudyLogs:
    """Return the logs of a study that is about to be trained; sinks' messages are printed."""
    return StudyLogs(study, sinks, lambda text: say(console, f"normscope: {text}", "yellow"))


def pass_on_study(study: Path, sink: Sink, warn: Callable[[str], None]) -> int:
    """Pass on a study's runs and figures as far as the sink lacks them; returns their number."""
    with StudyLogs(study, [sink], warn) as logs:
        runs = [folder.name for folder in run_folders(study)]
        for run in runs:
            logs.update(run, ended=True)
        logs.figures(sorted([*study.glob("*.png"), *study.glob("claims/*.png")]))
    return len(runs)


def pass_on_recording(path: Path, sink: Sink, warn: Callable[[str], None]) -> None:
    """Pass on a recording, as far as the sink lacks it."""
    try:
        log = sink.open(path.stem, {"recording": path.name}, axis="step")
        write_recording(Recording.load(path), log)
        log.close()
    except NormscopeError:
        raise
    except Exception as error:  # somebody else's code or service
        warn(f"{type(sink).__name__} did not take {path}. {type(error).__name__}: {error}")
