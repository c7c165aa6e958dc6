"""Whether `normscope diff` names a planted change: pairs of short watched trainings.

python benchmarks/run_pairs.py [--pairs 50] [--seed 0]

In each pair one training has one change, at a random step and, where it is of one layer, at a
random one: its eps, its momentum, one value of its gain, one batch, or an all-reduce that is
dropped: there two processes (gloo) train with DistributedDataParallel, whose communication hook
hands on each process's own gradients in one step. As many pairs have none. The networks are small,
with batch norm or layer norm.

The table: in how many pairs the step and the layer were named, of each change, and in how many
pairs without a change a difference was.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import hardware_line
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from normscope.commands.watch import watch
from normscope.judge.recording_difference import difference_of
from normscope.records.recording import Recording

STEPS = 12
CHANGES = ("eps", "momentum", "gain", "batch", "all-reduce")


class Residual(nn.Module):
    """A block of a small transformer without attention: layer norm and two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def convolutions() -> nn.Module:
    """Four convolutions with batch norm over images of 8x8."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 8), (8, 8), (8, 10)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5))


def residual() -> nn.Module:
    """Four residual blocks with layer norm over the same images as rows."""
    blocks = [Residual(16) for _ in range(4)]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 16), *blocks, nn.LayerNorm(16), nn.Linear(16, 5)
    )


@dataclass(frozen=True)
class Planted:
    """A change before a step; `layer` is where the recordings should part."""

    change: str
    step: int
    layer: str
    channel: int = 0


def norms(model: nn.Module) -> dict[str, nn.Module]:
    """The normalization layers of one of the networks."""
    kinds = nn.BatchNorm2d | nn.LayerNorm
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def planted(draw: random.Random, change: str, model: nn.Module) -> Planted:
    """Draw the step, and the layer where it matters."""
    layers = list(norms(model))
    step = draw.randint(1, STEPS)
    if change == "batch":  # the first layer that sees it
        return Planted(change, step, layers[0])
    if change == "all-reduce":  # a backward begins at the last layer
        return Planted(change, step, layers[-1])
    return Planted(change, step, draw.choice(layers), draw.randrange(4))


def train(build: Callable[[], nn.Module], seed: int, change: Planted | None) -> Recording:
    """Train in this process and return the recording."""
    torch.manual_seed(seed)
    model = build()

    def prepare(step: int, x: Tensor) -> Tensor:
        now = change is not None and step == change.step
        return _plant(change, model, x) if now else x

    return recorded(model, seed, prepare)


def recorded(
    model: nn.Module,
    seed: int,
    prepare: Callable[[int, Tensor], Tensor],
    path: Path | None = None,
    share: slice = slice(None),
) -> Recording:
    """Watch a training of the model on a share of each batch; `prepare` is told of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(seed)
    watcher = watch(
        model, optimizer=optimizer, path=path, every=1, histograms_every=4, gradients_every=1
    )
    for step in range(1, STEPS + 1):
        x = torch.randn(16, 3, 8, 8, generator=draw)
        y = torch.randint(0, 5, (16,), generator=draw)
        x = prepare(step, x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[share]), y[share]).backward()
        optimizer.step()
    recording = watcher.recording
    watcher.close(quiet=True)
    return recording


def train_in_two(
    build: Callable[[], nn.Module], seed: int, changes: Sequence[Planted | None], folder: Path
) -> list[Recording]:
    """Train once for each change in two processes, and return the recordings."""
    spawn(_train_rank, (build, seed, changes, folder), nprocs=2)
    return [Recording.load(folder / f"{number}.sqlite") for number in range(len(changes))]


def _train_rank(
    rank: int,
    build: Callable[[], nn.Module],
    seed: int,
    changes: Sequence[Planted | None],
    folder: Path,
) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for number, change in enumerate(changes):
        torch.manual_seed(seed)
        model = DistributedDataParallel(build())
        now = [0]
        model.register_comm_hook((now, change), _reduce)

        def prepare(step: int, x: Tensor, now: list[int] = now) -> Tensor:
            now[0] = step
            return x

        path, share = folder / f"{number}.sqlite", slice(rank, None, 2)
        recorded(model, seed, prepare, path, share)
    distributed.destroy_process_group()


def _reduce(state, bucket):  # PyTorch refuses annotations that are strings
    """Average a bucket of gradients over the processes, except in the step that drops it."""
    now, change = state
    if change is not None and now[0] == change.step:
        kept: torch.futures.Future[Tensor] = torch.futures.Future()
        kept.set_result(bucket.buffer())
        return kept
    return allreduce_hook(distributed.group.WORLD, bucket)


def _plant(change: Planted, model: nn.Module, x: Tensor) -> Tensor:
    layer = model.get_submodule(change.layer)
    if change.change == "eps":
        layer.eps *= 3  # type: ignore[operator]
    elif change.change == "momentum":
        layer.momentum = 0.11  # type: ignore[assignment]
    elif change.change == "gain":
        with torch.no_grad():
            layer.weight[change.channel] += 1e-3  # type: ignore[index]
    elif change.change == "batch":
        return x.roll(1, 0) * 1.001
    return x


def trained(
    build: Callable[[], nn.Module], seed: int, changes: Sequence[Planted | None]
) -> list[Recording]:
    """Train once for each change, in two processes if one is in what they exchange."""
    if not any(change is not None and change.change == "all-reduce" for change in changes):
        return [train(build, seed, change) for change in changes]
    with TemporaryDirectory() as folder:
        return [part.snapshot() for part in train_in_two(build, seed, changes, Path(folder))]


def main() -> int:
    """Print the table; ends with 1 if a change was missed or a difference was found without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.perf_counter()
    draw = random.Random(options.seed)
    named, tried, missed, false = Counter[str](), Counter[str](), [], 0
    for pair in range(options.pairs):
        change = CHANGES[pair % len(CHANGES)]
        build = convolutions if change == "momentum" else draw.choice((convolutions, residual))
        plan, seed = planted(draw, change, build()), draw.randrange(1 << 30)
        good, bad, again = trained(build, seed, (None, plan, None))
        found = difference_of(good, bad, names=("good", "bad")).first
        tried[change] += 1
        if found is not None and (found.step, found.layer) == (plan.step, plan.layer):
            named[change] += 1
        else:
            missed.append(f"{build.__name__}: planted {plan}, found {found}")
        false += bool(difference_of(good, again, names=("good", "again")))
    print(hardware_line("cpu"), end="\n\n")
    print("| change | pairs | step and layer named |", "| --- | ---: | ---: |", sep="\n")
    for change in CHANGES:
        print(f"| {change} | {tried[change]} | {named[change]} |")
    print(f"| none | {options.pairs} | {false} differ |", *missed, sep="\n")
    print(f"\n{time.perf_counter() - begun:.0f} s, seed {options.seed}")
    return 1 if missed or false else 0


if __name__ == "__main__":
    sys.exit(main())
