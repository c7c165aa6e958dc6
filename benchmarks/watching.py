"""What watching costs: steps with and without it, interleaved in one process.

python benchmarks/watching.py [--tasks toy small-resnet resnet-50 transformer] [--steps 100]
                              [--only NAME] [--warm-up 5] [--rivals] [--bf16] [--compile]
                              [--verify N] [--device cuda]

Every contender has a network and an optimizer of its own. In each round all of them take one step,
one after the other, in an order that turns from round to round, so that whatever else slows the
machine slows all alike. Run it with nothing else on the machine. The defaults are measured in the
middle of a run; at its start they record more.

The table: median, 95th percentile and mean of a step, and what the median and the mean are above
those of no watcher. A watcher that works at every tenth step shows in the mean and the percentile,
not in the median.

`--compile` gives every network to torch.compile. `--verify N` trains each twice for N steps from
the same seed, without a watcher and with one at the defaults, and says whether graphs, breaks and
weights are the same. A short run: `--only "from step 1" --warm-up 0 --steps 60`.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from dataclasses import dataclass

import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F
from watching_contenders import OURS, RECORDS, Attached, Contender, normscope, nothing, rivals
from watching_networks import TASKS, Task

WARM_UP = 5


@dataclass(frozen=True)
class Way:
    """How all networks are trained."""

    device: str
    bf16: bool
    compile: bool


class Runner:
    """One contender's network, optimizer and watcher."""

    def __init__(self, contender: Contender, task: Task, way: Way):
        torch.manual_seed(0)
        self.name, self.way, device = contender.name, way, way.device
        self.model = task.build().to(device)
        if way.compile:
            self.model.compile()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, fused=True)
        self.x = task.batch().to(device)
        self.y = torch.randint(0, task.classes, (len(self.x),), device=device)
        self.seconds: list[float] = []
        self.spent_before = 0.0
        if not way.compile:  # with it the hooks come first: they are part of what is compiled
            self.train(2)
        self.watcher: Attached = contender.attach(self.model, self.optimizer)
        if way.compile:
            self.train(2)
        self.spent_before = self.watcher.own_seconds() or 0.0

    def step(self, number: int, *, timed: bool) -> None:
        """One training step, with whatever the watcher wants to be told around it."""
        self._wait()
        start = time.perf_counter()
        self.watcher.before_step(number)
        self.train(1)
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

    def train(self, steps: int) -> None:
        """Take some steps on the same batch."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            with torch.autocast(self.way.device, torch.bfloat16, enabled=self.way.bf16):
                loss = F.cross_entropy(self.model(self.x).float(), self.y)
            loss.backward()
            self.optimizer.step()

    def _wait(self) -> None:
        if self.way.device == "cuda":
            torch.cuda.synchronize()


def measure(
    contenders: list[Contender], task: Task, steps: int, warm_up: int, way: Way
) -> list[Runner]:
    """All contenders' steps, interleaved."""
    runners = [Runner(contender, task, way) for contender in contenders]
    gc.collect()
    gc.disable()  # a collection would fall on one contender or another
    for number in range(warm_up + steps):
        turn = number % len(runners)
        for runner in runners[turn:] + runners[:turn]:
            runner.step(number, timed=number >= warm_up)
    gc.enable()
    return runners


def verify(task: Task, steps: int, way: Way) -> str:
    """Whether a run is the same with a watcher at the defaults, from its first step."""
    found = []
    for contender in (Contender("nothing", nothing), Contender("normscope", normscope(after=0))):
        torch.compiler.reset()
        counters.clear()
        runner = Runner(contender, task, way)
        runner.train(steps)
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        found.append(
            (graphs, breaks, [value.clone() for value in runner.model.state_dict().values()])
        )
        runner.watcher.close()
    (graphs, breaks, plain), (our_graphs, our_breaks, watched) = found
    same = all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    weights = "bitwise equal" if same else "DIFFER"
    return (
        f"{task.name}, {steps + 2} steps: weights and buffers {weights}; "
        f"graphs {graphs} and {our_graphs} watched, breaks {breaks} and {our_breaks}"
    )


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
    """Where this was measured."""
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
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    parser.add_argument("--compile", action="store_true", help="train under torch.compile")
    parser.add_argument("--verify", type=int, metavar="N", help="compare N steps, measure nothing")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    options = parser.parse_args()
    everybody = OURS + (rivals() if options.rivals else [])
    only = options.only or [""]
    contenders = [OURS[0], *(c for c in everybody[1:] if any(part in c.name for part in only))]
    print(hardware(options.device), end="\n\n")
    way = Way(options.device, options.bf16, options.compile)
    for name in options.tasks:
        task = TASKS[name]
        if options.verify is not None:
            print(verify(task, options.verify, way), flush=True)
            continue
        runners = measure(contenders, task, options.steps, options.warm_up, way)
        print(table(task, runners), end="\n\n", flush=True)
        for runner in runners:
            runner.watcher.close()
    if options.verify is None:
        print(
            "What each records:", *(f"- {name}: {what}" for name, what in RECORDS.items()), sep="\n"
        )


if __name__ == "__main__":
    main()
