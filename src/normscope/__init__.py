"""normscope: what normalization does to a network, from measured runs.

The public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normscope.api import compare
    from normscope.errors import InputError, NormscopeError, RecordError, StorageError

__version__ = "0.1.0.dev0"

_HOMES = {
    "compare": "normscope.api",
    "InputError": "normscope.errors",
    "NormscopeError": "normscope.errors",
    "RecordError": "normscope.errors",
    "StorageError": "normscope.errors",
}

__all__ = ["InputError", "NormscopeError", "RecordError", "StorageError", "__version__", "compare"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
