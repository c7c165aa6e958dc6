"""Layers' parameters that other optimizers change than the one whose steps count."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import Optimizer

from normscope.user_models.wrappers import local_part
from normscope.watching.step_writer import Row, StepWriter, over, owned


class OtherOptimizers:
    """Keeps a step's weights, biases and gradients as they were before another optimizer's update.

    Of Muon for the matrices and AdamW for the rest one comes first; an optimizer for each parameter
    may step, and take its gradient away, inside the backward.

    Attributes:
        kept: {(layer, statistic): value} of this step.
    """

    def __init__(self, rows: StepWriter):
        self._rows = rows
        self.forget()

    def forget(self) -> None:
        """Begin a step."""
        self.kept: dict[tuple[str, str], Tensor] = {}
        self._own: Row | None = None  # looked up once a step: there may be hundreds of optimizers

    def keep(self, optimizer: Optimizer) -> None:
        """Keep what an optimizer is about to change, before its first step in this one."""
        if self._own is None:
            self._own = self._rows.parameters()
        scale = getattr(optimizer, "grad_scale", None)
        for at, value in owned(self._own, optimizer):
            if (at.layer, at.statistic) in self.kept:
                continue
            self.kept[at.layer, at.statistic] = local_part(value).detach().clone()
            if value.grad is not None:
                gradient = over(local_part(value.grad), scale).detach().clone()
                self.kept[at.layer, f"{at.statistic}_gradient"] = gradient
