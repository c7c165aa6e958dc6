"""State_dicts: found in a checkpoint, freed of prefixes, and searched for normalization layers.

`norm_layers.recognize` has a module to look at. Here there are names, shapes and neighbours only,
so a vector counts as a gain where they leave no doubt, and else stays out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from normscope.errors import InputError

CONTENTS = ("state_dict", "model_state_dict", "model", "module", "net", "ema", "model_ema")
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
AFFINE = {"weight": "bias", "gamma": "beta", "scale": "bias", "g": "b"}
"""{name of a gain: that of the bias beside it}"""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NORM = re.compile(r"(ln|bn|gn|rms|lnf)$|.*(norm(?!al)|normalization)")
_OTHER = {"act", "activation", "affine", "prelu", "relu", "scale", "scales"}
_INSIDE = {"base_layer", "default", "fn", "inner", "modules_to_save", "original_module"}
"""Names that a wrapper of one module gives to it."""


@dataclass(frozen=True)
class NormEntries:
    """What a state_dict holds of one normalization layer.

    Attributes:
        kind: "batch" where there are running statistics. Else "layer" with a bias and "rms"
            without: a group normalization's gain looks like that of a layer normalization.
        recognized_by: "running statistics", "name", or "gain and bias" (of one size, alone together
            at a number in a sequence).
        values: weight, bias, running_mean, running_var and num_batches_tracked, where they exist.
    """

    kind: str
    recognized_by: str
    values: Mapping[str, Tensor]


def unwrap_state(content: Any) -> Mapping[str, Any]:
    """Return the state_dict inside what a checkpoint holds: itself, or the usual entry for it.

    Raises:
        InputError: if there is none.
    """
    if isinstance(content, nn.Module):
        return content.state_dict()
    seen: list[Any] = []  # a checkpoint may hold itself
    while isinstance(content, Mapping) and not any(content is each for each in seen):
        if any(isinstance(value, Tensor) for value in content.values()):
            return _checked(content)
        seen.append(content)
        inside = (content.get(name) for name in CONTENTS)
        content = next((each for each in inside if isinstance(each, Mapping)), None)
    if not seen:
        raise InputError(f"The checkpoint holds a {type(content).__name__}, not a state_dict.")
    entries = ", ".join(str(entry)[:40] for entry in islice(seen[-1], 12))
    raise InputError(f"The checkpoint holds no state_dict; its entries: {entries}.")


def _checked(state: Mapping[Any, Any]) -> Mapping[str, Any]:
    """Return the state_dict, if its names are text and its tensors have shapes."""
    for name, value in state.items():
        if not isinstance(name, str):
            kind = type(name).__name__
            raise InputError(f"An entry is called {str(name)[:40]}, a {kind}: it is no state_dict.")
        if isinstance(value, Tensor) and value.is_nested:
            raise InputError(f"{name} is a nested tensor; expected a state_dict of dense ones.")
    return state


def without_prefixes(state: Mapping[str, Any], names: Collection[str] = ()) -> dict[str, Any]:
    """Return the state_dict with the names of the unwrapped model.

    DistributedDataParallel, torch.compile and AveragedModel put their own before every name.

    Args:
        state: the state_dict.
        names: those of the model that it is for, where it is known. Names that match stay.
    """
    plain = {str(key): value for key, value in state.items()}
    while plain.keys().isdisjoint(names):
        prefix = next((p for p in WRAPPERS if _all_begin(plain, p)), "")
        if not prefix:
            break
        plain = {name.removeprefix(prefix): value for name, value in plain.items()}
        plain.pop("n_averaged", None)
    return plain


def _all_begin(state: Mapping[str, Any], prefix: str) -> bool:
    names = state.keys() - {"n_averaged"}
    return bool(names) and all(name.startswith(prefix) for name in names)


def norm_entries(state: Mapping[str, Any]) -> dict[str, NormEntries]:
    """Return {name: its entries} of the normalization layers in a state_dict, in its order."""
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        if isinstance(value, Tensor):
            module, _, name = str(key).rpartition(".")
            groups[module][name] = value
    layers = {module: _recognized(module, groups) for module in groups}
    return {module: layer for module, layer in layers.items() if layer is not None}


def _recognized(module: str, groups: Mapping[str, dict[str, Tensor]]) -> NormEntries | None:
    """Return what the entries of one module say, None if it is no normalization layer."""
    entries = groups[module]
    if not set(STATISTICS).isdisjoint(entries):
        return NormEntries("batch", "running statistics", entries)
    values = _affine(entries)
    if not values:
        return None
    path = [part for part in module.split(".") if not (part.isdecimal() or part in _INSIDE)]
    words = {word.lower() for word in _WORDS.findall(path[-1] if path else "")} - {"actnorm"}
    in_norms = len(path) > 1 and path[-2].endswith("norms") and "bias" in values
    named = in_norms or any(_NORM.match(word) for word in words)
    numbered = not module or module.rpartition(".")[2].isdecimal()
    if "bias" not in values:
        sure = named and words.isdisjoint(_OTHER) and (not numbered or _alike(module, groups))
        return NormEntries("rms", "name", values) if sure else None
    if named:
        return NormEntries("layer", "name", values)
    vectors = values["weight"].ndim == 1 and values["weight"].numel() > 1
    sure = numbered and vectors and "weight" in entries and words.isdisjoint(_OTHER)
    return NormEntries("layer", "gain and bias", values) if sure else None


def _affine(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return gain and bias as "weight" and "bias", {} where there is no gain or anything else.

    Both have one shape; a gain alone has a single axis, but for dimensions of one.
    """
    tensors = {name: value for name, value in entries.items() if value.is_floating_point()}
    tensors = {
        name: value for name, value in tensors.items() if value.ndim
    }  # a number is a setting
    gain = next((name for name in AFFINE if name in tensors), None)
    if gain is None or tensors.keys() - {gain, AFFINE[gain]}:
        return {}
    weight, bias = tensors[gain], tensors.get(AFFINE[gain])
    if bias is None:
        vector = 0 < weight.numel() == max(weight.shape)
        return {"weight": weight} if vector else {}
    return {"weight": weight, "bias": bias} if weight.shape == bias.shape else {}


def _alike(module: str, groups: Mapping[str, dict[str, Tensor]]) -> bool:
    """Tell if all modules beside one in a list hold a gain alone, as a list of RMSNorms does."""
    beside = module.rpartition(".")[0]
    return all(
        _affine(entries).keys() == {"weight"}
        for name, entries in groups.items()
        if name.startswith(f"{beside}.")
    )
