"""The knobs of a run that its identity leaves out, and the values at which it does."""

from __future__ import annotations

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
"""{knob: its default in the first version}. Never changed, also where a default is or a knob goes.
"""

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
}
"""{knob that came later: the value that the runs before it had}.

To be added to, and otherwise never changed, also where the knob's default is: a run at this value
has the identity that it had before there was the knob.
"""
