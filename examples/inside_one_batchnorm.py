# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Inside one batch normalization layer
#
# What does a batch normalization layer get, what does it give, and what does it keep? We watch one while a small
# network learns to read digits: every channel's input and output, the batch's statistics, the running statistics,
# weight and bias. About ten seconds on one core.
#
# For every channel the layer takes the mean $m$ and the variance $v$ over the batch and all positions, and gives
#
# $$y = w \cdot \frac{x - m}{\sqrt{v + \epsilon}} + b .$$
#
# Weight $w$ and bias $b$ are learned. In eval mode there is no batch to measure, so running averages of $m$ and $v$
# take their place.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("normscope") is None:
    wheels = sorted(Path().glob("normscope-*.whl"))
    if not wheels:
        raise FileNotFoundError(
            "Put the wheel that `make wheel` builds (dist/normscope-*.whl) beside this notebook."
        )
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", str(wheels[-1])], check=True)

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import normscope

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(256, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

# %%
with normscope.watch(model, optimizer=optimizer, every=1, histograms_every=5) as watcher:
    for epoch in range(1, 7):
        watcher.mark(epoch=epoch)
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
recording = watcher.recording
layer = "4"  # the second batch normalization
print(recording.summary())
recording

# %% [markdown]
# ## What goes in, what comes out
#
# Left the inputs of four channels, right their outputs, at the first recorded step (thin) and over the last steps
# (thick). The inputs wander apart and change their spread as the convolution before them learns. The outputs begin
# with mean 0 and standard deviation 1 and then go where weight and bias take them.

# %%
last = int(recording.query(layer, "histogram")[0][-1])
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for axis, side in zip(axes, ("input", "output"), strict=True):
    for first, until, width in ((1, 1, 0.8), (last - 20, last, 2.0)):
        distribution = recording.distribution(layer, side, first=first, last=until, bins=40)
        for channel in range(4):
            middles = (distribution.edges[channel, 1:] + distribution.edges[channel, :-1]) / 2
            axis.plot(middles, distribution.density[channel], linewidth=width, color=f"C{channel}")
    axis.set(title=f"{side} of layer {layer}", xlabel="value", ylabel="density")
plt.show()

# %% [markdown]
# ## The batch, and the memory of batches
#
# The running mean follows the batch means: after every batch it moves a tenth of the way, which is PyTorch's
# `momentum=0.1`. It starts at 0 and needs some twenty batches to arrive. The jags every 15 steps are the last batches
# of the epochs, of 5 images only: what so few images say of mean and variance is less certain.

# %%
steps, batch_mean = recording.query(layer, "batch_mean")
_, running_mean = recording.query(layer, "running_mean")
_, batch_var = recording.query(layer, "batch_var")
_, running_var = recording.query(layer, "running_var")
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for channel in range(4):
    axes[0].plot(steps, batch_mean[:, channel], color=f"C{channel}", linewidth=0.6)
    axes[0].plot(steps, running_mean[:, channel], color=f"C{channel}", linewidth=2)
    axes[1].plot(steps, batch_var[:, channel], color=f"C{channel}", linewidth=0.6)
    axes[1].plot(steps, running_var[:, channel], color=f"C{channel}", linewidth=2)
axes[0].set(title="mean: batch (thin), running (thick)", xlabel="step")
axes[1].set(title="variance: batch (thin), running (thick)", xlabel="step")
plt.show()

# %% [markdown]
# Is that all there is to it? We compute the running mean ourselves from the batch means that were recorded.

# %%
by_hand = np.zeros(16)
for mean in batch_mean:
    by_hand = 0.9 * by_hand + 0.1 * mean
difference = np.abs(by_hand - model[4].running_mean.numpy()).max()
print(f"Largest difference to the layer's own running mean: {difference:.1e}")

# %% [markdown]
# ## Weight and bias
#
# They start at 1 and 0 for every channel. The output's mean *is* the bias, and its standard deviation is the weight
# (but for $\epsilon$), whatever the input was: this is how the network gets back the freedom that normalizing took.

# %%
steps, weight = recording.query(layer, "weight")
_, bias = recording.query(layer, "bias")
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
axes[0].plot(steps, weight)
axes[0].set(title="weight, all channels", xlabel="step")
axes[1].plot(steps, bias)
axes[1].set(title="bias, all channels", xlabel="step")
plt.show()

# %%
model.train()
with torch.no_grad():
    given = model[:4](images[:512])
    gave = model[4](given)
mean_of_output = gave.mean((0, 2, 3))
std_of_output = gave.std((0, 2, 3), correction=0)
print("output mean - bias:    ", (mean_of_output - model[4].bias).abs().max().item())
print("output std / |weight|: ", (std_of_output / model[4].weight.abs()).mean().item())

# %% [markdown]
# `normscope explain` shows the same arithmetic step by step on one real batch, and what happens when `eval()` is
# forgotten.
