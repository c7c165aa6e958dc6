"""Leave a model bitwise as it was: what a forward can change is kept and put back, always."""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

CONTAINERS = (
    list, dict, set, bytearray, deque, OrderedDict, defaultdict, Counter, np.ndarray,
)  # fmt: skip
"""Attributes of these types, also inside one another, are kept with their entries: caches and logs
of a forward's own.
"""

_depth = 0


def is_examined() -> bool:
    """Tell whether forwards that run now are a measurement, which observers leave out."""
    return _depth > 0


@contextmanager
def preserve_state(model: nn.Module, batches: Any = None) -> Iterator[None]:
    """Leave no trace of what happens inside on the model or on the generators of random numbers.

    Restored are: every module's mode and attributes, its lists, dicts, sets, deques and arrays (not
    what is inside other objects in them), and tensors (buffers in place, so that whoever else holds
    them sees the same); what is new is taken away. Besides, which parameters require gradients, the
    gradients, the global generators of Python, NumPy and torch, and the generator of the loader
    that gave the batches. Parameters are not copied: no forward changes them in place, and they may
    fill the memory.
    """
    kept = KeptState(model)
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
        kept.put_back()
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


@contextmanager
def preserve_script(model: nn.Module) -> Iterator[None]:
    """Do the same for a TorchScript model, of which there are a mode and a state_dict."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    training = model.training
    try:
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(state[name])


def _reshard(model: nn.Module) -> None:
    """Give parameters that a forward has gathered (FSDP2) back to their shards."""
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            module.reshard()  # type: ignore[operator]


def _generators(batches: Any) -> list[Any]:
    """The loader's own generator and its sampler's: iterating advances them."""
    sampler = getattr(batches, "sampler", None)
    return [getattr(batches, "generator", None), getattr(sampler, "generator", None)]


class KeptState:
    """A model's attributes and tensors but for its parameters, as they were when this was made."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._modules = {name: _Kept(module) for name, module in model.named_modules()}

    def put_back(self) -> None:
        """Undo what was changed, added and taken away."""
        _reshard(self._model)
        for kept in self._modules.values():
            kept.put_back()

    def moved_buffers(self) -> tuple[str, ...]:
        """Return the names of the buffers in checkpoints of which a bit has changed."""
        return tuple(
            f"{name}.{buffer}" if name else buffer
            for name, kept in self._modules.items()
            for buffer in kept.moved_buffers()
        )


class _Kept:
    """The attributes of one module that a forward may change, with their values."""

    def __init__(self, module: nn.Module):
        self.module = module
        own = vars(module)
        self.attributes = dict(own)
        # without the tables of hooks: those of a measurement under way come and go by themselves
        attributes = {name: value for name, value in own.items() if "_hooks" not in name}
        self.containers = [(each, copy.copy(each)) for each in _containers(attributes)]
        holders = [(own, name) for name, value in own.items() if isinstance(value, Tensor)]
        holders += [(own["_buffers"], name) for name in own.get("_buffers", ())]
        self.tensors = [
            (holder, name, holder[name], _copy(holder[name])) for holder, name in holders
        ]

    def moved_buffers(self) -> Iterator[str]:
        """Yield the names of the persistent buffers that are no longer what they were."""
        buffers = self.module._buffers
        for holder, name, _, kept in self.tensors:
            if holder is not buffers or name in self.module._non_persistent_buffers_set:
                continue
            now = buffers.get(name)
            if kept is None or kept.layout is not torch.strided or kept.is_quantized:
                continue
            if now is None or not same_bits(now, kept):
                yield name

    def put_back(self) -> None:
        """Undo what was changed, added and taken away."""
        own = vars(self.module)
        for name in set(own) - set(self.attributes):
            del own[name]
        own.update(self.attributes)
        for container, content in self.containers:
            _refill(container, content)
        with torch.no_grad():
            for holder, name, tensor, kept in self.tensors:
                holder[name] = tensor
                if kept is not None and not same_bits(tensor, kept):
                    tensor.copy_(kept)


def _containers(own: dict[str, Any]) -> list[Any]:
    """Return the containers among a module's attributes, and those in them, each once."""
    found: dict[int, Any] = {}
    left = list(own.values())
    while left:
        value = left.pop()
        if isinstance(value, tuple):
            left.extend(value)
        elif type(value) in CONTAINERS and id(value) not in found:
            found[id(value)] = value
            if isinstance(value, dict):
                left.extend(value.values())
            elif isinstance(value, list | deque):
                left.extend(value)
    return list(found.values())


def _refill(container: Any, content: Any) -> None:
    """Give a container the content that it had; its identity stays."""
    if isinstance(container, np.ndarray):
        if container.tobytes() != content.tobytes():
            container[...] = content
        return
    if isinstance(container, bytearray):
        container[:] = content
        return
    pairs = zip(_entries(container), _entries(content), strict=True)
    if len(container) == len(content) and all(a is b for a, b in pairs):
        return
    container.clear()
    (container.extend if isinstance(container, list | deque) else container.update)(content)


def _entries(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return [*container, *container.values()]
    return list(container)


def _copy(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or is_lazy(tensor) or tensor.is_meta:
        return None
    return tensor.detach().clone()


def same_bits(tensor: Tensor, kept: Tensor) -> bool:
    """Equal bit by bit, NaN included: an untouched buffer is not written, its version stays."""
    if tensor.shape != kept.shape or tensor.dtype != kept.dtype:
        return False
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False  # written again, whatever it holds
    return torch.equal(tensor.reshape(-1).view(torch.uint8), kept.reshape(-1).view(torch.uint8))
