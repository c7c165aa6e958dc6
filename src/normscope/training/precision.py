"""Devices and arithmetic by name, and what "auto" means on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from normscope.errors import InputError, one_of

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


def resolve_device(name: str) -> str:
    """The device type that a name means here: itself, or for "auto" the first of CUDA, MPS and CPU
    that is there.

    Raises:
        InputError: if the name is unknown or the device is not on this machine.
    """
    if name not in DEVICES:
        raise InputError(one_of("device", name, DEVICES))
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, there in present.items() if there)
    if not present[name]:
        there = ", ".join(device for device, found in present.items() if found)
        raise InputError(
            f"The device {name!r} is not available to this PyTorch ({torch.__version__}). "
            f"Here: {there}."
        )
    return name


def resolve_precision(name: str, device: str) -> str:
    """The arithmetic that a name means on a device: for "auto", bf16 where the hardware multiplies
    in it.

    Raises:
        InputError: if the name is unknown, or bf16 is asked for on MPS.
    """
    if name not in PRECISIONS:
        raise InputError(one_of("precision", name, PRECISIONS))
    if name == "bf16" and device == "mps":
        raise InputError("The precision 'bf16' is not offered on mps. Known there: fp32.")
    if name != "auto":
        return name
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: str) -> bool:
    """Return whether the hardware multiplies bf16 (AVX512-BF16 or AMX; CUDA from Ampere on).

    A processor that oneDNN is held back from using (ONEDNN_MAX_CPU_ISA) counts as the older one.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        # private, and the only way to ask; without them bf16 would be emulated, which is slower
        # than fp32
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        used = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return used and any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """Return the context for forwards. Normalization, losses and weights stay in fp32 under it."""
    if precision == "fp32":
        return nullcontext()
    # on CUDA without the cache of casted weights: a captured step must make what it uses
    return torch.autocast(device_type=device, dtype=torch.bfloat16, cache_enabled=device != "cuda")


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Inside, cuDNN chooses algorithms by their shapes alone, and only those that give the same
    bits every time.

    Without this a run that goes on would not end with the bits of one that was never interrupted.
    fp32 is then plain fp32 as well: by default cuDNN rounds the factors of a convolution to the 10
    bits of TF32. The last layer's matrix product is plain unless
    `torch.set_float32_matmul_precision` asks for less.
    """
    if device != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before
