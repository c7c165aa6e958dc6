"""The numbers of one layer that the page on bird-and-aeroplane gives, small enough to commit.

python benchmarks/layer_numbers.py INSPECTION [--layer res_block1.bn1] [--norm batch]

Reads the recordings of `normscope inspect`, 8.5 MB a seed there, and writes layer_numbers.json
beside inspection.json: for each seed, in the first and in the last epoch, a value per channel.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from normscope.judge.activation_regions import inside
from normscope.judge.layer_measures import BINS
from normscope.judge.timeline import Timeline
from normscope.records.recording import Recording
from normscope.records.run import RECORDING_NAME, load_run, run_folders

HALF = 0.5
"""The blog's region of a layer's inputs: from -HALF to HALF."""


def shape(edges: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and excess kurtosis [C] of histograms [C, B + 1] and [C, B], values at the centres
    of their bins.
    """
    centres = (edges[:, 1:] + edges[:, :-1]) / 2
    share = counts / counts.sum(1, keepdims=True)
    mean = (share * centres).sum(1, keepdims=True)
    second, third, fourth = ((share * (centres - mean) ** power).sum(1) for power in (2, 3, 4))
    return third / second**1.5, fourth / second**2 - 3


def numbers_of(recording: Recording, layer: str, epoch: int) -> dict[str, list[float]]:
    """The numbers of a layer in an epoch, a value per channel each; weight and bias at its end."""
    first, last = Timeline.of(recording).span(epoch)
    given, made = (
        recording.distribution(layer, side, bins=BINS, first=first, last=last)
        for side in ("input", "output")
    )
    (input_mean, input_std), (output_mean, output_std) = given.moments, made.moments
    skewness, kurtosis = shape(made.edges, made.counts)

    def recorded(name: str) -> np.ndarray:
        return recording.query(layer, name, first=first, last=last)[1]

    moved = np.abs(np.diff(recorded("batch_mean"), axis=0)).mean(0)
    found = {
        "within_half": inside(given, (-HALF, HALF)),
        "input_mean": input_mean,
        "input_std": input_std,
        "output_mean": output_mean,
        "output_std": output_std,
        "output_skewness": skewness,
        "output_excess_kurtosis": kurtosis,
        "batch_to_batch": moved / np.sqrt(recorded("batch_var").mean(0)),
        "weight": recorded("weight")[-1],
        "bias": recorded("bias")[-1],
    }
    return {name: [float(f"{value:.6g}") for value in values] for name, values in found.items()}


def layer_numbers(folder: Path, layer: str, norm: str) -> list[dict[str, Any]]:
    """The numbers of every seed of an arm, in its first and last epoch."""
    found = []
    for place in run_folders(folder):
        run = load_run(place)
        if run.norm != norm:
            continue
        recording = Recording.load(place / RECORDING_NAME)
        for epoch in (1, Timeline.of(recording).epochs):
            about = {"run": place.name, "seed": run.seed, "epoch": epoch}
            found.append(about | numbers_of(recording, layer, epoch))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of `normscope inspect`")
    parser.add_argument("--layer", default="res_block1.bn1")
    parser.add_argument("--norm", default="batch")
    options = parser.parse_args()
    made = layer_numbers(options.folder, options.layer, options.norm)
    path = options.folder / "layer_numbers.json"
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
