"""Makes docs/images/healthy_and_sick.png: one network, watched twice, the second time at a
learning rate that is far too high.

    python docs/images/make_healthy_and_sick.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import normscope
from normscope.show.figures import recording_overview

HERE = Path(__file__).parent


def watched(rate: float) -> normscope.Recording:
    """Train a small network for ten epochs of digits and return its recording."""
    images, labels = load_digits(return_X_y=True)
    pixels, targets = torch.tensor(images).float().reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    widths = [1, 8, 16, 16, 32, 32]
    layers: list[nn.Module] = []
    for taken, given in itertools.pairwise(widths):
        convolution = nn.Conv2d(taken, given, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(given), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with normscope.watch(model, optimizer=optimizer, every=2, histograms_every=10) as watcher:
        for epoch in range(1, 11):
            watcher.mark(epoch=epoch)
            for batch in torch.randperm(len(pixels)).split(128):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(pixels[batch]), targets[batch]).backward()
                optimizer.step()
    return watcher.recording


if __name__ == "__main__":
    recordings = {"healthy": watched(0.1), "sick": watched(3.0)}
    for name, recording in recordings.items():
        print(name, recording.summary(), sep="\n")
    recording_overview.draw(recordings, HERE / "healthy_and_sick.png")
