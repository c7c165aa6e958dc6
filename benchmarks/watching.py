"""Measures the cost of watching: steps with and without it, interleaved in one process.

python benchmarks/watching.py [--tasks small-resnet resnet-50 transformer] [--steps 100] [--rivals]
[--device cuda]

Every contender has a network and an optimizer of its own. In each round all of them take one step,
one after the other, in an order that turns from round to round, so that whatever else slows the
machine slows all alike. Run it with nothing else on the machine. The defaults are measured in the
middle of a run; at its start they record more.

The table: median, 95th percentile and mean of a step, and what the median and the mean are above
those of no watcher. A watcher that works at every tenth step shows in the mean and the percentile,
not in the median.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time

import torch
from torch.nn import functional as F
from watching_contenders import OURS, RECORDS, Attached, Contender, rivals
from watching_networks import TASKS, Task

WARM_UP = 5


class Runner:
    """One contender's network, optimizer and watcher."""

    def __init__(self, contender: Contender, task: Task, device: str, *, bf16: bool):
        torch.manual_seed(0)
        self.name = contender.name
        self.device, self.bf16 = device, bf16
        self.model = task.build().to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        self.x = task.batch().to(device)
        self.y = torch.randint(0, task.classes, (len(self.x),), device=device)
        self.seconds: list[float] = []
        self.spent_before = 0.0
        for _ in range(2):
            self._train()
        self.watcher: Attached = contender.attach(self.model, self.optimizer)

    def step(self, number: int, *, timed: bool) -> None:
        """One training step, with whatever the watcher wants to be told around it."""
        self._wait()
        start = time.perf_counter()
        self.watcher.before_step(number)
        self._train()
        self.watcher.after_step(number)
        self._wait()
        if timed:
            self.seconds.append(time.perf_counter() - start)
        else:
            self.spent_before = self.watcher.own_seconds() or 0.0

    def own_share(self) -> float | None:
        """The watcher's cost by its own account, over the timed steps."""
        spent = self.watcher.own_seconds()
        return None if spent is None else (spent - self.spent_before) / sum(self.seconds)

    def _train(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.model(self.x).float(), self.y)
        loss.backward()
        self.optimizer.step()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure(
    contenders: list[Contender], task: Task, steps: int, device: str, *, bf16: bool
) -> list[Runner]:
    """All contenders' steps, interleaved."""
    runners = [Runner(contender, task, device, bf16=bf16) for contender in contenders]
    gc.collect()
    gc.disable()  # a collection would fall on one contender or another
    for number in range(WARM_UP + steps):
        turn = number % len(runners)
        for runner in runners[turn:] + runners[:turn]:
            runner.step(number, timed=number >= WARM_UP)
    gc.enable()
    return runners


def table(task: Task, runners: list[Runner]) -> str:
    """The task's rows as Markdown."""
    plain = runners[0].seconds
    lines = [
        f"**{task.name}**, n = {len(plain)} steps each",
        "",
        "| watcher | median ms | p95 ms | mean ms | median | mean | by its own account |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for runner in runners:
        own = runner.own_share()
        cells = [
            *(
                f"{1e3 * of(runner.seconds):.2f}"
                for of in (statistics.median, _p95, statistics.fmean)
            ),
            *(
                f"{of(runner.seconds) / of(plain) - 1:+.1%}"
                for of in (statistics.median, statistics.fmean)
            ),
            "" if own is None else f"{own:.1%}",
        ]
        lines.append(f"| {runner.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


def hardware(device: str) -> str:
    """Describe the machine."""
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--only", nargs="+", default=[], help="contenders whose name contains one of these"
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--rivals", action="store_true", help="also the other tools that are installed"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    options = parser.parse_args()
    everybody = OURS + (rivals() if options.rivals else [])
    only = options.only or [""]
    contenders = [OURS[0], *(c for c in everybody[1:] if any(part in c.name for part in only))]
    print(hardware(options.device), end="\n\n")
    for name in options.tasks:
        task = TASKS[name]
        runners = measure(contenders, task, options.steps, options.device, bf16=options.bf16)
        print(table(task, runners), end="\n\n", flush=True)
        for runner in runners:
            runner.watcher.close()
    print("What each records:", *(f"- {name}: {what}" for name, what in RECORDS.items()), sep="\n")


if __name__ == "__main__":
    main()
