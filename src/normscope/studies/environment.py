"""What this process has: hardware, versions, threads, and memory, counted before it is taken."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.models.network import Network
from normscope.studies.spec import RunSpec
from normscope.version import __version__

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Have this process keep the memory that tensors free instead of returning it to the operating
    system.

    A training step on the CPU allocates and frees tensors of megabytes. By default glibc returns
    them, and the next step pays for thousands of page faults: system time was 4 to 10% of a fused
    step of SmallResNet with a batch of 128, 11 to 13% of an eager one, and about nothing with this
    setting (one thread, bf16, 3 processes each). Peak memory stayed the same. Meant for processes
    that train and end, not for one that is the user's own.

    Returns:
        Whether the C library has such a setting and took it; only glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):
        # musl and macOS have none; Windows cannot name its own process
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST) and mallopt(_M_MMAP_THRESHOLD, _LARGEST))


def describe_environment(device: str) -> dict[str, Any]:
    """{"hardware": {...}, "versions": {...}} of this process, for a device type."""
    return {
        "hardware": {
            "device": device,
            "device_name": device_name(device),
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "normscope": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Give torch so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: str) -> str:
    """The name of the accelerator, or of the processor."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name, with its matrix units where the kernel tells of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    units = [name for flag, name in _MATRIX_UNITS.items() if flag in facts.get("flags", "").split()]
    name = facts.get("model name") or platform.machine()
    return f"{name} ({', '.join(units)})" if units else name


_MATRIX_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
