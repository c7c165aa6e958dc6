"""Runs made of numbers instead of training, for figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from normscope.judge.comparison import Comparison, summarize
from normscope.records.histogram import LEVELS, LIMIT, Histogram, capture_edges
from normscope.records.run import RunRecord

TENSORS = ("block_output", "before_activation", "normalized")
FINAL = {"batch": 0.97, "none": 0.62, "group": 0.93}


def describe(values: np.ndarray) -> Histogram:
    finite = values[np.isfinite(values)]
    counts, _ = np.histogram(finite[np.abs(finite) <= LIMIT], bins=80, range=(-LIMIT, LIMIT))
    outer = [np.sum(finite < -LIMIT)], counts, [np.sum(finite > LIMIT)]
    empty = len(finite) == 0
    mean, std, zeros = (
        3 * [np.nan] if empty else [finite.mean(), finite.std(), float(np.mean(finite == 0))]
    )
    return Histogram(
        edges=capture_edges(80),
        counts=np.concatenate(outer),
        mean=mean,
        std=std,
        zeros=zeros,
        quantiles=np.full(len(LEVELS), np.nan) if empty else np.quantile(finite, LEVELS),
        non_finite=len(values) - len(finite),
    )


def make_run(
    norm: str = "batch",
    rate: float = 0.1,
    seed: int = 0,
    *,
    status: str = "finished",
    epochs: int = 5,
    done: int | None = None,
    captured: tuple[int, ...] = (1, 3, 5),
) -> RunRecord:
    """A run whose curves have the usual shapes; a diverged one has no finite loss in its last
    epoch.
    """
    rng = np.random.default_rng([seed, round(1e6 * rate), *norm.encode()])
    done = epochs if done is None else done
    epoch = np.arange(1, done + 1, dtype=float)
    final = FINAL.get(norm, 0.9) + 0.02 * rng.standard_normal()
    accuracy = np.clip(
        final - 0.6 * np.exp(-epoch / (0.2 * epochs)) + 0.01 * rng.standard_normal(done), 0.1, 1
    )
    columns = {
        "epoch": epoch,
        "train_loss": 0.02 / final + 2.2 * np.exp(-epoch / (0.15 * epochs + (norm == "none"))),
        "test_accuracy": accuracy,
        "stem_gradient": np.exp(0.4 * rng.standard_normal(done)) * (1.0 if norm == "none" else 0.2),
        "seconds": np.full(done, 2.0),
    }
    if status == "diverged":
        columns["train_loss"][-1] = columns["stem_gradient"][-1] = np.nan
        columns["test_accuracy"][-1] = 0.1
    width = 3.0 if norm == "none" else 1.0
    captures = {}
    for number in (number for number in captured if number <= done and done):
        values = rng.normal(0.1 * number, width * (1 + 0.05 * number), 5_000)
        tensors = np.maximum(values, 0), values, values / width - 0.1 * number
        captures |= {
            (name, number): describe(tensor) for name, tensor in zip(TENSORS, tensors, strict=True)
        }
    spec = {
        "norm": norm,
        "learning_rate": rate,
        "seed": seed,
        "epochs": epochs,
        "data": "digits",
        "model": "small-resnet",
        "precision": "bf16",
        "activation": "relu",
        "block": None,
    }
    meta = {
        "data": {
            "source": "Handwritten digits (8x8), embedded in scikit-learn",
            "classes": list("0123456789"),
            "train_images": 1438,
            "test_images": 359,
        },
        "environment": {
            "hardware": {"device": "cpu", "device_name": "A processor (AMX)", "cores": 2},
            "versions": {"torch": "2.13.0", "normscope": "0.1.0"},
        },
        "diverged_step": 12 if status == "diverged" else None,
    }
    return RunRecord(Path(f"{norm}-{rate:g}-{seed}"), spec, status, columns, captures, meta)


def make_comparison(runs: list[RunRecord]) -> Comparison:
    return summarize(
        runs,
        list(dict.fromkeys(run.norm for run in runs)),
        sorted({run.learning_rate for run in runs}),
    )
