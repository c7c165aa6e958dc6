"""Train mode: of single modules, and the model's own."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import one_line
from normscope.examining.layer_facts import switch_mode
from normscope.user_models.batch_reader import Batch
from normscope.user_models.state_guard import preserve_state


@contextmanager
def modules_in_train_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put only these modules into train mode; synchronized ones see this process's batch alone."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(setattr, module, "training", module.training)
            module.training = True
            if isinstance(module, nn.SyncBatchNorm):
                module.forward = functools.partial(_BatchNorm.forward, module)
                stack.callback(delattr, module, "forward")
        yield


def train_failure(model: nn.Module, batch: Batch) -> dict[str, str]:
    """Run one forward after the model's own train(); return why it failed, and the innermost module
    in which, {} where it did not.

    Nothing else of it is kept. A model that differentiates inside its forward has gradients.
    """
    error = _raised_in_train_mode(model, batch, gradients=False)
    if error is not None:
        error = _raised_in_train_mode(model, batch, gradients=True)
    if error is None:
        return {}
    return {"train_failure": one_line(error), "train_failure_at": _where(error, model)}


def _raised_in_train_mode(
    model: nn.Module, batch: Batch, *, gradients: bool
) -> BaseException | None:
    synchronized = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    with preserve_state(model), torch.set_grad_enabled(gradients):
        switch_mode(model, training=True)
        with modules_in_train_mode([m for m in synchronized if m.training]):
            try:
                batch.forward(model)
            except (Exception, SystemExit) as error:
                return error
    return None


def _where(error: BaseException, model: nn.Module) -> str:
    """Return the name of the innermost module in whose call an error was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    called = [id(frame.f_locals.get("self")) for frame in frames]
    return next((names[key] for key in reversed(called) if key in names), "")
