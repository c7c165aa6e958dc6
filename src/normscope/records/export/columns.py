"""Tables and columns: names, types, units and meanings, kept with the data in parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from normscope.errors import RecordError

TEXT, WHOLE, NUMBER, SINGLE, FLAG = pa.string(), pa.int64(), pa.float64(), pa.float32(), pa.bool_()
WHOLES, TEXTS = pa.list_(WHOLE), pa.list_(TEXT)


KINDS = {
    "text": TEXT, "whole": WHOLE, "wholes": WHOLES, "flag": FLAG, "number": NUMBER,
    "single": SINGLE,
}  # fmt: skip
"""{type in a table of columns: that of Arrow}."""


def column(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    """Return a column whose metadata say what it means. `unit` is empty for names and counts."""
    return pa.field(name, kind, metadata={"description": meaning, "unit": unit})


def columns(text: str) -> tuple[pa.Field, ...]:
    """Return the columns of lines "name | type | unit | meaning"; one without bars goes on with the
    meaning.
    """
    rows: list[list[str]] = []
    for line in filter(str.strip, text.splitlines()):
        if "|" in line:
            rows.append([cell.strip() for cell in line.split("|")])
        else:
            rows[-1][-1] += f" {line.strip()}"
    return tuple(column(name, KINDS[kind], meaning, unit) for name, kind, unit, meaning in rows)


@dataclass(frozen=True)
class Table:
    """One table: a row is what `row` says."""

    name: str
    row: str
    columns: tuple[pa.Field, ...]

    @property
    def schema(self) -> pa.Schema:
        """The columns, with the name of the table in the metadata."""
        metadata = {"normscope.table": self.name, "normscope.row": self.row}
        return pa.schema(self.columns, metadata=metadata)

    def with_columns(self, columns: Sequence[pa.Field]) -> Table:
        """The same table with further columns at its end."""
        return replace(self, columns=(*self.columns, *columns))

    def batch(self, values: Mapping[str, Any]) -> pa.RecordBatch:
        """Rows from {column: values}, or one value for all rows; a column that is missing is null.

        Raises:
            RecordError: if the values are not of the column's type, for example text that is no
                Unicode.
        """
        several = [values for values in values.values() if not _is_one(values)]
        length = max(map(len, several), default=1)
        arrays = [_array(values.get(c.name), c, length) for c in self.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _is_one(value: Any) -> bool:
    return isinstance(value, str) or not hasattr(value, "__len__")


def column_of(name: str, values: Sequence[Any], meaning: str) -> tuple[pa.Field, list[Any]]:
    """The column of JSON values: those of one kind as they are, anything else as JSON text."""
    present = [value for value in values if value is not None]
    kind = (
        next((kind for kind, fits in _FITS if all(map(fits, present))), None) if present else TEXT
    )
    if kind is not None:
        return column(name, kind, meaning), list(values)
    return column(name, TEXT, f"{meaning}, as JSON"), [
        None if v is None else json.dumps(v) for v in values
    ]


def _array(values: Any, field: pa.Field, length: int) -> pa.Array:
    try:
        if values is None:
            return pa.nulls(length, field.type)
        if _is_one(values):
            return pa.repeat(pa.scalar(values, field.type), length)
        if isinstance(values, pa.Array):
            return values.cast(field.type)
        return pa.array(values, field.type)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError) as error:
        raise RecordError(
            f"{field.name} holds a value that is no {field.type}: {str(error)[:80]}."
        ) from error


def _is_whole(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _is_number(value: Any) -> bool:
    return type(value) is float or (_is_whole(value) and abs(value) <= 1 << 53)


_FITS = (
    (FLAG, lambda value: type(value) is bool),
    (WHOLE, _is_whole),
    (NUMBER, _is_number),
    (TEXT, lambda value: type(value) is str),
    (WHOLES, lambda value: type(value) is list and all(map(_is_whole, value))),
    (TEXTS, lambda value: type(value) is list and all(type(item) is str for item in value)),
)
