"""Records written by hand, with numbers and names that a table could spoil."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from normscope.records.histogram import LEVELS, Histogram, capture_edges, store_capture
from normscope.records.measurements import store_measurement
from normscope.records.recording_header import BINS, SAMPLE_MOMENTS, Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.records.run import RECORD_NAME
from normscope.records.store import writer

AWKWARD = (0.1, -0.0, 1e-300, 1.7976931348623157e308, 5e-324, 1 / 3, None)
"""Numbers whose text must be exact to read back, and a missing one."""


def write_run(
    folder: Path, norm: str = "batch", *, status: str = "finished", error: str | None = None
) -> Path:
    spec = {
        "norm": norm, "learning_rate": 0.1, "seed": 3, "epochs": len(AWKWARD), "data": "digits",
        "model": "small",
        "classes": [norm, 'a,"b"'], "widths": None, "fusion": False,
    }  # fmt: skip
    folder.mkdir(parents=True)
    with writer(folder / RECORD_NAME, "run") as store:
        with store.transaction():
            store.set_meta(
                spec=spec, status=status, error=error, threads=1, parameters=10,
                data={"source": norm},
                environment={"hardware": {"device_name": "a CPU"}, "versions": {"torch": "2.13.0"}},
            )  # fmt: skip
            for epoch, value in enumerate(AWKWARD, 1):
                store.add_epoch(
                    epoch, {"train_loss": value, "step": epoch * 7, "of_a_newer_version": 0.5}
                )
            counts = np.arange(12)
            captured = Histogram(
                edges=capture_edges(10), counts=counts, mean=0.1, std=1 / 3, zeros=0.25,
                quantiles=np.linspace(-9, 9, len(LEVELS)), non_finite=1,
            )  # fmt: skip
            store_capture(store, norm, captured, step=7, epoch=1)
        store_measurement(
            store,
            "propagation",
            {"skip": np.array([0.1, 2.0]), "branch": np.array([1 / 3, np.inf])},
        )
    return folder


def write_study(folder: Path, *names: str) -> Path:
    folder.mkdir()
    (folder / "normscope.json").write_text(json.dumps({"format": "normscope study", "version": 1}))
    for name in names:
        write_run(folder / "runs" / name, name)
    return folder


def write_recording(path: Path, layer: str = "bn", label: str = "a") -> Path:
    """Two channels, three steps, one value that is not finite; histograms at one step."""
    info = LayerInfo(
        layer, "BatchNorm2d", "batch", 2, eps=1e-5, momentum=0.1, affine=True, tracks=True
    )
    part = FilePart(
        path, Header("Net", "optimizer step", {"every": "1"}, [info], {"torch": "2.13.0"}, "cpu")
    )
    steps = np.array([1, 2, 5])
    means = np.array([[0.1, -0.0], [np.nan, np.inf], [1 / 3, 1e-45]], "<f4")
    samples = np.arange(3 * len(SAMPLE_MOMENTS) * 2, dtype="<f4").reshape(3, len(SAMPLE_MOMENTS), 2)
    counts = np.arange(2 * (BINS + 2), dtype="<u2").reshape(1, 2, BINS + 2)
    frame = np.arange(12, dtype="<f4").reshape(1, 6, 2) / 7
    part.write(
        Batch(
            part.header,
            [
                (
                    steps,
                    {
                        (layer, "batch_mean"): means,
                        (layer, "num_batches_tracked"): steps.astype("<i8"),
                    },
                ),
                (steps, {(layer, "sample_mean"): samples}),
                (steps[:1], {(layer, "histogram"): counts, (layer, "histogram_frame"): frame}),
            ],
            [{"kind": "mark", "step": 0, "detail": {"epoch": 1, label: label}}],
            [{"layer": layer, "statistic": "batch_mean", "step": 2, "channels": [0, 1]}],
        )
    )
    return path
