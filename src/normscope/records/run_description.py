"""The settings of a run: its identity, the knobs that it leaves out, and what readers check."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from normscope.errors import RecordError
from normscope.escapes import for_line

FIRST_KNOBS: dict[str, Any] = {
    "model": "small-resnet",
    "activation": "relu",
    "block": None,
    "widths": None,
    "blocks_per_stage": None,
    "initialization": "default",
    "initialization_scale": 1.0,
    "batch_size": 128,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "norm_code": "",
    "engine": 1,
}
"""{knob: its default in the first version}. Never changed, though a default be or a knob go."""

TEXT_MODEL = "byte-lm"

TRANSFORMERS = ("vit", TEXT_MODEL)
"""The models with attention."""

POINTWISE_NORMS = ("dyt", "derf")
"""The norms of transformers that take each value by itself."""

STANDS_FOR: dict[tuple[str, str], Any] = {
    ("small-resnet", "widths"): [16, 32, 64],
    ("small-resnet", "blocks_per_stage"): 2,
    **{(model, "depth"): 4 for model in TRANSFORMERS},
    **{(model, "heads"): 4 for model in TRANSFORMERS},
    **{(model, "placement"): "pre" for model in TRANSFORMERS},
    ("vit", "width"): 48,
    ("vit", "pooling"): "mean",
    ("byte-lm", "width"): 64,
    ("byte-lm", "positions"): "learned",
}
"""{(model, knob): what None means there}; of `block` it is DEFAULT_BLOCK in every model."""

DEFAULT_BLOCK = "post-activation"


def own_embedding_scale(model: str, norm: str) -> str | None:
    """Return the learned factor on the embeddings that belongs to a norm: of those that take each
    value by itself, which the scale of a text's small embeddings leaves in their linear part.
    """
    return "unit" if model == TEXT_MODEL and norm in POINTWISE_NORMS else None


def meaning(model: str, knob: str, value: Any) -> Any:
    """Return a knob's value, for None what that stands for, so that equal settings are equal."""
    if value is not None:
        return list(value) if isinstance(value, tuple) else value
    return DEFAULT_BLOCK if knob == "block" else STANDS_FOR.get((model, knob))


ADDED_KNOBS: dict[str, Any] = {
    "threads": 1,
    "depth": None,
    "width": None,
    "heads": None,
    "patch_size": None,
    "pooling": None,
    "positions": None,
    "placement": None,
    "qk_norm": False,
    "no_bias": False,
    "optimizer": "sgd",
    "warmup": 0,
    "clip": 0.0,
    "train_share": 1.0,
    "train": "all",
    "iterations": 0,
    "pixel_mean": False,
    "decay_spares": "nothing",
    "embedding_scale": None,
}
"""{knob that came later: the value that the runs before it had}.

To be added to, and otherwise never changed, also where the knob's default is: a run at this value
has the identity that it had before there was the knob.
"""


def run_id(spec: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Return sixteen hexadecimal digits that depend on every knob that is not at its first value.

    Version 1: the SHA-256 of `FIRST_KNOBS`, overlaid by those knobs, as JSON. A later version has
    to say its number in what is hashed. `defaults` are of knobs that are in neither table.
    """
    first = {**(defaults or {}), **FIRST_KNOBS, **ADDED_KNOBS}
    chosen = {
        name: value for name, value in spec.items() if name not in first or value != first[name]
    }
    return hashlib.sha256(as_json(FIRST_KNOBS | chosen).encode()).hexdigest()[:16]


def run_name(spec: Mapping[str, Any], identity: str = "") -> str:
    """Return the name of a run's folder: norm, learning rate and seed, then its id."""
    norm = re.sub(r"[^A-Za-z0-9_.-]+", "-", spec["norm"])[:40]
    return f"{norm}-lr{spec['learning_rate']:g}-seed{spec['seed']}-{identity or run_id(spec)}"


def as_json(values: Mapping[str, Any]) -> str:
    """Return knobs as JSON, sorted."""
    return json.dumps(values, sort_keys=True, indent=1)


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
