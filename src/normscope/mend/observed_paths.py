"""The ways that forwards of given batches take, from the operations that run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from normscope.errors import InputError
from normscope.mend.forward_paths import (
    Path,
    followed_layers,
    is_row_norm,
    plain_values,
    tensor_owners,
)
from normscope.user_models.batch_reader import Batch, tensors_in
from normscope.user_models.state_guard import preserve_state

NOTHING_AROUND = nullcontext()


def observed_paths(model: nn.Module, batches: list[Batch]) -> list[Path]:
    """The way that each batch takes through the model, with nothing changed in it."""
    paths = []
    for number in range(len(batches)):
        observer = _Observer(model)
        observer.read_by_caller(outputs_of(model, batches, number, observer))
        paths.append(observer.path)
    return paths


@torch.no_grad()
def outputs_of(
    model: nn.Module,
    batches: list[Batch],
    number: int,
    around: AbstractContextManager = NOTHING_AROUND,
) -> list[Tensor]:
    """The tensors that the model returns for one batch, with the same random numbers each time and
    a context around the forward.

    Raises:
        InputError: if the forward fails.
    """
    with preserve_state(model):
        torch.manual_seed(0)
        try:
            with around:
                output = batches[number].forward(model)
        except Exception as error:
            raise InputError(
                f"The model fails on batch {number}: {type(error).__name__}: {error}"
            ) from error
    return list(tensors_in(output))


class _Observer(TorchDispatchMode):
    """Notes which layer gets whose output, and what other operations read.

    Attributes:
        path: of the forward that runs.
        outputs: {id of a layer's output: (the layer's name, the output)}; the tensor is held so
            that no other gets its id. Views of a layer or RMS normalization's output that keep its
            rows whole count as the output.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.path = Path()
        self.outputs: dict[int, tuple[str, Tensor]] = {}
        self._layers, self._owners = followed_layers(model), tensor_owners(model)
        self._row_norms = {name for name, layer in self._layers.items() if is_row_norm(layer)}
        self._modules = list(model.modules())
        self._surrounding = [m for m in self._modules if m._forward_hooks or m._forward_pre_hooks]
        self._inside = 0

    def __enter__(self) -> _Observer:
        self._handles = [
            handle
            for name, layer in self._layers.items()
            for handle in (
                layer.register_forward_pre_hook(
                    functools.partial(self._enter_layer, name), with_kwargs=True
                ),
                layer.register_forward_hook(
                    functools.partial(self._leave_layer, name), always_call=True
                ),
            )
        ]
        for module in self._surrounding:
            if module not in self._layers.values():
                self._handles.append(module.register_forward_hook(self._leave_hooked))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*error)
        kept = (value for module in self._modules for value in plain_values(module))
        self.read_by_caller([value for value in kept if isinstance(value, Tensor)])

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._inside:
            for tensor in tensors_in((args, kwargs or {})):
                if not self._is_view_of_rows(tensor, output):
                    self._note_reading(tensor)
                self.path.read |= self._owners.get(id(tensor), set())
        return output

    def _is_view_of_rows(self, tensor: Tensor, output: Any) -> bool:
        """Tell whether it only chose or arranged rows of a norm's output, and so counts as it."""
        name = self.outputs.get(id(tensor), ("",))[0]
        if not isinstance(output, Tensor) or name not in self._row_norms:
            return False
        if output is tensor or not _keeps_rows(tensor, output):
            return False
        self.outputs[id(output)] = (name, output)
        return True

    def read_by_caller(self, tensors: list[Tensor]) -> None:
        """Note that these tensors are read outside of the forward."""
        for tensor in tensors:
            self._note_reading(tensor)

    def _note_reading(self, tensor: Tensor) -> None:
        if id(tensor) in self.outputs:
            self.path.others[self.outputs[id(tensor)][0]] += 1

    def _enter_layer(self, name: str, layer: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = list(tensors_in((args, kwargs)))
        if not self._inside:
            self.path.calls[name] += 1
            if len(args) + len(kwargs) != 1:
                self.path.argued.add(name)
            for tensor in tensors:
                self._enter_with(name, tensor, len(tensors))
        self._inside += 1

    def _enter_with(self, name: str, tensor: Tensor, inputs: int) -> None:
        source = self.outputs.get(id(tensor), ("",))[0]
        if inputs != 1:
            self._note_reading(tensor)
            return
        if source:
            self.path.edges[source, name] += 1
        self.path.ranks[name] = tensor.ndim

    def _leave_layer(self, name: str, layer: nn.Module, args: Any, output: Any) -> None:
        self._inside -= 1
        if not isinstance(output, Tensor):
            self.path.argued.add(name)
        if not self._inside:
            for tensor in tensors_in(output):
                self.outputs[id(tensor)] = (name, tensor)

    def _leave_hooked(self, module: nn.Module, args: Any, output: Any) -> None:
        self.read_by_caller(list(tensors_in((args, output))))


def _keeps_rows(x: Tensor, view: Tensor) -> bool:
    """Tell whether every row (last axis) of a tensor's view is one of its own."""
    shared = x.untyped_storage().data_ptr() == view.untyped_storage().data_ptr()
    if not shared or not x.is_contiguous() or not view.ndim or view.dtype != x.dtype:
        return False
    width = x.shape[-1]
    steps = [*view.stride()[:-1], view.storage_offset() - x.storage_offset()]
    whole = view.shape[-1] == width and view.stride(-1) == 1
    return whole and all(step % width == 0 for step in steps)
