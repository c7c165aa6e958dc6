"""normscope: what normalization does to a network, from measured runs.

The public names stand in __init__.pyi. Each is loaded when it is first used, so that importing the
package costs next to nothing.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

_MODULES = {
    alias.name: str(line.module)
    for line in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(line, ast.ImportFrom)
    for alias in line.names
}

__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    module = _MODULES[name]
    if module == "normscope":  # a room of its own: normscope.mend
        return importlib.import_module(f"normscope.{name}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
