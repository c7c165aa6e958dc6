"""The memory that a run would take, counted before anything of its size is made."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.models.network import Network
from normscope.studies.spec import RunSpec

BYTES = 4  # of a value in float32
COPIES = 3  # of each parameter: its value, its gradient, the optimizer's

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def refuse_parameters(network: Network, spec: RunSpec) -> None:
    """Refuse a network, built on the meta device, whose parameters have no room.

    Raises:
        InputError: with what it would take and what there is.
    """
    count = sum(parameter.numel() for parameter in network.parameters())
    _refuse(count * BYTES * COPIES, f"{count:,} parameters", spec, "a smaller network")


def refuse_activations(network: Network, sample: Tensor, spec: RunSpec, samples: int) -> None:
    """Refuse a network whose activations, kept for the backward pass of so many samples, have no
    room.

    It is run in eval mode, on one input [1, ...].

    Raises:
        InputError: with what they would take and what there is.
    """
    kept = 0

    def count(module: nn.Module, _: object, output: object) -> None:
        nonlocal kept
        if isinstance(output, Tensor) and next(module.children(), None) is None:
            kept += output.numel()

    with torch.no_grad(), ExitStack() as hooks:
        for module in network.modules():
            hooks.enter_context(module.register_forward_hook(count))
        network.eval()(sample)
    what = f"the activations of a batch of {samples:,}"
    _refuse(kept * samples * BYTES, what, spec, "a smaller network or --batch-size")


def _refuse(needed: int, what: str, spec: RunSpec, remedy: str) -> None:
    there = memory_at_hand(spec.device)
    if there is not None and needed > there:
        raise InputError(
            f"{spec.model} would need {needed / 1e9:,.1f} GB for {what}, and {there / 1e9:,.1f} GB "
            f"are at hand; give it {remedy}."
        )


def memory_at_hand(device: str) -> int | None:
    """Return the bytes that a device has for this process; None where that cannot be known."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[1]
    there = []
    with suppress(OSError, ValueError, AttributeError):  # no such system call: Windows
        there.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in map(Path, _LIMITS):
        with suppress(OSError, ValueError):  # no such file, or "max"
            there.append(int(path.read_text()))
    return min(there, default=None)
