"""The numbers of a recorded layer that are committed in place of its recording."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import published
from layer_numbers import numbers_of, shape

from normscope.commands.watch import watch


def test_skewness_and_kurtosis_are_those_of_the_distribution():
    draws = np.random.default_rng(0).exponential(size=200_000)
    counts, edges = np.histogram(draws, bins=4000)
    skewness, kurtosis = shape(edges[None], counts[None])
    assert (skewness[0], kurtosis[0]) == (pytest.approx(2, rel=0.05), pytest.approx(6, rel=0.2))


def test_the_numbers_are_those_of_what_the_layer_got():
    torch.manual_seed(0)
    layer, given = nn.BatchNorm2d(3), []
    model = nn.Sequential(layer)
    handle = layer.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    with watch(model, every=1, histograms_every=1) as watcher:
        for _ in range(4):
            x = 0.4 * torch.randn(64, 3, 4, 4) + torch.randn(3, 1, 1) / 10
            model(x.requires_grad_()).sum().backward()
        recording = watcher.recording
    handle.remove()
    found = numbers_of(recording, "0", 1)
    x = torch.stack(given)  # [steps, N, C, H, W]
    channels = x.transpose(0, 2).flatten(1)
    near = pytest.approx
    assert found["within_half"] == near((channels.abs() < 0.5).double().mean(1).tolist(), abs=0.02)
    assert found["input_mean"] == near(channels.mean(1).tolist(), abs=0.01)
    assert found["input_std"] == near(channels.std(1).tolist(), rel=0.02)
    assert (found["weight"], found["bias"]) == ([1.0] * 3, [0.0] * 3)
    means = x.mean((1, 3, 4))
    spread = means.diff(dim=0).abs().mean(0) / x.var((1, 3, 4), correction=0).mean(0).sqrt()
    assert found["batch_to_batch"] == near(spread.tolist(), rel=1e-3)


def test_the_page_s_cells_are_means_over_seeds_of_ranges_over_channels():
    seed = {"epoch": 1, "within_half": [0.2, 0.4], "input_std": [0.5, 0.7],
            "output_skewness": [-1.0, 0.5], "output_excess_kurtosis": [1.0, 2.0],
            "batch_to_batch": [0.01, 0.03], "weight": [0.9, 1.1], "bias": [-0.2, 0.1]}  # fmt: skip
    cells = published.layer_cells([seed, seed | {"input_std": [0.7, 0.9]}, seed | {"epoch": 9}])
    assert cells[:2] == ["30% of the input values in epoch 1, 30% in epoch 9",
                         "0.60 to 0.80 in epoch 1, 0.50 to 0.70 in epoch 9"]  # fmt: skip
    assert cells[2] == "median skewness 0.8 in size, median excess kurtosis 1.5 in epoch 9"
    assert cells[3].startswith("vary by 1.0 to 3.0% of the channel's own standard deviation in")
    assert cells[4] == "weight 0.90 to 1.10 (mean 1.00), bias −0.20 to 0.10 (mean −0.05)"
