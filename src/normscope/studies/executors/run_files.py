"""A run's files as bytes: sent to a machine that does not see the study's folder, and back."""

from __future__ import annotations

from pathlib import Path

from normscope.records.files import storing, written_aside
from normscope.records.run import RECORD_NAME, RECORDING_NAME, SPEC_NAME, WEIGHTS_NAME
from normscope.records.store import reader

Files = dict[str, bytes]
"""{name: content}."""

NAMES = (SPEC_NAME, RECORDING_NAME, WEIGHTS_NAME, RECORD_NAME)
"""Files that are sent, in the order of writing: the record, which says that a run ended, is last.
"""


def read_files(directory: Path) -> Files:
    """Return the files of a run, between two transactions. Call as the run's only writer.

    Raises:
        RecordError: if a killed writer's transaction cannot be rolled back, for the file is
            damaged.
    """
    found = {}
    for name in NAMES:
        path = directory / name
        if (
            not path.is_file() or path.stat().st_size == 0
        ):  # empty: killed before its first transaction
            continue
        if _journal(path).exists():
            with reader(path):
                pass  # opening it rolls back the transaction of a writer that was killed
        found[name] = path.read_bytes()
    return found


def write_files(files: Files, directory: Path) -> None:
    """Put a run's files in place, each written aside and renamed. Call as the run's only writer.

    Raises:
        StorageError: if one cannot be written.
    """
    with storing(f"write to {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            # the journal of a writer that was killed here would be rolled back into the file that
            # takes its place
            _journal(directory / name).unlink(missing_ok=True)
            if name in files:
                with written_aside(directory / name) as aside:
                    aside.write_bytes(files[name])


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")
