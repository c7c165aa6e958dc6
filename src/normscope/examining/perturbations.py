"""Who sees whom: layers whose output changes where their own input did not.

A forward is compared with one of changed inputs: other content under the padding mask, or in a
window of the positions. Only what each layer did itself counts, so no mask is needed at its
resolution, nor a list of kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.user_models.batch_reader import Batch, call_pair

SAMPLES = 8
"""So many samples of a batch are changed."""

SMALLEST = 8
"""Axes of fewer positions are none that time could run along."""

LOUDER = 4.0
"""Standard deviations of the noise that takes the place of content, in those of the content: what
a statistic makes of it must stand out.
"""

Call = tuple[Tensor, Tensor]  # a layer's first input and output


@dataclass(frozen=True)
class Window:
    """The positions [start, end) of an axis with `size` of them, that were changed."""

    start: int
    end: int
    size: int

    def at(self, size: int) -> tuple[float, float]:
        """Return start and end on an axis of another resolution."""
        return self.start * size / self.size, self.end * size / self.size


def see_padding(
    batch: Batch, forward: Callable[[Batch], Any], modules: dict[str, nn.Module]
) -> dict[str, float]:
    """Return {layer: how far its output moved at positions of unmoved input}, relative to its
    output's size, when the content under the padding mask is another. {} without padding.
    """
    few = batch.take(slice(0, SAMPLES))
    if few.mask is None or few.mask.ndim != 2 or bool(few.mask.all()) or not few.mask.any():
        return {}
    before = _calls(few, forward, modules)
    after = _calls(_other_padding(few, few.mask), forward, modules)
    shared = before.keys() & after.keys()
    return {name: _leak(before[name], after[name]) for name in before if name in shared}


def see_later(
    batch: Batch, forward: Callable[[Batch], Any], modules: dict[str, nn.Module]
) -> dict[str, float]:
    """Return {layer: the same before a changed window of positions}, of layers up to which the
    network is causal along one axis: what the window changed stands in it or behind it, and some
    behind it. Of images, a convolution of stride 2 looks that way along both.
    """
    few = batch.take(slice(0, SAMPLES // 2))
    leaks: dict[str, list[float]] = {}
    before = _calls(few, forward, modules)
    for changed, window in _other_windows(few):
        after = _calls(changed, forward, modules)
        for name in before.keys() & after.keys():
            leak = _leak_before(before[name], after[name], window)
            leaks.setdefault(name, []).extend([] if leak is None else [leak])
    return {name: found[0] if len(found) == 1 else 0.0 for name, found in leaks.items()}


def _calls(
    batch: Batch, forward: Callable[[Batch], Any], modules: dict[str, nn.Module]
) -> dict[str, Call]:
    """Run a forward; return {layer: its first input and output} where they have one shape."""
    calls: dict[str, Call] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            pair = call_pair(args, kwargs, output)
            if name not in calls and pair is not None:
                calls[name] = (pair[0].detach().clone(), pair[1].detach().clone())

        return hook

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(keep(name), with_kwargs=True))
        try:
            forward(batch)
        except (Exception, SystemExit):
            return {}  # the model takes no such input: of the layers nothing is known
    return calls


def _changes(before: Tensor, after: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the largest change over all but these axes, relative to the values' size."""
    difference = (after.float() - before.float()).abs()
    over = tuple(axis for axis in range(before.ndim) if axis not in axes)
    size = before.float().square().mean().sqrt().clamp_min(1e-30)
    return (difference.amax(over) if over else difference) / size


def _rounding(values: Tensor) -> float:
    """The relative change that a kernel's order of sums may make."""
    return max(1e-5, 4 * torch.finfo(values.dtype).eps)


def _leak(before: Call, after: Call) -> float:
    """Return the largest change of the output, along some axis, where the input has not changed."""
    (x, y), (other_x, other_y) = before, after
    if x.shape != other_x.shape or not x.is_floating_point() or x.ndim < 3:
        return 0.0
    worst = 0.0
    for axis in range(1, x.ndim):
        still = _changes(x, other_x, (0, axis)) <= _rounding(x)
        if still.all():
            continue
        moved = _changes(y, other_y, (0, axis))[still]
        worst = max(worst, float(moved.max()) if moved.numel() else 0.0)
    return worst


def _leak_before(before: Call, after: Call, window: Window) -> float | None:
    """Return the largest change of the output before a window; None where no axis is causal."""
    (x, y), (other_x, other_y) = before, after
    if x.shape != other_x.shape or not x.is_floating_point() or x.ndim < 3:
        return None
    worst = None
    for axis in range(1, x.ndim):
        start, end = window.at(x.shape[axis])
        changed = (_changes(x, other_x, (axis,)) > _rounding(x)).nonzero().flatten()
        causal = len(changed) and int(changed[0]) >= int(start) and int(changed[-1]) >= end
        if causal and int(start) > 0:
            leak = float(_changes(y, other_y, (axis,))[: int(start)].max())
            worst = leak if worst is None else max(worst, leak)
    return worst


def _other_padding(batch: Batch, mask: Tensor) -> Batch:
    """Return the batch with other content where the mask is False."""

    def change(value: Any) -> Any:
        axis = next((d for d in (1, 2) if _has(value, d, mask)), None)
        if axis is None or value is batch.mask or _is_mask(value, mask):
            return value
        hidden = ~mask if value.ndim == 2 else _along(~mask, axis, value.ndim)
        return torch.where(hidden, _other_content(value, mask, axis), value)

    return batch.changed(change)


def _has(value: Any, axis: int, mask: Tensor) -> bool:
    sized = isinstance(value, Tensor) and value.ndim > axis and value.dtype is not torch.bool
    return sized and (len(value), value.shape[axis]) == mask.shape


def _is_mask(value: Tensor, mask: Tensor) -> bool:
    return value.shape == mask.shape and bool((value == mask.to(value.dtype)).all())


def _along(mask: Tensor, axis: int, dims: int) -> Tensor:
    """[N, L] as a tensor of so many dimensions with L at an axis."""
    shape = [len(mask)] + [1] * (dims - 1)
    shape[axis] = mask.shape[1]
    return mask.reshape(shape)


def _other_content(value: Tensor, mask: Tensor | None = None, axis: int = 1) -> Tensor:
    """Return other content of the same kind: louder noise, or other ones of its numbers."""
    generator = torch.Generator().manual_seed(0)
    known = value if mask is None else value.movedim(axis, 1)[mask]
    if value.is_floating_point():
        noise = torch.randn(value.shape, generator=generator).to(value)
        return known.mean() + LOUDER * noise * known.float().std(correction=0).to(value)
    known = known.flatten()
    picked = torch.randint(len(known), value.shape, generator=generator).to(value.device)
    return known[picked]


def _other_windows(batch: Batch) -> Iterator[tuple[Batch, Window]]:
    """Yield the batch with other content in a window in the middle of each axis that time may run
    along: of sequences, maps (spectrograms) and videos, of which one other axis is tried too.
    """
    values = list(batch.tensors())
    n, first = batch.samples, next((v for v in values if v.ndim > 1), None)
    if first is None or len(first) != n or first.ndim > 5:
        return
    for axis in {2: (1,), 3: (1, 2), 4: (2, 3), 5: (2, 3)}[first.ndim]:
        size = first.shape[axis]
        if size < SMALLEST:
            continue
        window = Window(size // 2, size // 2 + max(size // 8, 1), size)

        def change(value: Any, axis: int = axis, window: Window = window) -> Any:
            if value is not first:
                return value
            other, value = _other_content(value), value.clone()
            at = (slice(None),) * axis + (slice(window.start, window.end),)
            value[at] = other[at]
            return value

        yield batch.changed(change), window
