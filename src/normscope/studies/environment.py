"""Hardware, versions and threads of this process, as plain values for a run's record."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
