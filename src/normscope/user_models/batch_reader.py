"""Read a user's batches: taken apart, moved to the model's device, cut and mixed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError, one_line

TARGETS = ("labels", "label", "targets", "target", "y")
"""Entries of a dict batch that are targets and not inputs."""

PADDING_MASKS = ("attention_mask", "padding_mask", "mask")
"""Entries of a dict batch that mark real positions with 1 and padding with 0."""

MAX_BATCHES = 16


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch: the arguments of the model's call, and the targets where there are any."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Tensor | None
    mask: Tensor | None = None  # [N, L], True at real positions

    @property
    def samples(self) -> int:
        """N: the size of the first axis of the first tensor that has one."""
        return len(next(tensor for tensor in self.tensors() if tensor.ndim))

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors of the model's call."""
        return tensors_in((self.args, self.kwargs))

    def forward(self, model: Any) -> Any:
        """Call the model."""
        return model(*self.args, **self.kwargs)

    def take(self, index: Any) -> Batch:
        """Return the selected samples of every tensor that has N on its first axis."""
        n = self.samples

        def cut(value: Any) -> Any:
            sampled = isinstance(value, Tensor) and value.ndim and len(value) == n
            return value[index] if sampled else value

        return Batch(*(map_tensors(cut, value) for value in vars(self).values()))

    def changed(self, change: Callable[[Any], Any]) -> Batch:
        """Return the batch with every entry of the model's call replaced."""
        args, kwargs = map_tensors(change, self.args), map_tensors(change, self.kwargs)
        return replace(self, args=args, kwargs=kwargs)


def read_batches(
    batches: Iterable[Any], model: nn.Module | None, limit: int | None = MAX_BATCHES
) -> list[Batch]:
    """Return the first batches, all of them without a limit, on the model's device.

    Raises:
        InputError: if the iterable holds no batch, or something that is no batch, or values that
            are not finite.
    """
    read = list(each_batch(batches, model, limit))
    if not read:
        raise InputError("batches is empty: give at least one batch of inputs.")
    return read


def each_batch(
    batches: Iterable[Any], model: nn.Module | None, limit: int | None = None
) -> Iterator[Batch]:
    """Yield the same one at a time; none is no error."""
    device = next((p.device for p in model.parameters()), None) if model is not None else None
    if limit is not None and limit < 1:
        raise InputError(f"limit must be a batch at least, not {limit}.")
    if not isinstance(batches, Iterable):
        raise InputError(f"batches must be an iterable of batches, not a {type(batches).__name__}.")
    for number, content in enumerate(islice(_iterated(batches), limit)):
        try:
            batch = _read(content, number, device)
        except InputError:
            raise
        except Exception as error:  # tensors without values, or a mapping of the user's own
            raise InputError(f"Batch {number} cannot be read: {one_line(error)}.") from error
        yield batch


def _iterated(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches; raise an InputError where the loader raises."""
    number = 0
    try:
        for number, content in enumerate(batches, start=1):  # noqa: B007
            yield content
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        message = f"The loader raises after {number} batches: {one_line(error)}"
        raise InputError(message) from error


def remix(batches: list[Batch]) -> tuple[list[Batch], Tensor] | None:
    """Return (the same samples in batches of the same sizes but with other companions, their
    order), or None if the batches' shapes differ.

    Sample i of the mixed batches is sample `order[i]` of the others.
    """
    signatures = {_signature(batch) for batch in batches}
    if len(signatures) != 1 or len(batches) < 2:
        return None
    sizes = [batch.samples for batch in batches]
    whole = _join(batches)
    # on the CPU, as targets are: it selects anywhere
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
    return [whole.take(index) for index in order.split(sizes)], order


def _read(content: Any, number: int, device: torch.device | None) -> Batch:
    inputs, target = content, None
    if isinstance(content, list | tuple):
        if not 1 <= len(content) <= 2:
            raise InputError(
                f"Batch {number} is a {type(content).__name__} of {len(content)}: give tensors, "
                "(input, target) pairs or dicts."
            )
        inputs, target = (content[0], content[1]) if len(content) == 2 else (content[0], None)
    args, kwargs, mask = (inputs,), {}, None
    if isinstance(inputs, Mapping):
        kwargs = {str(key): value for key, value in inputs.items() if key not in TARGETS}
        target = next((inputs[key] for key in TARGETS if key in inputs), target)
        masks = (inputs.get(key) for key in PADDING_MASKS)
        mask = next((value.bool() for value in masks if isinstance(value, Tensor)), None)
        args = ()
    elif isinstance(inputs, list | tuple):
        args = tuple(inputs)

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) and device is not None else value

    target = target.detach().cpu() if isinstance(target, Tensor) else None
    args, kwargs, mask = (map_tensors(move, value) for value in (args, kwargs, mask))
    batch = Batch(args, kwargs, target, mask)
    _check(batch, number)
    return batch


def _check(batch: Batch, number: int) -> None:
    tensors = list(batch.tensors())
    if any(tensor.is_nested for tensor in tensors):
        raise InputError(f"Batch {number} holds a nested tensor: give dense tensors.")
    if not any(tensor.ndim for tensor in tensors):
        kind = type(batch.args[0]).__name__ if batch.args else "dict without tensors"
        raise InputError(
            f"Batch {number} is a {kind}: give tensors, (input, target) pairs or dicts of tensors."
        )
    if batch.samples == 0:
        raise InputError(f"Batch {number} has no samples.")
    for tensor in tensors:
        bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InputError(
                f"Batch {number} holds {bad} values that are not finite: clean the data first."
            )


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors_in(entry)


def call_pair(args: Any, kwargs: Any, output: Any) -> tuple[Tensor, Tensor] | None:
    """Return input and output of a module's call that keeps the shape; None of any other."""
    y = next(tensors_in(output), None)
    inputs = (x for x in tensors_in((args, kwargs)) if y is not None and x.shape == y.shape)
    x = next(inputs, None)
    return None if x is None or y is None or x.ndim < 2 else (x, y)


def map_tensors(function: Any, value: Any) -> Any:
    """Return the value with every entry of its tuples, lists and dicts replaced."""
    if isinstance(value, Mapping):
        return {key: map_tensors(function, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map_tensors(function, entry) for entry in value)
    return function(value)


def _signature(batch: Batch) -> tuple:
    """Return the shapes without the first axis: batches with one signature can be joined."""
    return tuple(
        (tensor.shape[1:], tensor.dtype, tensor.ndim > 0 and len(tensor) == batch.samples)
        for tensor in batch.tensors()
    )


def _join(batches: list[Batch]) -> Batch:
    def join(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, Mapping):
            return {key: join([value[key] for value in values]) for key in first}
        if isinstance(first, tuple):
            return tuple(join(list(entries)) for entries in zip(*values, strict=True))
        if isinstance(first, Tensor) and first.ndim:
            return torch.cat(values)
        return first

    targets = [batch.target for batch in batches]
    shapes = {None if t is None else t.shape[1:] for t in targets}
    target = torch.cat(targets) if None not in shapes and len(shapes) == 1 else None  # type: ignore[arg-type]
    args, kwargs = join([each.args for each in batches]), join([each.kwargs for each in batches])
    return Batch(args, kwargs, target)
