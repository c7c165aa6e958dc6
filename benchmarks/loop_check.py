"""Measures what judging a training loop costs, by its own account and by pairs.

    python benchmarks/loop_check.py [--networks small middle] [--steps 600] [--rounds 7]

Each contender trains the same network anew for as many steps, in turns in one process: alone, with
a LoopCheck, watched, and watched with a LoopCheck. Seconds of CPU, from the first step to the last;
`account` is what LoopCheck itself says it took of its training's time (at most SHARE, behind its
first steps), the ratios hold what its hooks take at every step too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from common import Spread, Table, hardware_line, interleave, keep, ratio, warn_if_busy
from torch import nn
from torch.nn import functional as F

from normscope.commands.loop_check import SHARE, LoopCheck
from normscope.commands.watch import watch
from normscope.models.registry import build

NETWORKS = {"small": ((8, 8, 16), 1, 8, 32), "middle": ((16, 32, 64), 3, 16, 64)}
"""{name: (widths, blocks per stage, pixels of a side, batch)} of a SmallResNet."""


class Counting(LoopCheck):
    """A check that adds up the seconds of its own account."""

    spent = 0.0

    @contextmanager
    def _accounted(self) -> Iterator[None]:
        begin = time.perf_counter()
        with super()._accounted():
            yield
        self.spent += time.perf_counter() - begin


def train(name: str, steps: int, watched: bool, judged: bool, shares: list[float]) -> float:
    """Seconds of CPU of a training; the share of its check's account goes to `shares`."""
    widths, blocks, size, batch = NETWORKS[name]
    model: nn.Module = build("small-resnet", in_channels=3, num_classes=10, image_size=size,
                             widths=widths, blocks_per_stage=blocks)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        watcher = None
        if watched:
            watcher = watch(model, optimizer=optimizer, path=Path(folder) / "r.sqlite")
            stack.callback(watcher.close)
        check = Counting(model, optimizer, watcher=watcher) if judged else None
        if check is not None and watcher is not None:
            watcher.listen(check)
        elif check is not None:
            stack.enter_context(check)
        begin, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        taken, wall = time.process_time() - begin, time.perf_counter() - wall
        if check is not None:
            shares.append(check.spent / wall)
    return taken


def rows(name: str, options: argparse.Namespace) -> Iterator[tuple[str, Spread, Spread, Spread]]:
    """(how it is trained, judged over not, the account's share, milliseconds of a step alone)."""
    accounts: dict[str, list[float]] = {"judged": [], "watched and judged": []}

    def contender(side: str) -> Callable[[], float]:
        shares = accounts.get(side, [])
        return lambda: train(name, options.steps, "watched" in side, "judged" in side, shares)

    sides = ("alone", "judged", "watched", "watched and judged")
    seconds = interleave({side: contender(side) for side in sides}, options.rounds)
    for side, plain in (("judged", "alone"), ("watched and judged", "watched")):
        account = Spread.of(accounts[side][-options.rounds :])
        step = Spread.of([1e3 * total / options.steps for total in seconds[plain]])
        yield side, ratio(seconds[side], seconds[plain]), account, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("normscope-runs/benchmarks"))
    options = parser.parse_args()
    load = warn_if_busy()
    torch.set_num_threads(1)
    found = [(name, *row) for name in options.networks for row in rows(name, options)]
    table = Table(
        f"What judging costs in {options.steps} steps, at most {SHARE:.0%} of them by its account",
        ("network", "", "judged / not", "account", "a step, ms"),
        [(name, side, quotient.text(".3f"), account.text(".2%"), step.text(".2f"))
         for name, side, quotient, account, step in found],
        [hardware_line("cpu")],
        {f"{name}, {side}": measured for name, side, *measured in found},
    )  # fmt: skip
    print(table.markdown())
    keep(table, options.out, "loop_check", "cpu", load)


if __name__ == "__main__":
    main()
