"""The compiled kernels: built once per machine with its C++ compiler, and kept in the user's cache.

A build takes about two seconds, loading one from the cache about a millisecond. Nothing is built at
installation, so that the code is made for the processor that it runs on.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from normscope.records.files import cache_folder, is_sealed, seal, written_aside

SOURCE = Path(__file__).with_name("kernels.cpp")

_POINTERS = (
    "weight", "bias", "running_mean", "running_var", "mean", "inverse_std", "weight_gradient",
    "bias_gradient",
)  # fmt: skip


class Parameters(ctypes.Structure):
    """`Parameters` of kernels.cpp: numbers, and addresses of float32 vectors, one per channel."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("momentum", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("relu", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class Unavailable(Exception):  # noqa: N818 - a state of this machine, not a fault
    """The reason why the kernels cannot be used on this machine, in one phrase."""


@dataclass(frozen=True)
class Library:
    """The loaded kernels."""

    functions: ctypes.CDLL
    parallel: bool
    """True if they use several threads."""


@functools.cache
def load() -> Library | Unavailable:
    """The kernels, or why there are none; settled once per process.

    OpenMP is taken from the runtime that PyTorch has loaded, never a second one, whose threads
    would compete with PyTorch's. Where that does not fit the compiler (Clang's OpenMP is another
    than GCC's), the kernels are serial.
    """
    reason = Unavailable("no C++ compiler")
    compiler = find_compiler()
    if compiler is None:
        return reason
    for parallel in (True, False):
        try:
            return Library(_load(_built(compiler, parallel)), parallel)
        except Unavailable as error:
            reason = error
    return reason


def find_compiler() -> str | None:
    """Path of the C++ compiler: what CXX names, else GCC, else Clang."""
    named = os.environ.get("CXX")
    candidates = [named] if named else ["g++", "clang++", "c++"]
    return next(filter(None, map(shutil.which, candidates)), None)


def cache_directory() -> Path:
    """Return the folder of built kernels, in NORMSCOPE_CACHE or in the platform's for caches."""
    return cache_folder() / "kernels"


def _load(path: Path) -> ctypes.CDLL:
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the kernels do not load: {error}") from error
    for name in ("float", "bf16"):
        for entry, pointers in (("forward", 3), ("backward", 5)):
            function = getattr(functions, f"normscope_{entry}_{name}")
            function.argtypes = [ctypes.POINTER(Parameters), *[ctypes.c_void_p] * pointers]
            function.restype = None
    return functions


def _built(compiler: str, parallel: bool) -> Path:
    """Path of the shared library, after building it where it is not in the cache yet."""
    flags = _flags(parallel)
    path = cache_directory() / f"fused-{_key(compiler, flags)}.so"
    if not is_sealed(path):  # a damaged library would end the process
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _build(compiler, flags, path)
            seal(path)
        except OSError as error:
            raise Unavailable(f"the kernels cannot be built: {error}") from error
    return path


def _flags(parallel: bool) -> list[str]:
    # no contraction into fused multiply-adds: forward and backward must agree on the sign in front
    # of a ReLU
    flags = [
        "-std=c++17", "-O3", "-march=native", "-fPIC", "-ffp-contract=off", "-fno-math-errno",
        "-fno-trapping-math",
    ]  # fmt: skip
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("-mprefer-vector-width=512")
    return [*flags, "-fopenmp"] if parallel else flags


def _key(compiler: str, flags: list[str]) -> str:
    """A hash of all that the machine code depends on: machines may share a home directory."""
    try:
        cpu = next(
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith(("flags", "Features"))
        )
    except (OSError, StopIteration):
        cpu = platform.processor()
    compiled_by = (compiler, str(Path(compiler).stat().st_mtime_ns))
    parts = [SOURCE.read_text(), *flags, *compiled_by, platform.machine(), cpu]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _build(compiler: str, flags: list[str], path: Path) -> None:
    """Build aside and move into place, so that simultaneous builds do not collide."""
    with tempfile.TemporaryDirectory() as folder, written_aside(path) as built:
        target = Path(folder, "kernels.o")
        # linked without -fopenmp: the symbols come from the OpenMP runtime that PyTorch has loaded
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        _run([compiler, *flags, "-c", str(SOURCE), "-o", str(target)])
        _run([compiler, "-shared", *undefined, str(target), "-o", str(built)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [
            f"exit status {done.returncode}"
        ]
        raise Unavailable(f"the C++ compiler failed: {lines[0].strip()}")
