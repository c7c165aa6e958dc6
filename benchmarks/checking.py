"""Measures `check`: healthy networks, the written-up failures, and its speed.

python benchmarks/checking.py healthy   train the healthy networks and store their examinations
python benchmarks/checking.py cases     every written-up failure: which rule finds it
python benchmarks/checking.py speed     static and dynamic rules on a ResNet-50-sized model
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from normscope.commands.check import check
from normscope.examining.examine import examine
from normscope.judge.check_report import judge
from normscope.records.examination_json import to_json

ROOT = Path(__file__).resolve().parent.parent
HEALTHY = ROOT / "tests" / "judge" / "rules" / "healthy"
sys.path[:0] = [str(ROOT / "tests" / "judge" / "rules"), str(ROOT / "benchmarks")]


def healthy(names: list[str]) -> None:
    """Train, examine, store, and print what is found where nothing should be."""
    from healthy_networks import NETWORKS, batches, trained

    HEALTHY.mkdir(exist_ok=True)
    warned = 0
    for network in NETWORKS:
        if names and network.name not in names:
            continue
        start = time.perf_counter()
        model, optimizer = trained(network)
        # An average is not what the optimizer trains.
        record = examine(model, batches(network), optimizer=None if network.average else optimizer)
        (HEALTHY / f"{network.name}.json").write_bytes(to_json(record, digits=5) + b"\n")
        report = judge(record)
        warned += bool(report.warnings or report.errors)
        correct = record.forward.eval_correct if record.forward is not None else None
        found = [
            f"{g.first.severity} {g.first.code} {g.layers} {g.evidence}" for g in report.groups
        ]
        serious = [text for text in found if not text.startswith("info")]
        infos = sorted({finding.code for finding in report.infos})
        print(
            f"{network.name:32} {time.perf_counter() - start:5.1f} s  correct {correct}  infos "
            f"{infos}"
        )
        for text in serious:
            print("   ", text)
    print(f"{warned} networks with a warning or an error")


def cases(_: list[str]) -> None:
    """One line per case."""
    from failure_cases import CASES

    missed = 0
    for case in CASES:
        torch.manual_seed(case.number)
        report = case.run()
        right = not (case.quiet and report.errors) and (
            not case.found or bool(case.found & set(report.codes))
        )
        missed += not right
        found = sorted({f"{finding.code}{finding.severity[0]}" for finding in report})
        print(f"{'ok  ' if right else 'MISS'} {case!s:58} {' '.join(found)}")
    print(f"{len(CASES) - missed} of {len(CASES)} as they should be")


class Bottleneck(nn.Module):
    def __init__(self, i: int, width: int, stride: int):
        super().__init__()
        o = 4 * width
        parts = ((i, width, 1, 1), (width, width, 3, stride), (width, o, 1, 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in parts
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in parts)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = x
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = torch.relu(y) if k < 2 else y
        return torch.relu(y + self.shortcut(x))


def resnet50(width: int = 64) -> nn.Sequential:
    """ResNet-50: 53 batch normalization layers; a smaller width for a smaller cost."""
    blocks: list[nn.Module] = []
    i = width
    for stage, count in enumerate((3, 4, 6, 3)):
        for k in range(count):
            blocks.append(Bottleneck(i, width * 2**stage, 2 if k == 0 and stage else 1))
            i = 4 * width * 2**stage
    stem = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 1000))


def speeds() -> dict[str, float]:
    """Medians, in seconds: static rules; dynamic rules; the three passes that these need, plain."""
    model = resnet50()
    static = _median(lambda: check(model), 15)
    small = resnet50(8).eval()
    data = [torch.randn(64, 3, 32, 32) for _ in range(16)]

    def forwards() -> None:
        with torch.no_grad():
            for mode in (
                False,
                True,
                True,
            ):  # in eval mode, and with batch statistics in two compositions
                small.train(mode)
                for batch in data:
                    small(batch)
        small.eval()

    plain = _median(forwards, 3)
    return {"static": static, "dynamic": _median(lambda: check(small, data), 3), "passes": plain}


def speed(_: list[str]) -> None:
    """Print the medians, and the dynamic rules against the passes that they need."""
    found = speeds()
    print(f"static rules, ResNet-50: {1e3 * found['static']:.1f} ms")
    print(
        "dynamic rules, 16 batches of 64, ResNet-50 of an eighth of the width: "
        f"{found['dynamic']:.2f} s"
    )
    print(
        f"  = {found['dynamic'] / found['passes']:.2f} times the {found['passes']:.2f} s of the "
        "three passes that they need"
    )


def _median(action: Callable[[], object], times: int) -> float:
    action()
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


if __name__ == "__main__":
    commands = {"healthy": healthy, "cases": cases, "speed": speed}
    if sys.argv[1:] == ["--help"]:
        print(__doc__)
        sys.exit()
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](sys.argv[2:])
