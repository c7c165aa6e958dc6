"""normscope: what normalization does to a network, from measured runs.

The public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normscope.api import compare
    from normscope.checks import check, check_loader, check_state_dict
    from normscope.claiming import claims, study
    from normscope.errors import InputError, NormscopeError, RecordError, StorageError
    from normscope.explaining import explain
    from normscope.exporting import export
    from normscope.inspecting import inspect
    from normscope.records.recording import Recording
    from normscope.reporting import report
    from normscope.show.sinks.tensorboard_sink import TensorBoard
    from normscope.show.sinks.wandb_sink import WandB
    from normscope.watching import watch

__version__ = "0.1.0.dev0"

_HOMES = {
    "InputError": "normscope.errors",
    "NormscopeError": "normscope.errors",
    "RecordError": "normscope.errors",
    "Recording": "normscope.records.recording",
    "StorageError": "normscope.errors",
    "TensorBoard": "normscope.show.sinks.tensorboard_sink",
    "WandB": "normscope.show.sinks.wandb_sink",
    "check": "normscope.checks",
    "check_loader": "normscope.checks",
    "check_state_dict": "normscope.checks",
    "claims": "normscope.claiming",
    "compare": "normscope.api",
    "explain": "normscope.explaining",
    "export": "normscope.exporting",
    "inspect": "normscope.inspecting",
    "report": "normscope.reporting",
    "study": "normscope.claiming",
    "watch": "normscope.watching",
}

__all__ = [
    "InputError", "NormscopeError", "RecordError", "Recording", "StorageError", "TensorBoard", "WandB",
    "__version__", "check", "check_loader", "check_state_dict", "claims", "compare", "explain", "export", "inspect",
    "report", "study", "watch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
