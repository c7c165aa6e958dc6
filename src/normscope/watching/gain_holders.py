"""Who trains the gains of a loop: which of its optimizers step them, and by how much."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from normscope.user_models.norm_layers import gain_of, normalization_layers
from normscope.user_models.who_trains import holders, part_left_in_eval, weights_around


class GainHolders:
    """What the optimizers that were seen to step hold of a model's normalization layers.

    Nothing is read from a device.
    """

    def __init__(self, model: nn.Module):
        modules = {name: model.get_submodule(name) for name in normalization_layers(model)}
        around = weights_around(model, modules)
        self._modules = {name: weakref.ref(module) for name, module in modules.items()}
        self._around = {name: list(map(weakref.ref, around[name])) for name in modules}
        self._left = {name: part_left_in_eval(model, name) for name in modules}
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._largest: dict[str, float] = {}  # step of each layer so far
        self._ungraded = set(modules)  # their weights had no gradient yet

    def look_at_modes(self, model: nn.Module) -> None:
        """Note the parts in eval mode at the first training forward."""
        self._left = {name: part_left_in_eval(model, name) for name in self._modules}

    def left_in_eval(self, name: str) -> str:
        """Return the part around a layer that was left in eval mode, "" for none."""
        return self._left.get(name, "")

    def saw(self, optimizer: Optimizer) -> None:
        """Take note of an optimizer that steps."""
        self._optimizers.add(optimizer)
        for name in tuple(self._ungraded):
            module = self._modules[name]()
            weight = gain_of(module) if module is not None else None
            if weight is None or weight.grad is not None:
                self._ungraded.discard(name)

    def _trained_around(self, name: str) -> Iterator[nn.Parameter]:
        weights = (reference() for reference in self._around[name])
        return (p for p in weights if p is not None and p.requires_grad)

    def facts(self) -> dict[str, dict[str, Any]]:
        """Return the facts of a LayerHistory that are known here, for each layer."""
        held = holders(list(self._optimizers)) if self._optimizers else {}
        facts = {}
        for name, reference in self._modules.items():
            module = reference()
            weight = gain_of(module) if module is not None else None
            facts[name] = {"left_in_eval": self._left[name]}
            if weight is None or not held:
                continue
            holder = held.get(id(weight))
            step = holder.step_size(weight, read=False) if holder else None
            if step is not None:
                step = self._largest[name] = max(step, self._largest.get(name, 0.0))
            facts[name] |= {
                "parameter_dtype": str(weight.dtype).removeprefix("torch."),
                "optimizer": holder.optimizer if holder else "",
                "scope_optimized": any(id(p) in held for p in self._trained_around(name)),
                "step_size": step,
                "trainable": weight.requires_grad,
                "graded": name not in self._ungraded,
            }
        return facts
