"""Every setting of a run, once: the command line, the JSON on disk and a run's id derive from here.

`Recipe` holds what all runs of a study share, and `RunSpec` is one run with nothing left to decide.
A field's docstring is its help. This module imports neither torch nor NumPy: `--help` is built
from it.

To add a knob: a field with a default, and an entry in `records.knobs.ADDED_KNOBS` with the value
that earlier runs had. Runs at that value keep their identity.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from tyro.conf import FlagCreatePairsOff, arg

from normscope.errors import InputError, RecordError, one_of
from normscope.records.run_description import ADDED_KNOBS, FIRST_KNOBS, as_json, run_id, run_name

ENGINE_REVISION = 1
"""Raised with every change of the engine's arithmetic: runs of two engines are different runs."""

PRECISIONS = ("bf16", "fp32")

OPTIMIZERS = ("sgd", "adamw", "muon")

MOST_THREADS = 256

MOST_EPOCHS = 1_000_000

MOST = 1_000_000_000
"""Of what has no other limit: a larger number is a mistake."""

_SIZES = {
    "blocks_per_stage": 256, "depth": 256, "widths": 1_000_000, "width": 1_000_000,
    "heads": 1_000_000, "patch_size": 1_000_000,
}  # fmt: skip
"""Most of each size of a network; what it takes in memory is counted besides."""

NETWORK_OPTIONS = (
    "block", "widths", "blocks_per_stage", "depth", "width", "heads", "patch_size", "pooling",
    "positions", "placement", "qk_norm", "no_bias", "embedding_scale",
)  # fmt: skip
"""Knobs that not every network has."""

Count = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The network and how it is trained: the same in all runs of a study."""

    model: str = "small-resnet"
    """Network: small-resnet, bird-plane, resnet-20, resnet-32, resnet-44, resnet-56, resnet-110,
    tiny-cnn, vit (a vision transformer), or byte-lm (a decoder that predicts the next byte of a
    text).
    """

    activation: str = "auto"
    """Activation function: relu, sigmoid, tanh, gelu, silu, leaky_relu, or auto: gelu in
    transformers, relu in the others.
    """

    block: Name = None
    """Residual block: post-activation, pre-activation, after-activation or formula (y = f(x) + x,
    one norm).
    """

    widths: Annotated[
        tuple[int, ...] | None, arg(metavar="INT ...", help_behavior_hint="(default: the model's)")
    ] = None
    """Channels of the stages of small-resnet, for example 16 32 64."""

    blocks_per_stage: Count = None
    """Residual blocks in each stage of small-resnet (default: 2)."""

    depth: Count = None
    """Blocks of a transformer (default: 4)."""

    width: Count = None
    """Values of a token in a transformer (default: 48; byte-lm: 64)."""

    heads: Count = None
    """Attention heads in each block of a transformer (default: 4)."""

    patch_size: Count = None
    """Side of vit's patches, in pixels (default: an eighth of the image, at least 2)."""

    pooling: Name = None
    """What vit reads the class from: mean (of all tokens, the default) or token (a class token)."""

    positions: Name = None
    """Positions of byte-lm: learned (the default) or rotary."""

    placement: Name = None
    """Where a transformer normalizes: pre (before each branch, the default), post (after each sum),
    peri (before and after each branch) or pre-scaled (pre, divided by the root of the depth).
    """

    qk_norm: bool = False
    """RMS normalization of queries and keys in a transformer."""

    no_bias: Annotated[bool, FlagCreatePairsOff] = False
    """A transformer without biases in its linear layers and layer normalizations."""

    embedding_scale: Name = "auto"
    """Learned factor on byte-lm's embeddings: none, unit (at first such that their values have the
    variance 1), root (at first the root of the width), or auto: unit with dyt and derf, none with
    others. With one, dyt and derf start at alpha 1.
    """

    initialization: str = "default"
    """How weights are drawn: default (PyTorch's) or he (He et al. 2015)."""

    initialization_scale: float = 1.0
    """Factor on the drawn weights of convolutions and linear layers."""

    batch_size: int = 128
    """Images per step; the last, incomplete batch of an epoch is kept."""

    optimizer: str = "auto"
    """Optimizer: sgd, adamw, muon (for matrices, with adamw for the rest), or auto: adamw for
    transformers, sgd for the others.
    """

    momentum: float = 0.9
    """Momentum of SGD and Muon, beta1 of AdamW (whose beta2 is 0.99)."""

    weight_decay: float = 1e-4
    """Weight decay: of SGD on every parameter, of AdamW and Muon not on biases, gains and
    embeddings.
    """

    warmup: int = 0
    """Steps at the start over which the learning rate rises from zero, in a straight line."""

    clip: float = 0.0
    """Largest norm of all gradients together; longer ones are shortened to it. 0: no limit."""

    train: Literal["all", "norms", "classifier"] = "all"
    """What is trained: all, or the gains and biases of the normalization layers alone, or the last
    layer alone; the rest stays as it was drawn.
    """

    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    """Learning rate: cosine annealing to zero, set once per epoch, constant, or steps: a tenth from
    half of all optimizer steps on, a hundredth from three quarters on, as He et al. 2016.
    """

    iterations: int = 0
    """Optimizer steps of a run, in place of epochs; the last epoch may end early."""

    pixel_mean: Annotated[bool, FlagCreatePairsOff] = False
    """Subtract the mean training image and not the mean colour, before crops are padded with zeros,
    as He et al. 2016. Both are divided by the colours' standard deviations.
    """

    decay_spares: Literal["nothing", "vectors"] = "nothing"
    """What the weight decay of SGD leaves alone: vectors are biases, gains and embeddings."""

    train_share: float = 1.0
    """Share of the training samples that is used, evenly spread over them: 0.1 for every tenth."""

    def __post_init__(self) -> None:
        within("batch size", self.batch_size, 1, MOST)
        for name, most in _SIZES.items():
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else () if value is None else (value,):
                within(f"value of {name}", each, 1, most)
        within("number of widths", len(self.widths or ()), 0, _SIZES["depth"])
        within("momentum", self.momentum, 0, 1)
        within("weight decay", self.weight_decay, 0, math.inf)
        within("initialization scale", self.initialization_scale, 0, math.inf)
        within("number of warm-up steps", self.warmup, 0, MOST)
        within("number of iterations", self.iterations, 0, MOST)
        within("gradients' largest norm", self.clip, 0, math.inf)
        within("share of the training samples", self.train_share, 1e-6, 1)


@dataclass(frozen=True, kw_only=True)
class RunSpec(Recipe):
    """One run with every choice made. Equal specs give equal results on one kind of device."""

    data: str
    """Name of the data set."""

    data_fingerprint: str
    """Checksum of the images and labels that the run sees."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""

    activation: str = "relu"
    """Activation function, never auto."""

    optimizer: str = "sgd"
    """Optimizer, never auto."""

    embedding_scale: Name = None
    """Learned factor on byte-lm's embeddings: unit, root, or None for none; never auto."""

    norm: str
    """Normalization: batch, none, group, layer, instance, noisy-batch, ghost-batch, skipinit, those
    of transformers (rms, dyt, ...), or module:callable.
    """

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
    """True to mirror half of the images."""

    device: str
    """Type of the device: cpu, cuda or mps."""

    precision: str
    """Arithmetic of convolutions and linear layers: bf16 (autocast) or fp32."""

    fusion: bool
    """True to compute batch normalization, addition and ReLU in one step."""

    engine: int = ENGINE_REVISION
    """Revision of the training engine."""

    threads: int = 1
    """Threads of torch on the CPU. Another number sums in another order, hence to other bits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("number of epochs", self.epochs, 1, MOST_EPOCHS)
        within("seed", self.seed, 0, 2**63 - 1)
        within("crop padding", self.crop_padding, 0, MOST)
        within("number of threads", self.threads, 1, MOST_THREADS)
        for what, known in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
            if (value := getattr(self, what)) not in known:
                raise InputError(one_of(what, value, known))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(
                f"A learning rate is {self.learning_rate}; expected a positive number."
            )
        for epoch in self.capture_epochs:
            if not 1 <= epoch <= self.epochs:
                raise InputError(
                    f"Epoch {epoch} cannot be captured: the run has epochs 1 to {self.epochs} "
                    "(--capture-epochs)."
                )

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that depend on every knob that is not at its first value."""
        fields = dataclasses.fields(self)
        defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
        return run_id(dataclasses.asdict(self), defaults)

    @property
    def name(self) -> str:
        """The run's folder: norm, learning rate and seed, then its id."""
        return run_name(dataclasses.asdict(self), self.id)

    def to_json(self) -> str:
        """Return the spec as JSON with sorted keys."""
        return as_json(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> RunSpec:
        """Return the spec behind `to_json`, also of a version that had fewer knobs.

        Raises:
            RecordError: if the text is not JSON, no spec, or one with knobs of a later version.
        """
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
            spec = msgspec.convert(FIRST_KNOBS | ADDED_KNOBS | fields, RunSpec)
        except (msgspec.MsgspecError, InputError) as error:
            raise RecordError(f"The run's spec cannot be read: {error}.") from error
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(RunSpec)})
        if unknown:
            raise RecordError(
                "The run's spec has settings that this normscope does not know, perhaps of a later "
                f"version: {', '.join(unknown)}."
            )
        return spec


def default_capture_epochs(epochs: int) -> tuple[int, ...]:
    """Return the first, middle and last epoch: 1, 15 and 30 of 30."""
    return tuple(sorted({1, max(1, epochs // 2), epochs}))


def within(what: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside of these limits, NaN, and what is no number; InputError."""
    if not isinstance(value, int | float):
        raise InputError(f"The {what} is {value!r}; expected a number.")
    if not low <= value <= high or value == math.inf:
        open_above = math.isinf(high) or (value < low and high > MOST_THREADS)
        number = "a number " if isinstance(value, float) else ""
        limits = (
            f"{number}{low:g} or more" if open_above else f"a number between {low:g} and {high:,}"
        )
        shown = value if isinstance(value, float) or abs(value) < 10**18 else "out of all bounds"
        raise InputError(f"The {what} is {shown}; expected {limits}.")
