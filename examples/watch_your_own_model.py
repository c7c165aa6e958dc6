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
# # Watch your own model
#
# You have a model and a training loop, and want to see what its normalization layers do. One line is added; nothing
# about the training changes, to the last bit. About ten seconds on one core.

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
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn

import normscope

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)


def make_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Put your own here."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int = 5) -> None:
    """And your own loop."""
    order = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=order).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


# %% [markdown]
# The one line is `watch`. As a context manager it ends with the block; it also ends when the model dies or you call
# `close()`. With a `path` the recording is a file, which can be read while the training runs, and next week.

# %%
folder = Path(tempfile.mkdtemp())
model, optimizer = make_model()
with normscope.watch(model, optimizer=optimizer, path=folder / "recording.sqlite"):
    train(model, optimizer)

# %% [markdown]
# Nothing changed? The same training without the watcher ends with the same bits.

# %%
unwatched, optimizer = make_model()
train(unwatched, optimizer)
pairs = zip(model.state_dict().values(), unwatched.state_dict().values(), strict=True)
same_bits = all(torch.equal(a, b) for a, b in pairs)
print("same bits:", same_bits)

# %% [markdown]
# ## Looking at it
#
# First the summary: what stands out, and a row per layer. A cell that ends in the recording shows its page.

# %%
recording = normscope.Recording.load(folder / "recording.sqlite")
print(recording.summary())
recording

# %% [markdown]
# Every statistic of every layer and channel is there by name, as arrays over the steps.

# %%
print(recording.statistics("1"))
steps, running_mean = recording.query("1", "running_mean")
print(f"running mean of channel 0 after step {steps[-1]}: {running_mean[-1, 0]:.4f}")
output = recording.distribution("4", "output", first=int(steps[-1]) - 20)
print(
    f"outputs of channel 0 of the second layer in the end: {output.edges[0, 0]:.2f} to {output.edges[0, -1]:.2f}"
)

# %% [markdown]
# ## Taking it elsewhere
#
# The page as a file that works offline; tables for pandas or a spreadsheet; TensorBoard or W&B while the
# training runs (`watch(..., sinks=[normscope.TensorBoard("runs/mine")])`).

# %%
page = normscope.report(folder / "recording.sqlite")
tables = normscope.export(folder / "recording.sqlite", to="csv")
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")
print([table.name for table in tables.files])

# %% [markdown]
# Layers of any kind can be watched with `layers=`: names, globs or types. Lightning and the Trainer of transformers
# have callbacks in `normscope.integrations`. What watching costs is said when it ends, and is measured in
# `docs/performance.md`.
