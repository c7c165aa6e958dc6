"""The built-in studies."""

from __future__ import annotations

from typing import Any

from normscope.records.measurements import (
    BATCH_STATISTICS,
    CORRUPTION,
    DECAY,
    DEPTH_SIGNALS,
    EVALUATION,
    HIDDEN_STATES,
    INITIALIZATION,
    LANDSCAPE,
    MOVEMENT,
    PROPAGATION,
    WEIGHTS,
)
from normscope.studies.study_description import GridPlan, StudyPlan

BLOCKS = ("post-activation", "pre-activation", "formula", "after-activation")


def _grid(
    sweep: dict[str, tuple[Any, ...]] | None = None,
    measure: tuple[str, ...] | None = None,
    **settings: Any,
) -> GridPlan:
    return GridPlan(settings, sweep or {}, measure)


_DIGITS: dict[str, Any] = {"data": "digits", "seeds": 5, "epochs": 10}
# Measurements take a second or two for a run: `quick` makes them at one learning rate.
_AT_ONE_RATE: dict[str, Any] = _DIGITS | {"learning_rates": (0.1,)}
_CIFAR = {"data": "cifar10", "seeds": 3, "epochs": 30, "learning_rates": (0.1,)}
# Sized by CPU seconds of one run, with rates at which layer norm learns; fp32, so that every
# machine trains the same networks.
_TRANSFORMER: dict[str, Any] = {
    "seeds": 5,
    "width": 32,
    "precision": "fp32",
    "learning_rates": (0.003,),
    "norms": ("layer",),
}
_VIT: dict[str, Any] = _TRANSFORMER | {
    "data": "digits",
    "model": "vit",
    "epochs": 8,
    "batch_size": 64,
    "patch_size": 4,
    "augment": False,
    "capture_epochs": (),
}
_DEEP_VIT: dict[str, Any] = _VIT | {"depth": 8, "learning_rates": (0.01,)}
_BYTES: dict[str, Any] = _TRANSFORMER | {
    "data": "text",
    "model": "byte-lm",
    "epochs": 1,
    "batch_size": 8,
    "depth": 2,
    "heads": 2,
    "capture_epochs": (),
}
# About as many steps as with all of the data.
_SCARCE_DIGITS: dict[str, Any] = _VIT | {"train_share": 1 / 8, "epochs": 64}
_SCARCE_BYTES: dict[str, Any] = _BYTES | {"train_share": 1 / 16, "epochs": 16}
_SCARCE_NORMS = {"norms": ("layer", "dyt")}
_TANH_RATES = {"norms": ("layer", "dyt"), "learning_rates": (0.001, 0.003, 0.01)}
_TOKEN_NORMS = ("layer", "rms", "dyt", "batch")
_PLACEMENTS = ("pre", "post", "peri", "pre-scaled")

STUDIES = {
    plan.name: plan
    for plan in (
        StudyPlan(
            "quick",
            "Tests the claims that small images can decide in minutes, on the embedded digits.",
            (
                _grid(measure=(), **_DIGITS, learning_rates=(0.01, 0.1, 1.0)),
                _grid(**_AT_ONE_RATE, measure=(BATCH_STATISTICS, EVALUATION, INITIALIZATION,
                                               WEIGHTS, CORRUPTION)),
                _grid(None, (DECAY,), **_AT_ONE_RATE, norms=("batch",)),
                _grid(None, (EVALUATION,), **_DIGITS, learning_rates=(0.01,), norms=("batch",)),
                _grid({"initialization_scale": (0.1, 1.0, 3.0)}, (), **_AT_ONE_RATE),
                _grid({"activation": ("tanh",)}, (), **_AT_ONE_RATE),
                _grid(None, (), **_AT_ONE_RATE, norms=("ghost-batch",)),
                _grid({"train": ("norms", "classifier")}, (), **_AT_ONE_RATE, norms=("batch",)),
            ),
        ),
        StudyPlan(
            "depth",
            "What depth costs with batch normalization, without, and with SkipInit.",
            (
                _grid({"blocks_per_stage": (2, 8)}, (), data="digits", seeds=5,
                      learning_rates=(0.1,), norms=("batch", "none", "skipinit")),
            ),
        ),
        StudyPlan(
            "he2016",
            "ResNet-20 on CIFAR-10 as He et al. 2016: 64,000 steps on 45,000 images, five seeds.",
            (
                _grid(None, (), data="cifar10", model="resnet-20", seeds=5, learning_rates=(0.1,),
                      norms=("batch",), initialization="he", iterations=64_000, schedule="steps",
                      pixel_mean=True, train_share=0.9, capture_epochs=()),
            ),
        ),
        StudyPlan(
            "notebook",
            "SmallResNet on CIFAR-10 with and without batch normalization, as in the notebook.",
            (_grid(**_CIFAR),),
        ),
        StudyPlan(
            "blog",
            "BirdPlaneNet on birds and airplanes with and without batch normalization.",
            (
                _grid(data="cifar10", classes=("airplane", "bird"), model="bird-plane", seeds=3,
                      epochs=10, learning_rates=(0.01, 0.1, 1.0)),
            ),
        ),
        StudyPlan(
            "learning-rates",
            "Which learning rates each network tolerates, at small, usual and large batches.",
            (
                _grid({"batch_size": (16, 128, 1024)}, (), data="digits", seeds=5,
                      learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
            ),
        ),
        StudyPlan(
            "initialization",
            "Weights ten times too small to ten times too large, in PyTorch's way and in He's.",
            (
                _grid({"initialization": ("default", "he"),
                       "initialization_scale": (0.1, 0.3, 1.0, 3.0, 10.0)}, (),
                      data="digits", seeds=5, learning_rates=(0.1,)),
            ),
        ),
        StudyPlan(
            "activation-functions",
            "Networks of ReLU, tanh and sigmoid units, with and without batch normalization.",
            (
                _grid({"activation": ("relu", "tanh", "sigmoid")}, (), data="digits", seeds=5,
                      epochs=20, learning_rates=(0.01, 0.1)),
            ),
        ),
        StudyPlan(
            "batch-size",
            "Batch, group and layer normalization from batches of 2 to 128.",
            (
                _grid({"batch_size": (2, 4, 8, 32, 128)}, (EVALUATION,), data="digits", seeds=5,
                      learning_rates=(0.01,), norms=("batch", "group", "layer")),
            ),
        ),
        StudyPlan(
            "propagation",
            "Variance of skip paths and branches at initialization, in deeper networks.",
            (
                _grid({"initialization": ("he", "default")}, (PROPAGATION,), data="digits",
                      seeds=5, epochs=1, learning_rates=(0.01,), block="pre-activation",
                      blocks_per_stage=4),
            ),
        ),
        StudyPlan(
            "landscape",
            "The loss along its gradient during a short training, with and without batch norm.",
            (_grid(measure=(LANDSCAPE,), data="digits", seeds=5, epochs=10,
                   learning_rates=(0.1,)),),
        ),
        StudyPlan(
            "covariate-shift",
            "Batch normalization with noise behind it that moves distributions at every step.",
            (
                _grid(measure=(MOVEMENT, EVALUATION), data="digits", seeds=6, epochs=20,
                      learning_rates=(0.1,), norms=("batch", "noisy-batch", "none")),
            ),
        ),
        StudyPlan(
            "placement",
            "Batch normalization before and after the non-linearity, and once per block.",
            (_grid({"block": BLOCKS}, (), data="digits", seeds=5, learning_rates=(0.03, 0.1),
                   norms=("batch",)),),
        ),
        StudyPlan(
            "transformer",
            "Normalization in small transformers, on digits and on text: which, where, how fast.",
            (
                _grid(None, (HIDDEN_STATES,), **_VIT | {"norms": _TOKEN_NORMS}),
                _grid(None, (), **_VIT | {"seeds": 10}),
                _grid({"placement": _PLACEMENTS}, (HIDDEN_STATES,), **_DEEP_VIT),
                _grid({"placement": ("pre", "post"), "warmup": (0, 46)}, (), **_DEEP_VIT),
                _grid({"depth": (4, 8)}, (),
                      **_VIT | {"learning_rates": (0.01, 0.03), "norms": ("layer", "none")}),
                _grid(None, (), **_SCARCE_DIGITS | _SCARCE_NORMS),
                _grid(None, (), **_VIT | _TANH_RATES),
                _grid(None, (HIDDEN_STATES,), **_BYTES | {"norms": _TOKEN_NORMS}),
                _grid({"qk_norm": (False, True)}, (),
                      **_BYTES | {"learning_rates": (0.003, 0.01, 0.03)}),
                _grid({"placement": ("pre", "post"), "warmup": (0, 42)}, (DEPTH_SIGNALS,),
                      **_BYTES | {"learning_rates": (0.01,)}),
                _grid(None, (), **_SCARCE_BYTES | _SCARCE_NORMS),
                _grid(None, (), **_BYTES | _TANH_RATES),
                _grid(None, (), **_BYTES | {"embedding_scale": "unit"}),
                _grid(None, (), **_BYTES | {"embedding_scale": "root", "norms": ("dyt",)}),
            ),
        ),
        StudyPlan(
            "transformer-initialization",
            "Gradients and the residual stream of vision transformers before their first step.",
            (
                _grid({"placement": _PLACEMENTS}, (DEPTH_SIGNALS,), **_TRANSFORMER, data="digits",
                      model="vit", depth=4, epochs=1, batch_size=64),
            ),
        ),
        StudyPlan(
            "transformer-placement",
            "Pre, post, peri and scaled normalization in vision transformers of 4 to 16 blocks.",
            (_grid({"placement": _PLACEMENTS, "depth": (4, 8, 16), "warmup": (0, 46)},
                   (DEPTH_SIGNALS, HIDDEN_STATES), **_DEEP_VIT),),
        ),
    )
}  # fmt: skip
"""{name: study}."""
