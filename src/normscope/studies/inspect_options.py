"""What a user asks `normscope inspect` for. Imports no torch: `--help` is built from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from normscope.errors import InputError
from normscope.studies.spec import CompareOptions, Recipe

DIGITS = ("3", "8")
"""The two classes of digits that are told apart with no arguments."""

_Count = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
_Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Train a network with a normalization and without it, watched, and show what happens inside
    its layers.

    With no arguments: two classes of the embedded digits, in half a minute. For the chosen layer:
    the distributions of its input and output per channel, and its statistics and parameters over
    training; for all layers: an overview, and how much of their output lies where gradients pass
    the following activation. The same command again does not train again, and another --layer takes
    a few seconds.
    """

    data: str = "digits"
    """Data set: digits (embedded), cifar10, or images (your own, see --data-dir)."""

    data_dir: _Folder = None
    """Folder of the data; as for `normscope compare`."""

    classes: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all; digits: 3 8)")] = ()
    """Keep these classes only, relabelled in this order, for example airplane bird."""

    layer: str = "res_block1.bn1"
    """Layer to show, by its name in the network; a pattern such as '*.bn1' shows each that matches.
    """

    norm: str = "batch"
    """Normalization of the network: batch, group, layer, instance, or module:callable. It is set
    beside none.
    """

    learning_rate: float = 0.01
    """Learning rate of the first epoch."""

    seeds: int = 1
    """Number of seeds; figures of a single run show the first."""

    epochs: int = 50
    """Passes over the training images."""

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

    out: _Folder = None
    """Folder of what is written (default: normscope-runs/inspect-<data>)."""

    recipe: OmitArgPrefixes[Recipe] = dataclasses.field(
        default_factory=lambda: Recipe(model="bird-plane", batch_size=64)
    )
    """The network and how it is trained."""

    def __post_init__(self) -> None:
        if self.norm == "none":
            raise InputError(
                "The normalization is none; expected one to inspect. It is set beside none anyway (--norm)."
            )

    @property
    def directory(self) -> Path:
        """The folder of what is written."""
        return self.out if self.out is not None else Path("normscope-runs") / f"inspect-{self.data}"

    @property
    def study(self) -> CompareOptions:
        """The same as a study of watched runs, with the normalization and without.

        Normalization is not fused: the gradient at a layer's output exists where the layer is an
        operation of its own.
        """
        return CompareOptions(
            data=self.data,
            data_dir=self.data_dir,
            classes=self.classes or (DIGITS if self.data == "digits" else ()),
            norms=(self.norm, "none"),
            learning_rates=(self.learning_rate,),
            seeds=self.seeds,
            epochs=self.epochs,
            capture_epochs=(),
            augment=self.augment,
            jobs=self.jobs,
            device=self.device,
            precision=self.precision,
            fusion="off",
            watch=True,
            out=self.directory,
            recipe=self.recipe,
        )
