"""Leave a model bitwise as it was: what a forward can change is kept and put back, always."""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normscope.errors import InputError

CONTAINERS = (
    list, dict, set, bytearray, deque, OrderedDict, defaultdict, Counter, np.ndarray,
)  # fmt: skip
"""Attributes of these types, also inside one another, are kept with their entries: caches and logs
of a forward's own.
"""
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
LARGEST = 256 << 20
"""Bytes of a dense tensor in a container; a larger one is not copied: it may be a data set."""

_depth = 0


def is_examined() -> bool:
    """Tell whether forwards that run now are a measurement, which observers leave out."""
    return _depth > 0


@contextmanager
def preserve_state(model: nn.Module, batches: Any = None) -> Iterator[None]:
    """Leave no trace of what happens inside on the model or on the generators of random numbers.

    Restored are: every module's mode and attributes, its lists, dicts, sets, deques, arrays and
    generators, the attributes of objects in them whose classes are of the module's package (or of
    modules that the model does not know), and tensors (in place, so that whoever else holds them
    sees the same); what is new is taken away. Besides, which parameters require gradients, the
    gradients, the global generators of Python, NumPy and torch, and the generator of the loader
    that gave the batches. Parameters are not copied: no forward changes them in place, and they may
    fill the memory.

    Raises:
        InputError: for a lazy layer, of which a forward makes another.
    """
    refuse_lazy(model)
    kept = KeptState(model)
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    generators = [g for g in _generators(batches) if isinstance(g, torch.Generator)]
    states = [(g, _state(g)) for g in generators]
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
            _set_state(generator, state)
        kept.put_back()
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def refuse_lazy(model: nn.Module) -> None:
    """Raise an InputError for a layer that has no values before its first batch."""
    for name, module in model.named_modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        if any(tensor is not None and is_lazy(tensor) for tensor in tensors):
            raise InputError(
                f"Layer {name!r} is lazy and has no values yet: run the model on one batch first."
            )


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
        known = {id(module) for module in model.modules()}
        self._modules = {name: _Kept(module, known) for name, module in model.named_modules()}

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

    def __init__(self, module: nn.Module, known: set[int]):
        self.module = module
        own = vars(module)
        self.attributes = dict(own)
        holders = [(own, name) for name, value in own.items() if isinstance(value, Tensor)]
        holders += [(own["_buffers"], name) for name in own.get("_buffers", ())]
        self.tensors = [
            (holder, name, holder[name], _copy(holder[name])) for holder, name in holders
        ]
        # without the tables of hooks: those of a measurement under way come and go by themselves
        attributes = [value for name, value in own.items() if "_hooks" not in name]
        held = {id(tensor) for _, _, tensor, _ in self.tensors}
        found = _inside(attributes, known | held, _package(module))
        self.containers = [(each, copy.copy(each)) for each in found if type(each) in CONTAINERS]
        self.states = [(each, _state(each)) for each in found if isinstance(each, GENERATORS)]
        self.inner = [(each, _copy(each)) for each in found if isinstance(each, Tensor)]

    def moved_buffers(self) -> Iterator[str]:
        """Yield the names of the persistent buffers that are no longer what they were."""
        buffers = self.module._buffers
        for holder, name, _, kept in self.tensors:
            if holder is not buffers or name in self.module._non_persistent_buffers_set:
                continue
            now = buffers.get(name)
            if kept is None or kept.layout is not torch.strided or kept.is_quantized:
                continue
            if now is None or not same_bits(_stored(now), kept):
                yield name

    def put_back(self) -> None:
        """Undo what was changed, added and taken away."""
        own = vars(self.module)
        for name in set(own) - set(self.attributes):
            del own[name]
        own.update(self.attributes)
        for container, content in self.containers:
            _refill(container, content)
        for generator, state in self.states:
            _set_state(generator, state)
        for holder, name, tensor, kept in self.tensors:
            holder[name] = tensor
            _rewrite(tensor, kept)
        for tensor, kept in self.inner:
            _rewrite(tensor, kept)


def _package(module: nn.Module) -> str:
    """Return the package of a module's class; "" for PyTorch's own, which needs no look inside."""
    name = type(module).__module__.partition(".")[0]
    return "" if name == "torch" else name


def _inside(values: list[Any], known: set[int], package: str) -> list[Any]:
    """Return the containers, generators and tensors among these values and in them, each once.

    Objects of the module's package, and modules that nobody knows, are looked into, as tables of
    their attributes. Those of other packages are not: a trainer or a loader may have threads, whose
    work must not be undone.
    """
    found: dict[int, Any] = {}
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, tuple):
            left.extend(value)
            continue
        if id(value) in known:
            continue
        if _is_own(value, package):
            value = vars(value)
        if id(value) in found or not _is_kept(value):
            continue
        found[id(value)] = value
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list | deque):
            left.extend(value)
    return list(found.values())


def _is_own(value: Any, package: str) -> bool:
    """Tell whether it is an object of the model's own, with a table of attributes."""
    kind = type(value)
    if isinstance(value, Tensor | type) or not isinstance(getattr(value, "__dict__", None), dict):
        return False
    own = kind.__module__.partition(".")[0] == package or kind is SimpleNamespace
    return own or isinstance(value, nn.Module)


def _is_kept(value: Any) -> bool:
    if isinstance(value, Tensor):
        dense = value.layout is torch.strided and not value.is_nested
        return dense and not isinstance(value, nn.Parameter) and value.nbytes <= LARGEST
    return type(value) in CONTAINERS or isinstance(value, GENERATORS)


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


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
    return _stored(tensor).detach().clone()


def _stored(tensor: Tensor) -> Tensor:
    """Return what a tensor holds, without the repetitions of an expanded one."""
    if tensor.layout is torch.strided and not tensor.is_nested:
        for dimension in reversed(range(tensor.ndim)):
            if tensor.stride(dimension) == 0 and tensor.numel():
                tensor = tensor.select(dimension, 0)
    return tensor


def _rewrite(tensor: Tensor | None, kept: Tensor | None) -> None:
    if tensor is None or kept is None:
        return
    readable = tensor.device.type == "cpu"  # for any other device a comparison would wait
    if readable and same_bits(_stored(tensor), kept):
        return
    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
        _stored(tensor if readable else tensor.data).copy_(kept)  # of .data no version moves


def same_bits(tensor: Tensor, kept: Tensor) -> bool:
    """Equal bit by bit, NaN included: an untouched buffer is not written, its version stays."""
    if tensor.shape != kept.shape or tensor.dtype != kept.dtype:
        return False
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False  # written again, whatever it holds
    now, then = (_stored(each).reshape(-1).view(torch.uint8) for each in (tensor, kept))
    return torch.equal(now, then)
