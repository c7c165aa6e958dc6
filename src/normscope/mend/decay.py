"""Parameter groups that leave weight decay off normalization layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from normscope.errors import InputError
from normscope.user_models.norm_layers import is_norm
from normscope.user_models.plain_layers import own_parameters


def weight_decay_groups(
    model: nn.Module, weight_decay: float, *, decay_biases: bool = False
) -> list[dict[str, Any]]:
    """Two parameter groups for an optimizer: with the decay, and without it for normalization
    layers.

    Normalization parameters are those of normalization modules, whatever they are called and
    however many dimensions they have. Every parameter that requires a gradient is in exactly one
    group, also if modules share it.

    Args:
        model: the model.
        weight_decay: of the first group.
        decay_biases: decay the biases of other layers too.

    Raises:
        InputError: if the model has no parameter to train, or the decay is negative.
    """
    if weight_decay < 0:
        raise InputError(f"weight_decay must not be negative, and is {weight_decay}.")
    spared = {
        id(p)
        for module in model.modules()
        if is_norm(module)
        for p in own_parameters(module).values()
    }
    if not decay_biases:
        spared |= {
            id(p) for module in model.modules() if (p := module._parameters.get("bias")) is not None
        }
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            "No parameter of the model requires a gradient: there is nothing to optimize."
        )
    return [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
