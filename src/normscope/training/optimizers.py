"""The optimizers of a run, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from normscope.errors import InputError, lookup
from normscope.training.plan import Plan

SCHEDULES: dict[str, Callable[[int, int, float], float]] = {
    "cosine": lambda epoch, epochs, done: (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2,
    "constant": lambda epoch, epochs, done: 1.0,
    "steps": lambda epoch, epochs, done: 10.0 ** -((done >= 0.5) + (done >= 0.75)),
}


def warmed_up(rate: float, step: int, warmup: int) -> float:
    """The learning rate of a step, counted from 1, that rises over `warmup` steps to `rate`."""
    return rate * min(1.0, step / warmup) if warmup else rate


def learning_rate(
    schedule: str, initial: float, epoch: int, epochs: int, done: float = 0.0
) -> float:
    """The learning rate of an epoch, counted from 1, behind this share of all optimizer steps.

    "cosine" is Loshchilov & Hutter (2017), eq. 5, without restarts and down to zero, as
    `torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)` stepped once per epoch
    sets it. "steps" is He et al. (2016), section 4.2: 32k and 48k of 64k steps.
    """
    return initial * lookup("schedule", schedule, SCHEDULES)(epoch, epochs, done)


BETA2 = 0.99

Groups = list[dict[str, Any]]


class SeveralOptimizers(torch.optim.Optimizer):
    """Optimizers that step together, each with parameters of its own; one for whoever looks on."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]):
        self.parts = tuple(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        # the very groups, so that a learning rate that is set here is theirs
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step with each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return their states in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load their states in order."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def optimizer_of(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Return the plan's optimizer over all parameters of a network.

    Raises:
        InputError: if there is none of that name.
    """
    return lookup("optimizer", plan.optimizer, OPTIMIZERS)(model, plan)


def _groups(decayed: list[nn.Parameter], spared: list[nn.Parameter], plan: Plan) -> Groups:
    """The groups of an optimizer, those without a parameter left out."""
    decays = ((decayed, plan.weight_decay), (spared, 0.0))
    return [{"params": chosen, "weight_decay": decay} for chosen, decay in decays if chosen]


def _sgd(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    spares = plan.decay_spares == "vectors"
    return torch.optim.SGD(
        _groups(*split_parameters(model), plan) if spares else model.parameters(),
        lr=plan.learning_rate,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        fused=True,
    )


def _adamw(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    return _fused_adamw(_groups(*split_parameters(model), plan), plan)


def _muon(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    matrices, others = split_parameters(model)
    ends = {id(p) for p in _ends(model)}
    hidden = [p for p in matrices if p.ndim == 2 and id(p) not in ends]
    if not hidden:
        raise InputError("Muon is for matrices inside a network; this one has none. Use adamw.")
    rest = [p for p in matrices if id(p) not in {id(h) for h in hidden}]
    muon = torch.optim.Muon(
        hidden,
        lr=plan.learning_rate,
        weight_decay=plan.weight_decay,
        momentum=plan.momentum,
        adjust_lr_fn="match_rms_adamw",  # AdamW's learning rates suit it then
    )
    return SeveralOptimizers([muon, _fused_adamw(_groups(rest, others, plan), plan)])


def _ends(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the first and the last layer, which Muon is not for (Jordan et al. 2024)."""
    marks = getattr(model, "landmarks", None)
    names = [] if marks is None else [marks.stem, marks.classifier]
    return [model.get_parameter(f"{name}.weight") for name in names]


def _fused_adamw(groups: Groups, plan: Plan) -> torch.optim.Optimizer:
    betas = (plan.momentum, BETA2)
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=betas, fused=True)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices of linear layers and the kernels of convolutions, and all others.

    Gains, biases and embeddings are others, also an embedding that is a linear layer's weight.
    """
    tables = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in parameters if id(p) not in chosen]


OPTIMIZERS: dict[str, Callable[[nn.Module, Plan], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "muon": _muon,
}
"""Name -> how it is made."""
