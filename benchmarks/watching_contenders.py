"""Who watches in benchmarks/watching.py: normscope, and other tools where they are installed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from normscope.commands.watch import watch
from normscope.watching.watched_layers import find_layers

INTERVALS = (1, 10, 100)


@dataclass
class Attached:
    """What a watcher wants to be told, and how it comes off. `own_seconds` is its cost by its own
    account.
    """

    close: Callable[[], Any]
    before_step: Callable[[int], Any] = lambda step: None
    after_step: Callable[[int], Any] = lambda step: None
    own_seconds: Callable[[], float | None] = lambda: None


@dataclass(frozen=True)
class Contender:
    name: str
    attach: Callable[[nn.Module, Optimizer], Attached]


def nothing(model: nn.Module, optimizer: Optimizer) -> Attached:
    return Attached(close=lambda: None)


def normscope(after: int = 2000, **settings: Any) -> Callable[[nn.Module, Optimizer], Attached]:
    """Watch as in the middle of a run: the default intervals are denser at its start."""

    def attach(model: nn.Module, optimizer: Optimizer) -> Attached:
        folder = tempfile.TemporaryDirectory()
        watcher = watch(model, optimizer=optimizer, path=Path(folder.name) / "r.sqlite", **settings)
        if after:
            watcher.resume(after)

        def close() -> None:
            watcher.close(quiet=True)
            folder.cleanup()

        return Attached(close, own_seconds=lambda: watcher._recorder.seconds)

    return attach


def wandb_watch(every: int) -> Callable[[nn.Module, Optimizer], Attached]:
    def attach(model: nn.Module, optimizer: Optimizer) -> Attached:
        import wandb

        folder = tempfile.TemporaryDirectory()
        run = wandb.init(mode="offline", dir=folder.name, settings=wandb.Settings(silent=True))
        run.watch(model, log="all", log_freq=every)

        def close() -> None:
            run.unwatch(model)
            run.finish()
            folder.cleanup()

        # W&B writes what it has collected with the next call of log, which every loop makes.
        return Attached(close, after_step=lambda step: run.log({"step": step}))

    return attach


def torchexplorer_watch(every: int) -> Callable[[nn.Module, Optimizer], Attached]:
    def attach(model: nn.Module, optimizer: Optimizer) -> Attached:
        import torchexplorer
        from torchexplorer.api import api

        # The picture of the network, which it draws with graphviz, is not what is measured.
        api.layout = SimpleNamespace(layout=lambda structure, cache: (None, cache))
        # Its full backward hooks need the activations' in-place operations switched off.
        torchexplorer.watch(model, log_freq=every, backend="none", disable_inplace=True)
        return Attached(close=lambda: None)

    return attach


def fastai_statistics(every: int) -> Callable[[nn.Module, Optimizer], Attached]:
    def attach(model: nn.Module, optimizer: Optimizer) -> Attached:
        from fastai.callback.hook import ActivationStats

        modules = [layer.module for layer in find_layers(model)]
        callback: Any = ActivationStats(modules=modules, every=every, with_hist=True)
        callback.learn = SimpleNamespace(
            model=model, training=True, train_iter=0
        )  # what it reads of a Learner
        callback.before_fit()

        def before(step: int) -> None:
            callback.learn.train_iter = step
            callback.before_batch()

        return Attached(
            callback.after_fit, before_step=before, after_step=lambda step: callback.after_batch()
        )

    return attach


MOMENTS = {"histograms_every": None, "gradients_every": None}

OURS = [
    Contender("nothing", nothing),
    Contender("normscope, defaults", normscope()),
    Contender("normscope, defaults from step 1", normscope(after=0)),
    Contender("normscope, defaults, check=True", normscope(check=True)),
    *(Contender(f"normscope, moments every {n}", normscope(every=n, **MOMENTS)) for n in INTERVALS),
    *(
        Contender(
            f"normscope, everything every {n}",
            normscope(every=n, histograms_every=n, gradients_every=n),
        )
        for n in INTERVALS
    ),
]

_RIVALS = {
    "wandb": ("wandb.watch(log='all')", wandb_watch),
    "torchexplorer": ("torchexplorer.watch", torchexplorer_watch),
    "fastai": ("fastai ActivationStats", fastai_statistics),
}

RECORDS = {
    "normscope, moments": "batch mean and variance, running statistics, weight, bias, per channel",
    "normscope, everything": "the same, histograms of input and output per channel, gradients per "
    "channel and norms",
    "wandb.watch(log='all')": "histograms of parameters and their gradients, whole tensors; no "
    "buffers, no activations",
    "torchexplorer.watch": "histograms of input, output, their gradients, parameters, whole "
    "tensors, without the most "
    "extreme tenth; draws from the global random generator",
    "fastai ActivationStats": "mean, std, share near zero and a histogram of the output, over [0, "
    "10] alone",
}


def rivals() -> list[Contender]:
    """The other tools that are installed, at each interval."""
    os.environ.setdefault("WANDB_SILENT", "true")
    found = []
    for package, (name, make) in _RIVALS.items():
        if find_spec(package) is None:
            print(f"{name}: not installed, left out (see benchmarks/requirements-watching.txt)")
        else:
            found += [Contender(f"{name} every {n}", make(n)) for n in INTERVALS]
    return found
