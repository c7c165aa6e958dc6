"""State_dicts: found in a checkpoint, freed of prefixes, and searched for normalization layers.

`norm_layers.recognize` has a module to look at. Here there are names, shapes and neighbours only,
so a vector counts as a gain where they leave no doubt, and else stays out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.user_models.norm_layers import says_norm, words_of

CONTENTS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "network_weights",
    "params", "weights", "generator", "student",
)  # fmt: skip
"""Entries of a checkpoint that hold the model, where they exist."""

MAX_PREFIX = 8  # names that a wrapper puts before those of a model
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
AFFINE = {"weight": "bias", "gamma": "beta", "scale": "bias", "g": "b"}
"""{name of a gain: that of the bias beside it}"""

_WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_NO_STATE = re.compile(
    "^opt|optim|sched|scaler|callback|loop|hyper|args|config|rng|loss", re.IGNORECASE
)
"""Entries of a checkpoint that hold tensors, but no network."""
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
    """Return the state_dict inside what a checkpoint holds: itself, or the first of `states_in`.

    Raises:
        InputError: if there is none.
    """
    return next(iter(states_in(content).values()))


def states_in(content: Any) -> dict[str, Mapping[str, Any]]:
    """Return {entry: state_dict} of a checkpoint, that of the model first: {"": itself} where it is
    one; several where it also holds an average, or a second network.

    Raises:
        InputError: if there is none.
    """
    if isinstance(content, nn.Module):
        return {"": content.state_dict()}
    if not isinstance(content, Mapping):
        raise InputError(f"The checkpoint holds a {type(content).__name__}, not a state_dict.")
    content = _as_tensors(content)
    nested = _nested_states(content)
    most = max((len(_tensors(state)) for state in nested.values()), default=0)
    if len(_tensors(content)) > most:
        return {"": _checked(content)}
    if nested:
        return {name: _checked(state) for name, state in nested.items()}
    entries = ", ".join(str(entry)[:40] for entry in islice(content, 12))
    raise InputError(f"The checkpoint holds no state_dict; its entries: {entries}.")


def _nested_states(content: Mapping[str, Any], depth: int = 3) -> dict[str, Mapping[str, Any]]:
    """Return the state_dicts among a mapping's entries, the usual names first.

    Looks a few mappings deep: a checkpoint may hold itself.
    """
    names = [*(name for name in CONTENTS if name in content), *map(str, content)]
    found: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys(names):
        value = content.get(name)
        value = value.state_dict() if isinstance(value, nn.Module) else value
        if not isinstance(value, Mapping) or _NO_STATE.search(name):
            continue
        value = _as_tensors(value)
        if _holds_weights(value):
            found[name] = value
        elif depth > 1:
            inner = _nested_states(value, depth - 1)
            alone = len(inner) == 1
            found |= {name if alone else f"{name}.{key}": state for key, state in inner.items()}
    return found


def _as_tensors(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the mapping with its NumPy arrays of numbers as tensors, as detectron2 saves them."""
    arrays = {
        name: torch.from_numpy(value)
        for name, value in content.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    }
    return {**content, **arrays} if arrays else content


def _tensors(content: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in content.values() if isinstance(value, Tensor)]


def _holds_weights(content: Mapping[str, Any]) -> bool:
    """Tell whether a mapping holds tensors by name that may be weights, and not counters alone."""
    named = all(isinstance(key, str) for key in content)
    return named and any(
        v.is_nested or (v.ndim and v.is_floating_point()) for v in _tensors(content)
    )


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

    DistributedDataParallel, torch.compile and AveragedModel put their own before every name, FSDP,
    compiled and checkpointed blocks in the middle of some; Lightning that of its attribute.

    Args:
        state: the state_dict.
        names: those of the model that it is for, where it is known. Names that match stay.
    """
    plain = {str(key): value for key, value in state.items()}
    if not plain.keys().isdisjoint(names):
        return plain
    averaged = plain.keys() & {"n_averaged"}
    plain = {_WRAPPED.sub("", name): v for name, v in plain.items() if name not in averaged}
    while plain and plain.keys().isdisjoint(names) and all(n.startswith("module.") for n in plain):
        plain = {name.removeprefix("module."): value for name, value in plain.items()}
    if names and plain.keys().isdisjoint(names) and (prefix := _prefix(plain, names)):
        plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    return plain


def _prefix(state: Mapping[str, Any], names: Collection[str]) -> str:
    """Return what stands before the most names of a model in a state_dict, "" for nothing."""
    known, counts = set(names), Counter[str]()
    for name in state:
        rest = name
        for _ in range(MAX_PREFIX):
            rest = rest.partition(".")[2]
            if rest in known:
                counts[name.removesuffix(rest)] += 1
                break
    return max(counts, key=counts.__getitem__, default="")


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
    words = words_of(path[-1] if path else "") - {"actnorm"}
    in_norms = len(path) > 1 and path[-2].endswith("norms") and "bias" in values
    named = in_norms or says_norm(words)
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
