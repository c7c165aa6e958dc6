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
# # Find what is broken
#
# A network trains well: its loss goes to almost nothing. In eval mode it gets one image in five wrong. Where is the
# fault? `normscope.check` asks the rules that know how normalization breaks, mends nothing by itself, and leaves the
# model as it was. About ten seconds on one core.

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
import torch
from sklearn.datasets import load_digits
from torch import nn

import normscope
from normscope.mend import recalibrate

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
order = torch.randperm(len(images))
training, test = order[:1400], order[1400:]

# %% [markdown]
# The author of this model once read that a momentum of 0 keeps the statistics from being noisy.

# %%
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16, momentum=0.0), nn.ReLU(),
    nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32, momentum=0.0), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(6):
    for batch in training[torch.randperm(len(training))].split(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
print(f"loss of the last batch: {loss.item():.3f}")


# %%
def test_accuracy() -> float:
    """Share of the test images that are classified right in eval mode."""
    with torch.no_grad():
        return (model.eval()(images[test]).argmax(1) == labels[test]).float().mean().item()


before = test_accuracy()
print(f"accuracy in eval mode: {before:.1%}")

# %% [markdown]
# Is that overfitting? More data, more regularization? Ask before you guess. The model alone tells some faults, a few
# training batches tell the rest.

# %%
batches = [(images[batch], labels[batch]) for batch in training.split(100)]
report = normscope.check(model, batches, optimizer=optimizer)
print(report)
report

# %% [markdown]
# The findings belong together: the running statistics are still those of a new layer (`statistics-stuck`), so they are
# not those of the data (`statistics-disagree`), so eval mode, which uses them, gets fewer images right than the
# batch's own statistics do (`train-eval-gap`). Each finding has a code, the evidence with the limit that it broke, and
# a remedy; `docs/checks.md` has all of them.
#
# The weights are fine. So nothing has to be trained again: give the layers a momentum that updates, and measure the
# statistics anew on training batches.

# %%
for layer in model:
    if isinstance(layer, nn.BatchNorm2d):
        layer.momentum = 0.1
recalibrate(model, batches * 4)  # 56 batches
after = test_accuracy()
print(f"accuracy in eval mode: {before:.1%} before, {after:.1%} now")

# %%
mended = normscope.check(model, batches, optimizer=optimizer)
print(mended)
print("gone:", sorted(set(report.codes) - set(mended.codes)))

# %% [markdown]
# In a test, `normscope.check(model, batches).raise_for_errors()` keeps such a fault from coming back; `normscope check
# my_module:make_model` does the same from a terminal, and `watch(model, check=True)` while a model trains.
