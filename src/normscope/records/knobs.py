"""A run's identity, the knobs that it leaves out, and the values at which it does."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

FIRST_KNOBS: dict[str, Any] = {
    "model": "small-resnet",
    "activation": "relu",
    "block": None,
    "widths": None,
    "blocks_per_stage": None,
    "initialization": "default",
    "initialization_scale": 1.0,
    "batch_size": 128,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "norm_code": "",
    "engine": 1,
}
"""{knob: its default in the first version}. Never changed, though a default be or a knob go."""

TEXT_MODEL = "byte-lm"

TRANSFORMERS = ("vit", TEXT_MODEL)
"""The models with attention."""

POINTWISE_NORMS = ("dyt", "derf")
"""The norms of transformers that take each value by itself."""

STANDS_FOR: dict[tuple[str, str], Any] = {
    ("small-resnet", "widths"): [16, 32, 64],
    ("small-resnet", "blocks_per_stage"): 2,
    **{(model, "depth"): 4 for model in TRANSFORMERS},
    **{(model, "heads"): 4 for model in TRANSFORMERS},
    **{(model, "placement"): "pre" for model in TRANSFORMERS},
    ("vit", "width"): 48,
    ("vit", "pooling"): "mean",
    ("byte-lm", "width"): 64,
    ("byte-lm", "positions"): "learned",
}
"""{(model, knob): what None means there}; of `block` it is DEFAULT_BLOCK in every model."""

DEFAULT_BLOCK = "post-activation"


def own_embedding_scale(model: str, norm: str) -> str | None:
    """Return the learned factor on the embeddings that belongs to a norm: of those that take each
    value by itself, which the scale of a text's small embeddings leaves in their linear part.
    """
    return "unit" if model == TEXT_MODEL and norm in POINTWISE_NORMS else None


def meaning(model: str, knob: str, value: Any) -> Any:
    """Return a knob's value, for None what that stands for, so that equal settings are equal."""
    if value is not None:
        return list(value) if isinstance(value, tuple) else value
    return DEFAULT_BLOCK if knob == "block" else STANDS_FOR.get((model, knob))


ADDED_KNOBS: dict[str, Any] = {
    "threads": 1,
    "depth": None,
    "width": None,
    "heads": None,
    "patch_size": None,
    "pooling": None,
    "positions": None,
    "placement": None,
    "qk_norm": False,
    "no_bias": False,
    "optimizer": "sgd",
    "warmup": 0,
    "clip": 0.0,
    "train_share": 1.0,
    "train": "all",
    "iterations": 0,
    "pixel_mean": False,
    "decay_spares": "nothing",
    "embedding_scale": None,
}
"""{knob that came later: the value that the runs before it had}.

To be added to, and otherwise never changed, also where the knob's default is: a run at this value
has the identity that it had before there was the knob.
"""


def run_id(spec: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Return sixteen hexadecimal digits that depend on every knob that is not at its first value.

    Version 1: the SHA-256 of `FIRST_KNOBS`, overlaid by those knobs, as JSON. A later version has
    to say its number in what is hashed. `defaults` are of knobs that are in neither table.
    """
    first = {**(defaults or {}), **FIRST_KNOBS, **ADDED_KNOBS}
    chosen = {
        name: value for name, value in spec.items() if name not in first or value != first[name]
    }
    return hashlib.sha256(as_json(FIRST_KNOBS | chosen).encode()).hexdigest()[:16]


def run_name(spec: Mapping[str, Any], identity: str = "") -> str:
    """Return the name of a run's folder: norm, learning rate and seed, then its id."""
    norm = re.sub(r"[^A-Za-z0-9_.-]+", "-", spec["norm"])[:40]
    return f"{norm}-lr{spec['learning_rate']:g}-seed{spec['seed']}-{identity or run_id(spec)}"


def as_json(values: Mapping[str, Any]) -> str:
    """Return knobs as JSON, sorted."""
    return json.dumps(values, sort_keys=True, indent=1)
