"""The description of a run in its record, as readers rely on it: checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from normscope.errors import RecordError
from normscope.escapes import for_line
from normscope.records.knobs import ADDED_KNOBS, FIRST_KNOBS, run_name

Whole = Annotated[int, Meta(ge=0, le=1 << 53)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]

STUDY_MARKER = "normscope.json"  # the file that makes a folder a study's
MOST_EPOCHS, MOST_THREADS = 10_000_000, 4096


class Spec(msgspec.Struct):
    """A run's settings; the first few are in every record, and others may be there."""

    norm: str
    learning_rate: Positive
    seed: Whole
    epochs: Annotated[int, Meta(ge=1, le=MOST_EPOCHS)]
    data: str
    model: str
    classes: list[str] | None = None
    data_fingerprint: str | None = None
    capture_epochs: list[Count] | None = None
    crop_padding: Whole | None = None
    horizontal_flip: bool | None = None
    device: str | None = None
    precision: str | None = None
    fusion: bool | None = None


_OPEN: Any = Whole  # a knob without a first value has a name, a number or several
_KINDS: dict[type, Any] = {
    bool: bool, int: Whole, float: Number, str: str, type(None): str | _OPEN | list[Count]
}  # fmt: skip
_KNOBS = msgspec.defstruct(
    "Knobs",
    [
        (name, _KINDS[type(first)] | None, None)
        for name, first in (FIRST_KNOBS | ADDED_KNOBS).items()
    ],
)
"""The other settings, each of the type of its first value."""


class _Data(msgspec.Struct):
    source: str | UnsetType = UNSET
    classes: list[str] | None = None
    train_images: Whole | UnsetType = UNSET
    test_images: Whole | UnsetType = UNSET
    image_shape: list[Whole] | UnsetType = UNSET
    mean: list[Number] | UnsetType = UNSET
    std: list[Number] | UnsetType = UNSET


class _Hardware(msgspec.Struct):
    device: str | None = None
    device_name: str | None = None
    cpu: str | None = None
    cores: Whole | None = None
    threads: Whole | None = None
    system: str | None = None


class Environment(msgspec.Struct):
    """What a run was trained on."""

    hardware: _Hardware = msgspec.field(default_factory=_Hardware)
    versions: dict[str, str] = {}


class _Description(msgspec.Struct):
    """A record's description of its run, as far as it has any."""

    data: _Data = msgspec.field(default_factory=_Data)
    environment: Environment = msgspec.field(default_factory=Environment)
    error: str | None = None
    traceback: str | None = None
    threads: Annotated[int, Meta(ge=1, le=MOST_THREADS)] = 1
    diverged_step: Whole | None = None
    not_captured: str | None = None
    not_fused: str | None = None
    parameters: Whole | UnsetType = UNSET
    batches: dict[str, Whole] = {}


def check_description(path: Path, meta: dict[str, Any], statuses: tuple[str, ...]) -> None:
    """Check what a record at a path says of its run; where it says nothing, there is no fault.

    Raises:
        RecordError: for a value of another type or size, and for the record of a run that belongs
            into another folder.
    """
    check_typed(path, "its description is not one of a run", meta, _Description)
    if (status := meta.get("status", statuses[0])) not in statuses:
        raise RecordError(f"{path} is damaged: its status is {str(status)[:40]!r}.")
    if "spec" in meta:
        for kind in (Spec, _KNOBS):
            check_typed(path, "it holds no spec of a run", meta["spec"], kind)
        _check_place(path, meta["spec"])


def check_typed(path: Path, what: str, value: Any, kind: type[msgspec.Struct]) -> None:
    """Check a value against a structure.

    Raises:
        RecordError: if it is none; `what` says in the error what is wrong then.
    """
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise RecordError(f"{path} is damaged: {what} ({for_line(str(error)[:300])}).") from error


def _check_place(path: Path, spec: dict[str, Any]) -> None:
    """Check that a study's run lies in the folder of its name, if its spec is whole."""
    if not (path.parent.parent.parent / STUDY_MARKER).is_file():
        return
    whole = isinstance(spec.get("data_fingerprint"), str)
    known = spec.keys() <= {*Spec.__struct_fields__, *_KNOBS.__struct_fields__}
    if whole and known and path.parent.name != (name := run_name(spec)):
        raise RecordError(f"{path} is the record of the run {name}, not of the folder it is in.")
