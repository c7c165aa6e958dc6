"""Runs made of numbers, with effects planted in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normscope.records.histogram import LEVELS, LIMIT, Histogram, capture_edges
from normscope.records.run import RunRecord

EPOCHS = 10


def describe(values: np.ndarray) -> Histogram:
    counts, _ = np.histogram(values[np.abs(values) <= LIMIT], bins=80, range=(-LIMIT, LIMIT))
    return Histogram(
        edges=capture_edges(80), mean=float(values.mean()), std=float(values.std()),
        counts=np.concatenate([[np.sum(values < -LIMIT)], counts, [np.sum(values > LIMIT)]]),
        zeros=float(np.mean(values == 0)), quantiles=np.quantile(values, LEVELS),
    )  # fmt: skip


def run(
    norm="batch",
    seed=0,
    *,
    final=0.9,
    speed=1.0,
    status="finished",
    noise=0.3,
    gradient=1.0,
    captures=None,
    **spec,
):
    """A run whose accuracy rises to `final` with `speed`; further settings go into its spec."""
    rng = np.random.default_rng([seed, *norm.encode()])
    epoch = np.arange(1.0, EPOCHS + 1)
    accuracy = final * (1 - np.exp(-speed * epoch)) / (1 - np.exp(-speed * EPOCHS))
    norms = gradient * np.exp(0.05 * rng.standard_normal(EPOCHS))
    columns = {
        "epoch": epoch, "test_accuracy": accuracy, "train_loss": 1 - accuracy,
        "stem_gradient": norms,
        "stem_gradient_mean": norms, "stem_gradient_std": noise * norms,
        "stem_gradient_min": 0.2 * norms,
        "last_layer_gradient_mean": np.ones(EPOCHS),
    }  # fmt: skip
    if status == "diverged":
        columns = {name: values[:2] for name, values in columns.items()}
    settings = {
        "norm": norm, "learning_rate": 0.1, "seed": seed, "epochs": EPOCHS, "data": "digits",
        "model": "small-resnet",
        "data_fingerprint": "f00d", "classes": list("0123456789"), "activation": "relu",
        "block": None,
        "initialization": "default", "initialization_scale": 1.0, "batch_size": 128,
    }  # fmt: skip
    meta = {
        "data": {
            "test_images": 1000,
            "train_images": 5000,
            "source": "digits",
            "classes": list("0123456789"),
        }
    }
    name = "-".join(str(value) for value in (norm, seed, *spec.values()))
    return RunRecord(Path(name), settings | spec, status, columns, captures or {}, meta)


def jitter(seed: int, size: float = 0.002) -> float:
    return size * float(np.random.default_rng(seed).standard_normal())


def arms(
    seeds: int = 4, *, batch: dict | None = None, none: dict | None = None, **both
) -> list[RunRecord]:
    """Both arms with a little noise in the final accuracy."""
    return [
        run(
            norm,
            seed,
            **(
                {"final": 0.9}
                | both
                | given
                | {"final": (both | given).get("final", 0.9) + jitter(seed + k)}
            ),
        )
        for seed in range(seeds)
        for k, (norm, given) in enumerate((("batch", batch or {}), ("none", none or {})))
    ]
