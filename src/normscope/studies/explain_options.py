"""What a user asks `normscope explain` for. Imports no torch: `--help` is built from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from normscope.errors import InputError
from normscope.studies.spec import CompareOptions, Recipe

_Name = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]
_Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """Show what one batch normalization layer does to one real batch, and what happens when eval()
    is forgotten.

    With no arguments: a small network is trained on the embedded digits for a few seconds; then one
    of its layers is worked through step by step, as text and as explanation.png. The same command
    again does not train again, and another --layer or --channel of the same network takes a few
    seconds.
    """

    data: str = "digits"
    """Data set: digits (embedded), cifar10, or images (your own, see --data-dir)."""

    data_dir: _Folder = None
    """Folder of the data; as for `normscope compare`."""

    classes: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all)")] = ()
    """Keep these classes only, relabelled in this order, for example airplane bird."""

    layer: _Name = None
    """Layer to explain, for example layer2.0.bn1; of a pattern such as '*.bn2', the first that matches (default: the first normalization of the first stage)."""

    channel: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Channel whose numbers are worked through, counted from 0 (default: the one whose mean is
    furthest from 0).
    """

    norm: str = "batch"
    """Normalization of the network: batch, or module:callable that makes a torch.nn.BatchNorm2d."""

    learning_rate: float = 0.1
    """Learning rate of the first epoch."""

    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Passes over the training images before the layer is looked at (default: 5; digits: 10)."""

    seed: int = 0
    """Seed of the initialization, the order of the images and the augmentation."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda or mps."""

    precision: str = "auto"
    """Arithmetic of the training: bf16 (autocast), fp32, or auto: bf16 where the hardware has it.
    """

    out: _Folder = None
    """Folder of what is written (default: normscope-runs/explain-<data>)."""

    recipe: OmitArgPrefixes[Recipe] = dataclasses.field(default_factory=Recipe)
    """The network and how it is trained."""

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel < 0:
            raise InputError(f"The channel is {self.channel}; expected 0 or more (--channel).")
        if self.seed < 0:
            raise InputError(f"The seed is {self.seed}; expected 0 or more.")

    @property
    def directory(self) -> Path:
        """The folder of what is written."""
        return self.out if self.out is not None else Path("normscope-runs") / f"explain-{self.data}"

    @property
    def study(self) -> CompareOptions:
        """The same as a study of one run, with the first seed.

        Nothing is fused: building the kernels, the first time on a machine, would take longer than
        these few epochs.
        """
        return CompareOptions(
            data=self.data,
            data_dir=self.data_dir,
            classes=self.classes,
            norms=(self.norm,),
            learning_rates=(self.learning_rate,),
            seeds=1,
            epochs=(10 if self.data == "digits" else 5) if self.epochs is None else self.epochs,
            capture_epochs=(),
            device=self.device,
            precision=self.precision,
            fusion="off",
            out=self.directory,
            recipe=self.recipe,
        )
