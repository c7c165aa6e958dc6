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
# # With and without batch normalization
#
# The same small residual network is trained on the same handwritten digits in the same order, with batch normalization
# and without, from the same initial weights where the two have them in common. Two seeds each, two learning rates:
# eight runs, about half a minute on one core. No download is needed: the digits come with scikit-learn.

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

from IPython.display import Image, display
from rich.console import Console

import normscope

study = Path(tempfile.mkdtemp()) / "with-and-without"
result = normscope.compare(
    data="digits",
    norms=["batch", "none"],
    learning_rates=[0.01, 0.3],
    seeds=2,
    epochs=6,
    widths=[8, 16, 32],
    blocks_per_stage=1,
    jobs=1,
    out=study,
)
result

# %% [markdown]
# ## What came out
#
# Accuracy is that after the last epoch on images the network has not seen, never the best one on the way.

# %%
for group in result.summary.groups:
    accuracy = (
        "no run finished" if group.test_accuracy_mean is None else f"{group.test_accuracy_mean:.1%}"
    )
    print(
        f"{group.norm:6} learning rate {group.learning_rate:<5} accuracy {accuracy}  (n = {group.n})"
    )

# %% [markdown]
# The curves tell more than the last value. Each thin line is a seed.

# %%
display(Image(str(study / "comparison.png")))

# %% [markdown]
# At the small rate the network without normalization hardly moves in six epochs. The panel on the right shows one
# reason: the gradient that reaches its first layer is many times smaller, so its steps are. At the large rate it does
# learn, later and with more difference between the seeds, and its gradients grow as it does. Batch normalization sets
# mean and spread of every channel in every batch, and the gradient has a useful size from the start at both rates.
#
# That is a fact about *this* network on *this* data: other initial weights, more epochs or another rate can close much
# of the gap.
#
# What passes through the first stage? Each panel below is one tensor, on test images in eval mode. What a
# normalization layer gives has a mean near 0 and a standard deviation near 1 as long as its weight and bias are near 1
# and 0. The block's output lies behind a ReLU: it cannot be negative, with normalization or without, so nothing keeps
# it near a normal distribution around 0.

# %%
display(Image(str(study / "activation_distributions.png")))

# %% [markdown]
# ## How sure is this?
#
# Two seeds are an illustration, not evidence. `normscope.claims` judges what is usually said of batch normalization by
# tests that were fixed beforehand, and says "cannot tell" where so few runs cannot decide.

# %%
judged = normscope.claims(study, console=Console(quiet=True))
for verdict in judged.verdicts:
    if verdict.n:
        print(f"{verdict.code} {verdict.name}: {verdict.outcome} (n = {verdict.n})")
judged

# %% [markdown]
# Try it: more seeds (`seeds=5`), more epochs, `norms=["batch", "group", "none"]`. The runs that are there are not
# trained again. `normscope.report(study)` puts everything on one page, and `--data cifar10` takes real photographs.
