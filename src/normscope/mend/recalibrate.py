"""Running statistics made anew from batches, exactly: no momentum, in any order of the batches."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from normscope.arguments import judged
from normscope.errors import InputError
from normscope.user_models.batch_reader import each_batch
from normscope.user_models.norm_layers import batch_norms
from normscope.user_models.plain_layers import forward_override
from normscope.user_models.state_guard import preserve_state

BATCH_NORM = inspect.signature(F.batch_norm)


@dataclass
class _Sums:
    """Moments over batches in float64: merged pairwise (Chan et al., 1979), so that a large mean
    cancels nothing. `squares` is the sum of squares around the mean, `variances` that of the
    batches' unbiased variances.
    """

    count: int = 0
    batches: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    variances: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        values = x.detach().double().transpose(0, 1).flatten(1)
        n = values.shape[1]
        mean = values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        delta, total = mean - self.mean, self.count + n
        self.squares = self.squares + squares + delta.square() * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.variances = self.variances + squares / max(n - 1, 1)
        self.count, self.batches = total, self.batches + 1


@torch.no_grad()
@judged
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    variance: Literal["pooled", "mean"] = "pooled",
    limit: int | None = 200,
) -> nn.Module:
    """Replace the running statistics of every batch normalization layer by those of the batches,
    and return the model.

    The layers normalize with each batch's statistics, as in training; everything else is in eval
    mode, so dropout, which evaluation does not have, does not widen the variances. Nothing but the
    running statistics and their counter changes, and not even they if a forward raises.

    Args:
        model: the model, in any mode.
        batches: training batches: tensors, (input, target) pairs or dicts; 50 to 200 are enough.
        variance: "pooled" is the variance over all values, which holds the spread between batches
            too; "mean" is the mean of the batches' variances, as momentum=None and torch's
            update_bn have it. The mean is that of all values in both cases.
        limit: the most batches to use; None for all.

    Raises:
        InputError: if the model has no batch normalization with running statistics, there are no
            batches, a forward fails, or a subclass's forward does not normalize by F.batch_norm
            with the layer's running statistics, so that nobody knows what it normalizes.
    """
    layers = {
        name: m
        for name, m in batch_norms(model)
        if m.running_mean is not None and m.running_var is not None
    }
    if not layers:
        raise InputError(
            "The model has no batch normalization with running statistics: there is nothing to "
            "recalibrate."
        )
    sums = {name: _Sums() for name in layers}
    with preserve_state(model, batches), _measuring(model, layers, sums):
        count = 0
        for number, batch in enumerate(each_batch(batches, model, limit)):
            try:
                batch.forward(model)
            except Exception as error:
                raise InputError(
                    f"The model fails on batch {number}: {type(error).__name__}: {error}"
                ) from error
            count += 1
    if not count:
        raise InputError("batches is empty: give at least one batch of inputs.")
    for name, layer in layers.items():
        if sums[name].count:
            _write(layer, sums[name], variance)
    return model


@contextmanager
def _measuring(
    model: nn.Module, layers: dict[str, _BatchNorm], sums: dict[str, _Sums]
) -> Iterator[None]:
    model.eval()
    own = {name for name, layer in layers.items()
           if forward_override(layer) or "forward" in vars(layer)}  # fmt: skip
    called: set[str] = set()

    def note_call(name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        called.add(name)
        if name not in own:
            sums[name].add(args[0] if args else kwargs["input"])

    with ExitStack() as hooks:
        for name, layer in layers.items():
            layer.training = True
            hook = functools.partial(note_call, name)
            hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        with _FunctionalBatchNorm({id(layers[name].running_mean): sums[name] for name in own}):
            yield
    for name in called:
        if not sums[name].count:
            raise InputError(
                f"{name!r} ({type(layers[name]).__name__}) cannot be recalibrated: its own forward "
                "does not normalize by F.batch_norm with the layer's running statistics."
            )


class _FunctionalBatchNorm(TorchFunctionMode):
    """Adds what F.batch_norm normalizes to the sums of whose running mean it gets."""

    def __init__(self, sums: dict[int, _Sums]):
        super().__init__()
        self._sums = sums

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            arguments = BATCH_NORM.bind(*args, **(kwargs or {})).arguments
            if sums := self._sums.get(id(arguments["running_mean"])):
                sums.add(arguments["input"])
        return func(*args, **(kwargs or {}))


def _write(layer: _BatchNorm, sums: _Sums, variance: str) -> None:
    pooled = sums.squares / max(sums.count - 1, 1)
    layer.running_mean.copy_(sums.mean)  # type: ignore[union-attr]
    layer.running_var.copy_(pooled if variance == "pooled" else sums.variances / sums.batches)  # type: ignore[union-attr]
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(sums.batches)
