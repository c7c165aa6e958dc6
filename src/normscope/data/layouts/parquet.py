"""The Hugging Face parquet layout: rows of an encoded image and a label, splits by file name."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normscope.data.cache import Bar, progress
from normscope.data.dataset import Layout, Splits
from normscope.errors import InputError, first_line
from normscope.records.read_limits import images_budget, limited_memory, refuse_beyond
from normscope.records.regular_files import check_regular

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")
TEST_NAMES = ("test", "validation", "valid", "val")
# data/train-0.parquet and plain_text/train/0.parquet are usual
PLACES = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
SHARD = re.compile(r"-(\d+)-of-(\d+)$")
ROWS = 128  # read at a time: a small file may say one long value many times
ROW = 200  # bytes of the images' budget that a row takes at least
MOST_CLASSES = 100_000
SPARE = 1 << 30  # address space beside the images: that of eight threads


@dataclass(frozen=True)
class Table:
    """One parquet file: where its columns are, and what its metadata says of the labels."""

    path: Path
    rows: int
    image_column: str
    label_column: str
    class_names: tuple[str, ...]  # of the Hugging Face metadata; empty if it names none


def find(directory: Path, known: tuple[str, ...] = ()) -> Layout | None:
    """Parquet files in `directory`; `known` names the classes where the files do not.

    Raises:
        InputError: if a split or a part of one is missing.
    """
    paths = next((found for place in PLACES if (found := sorted(directory.glob(place)))), [])
    if not paths:
        return None
    train = [path for path in paths if _in_split(path, "train")]
    splits = {name: [path for path in paths if _in_split(path, name)] for name in TEST_NAMES}
    test_name = next((name for name in TEST_NAMES if splits[name]), None)
    if not train or test_name is None:
        names = ", ".join(path.name for path in paths[:4])
        raise InputError(
            f"{directory} needs parquet files named train* and test* (or validation*); it holds "
            f"{names}."
        )
    for part in (train, splits[test_name]):
        _check_shards(part)
    phrase = "Hugging Face parquet layout" + (
        "" if test_name == "test" else f" ({test_name} as the test split)"
    )
    phrase += f", {_encoding(_open(train[0]))}"
    read = functools.partial(_read, train, splits[test_name], known)
    return Layout(phrase, directory, (*train, *splits[test_name]), known, read)


def _encoding(table: Table) -> str:
    """The encoding of the first image: JPEG images give other accuracies than lossless ones."""
    import pyarrow.parquet as pq

    from normscope.data.layouts.decode import format_of

    with _named_errors(table.path), pq.ParquetFile(table.path) as file:
        batches = file.iter_batches(1, columns=[table.image_column], use_threads=False)
        first = next(batches).column(0)[0].as_py()
    return f"{format_of(f'Row 0 of {table.path}', _bytes_of(first, 0, table))} images"


def _in_split(path: Path, split: str) -> bool:
    is_named = re.match(rf"{split}(?![a-z])", path.stem.lower())
    return bool(is_named) or (path.parent.name.lower() == split)


def _check_shards(paths: Sequence[Path]) -> None:
    shard = SHARD.search(paths[0].stem)
    if shard and int(shard[2]) != len(paths):
        raise InputError(
            f"{paths[0].name} says that there are {int(shard[2])} such files; {len(paths)} are "
            "there."
        )


def _read(train: Sequence[Path], test: Sequence[Path], known: tuple[str, ...]) -> Splits:
    from normscope.data.layouts.decode import channels

    tables = [[_open(path) for path in paths] for paths in (train, test)]
    labels = [[label for table in part for label in _labels(table)] for part in tables]
    classes, (train_labels, test_labels) = _name_labels(labels, tables[0][0].class_names or known)
    total = sum(table.rows for part in tables for table in part)
    with progress("Decoding images", total) as bar, limited_memory(2 * images_budget() + SPARE):
        train_images, test_images = channels(*(_decode(part, bar) for part in tables))
    return Splits(classes, train_images, train_labels, test_images, test_labels)


def _open(path: Path) -> Table:
    import pyarrow.parquet as pq

    check_regular(path)
    with _named_errors(path), pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        _refuse_excess(file.metadata, path)
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        raise InputError(
            f"{path} has the columns {', '.join(schema.names)}; expected an image column "
            f"({' or '.join(IMAGE_COLUMNS)}) and a label column ({' or '.join(LABEL_COLUMNS)})."
        )
    if rows == 0:
        raise InputError(f"{path} has no rows.")
    return Table(path, rows, image, label, _class_names(schema.metadata, label))


def _refuse_excess(metadata: Any, path: Path) -> None:
    """Refuse rows beyond the images' budget, and parts that unpack to much more than they are."""
    budget, size = images_budget(), path.stat().st_size
    refuse_beyond(metadata.num_rows * ROW, budget, f"{metadata.num_rows:,} rows in {path}")
    allowed = max(budget // 16, min(budget, 4 * size))
    for index in range(metadata.num_row_groups):
        unpacked = metadata.row_group(index).total_byte_size  # of a column, pyarrow may abort
        refuse_beyond(unpacked, allowed, f"Part {index} of {path}, unpacked,")


def _class_names(metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...]:
    """The names that a schema's Hugging Face metadata give to the labels; none if they do not."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _labels(table: Table) -> list[Any]:
    """The labels as the file has them: each an int or a str."""
    labels = list(_column(table, table.label_column))
    for row, label in enumerate(labels):
        if type(label) not in (int, str):
            raise InputError(
                f"Row {row} of {table.path} has the label {label!r}; expected an integer or a name."
            )
    return labels


def _name_labels(
    splits: list[list[Any]], known: tuple[str, ...]
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The classes, and each split's labels as int64 indices into them; `known` may be empty."""
    present = {label for labels in splits for label in labels}
    if all(isinstance(label, int) for label in present):
        odd = max(present, key=abs)
        if abs(odd) >= MOST_CLASSES:
            raise InputError(
                f"A row has the label {odd}; there are at most {MOST_CLASSES:,} classes."
            )
        classes = known or tuple(str(label) for label in range(max(present) + 1))
        return classes, [np.array(labels, np.int64) for labels in splits]
    if not all(isinstance(label, str) for label in present):
        raise InputError(
            "The labels of some parquet files are integers and those of others are names."
        )
    strange = sorted(present - set(known)) if known else []
    if strange:
        raise InputError(f"A row is labelled {strange[0]!r}. Known: {', '.join(known)}.")
    classes = known or tuple(sorted(present))
    return classes, [
        np.array([classes.index(label) for label in labels], np.int64) for labels in splits
    ]


def _decode(tables: Sequence[Table], bar: Bar) -> tuple[np.ndarray, bool]:
    from normscope.data.layouts.decode import Encoded, decode

    def encoded() -> Iterator[Encoded]:
        for table in tables:
            for row, value in enumerate(_column(table, table.image_column)):
                yield f"Row {row} of {table.path}", functools.partial(_bytes_of, value, row, table)

    return decode(sum(table.rows for table in tables), encoded(), bar)


def _bytes_of(value: Any, row: int, table: Table) -> bytes:
    """The encoded image in a cell: bytes, or a struct that has them under "bytes"."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise InputError(
            f"Row {row} of {table.path} has no image bytes in its column {table.image_column!r}."
        )
    return data


def _column(table: Table, column: str) -> Iterator[Any]:
    """The values of one column, read some rows at a time; as many as the file says that it has."""
    import pyarrow.parquet as pq

    count = 0
    with _named_errors(table.path), pq.ParquetFile(table.path) as file:
        for batch in file.iter_batches(ROWS, columns=[column], use_threads=False):
            count += len(batch)
            if count > table.rows:
                break
            yield from batch.column(0).to_pylist()
    if count != table.rows:
        raise InputError(
            f"{table.path} says that it has {table.rows} rows; its column {column!r} has {count}."
        )


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged bytes make pyarrow raise anything
        raise InputError(
            f"{path} is truncated, damaged, or no parquet file: {first_line(error)}"
        ) from error
