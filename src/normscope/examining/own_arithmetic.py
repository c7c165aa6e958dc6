"""One call of a layer, repeated: its own forward in float64, and the types it computes in."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from normscope.errors import one_line
from normscope.user_models.batch_reader import map_tensors, tensors_in
from normscope.user_models.plain_layers import HOOKS

MOST_VALUES = 1 << 22
"""Larger inputs are cut to their first samples."""

VARIANCE, ONE_MORE = "variance", "1 + weight"
"""What a layer may compute in the 16 bits of its input."""

_ROOTS = ("rsqrt", "sqrt", "reciprocal", "pow")
_HALF = (torch.float16, torch.bfloat16)


@torch.no_grad()
def own_arithmetic(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> dict[str, Any]:
    """Repeat a call of a module in eval mode; return what that shows.

    `precision_error`: the relative L2 distance of its output from that of the same forward in
    float64, or `repeat_failure`: why that is not known. `in_half`: what it computes in 16 bits.
    What its forward raises in its own type goes on.
    """
    twin = _twin(module)
    few = _cut(args, output), _cut(kwargs, output)
    with _Types() as types:
        made = next(tensors_in(twin.forward(*few[0], **few[1])), None)
    facts: dict[str, Any] = {"in_half": tuple(dict.fromkeys(types.in_half))}
    wide_args, wide_kwargs = (map_tensors(_wide, value) for value in few)
    try:
        exact = next(tensors_in(_twin(module, wide=True).forward(*wide_args, **wide_kwargs)), None)
    except Exception as error:  # it takes no other type, or keeps more than tensors
        return facts | {"repeat_failure": one_line(error)}
    if made is None or exact is None or made.shape != exact.shape:
        return facts | {"repeat_failure": "its output in float64 has another shape"}
    if not made.isfinite().all():
        return facts  # NS509 says so
    if not exact.isfinite().all():
        return facts | {"repeat_failure": "its output in float64 is not finite"}
    size = exact.double().norm()
    error = float((made.double() - exact.double()).norm() / size.clamp_min(1e-30))
    return facts | {"precision_error": error if float(size) > 0 else None}


@torch.no_grad()
def eps_response(
    module: nn.Module, args: Any, kwargs: Any, output: Tensor, eps: float
) -> float | None:
    """Return the size of the output at an input whose variance is eps, over that at a large input.

    It is 1 / sqrt(2) where eps is added to the variance, and about 1 where to its root, or nowhere.
    """
    twin, few = _twin(module, wide=True), (_cut(args, output), _cut(kwargs, output))
    sizes = []
    for std in (0.0, eps**0.5, 1e6 * eps**0.5):

        def scaled(value: Any, std: float = std) -> Any:
            if not isinstance(value, Tensor) or value.shape[1:] != output.shape[1:]:
                return _wide(value)
            value = value.double() - value.double().mean(-1, keepdim=True)
            return std * value / value.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)

        moved = [map_tensors(scaled, value) for value in few]
        sizes.append(next(tensors_in(twin.forward(*moved[0], **moved[1]))))
    none, small, large = sizes
    change = (large - none).norm()
    ratio = float((small - none).norm() / change.clamp_min(1e-30))
    return ratio if change > 0 and ratio == ratio else None


class _Types(TorchDispatchMode):
    """Notes what is computed in 16 bits."""

    def __init__(self):
        super().__init__()
        self.in_half: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        made = next(tensors_in(result), None)
        if made is not None and made.dtype in _HALF:
            reduced = made.ndim > 0 and made.shape[-1:] == (1,)
            root = name in _ROOTS and (name != "pow" or args[1] in (-0.5, 0.5))
            if root and reduced:
                self.in_half.append(VARIANCE)
            if name == "add" and made.ndim == 1 and any(_is_one(each) for each in args[:2]):
                self.in_half.append(ONE_MORE)
        return result


def _is_one(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and float(value) == 1
    return value == 1


def _cut(value: Any, output: Tensor) -> Any:
    """Return the arguments with the first samples alone of a large call."""
    samples = max(1, len(output) * MOST_VALUES // max(output.numel(), 1))

    def cut(entry: Any) -> Any:
        sampled = isinstance(entry, Tensor) and entry.shape == output.shape
        return entry.detach()[:samples] if sampled else entry

    return map_tensors(cut, value)


def _wide(value: Any) -> Any:
    wide = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().double() if wide else value


def _twin(module: nn.Module, *, wide: bool = False) -> nn.Module:
    """Return a copy of the module without hooks, its tensors the same ones or in float64."""
    twin = copy.copy(module)
    change = _wide if wide else (lambda value: value)
    own = {name: change(value) for name, value in vars(module).items()}
    own |= {name: OrderedDict() for name in HOOKS if name in own}
    for table in ("_parameters", "_buffers"):
        held = own[table].items()
        own[table] = {name: None if value is None else _kept(value, wide) for name, value in held}
    own["_modules"] = {
        name: child if child is None else _twin(child, wide=wide)
        for name, child in module._modules.items()
    }
    twin.__dict__ = own
    return twin


def _kept(tensor: Tensor, wide: bool) -> Tensor:
    """Return a copy, so that a forward that writes to it leaves the module alone."""
    return tensor.detach().double() if wide and tensor.is_floating_point() else tensor.clone()
