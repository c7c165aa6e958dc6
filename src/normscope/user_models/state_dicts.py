"""What a checkpoint holds: finding the state_dict in it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn

from normscope.errors import InputError


def unwrap_state(content: Any) -> Mapping[str, Any]:
    """The state_dict inside what a checkpoint holds: itself, or the usual entry for it.

    Raises:
        InputError: if there is none.
    """
    if isinstance(content, nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        raise InputError(f"The checkpoint holds a {type(content).__name__}, not a state_dict.")
    if any(isinstance(value, Tensor) for value in content.values()):
        return content
    for name in ("state_dict", "model_state_dict", "model", "module", "net", "ema", "model_ema"):
        if isinstance(content.get(name), Mapping):
            return unwrap_state(content[name])
    raise InputError(
        f"The checkpoint holds no state_dict; its entries: {', '.join(map(str, islice(content, 12)))}."
    )
