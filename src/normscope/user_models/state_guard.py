"""Leave a model bitwise as it was: whatever a forward can change is kept and put back, also when the forward raises."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Attributes of these types are kept by value: `training`, `momentum`, a module's own counters."""

_depth = 0


def is_examined() -> bool:
    """Forwards that run now are somebody's measurement and no part of a training: observers leave
    them out.
    """
    return _depth > 0


@contextmanager
def preserve_state(model: nn.Module, batches: Any = None) -> Iterator[None]:
    """What happens inside leaves no trace on the model or on the generators of random numbers.

    Restored are: every module's mode, plain attributes and tensors (buffers in place, so that
    whoever else holds them sees the same), which parameters require gradients, the gradients, the
    global generators of Python, NumPy and torch, and the generator of the loader that gave the
    batches. Parameters are not copied: no forward changes them in place, and they may fill the
    memory.
    """
    modules = [(module, *_keep(module)) for module in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    generators = [g for g in _generators(batches) if isinstance(g, torch.Generator)]
    states = [(g, g.get_state()) for g in generators]
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    global _depth
    _depth += 1
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        _depth -= 1
        random.setstate(python)
        np.random.set_state(numpy_state)
        for generator, state in states:
            generator.set_state(state)
        for module, plain, tensors in modules:
            _put_back(module, plain, tensors)
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


@contextmanager
def preserve_script(model: nn.Module) -> Iterator[None]:
    """The same for a TorchScript model, which has no attributes of Python's: its mode and its
    state_dict.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    training = model.training
    try:
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(state[name])


def _generators(batches: Any) -> list[Any]:
    """The loader's own generator and its sampler's: iterating advances them."""
    sampler = getattr(batches, "sampler", None)
    return [getattr(batches, "generator", None), getattr(sampler, "generator", None)]


def _keep(
    module: nn.Module,
) -> tuple[dict[str, Any], list[tuple[dict, str, Tensor | None, Tensor | None]]]:
    """(plain attributes, [(dictionary, name, tensor, copy of its values)]) of one module without
    its children.
    """
    own = vars(module)
    plain = {name: value for name, value in own.items() if type(value) in PLAIN}
    places = [(own, name) for name, value in own.items() if isinstance(value, Tensor)]
    places += [(own["_buffers"], name) for name in own.get("_buffers", ())]
    return plain, [(holder, name, holder[name], _copy(holder[name])) for holder, name in places]


def _copy(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or is_lazy(tensor):
        return None
    return tensor.detach().clone()


def _put_back(module: nn.Module, plain: dict[str, Any], tensors: list) -> None:
    own = vars(module)
    for name in [name for name, value in own.items() if type(value) in PLAIN and name not in plain]:
        if name not in {kept for holder, kept, _, _ in tensors if holder is own}:
            del own[name]
    own.update(plain)
    with torch.no_grad():
        for holder, name, tensor, copy in tensors:
            holder[name] = tensor
            if copy is not None and not _same_bits(tensor, copy):
                tensor.copy_(copy)


def _same_bits(tensor: Tensor, copy: Tensor) -> bool:
    """Equal bit by bit, NaN included: an untouched buffer is not written, so that its version does
    not move.
    """
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
        return False
    return torch.equal(tensor.reshape(-1).view(torch.uint8), copy.reshape(-1).view(torch.uint8))
