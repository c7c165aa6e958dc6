"""Studies and recordings written by hand for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from normscope.records.histogram import LEVELS, Histogram, capture_edges, store_capture
from normscope.records.recording_header import BINS, Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.records.run import RECORD_NAME
from normscope.records.store import writer

HOSTILE = "</script><img src=x onerror=window.hacked=1>\"'{{PAYLOAD}} ${window.hacked=1} datum.x"


def write_run(
    folder: Path,
    norm: str,
    rate: float,
    seed: int,
    *,
    epochs: int = 6,
    done: int | None = None,
    status: str = "finished",
    **settings,
) -> Path:
    """A run's record with plausible numbers, drawn from a generator of its own: all of its epochs,
    or those `done`.
    """
    draw = np.random.default_rng([seed, round(rate * 1e4), len(norm)])
    spec = {
        "norm": norm,
        "learning_rate": rate,
        "seed": seed,
        "epochs": epochs,
        "data": "digits",
        "model": "small-resnet",
        "precision": "fp32",
        **settings,
    }
    meta = {
        "spec": spec,
        "status": status,
        "parameters": 10,
        "data": {"source": "Digits", "classes": list("0123456789")},
        "environment": {"hardware": {"device_name": "a CPU"}, "versions": {"torch": "2.13.0"}},
    }
    folder.mkdir(parents=True)
    with writer(folder / RECORD_NAME, "run") as store, store.transaction():
        store.set_meta(**meta)
        last = epochs if done is None else done
        for epoch in range(1, last + 1):
            fit = 1 - np.exp(-epoch * (1 + (norm == "batch")) / 4) * draw.uniform(0.9, 1) * (
                1 if rate == 0.1 else 1.25
            )
            values = {
                "train_loss": 2.3 * (1 - fit),
                "test_loss": 2.3 * (1 - fit),
                "train_accuracy": fit,
                "test_accuracy": fit,
                "learning_rate": rate,
                "stem_gradient": draw.uniform(0.1, 1),
                "stem_gradient_mean": 0.5,
                "last_layer_gradient_mean": 0.2,
                "seconds": 1.5,
            }
            store.add_epoch(epoch, values)
            if epoch in (1, last):
                for tensor in ("block_output", "before_activation", "normalized"):
                    store_capture(store, tensor, captured(draw), step=epoch, epoch=epoch)
    return folder


def captured(draw: np.random.Generator) -> Histogram:
    values = np.maximum(draw.normal(size=2000), 0)
    counts, _ = np.histogram(values, np.linspace(-5, 5, 81))
    counts = np.concatenate([[0], counts, [0]])
    return Histogram(
        edges=capture_edges(80),
        counts=counts,
        mean=values.mean(),
        std=values.std(),
        zeros=(values == 0).mean(),
        quantiles=np.quantile(values, LEVELS),
    )


def write_study(
    folder: Path, norms=("batch", "none"), rates=(0.1,), seeds=(0, 1), **settings
) -> Path:
    folder.mkdir()
    (folder / "normscope.json").write_text(json.dumps({"format": "normscope study", "version": 1}))
    for place, (norm, rate, seed) in enumerate(
        (n, r, s) for n in norms for r in rates for s in seeds
    ):
        write_run(folder / "runs" / f"run{place}", norm, rate, seed, **settings)
    return folder


def write_recording(
    path: Path,
    layers=("stem.bn", "layer1.bn"),
    *,
    channels: int = 4,
    steps: int = 30,
    output_only=False,
    counted: int | None = None,
    weight: float = 2,
) -> Path:
    """A recording whose channel c has batch mean c, and whose running mean lags by half a standard
    deviation.
    """
    infos = [
        LayerInfo(
            name,
            "BatchNorm2d",
            "batch",
            channels,
            eps=1e-5,
            momentum=0.1,
            affine=True,
            activation="relu" if name != "plain" else None,
        )
        for name in layers
    ]
    header = Header("Net", "optimizer step", {}, infos, {"torch": "2.13.0"}, "cpu", complete=True)
    header.cost.steps = steps if counted is None else counted
    part = FilePart(path, header)
    at = np.arange(1, steps + 1)
    c = np.tile(np.arange(channels, dtype="<f4"), (steps, 1))
    one = np.ones_like(c)
    counts = np.zeros((3, channels, BINS + 2), "<u2")
    counts[:, :, 20:46] = np.hanning(26) * 100
    frame = np.stack([c[:3], one[:3], 2 * one[:3], one[:3], c[:3] - 2, c[:3] + 2], axis=1)
    series, frames = {}, {}
    for name in layers:
        series |= {
            (name, "batch_mean"): c,
            (name, "batch_var"): 4 * one,
            (name, "running_mean"): c + 1,
        }
        series |= {
            (name, "running_var"): 4 * one,
            (name, "weight"): weight * one,
            (name, "bias"): one,
        }
        series |= {(name, "output_gradient_norm"): one[:, 0] * 0.5}
        binned = "output_histogram" if output_only else "histogram"
        frames |= {(name, binned): counts, (name, f"{binned}_frame"): frame}
    marks = [
        {"kind": "mark", "step": step, "detail": {"epoch": epoch}}
        for epoch, step in ((1, 0), (2, 10), (3, 20))
    ]
    part.write(Batch(header, [(at, series), (at[[0, 14, 29]], frames)], marks))
    return path
