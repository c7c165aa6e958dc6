"""The folder of an export: files written aside and renamed, and a list to recognize them by."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from normscope.errors import InputError
from normscope.escapes import for_csv
from normscope.records.export.columns import TEXT, Table
from normscope.records.files import storing, write_json, written_aside
from normscope.records.regular_files import open_regular, read_json

MANIFEST = "normscope-export.json"
"""Names an export's files with their checksums; any other file is somebody else's."""

ROWS_AT_ONCE = 100_000
"""Rows that are collected before they are written: one row group in parquet."""


def write_tables(
    folder: Path, kind: str, rows: Iterable[tuple[Table, pa.RecordBatch]]
) -> list[Path]:
    """Write tables as `<table>.parquet` or `<table>.csv` into a folder, which is made; returns the
    files.

    All files are written aside first, then renamed, so an error leaves an earlier export as it was.

    Raises:
        InputError: if the folder is a file, or a file of one of these names is there that no export
            wrote.
        StorageError: if something cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder for the tables (--out).")
    earlier = _earlier(folder)
    with contextlib.ExitStack() as stack:
        files: dict[str, _Buffered] = {}
        for table, batch in rows:
            if table.name not in files:
                path = folder / f"{table.name}.{kind}"
                _refuse_foreign(path, earlier)
                _make(folder)
                files[table.name] = _Buffered(stack, path, kind, table)
                stack.callback(files[table.name].abandon)
            files[table.name].add(batch)
        for file in files.values():
            file.close()
        sums = {file.path.name: _checksum(file.aside) for file in files.values()}
        # old and new sums until all are renamed: after a kill between, both are recognized
        either = {name: [*earlier.get(name, []), new] for name, new in sums.items()}
        _write_manifest(folder, earlier | either)
    _remove_stale(folder, kind, earlier, sums)
    kept = {name: old for name, old in earlier.items() if not name.endswith(f".{kind}")}
    _write_manifest(folder, kept | {name: [new] for name, new in sums.items()})
    return [file.path for file in files.values()]


class _Buffered:
    """One table's file, aside until the stack that it is entered into ends well."""

    def __init__(self, stack: contextlib.ExitStack, path: Path, kind: str, table: Table):
        self.path = path
        self.aside = stack.enter_context(written_aside(path))
        self._schema = table.schema
        self._file = _open(self.aside, kind, table.schema)
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._waiting += batch.num_rows
        if self._waiting >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what waits."""
        self._flush()
        self._file.close()

    def abandon(self) -> None:
        """Close what an error has left open: pyarrow says again that it cannot be written."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(pa.Table.from_batches(self._batches, self._schema))
        self._batches, self._waiting = [], 0


def _open(path: Path, kind: str, schema: pa.Schema) -> pyarrow.parquet.ParquetWriter | _CsvFile:
    if kind == "parquet":
        return pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")
    return _CsvFile(path, schema)


class _CsvFile:
    """CSV as RFC 4180 has it: text always in quotes, null empty, lists as JSON text. A text that a
    spreadsheet would run begins with an apostrophe.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self._lists = [index for index, field in enumerate(schema) if pa.types.is_list(field.type)]
        for index in self._lists:
            schema = schema.set(index, pa.field(schema.field(index).name, TEXT))
        self._schema = schema
        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        self._file = pyarrow.csv.CSVWriter(path, schema, write_options=options)

    def write_table(self, table: pa.Table) -> None:
        for index in self._lists:
            name = self._schema.field(index).name
            lists = table.column(index).to_pylist()
            texts = [None if each is None else json.dumps(each) for each in lists]
            table = table.set_column(index, name, [texts])
        for index, field in enumerate(self._schema):
            if field.type == TEXT and index not in self._lists:  # a list's text begins with [
                cells = [for_csv(cell) for cell in table.column(index).to_pylist()]
                table = table.set_column(index, field, pa.array(cells, TEXT))
        self._file.write_table(table.cast(self._schema))

    def close(self) -> None:
        self._file.close()


def _earlier(folder: Path) -> dict[str, list[str]]:
    """Read {file: checksums} of what exports have written into a folder."""
    try:
        files = read_json(folder / MANIFEST)["files"]
        return {str(name): [str(each) for each in sums] for name, sums in files.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / MANIFEST} cannot be read; give another folder (--out)."
        ) from error


def _refuse_foreign(path: Path, earlier: dict[str, list[str]]) -> None:
    if path.exists() and not _is_ours(path, earlier):
        raise InputError(
            f"{path} was not written by normscope export, or has changed since; it was left as "
            "it is. "
            "Move it away, or give another folder (--out)."
        )


def _remove_stale(
    folder: Path, kind: str, earlier: dict[str, list[str]], written: Collection[str]
) -> None:
    """Remove an earlier export's tables of this format without rows now, if nobody changed them."""
    for name in earlier:
        path = folder / Path(name).name
        if name.endswith(f".{kind}") and name not in written and _is_ours(path, earlier):
            path.unlink(missing_ok=True)


def _is_ours(path: Path, earlier: dict[str, list[str]]) -> bool:
    return path.is_file() and _checksum(path) in earlier.get(path.name, [])


def _write_manifest(folder: Path, files: dict[str, list[str]]) -> None:
    _make(folder)
    write_json(folder / MANIFEST, {"format": "normscope export", "version": 1, "files": files})


def _make(folder: Path) -> None:
    with storing(f"make the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)


def _checksum(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
