"""Explanations: one batch normalization layer on one batch, and accuracies without eval().

The record holds the layer's whole input and its vectors; everything else that is shown follows from
them by the layer's own arithmetic (`Channel`), in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from normscope.errors import InputError, RecordError
from normscope.records.files import written_aside
from normscope.records.run_description import Environment, Spec, Whole
from normscope.records.store import reader, writer

EXPLANATION_NAME = "explanation.sqlite"
KIND = "explanation"

ORDERS = ("shuffled", "class-ordered")
"""Orders of the test images in batches: at random, or sorted by class (at random within one)."""


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """The layer's running statistics, float64 [C] each; its variance is the unbiased one."""

    mean: np.ndarray
    var: np.ndarray


@dataclass(frozen=True, eq=False)
class Forgotten:
    """Test accuracy of a trained network whose eval() was forgotten, as fractions in [0, 1]."""

    # test images that every accuracy is over, always the same ones
    images: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
    eval_accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)]  # of those, in eval mode
    batch_sizes: tuple[int, ...]
    # float64 [ORDERS, batch sizes, repeats], NaN where not measured: in train mode, and in eval
    # mode after that pass, which has moved the running statistics
    during: np.ndarray
    afterwards: np.ndarray


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of the batch, worked through in float64: `x` and the rest are [N, H, W]."""

    index: int
    x: np.ndarray
    mean: float
    var: float  # biased: what the batch is normalized by
    unbiased_var: float  # what goes into the running variance
    weight: float  # 1 where the layer has none
    bias: float  # 0 where the layer has none
    eps: float
    # mean and variance; None where the layer keeps none
    running_before: tuple[float, float] | None
    running_after: tuple[float, float] | None

    @property
    def std(self) -> float:
        """The root of var + eps."""
        return float(np.sqrt(self.var + self.eps))

    @property
    def eval_moments(self) -> tuple[float, float]:
        """Mean and variance in eval mode: the running ones, or the batch's where there are none."""
        return self.running_before or (self.mean, self.var)

    @cached_property
    def normalized(self) -> np.ndarray:
        """(x - mean) / std."""
        return (self.x - self.mean) / self.std

    @cached_property
    def output(self) -> np.ndarray:
        """Weight * normalized + bias: what train mode gives."""
        return self.weight * self.normalized + self.bias

    @cached_property
    def eval_output(self) -> np.ndarray:
        """The output in eval mode, with the running statistics from before the batch."""
        mean, var = self.eval_moments
        return self.weight * (self.x - mean) / np.sqrt(var + self.eps) + self.bias


@dataclass(frozen=True, eq=False)
class Explanation:
    """One layer on one batch. Vectors are float64 [C]."""

    layer: str
    layer_type: str
    # the channel whose numbers are worked through
    chosen: Annotated[int, msgspec.Meta(ge=0)]
    eps: Annotated[float, msgspec.Meta(ge=0, le=1e300)]
    # None: the plain average over all batches
    momentum: Annotated[float, msgspec.Meta(ge=-1e3, le=1e3)] | None
    batches_before: Whole  # num_batches_tracked before this batch
    x: np.ndarray  # float32 [N, C, H, W]: what enters the layer
    labels: np.ndarray  # int64 [N]: classes of the batch's images
    images: np.ndarray  # uint8 [K, height, width, colours]: the first images of the batch
    mean: np.ndarray
    var: np.ndarray  # biased
    unbiased_var: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None
    running_before: RunningStatistics | None
    running_after: RunningStatistics | None
    # largest difference from PyTorch's own layer, in outputs and buffers
    disagreement: Annotated[float, msgspec.Meta(ge=0, le=1e300)]
    forgotten: Forgotten
    # run, spec, data, environment, test_accuracy, other_layers; as a run's record has them
    meta: dict[str, Any]

    @property
    def count(self) -> int:
        """Values that one statistic pools: N x H x W."""
        return self.x.size // self.x.shape[1]

    @property
    def update_share(self) -> float:
        """Share of this batch in the running statistics: momentum, or with None 1 / batches."""
        return 1 / (self.batches_before + 1) if self.momentum is None else self.momentum

    def channel(self, index: int) -> Channel:
        """The arithmetic of one channel."""
        before, after = (
            None if each is None else (float(each.mean[index]), float(each.var[index]))
            for each in (self.running_before, self.running_after)
        )
        return Channel(
            index=index,
            x=self.x[:, index].astype(np.float64),
            mean=float(self.mean[index]),
            var=float(self.var[index]),
            unbiased_var=float(self.unbiased_var[index]),
            weight=1.0 if self.weight is None else float(self.weight[index]),
            bias=0.0 if self.bias is None else float(self.bias[index]),
            eps=self.eps,
            running_before=before,
            running_after=after,
        )


class _Meta(msgspec.Struct):
    """What `Explanation.meta` has at least."""

    run: str
    other_layers: list
    spec: Spec
    data: dict
    environment: Environment


_PLAIN = ("layer", "layer_type", "chosen", "eps", "momentum", "batches_before", "disagreement")
_AFFINE = ("weight", "bias")
_RUNNING = ("running_before", "running_after")


def store_explanation(explanation: Explanation, path: Path) -> None:
    """Write an explanation; a reader sees the old file or the new one.

    Raises:
        StorageError: if it cannot be written.
    """
    forgotten = explanation.forgotten
    parts = {"layer": explanation, "forgotten": forgotten}
    parts |= {name: getattr(explanation, name) for name in _RUNNING}
    arrays = {
        (part, field.name): value
        for part, values in parts.items()
        for field in (fields(values) if values is not None else ())
        if isinstance(value := getattr(values, field.name), np.ndarray)
    }
    arrays["forgotten", "batch_sizes"] = np.array(forgotten.batch_sizes, dtype=np.int64)
    with written_aside(path) as aside, writer(aside, KIND) as store, store.transaction():
        store.set_meta(
            **{name: getattr(explanation, name) for name in _PLAIN},
            forgotten={"images": forgotten.images, "eval_accuracy": forgotten.eval_accuracy},
            **explanation.meta,
        )
        for (layer, statistic), array in arrays.items():
            store.add_array(layer, statistic, array, first_step=explanation.batches_before + 1)


def load_explanation(path: Path) -> Explanation:
    """Read an explanation.

    Raises:
        InputError: if there is none.
        RecordError: if the file is damaged, of another version, or something else.
    """
    with reader(path, KIND) as store:
        store.check_whole()
        meta = store.meta()
        arrays = [(part, name, array) for part, name, *_, array in store.arrays()]
    try:
        explanation = _assemble(meta, arrays)
        _check(explanation)
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise RecordError(f"{path} is damaged: its explanation is incomplete ({error}).") from error
    return explanation


def load_if_there(path: Path) -> Explanation | None:
    """The explanation at `path`; None where there is no file.

    Raises:
        RecordError: as `load_explanation`, and says that the file may be removed.
    """
    if not path.exists():
        return None
    try:
        return load_explanation(path)
    except InputError as error:
        raise RecordError(
            f"{error} Remove it to have the layer measured again; the training is kept."
        ) from error


def _assemble(meta: dict[str, Any], arrays: list[tuple[str, str, np.ndarray]]) -> Explanation:
    rest = {name: each for name, each in meta.items() if name not in (*_PLAIN, "forgotten", "kind")}
    msgspec.convert(rest, _Meta)
    content: dict[str, Any] = dict.fromkeys((*_AFFINE, *_RUNNING))
    content |= {name: meta[name] for name in (*_PLAIN, "forgotten")} | {"meta": rest}
    for part, name, array in arrays:
        if part != "layer" and content.get(part) is None:
            content[part] = {}
        target = content if part == "layer" else content[part]
        target[name] = array.tolist() if name == "batch_sizes" else array
    return msgspec.convert(content, Explanation, dec_hook=_array)


def _array(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _check(explanation: Explanation) -> None:
    """Raise a ValueError or TypeError that names the array which does not fit the others."""
    forgotten = explanation.forgotten
    n, channels, _, _ = explanation.x.shape
    for name, vector in _vectors(explanation).items():
        _require(
            vector is None or (vector.shape == (channels,) and bool(np.isfinite(vector).all())),
            name,
        )
    _require(explanation.chosen < channels, "channel")
    _require(explanation.count > 1 and bool(np.isfinite(explanation.x).all()), "x")
    _require(explanation.labels.shape == (n,), "labels")
    images = explanation.images
    _require(images.ndim == 4 and images.shape[3] in (1, 3) and 0 < len(images) <= n, "images")
    _require(images.dtype == np.uint8, "images")
    for table in (forgotten.during, forgotten.afterwards):
        _require(
            table.ndim == 3 and table.shape[:2] == (len(ORDERS), len(forgotten.batch_sizes)),
            "accuracies",
        )


def _vectors(explanation: Explanation) -> dict[str, np.ndarray | None]:
    vectors = {
        name: getattr(explanation, name) for name in ("mean", "var", "unbiased_var", *_AFFINE)
    }
    for name in _RUNNING:
        running = getattr(explanation, name)
        if running is not None:
            vectors |= {f"{name} mean": running.mean, f"{name} variance": running.var}
    return vectors


def _require(holds: bool, part: str) -> None:
    if not holds:
        raise ValueError(part)
