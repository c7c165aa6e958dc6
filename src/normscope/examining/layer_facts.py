"""The facts of normalization layers: settings, values, who trains them; modes, and train mode."""

from __future__ import annotations

import functools
import math
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError, one_line
from normscope.examining.recognition import as_declared
from normscope.records.examination import Layer, Optimizer
from normscope.user_models.batch_reader import Batch
from normscope.user_models.norm_layers import (
    BIAS_NAMES,
    NormLayer,
    gain_of,
    is_norm,
    machine_eps,
    recognize,
)
from normscope.user_models.state_guard import preserve_state
from normscope.user_models.who_trains import Holder, holders, part_left_in_eval, weights_around
from normscope.user_models.wrappers import local_part, torch_optimizers


def switch_mode(model: nn.Module, *, training: bool) -> None:
    """Call train() or eval(), but for exported programs, which have one mode and refuse.

    Raises:
        InputError: if the model's own method raises anything else.
    """
    name = "train" if training else "eval"
    try:
        getattr(model, name)()
    except NotImplementedError:
        return
    except Exception as error:  # it may be overridden by anybody
        raise InputError(f"model.{name}() raises {one_line(error)}") from error


def find_modules(model: nn.Module, perhaps: bool = False) -> dict[str, nn.Module]:
    """Return {name: module} of every normalization layer, in the model's order; `perhaps` with
    those that are only called so.

    Raises:
        InputError: if the model is a TorchScript one.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "A TorchScript model cannot be examined: give the module that it was made from."
        )
    return {
        name: module
        for name, module in model.named_modules()
        if (recognize(module, name) if perhaps else is_norm(module))
    }


def describe_layers(
    model: nn.Module, optimizer: Any, modules: dict[str, nn.Module] | None = None
) -> tuple[Layer, ...]:
    """Return the static facts of every normalization layer, or of these modules.

    Calls `eval()` and `train()`: run it inside `preserve_state`.
    """
    modules = find_modules(model) if modules is None else modules
    parts = {name: part_left_in_eval(model, name) for name in modules}
    modes = {name: [module.training] for name, module in modules.items()}
    for training in (False, True):
        switch_mode(model, training=training)
        for name, module in modules.items():
            modes[name].append(module.training)
    held = holders(optimizer)
    scopes = weights_around(model, modules)
    return tuple(
        Layer(
            name=name,
            **_settings(module, name),
            recognition=as_declared(module, name),
            **_state(module),
            training=modes[name][0],
            training_after_eval=modes[name][1],
            training_after_train=modes[name][2],
            trainable=_any_trainable(list(module.parameters(recurse=False))),
            scope_trainable=_any_trainable(scopes[name]),
            left_in_eval=parts[name],
            **_held(module, scopes[name], held),
        )
        for name, module in modules.items()
    )


def describe_optimizer(optimizer: Any, model: nn.Module) -> Optimizer:
    """Return the facts of the optimizer, or of several as of one.

    Raises:
        InputError: if it is none.
    """
    several = torch_optimizers(optimizer)
    held = holders(optimizer)
    states = [s for each in several for s in each.state.values() if isinstance(s, dict)]
    steps = [float(state["step"]) for state in states if "step" in state]
    return Optimizer(
        type=" and ".join(type(each).__name__ for each in several),
        holds=sum(id(parameter) in held for parameter in model.parameters()),
        wide_copies=_are_wide_copies(model, several),
        steps=int(max(steps)) if steps else None,
    )


def _are_wide_copies(model: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...]) -> bool:
    """Tell whether the optimizers hold fp32 copies of a model in 16 bits: its masters."""
    groups = [group for each in optimizers for group in each.param_groups]
    copies = Counter((p.shape, p.dtype) for group in groups for p in group["params"])
    half = (p for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16))
    wanted = Counter((p.shape, torch.float32) for p in half if p.requires_grad)
    return bool(wanted) and wanted <= copies


def _settings(module: nn.Module, name: str) -> dict[str, Any]:
    norm = recognize(module, name)
    assert norm is not None
    per_channel = norm.kind in ("batch", "instance")
    momentum = getattr(module, "momentum", None)
    has_momentum = hasattr(module, "momentum") and per_channel
    tracks = getattr(module, "track_running_stats", None) if per_channel else None
    return {
        "type": type(module).__name__,
        "kind": norm.kind,
        "foreign": not norm.plain and not (norm.recognized_by == "type" and per_channel),
        "sync": isinstance(module, nn.SyncBatchNorm),
        "features": norm.channels or _length(_values(module).get("running_mean")),
        "groups": norm.groups or 0,
        "normalized_dims": norm.normalized_dims,
        "eps": _eps(module, norm),
        "momentum": float(momentum) if has_momentum and momentum is not None else None,
        "cumulative": has_momentum and momentum is None,
        "tracks": bool(tracks) if tracks is not None else None,
        # A foreign layer without a momentum holds its statistics fixed in both modes
        # (FrozenBatchNorm2d).
        "live": has_momentum,
    }


def _eps(module: nn.Module, norm: NormLayer) -> float | None:
    if isinstance(module, nn.RMSNorm) and module.eps is None:
        weight = module._parameters.get("weight")
        return machine_eps(torch.float32 if weight is None else weight.dtype)
    return norm.eps


def _state(module: nn.Module) -> dict[str, Any]:
    values = _values(module)
    affine = [name for name in ("weight", "bias") if module._parameters.get(name) is not None]
    weight, running = gain_of(module), values.get("running_mean")
    bias = next((values[name] for name in BIAS_NAMES if name in values), None)
    return {
        "affine_names": tuple(affine),
        "weight": to_array(weight),
        "bias": to_array(bias),
        "running_mean": to_array(running),
        "running_var": to_array(values.get("running_var")),
        "updates": to_count(values.get("num_batches_tracked")),
        "parameter_dtype": dtype_name(weight),
        "statistics_dtype": dtype_name(running),
    }


def _values(module: nn.Module) -> dict[str, Tensor]:
    tensors = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def to_array(tensor: Tensor | None) -> np.ndarray | None:
    """Return the values as float64 [C], or None; of a sharded tensor, those of this process."""
    if tensor is None or tensor.is_meta:
        return None
    local = local_part(tensor.detach())
    return local.flatten().to(device="cpu", dtype=torch.float64).numpy().copy()


def to_count(tensor: Tensor | None) -> int | None:
    """Return the one number that a counter holds, or None.

    Raises:
        InputError: if it is no number that can count: NaN, infinite, complex.
    """
    if tensor is None or tensor.is_meta or tensor.numel() != 1:
        return None
    value = tensor.item()
    if isinstance(value, complex) or not math.isfinite(value):
        raise InputError(f"num_batches_tracked holds {value}, which is no count.")
    return int(value)


def dtype_name(tensor: Tensor | None) -> str:
    """Return "float32" and the like, "" for None."""
    return "" if tensor is None else str(tensor.dtype).removeprefix("torch.")


def _length(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel()


def _any_trainable(parameters: list[nn.Parameter]) -> bool | None:
    return any(p.requires_grad for p in parameters) if parameters else None


def _held(module: nn.Module, scope: list[nn.Parameter], held: dict[int, Holder]) -> dict[str, Any]:
    """Return what an optimizer, where one was given, does to the layer's parameters."""
    if not held:
        return {}
    trainable = [p for p in module.parameters(recurse=False) if p.requires_grad]
    holding = [(held[id(p)], p) for p in trainable if id(p) in held]
    weight = gain_of(module)
    holder = held.get(id(weight)) if weight is not None and weight.requires_grad else None
    return {
        "optimized": len(holding) == len(trainable) if trainable else None,
        "scope_optimized": any(id(p) in held for p in scope),
        "weight_decay": max((each.weight_decay for each, _ in holding), default=None),
        "step_size": holder.step_size(weight) if holder and weight is not None else None,
        "optimizer": holder.optimizer if holder else "",
    }


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
