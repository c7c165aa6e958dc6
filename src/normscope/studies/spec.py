"""Every knob of a run, said once: the command line, the JSON on disk and a run's identity derive from here.

`Recipe` holds what all runs of a study share, `RunSpec` is one run with nothing left to decide, and `CompareOptions`
is what a user asks `normscope compare` for. A field's docstring is its help. This module imports neither torch nor
anything that does: `--help` is built from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from tyro.conf import OmitArgPrefixes, arg

from normscope.errors import InputError, RecordError, one_of

ENGINE_REVISION = 1
"""Raised whenever the engine's arithmetic changes, so that runs of two engines are never taken for
one another.
"""

_Count = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
_Name = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]
_Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all runs of a study have in common: the network and how it is trained."""

    model: str = "small-resnet"
    """Network: small-resnet, bird-plane, resnet-20, resnet-32, resnet-44, resnet-56 or resnet-110.
    """

    activation: str = "relu"
    """Activation function: relu, sigmoid, tanh, gelu, silu or leaky_relu."""

    block: _Name = None
    """Residual block: post-activation, pre-activation, after-activation or formula (y = f(x) + x,
    one norm).
    """

    widths: Annotated[
        tuple[int, ...] | None, arg(metavar="INT ...", help_behavior_hint="(default: the model's)")
    ] = None
    """Channels of the stages of small-resnet, for example 16 32 64."""

    blocks_per_stage: _Count = None
    """Residual blocks in each stage of small-resnet (default: 2)."""

    initialization: str = "default"
    """How weights are drawn: default (PyTorch's) or he (He et al. 2015)."""

    initialization_scale: float = 1.0
    """Factor on the drawn weights of convolutions and linear layers."""

    batch_size: int = 128
    """Images per step; the last, incomplete batch of an epoch is kept."""

    momentum: float = 0.9
    """Momentum of SGD."""

    weight_decay: float = 1e-4
    """Weight decay of SGD, on every parameter."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the epochs: cosine annealing to zero, set once per epoch, or constant."""

    def __post_init__(self) -> None:
        _at_least("batch size", self.batch_size, 1)
        _within("momentum", self.momentum, 0, 1)
        _within("weight decay", self.weight_decay, 0, math.inf)
        _within("initialization scale", self.initialization_scale, 0, math.inf)


@dataclass(frozen=True, kw_only=True)
class RunSpec(Recipe):
    """One run with every choice made. Two runs with equal specs have equal results on one kind of
    device.
    """

    data: str
    """Name of the data set."""

    data_fingerprint: str
    """Checksum of the images and labels that the run sees."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""

    norm: str
    """Normalization: batch, none, group, layer, instance, noisy-batch, or module:callable."""

    norm_code: str = ""
    """Checksum of the file behind a norm given as module:callable; empty for the others."""

    learning_rate: float
    """Learning rate of the first epoch."""

    seed: int
    """Seed of the initialization, the order of the images and the augmentation."""

    epochs: int
    """Passes over the training images."""

    capture_epochs: tuple[int, ...]
    """Epochs after which activation distributions are captured, counted from 1."""

    crop_padding: int
    """Zeros around an image, in pixels, before a random crop of its size."""

    horizontal_flip: bool
    """Whether half of the images are mirrored."""

    device: str
    """Type of the device: cpu, cuda or mps."""

    precision: str
    """Arithmetic of convolutions and linear layers: bf16 (autocast) or fp32."""

    fusion: bool
    """Whether batch normalization, addition and ReLU are computed in one step (the same up to
    rounding).
    """

    engine: int = ENGINE_REVISION
    """Revision of the training engine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("number of epochs", self.epochs, 1)
        _at_least("seed", self.seed, 0)
        _at_least("crop padding", self.crop_padding, 0)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(
                f"A learning rate is {self.learning_rate}; expected a positive number."
            )
        for epoch in self.capture_epochs:
            if not 1 <= epoch <= self.epochs:
                raise InputError(
                    f"Epoch {epoch} cannot be captured: the run has epochs 1 to {self.epochs} (--capture-epochs)."
                )

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that depend on every field."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The run's folder: its place in the grid in readable form, then its id."""
        norm = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.norm)[:40]
        return f"{norm}-lr{self.learning_rate:g}-seed{self.seed}-{self.id}"

    def to_json(self) -> str:
        """The spec as JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    @staticmethod
    def from_json(text: str | bytes) -> RunSpec:
        """The spec behind `to_json`.

        Raises:
            RecordError: if the text is not JSON, or not exactly a spec of this version.
        """
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
            spec = msgspec.convert(fields, RunSpec)
        except (msgspec.MsgspecError, InputError) as error:
            raise RecordError(f"The run's spec cannot be read: {error}.") from error
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(RunSpec)})
        if unknown:
            raise RecordError(
                f"The run's spec has fields that this normscope does not know: {', '.join(unknown)}."
            )
        return spec


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Train the same network with several normalizations, several seeds each, and set the runs side
    by side.

    With no arguments: the embedded digits, with and without batch normalization, at three learning
    rates, three seeds each (18 runs, about a minute on two cores). The same command again goes on
    where it was interrupted.
    """

    data: str = "digits"
    """Data set: digits (embedded), cifar10, or images (your own, see --data-dir)."""

    data_dir: _Folder = None
    """Folder of the data. For cifar10: any of its published layouts; without it, the official archive is downloaded. For images: class folders under train/ and test/, or parquet files with an image and a label column."""

    classes: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all)")] = ()
    """Keep these classes only, relabelled in this order, for example airplane bird."""

    norms: tuple[str, ...] = ("batch", "none")
    """Normalizations to compare: batch, none, group, layer, instance, noisy-batch, or module:callable (channels -> nn.Module)."""

    learning_rates: Annotated[
        tuple[float, ...], arg(help_behavior_hint="(default: 0.1; digits: 0.01 0.1 1.0)")
    ] = ()
    """Learning rates to train each normalization at."""

    seeds: int = 3
    """Number of seeds; 5 means the seeds 0 to 4."""

    epochs: _Count = None
    """Passes over the training images (default: 30; digits: 20)."""

    capture_epochs: Annotated[
        tuple[int, ...] | None,
        arg(metavar="INT ...", help_behavior_hint="(default: first, middle, last)"),
    ] = None
    """Epochs after which activation distributions are captured; give the flag alone for none."""

    augment: bool = True
    """Random crops of the training images, and horizontal flips except on digits."""

    jobs: _Count = None
    """Runs trained at once, each in a process of its own (default: one per core; one on a GPU)."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    precision: str = "auto"
    """Arithmetic: bf16 (autocast, normalization in fp32), fp32 (plain), or auto: bf16 where the
    hardware has it.
    """

    fusion: Literal["auto", "on", "off"] = "auto"
    """Batch normalization, addition and ReLU in one compiled step: on the CPU, where a C++ compiler
    is at hand.
    """

    graph: Literal["auto", "on", "off"] = "auto"
    """Training steps captured in a CUDA graph and replayed: on a GPU, in runs that are not watched;
    same results.
    """

    watch: bool = False
    """Record what every normalization layer does, into recording.sqlite in each run's folder; the results are the same. Runs that are finished without a recording are trained again, to the same weights, for it alone."""

    tensorboard: _Folder = None
    """Also write epochs, distributions and figures into this TensorBoard folder, one log per run
    (docs/sinks.md).
    """

    wandb: Annotated[str | None, arg(metavar="PROJECT", help_behavior_hint="")] = None
    """Also write them to this project of Weights & Biases, one run per run; WANDB_MODE=offline
    keeps them here.
    """

    out: _Folder = None
    """Folder of the study (default: normscope-runs/compare-<data>)."""

    recipe: OmitArgPrefixes[Recipe] = dataclasses.field(default_factory=Recipe)
    """The network and how it is trained."""

    def __post_init__(self) -> None:
        _at_least("number of seeds", self.seeds, 1)
        if self.jobs is not None:
            _at_least("number of jobs", self.jobs, 1)
        if self.epochs is not None:
            _at_least("number of epochs", self.epochs, 1)
        if not self.norms:
            raise InputError("No normalization was given to --norms; expected at least one.")
        for what, values in (("norms", self.norms), ("learning-rates", self.learning_rates)):
            repeated = sorted({str(value) for value in values if values.count(value) > 1})
            if repeated:
                raise InputError(f"--{what} names {', '.join(repeated)} more than once.")

    @property
    def directory(self) -> Path:
        """The folder of the study."""
        return self.out if self.out is not None else Path("normscope-runs") / f"compare-{self.data}"


def options_from(settings: dict[str, Any]) -> CompareOptions:
    """Options from settings by name; those of the recipe stand beside the others, lists may be
    given for tuples.

    Raises:
        InputError: for a name that is no setting, or a value that is none.
    """
    recipe_names = {field.name for field in dataclasses.fields(Recipe)}
    option_names = {field.name for field in dataclasses.fields(CompareOptions)} - {"recipe"}
    for name in settings:
        if name not in recipe_names | option_names:
            raise InputError(one_of("setting", name, sorted(recipe_names | option_names)))
    plain = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in settings.items()
    }  # NumPy's
    values = {name: value for name, value in plain.items() if name in option_names}
    values["recipe"] = {name: value for name, value in plain.items() if name in recipe_names}
    try:
        return msgspec.convert(values, CompareOptions, dec_hook=_path)
    except msgspec.ValidationError as error:
        told = (
            str(error)
            .replace("Expected `array`", "Expected a list")
            .replace("$.recipe.", "")
            .replace("$.", "")
        )
        raise InputError(f"A setting cannot be used: {told}.") from error


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {value!r}")


def default_capture_epochs(epochs: int) -> tuple[int, ...]:
    """First, middle and last epoch: 1, 15 and 30 of 30."""
    return tuple(sorted({1, max(1, epochs // 2), epochs}))


def _at_least(what: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"The {what} is {value}; expected {least} or more.")


def _within(what: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        limits = f"between {low:g} and {high:g}" if math.isfinite(high) else f"{low:g} or more"
        raise InputError(f"The {what} is {value}; expected a number {limits}.")
