"""normscope: what normalization does to a network, from measured runs.

The public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from normscope.version import __version__

if TYPE_CHECKING:
    from normscope.commands.check import check, check_loader, check_state_dict
    from normscope.commands.compare import compare
    from normscope.commands.explain import explain
    from normscope.commands.export import export
    from normscope.commands.inspect import inspect
    from normscope.commands.study import claims, study
    from normscope.commands.watch import watch
    from normscope.errors import InputError, NormscopeError, RecordError, StorageError
    from normscope.show.recording import Recording
    from normscope.show.report.pages import report
    from normscope.show.sinks.tensorboard_sink import TensorBoard
    from normscope.show.sinks.wandb_sink import WandB

_HOMES = {
    "InputError": "normscope.errors",
    "NormscopeError": "normscope.errors",
    "RecordError": "normscope.errors",
    "Recording": "normscope.show.recording",
    "StorageError": "normscope.errors",
    "TensorBoard": "normscope.show.sinks.tensorboard_sink",
    "WandB": "normscope.show.sinks.wandb_sink",
    "check": "normscope.commands.check",
    "check_loader": "normscope.commands.check",
    "check_state_dict": "normscope.commands.check",
    "claims": "normscope.commands.study",
    "compare": "normscope.commands.compare",
    "explain": "normscope.commands.explain",
    "export": "normscope.commands.export",
    "inspect": "normscope.commands.inspect",
    "report": "normscope.show.report.pages",
    "study": "normscope.commands.study",
    "watch": "normscope.commands.watch",
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
