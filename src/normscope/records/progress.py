"""How far a study is: the runs that a command planned, those that have ended, those in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from normscope.errors import RecordError
from normscope.records.files import write_json
from normscope.records.regular_files import read_json
from normscope.records.run import RECORD_NAME, RUNS, meta_of
from normscope.words import listed, plural

LOCK_NAME = "run.lock"
PLAN_NAME = "plan.json"

PATIENCE_SECONDS = 0.2
"""Time for which training waits for a run's lock: whoever looks at it has it for microseconds."""

MOST_NAMED = 3

OVER = ("finished", "diverged", "failed")
"""The statuses of runs that the command which planned them leaves as they are."""


@dataclass(frozen=True)
class RunProgress:
    """One run's progress, as a worker tells it: `epochs_done` may have a fraction, and the scalars
    are of the last epoch.
    """

    run: str
    epochs_done: float
    train_loss: float | None = None
    test_accuracy: float | None = None
    images_per_second: float | None = None
    unit: str = "image"


@dataclass(frozen=True)
class Progress:
    """The runs of a study in numbers: planned, ended, in training now, and damaged ones."""

    planned: int
    ended: int
    training: int
    damaged: int = 0

    @property
    def state(self) -> str:
        """Return "training", "finished", or "waiting" where runs are left and none is trained."""
        if self.training:
            return "training"
        return "finished" if 0 < self.planned == self.ended else "waiting"

    @property
    def text(self) -> str:
        """Return the state in a sentence."""
        done = f"{self.ended} of {self.planned} {'run' if self.planned == 1 else 'runs'} done"
        if self.training:
            return f"Training: {done}, {self.training} in training."
        if self.state == "finished":
            return f"Finished: {done}."
        if not self.planned:
            return "Waiting: no run has begun."
        return f"Waiting: {done}, none in training now."


def write_plan(study: Path, names: Sequence[str]) -> None:
    """Note which runs a command is about to train in a study's folder, or has found ended there.

    Raises:
        StorageError: if it cannot be written.
    """
    write_json(study / PLAN_NAME, {"runs": list(names)})


def planned_runs(study: Path) -> list[str]:
    """Return the names of the runs that the last command planned; none where that is not known."""
    try:
        names = read_json(study / PLAN_NAME)["runs"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def missing_runs(study: Path) -> str:
    """Name the planned runs of a study that have no record while none is in training: they were not
    begun, or not copied. Empty where there are none.
    """
    planned = planned_runs(study)
    missing = [name for name in planned if not (study / RUNS / name / RECORD_NAME).is_file()]
    if not missing or any(is_training(study / RUNS / name) for name in planned):
        return ""
    return (
        f"{len(missing)} of {plural(len(planned), 'planned run')} of {study}: no record of "
        f"{listed(missing, MOST_NAMED)} (not begun, or not copied)."
    )


def is_training(run: Path) -> bool:
    """Return whether a process is training the run of this folder at this moment.

    It holds the run's lock then. False where that cannot be told, as in a folder of others.
    """
    lock = run / LOCK_NAME
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def progress_of(study: Path, statuses: Mapping[str, str], training: int) -> Progress:
    """Return how far a study is, from its runs' statuses and the number in training."""
    planned = planned_runs(study) or list(statuses)
    ended = sum(statuses.get(name) in OVER for name in planned)
    return Progress(len(planned), ended, training)


def read_progress(study: Path) -> Progress:
    """Return how far a study is, from its files."""
    statuses, training, damaged = {}, 0, 0
    for record in study.glob(f"{RUNS}/*/{RECORD_NAME}"):
        try:
            status = str(meta_of(record.parent).get("status"))
        except RecordError:
            status, damaged = "damaged", damaged + 1
        statuses[record.parent.name] = status
        training += status not in OVER and is_training(record.parent)
    return replace(progress_of(study, statuses, training), damaged=damaged)
