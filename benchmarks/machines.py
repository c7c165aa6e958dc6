"""The table of machines in docs/performance.md: what a user waits for, on each kind of processor.

    python benchmarks/machines.py                  # all parts, a quarter of an hour on two cores
    python benchmarks/machines.py --parts demo check
    python benchmarks/machines.py --parts          # only writes the table anew
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/machines.py

Runs the other benchmarks and keeps their numbers in benchmarks/machines.json, one entry for a kind
of machine; entries of other machines stay, and so do parts that were not measured again. With the
two variables above a newer processor does what one with AVX2 alone does: an entry of its own, which
says that it is emulated. NORMSCOPE_CIFAR10 names the images, for the parts job and ceilings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checking
import recording
import torch
from common import hardware, load_average, say, warn_if_busy
from machines_table import FILE, PAGE, merged, page_with_table, table
from training_job import job
from training_runs import data_of
from training_steps import ceilings
from watching_contenders import OURS
from watching_networks import TASKS

import watching
from normscope.studies.environment import cpu_name, keep_freed_memory, usable_cores
from normscope.training.precision import resolve_precision

TINY = False
"""Whether everything is as short as it can be, to see that it works."""

Numbers = dict[str, float]


def images() -> Path | None:
    """The folder of CIFAR-10."""
    named = os.environ.get("NORMSCOPE_CIFAR10")
    return Path(named) if named else None


def whole_job() -> Numbers:
    """The whole job and training, both ways, from an epoch of 150 of 391 batches."""
    batches = 2 if TINY else 150
    torch.set_num_threads(usable_cores())  # the notebook's way: PyTorch's default
    with data_of(images(), batches) as data:
        found = job(data, 1, max(1, batches // 4), "cpu").values
    return {
        "job": found["ratio_job"].median,
        "training": found["ratio_training"].median,
        "job_minutes": found["job_seconds"]["normscope"][0] / 60,
    }


def limits() -> Numbers:
    """What the machine can do, and how much of it training with batch normalization reaches."""
    keep_freed_memory()
    with data_of(images(), 20) as data:
        found = ceilings(data.dataset, *((1, 128) if TINY else (5, 1024)), cores=1).values
    rates = found["1 threads"]
    rate = rates[resolve_precision("auto", "cpu")]
    return {
        "products": found["batch"]["flop_per_second"] / rate,
        "products_rate": rate / 1e12,
        "copy_rate": rates["copy"] / 1e9,
    }


def watch() -> Numbers:
    """The watcher's share of a step by its own account, at the defaults, in the middle of a run."""
    torch.set_num_threads(usable_cores())
    bf16, steps = resolve_precision("auto", "cpu") == "bf16", 2 if TINY else 50
    found = {}
    # its own cache: inductor would take kernels for other instructions from the user's
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for key, task, compiled in (
            ("watch_resnet", "small-resnet", False),
            ("watch_transformer", "toy" if TINY else "transformer", False),
            ("watch_compiled", "toy" if TINY else "small-resnet", True),
        ):
            way = watching.Way("cpu", bf16, compiled)
            runners = watching.measure(OURS[:2], TASKS[task], steps, watching.WARM_UP, way)
            found[key] = runners[1].own_share()
            for runner in runners:
                runner.watcher.close()
    return found


def seconds_to_lines(command: list[str], *starts: str) -> list[float]:
    """Seconds until each of these begins a line of a Python command's output, and to its end."""
    begin, found = time.perf_counter(), dict.fromkeys(starts, float("nan"))
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        for line in process.stdout or ():
            for start in starts:
                if line.startswith(start) and found[start] != found[start]:
                    found[start] = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}.")
    return [*found.values(), time.perf_counter() - begin]


def check() -> Numbers:
    """`check` in this process, and of a checkpoint as a command, in turns with importing torch."""
    torch.set_num_threads(1)
    found = checking.speeds()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pt")
        torch.save(checking.resnet50(8).state_dict(), path)
        turns = [
            [
                seconds_to_lines(command)[-1]
                for command in (["-c", "import torch"], ["-m", "normscope", "check", str(path)])
            ]
            for _ in range(1 if TINY else 5)
        ]
    floor, command = (sorted(side)[len(side) // 2] for side in zip(*turns, strict=True))
    return {
        "check_static": 1e3 * found["static"],
        "check_dynamic": found["dynamic"] / found["passes"],
        "check_command": command / floor,
        "import_torch": floor,
    }


def report() -> Numbers:
    """The page of a recording, written in a fresh process, importing left out."""
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder, "r.sqlite"), Path(folder, "small.sqlite")
        recording.write(path, 60, 20 if TINY else 1000)
        recording.write(small, 2, 10)
        turns = [recording.child(recording.HERE, path, small, ["report"])[0] for _ in range(3)]
    return {"report": sorted(turns)[1]}


def command(name: str, *starts: str) -> tuple[list[float], int]:
    """seconds_to_lines of a command of normscope at its defaults, and how many runs it trained."""
    short = ["--epochs", "1", "--seeds", "1"] if TINY else []
    with tempfile.TemporaryDirectory() as folder:
        seconds = seconds_to_lines(
            ["-u", "-m", "normscope", *name.split(), *short, "--out", folder + "/out"], *starts
        )
        return seconds, sum(1 for _ in Path(folder, "out", "runs").iterdir())


def quick() -> Numbers:
    """`normscope study quick`, from its start to its end."""
    (seconds,), runs = command("study quick")
    return {"quick": 60 * runs / seconds}


def demo() -> Numbers:
    """What `make demo` runs once everything is installed."""
    (line, run, end), _ = command("compare", "", "✓")
    return {"demo_line": line, "demo_run": run, "demo": end}


PARTS: dict[str, Callable[[], Numbers]] = {
    "job": whole_job, "ceilings": limits, "watch": watch, "check": check, "report": report,
    "demo": demo, "quick": quick,
}  # fmt: skip


def machine() -> dict[str, Any]:
    """Which machine this is: its processor, cores, versions, and the flags that oneDNN goes by."""
    emulated = "ONEDNN_MAX_CPU_ISA" in os.environ
    flags = [name for name, has in _FLAGS.items() if has()]
    kind = "AVX2 (emulated)" if emulated else flags[0] if flags else "none of these"
    return {"kind": kind, "cpu": cpu_name(), "cores": usable_cores(), "flags": flags,
            "versions": hardware("cpu")["versions"]}  # fmt: skip


_FLAGS: dict[str, Callable[[], bool]] = {
    "AMX": torch.cpu._is_amx_tile_supported,
    "AVX-512-BF16": torch.cpu._is_avx512_bf16_supported,
    "AVX-512": torch.cpu._is_avx512_supported,
    "AVX2": torch.cpu._is_avx2_supported,
}


def main() -> None:
    global TINY
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument(
        "--tiny", action="store_true", help="to see that it works; give a --file of its own"
    )
    options = parser.parse_args()
    TINY = options.tiny
    if TINY and options.file == FILE:
        parser.error("--tiny measures nothing: give another --file")
    warn_if_busy()
    entries = json.loads(options.file.read_text()) if options.file.exists() else []
    for part in options.parts:
        say(part)
        how = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "load": load_average()}
        entries = merged(entries, machine(), PARTS[part](), how)
        options.file.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    if options.file == FILE:
        PAGE.write_text(page_with_table(PAGE.read_text(), entries))
    print(table(entries))


if __name__ == "__main__":
    main()
