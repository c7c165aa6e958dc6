"""Watch the normalization layers of a model in a loop of your own: python examples/watch_your_model.py"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import normscope

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

path = Path(tempfile.mkdtemp()) / "recording.sqlite"
with normscope.watch(model, optimizer=optimizer, path=path) as watcher:  # the one line that is added to a loop
    for epoch in range(1, 11):
        watcher.mark(epoch=epoch)
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

print(watcher.recording.summary())
steps, running_mean = watcher.recording.query("1", "running_mean")
print(f"Running mean of channel 0 of the first batch norm at step {steps[-1]}: {running_mean[-1, 0]:.4f}")
output = watcher.recording.distribution("4", "output", first=int(steps[-1]) - 20)
print(f"Its second one's outputs in the end, channel 0: {output.edges[0, 0]:.2f} to {output.edges[0, -1]:.2f}")
