"""The folder of a study: a marker file, one folder per run, and a lock for each run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from normscope.errors import InputError, StorageError
from normscope.escapes import for_line
from normscope.records.files import clear_dead, storing, write_json
from normscope.records.progress import LOCK_NAME, PATIENCE_SECONDS
from normscope.records.regular_files import open_regular, read_json
from normscope.records.run import RECORD_NAME, RECORDING_NAME, RUNS, SPEC_NAME, WEIGHTS_NAME
from normscope.records.run_description import STUDY_MARKER
from normscope.studies.spec import RunSpec
from normscope.version import __version__

MARKER = STUDY_MARKER


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run, with its spec, its record, its final weights and its lock."""

    path: Path

    @property
    def record(self) -> Path:
        """The run's SQLite record."""
        return self.path / RECORD_NAME

    @property
    def weights(self) -> Path:
        """The final weights: a state_dict, to be read with `torch.load(..., weights_only=True)`."""
        return self.path / WEIGHTS_NAME

    @property
    def recording(self) -> Path:
        """The recording of the network's layers, if the run was watched."""
        return self.path / RECORDING_NAME

    @property
    def spec(self) -> Path:
        """The run's spec as JSON."""
        return self.path / SPEC_NAME

    def clear_leftovers(self) -> None:
        """Remove what processes that were killed have left aside, of this and earlier versions.
        Call as the run's only writer.
        """
        for path in self._leftovers():
            with suppress(OSError):
                path.unlink()

    def clear_ended(self) -> None:
        """Remove what is left of a process that was killed when the run had ended."""
        if self._leftovers():
            with suppress(StorageError), self.locked() as ours:
                if ours:
                    self.clear_leftovers()

    def _leftovers(self) -> list[Path]:
        aside = re.compile(r"\.(spec|weights|record|recording)\b.*")
        try:
            return [
                path
                for path in self.path.iterdir()
                if aside.fullmatch(path.name)
                or (path.name.endswith("-journal") and _is_unborn(path))
            ]
        except OSError:  # whether the folder can be used shows when it is
            return []

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Yield whether this process now owns the run; False while another process trains it.

        The lock belongs to the process, so it is gone with it however it ends.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK_NAME)
            lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=PATIENCE_SECONDS / 10)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise StorageError(
                f"Cannot write to {self.path}: {error.strerror or error}."
            ) from error
        try:
            yield True
        finally:
            lock.release()


@dataclass(frozen=True)
class StudyDirectory:
    """The folder of a study. `create` and `find` make one."""

    path: Path

    def run(self, spec: RunSpec) -> RunDirectory:
        """Return the folder of the run of this spec."""
        return RunDirectory(self.path / RUNS / spec.name)

    @staticmethod
    def create(path: Path) -> StudyDirectory:
        """The study at `path`, made where there is none yet.

        Raises:
            InputError: if something else is there; nothing in it is touched.
            StorageError: if the folder cannot be made.
        """
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; expected a folder for the study (--out).")
        clear_dead(path / MARKER)
        with storing(f"make the folder {path}"):
            # another command may be writing the marker aside at this moment
            if path.is_dir() and any(
                not item.name.startswith(".normscope-") for item in path.iterdir()
            ):
                return StudyDirectory.find(path)
            path.mkdir(parents=True, exist_ok=True)
        write_json(
            path / MARKER, {"format": "normscope study", "version": 1, "made_by": __version__}
        )
        return StudyDirectory(path)

    @staticmethod
    def find(path: Path) -> StudyDirectory:
        """The study at `path`.

        Raises:
            InputError: if there is none.
        """
        if not path.is_dir():
            raise InputError(f"There is no folder {path}; expected the folder of a study.")
        try:
            marker = read_json(path / MARKER)
        except FileNotFoundError:
            raise InputError(
                f"{path} is not a normscope study (no {MARKER}); nothing in it was touched. Give a "
                "study's folder, or an empty or new one."
            ) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{path / MARKER} cannot be read: {for_line(str(why))}.") from error
        if (
            not isinstance(marker, dict)
            or marker.get("format") != "normscope study"
            or marker.get("version") != 1
        ):
            raise InputError(
                f"{path} is a study of another version; this normscope ({__version__}) reads 1."
            )
        return StudyDirectory(path)


def _is_unborn(journal: Path) -> bool:
    """Tell if SQLite had not yet given a journal its head, and so will not look at it again."""
    with open_regular(journal) as file:
        return file.read(1) in (b"", b"\0")
